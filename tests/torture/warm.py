"""Everything heavy that a verb imports, imported before the first fork."""

from __future__ import annotations

import gc
import importlib
import os

MODULES = (
    "torch",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "accelerate",
    "analysis",
    "spectra.cli.main",
    "spectra.cli.resuming",
    "spectra.cli.estimate",
    "spectra.cli.train",
    "spectra.cli.reproduce",
    "spectra.study",
    "spectra.curvature",
    "tests.estimation.models",
)


def warm() -> None:
    """Import what the children need; no thread may run and nothing be differentiated here."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in MODULES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # what is imported is neither looked at nor copied by the collector of a child
