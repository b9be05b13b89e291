from __future__ import annotations

import pytest

from tests.estimation.models import random_llama, token_file


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return random_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    return token_file(tmp_path_factory.mktemp("data") / "ids.npy")
