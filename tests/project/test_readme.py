"""The README keeps its word: its Python runs, its commands parse, its figures exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # torch's word to users without a GPU
def test_python_blocks_run_in_order_in_an_empty_directory(elsewhere, capsys):
    names = {}
    found = blocks("python")
    assert len(found) >= 3
    for block in found:
        exec(compile(block, "README.md", "exec"), names)
    assert Path("results/first/spectrum.npz").exists()
    assert "[" in capsys.readouterr().out


def test_commands_name_known_verbs_and_flags():
    import importlib

    from transformers import TrainingArguments
    from transformers.hf_argparser import HfArgumentParser

    from spectra.cli.main import VERBS
    from spectra.train import TrainRequest

    known = {}
    for verb in VERBS:
        module = importlib.import_module(f"spectra.cli.{verb}")
        kinds = [TrainRequest, TrainingArguments] if verb == "train" else module.Arguments
        known[verb] = set(HfArgumentParser(kinds)._option_string_actions)
    lines = [line.partition("#")[0] for block in blocks("bash") for line in block.splitlines()]
    seen = set()
    for line in lines:
        for part in line.split("&&"):
            words = shlex.split(part)
            if words and words[0].endswith("spectra"):
                assert words[1] in VERBS
                seen.add(words[1])
                flags = {word for word in words[2:] if word.startswith("--")}
                assert flags <= known[words[1]], line
    assert seen == set(VERBS)


def test_figures_exist_and_nothing_is_left_to_fill_in():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file(), path
    assert not re.findall(r"@[A-Z_]+@", README)
