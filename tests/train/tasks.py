"""Multiple-choice tasks in files, and the same scores computed without the harness."""

from __future__ import annotations

import json

import torch

QUESTIONS = [
    ("def main():", ["return None", "import os", "x"]),
    ("import", ["os", "numpy as np", "(self)"]),
    ("for i in", ["range(10):", "def", "True, False"]),
    ("class Error(", ["Exception):", "self", "0"]),
    ("if x is", ["None:", "while", "import sys"]),
    ("raise", ["ValueError", "__init__(self)", "a"]),
    ("self.assertEqual(", ["a, b)", "class", "lambda"]),
    ("with open(", ["path) as f:", "elif", "yield"]),
]


def write_task(directory, answers, *, name="local_code", questions=None, **changes):
    """A task of `lm_eval` in a .yaml file beside its data; returns the path of the .yaml file."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [
        {"question": question, "choices": choices, "answer": int(answer)}
        for (question, choices), answer in zip(questions or QUESTIONS, answers, strict=True)
    ]
    data = directory / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(directory / "cache"),
        },
        "output_type": "multiple_choice",
        "test_split": "test",
        "num_fewshot": 3,  # to be overruled: accuracy is zero-shot
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1.5},
    }
    path = directory / f"{name}.yaml"
    path.write_text(json.dumps(lines | changes))  # JSON is YAML
    return path


@torch.no_grad()
def log_likelihoods(model, tokenizer, questions=None):
    """log p(" " + choice | question) for each choice of each question, one text at a time."""
    found = []
    for question, choices in questions or QUESTIONS:
        start = len(tokenizer(question, add_special_tokens=False)["input_ids"])
        row = []
        for choice in choices:
            ids = tokenizer(f"{question} {choice}", add_special_tokens=False)["input_ids"]
            logp = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            row.append(sum(float(logp[t - 1, ids[t]]) for t in range(start, len(ids))))
        found.append(row)
    return found


def best(rows, questions=None, *, normalized=False):
    """The choice with the largest log-likelihood, or with the largest one per character."""
    result = []
    for row, (_, choices) in zip(rows, questions or QUESTIONS, strict=True):
        lengths = [len(choice) if normalized else 1 for choice in choices]
        scores = [value / length for value, length in zip(row, lengths, strict=True)]
        result.append(max(range(len(scores)), key=scores.__getitem__))
    return result
