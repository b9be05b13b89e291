"""A small part of the torture, and all of it: what is killed, starved or lied to loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(*arguments: str) -> str:
    """In a process of its own, which forks before it computes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost" in done.stdout
    return done.stdout


def test_a_few_kills_inside_a_probe() -> None:
    said = run("--kills", "20", "--signals", "2", "--faults", "0", "--only", "estimate, states")
    assert "3/3" in said  # its share of them
    assert "TERM, INT" in said


@pytest.mark.slow
def test_kills_faults_and_signals_over_all_verbs() -> None:
    assert "200/200" in run("--kills", "200", "--signals", "20", "--faults", "2", "--seed", "1")
