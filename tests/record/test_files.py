"""Records on disk: what is saved comes back, and a crash at any instant loses nothing."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spectra.errors import RecordError, UsageError
from spectra.quadrature import measure
from spectra.record import Spectrum, exists, files, load, save, write_atomically
from spectra.record.digest import KEY, sha256_of
from spectra.record.files import ARRAYS, METADATA
from tests.record.records import ARRAY_NAMES, assert_same, spectrum


def test_save_and_load_are_inverse(tmp_path: Path) -> None:
    given = spectrum()
    place = tmp_path / "new" / "run"
    assert not exists(place)
    assert given.save(str(place)) == place
    assert exists(place)
    for path in (place, str(place), place / ARRAYS, place / METADATA):
        found = load(path)
        assert_same(given, found)
        assert found.metadata == given.metadata | {KEY: found.metadata[KEY]}
    assert found.mass(-1, 1) == given.mass(-1, 1)
    assert found.complete
    assert sorted(p.name for p in place.iterdir()) == [METADATA, ARRAYS]


def test_a_long_record_is_read_without_an_eigendecomposition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, m = np.random.default_rng(0), measure.LONG + 100
    given = replace(
        spectrum(dim=2 * m, dim_unmasked=2 * m),
        alphas=draw.uniform(0.9, 1.1, (1, 1, m)),
        betas=draw.uniform(0.4, 0.6, (1, 1, m)),
        steps=np.array([[m]]),
        losses=np.ones(1),
        grad_norms=np.ones(1),
        tokens=np.ones(1, dtype=np.int64),
    )
    expected = (given.mass(0.5, 1), given.extremes(), given.nodes)
    save(given, tmp_path)
    monkeypatch.delattr(measure, "gauss_rule")
    found = load(tmp_path)
    assert (found.mass(0.5, 1), found.extremes()) == expected[:2]
    np.testing.assert_array_equal(found.nodes, expected[2])
    shorter = replace(found, steps=np.array([[measure.LONG + 50]]))
    assert shorter.measure.runs[0][0].kept is None  # those are of more steps


@pytest.mark.parametrize("name", ["nodes", "weights"])
def test_nodes_and_weights_of_other_coefficients_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    given = spectrum()
    monkeypatch.setattr(Spectrum, name, -getattr(spectrum(), name))
    save(given, tmp_path)
    with pytest.raises(RecordError, match="are not those of the coefficients"):
        load(tmp_path)


def test_nodes_of_another_shape_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spectrum, "nodes", np.zeros((1, 2, 3)))
    save(spectrum(), tmp_path)
    with pytest.raises(RecordError, match="nodes are not those of the coefficients"):
        load(tmp_path)


def test_the_json_is_the_metadata_of_the_npz(tmp_path: Path) -> None:
    save(spectrum(), tmp_path)
    with np.load(tmp_path / ARRAYS, allow_pickle=False) as arrays:
        inside = arrays["metadata"].tobytes().decode()
        assert set(arrays.files) == {*ARRAY_NAMES, "nodes", "weights", "metadata"}
        np.testing.assert_allclose(arrays["weights"].sum(axis=-1), 1)
    assert inside + "\n" == (tmp_path / METADATA).read_text(encoding="utf-8")


def test_the_json_has_null_for_what_is_not_finite_and_plain_types(tmp_path: Path) -> None:
    odd = {
        "nan": float("nan"),
        "inf": [np.inf, -np.float32(np.inf)],
        "numpy": {"float": np.float32(0.5), "int": np.int64(7), "bool": np.bool_(True)},
        "pair": (1, True, None),
        "path": Path("a/b"),
        "λ": "β ≤ 4δ",
        3: "three",
    }
    save(spectrum(odd=odd), tmp_path)
    text = (tmp_path / METADATA).read_text(encoding="utf-8")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(text, parse_constant=refuse)["odd"]
    assert found == load(tmp_path).metadata["odd"]
    assert (found["nan"], found["inf"]) == (None, [None, None])
    assert found["numpy"] == {"float": 0.5, "int": 7, "bool": True}
    assert found["numpy"]["bool"] is True
    assert (found["pair"], found["path"], found["λ"], found["3"]) == (
        [1, True, None],
        "a/b",
        "β ≤ 4δ",
        "three",
    )
    assert "β ≤ 4δ" in text


@pytest.mark.parametrize("finished", [0, 1, 4])
def test_unfinished_records(tmp_path: Path, finished: int) -> None:
    save(spectrum(finished), tmp_path)
    found = load(tmp_path)
    assert (found.finished, found.complete) == (finished, False)
    if finished:
        assert found.measure.num_runs == finished
        assert 0 <= found.mass(-1, 1).lower <= found.mass(-1, 1).upper <= 1
    else:
        with pytest.raises(UsageError, match="no finished probe"):
            found.mass(-1, 1)
    assert (found.weights[found.steps == 0] == 0).all()


def test_functionals_of_a_record_are_those_of_its_measure(tmp_path: Path) -> None:
    save(spectrum(), tmp_path)
    found = load(tmp_path)
    assert found.measure.masked_fraction == pytest.approx(0.1)
    assert found.measure.product_error == 1e-7
    assert found.cdf(0.3) == found.mass(-np.inf, 0.3)
    low, high = found.extremes()
    assert low.value < high.value
    assert low.lower <= found.quantile(0.5).value <= high.upper
    assert found.moment(1).lower <= found.moment(1).value
    grid = np.linspace(-3, 3, 50)
    assert found.density(grid).shape == found.log_density(grid).shape == (50,)
    assert isinstance(found.outliers(), list)
    traces = spectrum(estimator={"probe_kind": "rademacher"})
    with pytest.raises(UsageError, match="Rademacher"):
        traces.mass(-1, 1)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("file", [ARRAYS, METADATA])
def test_a_crash_at_any_instant_leaves_a_whole_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, file: str
) -> None:
    before, after = spectrum(3), spectrum(5)
    save(before, tmp_path)
    crash_in(monkeypatch, step, file)
    with pytest.raises(Killed):
        save(after, tmp_path)
    monkeypatch.undo()
    assert_same(load(tmp_path), before if file == ARRAYS else after)
    save(after, tmp_path)  # and the next save puts all in order
    assert_same(load(tmp_path), after)
    assert sorted(p.name for p in tmp_path.iterdir()) == [METADATA, ARRAYS]


def crash_in(monkeypatch: pytest.MonkeyPatch, step: str, file: str) -> None:
    """Let the process end at one step of the writing of one file."""
    original = files.write_atomically

    def writing(path: Path, content: bytes) -> None:
        if path.name != file:
            original(path, content)
            return
        with pytest.MonkeyPatch.context() as inner:
            if step == "open":
                inner.setattr(Path, "open", killed)
            elif step == "write":
                inner.setattr(Path, "open", lambda self, *_: TornFile(self))
            else:
                inner.setattr(os, step, killed)
            original(path, content)

    monkeypatch.setattr(files, "write_atomically", writing)


def killed(*args: object, **options: object) -> None:
    raise Killed


class TornFile:
    """A file of which half is written when the process ends."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)

    def __enter__(self) -> TornFile:
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self.descriptor)

    def write(self, content: bytes) -> None:
        os.write(self.descriptor, content[: len(content) // 2])
        raise Killed


def test_what_a_killed_process_leaves_behind_is_not_read(tmp_path: Path) -> None:
    save(spectrum(), tmp_path)
    (tmp_path / f".{ARRAYS}.123.tmp").write_bytes(b"half of a record")
    assert_same(load(tmp_path), spectrum())


def test_the_npz_is_right_where_the_two_files_differ(tmp_path: Path) -> None:
    save(spectrum(4), tmp_path)
    old = (tmp_path / METADATA).read_text()
    save(spectrum(5, note="newer"), tmp_path)
    (tmp_path / METADATA).write_text(old)
    assert load(tmp_path).metadata["note"] == "newer"
    (tmp_path / METADATA).unlink()
    assert load(tmp_path).finished == 5


def test_write_atomically_replaces(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert sha256_of(path) == ("3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3")


def test_directories_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RecordError, match="cannot be written"):
            save(spectrum(), place)
    save(spectrum(2), tmp_path / "run")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="No space left on device"):
        save(spectrum(5), tmp_path / "run")
    monkeypatch.undo()
    assert_same(load(tmp_path / "run"), spectrum(2))


def test_a_directory_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(RecordError, match="Permission denied"):
            save(spectrum(), tmp_path)
    finally:
        tmp_path.chmod(0o700)
