"""The end of an estimate: what is derived from all its probes, and what is doubtful about them."""

from __future__ import annotations

import warnings

from spectra.errors import NumericalWarning
from spectra.estimation.reference import reference_numbers
from spectra.estimation.settings import DTYPES
from spectra.estimation.store import ProbeStore
from spectra.linalg import BasisPolicy
from spectra.quadrature import summarize
from spectra.record import Spectrum, probe_dim
from spectra.record.doubts import ASYMMETRY, BREAKDOWN, ORTHOGONALITY, doubts


def finish(store: ProbeStore) -> None:
    """Fill in the summary from the probes that have run."""
    _add_basis_rounding(store)
    spectrum = store.snapshot()
    store.metadata["summary"] = summarize(spectrum.measure)
    _doubt(store, spectrum)
    if store.metadata["estimator"]["protocol"] == "winq":
        store.metadata["reference"] = reference_numbers(spectrum)


def _doubt(store: ProbeStore, spectrum: Spectrum) -> None:
    """Note what the numbers give reason to doubt, in place of what was noted before."""
    told = store.metadata["warnings"]
    before = list(told)
    told[:] = [w for w in told if not w.startswith((BREAKDOWN, ORTHOGONALITY, ASYMMETRY))]
    for message in doubts(spectrum):
        told.append(message)
        if message not in before:
            warnings.warn(message, NumericalWarning, stacklevel=4)


def _add_basis_rounding(store: ProbeStore) -> None:
    """Record what storing the basis in a lower precision adds to the product error."""
    estimator = store.metadata["estimator"]
    dtype, stored = DTYPES[estimator["vector_dtype"]], DTYPES[estimator["basis_dtype"]]
    relative = BasisPolicy(estimator["basis"], stored).rounding(
        probe_dim(store.metadata), store.alphas.shape[2], dtype
    )
    ends = store.snapshot().measure.span
    store.metadata["checks"]["basis_rounding"] = relative * max(abs(end) for end in ends)
