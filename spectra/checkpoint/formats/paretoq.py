"""Directories written by the public code of ParetoQ and of WinQ.

ParetoQ (arXiv 2502.02631) and WinQ (2605.17471) share one format: latent weights under the plain
names, beside them `weight_clip_val` (out, 1), the learned scale a of each output row, and in
config.json the width `w_bits`, where 0 means ternary and 32, the default, no quantization. WinQ's
configuration has noise settings too. Several widths in one file are
`weight_clip_val_list.<bits>`. A width without scales may be LLM-QAT's, see llm_qat.py.

The public ParetoQ and WinQ models parse `a_bits` and have no activation quantizer, so it is applied
only when asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from spectra.checkpoint.formats import llm_qat
from spectra.checkpoint.locate import Location
from spectra.checkpoint.plan import NOT_HERE, Plan, scales_of
from spectra.checkpoint.qat import Asked, Qat
from spectra.errors import CheckpointError, UsageError
from spectra.quant import QuantSpec, get_quantizer
from spectra.quant.quantizer import FULL_BITS, TERNARY

CLIP = re.compile(r"(?P<layer>.+)\.weight_clip_val(?:_list\.(?P<bits>\d+))?")
# Prefixes of the keys that only WinQ's configuration has.
NOISE_KEYS = (
    "noise_",
    "initialize_noise",
    "pre_quantization_noise",
    "post_quantization_noise",
    "trainable_noise_scale",
)
QUANTIZER = "paretoq"


def plan(
    location: Location, names: Collection[str] | None, config: dict[str, Any], asked: Asked
) -> Plan | None:
    """Return what config.json and the stored names say; None for a float checkpoint.

    Args:
        location: The checkpoint.
        names: Names of the stored tensors; None where the weights are not on this machine.
        config: Content of config.json.
        asked: What the caller says.

    Raises:
        UsageError: If the caller asks for another quantization than the stored one.
        CheckpointError: If the quantization is incomplete; the sentence says what to pass.
    """
    stated = _width(location, config, "w_bits")
    clips = _clips(names or ())
    if clips:
        return _with_clips(location, config, stated, clips, asked)
    if stated is None or stated == FULL_BITS:
        _refuse_undecided_activations(location, config, asked)
        return None
    _refuse_other(location, config, asked, "w_bits")
    if llm_qat.recognised(config, asked):
        return _llm_qat(location, names, config, stated, asked)
    defined = asked.quantizer or stated in get_quantizer(QUANTIZER).supported_bits
    if names is None and defined:
        spec = _checked(location, asked, quantizer=QUANTIZER, w_bits=stated)
        return _plan(location, config, spec, stored=True, notes=(NOT_HERE,))
    learns = asked.quantizer is None or get_quantizer(asked.quantizer).learns_scale
    if learns and not asked.initialize_scales:
        raise CheckpointError(
            f"ckpt={location.name!r} has w_bits={config['w_bits']} in its config.json and stores "
            "no weight_clip_val, so the scales it was trained with are unknown; get the complete "
            f"directory, pass --quantizer {llm_qat.quantizer()} if LLM-QAT made it (its scales are "
            "the rows' maxima), or pass --initialize_scales to derive scales from the latent "
            "weights."
        )
    if not learns:
        return _llm_qat(location, names, config, stated, asked)
    spec = _checked(location, asked, quantizer=QUANTIZER, w_bits=stated)
    return _plan(location, config, spec, stored=False, notes=_activations(config, asked))


def _clips(names: Collection[str]) -> dict[float | None, dict[str, str]]:
    """Return width -> layer -> name of its clip values; width None where there is only one."""
    found: dict[float | None, dict[str, str]] = {}
    for name in names:
        if match := CLIP.fullmatch(name):
            bits = None if match["bits"] is None else _meant(int(match["bits"]))
            found.setdefault(bits, {})[match["layer"]] = name
    return found


def _with_clips(
    location: Location,
    config: dict[str, Any],
    stated: float | None,
    clips: dict[float | None, dict[str, str]],
    asked: Asked,
) -> Plan:
    if asked.quantizer not in (None, QUANTIZER):
        raise UsageError(
            f"ckpt={location.name!r} is quantized differently from what is asked: it stores "
            f"weight_clip_val, the scales of {QUANTIZER}, not of {asked.quantizer}; leave "
            "--quantizer out."
        )
    several = sorted(bits for bits in clips if bits is not None)
    if several:
        bits = _one_of_several(location, several, asked)
    else:
        bits = _one_width(location, config, stated, asked)
    spec = _checked(location, asked, quantizer=QUANTIZER, w_bits=bits)
    stored = clips.get(bits if several else None, {}) if bits != FULL_BITS else {}
    kept = set(stored.values())
    ignored = sorted(n for layers in clips.values() for n in layers.values() if n not in kept)
    notes = list(_activations(config, asked))
    if ignored:
        notes.append(f"{len(ignored)} stored weight_clip_val tensors are not used")
    if stated != bits and not several:
        notes.append(f"w_bits={bits:g} is what was asked for; its config.json does not say it")
    return _plan(
        location,
        config,
        spec,
        stored=True,
        scales=stored,
        ignored=tuple(ignored),
        notes=tuple(notes),
    )


def _one_width(
    location: Location, config: dict[str, Any], stated: float | None, asked: Asked
) -> float:
    if stated is not None and stated != FULL_BITS:
        _refuse_other(location, config, asked, "w_bits")
        return stated
    if asked.w_bits is not None:
        return asked.w_bits
    known = ", ".join(f"{bits:g}" for bits in get_quantizer(QUANTIZER).supported_bits)
    says = "no w_bits" if stated is None else f"w_bits={config['w_bits']}"
    raise CheckpointError(
        f"ckpt={location.name!r} stores weight_clip_val, but its config.json has {says}, which the "
        f"public code takes for no quantization; pass --w_bits with the width it was trained at "
        f"({known}), or {FULL_BITS} to run its latent weights in full precision."
    )


def _one_of_several(location: Location, several: list[float], asked: Asked) -> float:
    if asked.w_bits is not None and asked.w_bits in (*several, FULL_BITS):
        return asked.w_bits
    known = ", ".join(f"{bits:g}" for bits in several)
    but = "" if asked.w_bits is None else f", and not for {asked.w_bits:g}"
    raise (CheckpointError if asked.w_bits is None else UsageError)(
        f"ckpt={location.name!r} stores clip values for the widths {known}{but}; pass --w_bits "
        "with one of them."
    )


def _llm_qat(
    location: Location,
    names: Collection[str] | None,
    config: dict[str, Any],
    bits: float,
    asked: Asked,
) -> Plan:
    # LLM-QAT applies the widths it states, unlike the two others.
    widths = {key: _width(location, config, key) for key in ("a_bits", "kv_bits")}
    stated = {key: bits for key, bits in widths.items() if bits is not None}
    for key in stated:
        _refuse_other(location, config, asked, key)
    chosen = _checked(location, asked, quantizer=llm_qat.quantizer(), w_bits=bits, **stated)
    why = "--quantizer, no scales" if asked.quantizer else f"{llm_qat.KEY}, and no scales"
    return llm_qat.plan(location, names, chosen, why)


def _plan(
    location: Location,
    config: dict[str, Any],
    spec: QuantSpec,
    *,
    stored: bool,
    scales: dict[str, str] | None = None,
    ignored: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Plan:
    noise = {key: value for key, value in config.items() if key.startswith(NOISE_KEYS)}
    method: str | None = "baseline"
    if noise:
        method = "winq" if noise.get("noise_injection") else None
        what = "" if method else " and its noise is off, so it may be WinQ or a baseline"
        notes += (f"WinQ's code wrote it, which does not store how it reset the weights{what}",)
    return Plan(
        qat=Qat(
            spec=spec,
            source="winq" if noise else "paretoq",
            scales=scales_of(spec, stored=stored),
            method=method,
            step=location.step,
            recipe=noise,
        ),
        stored=scales or {},
        why=_why(noise, scales),
        ignored=ignored,
        notes=notes,
    )


def _why(noise: dict[str, Any], scales: dict[str, str] | None) -> str:
    what = "weight_clip_val tensors" if scales else "w_bits in its config.json"
    return f"{what} and WinQ's noise settings" if noise else what


def _checked(location: Location, asked: Asked, **found: Any) -> QuantSpec:
    try:
        return asked.spec(**found)
    except UsageError as error:
        raise CheckpointError(f"ckpt={location.name!r}: {error}") from None


def _refuse_other(location: Location, config: dict[str, Any], asked: Asked, key: str) -> None:
    wanted = getattr(asked, key)
    if wanted in (None, _width(location, config, key)):
        return
    raise UsageError(
        f"ckpt={location.name!r} is quantized differently from what is asked: its config.json has "
        f"{key}={config[key]}, not {wanted:g}; leave --{key} out."
    )


def _activations(config: dict[str, Any], asked: Asked) -> tuple[str, ...]:
    notes = []
    for key in ("a_bits", "kv_bits"):
        bits = config.get(key)
        if isinstance(bits, int | float) and bits < FULL_BITS and getattr(asked, key) is None:
            notes.append(
                f"{key}={bits} of its config.json is not applied: the public WinQ and ParetoQ code "
                f"ignores it (--{key} {bits} would apply it)"
            )
    return tuple(notes)


def _refuse_undecided_activations(location: Location, config: dict[str, Any], asked: Asked) -> None:
    for key in ("a_bits", "kv_bits"):
        bits = _width(location, config, key)
        if bits is None or bits == FULL_BITS or getattr(asked, key) is not None:
            continue
        raise CheckpointError(
            f"ckpt={location.name!r} has {key}={config[key]} in its config.json beside weights in "
            "full precision, which LLM-QAT applies and the public WinQ and ParetoQ code ignores; "
            f"pass --w_bits {FULL_BITS} --{key} {bits:g} to apply it, or --w_bits {FULL_BITS} "
            f"--{key} {FULL_BITS} to leave it out."
        )


def _width(location: Location, config: dict[str, Any], key: str) -> float | None:
    bits = config.get(key)
    if bits is None:
        return None
    if isinstance(bits, bool) or not isinstance(bits, int | float) or not bits >= 0:
        raise CheckpointError(
            f"ckpt={location.name!r} has {key}={bits!r} in its config.json, which is no width; "
            "correct it."
        )
    return min(_meant(bits) if key == "w_bits" else bits, FULL_BITS)


def _meant(bits: float) -> float:
    """Return the width that the public code means: its 0 is ternary."""
    return TERNARY if bits == 0 else bits
