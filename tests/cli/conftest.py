from __future__ import annotations

import shutil

import pytest

from tests.estimation.models import random_llama, token_file

BLOCK_SIZES = ["--seq_len", "16", "--num_batches", "2", "--lanczos_steps", "6", "--no_figure"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return random_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    return token_file(tmp_path_factory.mktemp("data") / "ids.npy")


@pytest.fixture(scope="session")
def result(checkpoint, tokens, tmp_path_factory):
    """A finished record, and what the command that made it printed."""
    import contextlib
    import io

    from spectra.cli.main import main

    output = tmp_path_factory.mktemp("results") / "run"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        sizes = [
            "--seq-len",
            "24",
            "--num_batches",
            "3",
            "--lanczos_steps",
            "12",
            "--dtype",
            "float64",
        ]
        places = ["--ckpt", str(checkpoint), "--data", str(tokens), "--output", str(output)]
        code = main(["estimate", *places, *sizes])
    assert code == 0
    return output, printed.getvalue()


@pytest.fixture(scope="session")
def series(checkpoint, tmp_path_factory):
    """A training run with checkpoints of two steps."""
    place = tmp_path_factory.mktemp("runs") / "w2"
    for step in (200, 400):
        shutil.copytree(checkpoint, place / f"checkpoint-{step}")
    return place


@pytest.fixture(scope="session")
def blocks(series, tokens, tmp_path_factory):
    """Records of both steps by block, and what the command said."""
    import contextlib
    import io

    from spectra.cli.main import main
    from spectra.estimation import pipeline

    output = tmp_path_factory.mktemp("results") / "blocks"
    said = io.StringIO()
    places = ["--ckpt", str(series), "--data", str(tokens), "--output", str(output)]
    loads = []
    load = pipeline.load
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(pipeline, "load", lambda request: loads.append(request) or load(request))
        code = main(["estimate", *places, "--steps", "all", "--per", "layer", *BLOCK_SIZES])
    assert code == 0, said.getvalue()
    return output / "w2", said.getvalue(), len(loads)
