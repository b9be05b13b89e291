"""A trained small model of which every eigenvalue is known, and what a second buys on it.

The reference procedure spends 20 probes × 60 steps × 10 batches without bounds; here its runs are
given ours, so that both are told by the width of the interval of one near-zero mass. An adaptive
run is timed until it is as narrow. Errors of node sums are over seeds, against all eigenvalues;
for them the probes run on diag(λ), which they cannot tell from the model.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectra import curvature
from spectra.benchmarks.timing import once
from spectra.data import Batch
from spectra.estimation import slq
from spectra.linalg import BasisPolicy, Lanczos, SymmetricOperator, probe
from spectra.quadrature import Measure, Run, mass

VOCAB, CONTEXT, BATCHES = 64, 32, 10
REFERENCE = {"num_probes": 20, "lanczos_steps": 60}
HARD = 0.5  # share of the eigenvalues within the threshold


def trained() -> tuple[Any, list[Batch]]:
    """Return a small Llama, trained until its Hessian has outliers and a bulk, and its batches."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    drawn = torch.Generator().manual_seed(0)

    def batch() -> Batch:
        step = torch.randint(1, 5, (8, 1), generator=drawn)
        first = torch.randint(VOCAB, (8, 1), generator=drawn)
        ids = (first + step * torch.arange(CONTEXT)) % VOCAB
        return Batch(ids, ids.clone())

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        one = batch()
        model(input_ids=one.input_ids, labels=one.labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), [batch() for _ in range(BATCHES)]


def measure(seeds: int) -> list[dict[str, Any]]:
    """Return a row for the reference procedure and one for an adaptive run as narrow."""
    model, batches = trained()
    H = curvature.hessian(model, batches)
    spectra_of = [_eigenvalues(model, batch) for batch in batches]
    tau = float(np.quantile(np.abs(np.concatenate(spectra_of)), HARD))
    truth = float(np.mean([(np.abs(lam) <= tau).mean() for lam in spectra_of]))
    cpu = torch.device("cpu")

    found: dict[str, Any] = {}

    def reference() -> None:
        found["reference"] = slq(H, **REFERENCE, basis="none", check=False, progress=False)  # type: ignore[arg-type]

    seconds = {"reference": once(reference, cpu)}
    width = found["reference"].mass(-tau, tau).width

    def adaptive() -> None:
        found["adaptive"] = slq(
            H, tol=width / 2, tau=tau, edge="sharp", check=False, progress=False
        )

    seconds["adaptive"] = once(adaptive, cpu)
    plan = found["adaptive"].steps
    errors = {
        "reference": [
            _node_sum(spectra_of, tau, seed, REFERENCE["num_probes"], None) - truth
            for seed in range(seeds)
        ],
        "adaptive": [_node_sum(spectra_of, tau, seed, 1, plan) - truth for seed in range(seeds)],
    }
    rows = []
    for name, record in found.items():
        interval = record.mass(-tau, tau)
        rms = float(np.sqrt(np.mean(np.square(errors[name]))))
        rows.append(
            {
                "procedure": name,
                "dimension": H.dim,
                "tau": tau,
                "true_mass": truth,
                "products": int(record.steps.sum()),
                "seconds": seconds[name],
                "lower": interval.lower,
                "upper": interval.upper,
                "width": interval.width,
                "node_sum_rms_error": rms,
                "seeds": seeds,
            }
        )
    for row in rows:
        row["seconds_over_adaptive"] = row["seconds"] / seconds["adaptive"]
    return rows


def _eigenvalues(model: Any, batch: Batch) -> NDArray[np.float64]:
    operator = curvature.hessian(model, [batch], dtype="float64").operator(0)
    eye = torch.eye(operator.dim, dtype=torch.float64)
    dense = torch.stack([operator.matvec(row) for row in eye])
    return np.asarray(torch.linalg.eigvalsh((dense + dense.T) / 2).numpy())


def _node_sum(
    spectra_of: list[NDArray[np.float64]],
    tau: float,
    seed: int,
    probes: int,
    plan: NDArray[np.int64] | None,
) -> float:
    """Return the sum of node weights within ±τ, mean over batches and probes."""
    sums = []
    for b, lam in enumerate(spectra_of):
        values = torch.from_numpy(lam).float()
        operator = SymmetricOperator.from_matvec(lambda v, d=values: d * v, lam.size)  # type: ignore[misc]
        steps = REFERENCE["lanczos_steps"] if plan is None else int(plan[b].max())
        starts = torch.stack(
            [probe(lam.size, seed=1000 + seed, batch=b, probe=p) for p in range(probes)]
        )
        policy = BasisPolicy("none" if plan is None else "device")
        run = Lanczos(operator, starts, basis=policy).extend(steps)
        rows = tuple(
            Run(run.alphas[p, :m], run.betas[p, :m]) for p, m in enumerate(run.steps.tolist())
        )
        estimate = mass(Measure((rows,), lam.size, lam.size), -tau, tau)
        sums.append(float("nan") if estimate.node_sum is None else estimate.node_sum)
    return statistics.fmean(sums)
