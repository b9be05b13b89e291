"""Krylov methods for symmetric operators; this room has never heard of a language model."""

from spectra.linalg.basis import BasisPolicy
from spectra.linalg.eigs import Eigenpairs, eigenpairs
from spectra.linalg.lanczos import Lanczos
from spectra.linalg.operator import SymmetricOperator
from spectra.linalg.probes import ProbeKind, probe
from spectra.linalg.sliced import SlicedOperator, SlicedSpace
from spectra.linalg.space import DenseSpace, VectorSpace
from spectra.linalg.trace import trace

__all__ = [
    "BasisPolicy",
    "DenseSpace",
    "Eigenpairs",
    "Lanczos",
    "ProbeKind",
    "SlicedOperator",
    "SlicedSpace",
    "SymmetricOperator",
    "VectorSpace",
    "eigenpairs",
    "probe",
    "trace",
]
