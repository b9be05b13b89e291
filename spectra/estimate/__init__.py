"""The conductor: plan, probes, record, resume."""

from spectra.estimate.engine import slq
from spectra.estimate.pipeline import Request, estimate
from spectra.estimate.settings import SLQSettings

__all__ = ["Request", "SLQSettings", "estimate", "slq"]
