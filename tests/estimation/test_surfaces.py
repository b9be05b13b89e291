"""Records of quantized checkpoints: masks counted exactly, probes where the operator lives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import spectra
from spectra.curvature import hessian, select_parameters
from spectra.errors import InputWarning, RecordError, UsageError
from spectra.estimation import slq
from spectra.estimation.perturb import Displacement
from spectra.quant import prepare, quant_layers, reset_, spec
from tests.estimation.models import small_llama

SIZES = {"seq_len": 24, "num_batches": 2, "lanczos_steps": 12, "dtype": "float64"}
TWO_BITS = {"quantizer": "paretoq", "w_bits": 2}


def estimate(checkpoint, tokens, **options):
    return spectra.estimate(str(checkpoint), data=str(tokens), progress=False, **SIZES | options)


def loaded(checkpoint, **options):
    return spectra.load_checkpoint(str(checkpoint), dtype="float64", **options)


def blocks(tokens):
    return spectra.token_batches(tokens, seq_len=24, num_batches=2)


@pytest.fixture(scope="module")
def binary(checkpoint, tokens):
    """One bit: (the family of the model, the exact eigenvalues of each batch)."""
    family = spectra.hessian(loaded(checkpoint, quantizer="paretoq", w_bits=1), blocks(tokens))
    eigenvalues = []
    for operator in family.per_batch():
        operator.batched_products = True
        eye = torch.eye(family.dim, dtype=torch.float64)
        dense = torch.cat([operator.matvecs(rows) for rows in eye.split(64)])
        eigenvalues.append(torch.linalg.eigvalsh(dense).numpy())
    return family, eigenvalues


def test_the_masked_share_is_exact_and_intervals_hold_the_truth(checkpoint, tokens, binary):
    family, eigenvalues = binary
    found = estimate(checkpoint, tokens, quantizer="paretoq", w_bits=1, lanczos_steps=80)
    meta = found.metadata
    masked = int((~family.keep).sum())
    assert 0.2 < masked / family.dim < 0.7
    assert (meta["surface"], meta["dim"]) == ("ste", family.dim)
    assert meta["dim_unmasked"] == family.dim - masked == found.measure.dim_unmasked
    assert meta["masked_fraction"] == masked / family.dim
    assert meta["estimator"]["probe_space"] == "unmasked"
    assert (meta["checkpoint"]["w_bits"], meta["checkpoint"]["quantizer"]) == (1, "paretoq")
    for tau in (1e-3, 1e-2, 1e-1, 1.0):
        exact = np.mean([(np.abs(e) <= tau).mean() for e in eigenvalues])
        interval = found.mass(-tau, tau)
        assert interval.lower <= exact <= interval.upper
        assert interval.lower >= masked / family.dim - 1e-12
    low, high = found.extremes()
    assert low.lower <= np.mean([e[0] for e in eigenvalues]) <= low.upper
    assert high.lower <= np.mean([e[-1] for e in eigenvalues]) <= high.upper
    structural = meta["checks"]["structural_zero_fraction"]
    zeros = np.mean([(np.abs(e) < 1e-12).mean() for e in eigenvalues])
    assert structural + meta["masked_fraction"] <= zeros


def test_run_to_the_end_the_mass_at_zero_is_exact(tokens):
    """All directions of a small model: what every probe's quadrature has at zero is counted."""
    model = small_llama(hidden=4, intermediate=6, layers=1).double()
    prepare(model, spec("paretoq", w_bits=1))
    family = hessian(model, list(blocks(tokens))[:1])
    eye = torch.eye(family.dim, dtype=torch.float64)
    e = torch.linalg.eigvalsh(torch.stack([family.matvec(row) for row in eye])).numpy()
    masked = family.dim - family.dim_unmasked
    found = slq(family, num_probes=6, lanczos_steps=family.dim_unmasked, progress=False)
    assert found.steps.max() <= family.dim_unmasked
    zeros = int((np.abs(e) < 1e-10).sum())
    assert zeros >= masked > 0
    interval = found.mass(-1e-9, 1e-9)
    assert interval.lower <= zeros / family.dim <= interval.upper
    if zeros == masked:
        assert interval.value == pytest.approx(masked / family.dim, abs=1e-9)
    nodes = np.concatenate([n for n, _ in found.measure.nodes_and_weights()])
    assert np.abs(nodes[:, None] - e).min(axis=1).max() < 1e-6 * np.abs(e).max()
    mean = found.moment(1)
    assert mean.lower <= e.mean() <= mean.upper


def test_more_steps_than_unmasked_coordinates_are_cut(tokens):
    model = small_llama(hidden=4, intermediate=6, layers=1).double()
    prepare(model, spec("paretoq", w_bits=1))
    family = hessian(model, list(blocks(tokens))[:1])
    with pytest.warns(InputWarning, match=f"are run|dimension {family.dim_unmasked}"):
        found = slq(family, lanczos_steps=family.dim, progress=False)
    assert found.alphas.shape[2] == family.dim_unmasked < family.dim


