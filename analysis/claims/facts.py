"""Records as facts about training: which may stand beside which, and which cannot be used.

A claim subtracts records, so all it uses must be of one setting: data, parameters, average, kind of
curvature, quantizer and activations. Records of several settings are several groups, each with its
own claims. Spectra of parts of a model (--per) say nothing about the whole one and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.comparable import setting_of
from analysis.labels import count_label, is_reference, known, method_of, section, unusual
from analysis.load import spectrum
from spectra.record.spectrum import Spectrum

FIRST = ("model", "schedule", "rate", "steps")  # of what tells settings apart


@dataclass(frozen=True)
class Fact:
    """A record with what decides where it belongs.

    `unusual` is a schedule that does not fall; `checkpoint` the hash of one that no recipe of a run
    places, and empty for others.
    """

    path: str
    spectrum: Spectrum
    bits: float
    method: str
    seed: int
    step: int
    surface: str
    toward: float | None
    penalty: float | None
    rederived: bool
    ends: int | None
    after_reset: bool
    unusual: str
    checkpoint: str
    setting: tuple[tuple[str, str], ...]

    @property
    def place(self) -> tuple[Any, ...]:
        """What two records of one group cannot have in common."""
        return (
            *(self.bits, self.method, self.seed, self.step, self.surface),
            *(self.toward, self.rederived, self.checkpoint, self.penalty),
        )

    @property
    def in_place(self) -> bool:
        """Whether the checkpoint is looked at as it is."""
        return self.toward is None and not self.penalty and not self.rederived

    @property
    def weights(self) -> str | None:
        """Hash of the checkpoint's weights, where the record tells it."""
        return section(self.spectrum.metadata, "checkpoint").get("sha256")

    @property
    def at_the_end(self) -> bool:
        """Whether the run ends here, as far as it tells."""
        return self.ends is None or self.step == self.ends


@dataclass(frozen=True)
class Group:
    """Records of one setting; `words` tells it from the other groups."""

    words: str
    facts: tuple[Fact, ...]


def groups(records: pd.DataFrame) -> tuple[list[Group], list[str]]:
    """Return the groups of rows of `analysis.load`, largest first, and what was left out and why.

    Records of unquantized checkpoints say nothing here and are left out without a word.
    """
    found: list[Fact] = []
    left: dict[str, int] = {}
    for _, row in records.iterrows():
        one = spectrum(row)
        if not known(section(one.metadata, "checkpoint").get("w_bits")):
            continue
        why = _unusable(one)
        if why:
            left[why] = left.get(why, 0) + 1
        else:
            found.append(_fact(str(row["path"]), one))
    notes = [f"{_count(number)} left out of the claims: {why}" for why, number in left.items()]
    kept, twice = _once(found)
    settings: dict[tuple[tuple[str, str], ...], list[Fact]] = {}
    for fact in kept:
        settings.setdefault(fact.setting, []).append(fact)
    ordered = sorted(settings.items(), key=lambda item: (-len(item[1]), item[1][0].path))
    every = list(settings)
    return [
        Group(_told_apart(every, setting) or facts[0].unusual, tuple(facts))
        for setting, facts in ordered
    ], notes + twice


def _count(number: int) -> str:
    return "1 record" if number == 1 else f"{number} records"


def _unusable(one: Spectrum) -> str:
    meta, point = one.metadata, section(one.metadata, "point")
    if known(section(meta, "params").get("per")):
        return "spectra of parts of a model (--per)"
    if is_reference(meta):
        return "the reference procedure, whose numbers have no error"
    if not one.finished:
        return "no finished probe"
    if not one.measure.spherical:
        return "probes that serve traces only"
    if known(point.get("noisy_weights")):
        return "evaluated at noisy weights"
    return ""


def _fact(path: str, one: Spectrum) -> Fact:
    checkpoint = section(one.metadata, "checkpoint")
    recipe = section(section(checkpoint, "quantization"), "recipe")
    return Fact(
        path=path,
        spectrum=one,
        bits=float(checkpoint["w_bits"]),
        method=method_of(one.metadata),
        seed=int(recipe.get("seed") or 0),
        step=int(checkpoint.get("step") or 0),
        surface=str(one.metadata.get("surface")),
        toward=section(one.metadata, "point").get("toward_grid"),
        penalty=section(one.metadata, "point").get("proximal"),
        rederived=bool(section(one.metadata, "point").get("rederived_scales")),
        ends=_whole(recipe.get("max_steps")),
        after_reset=after_reset(recipe, int(checkpoint.get("step") or 0)),
        unusual=unusual(recipe.get("lr_scheduler_type"), recipe.get("learning_rate")),
        checkpoint=str(checkpoint.get("sha256") or path) if not recipe else "",
        setting=tuple((setting_of(one) | _schedule(checkpoint, recipe)).items()),
    )


def _whole(steps: Any) -> int | None:
    return int(steps) if known(steps) and steps > 0 else None


def after_reset(recipe: dict[str, Any], step: int) -> bool:
    """Return whether the last that a run did to its weights before they were saved was a reset."""
    every = _whole(recipe.get("reset_every"))
    if every is None or not recipe.get("reset_fraction") or recipe.get("save_before_reset"):
        return False
    low, high = recipe.get("reset_from") or 1, recipe.get("reset_until") or step
    return bool(step) and step % every == 0 and low <= step <= high


def _schedule(checkpoint: dict[str, Any], recipe: dict[str, Any]) -> dict[str, str]:
    """Return start, length, rate, schedule and text of a training, empty if a run does not tell."""
    steps, rate = recipe.get("max_steps"), recipe.get("learning_rate")
    if not known(steps) or not known(rate):
        alone = not recipe and not known(checkpoint.get("step"))  # of no run that could be told
        return {"checkpoint": str(checkpoint.get("sha256"))[:6]} if alone else {}
    size = count_label(checkpoint.get("parameters"))
    start = f"of {size} parameters ({str(recipe.get('model_sha256') or '')[:6]})"
    return {
        "model": start,
        "steps": f"{steps:g}",
        "schedule": str(recipe.get("lr_scheduler_type")),
        "rate": f"{rate:g}",
        "trained on": f"{str(recipe.get('data_sha256'))[:6]}, {recipe.get('blocks_per_step')} "
        f"blocks of {recipe.get('seq_len')} tokens, {recipe.get('optim')}",
    }


def _once(facts: Iterable[Fact]) -> tuple[list[Fact], list[str]]:
    """Keep the record with most products of those that are of the same checkpoint and point.

    What is left out is named, unless it is of the very same weights.
    """
    best: dict[tuple[Any, ...], Fact] = {}
    notes = []
    for fact in facts:
        key = fact.place, fact.setting
        other = best.get(key)
        if other is None:
            best[key] = fact
            continue
        more, fewer = sorted((other, fact), key=lambda f: -int(f.spectrum.steps.sum()))
        best[key] = more
        if more.weights is None or more.weights != fewer.weights:
            notes.append(f"{fewer.path} left out of the claims: {more.path} has more products")
    return list(best.values()), notes


def _told_apart(
    settings: list[tuple[tuple[str, str], ...]], setting: tuple[tuple[str, str], ...]
) -> str:
    """Return what tells a setting from the others: as few words as do."""
    mine, rest, words = dict(setting), [dict(other) for other in settings], []
    for key in (*FIRST, *(key for key in mine if key not in FIRST)):
        same = [other for other in rest if other.get(key) == mine.get(key)]
        if len(same) < len(rest) and key in mine:
            words.append(f"{key} {mine[key]}")
        rest = same
    return ", ".join(words)
