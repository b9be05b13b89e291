"""What can be wrong with a study, found before its first job and before anything is written.

Hours into a study a typo in the flags of its last job would be found too late, and the directory
would be taken by a study that nobody wants. So each distinct job is checked as far as its verb
would check it before the first step, and model and data are opened once.
"""

from __future__ import annotations

from types import SimpleNamespace

from spectra.checkpoint.qat import Asked
from spectra.curvature.surface import SURFACES
from spectra.errors import UsageError, nearest
from spectra.estimation import pipeline
from spectra.estimation.request import resolve
from spectra.study.jobs import EstimateJob, Job, TrainJob
from spectra.study.plan import Study
from spectra.train.assembly import load_model, read_data
from spectra.train.recipes.choose import build_recipe


def check_jobs(asked: Study, todo: list[Job]) -> None:
    """Raise if a job of a study could not begin.

    Raises:
        SpectraError: What is wrong, in one sentence.
    """
    for surface in (*asked.series_surfaces, *asked.surfaces):
        if surface not in SURFACES:
            raise UsageError(
                f"surfaces={surface!r} is not one of {', '.join(SURFACES)}"
                f"{nearest(surface, SURFACES)}"
            )
    for bits in asked.bits:
        Asked(asked.quantizer, bits, asked.a_bits)  # refuses what no quantizer has
    trained = [job for job in todo if isinstance(job, TrainJob)]
    for job in trained:
        build_recipe(job.request).plan(asked.max_steps)
    looked_at = [job for job in todo if isinstance(job, EstimateJob)]
    for one in looked_at:
        pipeline.check(resolve(one.request))
    if trained:
        _open(asked, trained[0], looked_at[:1])


def _open(asked: Study, first: TrainJob, looked_at: list[EstimateJob]) -> None:
    checkpoint = load_model(first.request)
    sizes = SimpleNamespace(
        max_steps=1, train_batch_size=asked.batch_size, gradient_accumulation_steps=1, world_size=1
    )
    read_data(first.request, checkpoint, sizes)
    for one in looked_at:
        pipeline.read_data(resolve(one.request), checkpoint)
