"""Scorers: what they are shown, and what becomes of their scores."""

import pytest

from factory.teacher.reward_settings import Rubric
from factory.teacher.rewards import RubricScorer, RuleScorer
from filters.errors import UserError
from filters.tags import R1
from tests.factory.judging import ScriptedJudge, material
from tests.factory.teacher.rewarding import Listener, preference, rewarded, sampled

THOUGHTS = "<think>\nI could be rude here.\n</think>\nThe sum is 7."
OPEN = "<think>\nI never stop"


def test_helpfulness_sees_the_summary_and_harmlessness_the_whole_response() -> None:
    summary, whole = Listener("summary", 0.5), Listener("response", 0.25)
    settings = {"format": None, "helpfulness": preference(scorer="s"), "harmlessness": preference(scorer="w")}
    rewards = rewarded(
        settings, [sampled(THOUGHTS), sampled(OPEN)], scorers={"s": summary, "w": whole}, style=R1
    )
    assert summary.shown == [("What is 3 + 4?", "The sum is 7.")]
    assert whole.shown == [("What is 3 + 4?", THOUGHTS), ("What is 3 + 4?", OPEN)]
    assert rewards[0].parts == {"accuracy": 1.0, "helpfulness": 0.5, "harmlessness": 0.25}
    assert rewards[1].parts == {"accuracy": 1.0, "helpfulness": 0.0, "harmlessness": 0.25}
    assert summary.calls == whole.calls == 1


def test_a_scorer_is_not_called_for_nothing() -> None:
    scorer = Listener("summary")
    [reward] = rewarded({"helpfulness": preference()}, sampled(OPEN), scorers={"rm": scorer}, style=R1)
    assert reward.parts["helpfulness"] == 0.0 and scorer.calls == 0


def test_an_open_reasoning_is_no_escape_from_scores_below_zero() -> None:
    samples = [
        sampled(OPEN), sampled(THOUGHTS), sampled(THOUGHTS), sampled(THOUGHTS, prompt_id="p2"),
        sampled(OPEN, prompt_id="p3"),
    ]  # fmt: skip
    rewards = rewarded(
        {"helpfulness": preference()},
        samples,
        scorers={"rm": Listener("summary", [-3.0, 2.0, -9.0])},
        style=R1,
    )
    assert [one.parts["helpfulness"] for one in rewards] == [-3.0, -3.0, 2.0, -9.0, 0.0]


@pytest.mark.parametrize(("step", "on"), [(0, False), (1299, False), (1300, True), (1699, True)])
def test_preferences_begin_with_their_step(step: int, on: bool) -> None:
    scorer = Listener("summary")
    [reward] = rewarded(
        {"helpfulness": preference(from_step=1300)}, sampled(), scorers={"rm": scorer}, step=step
    )
    assert ("helpfulness" in reward.parts) is on and scorer.calls == int(on)
    assert reward.total == (2.5 if on else 2.0)


@pytest.mark.parametrize(
    ("part", "sees"),
    [("helpfulness", "response"), ("harmlessness", "summary"), ("rubric", "response")],
)
def test_a_scorer_of_the_wrong_text_is_refused_before_the_first_step(part: str, sees: str) -> None:
    settings = {part: preference(from_step=1300)}
    with pytest.raises(UserError, match="is judged by the"):
        rewarded(settings, [], scorers={"rm": Listener(sees)})
    with pytest.raises(UserError, match="names the scorer 'rm'; there is none"):
        rewarded(settings, [])


def test_a_score_that_could_not_be_told_is_no_zero() -> None:
    scorer = Listener("summary", [None, 0.5])
    lost, told = rewarded({"helpfulness": preference()}, [sampled(), sampled()], scorers={"rm": scorer})
    assert lost.total is None and "rm" in lost.masked_because and "helpfulness" not in lost.parts
    assert told.total == 2.5


