"""Ask a model held-out questions and grade what it answers: in training, and for `factory eval`.

The caller brings the sampler and the grader as functions, so this module knows no engine, no verifier and no
file. Loading it loads no JAX. What the rows amount to (pass@k, maj@k, intervals) is for `filters.stats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from filters.errors import UserError
from filters.stats import SampleScore
from filters.verdict import Verdict

P = TypeVar("P")

MAX_LEFT_OUT = 0.01
"""Share of samples that may be left out because the gold answer or the grader failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion, as a sample function streams it.

    Attributes:
        place: index of the question in the list the sample function was given.
        completion: text without stop tokens.
        finish_reason: "stop" or "length".
        completion_tokens: tokens drawn, the stop token included; None where the engine does not tell.
        seed: the sample's seed, where it has one.
    """

    place: int
    completion: str
    finish_reason: str
    completion_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class EvalRow(Generic[P]):
    """One graded sample. `verdict.score` is 1, 0, or None where the sample is left out."""

    prompt: P
    sample_index: int
    completion: str
    finish_reason: str
    completion_tokens: int | None
    seed: int | None
    verdict: Verdict


SampleFn = Callable[[Sequence[tuple[P, int]]], Iterable[Answer]]
"""(prompt, sample index) pairs in, one answer for each in any order."""

ScoreFn = Callable[[P, str, str], Verdict]
"""(prompt, completion, finish reason) to a verdict."""


def evaluate(
    sample_fn: SampleFn[P],
    prompts: Sequence[P],
    *,
    n: int,
    score_fn: ScoreFn[P],
    max_left_out: float = MAX_LEFT_OUT,
) -> list[EvalRow[P]]:
    """Draw n samples a prompt and grade each as it comes, while the sampler goes on.

    Args:
        sample_fn: draws the answers.
        prompts: questions; nothing but the two functions looks into them.
        n: samples a prompt.
        score_fn: grades an answer.
        max_left_out: share of samples that may have no score.

    Returns:
        One row a sample, by prompt in the given order and then by sample index.

    Raises:
        UserError: where there is no prompt, where samples never came back, or where more than `max_left_out` of
            them have no score: then the suite says more about its gold answers or grader than about the model.
        ValueError: where the sample function answers a place twice or one that was not asked.
    """
    if not prompts:
        raise UserError("there is nothing to evaluate on: the suite has no prompts")
    if n < 1:
        raise UserError(f"n is {n}: draw at least 1 sample a prompt")
    asked = [(prompt, index) for prompt in prompts for index in range(n)]
    rows: list[EvalRow[P] | None] = [None] * len(asked)
    for answer in sample_fn(asked):
        if not 0 <= answer.place < len(asked):
            raise ValueError(f"an answer to place {answer.place}, but {len(asked)} questions were asked")
        if rows[answer.place] is not None:
            raise ValueError(f"two answers to place {answer.place}")
        prompt, index = asked[answer.place]
        rows[answer.place] = EvalRow(
            prompt=prompt,
            sample_index=index,
            completion=answer.completion,
            finish_reason=answer.finish_reason,
            completion_tokens=answer.completion_tokens,
            seed=answer.seed,
            verdict=score_fn(prompt, answer.completion, answer.finish_reason),
        )
    graded = [row for row in rows if row is not None]
    if len(graded) < len(asked):
        raise UserError(
            f"{len(asked) - len(graded)} of {len(asked)} samples never came back from the engine: an evaluation"
            " without them would not be one; see the engine's errors and run it again"
        )
    _check_left_out(graded, max_left_out)
    return graded


def left_out(rows: Sequence[EvalRow[P]]) -> list[EvalRow[P]]:
    """Rows without a score: the gold answer or the grader failed, not the model."""
    return [row for row in rows if row.verdict.score is None]


def scores(rows: Sequence[EvalRow[P]], prompt_id: Callable[[P], str]) -> dict[str, list[SampleScore]]:
    """Scores and votes by prompt, left-out ones included: what `filters.stats.summarise` takes.

    Args:
        rows: what `evaluate` returned, or a slice of it (one domain, say).
        prompt_id: identity of a prompt.
    """
    by_prompt: dict[str, list[SampleScore]] = {}
    for row in rows:
        by_prompt.setdefault(prompt_id(row.prompt), []).append(SampleScore.of(row.verdict))
    return by_prompt


def _check_left_out(rows: Sequence[EvalRow[P]], limit: float) -> None:
    missing = left_out(rows)
    if len(missing) > limit * len(rows):
        first = missing[0].verdict
        raise UserError(
            f"{len(missing)} of {len(rows)} samples could not be graded ({len(missing) / len(rows):.1%}, allowed"
            f" {limit:.1%}); the first: {first.grader} says {first.outcome}, fault {first.fault}:"
            f" {first.explanation}. Mend the suite's references or its grader"
        )
