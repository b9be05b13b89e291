"""What runs leave on disk, as the fuzzer gives it: records, logs, studies, and their readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import analysis
from analysis.report.commands import commands, estimate_command
from analysis.scaling import load_scaling
from analysis.studies import study_of
from analysis.summary import summary_lines
from analysis.tables import write_csv
from analysis.training import load_training
from spectra import record
from spectra.quadrature import summarize
from spectra.record.digest import KEY
from spectra.record.files import ARRAYS
from spectra.study.place import load_study
from spectra.train.saving import last_complete
from tests.record.records import ARRAY_NAMES, spectrum

SHIPPED = Path(__file__).parents[2] / "notebooks" / "study" / "factorial-w2"
STUDY = json.loads((SHIPPED / "study.json").read_text(encoding="utf-8"))
RUN = SHIPPED / "runs" / "w2-winq-seed0"
SUMMARY = json.loads((RUN / "spectra_training.json").read_text(encoding="utf-8"))
TRAINER = json.loads((RUN / "trainer_state.json").read_text(encoding="utf-8"))
TRAINER["log_history"] = TRAINER["log_history"][:6]
REFERENCE = {
    "estimator": {"protocol": "winq", "num_probes": 20},
    "reference": {
        "label": "reference procedure", "tau": 1.5e-3, "near_zero_mean": 0.65,
        "near_zero_std": 0.01, "lambda_min": -4.1, "lambda_max": 30.2,
    },
}  # fmt: skip
METADATA = record.load(SHIPPED / "spectra" / "w2-winq-seed0" / "step-48").metadata
METADATA.pop(KEY)  # a hash would refuse every change before the checks that are tried here


def record_seeds(place: Path) -> list[bytes]:
    found = []
    for finished in (0, 3, 6):
        record.save(spectrum(finished), place)
        found.append((place / ARRAYS).read_bytes())
    arrays = {name: getattr(spectrum(), name) for name in ARRAY_NAMES}
    facts = np.frombuffer(json.dumps(spectrum().metadata).encode(), dtype=np.uint8)
    np.savez(place / ARRAYS, **arrays, metadata=facts)  # stored, so that arrays can be changed
    return [*found, (place / ARRAYS).read_bytes()]


def metadata_seeds(place: Path) -> list[bytes]:
    del place
    masked = {"dim_unmasked": METADATA["dim"] // 2, "masked_fraction": 0.5, "point": {}}
    return [json.dumps(METADATA | more).encode() for more in ({}, REFERENCE, masked)]


def read_record(place: Path, data: bytes) -> None:
    (place / ARRAYS).write_bytes(data)
    found = record.load(place)
    if found.finished:
        summarize(found.measure)
        found.density(np.linspace(-3, 3, 20))
    analysis.table_text(analysis.load(place))


def read_metadata(place: Path, data: bytes) -> None:
    arrays = {name: getattr(spectrum(), name) for name in ARRAY_NAMES}
    np.savez(place / ARRAYS, **arrays, metadata=np.frombuffer(data, dtype=np.uint8))
    found = record.load(place)
    runs = analysis.load(place)
    for scope in ("batches", "population"):
        analysis.table_text(analysis.load(place, scope=scope), relative=True)
    write_csv(runs, None)
    "\n".join(summary_lines(found)).encode()
    estimate_command(found, "x")
    commands(place, {"x": found})


def training_seeds(place: Path) -> list[bytes]:
    (place / "spectra_training.json").write_text(json.dumps(SUMMARY))
    return [json.dumps(TRAINER).encode()]


def read_training(place: Path, data: bytes) -> None:
    (place / "trainer_state.json").write_bytes(data)
    write_csv(load_training(place), None)
    last_complete(place)


def summary_seeds(place: Path) -> list[bytes]:
    (place / "trainer_state.json").write_text(json.dumps(TRAINER))
    return [json.dumps(SUMMARY).encode()]


def read_summary(place: Path, data: bytes) -> None:
    (place / "spectra_training.json").write_bytes(data)
    write_csv(load_training(place), None)


def scaling_seeds(place: Path) -> list[bytes]:
    del place
    values = {
        "a.scaling.inputs": [1.5, 0.1, 0.0, 3, False],
        "b.scaling.weights": [None, 0, 0, 1, True],
    }
    return [b"".join(json.dumps({"step": n, "tensors": values}).encode() + b"\n" for n in range(3))]


def read_scaling(place: Path, data: bytes) -> None:
    (place / "spectra_scaling.jsonl").write_bytes(data)
    write_csv(load_scaling(place), None)


def read_study(place: Path, data: bytes) -> None:
    (place / "study.json").write_bytes(data)
    study_of(place)
    "\n".join(commands(place, {})).encode()
    load_study(place)
