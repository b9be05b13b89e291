"""The published settings of WinQ and of its baseline, and the defaults of `spectra train`.

Ten settings are known: LLaMA 1B at 1, 1.58, 2, 3, 4 bits with 16-bit activations and at 1, 1.58, 2
bits with 8-bit ones, and 3B at 1 and 1.58 bits with 8-bit ones. Learning rates, steps, warm-up,
batch and noise are those of the public job scripts; the interval of the resets is the one at which
the published curves drop (80K of 240K at 1.58 and 2 bits, 60K at 1 bit and at 2 bits with 8-bit
activations, 40K of 80K at 3 and 4 bits). The reset fraction is 0.4, the best of the paper's
ablation; the public scripts' alpha of 0.2 means 0.8, which that ablation ranks behind.

The Trainer's own defaults (5e-5, linear) are not those of the paper: the schedule, its warm-up, the
decay and the gradient clipping are set here in every case.
"""

from __future__ import annotations

from typing import Any

from spectra.errors import UsageError, nearest

DEFAULTS: dict[str, Any] = {
    "do_train": True,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "num_train_epochs": 1.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "logging_steps": 10,
    "save_strategy": "steps",
    "save_steps": 0.25,
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "seed": 0,
}

_SETTINGS = [
    # size, w_bits, a_bits, reset_every
    ("1b", 1, 16, 60_000),
    ("1b", 1.58, 16, 80_000),
    ("1b", 2, 16, 80_000),
    ("1b", 3, 16, 40_000),
    ("1b", 4, 16, 40_000),
    ("1b", 1, 8, 60_000),
    ("1b", 1.58, 8, 80_000),
    ("1b", 2, 8, 60_000),
    ("3b", 1, 8, 60_000),
    ("3b", 1.58, 8, 80_000),
]
_LONG, _SHORT = 240_000, 80_000
_MANY_BITS = 3
DEFAULT_A_BITS = 16
BASELINE = "-baseline"


def _preset(w_bits: float, a_bits: int, reset_every: int) -> dict[str, Any]:
    short = w_bits >= _MANY_BITS and a_bits == DEFAULT_A_BITS
    rate = 1e-5 if w_bits >= _MANY_BITS else 2e-5
    return {
        "quantizer": "paretoq",
        "w_bits": w_bits,
        "a_bits": a_bits,
        "recipe": "winq",
        "reset_every": reset_every,
        "reset_fraction": 0.4,
        "noise_std": 1e-3,
        "seq_len": 2048,
        "max_steps": _SHORT if short else _LONG,
        "learning_rate": rate if a_bits == DEFAULT_A_BITS else 4e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1000,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": 8,
    }


PRESETS = {f"llama-{z}-w{w:g}a{a}": _preset(w, a, k) for z, w, a, k in _SETTINGS}


def preset(name: str) -> dict[str, Any]:
    """Return the flags of a published setting, or of its baseline.

    Raises:
        UsageError: If it is not known.
    """
    base = name.removesuffix(BASELINE)
    if base not in PRESETS:
        raise UsageError(
            f"preset={name!r} is not known{nearest(base, PRESETS)} (presets: "
            f"{', '.join(PRESETS)}, each also with {BASELINE})."
        )
    flags = dict(PRESETS[base])
    if name.endswith(BASELINE):
        for key in ("reset_every", "reset_fraction", "noise_std"):
            del flags[key]
        flags["recipe"] = "baseline"
    return flags
