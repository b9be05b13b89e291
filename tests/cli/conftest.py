from __future__ import annotations

import pytest

from tests.estimation.models import random_llama, token_file


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
