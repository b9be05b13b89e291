"""A whole study as one resumable list of jobs: train every method, estimate every checkpoint."""

from spectra.study.conductor import Outcome, conduct
from spectra.study.jobs import EstimateJob, TrainJob, jobs
from spectra.study.place import load_study, open_study
from spectra.study.plan import PRESETS, Study, study

__all__ = [
    "PRESETS",
    "EstimateJob",
    "Outcome",
    "Study",
    "TrainJob",
    "conduct",
    "jobs",
    "load_study",
    "open_study",
    "study",
]
