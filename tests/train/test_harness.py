"""Zero-shot accuracy: equal to what is computed without the harness, and what is refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from spectra.checkpoint import load_checkpoint
from spectra.cli.main import main
from spectra.errors import DataError, InputWarning, UsageError
from spectra.quant import convert
from spectra.train.harness import Mean, TaskReport, TaskScore, run_tasks
from spectra.train.tasks import WINQ, load_tasks
from tests.train.tasks import QUESTIONS, best, log_likelihoods, write_task

N = len(QUESTIONS)


@pytest.fixture(scope="module")
def quantized():
    return load_checkpoint("tiny", device="cpu", w_bits=2)


@pytest.fixture(scope="module")
def plain():
    return load_checkpoint("tiny", device="cpu")


@pytest.fixture(scope="module")
def rows(quantized):
    """Log-likelihoods under the quantized model, with Q(W) written into plain layers."""
    folded = copy.deepcopy(quantized.model)
    convert(folded)
    return log_likelihoods(folded, quantized.tokenizer)


def score(report, metric, task="local_code"):
    (found,) = [s for s in report.scores if (s.task, s.metric) == (task, metric)]
    return found


@pytest.fixture
def harness():
    return pytest.importorskip("lm_eval")


def test_accuracy_is_that_of_the_log_likelihoods(harness, quantized, rows, tmp_path):
    right, longest = best(rows), best(rows, normalized=True)
    answers = [(c + (i % 4 == 0)) % 3 for i, c in enumerate(right)]  # two of eight are wrong
    assert longest != right
    report = run_tasks(
        quantized.model, quantized.tokenizer, load_tasks(str(write_task(tmp_path, answers)))
    )
    acc = score(report, "acc")
    assert (acc.value, acc.examples, acc.available) == (0.75, N, N)
    assert acc.se == pytest.approx((0.75 * 0.25 / (N - 1)) ** 0.5)
    expected = sum(a == b for a, b in zip(answers, longest, strict=True)) / N
    assert score(report, "acc_norm").value == expected
    assert acc.version == "1.5"
    assert (report.requests, report.truncated) == (3 * N, 0)


def test_quantized_and_float_answer_differently(harness, quantized, plain, rows, tmp_path):
    floats = log_likelihoods(plain.model, plain.tokenizer)
    gaps = torch.tensor(rows) - torch.tensor(floats)
    assert float(gaps.abs().min()) > 1e-3
    answers = best(rows)
    expected = sum(a == b for a, b in zip(answers, best(floats), strict=True)) / N
    assert expected < 1
    tasks = load_tasks(str(write_task(tmp_path, answers)))
    found = [run_tasks(c.model, c.tokenizer, tasks).mean().value for c in (quantized, plain)]
    assert found == [1, expected]


def test_model_and_tokenizer_stay_as_they_are(harness, plain, tmp_path):
    # config.json ties head and embedding, and the head is stored apart: the harness would tie them.
    model, tokenizer = copy.deepcopy(plain.model), copy.deepcopy(plain.tokenizer)
    model.lm_head.weight = torch.nn.Parameter(-model.lm_head.weight.detach())
    tokenizer.pad_token = None
    expected = best(log_likelihoods(model, tokenizer))
    model.train()
    report = run_tasks(model, tokenizer, load_tasks(str(write_task(tmp_path, expected))))
    assert report.mean().value == 1
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert tokenizer.pad_token is None
    assert model.training
    assert "tie_weights" not in vars(model)


def test_questions_may_be_limited(harness, plain, tmp_path):
    rows = log_likelihoods(plain.model, plain.tokenizer)
    tasks = load_tasks(str(write_task(tmp_path, best(rows))))
    report = run_tasks(plain.model, plain.tokenizer, tasks, limit=3)
    assert [(s.examples, s.available) for s in report.scores] == [(3, N)] * 2
    (alone,) = [
        s
        for s in run_tasks(plain.model, plain.tokenizer, tasks, limit=1).scores
        if s.metric == "acc"
    ]
    assert alone.se is None  # one answer tells nothing of its spread


def test_texts_that_do_not_fit_are_told(harness, plain, tmp_path):
    long = [(question + " #" * 300, choices) for question, choices in QUESTIONS[:2]]
    tasks = load_tasks(str(write_task(tmp_path, [0, 0], questions=long)))
    with pytest.warns(InputWarning, match="6 of 6 texts are longer than the 256 tokens"):
        report = run_tasks(plain.model, plain.tokenizer, tasks)
    assert (report.truncated, report.requests) == (6, 6)


def test_directory_of_tasks(harness, plain, tmp_path):
    rows = log_likelihoods(plain.model, plain.tokenizer)
    right = best(rows)
    write_task(tmp_path / "mine", right, name="all_right")
    write_task(tmp_path / "mine" / "below", [(c + 1) % 3 for c in right], name="all_wrong")
    tasks = load_tasks(f"{tmp_path / 'mine'}")
    report = run_tasks(plain.model, plain.tokenizer, tasks)
    assert score(report, "acc", "all_right").value == 1
    assert score(report, "acc", "all_wrong").value == 0
    assert report.mean() == Mean(0.5, 0.0, 2)
    write_task(tmp_path / "other", right, name="all_right")
    with pytest.raises(UsageError, match="defines 'all_right', which"):
        load_tasks(f"{tmp_path / 'mine'},{tmp_path / 'other'}")


def test_mean_over_tasks():
    def entry(task, metric, value, se):
        return TaskScore(task, metric, value, se, 10, 10, "1")

    scores = (
        entry("a", "acc", 0.5, 0.03),
        entry("a", "acc_norm", 0.7, 0.01),
        entry("b", "acc", 0.3, 0.04),
        entry("c", "word_perplexity", 20.0, None),
    )
    report = TaskReport(scores, None, 20, 0, 1.0, "0")
    assert report.mean() == Mean(pytest.approx(0.4), pytest.approx(0.025), 2)
    wide = report.mean(normalized=True)
    assert wide == Mean(pytest.approx(0.5), pytest.approx((0.01**2 + 0.04**2) ** 0.5 / 2), 2)
    assert TaskReport(scores[3:], None, 1, 0, 1.0, "0").mean() is None
    unknown = TaskReport((entry("a", "acc", 0.5, None), scores[2]), None, 1, 0, 1.0, "0")
    assert unknown.mean() == Mean(0.4, None, 2)
    assert json.loads(json.dumps(report.metadata()))["mean_acc"]["tasks"] == 2


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (" , ", "names no task"),
        ("./nowhere.yaml", "does not exist"),
        ("{tmp}", "holds no .yaml file"),
        ("{tmp}/broken.yaml", "cannot be loaded"),
        ("{tmp}/nosplit.yaml", "cannot be loaded"),
    ],
)
def test_what_is_no_task_is_refused(harness, names, words, tmp_path):
    if "{tmp}/" in names:
        (tmp_path / "broken.yaml").write_text("task: [")
        write_task(tmp_path, [0] * N, name="nosplit", test_split="validation")
    with pytest.raises(UsageError, match=words):
        load_tasks(names.format(tmp=tmp_path))


def test_data_that_is_not_there_is_refused(harness, tmp_path):
    path = write_task(
        tmp_path, [0] * N, dataset_kwargs={"data_files": {"test": str(tmp_path / "no.jsonl")}}
    )
    with pytest.raises(DataError, match="start from the current directory"):
        load_tasks(str(path))


def test_hub_that_cannot_be_reached(harness, tmp_path, monkeypatch):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"hub cannot be reached .* run it once with network"):
        load_tasks(str(write_task(tmp_path, [0] * N)))


def test_model_without_tokenizer_is_refused(harness, plain, tmp_path):
    tasks = load_tasks(str(write_task(tmp_path, [0] * N)))
    with pytest.raises(UsageError, match="has no tokenizer"):
        run_tasks(plain.model, None, tasks)


def test_without_the_harness_the_cure_is_told(monkeypatch):
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[eval\]'"):
        load_tasks("winq")


@pytest.mark.slow
def test_the_eight_tasks_of_the_paper_run(harness, plain, monkeypatch):
    import datasets

    arc = {
        "question": "What is it?",
        "choices": {"text": ["one", "two"], "label": ["A", "B"]},
        "answerKey": "B",
    }
    rows = {
        "allenai/ai2_arc": arc,
        "aps/super_glue": {"passage": "It is so.", "question": "is it so", "label": 1},
        "baber/piqa": {"goal": "To do it", "sol1": "do", "sol2": "do not", "label": 0},
        "lighteval/siqa": {
            "context": "It was.",
            "question": "Why?",
            **{f"answer{letter}": letter for letter in "ABC"},
            "label": "2",
        },
        "Rowan/hellaswag": {
            "activity_label": "Doing",
            "ctx_a": "It is",
            "ctx_b": "and it",
            "endings": ["is.", "was.", "will be.", "[title] not."],
            "label": "3",
        },
        "allenai/openbookqa": {"question_stem": "It is"} | arc,
        "allenai/winogrande": {
            "sentence": "It is _ here.",
            "option1": "cold",
            "option2": "hot",
            "answer": "1",
        },
    }

    def load(path, name=None, **_):
        part = datasets.Dataset.from_list([rows[path]] * 3)
        return datasets.DatasetDict({"train": part, "validation": part, "test": part})

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UsageError, match=r"did you mean .*openbookqa"):
        load_tasks("openbook_qa")
    report = run_tasks(plain.model, plain.tokenizer, load_tasks("winq"))
    accuracies = [s for s in report.scores if s.metric == "acc"]
    assert tuple(s.task for s in accuracies) == WINQ
    assert all(s.examples == 3 and s.value in (0, 1) for s in accuracies)
    assert report.mean(normalized=True).tasks == 8
    normed = {s.task for s in report.scores if s.metric == "acc_norm"}
    assert normed == {"arc_easy", "arc_challenge", "piqa", "hellaswag", "openbookqa"}


def test_tasks_from_the_command_line(harness, rows, tmp_path, capsys):
    path = write_task(tmp_path, best(rows))
    output = tmp_path / "out"
    arguments = ["--model", "tiny", "--w_bits", "2", "--do_train", "false", "--do_eval"]
    arguments += ["--eval_blocks", "0", "--tasks", str(path), "--output", str(output)]
    assert main(["train", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "local_code  acc       1.0000 ± 0.0000  n 8" in printed
    assert "mean of 1   acc       1.0000 ± 0.0000" in printed
    written = json.loads((output / "spectra_evaluation.json").read_text())
    assert written["heldout"] is None
    assert written["checkpoint"]["w_bits"] == 2
    assert written["tasks"]["num_fewshot"] == 0
    assert written["tasks"]["mean_acc"] == {"value": 1.0, "se": 0.0, "tasks": 1}
