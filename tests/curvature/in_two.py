"""What two processes find of operators whose data they share; `test_spread` runs it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import spectra
from spectra.benchmarks.live import Live
from spectra.curvature import ggn, hessian
from spectra.curvature.checks import run_checks
from spectra.curvature.family import Curvature
from spectra.curvature.sharded import ShardedCurvature
from spectra.errors import UsageError
from spectra.estimation import engine
from spectra.estimation.settings import SLQSettings
from spectra.linalg import SlicedOperator
from spectra.parallel import Group, world
from spectra.parallel.launched import Place
from tests.curvature.models import batch, dense, gpt2, llama, random_vectors, relative_error
from tests.curvature.quantized import quantized

CASES: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {
    "whole batches": (llama, [batch(2, 5), batch(2, 4, seed=1, masked=0.4)], {}),
    "rows of one batch": (gpt2, [batch(3, 6, masked=0.4)], {}),
    "uneven": (llama, [batch(2, 5), batch(1, 3, seed=1), batch(2, 4, seed=2)], {"params": "all"}),
    "recomputed": (llama, [batch(2, 5), batch(1, 3, seed=1)], {"graph": "recompute"}),
    "one sequence": (llama, [batch(1, 6)], {}),
    "ids alone": (llama, [torch.arange(10).reshape(2, 5)], {}),
    "clip mask": (lambda: quantized(llama), [batch(2, 5)], {}),
    "projector": (lambda: quantized(llama, "quest", 1, inner=4), [batch(2, 5)], {}),
    "penalty": (lambda: quantized(llama), [batch(2, 5)], {"proximal": 0.3}),
}


def differences(group: Group, one: Curvature, V: torch.Tensor) -> list[float]:
    """Return how far products, loss, gradient and sizes of the shared operator are from one's."""
    shared = one.spread(group).mean
    slices = SlicedOperator(shared, group)
    whole = torch.stack([one.matvec(v) for v in V])
    parts = slices.matvecs(slices.space.take(V).contiguous())
    return [
        relative_error(shared.matvec(V[0]), whole[0]),
        relative_error(slices.space.whole(parts), whole),
        relative_error(shared.gradient, one.mean.gradient),
        abs(shared.loss / one.mean.loss - 1),
        abs(shared.grad_norm / one.mean.grad_norm - 1),
        abs(shared.tokens - one.mean.tokens),
    ]


def main(folder: str) -> None:
    group = world()
    told: dict[str, Any] = {"cases": {}, "held": {}}
    with group.together():
        for name, (build, data, options) in CASES.items():
            one = hessian(build(), data, dtype="float64", **options)
            told["cases"][name] = differences(group, one, random_vectors(2, one.dim))
            shared = one.spread(group).mean
            told["held"][name] = [len(shared.batches), len(shared.notes)]
        data = [batch(3, 5)]
        one = ggn(llama(), data, dtype="float64")
        told["cases"]["Gauss-Newton"] = differences(group, one, random_vectors(2, one.dim))
        mixed = hessian(
            torch.nn.Linear(3, 2),
            [torch.ones(4, 3), torch.arange(15.0).reshape(5, 3) / 9],
            dtype="float64",
            params="all",
            loss=lambda m, x: (m(x).pow(4).sum(), len(x)),
        )
        told["cases"]["own loss"] = differences(group, mixed, random_vectors(2, mixed.dim))

        checked = hessian(llama(), [batch(2, 5)], dtype="float32")
        for name, operator in (("one", checked), ("shared", checked.spread(group))):
            found = run_checks(operator)
            told[f"checks {name}"] = [
                found.symmetry_error,
                found.difference_error,
                found.product_error,
            ]
        told["estimate"] = estimates(group)
        told["sharded"] = {name: sharded(group, name) for name in SHARDED}
        told["sharded estimate"] = sharded_estimate(group)
        told["refused"] = {name: refused(group, name) for name in REFUSED}
        told["bytes"] = [bytes_held(ranks) for ranks in (group, Group(Place(rank=0)))]
    with open(f"{folder}/{group.rank}.json", "w") as handle:
        json.dump(told, handle)


