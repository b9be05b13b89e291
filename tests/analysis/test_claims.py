"""Verdicts: by the rule, on records and logs whose truth is known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import analysis
from analysis.claims.facts import after_reset
from analysis.claims.rules import (
    student,
    student_of_intervals,
    verdict_of_runs,
    verdict_of_spectra,
    verdict_of_training,
)
from analysis.claims.training import log_speedup
from analysis.labels import method_name
from analysis.load import RecordWarning
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


def test_three_runs_that_agree_by_chance_are_no_finding() -> None:
    """λ of one run is known to 1e-3; three runs on one side are what a coin gives in four."""
    sharp = [(x, x - 1e-3, x + 1e-3) for x in (-3.2, -17.1, -2.9)]
    assert verdict_of_spectra(sharp, -1) == "reproduced"
    assert verdict_of_runs(sharp, -1) == verdict_of_runs(sharp, 1) == "not resolved"
    close = [(x, x - 1e-3, x + 1e-3) for x in (-3.2, -3.1, -2.9)]
    assert verdict_of_runs(close, -1) == "reproduced"
    assert verdict_of_runs(close, 1) == "contradicted"
    mean, lower, upper = student_of_intervals([(x, x - 0.5, x + 0.25) for x in (1.0, 2.0, 3.0)])
    plain = student([1.0, 2.0, 3.0])
    assert (mean, lower, upper) == pytest.approx((2.0, plain[1] - 0.5, plain[2] + 0.25))
    rng = np.random.default_rng(0)
    null = [[(x, x, x) for x in rng.standard_normal(3)] for _ in range(2000)]
    wrong = sum(verdict_of_runs(values, 1) != "not resolved" for values in null) / 2000
    assert wrong < 0.06  # 5 % by Student's t; 25 % by signs alone


def test_the_baseline_is_not_sooner_than_itself() -> None:
    noisy = pd.Series({0: 4.0, 50: 2.9, 75: 3.1, 100: 3.0})
    assert log_speedup(noisy, noisy) == 0.0


def test_speedup_interpolates_between_evaluations() -> None:
    base = pd.Series({0: 4.0, 100: 3.0})
    twice = log_speedup(base, pd.Series({0: 4.0, 50: 3.0, 100: 2.0}))
    assert twice == pytest.approx(math.log(2.0))
    between = log_speedup(base, pd.Series({0: 4.0, 50: 3.5, 100: 2.5}))
    assert between == pytest.approx(math.log(100 / 75))
    assert log_speedup(base, pd.Series({0: 4.0, 50: 3.5, 100: 3.1})) == -math.inf


def test_a_seed_that_never_reaches_the_loss_is_not_left_out() -> None:
    sooner, never = math.log(3.0), -math.inf
    assert verdict_of_training([sooner] * 7 + [1.01 * sooner], 1) == "reproduced"
    assert verdict_of_training([sooner] * 7 + [never], 1) == "not resolved"
    assert verdict_of_training([never] * 3, 1) == "contradicted"
    diverged = math.inf
    assert verdict_of_training([diverged] * 3, -1) == "contradicted"
    assert verdict_of_training([-diverged] * 3, -1) == "reproduced"
    assert verdict_of_training([-0.1, -0.1, diverged], -1) == "not resolved"
    assert verdict_of_training([sooner, never], 1) == "withheld"


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
        ({"reset_every": 80, "max_steps": 240}, "winq"),
        ({"reset_every": 24, "max_steps": 240}, "winq-k24"),
        ({"reset_every": 24, "max_steps": None}, "winq"),
        ({"reset_from": 120.0, "reset_until": 200, "noise_std": 0}, "reset-from120-until200"),
        ({"reset_fraction": 0, "reset_every": 24, "max_steps": 240}, "noise"),
    ],
)
def test_cells_of_the_factorial_design(settings: dict[str, Any], name: str) -> None:
    assert method_name("winq", settings) == name
    assert method_name("baseline", settings) == "baseline"


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
    assert "holds for 1 of 1 seed" in {c.here for c in analysis.claims(one)}


def test_with_enough_batches_a_change_is_one_over_data(tmp_path: Path) -> None:
    """WinQ's largest eigenvalue is larger on these four batches, and as often smaller on others."""
    tops = {"baseline": (2.0, 2.0, 2.0, 2.0), "winq": (1.0, 4.0, 1.5, 2.5)}
    for method, ends in tops.items():
        for seed in range(3):
            parts = []
            for top in ends:
                operator = matrix(top / 2)
                write_spectrum(tmp_path / "part", operator, method=method, seed=seed, step=1)
                parts.append(record.load(tmp_path / "part"))
            arrays = {
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("alphas", "betas", "steps", "losses", "grad_norms", "tokens")
            }
            whole = dataclasses.replace(parts[0], **arrays)
            record.save(whole, tmp_path / "runs" / f"{method}-{seed}")
    (claim,) = (
        c for c in analysis.claims(analysis.load(tmp_path / "runs")) if c.key == "winq_norm"
    )
    assert claim.verdict == "not resolved"
    assert all(lower < 0 < value for value, lower, _ in claim.values)
    assert "4 batches" in claim.notes[0]
    assert claim.notes[0].endswith("intervals over data")
    whole_share = claim.notes[1]
    for path in (tmp_path / "runs").iterdir():  # the same, two of the batches not finished
        one = record.load(path)
        steps = np.where(np.arange(4)[:, None] < 2, one.steps, 0)
        record.save(dataclasses.replace(one, steps=steps), path)
    (claim,) = (
        c for c in analysis.claims(analysis.load(tmp_path / "runs")) if c.key == "winq_norm"
    )
    assert claim.notes[0].startswith("on 2 batches")
    assert "over data" not in claim.notes[0]
    assert "+25.0%" in claim.notes[1], (whole_share, claim.notes[1])  # 2.5 against 2


