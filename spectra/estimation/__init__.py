"""The conductor: plan, probes, record, resume."""

from spectra.estimation.engine import slq
from spectra.estimation.pipeline import estimate
from spectra.estimation.request import Request
from spectra.estimation.settings import SLQSettings

__all__ = ["Request", "SLQSettings", "estimate", "slq"]
