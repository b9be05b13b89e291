"""How the time of a product and of a density grows: tokens, parameters, steps, probes."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from spectra import curvature
from spectra.benchmarks.subject import Subject, load
from spectra.benchmarks.timing import in_turns, once
from spectra.estimation import slq


def measure(model: str, shapes: list[str], rounds: int) -> list[dict[str, Any]]:
    """Return rows (what grows, its value, seconds)."""
    rows = []
    for tokens in (64, 128, 256, 512):
        subject = load(model, seq_len=tokens, batch_size=1)
        rows.append(_row("tokens", tokens, _product(subject, rounds)))
    for name in (model, *shapes):
        subject = load(name, seq_len=128, batch_size=1)
        H = curvature.hessian(subject.model, list(subject.batches))
        rows.append(_row("parameters", H.dim, _product(subject, rounds)))
    subject = load(model, seq_len=128, batch_size=1)
    H = curvature.hessian(subject.model, list(subject.batches))
    rows += [_row("steps", steps, _density(H, 1, steps)) for steps in (20, 40, 80, 160)]
    return rows + [_row("probes", probes, _density(H, probes, 20)) for probes in (1, 2, 4)]


def _row(what: str, value: int, seconds: float) -> dict[str, Any]:
    return {"grows": what, "value": value, "seconds": seconds}


def _product(subject: Subject, rounds: int) -> float:
    H = curvature.hessian(subject.model, [subject.batches[0]], graph="keep")
    v = torch.randn(H.dim, device=subject.device)
    v /= v.norm()
    times = in_turns({"product": lambda: H.matvec(v)}, rounds, subject.device)
    return statistics.median(times["product"])


def _density(H: Any, probes: int, steps: int) -> float:
    def work() -> None:
        slq(H, num_probes=probes, lanczos_steps=steps, check=False, progress=False)

    return once(work, H.device)