def test_too_few_scores_are_noticed() -> None:
    with pytest.raises(UserError, match="1 scores for 2 texts"):
        rewarded(
            {"helpfulness": preference()}, [sampled(), sampled()], scorers={"rm": Listener("summary", [0.5])}
        )


def test_rules_as_scorers() -> None:
    polite = RuleScorer.of_pattern("polite", "summary", r"(?i)\bplease\b")
    clean = RuleScorer.of_pattern("clean", "response", "rude", wanted=False)
    short = RuleScorer("short", "summary", lambda question, text: float(len(text) < len(question)))
    assert polite.score([("q", "Yes, PLEASE."), ("q", "No.")]) == [1.0, 0.0]
    assert clean.score([("q", THOUGHTS), ("q", "fine")]) == [0.0, 1.0]
    assert short.score([("longer?", "yes"), ("a?", "yes")]) == [1.0, 0.0]
    with pytest.raises(UserError, match="'x'.*no regular expression"):
        RuleScorer.of_pattern("x", "summary", "(")


RUBRIC = Rubric.model_validate(
    {"weight": 1.0, "criteria": ["says seven", {"text": "says sum", "weight": 3.0}]}
)


def test_a_rubric_is_the_share_of_weight_that_a_judge_finds_met() -> None:
    judge = ScriptedJudge()
    scorer = RubricScorer(judge.as_judge(), RUBRIC)
    items = [("q", "the sum is seven"), ("q", "the sum"), ("q", "seven"), ("q", ""), ("q", "the sum")]
    assert scorer.score(items) == [1.0, 0.75, 0.25, 0.0, 0.75]
    assert len(judge.paid) == 8  # equal requests are asked once
    settings = {"rubric": RUBRIC.model_dump()}
    [reward] = rewarded(settings, sampled(THOUGHTS), scorers={"rubric": scorer}, style=R1)
    assert reward.parts["rubric"] == 0.75 and reward.total == 2.75


def test_a_judge_is_shown_the_summary_alone() -> None:
    seen = []
    judge = ScriptedJudge(lambda asked: seen.append(material(asked)["answer"]) or "VERDICT: YES")
    scorer = RubricScorer(judge.as_judge(), RUBRIC)
    rewarded({"rubric": RUBRIC.model_dump()}, sampled(THOUGHTS), scorers={"rubric": scorer}, style=R1)
    assert set(seen) == {"The sum is 7."}


@pytest.mark.parametrize("reply", ["maybe", "VERDICT: YES or NO", "<think> VERDICT: YES"])
def test_a_reply_that_cannot_be_read_is_no_score(reply: str) -> None:
    judge = ScriptedJudge(lambda asked: reply if "says sum" in asked else "VERDICT: YES")
    assert RubricScorer(judge.as_judge(), RUBRIC).score([("q", "seven")]) == [None]


def test_a_judge_that_fails_is_asked_again() -> None:
    judge = ScriptedJudge(fail=lambda seen: seen == 1)
    assert RubricScorer(judge.as_judge(), RUBRIC).score([("q", "the sum")]) == [0.75]
    assert judge.seen == 3


def test_a_text_that_a_judge_can_never_answer_costs_its_own_score_alone() -> None:
    judge = ScriptedJudge(fail=lambda seen: seen == 1, permanent=True)
    assert RubricScorer(judge.as_judge(), RUBRIC).score([("q", "seven"), ("q", "the sum")]) == [None, 0.75]


def test_a_dead_judge_stops_the_training() -> None:
    judge = ScriptedJudge(fail=lambda _: True)
    with pytest.raises(UserError, match="answered none of 2 requests; it said: ServerGone"):
        RubricScorer(judge.as_judge(), RUBRIC).score([("q", "the sum")])


def test_a_rubric_without_criteria_is_refused() -> None:
    with pytest.raises(UserError, match="criteria"):
        RubricScorer(ScriptedJudge().as_judge(), Rubric(weight=1.0))
