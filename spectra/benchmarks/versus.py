"""Side by side with other tools: time of a product and of a 60-step density."""

from __future__ import annotations

import copy
import statistics
from typing import Any

import torch

from spectra.benchmarks.peers import TOOLS, Tool
from spectra.benchmarks.subject import Subject
from spectra.benchmarks.timing import Work, in_turns, ratio

STEPS = 60


def measure(subject: Subject, rounds: int, *, density: bool) -> list[dict[str, Any]]:
    """Return a row a tool; ratios are over this package's time in the same round."""
    rows, tools = [], {}
    for name in TOOLS:
        tool, reason = _build(name, subject)
        if tool is None:
            rows.append({"tool": name, "failed": reason})
        else:
            tools[name] = tool
    v = torch.randn(tools["spectra"].dim, device=subject.device)
    v /= v.norm()
    products: dict[str, Work] = {n: (lambda t=t: t.product(v)) for n, t in tools.items()}  # type: ignore[misc]
    times = in_turns(products, rounds, subject.device)
    found = {name: _row(name, times, "product") for name in tools}
    if density:
        densities: dict[str, Work] = {}
        for name, tool in tools.items():
            try:
                tool.density(2)
            except Exception as error:
                found[name]["density_failed"] = _first_line(error)
            else:
                densities[name] = lambda tool=tool: tool.density(STEPS)  # type: ignore[misc]
        times = in_turns(densities, max(1, rounds // 4), subject.device)
        for name in densities:
            found[name] |= _row(name, times, "density")
    return [*found.values(), *rows]


def _build(name: str, subject: Subject) -> tuple[Tool | None, str]:
    if name == "reference procedure":  # it turns the model to bfloat16
        subject = Subject(subject.name, copy.deepcopy(subject.model), subject.batches)
    try:
        tool = TOOLS[name](subject)
        v = torch.randn(tool.dim, device=subject.device)
        tool.product(v / v.norm())
    except Exception as error:  # whatever a foreign tool raises is the result
        return None, _first_line(error)
    return tool, ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def _row(name: str, times: dict[str, list[float]], what: str) -> dict[str, Any]:
    return {
        "tool": name,
        f"{what}_seconds": statistics.median(times[name]),
        f"{what}_over_spectra": ratio(times, name, "spectra"),
    }
