"""Block-AP, the first phase of EfficientQAT (arXiv 2407.11062): `--recipe block-ap`.

Each transformer block in turn is trained, all its weights, steps and zero points, to give what the
float block gave, and is then fixed on its grid (`spectra.train.reconstruction`). It is a recipe of
`spectra train`, and no verb, because what goes in and comes out is the same: a model, text, a
quantizer, a run directory to be estimated or trained further. It is no callback, because there is
no loss of the whole model to step on: the run goes through blocks in the place of the Trainer.

    weights            --learning_rate (the paper's: 2e-5 at 2 bits, 1e-5 at 3 and 4)
    steps, zero points --quant_learning_rate, 1e-4
    blocks of text     --calibration_blocks, 4096 of 2048 tokens, --num_train_epochs 2, batches of 2
    schedule           cosine from each rate to a twentieth of it, AdamW, no weight decay
"""

from __future__ import annotations

import math
from typing import Any

from spectra.errors import UsageError
from spectra.train.recipes.recipe import Recipe

QUANT_RATE = 1e-4
CALIBRATION_BLOCKS = 4096


class BlockAP(Recipe):
    """Settings of the reconstruction, one block at a time.

    Attributes:
        quant_learning_rate: Of steps and zero points.
        calibration_blocks: Blocks of text at most.
    """

    name = "block-ap"

    def __init__(
        self, quant_learning_rate: float | None = None, calibration_blocks: int | None = None
    ) -> None:
        rate = QUANT_RATE if quant_learning_rate is None else quant_learning_rate
        blocks = CALIBRATION_BLOCKS if calibration_blocks is None else calibration_blocks
        if not (math.isfinite(rate) and rate >= 0):
            raise UsageError(f"quant_learning_rate={rate} is no learning rate; pass e.g. 1e-4.")
        if blocks < 1:
            raise UsageError(f"calibration_blocks={blocks} is too small; pass at least 1.")
        self.quant_learning_rate, self.calibration_blocks = rate, blocks

    def settings(self) -> dict[str, Any]:
        """Return what decides a run's numbers, as JSON values."""
        return {
            "quant_learning_rate": self.quant_learning_rate,
            "calibration_blocks": self.calibration_blocks,
        }
