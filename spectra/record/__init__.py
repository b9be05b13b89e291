"""One run's spectrum as arrays and metadata, in memory and on disk (numpy and scipy only)."""

from spectra.record.atomic import write_atomically
from spectra.record.files import exists, load, save, save_arrays
from spectra.record.lock import holding, tidy
from spectra.record.spectrum import SCHEMA, Spectrum, probe_dim

__all__ = [
    "SCHEMA",
    "Spectrum",
    "exists",
    "holding",
    "load",
    "probe_dim",
    "save",
    "save_arrays",
    "tidy",
    "write_atomically",
]
