"""`kill -9` at random instants, again and again until the verb ends by itself."""

from __future__ import annotations

import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.children import STEPS, Child, Setup
from tests.torture.verbs import Verb, differences

CHAIN = 5  # kills of one directory, so that the end of a run is seen as often as its beginning
BEYOND = 1.2  # of the uninterrupted time: the machine may be busier now


@dataclass
class Score:
    """What became of the kills of one verb.

    Attributes:
        tried: Kills.
        survived: Kills of runs that ended with the same result.
        runs: Runs that ended.
        steps: Steps of an uninterrupted run.
        redone: Steps made more than once, in all.
        seconds: Of an uninterrupted run.
        lost: What was found wrong.
    """

    tried: int = 0
    survived: int = 0
    runs: int = 0
    steps: int = 0
    redone: int = 0
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)


class Reference:
    """An uninterrupted run of a verb: its result, its time, its steps."""

    def __init__(self, verb: Verb, root: Path, setup: Setup | None = None) -> None:
        self.verb, self.root = verb, root
        self.output, self.log = root / "whole", root / "log.txt"
        root.mkdir(parents=True, exist_ok=True)
        STEPS.set(0)
        began = time.monotonic()
        child = Child(verb.command(self.output), self.log, setup)
        code = child.wait()
        assert code == 0, f"{verb.name}: {child.said()}"
        self.seconds, self.steps = time.monotonic() - began, STEPS.value


def torture(
    reference: Reference,
    kills: int,
    draw: random.Random,
    signals: tuple[int, ...] = (signal.SIGKILL,),
    setup: Setup | None = None,
) -> Score:
    """Kill a verb `kills` times and return what became of it.

    Args:
        reference: Its uninterrupted run.
        kills: How often.
        draw: Of the instants.
        signals: What it is killed by, in turn.
        setup: Called in every child.
    """
    verb = reference.verb
    score = Score(steps=reference.steps, seconds=reference.seconds)
    while score.tried < kills:
        output = reference.root / "cut"
        shutil.rmtree(output, ignore_errors=True)
        STEPS.set(0)
        wrong: list[str] = []
        chain = 0
        while True:
            child = Child(verb.command(output), reference.log, setup)
            code = None
            if chain < CHAIN and score.tried + chain < kills:
                number = signals[(score.tried + chain) % len(signals)]
                code = child.kill(draw.uniform(0, BEYOND * reference.seconds), number)
                if code is None:
                    chain += 1
                    code = child.wait()
                    if number == signal.SIGKILL:
                        continue
                    if code in (128 + number, -number):  # the latter before it listened
                        wrong += _said(child, code)
                        continue
            else:
                code = child.wait()
            if code != 0:
                wrong.append(f"exit code {code}: {child.said()}")
            break
        wrong += differences(reference.output, output)
        redone = STEPS.value - reference.steps
        if not 0 <= redone <= chain * verb.redone:
            wrong.append(f"{redone} steps redone after {chain} kills")
        score.tried, score.runs = score.tried + chain, score.runs + 1
        score.redone += redone
        if wrong:
            score.lost += wrong
        else:
            score.survived += chain
    return score


def _said(child: Child, code: int) -> list[str]:
    """Return what is missing of what a verb says when it is asked to end."""
    said = child.said()
    if code < 0:
        return []
    word = "interrupted." if code == 128 + signal.SIGINT else "terminated."
    if word not in said or "Traceback" in said:
        return [f"exit code {code} without a word, or with too many: {said}"]
    return []
