"""The built-in corpus: two disjoint parts in an order that only paths decide."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path
from typing import Any

from spectra.data import stdlib, token_batches


def test_parts_are_disjoint_and_together_everything() -> None:
    train, heldout = set(stdlib.files("train")), set(stdlib.files("heldout"))
    assert train.isdisjoint(heldout)
    root = Path(sysconfig.get_paths()["stdlib"])
    expected = {
        p for p in root.rglob("*.py") if not set(p.relative_to(root).parts) & stdlib.SKIPPED
    }
    assert train | heldout == expected
    assert 0.02 < len(heldout) / len(expected) < 0.12


def test_order_and_part_follow_from_the_path_alone(tmp_path: Path, monkeypatch: Any) -> None:
    names = [f"pkg/module_{i}.py" for i in range(200)]
    orders = []
    for root, listed in ((tmp_path / "a", names), (tmp_path / "b", names[::-1])):
        for name in listed:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(name)
        monkeypatch.setattr(sysconfig, "get_paths", lambda root=root: {"stdlib": str(root)})
        orders.append([list(stdlib.documents(part)) for part in ("train", "heldout")])
    assert orders[0] == orders[1]
    assert sorted(orders[0][0] + orders[0][1]) == sorted(names)
    assert orders[0][0] != sorted(orders[0][0])


def test_a_new_file_moves_no_other(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    for i in range(100):
        (tmp_path / f"m{i}.py").write_text("")
    before = {part: stdlib.files(part) for part in ("train", "heldout")}
    (tmp_path / "new.py").write_text("")
    for part, files in before.items():
        assert [f for f in stdlib.files(part) if f.name != "new.py"] == files


def test_skipped_directories_and_unreadable_text(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    for name in ("site-packages/x.py", "test/y.py", "json/tests/z.py", "keep.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    assert [*stdlib.documents("train"), *stdlib.documents("heldout")] == ["keep.py"]


def test_as_a_source(tokenizer: Any) -> None:
    heldout = token_batches("stdlib", tokenizer, seq_len=64, num_batches=3)
    again = token_batches("stdlib:heldout", tokenizer, seq_len=64, num_batches=3)
    train = token_batches("stdlib:train", tokenizer, seq_len=64, num_batches=3)
    assert heldout.sha256 == again.sha256 != train.sha256
    assert heldout.source == f"stdlib:heldout (Python {platform.python_version()})"