def test_a_change_is_told_as_a_share_of_what_it_changes(study: Path) -> None:
    found = {c.key: c for c in analysis.claims(analysis.load(study))}
    for key in ("winq_norm", "winq_magnitude"):  # the baseline's are half of WinQ's
        (note,) = (n for n in found[key].notes if n.startswith("as shares of the baseline's: +"))
        assert all(95 < float(x.strip("+%")) < 105 for x in note.split(": ")[1].split(", "))


def test_the_instant_of_a_reset_is_named(study: Path) -> None:
    resets = {"reset_every": 5, "reset_fraction": 0.4}
    for path in sorted(study.rglob("winq-*/step-10")):
        one = record.load(path)
        quantization = {"recipe": one.metadata["checkpoint"]["quantization"]["recipe"] | resets}
        checkpoint = one.metadata["checkpoint"] | {"quantization": quantization}
        meta = one.metadata | {"checkpoint": checkpoint}
        record.save(dataclasses.replace(one, metadata=meta), path)
    found = {c.key: c for c in analysis.claims(analysis.load(study))}
    assert "step 10 is the instant of a reset" in " ".join(found["winq_norm"].notes)
    assert "instant" not in " ".join(found["magnitude_falls"].notes)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, True),
        ({"reset_fraction": 0.0}, False),
        ({"reset_every": 4}, False),
        ({"reset_until": 8}, False),
        ({"reset_from": 11}, False),
        ({"save_before_reset": True}, False),
    ],
)
def test_a_checkpoint_right_after_a_reset(changes: dict[str, Any], found: bool) -> None:
    assert after_reset({"reset_every": 5, "reset_fraction": 0.4} | changes, 10) == found
    assert not after_reset({"reset_every": 5, "reset_fraction": 0.4}, 0)


