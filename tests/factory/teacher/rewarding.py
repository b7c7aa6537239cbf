"""What the tests of rewards share: samples, a grader that is told what to say, a scorer that listens."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from factory.teacher.reward_settings import Rewards
from factory.teacher.rewards import Reward, RewardFunction, Sampled
from filters.tags import R1_ZERO, TagStyle
from filters.verdict import Fault, Outcome, Verdict
from filters.workers import GradeTask

GOOD = "<think> we add three and four, and that is seven </think> <answer> 7 </answer>"
WRONG = "<think> we add three and four, and that is eight </think> <answer> 8 </answer>"
LIMIT = 1000


class ToldPool:
    """A pool that says what it is told, and keeps what it was asked."""

    def __init__(self, outcome: Outcome = Outcome.CORRECT, fault: Fault | None = None) -> None:
        self.verdict = Verdict(outcome, fault, None, None, "planted", "math", "1")
        self.tasks: list[GradeTask] = []

    def verify(self, tasks: Iterable[GradeTask]) -> Iterator[Verdict]:
        for task in tasks:
            self.tasks.append(task)
            yield self.verdict


class Listener:
    """A scorer that keeps what it was shown."""

    def __init__(self, sees: str, scores: Sequence[float | None] | float = 0.5, name: str = "rm") -> None:
        self.name, self.sees, self.scores = name, sees, scores
        self.shown: list[tuple[str, str]] = []
        self.calls = 0

    def score(self, items: Sequence[tuple[str, str]]) -> list[float | None]:
        self.calls += 1
        self.shown += items
        return [self.scores] * len(items) if isinstance(self.scores, int | float) else list(self.scores)


def row(**more: Any) -> dict[str, Any]:
    return {
        "prompt_id": "p1",
        "question": "What is 3 + 4?",
        "reference": "7",
        "verifier": "math",
        "verifier_args": None,
        "language": "en",
        **more,
    }


def sampled(completion: str = GOOD, *, tokens: Sequence[int] = range(50), reasoning: int = 10,
            truncated: bool = False, **prompt: Any) -> Sampled:  # fmt: skip
    return Sampled(row(**prompt), completion, tuple(tokens), reasoning, truncated)


def rewarded(
    settings: dict[str, Any],
    samples: Sampled | Sequence[Sampled],
    *,
    pool: Any = None,
    scorers: dict[str, Any] | None = None,
    step: int = 0,
    limit: int = LIMIT,
    style: TagStyle = R1_ZERO,
    opened: bool = False,
) -> list[Reward]:
    samples = [samples] if isinstance(samples, Sampled) else samples
    function = RewardFunction(
        Rewards.model_validate(settings), style, pool or ToldPool(), scorers, opened=opened
    )
    return function(samples, step, limit)


def preference(**more: Any) -> dict[str, Any]:
    return {"weight": 1.0, "scorer": "rm", **more}