def test_probes_live_on_unmasked_coordinates(tokens, monkeypatch):
    model = small_llama().double()
    prepare(model, spec("paretoq", w_bits=1))
    family = hessian(model, blocks(tokens))
    seen = []
    from spectra.estimation import runner

    original = runner.Lanczos

    def spy(operator, starts, **options):
        seen.append(starts.clone())
        return original(operator, starts, **options)

    monkeypatch.setattr(runner, "Lanczos", spy)
    slq(family, lanczos_steps=2, progress=False)
    slq(family, lanczos_steps=2, progress=False, probe_space="all")
    assert not seen[0][:, ~family.keep].any()
    assert seen[2][:, ~family.keep].any()
    assert float(seen[0].norm()) == pytest.approx(1)


def test_the_reference_procedure_draws_on_all_coordinates(checkpoint, tokens):
    options = {"dtype": None, "num_batches": 1, "num_probes": 2, "lanczos_steps": 6}
    found = estimate(
        checkpoint, tokens, protocol="winq", check=False, quantizer="paretoq", w_bits=1, **options
    )
    meta = found.metadata
    assert meta["estimator"]["probe_space"] == "all"
    assert meta["dim_unmasked"] < meta["dim"] == found.measure.dim_unmasked
    assert meta["masked_fraction"] > 0
    assert meta["surface"] == "ste"


@pytest.mark.parametrize("surface", ["quantized", "latent"])
def test_surfaces_without_a_mask_have_no_masked_share(checkpoint, tokens, surface):
    found = estimate(checkpoint, tokens, surface=surface, **TWO_BITS)
    assert found.metadata["masked_fraction"] == 0
    assert found.metadata["surface"] == surface
    if surface == "latent":
        plain = estimate(checkpoint, tokens)
        assert np.allclose(plain.alphas, found.alphas, rtol=1e-12)


def test_quantized_activations_are_recorded_without_a_difference_check(checkpoint, tokens):
    found = estimate(checkpoint, tokens, a_bits=8, kv_bits=8, **TWO_BITS)
    checks = found.metadata["checks"]
    assert checks["difference_error"] is None
    assert "piecewise constant" in checks["difference_note"]
    assert checks["symmetry_error"] < 1e-10
    assert found.metadata["checkpoint"]["kv_bits"] == 8


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"surface": "quantized"}, "surface differs"),
        ({"w_bits": 3}, "checkpoint.w_bits differs"),
        ({"a_bits": 8}, "checkpoint.a_bits differs"),
        ({"quantizer": "lsq"}, "checkpoint.quantizer differs"),
        ({"toward_grid": 0.4}, "point.toward_grid differs"),
        ({"noisy_weights": 0.01}, "point.noisy_weights differs"),
        ({"proximal": 0.1}, "point.proximal differs|probe_space differs"),
    ],
)
def test_another_surface_or_point_is_not_resumed(checkpoint, tokens, tmp_path, change, key):
    options = {"output": str(tmp_path / "r"), "num_batches": 1, "lanczos_steps": 3} | TWO_BITS
    estimate(checkpoint, tokens, **options)
    with pytest.raises(RecordError, match=key):
        estimate(checkpoint, tokens, resume=True, **options | change)


def test_toward_the_grid_is_the_reset_of_training(checkpoint, tokens):
    found = estimate(checkpoint, tokens, toward_grid=0.4, **TWO_BITS)
    ckpt = loaded(checkpoint, **TWO_BITS)
    reset_(ckpt.model, 0.4)
    truth = slq(
        spectra.hessian(ckpt, blocks(tokens)), lanczos_steps=12, check=False, progress=False
    )
    assert np.array_equal(found.alphas, truth.alphas)
    assert np.array_equal(found.betas, truth.betas)
    point = found.metadata["point"]
    assert (point["toward_grid"], point["rederived_scales"]) == (0.4, False)
    still = estimate(checkpoint, tokens, toward_grid=0.0, **TWO_BITS)
    assert np.array_equal(still.alphas, estimate(checkpoint, tokens, **TWO_BITS).alphas)
    assert still.metadata["point"]["toward_grid"] == 0.0


def test_scales_are_derived_anew_from_the_moved_weights_when_asked(checkpoint):
    frozen, fresh = (loaded(checkpoint, **TWO_BITS).model for _ in range(2))
    Displacement(toward_grid=0.4).apply_(frozen, "linear")
    point, _ = Displacement(toward_grid=0.4, rederive_scales=True).apply_(fresh, "linear")
    assert point["rederived_scales"] is True
    before = quant_layers(loaded(checkpoint, **TWO_BITS).model)
    for name, layer in quant_layers(fresh).items():
        largest = layer.weight.detach().abs().amax(-1, keepdim=True)
        assert torch.equal(layer.scale.detach(), largest)
        assert torch.equal(quant_layers(frozen)[name].scale, before[name].scale)
        assert not torch.equal(layer.scale, before[name].scale)


