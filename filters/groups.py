"""What needs all samples of a prompt: the vote of the majority."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from filters.dedup import normalise
from filters.verifiers.numbers import parse_number


@dataclass(frozen=True, slots=True)
class Vote:
    """What most samples of a prompt answered.

    Attributes:
        winners: vote keys with the most votes, sorted; several where they tie.
        count: votes of each winner.
        voters: samples that had an answer.
        samples: samples in all.
    """

    winners: tuple[str, ...]
    count: int
    voters: int
    samples: int

    @property
    def answer(self) -> str | None:
        """The answer of a strict plurality; None where answers tie or nobody voted."""
        return self.winners[0] if len(self.winners) == 1 else None


def vote_key(answer: str) -> str:
    """What an answer counts as: "1,000", "$1000" and "1000.0" are one vote, case and white space are none."""
    number = parse_number(answer)
    if number is None:
        return normalise(answer)
    return f"{number.value}%" if number.percent else str(number.value)


def majority(answers: Iterable[str | None]) -> Vote:
    """Count votes; None is a sample without an answer, which votes for nothing."""
    answers = list(answers)
    counts = Counter(vote_key(answer) for answer in answers if answer is not None)
    most = max(counts.values(), default=0)
    winners = tuple(sorted(key for key, count in counts.items() if count == most))
    return Vote(winners, most, counts.total(), len(answers))
