"""Where a record was made: versions, device, threads, the state of the source tree."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "numpy", "scipy", "safetensors")


def environment(device: torch.device, ranks: int = 1) -> dict[str, Any]:
    """Return the `environment` section of a record; `ranks` processes share the work."""
    import spectra

    versions = {"python": platform.python_version(), "spectra": spectra.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return {
        "versions": versions,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "ranks": ranks,
        "platform": platform.platform(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "git": _git_commit(),
    }


def device_name(device: torch.device) -> str:
    """Return e.g. "cpu (x86_64)" or "cuda (NVIDIA H200)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()})"


def _git_commit() -> str | None:
    """Return the commit of this package's source tree; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
