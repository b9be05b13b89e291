"""Zero-shot accuracy through lm-evaluation-harness (`lm_eval`, extra `eval`), on a loaded model.

A multiple-choice task scores each answer by its log-likelihood after the question, under the
quantized model as it stands:

    acc        the answer with the largest log-likelihood is the right one
    acc_norm   the same for log-likelihood / number of characters of the answer, so that long
               answers are not disfavoured; only some tasks define it

Each has the harness's standard error over its n questions. A mean over k tasks has the standard
error √(Σ se²)/k, the questions of different tasks being independent.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any
from warnings import warn

import torch
from torch import nn

from spectra.checkpoint.quiet import first_line
from spectra.errors import DataError, InputWarning, OutOfMemoryError, SpectraError, UsageError
from spectra.train.tasks import LoadedTasks, quiet_harness

BOOTSTRAPS = 1000  # for metrics that are no means and have no formula for their error
ACC, NORMALIZED = "acc", "acc_norm"


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task.

    Attributes:
        task: Name of the task.
        metric: acc, acc_norm, or whatever the task defines.
        value: The metric.
        se: Its standard error; None if the harness knows none.
        examples: Questions asked, n.
        available: Questions that the task has.
        version: Version of the task.
    """

    task: str
    metric: str
    value: float
    se: float | None
    examples: int
    available: int
    version: str


@dataclass(frozen=True)
class Mean:
    """A mean over tasks with its standard error."""

    value: float
    se: float | None
    tasks: int


@dataclass(frozen=True)
class TaskReport:
    """What a model scores.

    Attributes:
        scores: One entry for each metric of each task.
        limit: Questions of each task at most, or None.
        requests: Log-likelihoods taken.
        truncated: Those whose text was longer than the model's context and lost its beginning.
        seconds: Wall time.
        harness: Version of lm_eval.
    """

    scores: tuple[TaskScore, ...]
    limit: int | None
    requests: int
    truncated: int
    seconds: float
    harness: str

    def mean(self, *, normalized: bool = False) -> Mean | None:
        """Return the mean over the tasks that have an accuracy; None if none has.

        Args:
            normalized: Take acc_norm of the tasks that define it, and acc of the others.
        """
        chosen = {s.task: s for s in self.scores if s.metric == ACC}
        if normalized:
            chosen |= {s.task: s for s in self.scores if s.metric == NORMALIZED}
        if not chosen:
            return None
        errors = [s.se for s in chosen.values()]
        known = [e for e in errors if e is not None]
        total = sum(e * e for e in known) ** 0.5 / len(errors)
        value = sum(s.value for s in chosen.values()) / len(chosen)
        return Mean(value, total if len(known) == len(errors) else None, len(chosen))

    def metadata(self) -> dict[str, Any]:
        """Return the `tasks` section of the file."""
        plain, normalized = self.mean(), self.mean(normalized=True)
        return asdict(self) | {
            "num_fewshot": 0,
            "mean_acc": None if plain is None else asdict(plain),
            "mean_acc_norm_or_acc": None if normalized is None else asdict(normalized),
        }


def run_tasks(
    model: nn.Module,
    tokenizer: Any,
    tasks: LoadedTasks,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    autocast: torch.dtype | None = None,
    show: bool = True,
) -> TaskReport:
    """Return the zero-shot scores of a model.

    Args:
        model: A causal language model; neither it nor its tokenizer is changed.
        tokenizer: Its tokenizer.
        tasks: What `load_tasks` returned.
        limit: The first so many questions of each task; None for all.
        batch_size: Texts in a forward.
        autocast: Type of matrix products, or None for that of the weights.
        show: Whether there are progress bars, on stderr where that is a terminal.

    Raises:
        UsageError: If the model has no tokenizer.
        DataError: If a task cannot be run on the model.
        OutOfMemoryError: If a batch does not fit.
    """
    if tokenizer is None:
        raise UsageError("tasks are text and the checkpoint has no tokenizer; pass --tokenizer.")
    from lm_eval.evaluator import evaluate

    started, training = time.monotonic(), model.training
    for task in tasks.tasks.values():
        task.set_config(key="num_fewshot", value=0)
    try:
        with quiet_harness(), _untied(model):
            harness = _language_model(
                model, tokenizer, batch_size, autocast, show and sys.stderr.isatty()
            )
            found = evaluate(
                lm=harness,
                task_dict={"tasks": tasks.tasks, "groups": {}},
                limit=limit,
                bootstrap_iters=BOOTSTRAPS,
                log_samples=False,
            )
    except SpectraError:
        raise
    except Exception as error:  # tasks are code and data of others
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise OutOfMemoryError(
                f"a batch of {batch_size} texts does not fit into memory; lower "
                "--per_device_eval_batch_size."
            ) from None
        raise DataError(
            f"tasks={','.join(tasks.tasks)!r} cannot be run on this model: {first_line(error)}."
        ) from error
    finally:
        model.train(training)
    if harness.truncated:
        warn(
            f"{harness.truncated} of {harness.requests} texts are longer than the "
            f"{harness.max_length} tokens this model was built for and lost their beginnings; "
            "their scores are those of a shorter question.",
            InputWarning,
            stacklevel=2,
        )
    return TaskReport(
        scores=tuple(score for name in tasks.tasks for score in _scores(name, found)),
        limit=limit,
        requests=harness.requests,
        truncated=harness.truncated,
        seconds=time.monotonic() - started,
        harness=version("lm_eval"),
    )


def _scores(name: str, found: Any) -> Iterator[TaskScore]:
    results, counts = found["results"][name], found["n-samples"][name]
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        se = results.get(f"{metric}_stderr,{kind}")
        yield TaskScore(
            task=name,
            metric=metric if kind == "none" else f"{metric} ({kind})",
            value=float(value),
            se=float(se) if isinstance(se, int | float) else None,
            examples=int(counts["effective"]),
            available=int(counts["original"]),
            version=str(found["versions"].get(name)),
        )


def _language_model(
    model: nn.Module, tokenizer: Any, batch_size: int, autocast: torch.dtype | None, show: bool
) -> Any:
    from lm_eval.models.huggingface import HFLM

    class Counting(HFLM):  # type: ignore[misc]
        """Counts texts that do not fit, which the harness cuts with a line in its log."""

        requests = truncated = 0

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not show)

        def _loglikelihood_tokens(
            self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
        ) -> Any:
            self.requests += len(requests)
            # The last token is predicted, not read.
            self.truncated += sum(len(a) + len(b) > self.max_length + 1 for _, a, b in requests)
            return super()._loglikelihood_tokens(
                requests, disable_tqdm=disable_tqdm or not show, override_bs=override_bs
            )

    return Counting(
        pretrained=model,
        backend="causal",
        tokenizer=copy.deepcopy(tokenizer),  # it would be given a padding token
        batch_size=batch_size,
        mixed_precision_dtype=autocast,
    )


@contextmanager
def _untied(model: Any) -> Iterator[None]:
    """Keep the harness from tying weights, which would replace a head that is stored apart."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights
