"""Directories written by this package's training: spectra_quantization.json beside the weights.

The weight files hold latent weights under the names of the plain model, and beside the weight of a
quantized layer its learned `scale`, (out, 1) or (out, groups), and `zero` where there are zero
points. Stock loading reads the former and drops the latter.
Trained standard deviations of noise may be there too; noise acts in training only. Floating-point
quantizers store the histories their scales come from, `scaling.{weights,inputs,gradients}.amax`.
"""

from __future__ import annotations

from collections.abc import Collection

from spectra.checkpoint.locate import Location
from spectra.checkpoint.plan import NOT_HERE, Plan, in_words, learns_scale, scales_of
from spectra.checkpoint.qat import Asked, Qat
from spectra.errors import CheckpointError, UsageError
from spectra.quant.saved import FILE, SavedQuantization

SCALE, ZERO = ".scale", ".zero"
HISTORY = ".amax"
NOISE = (".weight_noise_std", ".scale_noise_std")


def plan(
    location: Location, names: Collection[str] | None, saved: SavedQuantization, asked: Asked
) -> Plan:
    """Return what the quantization file and the stored names say.

    Args:
        location: The checkpoint.
        names: Names of the stored tensors; None where the weights are not on this machine.
        saved: Content of the quantization file.
        asked: What the caller says.

    Raises:
        UsageError: If the caller asks for another quantization than the stored one.
        CheckpointError: If no scales are stored for a quantizer that learns them, and nobody said
            to derive them.
    """
    conflict = asked.conflict(saved.spec)
    if conflict:
        raise UsageError(
            f"ckpt={location.name!r} is quantized differently from what is asked: its {FILE} has "
            f"{conflict}; leave the flags out to load it as it is."
        )
    learns = learns_scale(saved.spec)
    delayed = bool(saved.spec.build().own_a_bits)
    stored = _beside(set(names or ()), SCALE) if learns else {}
    zeros = {}
    if learns and saved.spec.build().has_zero:
        zeros = {n: z for n, z in _beside(set(names or ()), ZERO).items() if n in stored}
    missing = learns and names is not None and not stored
    if missing and not asked.initialize_scales:
        raise CheckpointError(
            f"ckpt={location.name!r} stores none of the learned scales that its {FILE} "
            f"({in_words(saved.spec)}) speaks of; save it with its scale tensors, or pass "
            "--initialize_scales to derive scales from the latent weights."
        )
    noise = tuple(sorted(n for n in names or () if n.endswith(NOISE)))
    return Plan(
        qat=Qat(
            spec=saved.spec,
            source="spectra",
            scales=scales_of(saved.spec, stored=not missing),
            method=saved.method,
            step=location.step if saved.step is None else saved.step,
            resets=saved.resets,
            steps_since_reset=saved.steps_since_reset,
            recipe=saved.recipe,
        ),
        stored=stored,
        zeros=zeros,
        why=f"its {FILE}",
        ignored=noise,
        histories=tuple(sorted(n for n in names or () if delayed and n.endswith(HISTORY))),
        notes=_step(location, saved) + _noise(noise) + (NOT_HERE,) * (names is None and learns),
    )


def _beside(names: set[str], end: str) -> dict[str, str]:
    """Return layer -> name of its scale; a model may have a `scale` of its own without a weight."""
    layers = (name.removesuffix(end) for name in names if name.endswith(end))
    return {layer: layer + end for layer in layers if f"{layer}.weight" in names}


def _step(location: Location, saved: SavedQuantization) -> tuple[str, ...]:
    if location.step is None or saved.step in (None, location.step):
        return ()
    return (f"its {FILE} says step {saved.step}, not {location.step}",)


def _noise(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"{len(names)} trained standard deviations of noise are not used: no noise is added",)
