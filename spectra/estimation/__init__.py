"""The conductor: plan, probes, record, resume."""

from spectra.estimation.engine import slq
from spectra.estimation.pipeline import Request, estimate
from spectra.estimation.settings import SLQSettings

__all__ = ["Request", "SLQSettings", "estimate", "slq"]
