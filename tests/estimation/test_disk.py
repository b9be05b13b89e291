"""A disk that fills, breaks or goes in the middle of a run: one error, and nothing lost."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest

import spectra
from spectra.cli.main import main
from spectra.errors import WriteError
from spectra.record import atomic
from tests.estimation.test_resume import assert_same, estimate


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_writes_that_fail_from_some_probe_on(
    checkpoint, tokens, tmp_path, monkeypatch, number, call
):
    original, count = getattr(os, call), 0

    def failing(*arguments):
        nonlocal count
        count += 1
        if count > 14:
            raise OSError(number, os.strerror(number))
        return original(*arguments)

    monkeypatch.setattr(atomic.os, call, failing)
    with pytest.raises(WriteError, match=os.strerror(number)):
        estimate(checkpoint, tokens, tmp_path / "run", num_probes=8, num_batches=1)
    monkeypatch.undo()
    kept = spectra.load(tmp_path / "run")
    assert 0 < kept.finished < 8
    found = estimate(checkpoint, tokens, tmp_path / "run", num_probes=8, num_batches=1, resume=True)
    assert np.array_equal(found.alphas[kept.steps > 0], kept.alphas[kept.steps > 0])
    assert_same(found, estimate(checkpoint, tokens, tmp_path / "w", num_probes=8, num_batches=1))


def test_the_command_says_how_to_go_on(checkpoint, tokens, tmp_path, monkeypatch, capsys):
    original, count = os.replace, 0

    def failing(*arguments):
        nonlocal count
        count += 1
        if count > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*arguments)

    monkeypatch.setattr(atomic.os, "replace", failing)
    command = ["estimate", "--ckpt", str(checkpoint), "--data", str(tokens), "--seq_len", "16"]
    command += ["--num_batches", "3", "--lanczos_steps", "6", "--no_figure"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be written (No space left on device)" in said
    assert "2 finished probes are kept" in said
    assert said.endswith("--resume")


def test_a_directory_that_goes_is_made_again_with_all_that_was_in_it(
    checkpoint, tokens, tmp_path, monkeypatch
):
    from spectra.estimation import engine

    write, count = engine._write, 0

    def written(store, output):
        nonlocal count
        write(store, output)
        count += 1
        if count == 2:
            shutil.rmtree(output)

    monkeypatch.setattr(engine, "_write", written)
    found = estimate(checkpoint, tokens, tmp_path / "a" / "run")
    monkeypatch.undo()
    assert_same(spectra.load(tmp_path / "a" / "run"), found)
    assert_same(found, estimate(checkpoint, tokens, tmp_path / "whole"))
