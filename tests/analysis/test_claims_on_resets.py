"""Claims on one reset: that nothing changes, and a start that all runs share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import analysis
from spectra.linalg import SymmetricOperator
from tests.analysis.study import write_spectrum

DIM = 2000


def matrix(values: torch.Tensor) -> SymmetricOperator:
    return SymmetricOperator.from_matvec(lambda v: values * v, DIM, dtype=torch.float64)


def ramp(top: float) -> torch.Tensor:
    return torch.linspace(-1, top, DIM, dtype=torch.float64)


@pytest.mark.parametrize(
    ("moved", "verdict"), [(2.0, "reproduced"), (2.0 + 1e-6, "contradicted"), (3.0, "contradicted")]
)
def test_equal_operators_are_told_from_nearly_equal_ones(
    tmp_path: Path, moved: float, verdict: str
) -> None:
    for seed in range(3):
        for surface in ("ste", "latent"):
            for fraction, top in ((None, 2.0), (0.4, moved)):
                write_spectrum(
                    tmp_path / f"{surface}-{seed}-{fraction}",
                    matrix(ramp(top)),
                    method="baseline",
                    seed=seed,
                    step=10,
                    surface=surface,
                    toward_grid=fraction,
                )
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert found["reset_unchanged_ste"].verdict == verdict
    assert found["reset_unchanged_ste"].seeds == (0, 1, 2)
    assert "reset_unchanged_latent" not in found  # other weights, another Hessian
    raised = {2.0: "contradicted", 2.0 + 1e-6: "not resolved", 3.0: "reproduced"}[moved]
    assert found["reset_ste"].verdict == raised
    resolved = "reproduced" if moved == 3.0 else "not resolved"
    assert found["reset_latent"].verdict == resolved


def test_runs_from_other_start_vectors_say_nothing_about_equality(tmp_path: Path) -> None:
    write_spectrum(tmp_path / "a", matrix(ramp(2.0)), method="baseline", seed=0, step=10)
    write_spectrum(
        tmp_path / "b", matrix(ramp(2.0)), method="baseline", seed=0, step=10, toward_grid=0.4,
        probe_seed=7,
    )  # fmt: skip
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert found["reset_unchanged_ste"].values == ()
    assert found["reset_unchanged_ste"].verdict == "not measured"


def test_a_start_recorded_once_is_that_of_every_run(tmp_path: Path) -> None:
    for seed in range(3):
        for step, top in ((0, 2.0), (10, 1.0)):
            if seed == 0 or step:
                write_spectrum(
                    tmp_path / f"{seed}-{step}",
                    matrix(ramp(top)),
                    method="baseline",
                    seed=seed,
                    step=step,
                )
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    falls = found["magnitude_falls"]
    assert (falls.seeds, falls.verdict) == ((0, 1, 2), "reproduced")
    first, last = (float(np.sqrt(np.mean(ramp(top).numpy() ** 2))) for top in (2.0, 1.0))
    for _, lower, upper in falls.values:
        assert lower <= last - first <= upper


def test_of_starts_of_the_same_weights_the_best_known_counts(tmp_path: Path) -> None:
    """A rough record of each start, and a fine one of the first, which is that of all."""
    for seed in range(3):
        for step, top, steps in ((0, 2.0, 2), (0, 2.0, 60), (10, 1.0, 60)):
            if seed == 0 or steps == 2 or step:
                place = tmp_path / f"{seed}-{step}-{steps}"
                write_spectrum(
                    place,
                    matrix(ramp(top)),
                    method="baseline",
                    seed=seed,
                    step=step,
                    steps=steps,
                    checkpoint={
                        **{"w_bits": 2.0, "a_bits": 16, "method": "baseline", "step": step},
                        "quantization": {"recipe": {"seed": seed, "max_steps": 10}},
                        "sha256": "start" if step == 0 else f"end {seed}",
                    },
                )
    (falls,) = (c for c in analysis.claims(analysis.load(tmp_path)) if c.key == "magnitude_falls")
    assert {source[-6:] for source in falls.sources} == {"0-0-60", "-10-60"}
    assert falls.verdict == "reproduced"


def test_the_share_near_zero_is_held_against_what_the_paper_has(tmp_path: Path) -> None:
    pile = torch.linspace(-1, 2, DIM, dtype=torch.float64)
    for share, verdict in ((0.7, "reproduced"), (0.1, "contradicted")):
        values = pile.clone()
        values[: int(share * DIM)] = 0.0
        for seed in range(3):
            write_spectrum(
                tmp_path / f"{share}/{seed}",
                matrix(values),
                method="baseline",
                seed=seed,
                step=10,
                steps=200,
            )
        found = {c.key: c for c in analysis.claims(analysis.load(tmp_path / str(share)))}
        assert found["near_zero_share_0.1"].verdict == verdict
        assert found["near_zero_share_0.1"].notes == ()
    write_spectrum(
        tmp_path / "masked/0", matrix(pile), method="baseline", seed=0, step=10,
        masked_fraction=0.425,
    )  # fmt: skip
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path / "masked"))}
    assert found["near_zero_share_0.1"].notes == ("42.5% are exact zeros of the clip mask",)


@pytest.mark.parametrize(("added", "verdict"), [(5.0, "reproduced"), (5.001, "contradicted")])
def test_a_penalty_is_a_shift_and_nothing_else(tmp_path: Path, added: float, verdict: str) -> None:
    for seed in range(3):
        for gamma, values in ((None, ramp(2.0)), (5.0, ramp(2.0) + added)):
            write_spectrum(
                tmp_path / f"{seed}-{gamma}",
                matrix(values),
                method="baseline",
                seed=seed,
                step=10,
                surface="latent",
                proximal=gamma,
                estimator={"probe_space": "all" if gamma else "unmasked"},  # one, without a mask
            )
        write_spectrum(
            tmp_path / f"ste-{seed}", matrix(ramp(2.0)), method="baseline", seed=seed, step=10
        )
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert found["penalty_latent"].verdict == verdict
    assert "γ = 5 " in found["penalty_latent"].statement
    assert found["saddle"].verdict == "reproduced"  # of the loss itself, not of the penalized one


def test_equality_is_not_claimed_of_other_masks_or_of_wrong_products(tmp_path: Path) -> None:
    for name, changes, moved in (
        ("mask", {"masked_fraction": 0.1}, {"masked_fraction": 0.05}),
        ("wrong", {"checks": {"product_error": 0.5}}, {"checks": {"product_error": 0.5}}),
    ):
        for seed in range(3):
            for fraction, more in ((None, changes), (0.4, moved)):
                write_spectrum(
                    tmp_path / f"{name}/{seed}-{fraction}",
                    matrix(ramp(2.0)),
                    method="baseline",
                    seed=seed,
                    step=10,
                    toward_grid=fraction,
                    **more,
                )
        found = {c.key: c for c in analysis.claims(analysis.load(tmp_path / name))}
        assert found["reset_unchanged_ste"].verdict == "not measured"
        assert found["reset_ste"].verdict == "not resolved"


def test_scales_derived_anew_are_no_frozen_ones(tmp_path: Path) -> None:
    for seed in range(3):
        for fraction, rederived, top in ((None, None, 2.0), (0.4, False, 3.0), (0.4, True, 1.0)):
            write_spectrum(
                tmp_path / f"{seed}-{fraction}-{rederived}",
                matrix(ramp(top)),
                method="baseline",
                seed=seed,
                step=10,
                toward_grid=fraction,
                rederived=rederived,
            )
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert found["reset_ste"].verdict == "reproduced"


def test_a_reset_is_held_against_the_checkpoint_with_its_own_scales(tmp_path: Path) -> None:
    """Moved by nothing, with scales derived anew, it is another model."""
    for seed in range(3):
        for fraction, rederived, top in ((0.0, True, 4.0), (0.0, False, 2.0), (0.4, False, 3.0)):
            write_spectrum(
                tmp_path / f"{int(not rederived)}-{seed}-{fraction}",
                matrix(ramp(top)),
                method="baseline",
                seed=seed,
                step=10,
                surface="latent",
                toward_grid=fraction,
                rederived=rederived,
            )
        write_spectrum(
            tmp_path / f"ste-{seed}", matrix(ramp(2.0)), method="baseline", seed=seed, step=10
        )
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert found["reset_latent"].verdict == "reproduced"  # 3 against 2, and not against 4


def test_every_strength_of_a_penalty_is_named_and_the_worst_counts(tmp_path: Path) -> None:
    for seed in range(3):
        for gamma, added in ((None, 0.0), (5.0, 5.001), (7.0, 7.0)):
            write_spectrum(
                tmp_path / f"{seed}-{gamma}",
                matrix(ramp(2.0) + added),
                method="baseline",
                seed=seed,
                step=10,
                surface="latent",
                proximal=gamma,
            )
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert "γ = 5, 7 " in found["penalty_latent"].statement
    assert found["penalty_latent"].verdict == "contradicted"


def test_products_too_wrong_for_a_share_do_not_end_the_others(tmp_path: Path) -> None:
    for seed in range(3):
        write_spectrum(
            tmp_path / f"{seed}", matrix(ramp(2.0)), method="baseline", seed=seed, step=10,
            checks={"product_error": 0.01},
        )  # fmt: skip
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert found["near_zero_share_0.1"].verdict == "not measured"
    assert "do not resolve the threshold" in found["near_zero_share_0.1"].notes[0]
    assert found["saddle"].verdict == "reproduced"
    analysis.write_report(tmp_path)


def test_a_run_that_has_not_ended_is_no_end(tmp_path: Path) -> None:
    for seed in range(3):
        for step in (0, 10 if seed else 5):
            write_spectrum(
                tmp_path / f"{seed}-{step}", matrix(ramp(2.0 - step / 10)), method="baseline",
                seed=seed, step=step, max_steps=10,
            )  # fmt: skip
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert found["saddle"].seeds == found["magnitude_falls"].seeds == (1, 2)
    assert found["saddle"].verdict == "withheld"
