"""Directories written by the public code of LLM-QAT (arXiv 2305.17888).

Plain weights, and in config.json the widths `w_bits`, `a_bits` and, set as an attribute of its own,
`kv_bits`; no scale is stored, since each is a row's maximum, derived in every forward. Its
quantizer is `llm-qat`, which adds 1e-6 to the maximum and stops gradients of weights from ±2 on;
`rtn` is the same grid without either. Weights of the teacher, `teacher…`, which saving drops, are
not used where they were kept.

ParetoQ's directories look alike when their scales are lost, but for `kv_bits`: with it, no scales
and no `w_bits` of none, LLM-QAT is recognised; without it, --quantizer decides.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from spectra.checkpoint.locate import Location
from spectra.checkpoint.plan import Plan
from spectra.checkpoint.qat import Asked, Qat
from spectra.quant import QuantSpec, quantizer_names

NAME = "llm-qat"
KEY = "kv_bits"
TEACHER = "teacher"


def quantizer() -> str:
    """Return the quantizer that reads it."""
    return NAME if NAME in quantizer_names() else "rtn"


def recognised(config: dict[str, Any], asked: Asked) -> bool:
    """Whether config.json tells by itself, without scales, and nobody says otherwise."""
    return asked.quantizer is None and not asked.initialize_scales and config.get(KEY) is not None


def plan(location: Location, names: Collection[str] | None, spec: QuantSpec, why: str) -> Plan:
    """Return how it is read, with the widths it states, which its code applies."""
    notes: tuple[str, ...] = ()
    if spec.quantizer != NAME:
        notes += (
            "its config.json is read as LLM-QAT's, which also adds 1e-6 to each row's maximum and "
            "stops gradients of weights beyond ±2; neither is done here",
        )
    teacher = tuple(sorted(n for n in names or () if n.startswith(TEACHER)))
    if teacher:
        notes += (f"{len(teacher)} stored tensors of the teacher are not used",)
    qat = Qat(spec=spec, source="llm-qat", scales=None, method="llm-qat", step=location.step)
    return Plan(qat=qat, ignored=teacher, notes=notes, why=f"LLM-QAT's config.json: {why}")
