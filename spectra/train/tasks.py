"""Names of zero-shot tasks -> tasks of lm-evaluation-harness with their data.

Tasks are named as the harness names them, or `winq`, or are files of one's own:

    arc_easy,piqa       built in; data from the hub, kept in its cache
    winq                the eight tasks of the WinQ paper (its ninth number is perplexity)
    tasks/mine.yaml     a task defined in a file; paths in its data_files start where one stands
    tasks/              every task defined below a directory
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.checkpoint.quiet import first_line
from spectra.errors import DataError, UsageError, nearest

WINQ = (
    "arc_easy",
    "arc_challenge",
    "boolq",
    "piqa",
    "social_iqa",
    "hellaswag",
    "openbookqa",
    "winogrande",
)
PRESETS = {"winq": WINQ}
SUFFIXES = (".yaml", ".yml")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedTasks:
    """Tasks with their data; `tasks` maps names to the harness's own objects."""

    tasks: dict[str, Any]


def load_tasks(names: str) -> LoadedTasks:
    """Return the named tasks with their data, ready to be run.

    Args:
        names: Names, presets, files and directories, separated by commas; see above.

    Raises:
        UsageError: If lm_eval is not installed, or a task is not known, not readable or twice
            there under one name.
        DataError: If the data of a task cannot be had.
    """
    _require_harness()
    from lm_eval.tasks import TaskManager

    wanted: dict[str, None] = {}
    for item in (part.strip() for part in names.split(",")):
        wanted |= dict.fromkeys(PRESETS.get(item, (item,)) if item else ())
    if not wanted:
        raise UsageError(f"tasks={names!r} names no task; pass arc_easy, or winq for the paper's.")
    builtin: Any = None
    found: dict[str, tuple[Any, str]] = {}
    with quiet_harness():
        for item in wanted:
            if _is_path(item):
                loaded = _load_path(Path(item).expanduser())
            else:
                if builtin is None:
                    log.info("reading the harness's index of tasks")
                    builtin = TaskManager()
                if item not in builtin.all_tasks:
                    raise UsageError(
                        f"tasks={item!r} is neither a task of lm_eval nor a file or directory here"
                        f"{nearest(item, builtin.all_tasks)} (presets: {', '.join(PRESETS)})."
                    )
                log.info("reading the data of %s", item)
                loaded = _load(builtin, item, item)
            for name, task in loaded.items():
                if name in found and found[name][1] != item:
                    raise UsageError(
                        f"tasks={item!r} defines {name!r}, which {found[name][1]!r} defines too; "
                        "rename one of them."
                    )
                found[name] = (task, item)
    return LoadedTasks({name: task for name, (task, _) in found.items()})


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Silence the harness's remarks on how it was called, and the hub's on each new attempt."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub", "datasets")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _is_path(item: str) -> bool:
    return item.endswith(SUFFIXES) or "/" in item or Path(item).is_dir()


def _load_path(path: Path) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    if path.is_dir():
        manager = TaskManager(include_path=str(path), include_defaults=False)
        names = manager.all_subtasks
        if not names:
            raise UsageError(
                f"tasks={str(path)!r} holds no .yaml file that defines a task; pass the directory "
                "that does."
            )
        return {k: v for name in names for k, v in _load(manager, name, f"{path}: {name}").items()}
    if not path.is_file():
        raise UsageError(
            f"tasks={str(path)!r} does not exist; pass a .yaml file, a directory of them, or the "
            "name of a task of lm_eval."
        )
    manager = TaskManager(include_path=str(path.parent), include_defaults=False)
    return _load(manager, str(path), str(path))


def _load(manager: Any, item: str, shown: str) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = manager.load([item])["tasks"]
        for task in loaded.values():
            len(task.eval_docs)  # a missing split is found here, not after training
    except Exception as error:  # tasks are code and data of others
        why = first_line(error)
        if isinstance(error, FileNotFoundError):
            raise DataError(
                f"the data of tasks={shown!r} is not there: {why}; data_files start from the "
                "current directory."
            ) from error
        if isinstance(error, ConnectionError) or "Hub" in why:
            raise DataError(
                f"the data of tasks={shown!r} is not on this machine and the hub cannot be reached "
                f"({why}); run it once with network, or pass a task defined in a file, --tasks "
                "FILE.yaml."
            ) from error
        raise UsageError(f"tasks={shown!r} cannot be loaded: {why}.") from error
    if not loaded:
        raise UsageError(f"tasks={shown!r} defines no task; pass another.")
    return loaded


def _require_harness() -> None:
    try:
        import lm_eval.models.huggingface  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"tasks need lm-evaluation-harness, which cannot be imported ({first_line(error)}); "
            "install it: pip install -e '.[eval]'."
        ) from error
