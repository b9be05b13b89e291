"""Where resets help: runs with resets against the baseline of the same width, rate and schedule.

`regime` has a row for each run, `reset_events` one for each reset:

    lead      held-out loss of the run less the baseline's at the same step: negative is ahead
    gain      what one reset did: lead at the first evaluation that is at least `AFTER` of the run
              behind it, less the lead at the last evaluation before it

Both loss curves are of the same seed, so of the same batches in the same order.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.claims.curves import last, middle
from spectra.errors import UsageError

SETTING = (
    *("model", "quantizer", "w_bits", "a_bits", "base_learning_rate", "schedule", "max_steps"),
    *("train_data", "eval_data", "seq_len", "batch_size", "optimizer"),
)
RESETS = ("reset_every", "reset_fraction", "reset_from", "reset_until", "noise_std")
AFTER = 1 / 12  # of a run


def regime(training: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run that has a baseline of the same setting and seed.

    Args:
        training: Rows of `analysis.load_training`.

    Returns:
        Columns of the setting, `seed`, `method`, those of the resets, and: `end` and `middle`, the
        lead at the end and its mean over the middle third, `best` and `best_step`, the largest lead
        and where, `loss`, the held-out loss at the end.

    Raises:
        UsageError: If no run has a baseline of its setting.
    """
    rows = []
    for about, run, base in _with_baselines(training):
        lead = (run - base.reindex(run.index)).dropna()
        if lead.empty:
            continue
        later = lead.iloc[1:] if len(lead) > 1 else lead
        best = int(later.to_numpy().argmin())
        rows.append(
            about
            | {
                "end": last(lead),
                "middle": middle(lead),
                "best": float(later.iloc[best]),
                "best_step": int(later.index[best]),
                "loss": last(run),
            }
        )
    return _table(rows)


def reset_events(training: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each reset of each run that has a baseline: its step, the rate, the gain.

    Args:
        training: Rows of `analysis.load_training`.

    Returns:
        Columns of the setting, `seed`, `method`, those of the resets, and: `step` of the reset,
        `steps_left`, `learning_rate` at it (of the last log before), `gain` in nats.

    Raises:
        UsageError: If no run with resets has a baseline of its setting.
    """
    rows = []
    for about, run, base in _with_baselines(training):
        every, length = about["reset_every"], int(about["max_steps"])
        if pd.isna(every):
            continue
        lead = run - base.reindex(run.index)
        rates = training[training["path"] == about["path"]].set_index("step")["learning_rate"]
        rates = rates.dropna().sort_index()
        steps = _reset_steps(about, length)
        for step, following in zip(steps, [*steps[1:], length + 1], strict=True):
            before, after = lead[lead.index <= step], lead[lead.index >= step + AFTER * length]
            known = rates[rates.index <= step]
            if before.empty or after.empty or known.empty or after.index[0] > following:
                continue  # nothing to hold it against, or another reset in between
            rows.append(
                about
                | {
                    "step": step,
                    "steps_left": length - step,
                    "learning_rate": float(known.iloc[-1]),
                    "gain": float(after.iloc[0] - before.iloc[-1]),
                }
            )
    return _table(rows)


def chosen(table: pd.DataFrame, by: str = "end") -> pd.DataFrame:
    """Return for each width, rate and schedule the setting of resets with the largest lead.

    The rule of selection, stated here before it is used: of the runs with resets the smallest mean
    over seeds of `by`. What it picks has to be measured on other seeds. A lead is over the baseline
    of the same rate and schedule: `behind_best` is the loss less that of the best baseline of the
    width, whatever its rate and schedule, and a lead that is not negative helps nobody.

    Args:
        table: As `regime` makes it.
        by: "end" or "middle".
    """
    resets = table[table["reset_every"].notna()]
    keys = ["w_bits", "base_learning_rate", "schedule"]
    means = resets.groupby([*keys, "method"], as_index=False)[["middle", "end", "loss"]].mean()
    picked = means.loc[means.groupby(keys)[by].idxmin()].copy()
    bases = (table["loss"] - table["end"]).groupby([table[key] for key in keys]).mean()
    picked["behind_best"] = picked["loss"] - picked["w_bits"].map(bases.groupby("w_bits").min())
    return picked.sort_values(["w_bits", by]).reset_index(drop=True)


def _with_baselines(
    training: pd.DataFrame,
) -> list[tuple[dict[str, Any], pd.Series[Any], pd.Series[Any]]]:
    missing = sorted({"eval_loss", "w_bits", "method", *RESETS} - set(training.columns))
    if missing:
        raise UsageError(f"these runs do not tell {missing[0]}; pass logs of `spectra train`.")
    there = training[training["eval_loss"].notna() & training["w_bits"].notna()]
    keys = [name for name in (*SETTING, "seed") if name in there]
    runs = [
        (one.iloc[0], one.set_index("step")["eval_loss"].sort_index())
        for _, one in there.groupby("path", sort=False)
    ]
    bases: dict[tuple[str, ...], Any] = {}
    for first, curve in runs:
        if first["method"] == "baseline":
            key = tuple(str(first[name]) for name in keys)
            bases[key] = None if key in bases else curve  # which of two is not for us to say
    found = []
    for first, curve in runs:
        base = bases.get(tuple(str(first[key]) for key in keys))
        if first["method"] != "baseline" and base is not None and base.index[-1] == curve.index[-1]:
            names = (*keys, "method", "path", *(name for name in RESETS if name in there))
            found.append(({name: first[name] for name in names}, curve, base))
    return found


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    if not rows:
        raise UsageError(
            "no run with resets has a baseline of the same width, rate, schedule, length and seed; "
            "train one: spectra train --recipe baseline."
        )
    return pd.DataFrame(rows)


def _reset_steps(about: dict[str, Any], length: int) -> list[int]:
    every = int(about["reset_every"])
    first, until = about.get("reset_from"), about.get("reset_until")
    low = 1 if first is None or pd.isna(first) else int(first)
    high = length if until is None or pd.isna(until) else int(until)
    return [step for step in range(every, length, every) if low <= step <= high]
