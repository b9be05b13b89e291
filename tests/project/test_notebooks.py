"""Every notebook runs in a kernel, in an empty directory, and its figures are seen there."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
FIGURES = r"""
import pandas as pd, numpy as np
from matplotlib.figure import Figure
import analysis
from analysis.canvas import for_files, new_figure
from analysis.style import axes_for, figure_style

def panels():
    with figure_style():
        figure = new_figure((3.0, 2.0))
    figure.subplots(1, 2)[0].plot([1, 2])
    return figure

def alone():
    with figure_style():
        ax = axes_for(None, (3.0, 2.0))
    ax.plot([1, 2])
    return ax
"""

SHOWN = {
    "alone();": 1,
    "panels();": 1,
    "alone()": 1,
    "panels()": 1,
    "one, two = panels(), panels()": 2,
    "kept = panels()\nkept": 1,
    "kept": 1,
    "with for_files():\n    panels()": 0,
    "len(__import__('matplotlib.pyplot').pyplot.get_fignums())": 0,
}


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def executed(notebook, directory):
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": directory}}
    )
    return client.execute()


def images(cell):
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


def test_there_are_six():
    assert len(NOTEBOOKS) == 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_its_figures(path, tmp_path):
    os.symlink(ROOT, tmp_path / "notebooks")  # for the shipped records; writing goes elsewhere
    notebook = executed(nbformat.read(path, as_version=4), str(tmp_path))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            drawn = len(re.findall(r"analysis\.plot_\w+\(", cell["source"]))
            assert images(cell) == drawn, cell["source"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Return, for each way to end a cell, how many images it shows."""
    sources = list(SHOWN)
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in (FIGURES, *sources)]
    )
    done = executed(notebook, str(tmp_path_factory.mktemp("kernel")))["cells"]
    return dict(zip(sources, map(images, done[1:]), strict=True)), done[-1]["outputs"]


def test_a_figure_is_shown_once_however_a_cell_ends(shown):
    seen, left_open = shown
    assert seen == SHOWN
    assert left_open[0]["data"]["text/plain"] == "0"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_no_outputs(path):
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