def test_a_scale_that_is_never_learned_follows_by_itself(checkpoint):
    model = loaded(checkpoint, quantizer="rtn", w_bits=3).model
    point, notes = Displacement(toward_grid=0.5).apply_(model, "linear")
    assert point["rederived_scales"] is True
    assert notes == ["rtn learns no scale: it follows the moved weights"]
    with pytest.raises(UsageError, match="rtn learns no scale"):
        Displacement(toward_grid=0.5, rederive_scales=True).apply_(model, "linear")


def test_noise_is_a_function_of_the_seed_and_of_the_asked_size(checkpoint):
    def moved(seed, sigma=0.01):
        model = loaded(checkpoint, **TWO_BITS).model
        Displacement(noisy_weights=sigma, seed=seed).apply_(model, "linear")
        return model

    one, again, other = moved(1), moved(1), moved(2)
    plain = loaded(checkpoint, **TWO_BITS).model
    steps = {"weight": [], "scale": []}
    for (name, a), (_, b), (_, c), (_, d) in zip(
        *(m.named_parameters() for m in (one, again, other, plain)), strict=True
    ):
        assert torch.equal(a, b)
        touched = name.endswith(("proj.weight", "scale"))
        assert touched == (not torch.equal(a, c)) == (not torch.equal(a, d))
        if touched:
            steps[name.rpartition(".")[2]].append((a - d).detach().reshape(-1) / 0.01)
    for found in (torch.cat(pieces) for pieces in steps.values()):
        assert float(found.mean()) == pytest.approx(0, abs=4 / len(found) ** 0.5)
        assert float(found.std()) == pytest.approx(1, abs=4 / (2 * len(found)) ** 0.5)
    draws = torch.cat(steps["weight"])
    assert len(set(draws.tolist())) == len(draws)  # no two layers share their noise
    silent = moved(1, sigma=0.0)
    assert all(
        torch.equal(a, b) for a, b in zip(silent.parameters(), plain.parameters(), strict=True)
    )


def test_noise_on_a_float_model_is_confined_to_the_selection(checkpoint, tokens):
    model, plain = (loaded(checkpoint).model for _ in range(2))
    Displacement(noisy_weights=0.1).apply_(model, "embedding")
    changed = [
        name
        for (name, a), (_, b) in zip(
            model.named_parameters(), plain.named_parameters(), strict=True
        )
        if not torch.equal(a, b)
    ]
    assert changed == list(select_parameters(plain, "embedding").names)
    found = estimate(checkpoint, tokens, noisy_weights=0.1)
    assert found.metadata["surface"] == "latent"
    assert any("σ = 0.1, on the selected weights" in note for note in found.metadata["notes"])
    again = estimate(checkpoint, tokens, noisy_weights=0.1)
    assert np.array_equal(found.alphas, again.alphas)
    assert not np.allclose(found.alphas, estimate(checkpoint, tokens).alphas, rtol=1e-3)


def test_a_proximal_penalty_shifts_the_spectrum(checkpoint, tokens, binary):
    family, eigenvalues = binary
    options = {"quantizer": "paretoq", "w_bits": 1, "lanczos_steps": 80}
    found = estimate(checkpoint, tokens, proximal=0.5, **options)
    meta = found.metadata
    assert meta["point"]["proximal"] == 0.5
    assert meta["estimator"]["probe_space"] == "all"
    assert found.measure.dim_unmasked == family.dim
    assert meta["checks"]["structural_zero_fraction"] == 0
    assert meta["checks"]["difference_error"] < 1e-6
    exact = np.mean([((e + 0.5) <= 0.25).mean() for e in eigenvalues])
    interval = found.cdf(0.25)
    assert interval.lower <= exact <= interval.upper
    assert interval.upper < meta["masked_fraction"]  # masked coordinates sit at γ, not at zero
    low, high = found.extremes()
    assert low.lower <= np.mean([e[0] for e in eigenvalues]) + 0.5 <= low.upper
    assert high.lower <= np.mean([e[-1] for e in eigenvalues]) + 0.5 <= high.upper


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"toward_grid": 1.2}, r"toward_grid=1.2 is outside \[0, 1\]"),
        ({"toward_grid": float("nan")}, "outside"),
        ({"noisy_weights": -1.0}, "noisy_weights=-1.0 is no standard deviation"),
        ({"noisy_weights": float("inf")}, "is no standard deviation"),
        ({"proximal": -0.5}, "proximal=-0.5 is no weight of a penalty"),
        ({"rederive_scales": True}, "nothing moves them; pass toward_grid"),
        ({"toward_grid": 0.4}, "no quantizer; pass --quantizer and --w_bits"),
        ({"proximal": 0.1}, "selects no quantized weight"),
        ({"surface": "ste"}, "no quantizer"),
        ({"proximal": 0.1, "surface": "quantized"} | TWO_BITS, "differentiates in Q"),
        ({"proximal": 0.1, "params": "embedding"} | TWO_BITS, "Q is not defined there"),
        ({"params": "*.scale"} | TWO_BITS, "belongs to a quantizer"),
    ],
)
def test_points_that_do_not_exist_are_refused(checkpoint, tokens, options, message):
    with pytest.raises(UsageError, match=message):
        estimate(checkpoint, tokens, **options)