@pytest.mark.filterwarnings("ignore:breakdown")  # three eigenvalues are found in three steps
@pytest.mark.parametrize(("free", "verdict"), [(0.3, "contradicted"), (0.9, "reproduced")])
def test_exact_zeros_of_the_mask_are_told_apart(tmp_path: Path, free: float, verdict: str) -> None:
    """Half of the coordinates are masked; of the others a known share lies at zero."""
    values = torch.ones(DIM // 2, dtype=torch.float64)
    values[: int(free * DIM / 2)] = 0
    every = torch.cat([values, torch.zeros(DIM // 2, dtype=torch.float64)])
    operator = SymmetricOperator.from_matvec(lambda v: every * v, DIM, dtype=torch.float64)
    for seed in range(3):
        write_spectrum(
            tmp_path / f"{seed}",
            operator,
            method="baseline",
            seed=seed,
            step=10,
            masked_fraction=0.5,
        )
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert found["near_zero_share_0.1"].verdict == "reproduced"
    assert found["near_zero_share_unmasked_0.1"].verdict == verdict


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
    assert [v[0] for v in found["winq_lower"].values] == pytest.approx([-0.1] * 3)
    assert found["winq_lower"].here == "holds for 3 of 3 seeds"
    assert found["winq_lower"].mean == pytest.approx((-0.1, -0.1, -0.1))
    table = analysis.claims_table(found.values())
    assert list(table["verdict"]) == [c.verdict for c in found.values()]
    assert "−0.1" in table["measured"][0]


def test_verdicts_side_by_side_for_the_widths(study: Path) -> None:
    frame = logs()
    both = pd.concat([frame, frame.assign(w_bits=4.0, path=frame["path"] + "-w4")])
    table = analysis.verdicts(analysis.claims(analysis.load(study), both))
    assert list(table.columns) == ["claim", "setting", "2", "4"]
    lower = table.set_index("claim").loc["WinQ ends at a lower loss than the baseline"]
    assert lower["2"] == lower["4"] == "reproduced: −0.1"
    saddle = table[table["claim"].str.contains("saddle")].iloc[0]
    assert saddle["2"].startswith("reproduced: 0.499 … 0.5")
    assert saddle["4"] == ""


def test_records_that_say_nothing_about_training_are_left_out(tmp_path: Path) -> None:
    write_spectrum(tmp_path / "float", matrix(1.0), method="baseline", seed=0, step=0, bits=None)
    assert analysis.claims(analysis.load(tmp_path)) == []
    assert record.exists(tmp_path / "float")


def logs(**changes: Any) -> pd.DataFrame:
    """Three seeds of baseline and WinQ, five evaluations each, WinQ lower throughout."""
    rows = [
        {
            "path": f"{method}{seed}", "method": method, "seed": float(seed), "w_bits": 2.0,
            "a_bits": 16.0, "quantizer": "paretoq", "step": step,
            "eval_loss": 4.0 - 0.2 * step - (0.1 if method == "winq" else 0.0) + 0.001 * seed,
        }
        for seed in range(3) for method in ("baseline", "winq") for step in range(5)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**changes)


def test_runs_that_cannot_be_told_apart_or_end_elsewhere_are_left_out_and_named() -> None:
    frame = logs()
    second = frame[frame["path"] == "winq1"].assign(path="winq1-again", eval_loss=9.0)
    found = {c.key: c for c in analysis.claims(None, pd.concat([frame, second]))}
    copies = pd.concat([frame, frame.assign(path=frame["path"] + "-copy")])
    (alone,) = (c for c in analysis.claims(None, copies) if c.key == "winq_lower")
    assert alone.verdict == "not measured"
    assert any("2 runs of baseline" in note for note in alone.notes)
    assert found["winq_lower"].seeds == (0, 2)
    assert found["winq_lower"].verdict == "withheld"
    assert any("2 runs of winq" in note for note in found["winq_lower"].notes)
    short = frame[(frame["path"] != "winq0") | (frame["step"] < 3)]
    found = {c.key: c for c in analysis.claims(None, short)}
    assert found["winq_lower"].seeds == (1, 2)
    assert "step 4, the other at step 2" in found["winq_lower"].notes[0]


def test_a_baseline_that_learns_nothing_leaves_nothing_to_reach_sooner() -> None:
    frame = logs()
    frame["eval_loss"] = 8.0 - frame["eval_loss"]
    found = {c.key: c for c in analysis.claims(None, frame)}
    assert found["winq_sooner"].values == ()
    assert "ends no lower than it began" in found["winq_sooner"].notes[0]
    assert found["winq_lower"].verdict == "contradicted"  # of these mirrored losses


def test_other_settings_are_held_against_the_usual_one() -> None:
    frame = logs()
    other = frame[frame["method"] == "winq"].copy()
    other["path"] = other["path"] + "-f"
    other["method"] = "winq-f0.8"
    other["eval_loss"] += 0.05 * (other["step"] == 4)
    claim = {c.key: c for c in analysis.claims(None, pd.concat([frame, other]))}[
        "ablation_winq-f0.8"
    ]
    assert claim.verdict == "reproduced"
    assert claim.mean is not None
    assert claim.mean[0] == pytest.approx(0.05)
    assert "with a reset fraction of 0.8" in claim.statement


@pytest.mark.parametrize(
    ("gradients", "verdict"),
    [((8.0, 2.0, 1.0), "reproduced"), ((8.0, 7.9, 1.0), "contradicted")],
)
def test_a_gradient_that_falls_before_the_loss(
    tmp_path: Path, gradients: tuple[float, ...], verdict: str
) -> None:
    """The loss falls by half of its fall until step 5 of 20, on the batches of the records."""
    for seed in range(3):
        for step, gradient, loss in zip((0, 5, 20), gradients, (4.0, 3.0, 2.0), strict=True):
            place = tmp_path / f"{seed}-{step}"
            write_spectrum(place, matrix(1.0), method="baseline", seed=seed, step=step, steps=20)
            one = record.load(place)
            meta = one.metadata | {"params": one.metadata["params"] | {"weight_norm": 2.0}}
            changed = {"losses": np.array([loss + 0.01 * seed]), "grad_norms": np.array([gradient])}
            record.save(dataclasses.replace(one, metadata=meta, **changed), place)
    found = {c.key: c for c in analysis.claims(analysis.load(tmp_path))}
    assert found["gradient_early"].verdict == verdict
    share = (gradients[0] - gradients[1]) / (gradients[0] - gradients[2])
    assert found["gradient_early"].values[0][0] == pytest.approx(share - 0.5)
    assert "step 5" in found["gradient_early"].quantity


def test_settings_are_not_mixed_in_training() -> None:
    both = pd.concat([logs(), logs(a_bits=8.0, path=logs()["path"] + "-a8")])
    found = [c for c in analysis.claims(None, both) if c.key == "winq_lower"]
    assert [c.setting for c in found] == ["A8", "A16"]
    assert [c.verdict for c in found] == ["reproduced"] * 2


def test_logs_without_a_seed_say_nothing() -> None:
    assert analysis.claims(None, logs().drop(columns="seed")) == []
    assert analysis.claims(None, logs(seed=float("nan"))) == []


def test_no_other_setting_stands_in_for_the_usual_one(study: Path) -> None:
    frame = logs(schedule="constant", base_learning_rate=1e-3)
    frame["method"] = frame["method"].replace("winq", "winq-f0.8")
    found = {c.key: c for c in analysis.claims(None, frame)}
    assert "winq_lower" not in found
    assert "with a reset fraction of 0.8" in found["lower_winq-f0.8"].statement
    assert found["lower_winq-f0.8"].setting == "constant rate of 0.001"
    for path in sorted(study.rglob("winq-*/step-*")):
        one = record.load(path)
        resets = {"reset_fraction": 0.8}
        quantization = {"recipe": one.metadata["checkpoint"]["quantization"]["recipe"] | resets}
        checkpoint = one.metadata["checkpoint"] | {"quantization": quantization}
        record.save(
            dataclasses.replace(one, metadata=one.metadata | {"checkpoint": checkpoint}), path
        )
    claims = {c.key: c for c in analysis.claims(analysis.load(study))}
    assert "winq_norm" not in claims
    assert "a reset fraction of 0.8; last step" in claims["winq_norm_winq-f0.8"].statement
    assert claims["winq_norm_winq-f0.8"].paper == ""


def test_never_is_contradicted_only_where_the_shortfall_is_sure() -> None:
    frame = logs()
    worse = frame["method"] == "winq"
    frame["eval_loss"] = 4.0 - 0.2 * frame["step"]
    for lead, verdict in (
        ((0.1, 0.11, 0.12), "contradicted"),
        ((0.001, 0.3, 0.01), "not resolved"),
    ):
        again = frame.copy()
        again.loc[worse, "eval_loss"] += again.loc[worse, "seed"].map(dict(enumerate(lead)))
        (claim,) = (c for c in analysis.claims(None, again) if c.key == "winq_sooner")
        assert all(math.isinf(value[0]) for value in claim.values)
        assert claim.verdict == verdict


def test_runs_on_other_data_or_evaluated_at_other_steps_are_not_mixed() -> None:
    frame = logs(eval_data="a", train_data="b")
    other = frame["method"] == "winq"
    apart = frame.assign(eval_data=frame["eval_data"].where(~other, "c"))
    assert not [c for c in analysis.claims(None, apart) if c.key == "winq_lower" and c.values]
    thin = frame[~other | (frame["step"] % 2 == 0)]
    (ahead,) = (c for c in analysis.claims(None, thin) if c.key == "winq_ahead")
    assert all(value[0] == pytest.approx(-0.1) for value in ahead.values)


def test_the_last_stretch_of_a_training_is_not_the_whole(study: Path) -> None:
    frame = analysis.load(study)
    for path in frame.loc[frame["step"] == 0, "path"]:
        one = record.load(path)
        checkpoint = one.metadata["checkpoint"] | {"step": 5}
        record.save(
            dataclasses.replace(one, metadata=one.metadata | {"checkpoint": checkpoint}),
            Path(path),
        )
    found = {c.key: c for c in analysis.claims(analysis.load(study))}
    assert found["saddle"].verdict == "reproduced"
    for key in ("magnitude_falls", "near_zero_grows_0.1"):
        assert found[key].verdict == "not measured"


def test_models_of_one_name_are_told_apart_and_no_verdict_takes_anothers_place() -> None:
    frames = [logs(model=model) for model in ("/x/llama/final", "/y/qwen/final")]
    found = analysis.claims(None, pd.concat(frames))
    assert {c.setting for c in found} == {"llama/final", "qwen/final"}
    table = analysis.verdicts(found)
    alike = analysis.verdicts([dataclasses.replace(c, setting="") for c in found])
    assert len(table) == len(alike) == len(found)


def test_checkpoints_that_no_run_places_are_groups_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_spectrum(tmp_path / name, matrix(1.0), method="baseline", seed=0, step=0)
        one = record.load(tmp_path / name)
        told = {"path": f"org/{name}", "w_bits": 2.0, "sha256": name * 64}
        meta = one.metadata | {"checkpoint": told}
        record.save(dataclasses.replace(one, metadata=meta), tmp_path / name)
    frame = analysis.load(tmp_path)
    assert frame["step"].isna().all()
    settings = {c.setting for c in analysis.claims(frame)}
    assert settings == {"checkpoint aaaaaa", "checkpoint bbbbbb"}
    analysis.write_report(tmp_path)  # no step to draw against, and a report all the same


def test_a_rough_record_of_the_same_weights_steps_back_without_a_word(study: Path) -> None:
    place = study / "again"
    write_spectrum(place, matrix(0.5), method="baseline", seed=0, step=10, steps=5)
    for path in (place, study / "baseline-0/step-10"):
        one = record.load(path)
        checkpoint = one.metadata["checkpoint"] | {"sha256": "f" * 64}
        record.save(
            dataclasses.replace(one, metadata=one.metadata | {"checkpoint": checkpoint}), path
        )
    found = {c.key: c for c in analysis.claims(analysis.load(study))}
    assert not any("again" in source for c in found.values() for source in c.sources)


def test_a_seed_that_one_method_alone_has_is_named() -> None:
    frame = logs()
    gone = frame[(frame["method"] != "winq") | (frame["seed"] != 2)]
    (claim,) = (c for c in analysis.claims(None, gone) if c.key == "winq_lower")
    assert claim.notes == ("seed 2 left out: only the baseline has a finished run",)


def test_records_of_other_data_or_parameters_are_never_subtracted(study: Path) -> None:
    """Of the records on other data, WinQ alone is there: nothing to compare it with."""
    for path in sorted(study.rglob("winq-*/step-*")):
        one = record.load(path)
        meta = one.metadata | {"data": one.metadata["data"] | {"sha256": "1"}}
        record.save(dataclasses.replace(one, metadata=meta), path)
    found = analysis.claims(analysis.load(study))
    assert {c.key for c in found} & {"winq_magnitude", "winq_near_zero_0.1"} == set()
    assert {c.setting[:4] for c in found} == {"data"}
    magnitudes = [c for c in found if c.key == "magnitude_falls"]
    assert [c.verdict for c in magnitudes] == ["reproduced"]


def test_parts_of_a_model_are_left_out_and_counted(study: Path) -> None:
    for path in sorted(study.rglob("winq-*/step-*")):
        one = record.load(path)
        meta = one.metadata | {"params": one.metadata["params"] | {"per": "layer", "layer": 0}}
        record.save(dataclasses.replace(one, metadata=meta), path)
    with pytest.warns(RecordWarning, match=r"6 records left out .* parts of a model"):
        found = {c.key for c in analysis.claims(analysis.load(study))}
    assert "saddle" in found
    assert "winq_magnitude" not in found


def test_of_two_records_of_one_checkpoint_the_better_is_used(study: Path) -> None:
    write_spectrum(study / "again", matrix(7.0), method="baseline", seed=0, step=10, steps=5)
    with pytest.warns(RecordWarning, match="again left out .* more products"):
        found = {c.key: c for c in analysis.claims(analysis.load(study))}
    assert found["magnitude_falls"].verdict == "reproduced"
