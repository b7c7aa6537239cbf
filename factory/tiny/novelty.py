"""How new the held-out questions of the tiny tasks are.

    python -m factory.tiny.novelty [--split test] [--prompts 64]

No held-out question stands in the corpus, by construction. But a question may ask the same in other words or
in another order ("gcd of 12, 8" and "gcd of 8, 12"), and every question shares its sentence with thousands.
So two numbers a task: the share of held-out questions whose *problem* (numbers without order, without
wording) the corpus never asks, and the share whose *sentence* (every number replaced) it never uses.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from factory.sources import gym
from factory.tiny.build import QUESTIONS
from factory.tiny.corpus import corpus_problems
from factory.tiny.measure import held_out
from factory.tiny.tasks import Problem, task_names


def problem_of(problem: Problem) -> tuple[Any, ...]:
    """What is asked, whatever the order and the wording."""
    found = gym.problem_of(problem.task, problem.metadata)
    assert found is not None, problem.task
    return found


def sentence_of(problem: Problem) -> str:
    """The question with every number and every animal replaced."""
    text = re.sub(r"\d+", "N", problem.question)
    if problem.task == "leg_counting":
        text = re.sub(r"if you have .*", "if you have " + " A" * len(problem.metadata["animals"]), text)
    return re.sub(r" [+-] ", " ± ", text)


def novelty(corpus: Iterable[Problem], held: Sequence[Problem]) -> dict[str, dict[str, float]]:
    """Share of held-out questions, by task, that are new as problems and as sentences."""
    known_problems, known_sentences = set(), set()
    for problem in corpus:
        known_problems.add(problem_of(problem))
        known_sentences.add(sentence_of(problem))
    out = {}
    for task in task_names():
        own = [problem for problem in held if problem.task == task]
        out[task] = {
            "questions": len(own),
            "new_problem": sum(problem_of(p) not in known_problems for p in own) / len(own),
            "new_sentence": sum(sentence_of(p) not in known_sentences for p in own) / len(own),
        }
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m factory.tiny.novelty", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--prompts", type=int, default=64, help="prompts a task")
    parser.add_argument("--seed", type=int, default=7, help="of the held-out prompts")
    options = parser.parse_args(arguments)
    held = held_out(options.split, options.prompts, options.seed)
    for task, figures in novelty(corpus_problems(0, QUESTIONS), held).items():
        shares = f"new problem {figures['new_problem']:.1%}, new sentence {figures['new_sentence']:.1%}"
        sys.stdout.write(f"{task}: {figures['questions']:.0f} questions, {shares}\n")


if __name__ == "__main__":
    main()
