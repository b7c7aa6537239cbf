"""Evaluation: every sample graded once, ours never counted as the model's."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from distill.evaluate import Answer, evaluate, left_out, scores
from filters import Fault, Outcome, UserError, Verdict
from filters.stats import summarise


def verdict(outcome: Outcome, fault: Fault | None = None) -> Verdict:
    return Verdict(outcome, fault, None, None, "because", "test", "1")


def shuffled(asked: Sequence[tuple[str, int]]) -> Iterator[Answer]:
    """Answers "prompt/index", in another order."""
    places = list(range(len(asked)))
    random.Random(0).shuffle(places)
    for place in places:
        prompt, index = asked[place]
        yield Answer(place, f"{prompt}/{index}", "length" if index == 3 else "stop", 5, seed=place)


def score(prompt: str, completion: str, finish_reason: str) -> Verdict:
    """Every even sample is right, a cut one is truncated."""
    assert completion.startswith(f"{prompt}/")
    if finish_reason == "length":
        return verdict(Outcome.TRUNCATED)
    return verdict(Outcome.CORRECT if int(completion[-1]) % 2 == 0 else Outcome.INCORRECT)


def test_rows_stand_by_prompt_and_sample_whatever_the_order() -> None:
    rows = evaluate(shuffled, ["a", "b", "c"], n=4, score_fn=score)
    assert [(row.prompt, row.sample_index) for row in rows] == [(p, i) for p in "abc" for i in range(4)]
    assert [row.completion for row in rows] == [f"{p}/{i}" for p in "abc" for i in range(4)]
    assert [row.verdict.score for row in rows] == [1, 0, 1, 0] * 3
    assert [row.seed for row in rows] == list(range(12))
    assert [row.finish_reason for row in rows[:4]] == ["stop", "stop", "stop", "length"]


def test_answers_are_graded_while_sampling_goes_on() -> None:
    events: list[str] = []

    def sample(asked: Sequence[tuple[str, int]]) -> Iterator[Answer]:
        for place in range(len(asked)):
            events.append("drawn")
            yield Answer(place, "x", "stop")

    def grade(prompt: str, completion: str, finish_reason: str) -> Verdict:
        events.append("graded")
        return verdict(Outcome.CORRECT)

    evaluate(sample, ["a", "b"], n=2, score_fn=grade)
    assert events == ["drawn", "graded"] * 4


def fails_on(count: int, outcome: Outcome, fault: Fault | None) -> list[float | None]:
    """Scores of 200 samples of which the first `count` end like this."""

    def grade(prompt: str, completion: str, finish_reason: str) -> Verdict:
        return verdict(outcome, fault) if int(prompt) < count else verdict(Outcome.CORRECT)

    rows = evaluate(shuffled, [str(i) for i in range(200)], n=1, score_fn=grade)
    assert len(left_out(rows)) == sum(row.verdict.score is None for row in rows)
    return [row.verdict.score for row in rows]


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [(Outcome.ERROR, Fault.SYSTEM), (Outcome.UNPARSABLE, Fault.GOLD), (Outcome.UNVERIFIABLE, None)],
)
def test_failures_of_ours_are_left_out_up_to_one_per_cent(outcome: Outcome, fault: Fault | None) -> None:
    assert fails_on(2, outcome, fault) == [None] * 2 + [1] * 198
    with pytest.raises(
        UserError, match=r"3 of 200 samples could not be graded \(1.5%, allowed 1.0%\).*because"
    ):
        fails_on(3, outcome, fault)


@pytest.mark.parametrize("outcome", [Outcome.UNPARSABLE, Outcome.TIMEOUT])
def test_failures_of_the_model_are_wrong(outcome: Outcome) -> None:
    assert fails_on(50, outcome, Fault.PREDICTION) == [0] * 50 + [1] * 150


def test_samples_that_never_came_are_not_passed_over() -> None:
    with pytest.raises(UserError, match="2 of 6 samples never came back"):
        evaluate(lambda asked: list(shuffled(asked))[2:], ["a", "b", "c"], n=2, score_fn=score)


@pytest.mark.parametrize("place", [-1, 2, 0])
def test_an_answer_nobody_asked_for_is_a_fault(place: int) -> None:
    answers = [Answer(0, "a/0", "stop"), Answer(place, "a/0", "stop")]
    with pytest.raises(ValueError, match=f"place {place}"):
        evaluate(lambda asked: answers, ["a"], n=2, score_fn=lambda *_: verdict(Outcome.CORRECT))


def test_scores_feed_the_statistics() -> None:
    rows = evaluate(shuffled, ["a", "b"], n=4, score_fn=score)
    metrics = {metric.name: metric for metric in summarise(scores(rows, str.upper), ks=(1, 2, 4))}
    assert scores(rows, str.upper).keys() == {"A", "B"}
    assert [metrics[f"pass@{k}"].value for k in (1, 2, 4)] == pytest.approx([1 / 2, 5 / 6, 1])
    assert metrics["pass@1"].n == 8 and metrics["pass@1"].prompts == 2


def test_nothing_to_evaluate() -> None:
    with pytest.raises(UserError, match="no prompts"):
        evaluate(shuffled, [], n=2, score_fn=score)
    with pytest.raises(UserError, match="n is 0"):
        evaluate(shuffled, ["a"], n=0, score_fn=score)


def test_importing_it_loads_no_jax() -> None:
    code = "import sys, distill.evaluate; sys.exit('jax' in sys.modules or 'tunix' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
