"""Text on disk, a hub dataset, or the built-in corpus -> fixed blocks of tokens -> batches."""

from spectra.data.blocks import Batch, TokenBatches, TokenBlocks, token_batches, token_blocks

__all__ = ["Batch", "TokenBatches", "TokenBlocks", "token_batches", "token_blocks"]
