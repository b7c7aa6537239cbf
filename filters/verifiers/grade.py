"""What a grader of one kind says, before it becomes a `Verdict`."""

from __future__ import annotations

from dataclasses import dataclass

from filters.verdict import Fault, Outcome


@dataclass(frozen=True, slots=True)
class Grade:
    """A grader's word on one extracted answer.

    Attributes:
        outcome, fault, explanation: as in `Verdict`.
        extracted: the text that was graded, None where none was found.
        span: (start, end) of that text in the answer given to the grader, in characters.
    """

    outcome: Outcome
    explanation: str
    fault: Fault | None = None
    extracted: str | None = None
    span: tuple[int, int] | None = None


def graded(correct: bool, explanation: str, extracted: str, span: tuple[int, int] | None) -> Grade:
    return Grade(Outcome.CORRECT if correct else Outcome.INCORRECT, explanation, None, extracted, span)


def bad_prediction(
    explanation: str, extracted: str | None = None, span: tuple[int, int] | None = None
) -> Grade:
    return Grade(Outcome.UNPARSABLE, explanation, Fault.PREDICTION, extracted, span)


def bad_gold(explanation: str) -> Grade:
    return Grade(Outcome.UNPARSABLE, explanation, Fault.GOLD)


def shown(text: str, limit: int = 60) -> str:
    """A text as it appears in an explanation: one line, quoted, at most `limit` characters of it."""
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else line[: limit - 1] + "…")
