"""Rewards: who is paid, who leaves the group, and how one might be paid for nothing."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from factory.judge import NO_GRADER
from factory.teacher.reward_settings import Rewards
from factory.teacher.rewards import (
    Reward,
    compose,
    overlong_penalty,
    repetition_penalty,
)
from filters.errors import UserError
from filters.language import language_consistency
from filters.signals import signals
from filters.tags import R1_ZERO
from filters.verdict import Fault, Outcome
from filters.workers import WorkerPool
from tests.factory.teacher.rewarding import (
    GOOD,
    LIMIT,
    WRONG,
    Listener,
    ToldPool,
    preference,
    rewarded,
    row,
    sampled,
)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as one:
        yield one


# --------------------------------------------------------------------------------- the table of outcomes

TABLE = [
    (Outcome.CORRECT, None, 1.0),
    (Outcome.INCORRECT, None, 0.0),
    (Outcome.NOT_ATTEMPTED, None, 0.0),
    (Outcome.UNVERIFIABLE, None, None),
    *((outcome, Fault.PREDICTION, 0.0) for outcome in (Outcome.UNPARSABLE, Outcome.TIMEOUT, Outcome.ERROR)),
    *(
        (outcome, fault, None)
        for outcome in (Outcome.UNPARSABLE, Outcome.TIMEOUT, Outcome.ERROR)
        for fault in (Fault.GOLD, Fault.SYSTEM)
    ),
]


@pytest.mark.parametrize(("outcome", "fault", "pays"), TABLE)
def test_every_outcome(outcome: Outcome, fault: Fault | None, pays: float | None) -> None:
    [reward] = rewarded({"format": None}, sampled(), pool=ToldPool(outcome, fault))
    assert reward.total == pays
    assert reward.parts == ({} if pays is None else {"accuracy": pays})
    assert (reward.masked_because is None) == (pays is not None)
    if pays is None:
        assert str(outcome) in reward.masked_because and "planted" in reward.masked_because


def test_the_table_names_every_outcome() -> None:
    assert {outcome for outcome, _, _ in TABLE} | {Outcome.TRUNCATED} == set(Outcome)


@pytest.mark.parametrize(
    ("mode", "total"),
    [({"mode": "mask"}, None), ({"mode": "zero"}, 0.0), ({"mode": "penalise", "buffer_tokens": 100}, -1.0)],
)
def test_a_truncated_sample_by_mode(pool: WorkerPool, mode: dict[str, Any], total: float | None) -> None:
    cut = sampled(GOOD, truncated=True, tokens=range(LIMIT))  # it looks complete, and is not paid
    [reward] = rewarded({"overlong": mode}, cut, pool=pool)
    assert reward.verdict.outcome is Outcome.TRUNCATED
    assert reward.total == total
    assert reward.parts["format"] == 0.0 and reward.well_formed
    assert ("cut off" in (reward.masked_because or "")) == (total is None)


def test_null_masks_what_is_cut_off() -> None:
    assert Rewards.model_validate({"overlong": None}).overlong.mode == "mask"


def test_real_grader(pool: WorkerPool) -> None:
    samples = [
        sampled(GOOD),
        sampled(WRONG),
        sampled("<think> never closed"),
        sampled(GOOD, reference=None),  # the gold is broken, so nothing is known
    ]
    rewards = rewarded({}, samples, pool=pool)
    assert [one.total for one in rewards] == [2.0, 1.0, 0.0, None]
    assert rewards[3].verdict.fault is Fault.GOLD and "gold" in rewards[3].masked_because


def test_a_grader_fault_pays_nothing_whatever_else_is_on() -> None:
    scorer = Listener("summary", 1.0)
    settings = {"language": {}, "helpfulness": preference(),
                "token_budget": {"weight": 1, "high_band": [5, 20], "medium_band": [5, 10]}}  # fmt: skip
    broken = ToldPool(Outcome.ERROR, Fault.SYSTEM)
    [reward] = rewarded(settings, sampled(), pool=broken, scorers={"rm": scorer})
    assert reward.total is None
    assert "accuracy" not in reward.parts and "token_budget" not in reward.parts
    assert scorer.calls == 0


def test_a_grader_fault_masks_where_only_a_condition_needs_the_grade() -> None:
    broken = ToldPool(Outcome.ERROR, Fault.SYSTEM)
    gated = {"accuracy": None, "format": {"when": "correct"}}
    assert rewarded(gated, sampled(), pool=broken)[0].total is None
    free = {"accuracy": None, "format": {"when": "always"}}
    assert rewarded(free, sampled(), pool=broken)[0].total == 1.0


def test_the_task_is_the_prompt_row() -> None:
    told = ToldPool()
    args = json.dumps({"mode": "rubric", "criteria": ["x"]})
    rewarded({}, sampled(verifier="judge", verifier_args=args), pool=told, opened=True)
    [task] = told.tasks
    assert task.options == {"mode": "rubric", "criteria": ["x"]}
    assert (task.kind, task.reference, task.style, task.opened) == ("judge", "7", R1_ZERO, True)


def test_an_opened_prompt(pool: WorkerPool) -> None:
    rest = GOOD.removeprefix("<think>")
    assert rewarded({}, sampled(rest), pool=pool, opened=True)[0].total == 2.0
    assert rewarded({}, sampled(rest), pool=pool)[0].parts["format"] == 0.0


# ------------------------------------------------------------------------------------ without a grader


def test_a_prompt_without_a_grader_is_scored_by_the_rest() -> None:
    told, scorer = ToldPool(), Listener("summary", 0.25)
    samples = [sampled(), sampled(prompt_id="p2", verifier=NO_GRADER, reference=None)]
    first, second = rewarded(
        {"helpfulness": preference(prompts="general")}, samples, pool=told, scorers={"rm": scorer}
    )
    assert first.parts == {"accuracy": 1.0, "format": 1.0}
    assert second.parts == {"format": 1.0, "helpfulness": 0.25} and second.total == 1.25
    assert second.verdict.grader == NO_GRADER
    assert len(told.tasks) == 1 and len(scorer.shown) == 1


def test_where_nothing_can_be_scored_the_sample_is_masked() -> None:
    settings = {"format": {"when": "correct"}, "helpfulness": preference(from_step=10)}
    general = sampled(verifier=NO_GRADER, reference=None)
    scorers = {"rm": Listener("summary", 0.25)}
    [before] = rewarded(settings, general, scorers=scorers, step=9)
    assert before.total is None and before.parts == {} and "nothing" in before.masked_because
    [after] = rewarded(settings, general, scorers=scorers, step=10)
    assert after.parts == {"helpfulness": 0.25}


# ---------------------------------------------------------------------------------- format and hacking


@pytest.mark.parametrize(
    ("completion", "pays"),
    [
        (GOOD, 1.0),
        ("7", 0.0),
        ("<think> a </think> 7", 0.0),
        ("<think> a <think> b </think> <answer> 7 </answer>", 0.0),
        ("<think> a </think> <answer> 8 </answer> <answer> 7 </answer>", 0.0),
        ("<answer> 7 </answer> <think> a </think>", 0.0),
        ("<Think> a </Think> <answer> 7 </answer>", 0.0),
        ("so: <think> a </think> <answer> 7 </answer>", 0.0),
    ],
)
def test_format_is_exact(completion: str, pays: float) -> None:
    [reward] = rewarded({"accuracy": None}, sampled(completion))
    assert reward.parts["format"] == pays
    assert reward.well_formed == signals(completion, style=R1_ZERO).well_formed


def test_format_paid_with_a_right_answer_alone_never_exceeds_accuracy(pool: WorkerPool) -> None:
    settings = {"format": {"weight": 1.0, "when": "correct"}}
    texts = [
        GOOD,
        WRONG,
        "7",
        "<think> x </think> <answer> </answer>",
        "<think> x </think> <answer> 8 </answer>",
    ]
    for reward in rewarded(settings, [sampled(text) for text in texts], pool=pool):
        assert reward.parts["format"] <= reward.parts["accuracy"]
    assert rewarded(settings, sampled(WRONG), pool=pool)[0].total == 0.0


def test_always_pays_tags_around_a_wrong_answer_as_in_the_paper() -> None:
    [reward] = rewarded({}, sampled(WRONG), pool=ToldPool(Outcome.INCORRECT))
    assert reward.total == 1.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"format": {"weight": 1.5}}, "tags around a wrong answer"),
        ({"accuracy": None, "format": None}, "could pay"),
        ({"accuracy": 0, "format": {"weight": 0}, "repetition": {"weight": 1}}, "could pay"),
        ({"accuracy": float("inf")}, "finite"),
        ({"language": {"target": "klingon"}}, "unknown language"),
        ({"overlong": {"mode": "penalise"}}, "needs buffer_tokens"),
        ({"overlong": {"mode": "zero", "buffer_tokens": 5}}, "has no meaning"),
        ({"helpfulness": {"weight": 1}}, "scorer"),
        ({"acuracy": 1}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_meant(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Rewards.model_validate(wrong)


# -------------------------------------------------------------------------------------------- language

MIXED = "<think> 我们先把三和四加起来 and then we get the sum </think> <answer> 7 </answer>"


@pytest.mark.parametrize("language", ["en", "zh", "en-US", "ZH_cn"])
def test_language_is_the_filters_own_measure(language: str) -> None:
    [reward] = rewarded({"language": {}}, sampled(MIXED, language=language))
    target = language[:2].lower()
    reasoning = R1_ZERO.parse(MIXED).reasoning
    assert reward.parts["language"] == language_consistency(reasoning, target)
    assert 0 < reward.parts["language"] < 1
    kept = signals(MIXED, style=R1_ZERO, target_language=target)
    assert reward.language_consistency == kept.language_consistency == reward.parts["language"]


def test_language_calls_the_filters_function(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "factory.teacher.rewards.language_consistency", lambda *args: seen.append(args) or 0.125
    )
    [reward] = rewarded({"language": {"target": "zh"}}, sampled(MIXED))
    assert seen == [(R1_ZERO.parse(MIXED).reasoning, "zh")]
    assert reward.parts["language"] == reward.language_consistency == 0.125


def test_an_unknown_language_is_the_texts_own() -> None:
    [reward] = rewarded({"language": {}}, sampled(GOOD, language=""))
    assert reward.parts["language"] == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "<think> 3 + 4 = 7 </think> <answer> 7 </answer>",
        "<think> </think> <answer> it is seven of course </answer>",
        "<answer> it is seven of course </answer>",
        "it is seven of course",
        "",
    ],
)
def test_nothing_is_gained_by_thinking_without_words(completion: str) -> None:
    [reward] = rewarded({"language": {}}, sampled(completion))
    assert reward.parts["language"] == 0.0
    assert reward.total is not None


@pytest.mark.parametrize(
    ("when", "completion", "correct", "pays"),
    [
        ("always", "<think> we add and see", False, 1.0),
        ("well_formed", "<think> we add and see", False, 0.0),
        ("well_formed", WRONG, False, 1.0),
        ("correct", WRONG, False, 0.0),
        ("correct", GOOD, True, 1.0),
    ],
)
def test_when_language_is_paid(when: str, completion: str, correct: bool, pays: float) -> None:
    told = ToldPool(Outcome.CORRECT if correct else Outcome.INCORRECT)
    [reward] = rewarded({"language": {"when": when}}, sampled(completion), pool=told)
    assert reward.parts["language"] == pays
    assert reward.language_consistency == 1.0  # telemetry knows no conditions


# ------------------------------------------------------------------------------- lengths, in tokens only

ENGLISH = "<think> " + "consideration " * 40 + "</think> <answer> 7 </answer>"
CHINESE = "<think> " + "数" * 40 + " </think> <answer> 7 </answer>"


def test_overlong_counts_tokens_not_characters() -> None:
    settings = {"overlong": {"mode": "penalise", "buffer_tokens": 100, "weight": 2.0}}
    for text in (ENGLISH, CHINESE):
        [reward] = rewarded(settings, sampled(text, tokens=range(925)))
        assert reward.parts["overlong"] == -0.25
        assert reward.total == 2.0 - 2.0 * 0.25
    assert len(ENGLISH) > 5 * len(CHINESE)


@pytest.mark.parametrize(
    ("tokens", "penalty"), [(0, 0.0), (900, 0.0), (901, -0.01), (950, -0.5), (1000, -1.0), (2000, -1.0)]
)
def test_overlong_is_linear_in_the_buffer(tokens: int, penalty: float) -> None:
    assert overlong_penalty(tokens, 1000, 100, truncated=False) == pytest.approx(penalty)
    assert overlong_penalty(tokens, 1000, 100, truncated=True) == -1.0


def test_the_limit_may_rise() -> None:
    settings = {"overlong": {"mode": "penalise", "buffer_tokens": 100}}
    assert rewarded(settings, sampled(tokens=range(950)), limit=1000)[0].parts["overlong"] == -0.5
    assert rewarded(settings, sampled(tokens=range(950)), limit=2000)[0].parts["overlong"] == 0.0


def test_a_buffer_longer_than_the_limit_is_refused() -> None:
    settings = {"overlong": {"mode": "penalise", "buffer_tokens": 100}}
    with pytest.raises(UserError, match="99 tokens at step 3"):
        rewarded(settings, sampled(), limit=99, step=3)


def test_repetition_counts_tokens_not_text() -> None:
    settings = {"repetition": {"weight": 0.5, "ngram_tokens": 2, "max_repeats": 2}}
    loop, free = [1, 2] * 10, list(range(20))
    for text in (ENGLISH, CHINESE):  # both texts are loops of characters
        assert rewarded(settings, sampled(text, tokens=free))[0].parts["repetition"] == 0.0
        [reward] = rewarded(settings, sampled(text, tokens=loop))
        assert reward.parts["repetition"] == pytest.approx(-(19 - 4) / 19)  # (1, 2) ten times, (2, 1) nine
        assert reward.total == pytest.approx(2.0 - 0.5 * 15 / 19)


def test_repetition_limits() -> None:
    assert repetition_penalty([], 20, 20) == 0.0
    assert repetition_penalty([7] * 19, 20, 1) == 0.0
    assert repetition_penalty([7] * 39, 20, 20) == 0.0  # one 20-gram, 20 times
    assert repetition_penalty([7] * 40, 20, 20) == -1 / 21
    assert -1.0 < repetition_penalty([7] * 30_000, 20, 20) < -0.999
    assert math.copysign(1.0, repetition_penalty([1, 2, 3], 2, 1)) == 1.0  # no "-0.0" in the logs


@pytest.mark.parametrize(("correct", "value"), [(True, 1.0), (False, 0.0)])
def test_token_budget_follows_the_schedule(correct: bool, value: float) -> None:
    budget = {"weight": 0.5, "high_band": [80, 120], "medium_band": [40, 60], "warmup_steps": 10,
              "plateau_steps": 10, "decay_steps": 10, "softness": 10}  # fmt: skip
    told = ToldPool(Outcome.CORRECT if correct else Outcome.INCORRECT)
    settings = {"format": None, "token_budget": budget}

    def at(step: int, reasoning: int) -> Reward:
        return rewarded(settings, sampled(CHINESE, reasoning=reasoning), pool=told, step=step)[0]

    assert at(5, 100).parts["token_budget"] == value
    assert at(5, 100).total == value + 0.25 * value
    assert at(15, 100).total == value + 0.5 * value
    assert at(15, 50).parts["token_budget"] == 0.0
    assert at(40, 50).total == value + 0.5 * value
    assert at(40, 100).parts["token_budget"] == 0.0


def test_token_budget_may_pay_wrong_answers_too() -> None:
    budget = {"weight": 0.5, "high_band": [5, 20], "medium_band": [5, 10], "only_correct": False}
    [reward] = rewarded({"format": None, "token_budget": budget}, sampled(), pool=ToldPool(Outcome.INCORRECT))
    assert reward.total == 0.5


# ------------------------------------------------------------------------------------------ composition


def test_weights_add_up_and_parts_are_unweighted() -> None:
    settings = {
        "accuracy": 2.0,
        "format": {"weight": 0.5},
        "language": {"weight": 0.3, "target": "en"},
        "token_budget": {"weight": 0.2, "high_band": [5, 20], "medium_band": [5, 10], "warmup_steps": 4},
        "repetition": {"weight": 0.7, "ngram_tokens": 1, "max_repeats": 1},
        "overlong": {"mode": "penalise", "buffer_tokens": 100, "weight": 0.9},
        "helpfulness": preference(weight=0.11, scorer="s"),
        "harmlessness": preference(weight=0.13, scorer="w"),
        "rubric": preference(weight=0.17, scorer="s"),
    }
    scorers = {"s": Listener("summary", 0.6), "w": Listener("response", -0.4)}
    [reward] = rewarded(settings, sampled(MIXED, tokens=[3] * 925), scorers=scorers, step=1)
    share = language_consistency(R1_ZERO.parse(MIXED).reasoning, "en")
    assert reward.parts == {
        "accuracy": 1.0, "format": 1.0, "language": share, "token_budget": 1.0,
        "repetition": pytest.approx(-924 / 925), "overlong": -0.25,
        "helpfulness": 0.6, "harmlessness": -0.4, "rubric": 0.6,
    }  # fmt: skip
    weights = Rewards.model_validate(settings).weights(1)
    assert weights == {
        "accuracy": 2.0, "format": 0.5, "language": 0.3, "token_budget": 0.05, "repetition": 0.7,
        "overlong": 0.9, "helpfulness": 0.11, "harmlessness": 0.13, "rubric": 0.17,
    }  # fmt: skip
    assert reward.total == pytest.approx(sum(weights[name] * value for name, value in reward.parts.items()))


def test_what_is_off_is_not_there() -> None:
    [reward] = rewarded({"accuracy": 1.0, "format": None}, sampled(MIXED))
    assert reward.parts == {"accuracy": 1.0}
    assert Rewards.model_validate({"format": None}).weights(0) == {"accuracy": 1.0}


def test_a_part_without_a_weight_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        compose({"accuracy": 1.0, "other": 1.0}, {"accuracy": 1.0}, step=0, prompt_id="p", completion="")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_part_that_is_no_number_names_the_sample(value: float) -> None:
    samples = [sampled(), sampled(WRONG, prompt_id="bad-one")]
    with pytest.raises(UserError) as caught:
        rewarded(
            {"helpfulness": preference()}, samples, scorers={"rm": Listener("summary", [0.5, value])}, step=17
        )
    message = str(caught.value)
    assert caught.value.exit_code == 1
    for wanted in ("helpfulness", str(value), "step 17", "bad-one", WRONG[:40]):
        assert wanted in message
    with pytest.raises(UserError, match="'accuracy'.* step 3, .*p9.*hello"):
        compose({"accuracy": value}, {"accuracy": 0.0}, step=3, prompt_id="p9", completion="hello")


def test_the_order_of_samples_is_kept() -> None:
    samples = [
        sampled("<think> we think </think> <answer> x </answer>", verifier=NO_GRADER),
        sampled(GOOD),
        sampled("7"),
        sampled(verifier=NO_GRADER),
    ]
    rewards = rewarded({}, samples)
    assert ["accuracy" in one.parts for one in rewards] == [False, True, True, False]
    assert [one.well_formed for one in rewards] == [True, True, False, True]
    assert rewarded({}, []) == []


def test_rewards_load_no_jax() -> None:
    code = "import sys, factory.teacher.rewards; print([m for m in ('jax', 'tunix', 'duckdb') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_equal_answers_to_a_prompt_are_looked_at_once() -> None:
    """A scorer and the grader are asked once, and every sample has its reward."""
    listener, pool = Listener("summary", [0.1, 0.2, 0.3]), ToldPool()
    one, other = sampled(GOOD), sampled(WRONG)
    again = dataclasses.replace(one, prompt=row(question="Another?"))
    cut = dataclasses.replace(one, truncated=True)  # looks the same, and is another thing
    rewards = rewarded(
        {"helpfulness": preference()},
        [one, other, one, cut, again, one],
        pool=pool,
        scorers={"rm": listener},
    )
    assert len(pool.tasks) == 4 and len(listener.shown) == 3
    assert [r.parts.get("helpfulness") for r in rewards] == [0.1, 0.2, 0.1, None, 0.3, 0.1]
    assert rewards[0] == rewards[2] == rewards[5]
