"""The whole path on a tiny random model, against its dense Hessian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import spectra
from spectra.errors import InputWarning, UsageError


def estimate(checkpoint, tokens, **options):
    sizes = {"seq_len": 24, "num_batches": 2, "lanczos_steps": 20} | options
    return spectra.estimate(str(checkpoint), data=str(tokens), progress=False, **sizes)


@pytest.fixture(scope="module")
def dense(checkpoint, tokens):
    """Eigenvalues of each batch's Hessian, assembled from products with unit vectors."""
    ckpt = spectra.load_checkpoint(str(checkpoint), dtype="float64")
    data = spectra.token_batches(tokens, seq_len=24, num_batches=2)
    family = spectra.hessian(ckpt, data)
    eye = torch.eye(family.dim, dtype=torch.float64)
    return [
        torch.linalg.eigvalsh(torch.stack([op.matvec(row) for row in eye])).numpy()
        for op in family.per_batch()
    ]


def test_intervals_hold_the_exact_values(checkpoint, tokens, dense):
    found = estimate(checkpoint, tokens, lanczos_steps=80, dtype="float64")
    n = dense[0].size
    assert found.metadata["dim"] == n
    low, high = found.extremes()
    assert low.lower <= np.mean([e[0] for e in dense]) <= low.upper
    assert high.lower <= np.mean([e[-1] for e in dense]) <= high.upper
    for tau in (1e-3, 1e-2, 1e-1, 1.0):
        exact = np.mean([(np.abs(e) <= tau).mean() for e in dense])
        interval = found.mass(-tau, tau)
        assert interval.lower <= exact <= interval.upper
    structural = found.metadata["checks"]["structural_zero_fraction"]
    assert structural <= np.mean([(np.abs(e) < 1e-12).mean() for e in dense])


def test_mean_reduces_to_one_operator(checkpoint, tokens, dense):
    found = estimate(checkpoint, tokens, reduce="mean", dtype="float64", lanczos_steps=40)
    assert found.alphas.shape[0] == 1
    assert found.tokens[0] == 2 * 23
    assert found.mass(-1, 1).scope == "batches"
    with pytest.raises(UsageError, match="needs at least 3 batches"):
        found.mass(-1, 1, scope="population")


def test_bfloat16_model_keeps_float64_coefficients_and_tells_its_error(checkpoint, tokens):
    found = estimate(checkpoint, tokens, dtype="bfloat16")
    exact = estimate(checkpoint, tokens, dtype="float64")
    assert found.alphas.dtype == np.float64
    assert (found.steps == 20).all()
    assert found.metadata["checks"]["product_error_source"] == "measured"
    scale = exact.extremes()[1].value
    delta = found.metadata["checks"]["product_error"]
    assert 1e-4 * scale < delta < scale
    assert delta > 1e6 * exact.metadata["checks"]["product_error"]


def test_winq_protocol_is_the_reference_and_labelled(checkpoint, tokens):
    with pytest.warns(InputWarning, match="seq_len=2048 exceeds the 64 positions"):
        found = spectra.estimate(
            str(checkpoint), data=str(tokens), protocol="winq", num_batches=1, num_probes=3,
            lanczos_steps=6, progress=False, check=False,
        )  # fmt: skip
    estimator, reference = found.metadata["estimator"], found.metadata["reference"]
    assert estimator["protocol"] == "winq"
    changes = "num_probes=3, lanczos_steps=6, num_batches=1"
    assert ", ".join(estimator["protocol_changes"]) == changes
    assert (estimator["dtype"], estimator["vector_dtype"]) == ("bfloat16", "bfloat16")
    assert estimator["basis"] == "none"
    assert (found.steps == 6).all()
    assert reference["label"] == f"reference procedure with {changes}, not a bounded estimate"
    nodes, weights = found.nodes[0], found.weights[0]
    inside = [w[np.abs(x) < 1.5e-3].sum() for x, w in zip(nodes, weights, strict=True)]
    assert reference["near_zero_mean"] == pytest.approx(np.mean(inside), abs=1e-12)
    assert reference["lambda_max"] == pytest.approx(np.median(nodes[:, -1]))
    assert reference["lambda_min"] == pytest.approx(nodes[weights > 1e-8].min())


def test_ggn_has_no_negative_eigenvalues(checkpoint, tokens):
    found = estimate(checkpoint, tokens, curvature="ggn", dtype="float64", lanczos_steps=40)
    assert found.extremes()[0].value > -1e-9
    assert found.metadata["estimator"]["curvature"] == "GGN"


def test_too_few_tokens_are_told(checkpoint, tokens):
    with pytest.warns(spectra.NumericalWarning, match="fewer than the width"):
        found = estimate(checkpoint, tokens, seq_len=5)
    assert found.metadata["checks"]["structural_zero_fraction"] > 0.1
    assert len(found.metadata["warnings"]) == 1  # for two batches


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "win"}, "did you mean winq"),
        ({"curvature": "fisher"}, "curvature='fisher'"),
        ({"surface": "ste"}, "no quantizer"),
        ({"params": "nothing.*"}, "nothing"),
        ({"max_memory_gb": -1}, "max_memory_gb=-1"),
        ({"reduce": "sum"}, "reduce='sum'"),
    ],
)
def test_wrong_requests_are_told(checkpoint, tokens, options, message):
    with pytest.raises(UsageError, match=message):
        estimate(checkpoint, tokens, **options)
