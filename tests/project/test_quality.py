"""The rules of the house, run as tests: style, types, the direction of imports, light imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_finds_nothing():
    run("ruff", "check", ".")


def test_ruff_format_changes_nothing():
    run("ruff", "format", "--check", ".")


def test_mypy_strict_passes():
    run("mypy")


def test_imports_point_downward():
    code = "from importlinter.cli import lint_imports_command as c; c()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "import spectra",
        "import analysis",
        "import spectra.record",
        "from spectra.cli.main import main; main(['--help'])",
    ],
)
def test_light_imports_leave_torch_alone(statement):
    heavy = "{'torch', 'transformers'} & set(sys.modules)"
    code = f"import sys; {statement}; sys.exit(str({heavy} or '') or 0)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_every_lazy_name_resolves():
    import spectra

    for name in spectra.__all__:
        assert getattr(spectra, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'spectre'"):
        spectra.spectre  # noqa: B018


def test_ci_runs_the_test_command_of_the_readme():
    command = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1].replace("-q ", "")
    assert command in (ROOT / "README.md").read_text()


def test_lazy_names_are_not_hidden_by_modules():
    """A room or file of the same name would replace the function once it is imported."""
    import spectra

    hidden = {path.stem for path in (ROOT / "spectra").iterdir()} & set(spectra.__all__)
    assert not hidden
