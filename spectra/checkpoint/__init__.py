"""Hub id | directory | GGUF file | the built-in model -> Checkpoint(model, tokenizer, qat, meta).

Three public calls: `load_checkpoint` loads and verifies, `describe` says what a checkpoint is
without reading its weights, `series` lists the `checkpoint-*` directories of a training run.
"""

from spectra.checkpoint.describe import Description, describe
from spectra.checkpoint.load import load_checkpoint
from spectra.checkpoint.meta import Checkpoint, CheckpointMeta
from spectra.checkpoint.qat import Qat
from spectra.checkpoint.series import series

__all__ = [
    "Checkpoint",
    "CheckpointMeta",
    "Description",
    "Qat",
    "describe",
    "load_checkpoint",
    "series",
]