def estimates(group: Group) -> dict[str, Any]:
    """Return α of estimates with and without sharing, fixed and adaptive, and of a resumed one."""
    family = hessian(quantized(llama), [batch(2, 6), batch(2, 5, seed=1)], dtype="float64")
    family.reduce = "per_batch"
    settings = SLQSettings(num_probes=2, lanczos_steps=9, share="vectors", block_size=2)
    shared = engine.run(family, settings, ranks=group)
    alone = engine.run(family, settings.with_changes(share="places"))
    folder = Path(group.first(tempfile.mkdtemp)) / "run"
    few = settings.with_changes(num_probes=1)
    engine.run(family, few, ranks=group, output=folder)
    earlier = group.first(lambda: spectra.load(folder))
    more = engine.run(family, settings.with_changes(share="places"), earlier=earlier)
    sections = ("alphas", "betas")
    checks = {k: shared.metadata["checks"][k] for k in ("product_error", "orthogonality_loss")}
    return {
        "apart": max(float(abs(getattr(shared, s) - getattr(alone, s)).max()) for s in sections),
        "resumed": max(float(abs(getattr(more, s) - getattr(alone, s)).max()) for s in sections),
        "note": [note for note in more.metadata["notes"] if "share=" in note],
        "share": shared.metadata["estimator"]["share"],
        "ranks": shared.metadata["environment"]["ranks"],
        "checks": checks,
        "zeros": [s.metadata["checks"]["structural_zero_fractions"] for s in (shared, alone)],
        "losses": [s.losses.tolist() for s in (shared, alone)],
    }


SHARDED: dict[str, tuple[Any, list[Any]]] = {
    "llama": (lambda: llama(layers=2), [batch(2, 5)]),
    "gpt2, uneven": (
        lambda: gpt2(tied=False, layers=2),
        [batch(2, 5), batch(1, 3, seed=1, masked=0.3)],
    ),
    "one sequence": (lambda: llama(layers=3), [batch(1, 6)]),
}
REFUSED: dict[str, Any] = {
    "quantized": lambda: hessian(quantized(llama), [batch(2, 5)]),
    "ggn": lambda: ggn(llama(), [batch(2, 5)]),
    "all": lambda: hessian(llama(), [batch(2, 5)], params="all"),
}


def sharded(group: Group, name: str) -> list[float]:
    """Return how far an operator with sharded weights is from one process and dense truth."""
    build, data = SHARDED[name]
    model = build()
    one = hessian(model, data, dtype="float64")
    V = random_vectors(2, one.dim)
    truth = torch.stack([one.matvec(v) for v in V])
    loss, _, exact = dense(model, one.selection.names, data)
    family = ShardedCurvature(one, group, torch.device("cpu"))
    mine = {id(p): p for n, p in model.named_parameters() if n in one.selection.names}
    left = sum(p.untyped_storage().nbytes() for p in mine.values())
    found = family.space.whole(family.mean.matvecs(family.space.take(V)))
    return [
        relative_error(found, truth),
        relative_error(found, V @ exact),
        abs(family.mean.loss / float(loss) - 1),
        left / one.dim,
        family.space.length(one.dim) / one.dim,
    ]


def sharded_estimate(group: Group) -> dict[str, Any]:
    """Return how far an estimate with sharded weights is from that of one process."""
    data = [batch(2, 6), batch(2, 5, seed=1)]
    settings = SLQSettings(num_probes=1, lanczos_steps=9)
    family = hessian(llama(layers=2), data, dtype="float64", reduce="mean")
    alone = engine.run(family, settings)
    shared = engine.run(family, settings.with_changes(share="parameters"), ranks=group)
    return {
        "apart": max(
            float(abs(getattr(alone, name) - getattr(shared, name)).max())
            for name in ("alphas", "betas", "losses", "grad_norms", "tokens")
        ),
        "weight_norm": [s.metadata["params"]["weight_norm"] for s in (alone, shared)],
        "checks": shared.metadata["checks"],
    }


def refused(group: Group, name: str) -> str:
    try:
        ShardedCurvature(REFUSED[name](), group, torch.device("cpu"))
    except UsageError as error:
        return str(error)
    return ""


def bytes_held(ranks: Group) -> list[float]:
    """Return bytes, in those of all weights: after loading, with graphs, most in a product."""
    family = hessian(llama(layers=12, hidden=32, inner=64), [batch(2, 4)], dtype="float32")
    whole = 4 * family.dim
    with Live() as live:
        sharded = ShardedCurvature(family, ranks, torch.device("cpu"))
        del family
        loaded = live.now()
        sharded.mean.prepare()
        v = sharded.space.take(torch.ones(sharded.dim)).clone()
        prepared, live.peak = live.now(), 0
        sharded.mean.matvec(v)
    return [loaded / whole, prepared / whole, live.peak / whole]


if __name__ == "__main__":
    main(sys.argv[1])
