"""How a record is called: its name, bits, step and the identity of its configuration."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, TypeGuard

from spectra.errors import printable

WINQ_LABEL = "reference procedure, not a bounded estimate"

RESET, NOISE = 0.4, 1e-3  # the usual reset fraction and weight noise of WinQ
PULL = 10.0  # the usual strength of CAGE

# What a run found or cost, as against what was asked for.
RESULTS = ("checks", "cost", "environment", "reference", "request", "summary", "warnings")


def section(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a section of a record's metadata; empty where it is missing."""
    found = metadata.get(name)
    return found if isinstance(found, dict) else {}


def config_id(metadata: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name what was estimated and how, whatever came out."""
    asked = {key: value for key, value in metadata.items() if key not in RESULTS}
    text = json.dumps(asked, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_reference(metadata: Mapping[str, Any]) -> bool:
    """Whether the record was made by the reference procedure (protocol "winq")."""
    return section(metadata, "estimator").get("protocol") == "winq"


def reference_label(metadata: Mapping[str, Any]) -> str:
    """Return how a record of the reference procedure is labelled, with what was changed in it."""
    return str(section(metadata, "reference").get("label") or WINQ_LABEL)


def model_name(metadata: Mapping[str, Any]) -> str:
    """Return the checkpoint's name: the last two parts of its path, or its hub id."""
    path = section(metadata, "checkpoint").get("path")
    return "/".join(PurePath(str(path)).parts[-2:]).lstrip("/") if path else "model"


def bits_label(w_bits: Any, a_bits: Any) -> str:
    """Return W2A16, W1.58A8, W4, or an empty string for an unquantized checkpoint."""
    if not known(w_bits):
        return ""
    return f"W{float(w_bits):g}" + (f"A{float(a_bits):g}" if known(a_bits) else "")


def step_label(step: Any) -> str:
    """Return 800, 10K, 1.5M, or an empty string."""
    if not known(step):
        return ""
    value = int(step)
    for unit, name in ((1_000_000, "M"), (1_000, "K")):
        if value >= unit and value % (unit // 10) == 0:
            return f"{value / unit:g}{name}"
    return str(value)


def count_label(count: Any) -> str:
    """Return 4,000 or 1.05M or 106M or 1.2B."""
    if not known(count):
        return "?"
    value = float(count)
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{int(value):,}"


FALLING = ("cosine", "linear")  # schedules whose rate ends at zero, as the paper's


def method_of(metadata: Mapping[str, Any]) -> str:
    """Return what trained a record's checkpoint; see `method_name`."""
    checkpoint = section(metadata, "checkpoint")
    recipe = section(section(checkpoint, "quantization"), "recipe")
    return method_name(str(checkpoint.get("method") or "baseline"), recipe)


def method_name(recipe: str, settings: Mapping[str, Any]) -> str:
    """Return the cell of the factorial design, and what differs from the usual settings.

    baseline (neither resets nor noise), reset or noise (alone), winq (both); "-f0.8" for another
    reset fraction than 0.4, "-s0.004" for another noise than 0.001, "-k40" for another interval
    than a third of the run, "-from120" and "-until120" where resets keep to a stretch of it. CAGE
    is cage, "-l15" for another strength than 10, "-coupled" for that form. Recipes in one run are
    joined, winq+cage; a part that does nothing is left out.
    """
    parts = [_part_name(part, settings) for part in recipe.split("+")]
    return "+".join(part for part in parts if part != "baseline") or "baseline"


def _part_name(recipe: str, settings: Mapping[str, Any]) -> str:
    if recipe == "cage":
        strength = settings.get("cage_lambda", PULL)
        if not strength:
            return "baseline"
        form = "-coupled" if settings.get("cage_form") == "coupled" else ""
        return recipe + (f"-l{strength:g}" if strength != PULL else "") + form
    if recipe != "winq":
        return recipe
    fraction, noise = settings.get("reset_fraction", RESET), settings.get("noise_std", NOISE)
    cell = {(True, True): "winq", (True, False): "reset", (False, True): "noise"}.get(
        (bool(fraction), bool(noise)), "baseline"
    )
    other = f"-f{fraction:g}" if fraction and fraction != RESET else ""
    other += _when(settings) if fraction else ""
    return cell + other + (f"-s{noise:g}" if noise and noise != NOISE else "")


def _when(settings: Mapping[str, Any]) -> str:
    """Return "-k40-from120" if resets are not every third of a run, all through it."""
    every, steps = settings.get("reset_every"), settings.get("max_steps")
    usual = not known(every) or not known(steps) or steps < 1 or every == max(1, steps // 3)
    words = "" if usual else f"-k{every:g}"
    for key in ("from", "until"):
        if known(settings.get(f"reset_{key}")):
            words += f"-{key}{settings[f'reset_{key}']:g}"
    return words


def unusual(schedule: Any, rate: Any) -> str:
    """Return "constant rate of 0.001" of a schedule that does not fall to zero."""
    if not known(schedule) or schedule in FALLING:
        return ""
    return f"{schedule} rate of {rate:g}" if known(rate) else f"{schedule} rate"


def title_parts(metadata: Mapping[str, Any]) -> list[str]:
    """Return checkpoint, bits, step, dimension, surface and point, as far as they are known."""
    checkpoint = section(metadata, "checkpoint")
    parts = [model_name(metadata)]
    parts.append(bits_label(checkpoint.get("w_bits"), checkpoint.get("a_bits")))
    if known(checkpoint.get("step")):
        parts.append(f"step {step_label(checkpoint['step'])}")
    if known(metadata.get("dim")):
        parts.append(f"n = {count_label(metadata['dim'])}")
    if metadata.get("surface"):
        parts.append(f"surface {metadata['surface']}")
    parts.append(point_label(metadata))
    return [part for part in parts if part]


def point_label(metadata: Mapping[str, Any]) -> str:
    """Return where a record was evaluated if not at the checkpoint itself; see `point_words`."""
    return point_words(section(metadata, "point"))


def point_words(point: Mapping[str, Any]) -> str:
    """Return "0.4 to the grid (scales frozen), noise 0.001, penalty γ = 0.1", or less.

    Args:
        point: Section `point` of a record, or a row with its keys.
    """
    f, noise, gamma = (point.get(k) for k in ("toward_grid", "noisy_weights", "proximal"))
    anew = point.get("rederived_scales")
    scales = "derived anew" if known(anew) and anew else "frozen"
    words = [
        f"{f:g} to the grid (scales {scales})" if known(f) else "",
        f"noise {noise:g}" if known(noise) else "",
        f"penalty γ = {gamma:g}" if known(gamma) else "",
    ]
    return ", ".join(word for word in words if word)


def masked_share(metadata: Mapping[str, Any]) -> float:
    """Return the share of coordinates that a clip mask makes exact zeros.

    A proximal penalty moves them to γ; there are none then.
    """
    share = metadata.get("masked_fraction")
    shifted = known(section(metadata, "point").get("proximal"))
    return float(share) if known(share) and not shifted else 0.0


def drawn(text: Any, longest: int = 96) -> str:
    """Return text as it may stand in a figure: short, and no formula whatever it holds."""
    return printable(str(text), longest=longest).replace("$", r"\$")


def known(value: Any) -> TypeGuard[Any]:
    """Whether a value is there: neither None nor NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))
