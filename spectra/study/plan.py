"""What a study asks: models, widths, methods, seeds, and how each spectrum is estimated.

Methods are cells of a factorial design and its ablations (spectra.study.cells).

A study is a value; its place on disk is spectra.study.place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from spectra.errors import UsageError, nearest
from spectra.study.cells import CAGE, METHODS, SCHEDULES, cell
from spectra.train.recipes.winq import SHARE

LISTS = (
    *("bits", "methods", "seeds"),
    *("spectra_methods", "series_surfaces", "fractions", "surfaces"),
)


def named(value: Any) -> str:
    """Return a value as it stands in the name of a run or record."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Study:
    """Everything that decides a study's numbers. The text beside a field is its description."""

    purpose: str = _option(
        "claims", "claims, or search: its runs choose settings, and nothing is claimed of them."
    )
    model: str = _option("tiny", "Float model to start from: 'tiny', a hub id, a directory.")
    data: str = _option("stdlib", "Text to train on, as for `spectra train --data`.")
    eval_data: str | None = _option(None, "Held-out text, for evaluation and for the spectra.")
    quantizer: str = _option("paretoq", "Weight quantizer.")
    bits: list[float] = field(
        default_factory=lambda: [2.0],
        metadata={"help": "Bits of the weights."},
    )
    a_bits: int = _option(16, "Bits of the activations.")
    methods: list[str] = field(
        default_factory=lambda: ["baseline", "winq"],
        metadata={
            "help": "Methods: baseline, winq, reset or noise (alone), cage, winq+cage; changed as "
            "winq-f0.8 (fraction), -s0.004 (noise), -k40 (interval), -from120, -until120 (where "
            "resets happen), -lr3e-4, -constant (rate and schedule)."
        },
    )
    seeds: list[int] = field(
        default_factory=lambda: [0],
        metadata={"help": "Seeds of the training runs: the unit of replication."},
    )
    max_steps: int = _option(240, "Optimizer steps of a run.")
    learning_rate: float = _option(1e-3, "Peak learning rate.")
    lr_scheduler_type: str = _option("cosine", "Schedule: cosine or linear to zero, constant.")
    batch_size: int = _option(16, "Blocks in a training batch.")
    seq_len: int = _option(128, "Tokens in a training block.")
    reset_every: int | None = _option(None, "Steps between resets (a third of the run).")
    reset_fraction: float = _option(0.4, "How far a reset moves weights toward the grid.")
    noise_std: float = _option(1e-3, "Standard deviation of the weight noise.")
    eval_blocks: int = _option(128, "Held-out blocks of an evaluation.")
    checkpoints: int = _option(
        4, "Checkpoints of a run whose spectra are estimated, first to last."
    )
    spectra_steps: list[int] | None = field(
        default=None,
        metadata={"help": "Spectra of these checkpoints alone, of the evenly spaced ones (all)."},
    )
    spectra_methods: list[str] = field(
        default_factory=lambda: ["baseline", "winq"],
        metadata={"help": "Methods with spectra, as far as they are trained."},
    )
    spectra_seeds: int | None = _option(None, "Seeds with spectra, from the first on (all).")
    series_surfaces: list[str] = field(
        default_factory=lambda: ["ste"],
        metadata={"help": "Surfaces of the spectra along a run."},
    )
    initial: str = _option(
        "each",
        "Spectra of step 0: of each run, or once, of the first run of each width (step 0 is the "
        "same model for every method and seed).",
    )
    fractions: list[float] = field(
        default_factory=lambda: [0.0, 0.4],
        metadata={
            "help": "Ways toward the grid at which the last baseline checkpoint is looked at."
        },
    )
    surfaces: list[str] = field(
        default_factory=lambda: ["ste", "latent"],
        metadata={"help": "Surfaces of these."},
    )
    spectrum_seq_len: int | None = _option(None, "Tokens in a block of a spectrum.")
    num_batches: int = _option(2, "Batches of a spectrum.")
    lanczos_steps: int = _option(60, "Products with each probe.")

    def __post_init__(self) -> None:
        for name in LISTS:
            values = getattr(self, name)
            if not isinstance(values, list):
                raise UsageError(f"{name}={values!r} is no list; pass e.g. [{values}].")
            if name in ("bits", "methods", "seeds") and not values:
                raise UsageError(f"{name} is empty; pass at least one.")
            if len({named(value) for value in values}) < len(values):
                raise UsageError(f"{name}={values} names one twice.")
        for method in (*self.methods, *self.spectra_methods):
            method_settings(method, self)
        for name, among in (
            ("purpose", ("claims", "search")),
            ("lr_scheduler_type", SCHEDULES),
            ("initial", ("each", "once")),
        ):
            if getattr(self, name) not in among:
                raise UsageError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(among)}"
                    f"{nearest(getattr(self, name), among)}."
                )
        first: dict[str, str] = {}
        for method in self.methods:
            same = first.setdefault(repr(_meaning(method, self)), method)
            if same != method:
                raise UsageError(
                    f"methods {same} and {method} are one, by another name; name it once."
                )
        if self.spectra_methods and not set(self.spectra_methods) & set(self.methods):
            raise UsageError(
                f"spectra_methods={', '.join(self.spectra_methods)} are not among "
                f"methods={', '.join(self.methods)}, so that there would be no spectrum; add them, "
                "or name others."
            )
        if min(self.seeds) < 0:
            raise UsageError(f"seed={min(self.seeds)} is negative; pass seeds from 0 on.")
        if self.spectra_seeds is not None and self.spectra_seeds < 1:
            raise UsageError(
                f"spectra_seeds={self.spectra_seeds} is too small; pass at least 1, or leave it "
                "out for all."
            )
        if not self.learning_rate > 0:
            raise UsageError(f"learning_rate={self.learning_rate} is not positive; pass e.g. 1e-3.")
        least_of = {
            "max_steps": 1,
            "checkpoints": 2,
            "num_batches": 1,
            "batch_size": 1,
            "seq_len": 2,
        }
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise UsageError(
                    f"{name}={getattr(self, name)} is too small; pass at least {least}."
                )
        if self.max_steps % (self.checkpoints - 1):
            raise UsageError(
                f"max_steps={self.max_steps} cannot be cut into checkpoints={self.checkpoints} "
                f"evenly spaced ones; pass a multiple of {self.checkpoints - 1} steps."
            )

        missing = sorted(set(self.spectra_steps or ()) - set(self.every_step))
        if missing:
            raise UsageError(
                f"spectra_steps={missing[0]} is no checkpoint: checkpoints={self.checkpoints} of "
                f"max_steps={self.max_steps} are {self.interval} steps apart; pass multiples of it."
            )

    @property
    def every_step(self) -> range:
        """Steps that are saved."""
        return range(0, self.max_steps + 1, self.interval)

    @property
    def interval(self) -> int:
        """Steps between checkpoints."""
        return self.max_steps // (self.checkpoints - 1)


