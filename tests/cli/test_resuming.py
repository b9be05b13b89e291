"""The command that goes on with an interrupted one."""

from __future__ import annotations

import pytest

from spectra.cli.resuming import _without


@pytest.mark.parametrize(
    "given",
    [
        ["--ckpt", "a", "--overwrite"],
        ["--overwrite=true", "--ckpt", "a"],
        ["--overwrite", "true", "--ckpt", "a", "--resume", "False"],
        ["--ckpt", "a"],
    ],
)
def test_switches_go_with_their_values(given: list[str]) -> None:
    assert _without(given, ("--resume", "--overwrite")) == ["--ckpt", "a"]
