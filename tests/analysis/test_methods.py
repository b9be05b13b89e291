"""Methods side by side."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import analysis
from spectra.errors import UsageError


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "name": f"{quantizer}-{surface}", "quantizer": quantizer, "w_bits": 2.0,
                "a_bits": 16.0, "method": method, "surface": surface, "lambda_min": -3.0,
                "lambda_max": 40.0 + place, "rms_eigenvalue": 0.2, "rms_eigenvalue_lower": 0.1,
                "rms_eigenvalue_upper": 0.3,
            }
            for place, (quantizer, method) in enumerate([("quest", "baseline"), ("lsq", "winq")])
            for surface in ("ste", "latent")
        ]
    )  # fmt: skip


def test_a_row_a_method_and_a_line_a_surface() -> None:
    _, ax = plt.subplots()
    assert analysis.plot_methods(rows(), ax=ax) is ax
    assert [t.get_text() for t in ax.get_yticklabels()] == ["quest W2A16", "lsq W2A16 winq"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["ste", "latent"]
    drawn = {float(x) for line in ax.lines for x in line.get_xdata()}
    assert {-3.0, 40.0, 41.0, 0.2} <= drawn
    plt.close("all")


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(UsageError, match="2 records are of quest W2A16 on surface ste"):
        analysis.plot_methods(pd.concat([rows(), rows().iloc[:1]]))
    with pytest.raises(UsageError, match="have no lambda_min"):
        analysis.plot_methods(rows().drop(columns="lambda_min"))
