"""Hessian spectra of language models and quantized checkpoints, with an error on every number.

Names load on first use (PEP 562), so that `import spectra` and everything that only reads records
stays free of torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Estimate": "spectra.quadrature",
    "Spectrum": "spectra.record",
    "load": "spectra.record",
    "SymmetricOperator": "spectra.linalg",
    "Lanczos": "spectra.linalg",
    "BasisPolicy": "spectra.linalg",
    "trace": "spectra.linalg",
    "eigenpairs": "spectra.linalg",
    "load_checkpoint": "spectra.checkpoint",
    "token_batches": "spectra.data",
    "token_blocks": "spectra.data",
    "hessian": "spectra.curvature",
    "ggn": "spectra.curvature",
    "slq": "spectra.estimation",
    "exact": "spectra.estimation.engine",
    "estimate": "spectra.estimation",
    "SpectraError": "spectra.errors",
    "NumericalWarning": "spectra.errors",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spectra' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
