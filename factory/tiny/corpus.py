"""The synthetic corpus of the tiny base models: mostly guesses, some thinking, little of it clean.

A base in R1-Zero's sense: thinking must be *possible* (its steps mostly right) and must not be the habit
(a bare guess is the most likely way to begin). Every sample is drawn from a seed; a question whose hash
falls into the validation or test split never comes in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from factory.tiny.solutions import Language, Phrase, Slips, guess, render, solve
from factory.tiny.tasks import Problem, problems, split_of_question, training_rungs
from filters.tags import R1_ZERO

STYLES = {"worked": 0.20, "sloppy": 0.12, "guess": 0.45, "untagged": 0.15, "rambling": 0.08}
LANGUAGES: dict[Language, float] = {"en": 0.50, "zh": 0.20, "switch": 0.15, "words": 0.15}
SLIPS = {
    "worked": Slips(wrong=0.02, noticed=0.2),
    "sloppy": Slips(wrong=0.10, noticed=0.5),
    "untagged": Slips(wrong=0.03, noticed=0.2),
}
GUESS_RIGHT = 0.25
CORPUS_SEED_BASE = 1_000_003


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion of the corpus: its text, the style and language that made it."""

    completion: str
    style: str
    language: str


@dataclass(frozen=True, slots=True)
class Group:
    """A question with several completions."""

    problem: Problem
    samples: tuple[Sample, ...]


def corpus_problems(seed: int, per_rung: dict[str, int]) -> Iterator[Problem]:
    """The questions of the corpus, rung after rung: distinct within a rung, all of the train split.

    Args:
        seed: of the questions.
        per_rung: task -> distinct questions a rung (fewer where the rung has no more).
    """
    for position, rung in enumerate(training_rungs()):
        source = problems(rung, CORPUS_SEED_BASE * (seed + 1) + position * 10_000_019, "train")
        yield from itertools.islice(source, per_rung[rung.task])


def groups(seed: int, per_rung: dict[str, int], completions: dict[str, int]) -> Iterator[Group]:
    """The corpus, rung after rung.

    Args:
        seed: of the questions and of everything written about them.
        per_rung: task -> distinct questions a rung.
        completions: task -> completions a question.
    """
    for problem in corpus_problems(seed, per_rung):
        rng = Random(f"{seed}:{problem.task}:{problem.question}")
        yield group_of(problem, rng, completions[problem.task])


def group_of(problem: Problem, rng: Random, completions: int) -> Group:
    """Completions for one problem.

    Raises:
        ValueError: for a question of the validation or test split.
    """
    split = split_of_question(problem.question)
    if split != "train":
        raise ValueError(
            f"a question of the {split} split must not come into the corpus: {problem.question!r}"
        )
    return Group(problem, tuple(sample_of(problem, rng) for _ in range(completions)))


def sample_of(problem: Problem, rng: Random) -> Sample:
    """One completion: a style, a language, and whatever comes of them."""
    style = _draw(STYLES, rng)
    if style == "guess":
        return Sample(f"<answer> {_guess(problem, rng)} </answer>", style, "none")
    language: Language = _draw(LANGUAGES, rng)
    if style == "rambling":
        return Sample(_ramble(problem, language, rng), style, language)
    try:
        solution = solve(problem.task, problem.metadata, rng, SLIPS[style])
    except ValueError:  # countdown that needs a negative number on the way
        return Sample(f"<answer> {_guess(problem, rng)} </answer>", "guess", "none")
    if style == "untagged":
        said = (*solution.clauses, Phrase("so", solution.answer))
        return Sample(render(said, language, rng), style, language)
    return Sample(R1_ZERO.format(render(solution.clauses, language, rng), solution.answer), style, language)


def _guess(problem: Problem, rng: Random) -> str:
    return guess(problem.task, problem.answer, problem.metadata, rng, GUESS_RIGHT)


def _ramble(problem: Problem, language: Language, rng: Random) -> str:
    """Words without work: hesitation, perhaps a guess, the format kept or broken."""
    keys = rng.choices(("hard", "unsure", "again", "numbers", "think"), k=rng.randint(1, 4))
    phrases = tuple(Phrase(key) for key in keys)
    answer = _guess(problem, rng)
    kind = rng.random()
    if kind < 0.4:
        return R1_ZERO.format(render((*phrases, Phrase("guess")), language, rng), answer)
    if kind < 0.6:
        return f"<think> {render(phrases, language, rng)} </think>"
    if kind < 0.8:
        return f"<think> {render((*phrases, Phrase('maybe', answer)), language, rng)}"
    return render((*phrases, Phrase("maybe", answer)), language, rng)


def _draw(shares, rng: Random):  # type: ignore[no-untyped-def]
    return rng.choices(list(shares), list(shares.values()))[0]