def method_settings(method: str, asked: Study) -> dict[str, Any]:
    """Return the fields of `TrainRequest` that a method sets.

    Raises:
        UsageError: If the method is not known.
    """
    found = cell(method)
    settings: dict[str, Any] = {
        "recipe": "winq",
        "reset_every": asked.reset_every,
        "reset_fraction": asked.reset_fraction,
        "noise_std": asked.noise_std,
    }
    settings = {
        "baseline": {"recipe": "baseline"},
        "winq": settings,
        "reset": settings | {"noise_std": 0.0},
        "noise": settings | {"reset_fraction": 0.0, "reset_every": None},
        CAGE: {"recipe": CAGE},
        f"winq+{CAGE}": settings | {"recipe": f"winq+{CAGE}"},
    }[found.kind]
    return settings | found.recipe


def _meaning(method: str, asked: Study) -> list[Any]:
    """Return what decides the runs of a method, equal for two names of one."""
    found, settings = cell(method), method_settings(method, asked)
    if settings.get("reset_fraction", 0) and settings.get("reset_every") is None:
        settings["reset_every"] = max(1, asked.max_steps // SHARE)
    rate = found.learning_rate or asked.learning_rate
    return [sorted(settings.items()), rate, found.schedule or asked.lr_scheduler_type]


_REGIME = Study(
    bits=[1.0],
    methods=["baseline", "winq-f0.2"],
    seeds=[0, 1, 2],
    batch_size=8,
    checkpoints=2,
    spectra_methods=["baseline", "winq-f0.2"],
    initial="once",
    fractions=[],
    spectrum_seq_len=256,
    num_batches=1,
    lanczos_steps=24,
)
PRESETS: dict[str, Study] = {
    "quick": Study(),
    "winq-ahead": replace(_REGIME, lr_scheduler_type="constant"),
    "winq-behind": _REGIME,
    "full": Study(
        bits=[1.0, 1.58, 2.0, 3.0, 4.0],
        methods=[
            *METHODS,
            *("winq-f0.2", "winq-f0.6", "winq-f0.8"),
            *("winq-s0.0002", "winq-s0.002", "winq-s0.004"),
        ],
        seeds=[0, 1, 2],
        max_steps=1200,
        checkpoints=7,
        spectra_methods=list(METHODS),
        fractions=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        surfaces=["ste", "quantized", "latent"],
        num_batches=5,
        lanczos_steps=300,
    ),
}


def study(preset: str, changes: Mapping[str, Any]) -> Study:
    """Return a preset with changes.

    Raises:
        UsageError: If it is not known, or a value does not fit.
    """
    if preset not in PRESETS:
        raise UsageError(
            f"preset={preset!r} is not one of {', '.join(PRESETS)}{nearest(preset, PRESETS)}"
        )
    return replace(PRESETS[preset], **dict(changes))
