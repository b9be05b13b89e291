"""PyTorch's ways to shard weights: which of them have a second derivative, in two processes."""

from __future__ import annotations

import pytest

from spectra.benchmarks import engines


@pytest.mark.slow
def test_what_the_docstring_of_gathered_says_of_them() -> None:
    rows = {row["way"]: row for row in engines.measure()}
    assert "have no graph" in rows["fully_shard"]["fails"]
    whole = rows["fully_shard, never resharded, toward whole weights"]
    assert whole["product_error"] < 1e-14
    assert whole["weights_kept"] > 0.9
    used = rows["DTensor, redistributed on use"]
    assert used["product_error"] < 1e-14
    assert used["weights_kept"] > 0.9
    parallel = rows["tensor parallel (column, row)"]
    assert parallel["gradient_error"] < 1e-14
    assert parallel["product_error"] > 0.1
