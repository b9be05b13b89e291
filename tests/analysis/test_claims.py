"""Verdicts: by the rule, on records and logs whose truth is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import analysis
from analysis.claims.rules import student, variant, verdict_of_spectra, verdict_of_training
from analysis.claims.training import speedup
from analysis.labels import method_name
from spectra import record
from spectra.linalg import SymmetricOperator
from tests.analysis.study import write_spectrum

DIM = 2000


def test_verdicts_of_intervals() -> None:
    yes, no, open_ = (0.2, 0.1, 0.3), (-0.2, -0.3, -0.1), (0.0, -0.1, 0.1)
    assert verdict_of_spectra([yes] * 3, 1) == "reproduced"
    assert verdict_of_spectra([no] * 3, 1) == "contradicted"
    assert verdict_of_spectra([no] * 3, -1) == "reproduced"
    assert verdict_of_spectra([yes, yes, open_], 1) == "not resolved"
    assert verdict_of_spectra([yes, yes, no], 1) == "not resolved"
    assert verdict_of_spectra([yes, yes], 1) == "withheld"
    assert verdict_of_spectra([], 1) == "not measured"
    unknown = (math.nan, -math.inf, math.inf)
    assert verdict_of_spectra([unknown] * 3, 1) == "not resolved"


def test_verdicts_of_training_are_those_of_students_t() -> None:
    assert verdict_of_training([-0.1, -0.11, -0.09], -1) == "reproduced"
    assert verdict_of_training([-0.1, -0.11, -0.09], 1) == "contradicted"
    assert verdict_of_training([-0.1, 0.1, -0.05], -1) == "not resolved"
    assert verdict_of_training([-5.0, -5.0], -1) == "withheld"
    mean, lower, upper = student([1.0, 2.0, 3.0])
    assert mean == 2
    assert upper - mean == pytest.approx(4.302652729911275 / math.sqrt(3))  # t(2), 97.5 %
    assert mean - lower == pytest.approx(upper - mean)
    assert student([1.0])[1:] == (-math.inf, math.inf)


def test_speedup_interpolates_between_evaluations() -> None:
    base = pd.Series({0: 4.0, 100: 3.0})
    assert speedup(base, pd.Series({0: 4.0, 50: 3.0, 100: 2.0})) == pytest.approx(2.0)
    assert speedup(base, pd.Series({0: 4.0, 50: 3.5, 100: 2.5})) == pytest.approx(100 / 75)
    never = speedup(base, pd.Series({0: 4.0, 50: 3.5, 100: 3.1}))
    assert never == pytest.approx(100 / 150)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "winq"),
        ({"reset_fraction": 0.4, "noise_std": 0.001}, "winq"),
        ({"reset_fraction": 0.4, "noise_std": 0.0}, "reset"),
        ({"reset_fraction": 0.0, "noise_std": 0.001}, "noise"),
        ({"reset_fraction": 0.0, "noise_std": 0.0}, "baseline"),
        ({"reset_fraction": 0.8, "noise_std": 0.001}, "winq-f0.8"),
        ({"reset_fraction": 0.4, "noise_std": 0.004}, "winq-s0.004"),
    ],
)
def test_cells_of_the_factorial_design(settings: dict[str, Any], name: str) -> None:
    assert method_name("winq", settings) == name
    assert method_name("baseline", settings) == "baseline"


def test_another_setting_stands_in_where_the_usual_one_is_missing() -> None:
    assert variant(["baseline", "winq-f0.8"], "winq") == "winq-f0.8"
    assert variant(["winq", "winq-f0.2"], "winq") == "winq"
    assert variant(["baseline"], "winq") == "winq"


def matrix(scale: float, shift: float = 0.0) -> SymmetricOperator:
    """Eigenvalues evenly between −scale and 2·scale, plus a shift."""
    values = torch.linspace(-scale, 2 * scale, DIM, dtype=torch.float64) + shift
    return SymmetricOperator.from_matvec(lambda v: values * v, DIM, dtype=torch.float64)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three seeds; the baseline shrinks by half from step 0 to 10; WinQ does not."""
    for seed in range(3):
        for method, factor in (("baseline", 0.5), ("winq", 1.0)):
            for step, scale in ((0, 1.0), (10, factor)):
                name = f"{method}-{seed}/step-{step}"
                write_spectrum(tmp_path / name, matrix(scale), method=method, seed=seed, step=step)
        for f in (0.0, 0.4):
            write_spectrum(
                tmp_path / f"moved-{seed}-{f}",
                matrix(0.5 * (1 + f)),
                method="baseline",
                seed=seed,
                step=10,
                surface="latent",
                toward_grid=f,
            )
    return tmp_path


def test_claims_about_spectra_with_known_truth(study: Path) -> None:
    found = {c.key: c for c in analysis.claims(analysis.load(study))}
    for key in ("saddle", "magnitude_falls", "winq_magnitude", "reset_latent"):
        assert found[key].verdict == "reproduced", key
        assert found[key].seeds == (0, 1, 2)
        assert all(Path(path).is_dir() for path in found[key].sources)
    value, lower, upper = found["magnitude_falls"].values[0]
    truth = -0.5 * float(np.sqrt((np.linspace(-1, 2, DIM) ** 2).mean()))
    assert lower <= truth <= upper
    assert value == pytest.approx(truth, abs=0.05)
    assert "reset_ste" not in found  # nothing was moved on that surface


def test_fewer_seeds_withhold_the_verdict_and_show_the_numbers(study: Path) -> None:
    frame = analysis.load(study)
    one = frame[frame["path"].str.contains("-0/|moved-0")]
    for claim in analysis.claims(one):
        assert claim.verdict == ("withheld" if claim.values else "not measured")
    assert "holds for 1 of 1 seeds" in {c.here for c in analysis.claims(one)}


def test_a_positive_definite_end_is_no_saddle(tmp_path: Path) -> None:
    for seed in range(3):
        write_spectrum(
            tmp_path / f"{seed}", matrix(1.0, shift=2.0), method="baseline", seed=seed, step=10
        )
    saddle = next(c for c in analysis.claims(analysis.load(tmp_path)) if c.key == "saddle")
    assert saddle.verdict == "contradicted"


def test_claims_about_training() -> None:
    rows = []
    for seed in range(3):
        for method, final in (("baseline", 3.0), ("winq", 2.9), ("noise", 3.05)):
            for step, loss in ((0, 4.0), (50, 3.2), (100, final + 0.001 * seed)):
                rows.append(
                    {
                        "path": f"{method}{seed}",
                        "method": method,
                        "seed": seed,
                        "w_bits": 2.0,
                        "step": step,
                        "eval_loss": loss,
                    }
                )
    found = {c.key: c for c in analysis.claims(None, pd.DataFrame(rows))}
    assert found["winq_lower"].verdict == "reproduced"
    assert found["noise_lower"].verdict == "contradicted"
    assert found["winq_sooner"].verdict == "reproduced"
    assert found["winq_lower"].values[0][0] == pytest.approx(-0.1)
    table = analysis.claims_table(found.values())
    assert list(table["verdict"]) == [c.verdict for c in found.values()]
    assert "−0.1" in table["measured"][0]


def test_records_that_say_nothing_about_training_are_left_out(tmp_path: Path) -> None:
    write_spectrum(tmp_path / "float", matrix(1.0), method="baseline", seed=0, step=0, bits=None)
    assert analysis.claims(analysis.load(tmp_path)) == []
    assert record.exists(tmp_path / "float")
