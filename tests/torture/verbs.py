"""The commands that are tortured, each on toys, and how two results of one are compared."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from spectra import record
from spectra.train.saving import SUMMARY
from tests.estimation.models import random_llama, token_file

SECTIONS = ("summary", "checks", "adaptive", "warnings")


@dataclass(frozen=True)
class Verb:
    """A command.

    Attributes:
        name: What it is called in the table.
        arguments: The command line but for --output and --resume.
        redone: Most steps that one kill may cost: a probe's, or those since the last save.
        share: Its share of all kills.
    """

    name: str
    arguments: tuple[str, ...]
    redone: int
    share: float

    def command(self, output: Path) -> list[str]:
        """Return the command line, which goes on with what is in `output`."""
        resume = [] if self.arguments[0] == "reproduce" else ["--resume"]
        return [*self.arguments, "--output", str(output), *resume]


def toys(root: Path) -> list[Verb]:
    """Make the checkpoints and the text in `root`, and return the commands."""
    model, ids = random_llama(root / "model"), token_file(root / "ids.npy")
    for step in (10, 20):
        shutil.copytree(model, root / "series" / f"checkpoint-{step}")
    text = ("--data", str(ids))
    common = ("--ckpt", str(model), *text, "--seq_len", "16", "--no_figure")
    sizes = ("--num_batches", "2", "--num_probes", "2", "--lanczos_steps", "20")
    training = (
        *("train", "--model", str(model), *text, "--w_bits", "2", "--seq_len", "16"),
        *("--eval_blocks", "4", "--max_steps", "12", "--save_steps", "3", "--eval_steps", "6"),
        *("--logging_steps", "2", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2"),
        *("--use_cpu", "--disable_tqdm", "true"),
    )
    study = (
        *("reproduce", "--model", str(model), *text, "--max_steps", "4", "--checkpoints", "2"),
        *("--batch_size", "4", "--seq_len", "8", "--eval_blocks", "4", "--spectrum_seq_len", "8"),
        *("--num_batches", "1", "--lanczos_steps", "8", "--fractions", "0.4", "--surfaces", "ste"),
    )
    series = ("--ckpt", str(root / "series"), "--steps", "all", *text, "--seq_len", "16")
    adaptive = ("--tol", "0.03", "--tau", "0.1", "--max_hvps", "120", "--num_batches", "3")
    every = ("--save_state_every", "4")
    mean = ("--reduce", "mean", "--num_batches", "2", "--num_probes", "3", "--lanczos_steps", "20")
    sweep = ("--num_batches", "2", "--lanczos_steps", "15", "--no_figure")
    return [
        Verb("estimate, per_batch", ("estimate", *common, *sizes), 20, 0.15),
        Verb("estimate, mean", ("estimate", *common, *mean), 20, 0.1),
        Verb("estimate, --tol", ("estimate", *common, *adaptive), 120, 0.1),
        Verb("estimate, states", ("estimate", *common, *sizes, *every), 4, 0.15),
        Verb("estimate, --tol, states", ("estimate", *common, *adaptive, *every), 4, 0.1),
        Verb("estimate, sweep", ("estimate", *series, *sweep), 15, 0.1),
        Verb("train, baseline", training, 3, 0.1),
        Verb("train, winq", (*training, "--recipe", "winq", "--reset_every", "5"), 3, 0.1),
        Verb("reproduce", study, 8, 0.1),
    ]


def differences(whole: Path, other: Path) -> list[str]:
    """Return what of an uninterrupted result the other one does not have, or has otherwise."""
    found = []
    for path in sorted(whole.rglob("spectrum.npz")):
        name = path.parent.relative_to(whole)
        found += [f"{name}: {what}" for what in _records(path.parent, other / name)]
    for path in sorted(whole.rglob("*.safetensors")):
        name = path.relative_to(whole)
        found += [f"{name}: {what}" for what in _weights(path, other / name)]
    for path in sorted(whole.rglob(SUMMARY)):
        name = path.relative_to(whole)
        found += [f"{name}: {what}" for what in _summaries(path, other / name)]
    left = [p.name for p in other.rglob("*") if p.name.startswith((".spectr", "lanczos-"))]
    return found + [f"left behind: {name}" for name in left]


def _records(whole: Path, other: Path) -> list[str]:
    if not record.exists(other):
        return ["is missing"]
    one, two = record.load(whole), record.load(other)
    names = ("alphas", "betas", "steps", "losses", "grad_norms", "tokens", "nodes", "weights")
    found = [n for n in names if not np.array_equal(getattr(one, n), getattr(two, n))]
    found += [n for n in SECTIONS if one.metadata.get(n) != two.metadata.get(n)]
    if one.metadata["cost"]["hvps"] != two.metadata["cost"]["hvps"]:
        found.append("cost.hvps")
    return found


def _weights(whole: Path, other: Path) -> list[str]:
    if not other.exists():
        return ["is missing"]
    one, two = load_file(whole), load_file(other)
    if one.keys() != two.keys():
        return ["tensors"]
    return [name for name in one if not torch.equal(one[name], two[name])]


def _summaries(whole: Path, other: Path) -> list[str]:
    if not other.exists():
        return ["is missing"]
    one, two = (json.loads(path.read_text()) for path in (whole, other))
    return [key for key in ("step", "initial", "final", "weights") if one[key] != two[key]]
