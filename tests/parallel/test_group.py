"""What ranks tell each other, and that an error of one is the same error of all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from spectra.errors import UsageError
from spectra.parallel import Group
from spectra.parallel.launched import Place, place
from tests.parallel.two import launch

# Every step of the script appends to the list that each rank writes at the end.
SCRIPT = """
import json, os, sys, time
import torch
from spectra.parallel import post
from spectra.errors import DataError, UsageError
from spectra.parallel import world

group, told = world(), {}
rank = group.rank
with group.together():
    told["gather"] = group.gather({"rank": rank})
    told["broadcast"] = group.broadcast(f"from {rank}")
    told["first"] = group.first(lambda: rank + 7)
    told["sum"] = group.sum_(torch.tensor([0.1, 1.0 + rank], dtype=torch.float64)).tolist()
    told["tensors"] = [t.tolist() for t in group.gather_tensors(torch.tensor([rank, 2]))]

def failing(name, work):
    try:
        with group.together():
            work()
        told[name] = None
    except Exception as error:
        told[name] = [type(error).__name__, str(error)]

def one_raises():
    if rank == 1:
        raise DataError("there is no text.")
    for _ in range(10_000):  # the other one is at work and looks now and then
        group.check()
        time.sleep(0.01)

def one_raises_while_the_other_waits(wait):
    if rank == 0:
        time.sleep(0.3)
        raise DataError("there is no text.")
    wait()

def both_raise():
    raise UsageError("seed=-1 is negative.")

def not_foreseen():
    if rank == 1:
        raise ZeroDivisionError("of all things")

def late():
    with group.together():  # inner blocks are part of the outer one
        if rank == 1:
            raise DataError("there is no text.")
    group.gather(1)

failing("at work", one_raises)
failing("in gather", lambda: one_raises_while_the_other_waits(lambda: group.gather(0)))
failing("in sum", lambda: one_raises_while_the_other_waits(lambda: group.sum_(torch.ones(3))))
failing("both", both_raise)
failing("not foreseen", not_foreseen)
failing("nested", late)
told["outside"] = group.gather(rank)
with group.together():
    told["afterwards"] = [group.gather(rank), group.sum_(torch.ones(2)).tolist()]
if rank == 0:
    post.BEAT, post.PATIENCE = 0.2, 3.0
    failing("gone", lambda: group.gather(0))
with open(f"{sys.argv[1]}/{rank}.json", "w") as handle:
    json.dump(told, handle)
    handle.flush()
    os._exit(0)  # torchrun takes this for success, and does not end the other one
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What two ranks have seen."""
    root: Path = tmp_path_factory.mktemp("ranks")
    (root / "script.py").write_text(SCRIPT)
    found = launch(2, str(root / "script.py"), str(root))
    assert found.returncode == 0, found.stderr
    return [json.loads((root / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_both_ranks_have_the_values_of_both(told) -> None:
    for mine in told:
        assert mine["gather"] == [{"rank": 0}, {"rank": 1}]
        assert mine["broadcast"] == "from 0"
        assert mine["first"] == 7
        assert mine["sum"] == [0.2, 3.0]
        assert mine["tensors"] == [[0, 2], [1, 2]]


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("at work", ["DataError", "rank 1: there is no text."]),
        ("in gather", ["DataError", "rank 0: there is no text."]),
        ("in sum", ["DataError", "rank 0: there is no text."]),
        ("both", ["UsageError", "seed=-1 is negative."]),
        ("nested", ["DataError", "rank 1: there is no text."]),
    ],
)
def test_an_error_of_one_rank_is_the_error_of_all(told, case, error) -> None:
    assert [mine[case] for mine in told] == [error, error]


def test_what_nobody_foresaw_keeps_its_type_where_it_happened(told) -> None:
    assert told[0]["not foreseen"] == ["SpectraError", "rank 1: ZeroDivisionError: of all things"]
    assert told[1]["not foreseen"] == ["ZeroDivisionError", "of all things"]


def test_the_group_is_as_good_as_before_after_errors(told) -> None:
    assert [mine["afterwards"] for mine in told] == [[[0, 1], [2.0, 2.0]]] * 2
    assert [mine["outside"] for mine in told] == [[0, 1]] * 2


def test_who_waits_for_a_process_that_is_gone_is_told(told) -> None:
    said = "rank 0: rank 1 has given no sign of life for 3 seconds"
    assert told[0]["gone"] == ["SpectraError", said]


def test_alone_everything_is_a_group_of_one() -> None:
    group = Group(Place())
    assert group.gather(3) == [3]
    assert group.broadcast(3) == group.first(lambda: 3) == 3
    assert group.sum_(torch.ones(2)).tolist() == [1, 1]
    assert group.process_group is None
    assert group.device("cuda:1") == "cuda:1"
    with group.together():
        group.check()


def test_a_gpu_by_number_is_refused_for_several_ranks() -> None:
    with pytest.raises(UsageError, match="--device cuda"):
        Group(Place(0, 2, 0, 2)).device("cuda:0")
    assert Group(Place(0, 2, 0, 2)).device("cpu") == "cpu"


def test_an_environment_that_contradicts_itself_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="unset WORLD_SIZE"):
        place()
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UsageError, match="'one'"):
        place()
    monkeypatch.setenv("RANK", "1")
    assert place() == Place(1, 2, 1, 2)
    assert not place().speaks
