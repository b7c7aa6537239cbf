"""The tasks of the tiny models: reasoning-gym problems on a ladder of difficulty, split by question.

The list itself is data, `sources/tiny.yaml` in the catalogue; `RUNGS` reads it once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from factory.catalogue_path import catalogue_dir
from factory.records import question_hash, split_of
from filters.verifiers.puzzle import load_reasoning_gym

VALIDATION_SHARE = 0.05
TEST_SHARE = 0.10


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a task's ladder.

    Attributes:
        task: name in reasoning-gym.
        rung: 1 is the easiest.
        domain: what the task asks for, as a word.
        config: reasoning-gym's configuration of the task.
        heldout_rung: True where no training may use the rung.
    """

    task: str
    rung: int
    domain: str
    config: dict[str, Any] = field(hash=False)
    heldout_rung: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of reasoning-gym.

    Attributes:
        task: name in reasoning-gym.
        rung: step of the ladder.
        question: the package's own text, stripped.
        answer: the package's reference answer.
        metadata: the package's metadata (numbers, target, ...).
        split: "train", "validation" or "test", by the question's hash alone.
        index: index in the data set that `dataset_of` makes from the rung and its seed.
    """

    task: str
    rung: int
    question: str
    answer: str
    metadata: dict[str, Any] = field(hash=False)
    split: str
    index: int


@functools.cache
def rungs() -> tuple[Rung, ...]:
    """All rungs of `sources/tiny.yaml`, the held-out ones too."""
    text = (catalogue_dir() / "sources" / "tiny.yaml").read_text(encoding="utf-8")
    return tuple(
        Rung(t["task"], t["rung"], t["domain"], t["config"], t.get("heldout_rung", False))
        for t in yaml.safe_load(text)["tasks"]
    )


def training_rungs() -> tuple[Rung, ...]:
    """The rungs that training may use."""
    return tuple(rung for rung in rungs() if not rung.heldout_rung)


def task_names() -> tuple[str, ...]:
    """Names of the tasks, in the order of the catalogue."""
    return tuple(dict.fromkeys(rung.task for rung in rungs()))


def split_of_question(question: str) -> str:
    """Split of a question: 10 % test, 5 % validation, the rest train."""
    return split_of(question_hash(question), validation=VALIDATION_SHARE, test=TEST_SHARE)


def dataset_of(rung: Rung, seed: int) -> Any:
    """The rung's reasoning-gym data set; item i is reproducible from (config, seed, i)."""
    return load_reasoning_gym().create_dataset(rung.task, seed=seed, size=2**31 - 1, **rung.config)


def problems(rung: Rung, seed: int, split: str) -> Iterator[Problem]:
    """Distinct problems of one rung that fall into `split`, in the order of the data set's index.

    Ends once 20,000 indices in a row brought nothing new: a rung has only so many questions.
    """
    dataset = dataset_of(rung, seed)
    seen: set[str] = set()
    index, barren = 0, 0
    while barren < 20_000:
        item = dataset[index]
        question = item["question"].strip()
        barren += 1
        if question not in seen:
            seen.add(question)
            if split_of_question(question) == split:
                barren = 0
                yield Problem(rung.task, rung.rung, question, item["answer"], item["metadata"], split, index)
        index += 1
