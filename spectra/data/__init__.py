"""Text on disk, a hub dataset, or the built-in corpus -> fixed blocks of tokens -> batches."""

from spectra.data.blocks import Batch, TokenBatches, token_batches

__all__ = ["Batch", "TokenBatches", "token_batches"]
