"""Claims on shares near zero: thresholds, both kinds of coordinates, seeds left out by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import analysis
from tests.analysis.study import write_spectrum
from tests.analysis.test_claims_on_resets import DIM, matrix


def pile(share: float, top: float = 2.0) -> torch.Tensor:
    """A spectrum of which a share lies within 0.01, and the rest beyond 0.8."""
    values = torch.linspace(0.8, top, DIM, dtype=torch.float64)
    values[::2] *= -1
    count = int(share * DIM)
    values[:count] = torch.linspace(-0.01, 0.01, count, dtype=torch.float64)
    return values


@pytest.mark.parametrize(("less", "verdict"), [(0.3, "reproduced"), (-0.3, "contradicted")])
def test_winq_has_fewer_near_zero(tmp_path: Path, less: float, verdict: str) -> None:
    for seed in range(3):
        for method, share in (("baseline", 0.6 + 0.01 * seed), ("winq", 0.6 - less)):
            write_spectrum(
                tmp_path / f"{method}{seed}", matrix(pile(share)), method=method, seed=seed,
                step=10, steps=120, masked_fraction=0.2, dim=2500,
            )  # fmt: skip
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    keys = [key for key in found if key.startswith("winq_near_zero")]
    assert len(keys) == 8
    for name in ("0.1", "rms_0.3"):
        every, rest = (found[f"winq_near_zero_{part}{name}"] for part in ("", "unmasked_"))
        assert every.verdict == rest.verdict == verdict
        # Of the unmasked coordinates the difference is larger: masked ones are zeros in both.
        assert every.mean[0] == pytest.approx(0.8 * rest.mean[0], rel=0.05)
        assert "unmasked" in rest.statement


def test_a_seed_that_does_not_resolve_a_threshold_is_left_out_by_name(tmp_path: Path) -> None:
    for seed in range(4):
        for method, share in (("baseline", 0.6), ("winq", 0.3)):
            write_spectrum(
                tmp_path / f"{method}{seed}", matrix(pile(share)), method=method, seed=seed,
                step=10, steps=120 if seed else 3,
            )  # fmt: skip
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    claim = found["winq_near_zero_0.1"]
    assert claim.seeds == (1, 2, 3)
    assert claim.verdict == "reproduced"
    assert any("seed 0 left out: 3 Lanczos steps" in note for note in claim.notes)
