"""`--share` on the command line: the records of torchrun are those of one process, to rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import spectra
from spectra.cli.main import main
from spectra.errors import UsageError
from spectra.estimation.settings import SLQSettings
from tests.parallel.two import launch

if TYPE_CHECKING:
    from pathlib import Path

ASKED = [
    "estimate",
    "--ckpt",
    "tiny",
    "--seq_len",
    "24",
    "--num_batches",
    "2",
    "--reduce",
    "mean",
    "--lanczos_steps",
    "6",
]
ASKED += ["--params", "*.0.mlp.*", "--no_figure"]


@pytest.mark.slow
def test_every_way_to_share_makes_the_same_record_and_resumes_the_others(tmp_path: Path) -> None:
    assert main([*ASKED, "--output", str(tmp_path / "one")]) == 0
    one = spectra.load(tmp_path / "one")
    for share in ("vectors", "parameters"):
        place = tmp_path / share
        done = launch(2, "-m", "spectra", *ASKED, "--share", share, "--output", str(place))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("record") == 1  # one rank speaks
        found = spectra.load(place)
        assert found.metadata["estimator"]["share"] == share
        assert found.metadata["environment"]["ranks"] == 2
        scale = float(np.abs(one.alphas).max())
        assert np.abs(found.alphas - one.alphas).max() < 1e-5 * scale
        assert np.abs(found.betas - one.betas).max() < 1e-5 * scale
        more = [*ASKED, "--num_probes", "2", "--output", str(place), "--resume"]
        assert main(more) == 0
        both = spectra.load(place)
        assert both.finished == 2
        assert (both.alphas[:, :1] == found.alphas).all()
        assert any(f"begun with share={share}" in note for note in both.metadata["notes"])


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UsageError, match=r"share='weights' is not one of places, vectors"):
        SLQSettings(share="weights")  # type: ignore[arg-type]
