"""Run the jobs of a study, skip what is done, go on where one was interrupted, say what is left.

A job is done when what it makes is whole on disk, so a study killed at any moment goes on by the
same command. A job that fails does not stop those that do not depend on it.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra import record
from spectra.errors import SpectraError
from spectra.estimation import estimate
from spectra.study.jobs import EstimateJob, Job, TrainJob, jobs
from spectra.study.place import check_place, open_study
from spectra.study.plan import Study
from spectra.study.preflight import check_jobs
from spectra.train import DEFAULTS, train
from spectra.train.saving import SUMMARY

log = logging.getLogger(__name__)
Say = Callable[[str], None]


@dataclass
class Outcome:
    """What became of a study.

    Attributes:
        done: Names of the jobs that are done.
        failed: Name of each job that failed, and why.
        without: Number of records that could not be made of each run that failed.
        seconds: Wall time of the jobs that were run now, by kind.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    without: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"train": [], "estimate": []})


def conduct(asked: Study, root: Path, *, say: Say = log.info, progress: bool = True) -> Outcome:
    """Run every job of a study that is not done.

    Args:
        asked: The study.
        root: Directory of its results.
        say: Called with one line before each job.
        progress: Whether jobs show progress bars.

    Raises:
        UsageError: If another study is in the directory.
        SpectraError: If a job could not begin; nothing is written then.
    """
    with record.holding(root):
        return _conduct(asked, root, say, progress)


def _conduct(asked: Study, root: Path, say: Say, progress: bool) -> Outcome:
    todo = jobs(asked, root)
    check_place(root, asked)
    check_jobs(asked, [job for job in todo if not is_done(job)])
    open_study(root, asked)
    outcome = Outcome()
    for number, job in enumerate(todo, start=1):
        if is_done(job):
            record.tidy(_place(job))  # it may have been killed after its last file
            outcome.done.append(job.name)
            continue
        if isinstance(job, EstimateJob) and job.run in outcome.failed:
            outcome.without[job.run] = outcome.without.get(job.run, 0) + 1
            continue
        rest = _time_left(todo[number - 1 :], outcome)
        say(f"[{number}/{len(todo)}] {kind(job)} {job.name}{rest}")
        started = time.monotonic()
        try:
            _run(job, asked, progress=progress)
        except SpectraError as error:
            outcome.failed[job.name] = str(error)
            say(f"{job.name} failed: {error}")
            continue
        outcome.seconds[kind(job)].append(time.monotonic() - started)
        outcome.done.append(job.name)
        gc.collect()
    return outcome


def kind(job: Job) -> str:
    """Return "train" or "estimate"."""
    return "train" if isinstance(job, TrainJob) else "estimate"


def is_done(job: Job) -> bool:
    """Return whether what a job makes is whole on disk."""
    place = _place(job)
    if isinstance(job, TrainJob):
        return (place / SUMMARY).exists()
    if not record.exists(place):
        return False
    try:
        found = record.load(place)
        return found.complete and bool(found.metadata.get("summary"))  # it is written last
    except SpectraError:
        return False


def _place(job: Job) -> Path:
    return Path(str(job.request.output))


def _run(job: Job, asked: Study, *, progress: bool) -> None:
    if isinstance(job, EstimateJob):
        estimate(job.request, progress=progress)
    else:
        train(job.request, training_arguments(job, asked, progress=progress))


def training_arguments(job: TrainJob, asked: Study, *, progress: bool) -> Any:
    """Return the arguments of the Trainer for a job."""
    import torch
    from transformers import TrainingArguments

    cuda = torch.cuda.is_available()
    chosen: dict[str, Any] = DEFAULTS | {
        "output_dir": job.request.output,
        "max_steps": asked.max_steps,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": job.schedule,
        "per_device_train_batch_size": asked.batch_size,
        "save_steps": asked.interval,
        "eval_steps": max(1, asked.max_steps // 16),
        "logging_steps": max(1, asked.max_steps // 48),
        "seed": job.seed,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "dataloader_pin_memory": cuda,
        "disable_tqdm": not progress,
        "report_to": "none",
    }
    return TrainingArguments(**chosen)


def _time_left(rest: list[Job], outcome: Outcome) -> str:
    """Return ", about 4 min left", or nothing while a kind of job has no timing."""
    seconds = 0.0
    for name, known in outcome.seconds.items():
        count = sum(1 for job in rest if kind(job) == name and not is_done(job))
        if count and not known:
            return ""
        seconds += count * (sum(known) / len(known) if known else 0.0)
    return (
        f", about {seconds / 60:.0f} min left" if seconds >= 60 else f", about {seconds:.0f} s left"
    )
