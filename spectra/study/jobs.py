"""A study as the list of its jobs, in an order in which every estimate finds its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spectra.estimation import Request
from spectra.study.cells import cell
from spectra.study.plan import Study, method_settings
from spectra.train import TrainRequest

RUNS, SPECTRA = "runs", "spectra"


@dataclass(frozen=True)
class TrainJob:
    """One training run.

    Attributes:
        name: What it is called, and its directory below `runs`.
        request: What it is.
        seed: Its seed.
        learning_rate: Its peak learning rate.
        schedule: How that changes.
    """

    name: str
    request: TrainRequest
    seed: int
    learning_rate: float
    schedule: str


@dataclass(frozen=True)
class EstimateJob:
    """One record.

    Attributes:
        name: What it is called, and its directory below `spectra`.
        run: Name of the training run whose checkpoint it is of.
        request: What it is.
    """

    name: str
    run: str
    request: Request


Job = TrainJob | EstimateJob


def jobs(asked: Study, root: Path) -> list[Job]:
    """Return the jobs of a study whose results go below `root`.

    Width by width and seed by seed, so that an interrupted study has whole comparisons.
    """
    found: list[Job] = []
    for seed in asked.seeds:
        for bits in asked.bits:
            for method in asked.methods:
                found.append(_train(asked, root, bits, method, seed))
                if method in asked.spectra_methods and seed in asked.seeds[: asked.spectra_seeds]:
                    first = (seed, method) == (asked.seeds[0], _first(asked))
                    begin = first or asked.initial == "each"
                    found += _series(asked, root, bits, method, seed, begin=begin)
                    if method == "baseline":
                        found += _interpolation(asked, root, bits, seed)
    return found


def _first(asked: Study) -> str:
    """Return the first method that has spectra."""
    return next(method for method in asked.methods if method in asked.spectra_methods)


def run_name(bits: float, method: str, seed: int) -> str:
    """Return what a run is called."""
    return f"w{bits:g}-{method}-seed{seed}"


def _train(asked: Study, root: Path, bits: float, method: str, seed: int) -> TrainJob:
    name = run_name(bits, method, seed)
    request = TrainRequest(
        model=asked.model,
        data=asked.data,
        eval_data=asked.eval_data,
        output=str(root / RUNS / name),
        quantizer=asked.quantizer,
        w_bits=bits,
        a_bits=asked.a_bits,
        seq_len=asked.seq_len,
        eval_blocks=asked.eval_blocks,
        resume=True,
        **method_settings(method, asked),
    )
    found = cell(method)
    rate = found.learning_rate or asked.learning_rate
    return TrainJob(name, request, seed, rate, found.schedule or asked.lr_scheduler_type)


def _series(
    asked: Study, root: Path, bits: float, method: str, seed: int, *, begin: bool
) -> list[EstimateJob]:
    """Return the records of a run's checkpoints, step 0 included if `begin`."""
    run = run_name(bits, method, seed)
    found = []
    for step in asked.spectra_steps or asked.every_step:
        if step == 0 and not begin:
            continue
        for surface in asked.series_surfaces:
            name = f"{run}/step-{step}" + ("" if surface == "ste" else f"-{surface}")
            request = _request(asked, root, run, step, name, surface=surface)
            found.append(EstimateJob(name, run, request))
    return found


def _interpolation(asked: Study, root: Path, bits: float, seed: int) -> list[EstimateJob]:
    """Return the last baseline checkpoint moved toward the grid: the paper's interpolation."""
    run = run_name(bits, "baseline", seed)
    found = []
    for surface in asked.surfaces:
        for fraction in asked.fractions:
            if surface in asked.series_surfaces and fraction == 0:
                continue  # the last checkpoint of the series
            name = f"{run}/{surface}-toward-{fraction:g}"
            request = _request(
                asked, root, run, asked.max_steps, name, surface=surface, toward_grid=fraction
            )
            found.append(EstimateJob(name, run, request))
    return found


def _request(
    asked: Study,
    root: Path,
    run: str,
    step: int,
    name: str,
    *,
    surface: str | None = None,
    toward_grid: float | None = None,
) -> Request:
    text = asked.eval_data or ("stdlib" if asked.data.startswith("stdlib") else asked.data)
    return Request(
        ckpt=str(root / RUNS / run / f"checkpoint-{step}"),
        data=text,
        output=str(root / SPECTRA / name),
        surface=surface,
        toward_grid=toward_grid,
        seq_len=asked.spectrum_seq_len,
        num_batches=asked.num_batches,
        lanczos_steps=asked.lanczos_steps,
        resume=True,
    )
