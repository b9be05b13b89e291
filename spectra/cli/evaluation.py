"""What `spectra train` prints of an evaluation, on stdout."""

from __future__ import annotations

from spectra.train.evaluation import Evaluation, Heldout
from spectra.train.harness import Mean, TaskReport, TaskScore


def print_evaluation(evaluation: Evaluation) -> None:
    """Print what an evaluation came to."""
    meta = evaluation.checkpoint
    bits = "float" if meta.w_bits is None else f"{meta.quantizer} w{meta.w_bits:g}a{meta.a_bits:g}"
    print(f"evaluated            {meta.path} ({bits}, {evaluation.precision})")
    for note in meta.notes:
        print(f"note                 {note}")
    if evaluation.heldout is not None:
        _print_heldout(evaluation.heldout)
    if evaluation.tasks is not None:
        _print_tasks(evaluation.tasks)


def _print_heldout(found: Heldout) -> None:
    relative = "" if found.loss_se is None else f" ± {found.perplexity * found.loss_se:.2g}"
    absolute = "" if found.loss_se is None else f" ± {found.loss_se:.2g}"
    print(f"held-out perplexity  {found.perplexity:.5g}{relative}")
    print(f"held-out loss        {found.loss:.5f}{absolute} nats a token")
    print(
        f"tokens               {found.tokens:,} predictions in {found.blocks:,} blocks of "
        f"{found.seq_len}"
    )
    print(f"source               {found.source}")
    print(f"cost                 {found.seconds:.1f} s")


def _print_tasks(report: TaskReport) -> None:
    width = max([len(score.task) for score in report.scores] + [len("mean of 00")])
    print("zero-shot tasks      ± is one standard error")
    for score in report.scores:
        asked = f"{score.examples:,}"
        if score.examples < score.available:
            asked += f" of {score.available:,}"
        print(f"  {score.task:<{width}}  {score.metric:<9} {_plus_minus(score)}  n {asked}")
    plain, normalized = report.mean(), report.mean(normalized=True)
    if plain is not None:
        print(f"  {f'mean of {plain.tasks}':<{width}}  acc       {_plus_minus(plain)}")
    if normalized is not None and normalized != plain:
        print(
            f"  {f'mean of {normalized.tasks}':<{width}}  acc_norm  {_plus_minus(normalized)}  "
            "(acc of the tasks without)"
        )
    print(f"cost                 {report.seconds:.1f} s, lm_eval {report.harness}")


def _plus_minus(score: TaskScore | Mean) -> str:
    se = "" if score.se is None else f" ± {score.se:.4f}"
    return f"{score.value:.4f}{se}"
