"""Forgetting: has a run lost what the model knew, and did quantization or the learning rate do it?

The loss on a kept task is measured before and during training on the same blocks (`spectra train
--kept_data`). With Δ the rise of its mean from before training to the last evaluation, and se the
standard error of that difference over blocks, a run **has forgotten** if

    Δ > max(0.05 nats a token, 2 se).

The control is a run of the same learning rate and seed in plain precision (--w_bits 16 --a_bits
16). If it has forgotten too, the **learning rate** did it: a lower one is the cure, not more bits.
If it has not, **quantization** did. Without a control the cause is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.labels import known
from spectra.errors import UsageError

RISE, ERRORS = 0.05, 2.0
PLAIN_BITS = 16


@dataclass(frozen=True)
class Forgetting:
    """The verdict on one run.

    Attributes:
        run: Name of the run.
        path: Its directory.
        learning_rate: Its largest learning rate.
        seed: Its seed.
        control: Name of its control, None where there is none, and for a control itself.
        plain: Whether it is a control.
        rise: Δ, nats a token.
        rise_se: Its standard error; None for one block.
        control_rise: Δ of the control.
        forgotten: Whether the run has forgotten.
        cause: "learning rate", "quantization" or "not known" where it has, else None.
    """

    run: str
    path: str
    learning_rate: float | None
    seed: int | None
    control: str | None
    plain: bool
    rise: float
    rise_se: float | None
    control_rise: float | None
    forgotten: bool
    cause: str | None

    def text(self) -> str:
        """Return the verdict as one sentence."""
        rate = "" if self.learning_rate is None else f" at learning rate {self.learning_rate:g}"
        error = "" if self.rise_se is None else f" ± {self.rise_se:.4f}"
        what = f"{self.run}{rate}: kept loss {self.rise:+.4f}{error} nats a token"
        if self.control_rise is not None:
            what += f", control {self.control_rise:+.4f}"
        if not self.forgotten:
            return f"{what}: not forgotten"
        because = "" if self.plain else f" ({self.cause})"
        return f"{what}: forgotten{because}"


def forgetting(runs: pd.DataFrame) -> list[Forgetting]:
    """Return the verdict on every run that measured a kept task, by the rule above.

    Args:
        runs: Rows of `analysis.load_training`.

    Raises:
        UsageError: If no run did.
    """
    if "kept_rise" not in runs.columns or not runs["kept_rise"].notna().any():
        raise UsageError(
            "no run measured a kept task; train with --kept_data, once quantized and once with "
            "--w_bits 16 --a_bits 16."
        )
    last = runs[runs["kept_rise"].notna()].sort_values("step").groupby("path", sort=False).tail(1)
    rows = last.to_dict("records")
    controls = {_key(row): row for row in rows if is_plain(row)}
    return [_verdict(row, controls.get(_key(row))) for row in rows]


def is_plain(row: Any) -> bool:
    """Whether a run is in plain precision, a control."""
    return all(row.get(key) == PLAIN_BITS for key in ("w_bits", "a_bits"))


def _verdict(row: dict[Any, Any], control: dict[Any, Any] | None) -> Forgetting:
    plain, forgotten = is_plain(row), _has_forgotten(row)
    other = None if plain else control
    cause = None
    if forgotten:
        cause = "not known"
        if plain or (other is not None and _has_forgotten(other)):
            cause = "learning rate"
        elif other is not None:
            cause = "quantization"
    return Forgetting(
        run=str(row["run"]),
        path=str(row["path"]),
        learning_rate=_number(row, "base_learning_rate"),
        seed=None if not known(row.get("seed")) else int(row["seed"]),
        control=None if other is None else str(other["run"]),
        plain=plain,
        rise=float(row["kept_rise"]),
        rise_se=_number(row, "kept_rise_se"),
        control_rise=None if other is None else float(other["kept_rise"]),
        forgotten=forgotten,
        cause=cause,
    )


def _has_forgotten(row: dict[Any, Any]) -> bool:
    return bool(row["kept_rise"] > max(RISE, ERRORS * (_number(row, "kept_rise_se") or 0.0)))


def _key(row: dict[Any, Any]) -> tuple[Any, ...]:
    return _number(row, "base_learning_rate"), _number(row, "seed")


def _number(row: dict[Any, Any], key: str) -> float | None:
    value = row.get(key)
    return float(value) if known(value) else None
