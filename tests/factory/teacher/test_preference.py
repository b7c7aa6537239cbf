"""Pairs from a run's own samples, the tiny rules that label them, and reward models as rewards."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.preference_data import Labelled, RewardConfig
from factory.records import PAIRS
from factory.teacher.preference import (
    ModelScorer,
    Response,
    make_pairs,
    pair_split,
    preferences,
    summary_of,
    training_rows,
)
from factory.tiny.preferences import harmless, helpfulness, rates, tiny_pairs
from filters.errors import UserError
from filters.tags import R1, R1_ZERO

SUM = "State the final answer to the following arithmetic problem: {a} + {b} ="
COUNTDOWN = (
    "Using all the numbers 6, 3, 6, create an expression that equals 21.\nYou can only use each number once.",
    "Find a way to make 21 using all of these numbers: 6, 3, 6.\nEach number can only be used once.",
)


def responses(questions: int = 60) -> list[Response]:
    out = []
    for i in range(questions):
        question = SUM.format(a=i, b=2)
        texts = (
            f"<answer> {i + 2} </answer>",
            f"<answer> {i + 3} </answer>",
            f"<think> {i} plus 2 is {i + 2}. </think> <answer> {i + 2} </answer>",
            f"{i} plus 2 is {i + 2}, so the answer is {i + 2}.",
            "<think> this is hard. I am not sure. </think>",
            f"<think> this is hard. I will guess. </think> <answer> {i + 5} </answer>",
            f"<think> 这道题很难，我猜一下。 </think> <answer> {i + 1} </answer>",
        )
        out += [Response(f"id{i}", question, text) for text in texts]
    return out


# ------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("question", "summary", "level"),
    [
        (SUM, "12", 2),
        (SUM, " -3 ", 2),
        (SUM, "3 plus 9 is 12, so the answer is 12.", 1),
        (SUM, "3加9得12，所以答案是12。", 1),
        (SUM, "3 plus 9 is 12.", 0),
        (SUM, "maybe it is 12.", 0),
        (SUM, "this is hard, so the answer is 12, maybe it is.", 0),
        (SUM, "", 0),
        (SUM, "3 + 9", 0),
        (COUNTDOWN[0], "6 * 3 + 6", 2),
        (COUNTDOWN[1], "(6 + 6) * 3", 2),
        (COUNTDOWN[1], "6 * 3", 0),
        (COUNTDOWN[0], "6 * 3 + 7", 0),
        (COUNTDOWN[0], "6 * )3 + 6(", 0),
        (COUNTDOWN[0], "24", 0),
        (COUNTDOWN[0], "6 times 3 is 18, yes. so the answer is 6 * 3 + 6.", 1),
    ],
)
def test_helpfulness_is_the_rule(question: str, summary: str, level: int) -> None:
    assert helpfulness(question, summary) == level


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("<think> 3 plus 9 is 12. </think> <answer> 12 </answer>", True),
        ("<think> this is hard. I will guess. </think> <answer> 12 </answer>", False),
        ("<think> 这道题很难，我猜一下。 </think> <answer> 12 </answer>", False),
        ("<think> 5 minus 3 is 2, no. I give up. </think> <answer> 2 </answer>", False),
        ("maybe  it\nis 12", False),
        ("<think> I am not sure. </think>", True),
    ],
)
def test_harmlessness_looks_at_the_whole_response(text: str, safe: bool) -> None:
    assert harmless(text) is safe


def test_the_rules_read_the_words_that_the_corpus_writes() -> None:
    """Rambling with an answer in tags is harmful and helpful at once: the summary hides what the reasoning says."""
    from factory.tiny.corpus import sample_of
    from factory.tiny.tasks import problems, training_rungs

    found: dict[str, list[tuple[str, int, bool]]] = {}
    for rung in training_rungs()[::3]:
        source, rng = problems(rung, 5, "train"), random.Random(rung.task)
        for _ in range(60):
            problem = next(source)
            for _ in range(4):
                sample = sample_of(problem, rng)
                level = helpfulness(problem.question, summary_of(sample.completion, R1_ZERO))
                found.setdefault(sample.style, []).append((rung.task, level, harmless(sample.completion)))
    assert {level for _, level, _ in found["guess"]} == {2}
    assert all(safe for _, _, safe in found["guess"])
    # Untagged and given up, a search says "I will guess" in what is then its summary.
    assert {level for task, level, _ in found["untagged"] if task != "countdown"} == {1}
    assert {(level, safe) for _, level, safe in found["rambling"]} == {(2, False), (0, True), (0, False)}
    assert all(level == 2 for _, level, _ in found["worked"])


# ------------------------------------------------------------------------------------------------- pairs


def test_pairs_are_rows_of_the_table_and_independent_of_order() -> None:
    samples = responses()
    rows = tiny_pairs(samples)
    assert PAIRS.rows_to_arrow(rows).num_rows == len(rows) == len({row["pair_id"] for row in rows})
    assert {row["purpose"] for row in rows} == {"helpfulness", "harmlessness"}
    random.Random(1).shuffle(samples)
    assert tiny_pairs(samples + samples[:40]) == rows


def test_the_better_response_is_chosen_and_what_looks_the_same_is_no_pair() -> None:
    for row in tiny_pairs(responses()):
        question = SUM.format(a=row["prompt_id"][2:], b=2)
        if row["purpose"] == "harmlessness":
            assert harmless(row["chosen"]) and not harmless(row["rejected"])
            continue
        levels = [helpfulness(question, summary_of(row[side], R1_ZERO)) for side in ("chosen", "rejected")]
        assert levels[0] > levels[1]


def test_every_combination_of_labels_gets_its_turn() -> None:
    rows = tiny_pairs(responses(1), ["helpfulness"], per_question=3)
    levels = {
        tuple(
            helpfulness(SUM.format(a=0, b=2), summary_of(row[side], R1_ZERO))
            for side in ("chosen", "rejected")
        )
        for row in rows
    }
    assert levels == {(2, 1), (2, 0), (1, 0)}
    assert len(tiny_pairs(responses(1), ["helpfulness"], per_question=2)) == 2


def test_questions_never_meet_across_splits() -> None:
    rows = tiny_pairs(responses(300))
    by_prompt: dict[str, set[str]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_prompt.values())
    shares = [sum(s == {name} for s in by_prompt.values()) / 300 for name in ("train", "validation", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.07)
    assert pair_split("What is  1+1?") == pair_split("what IS 1+1?")
    assert {row["split"] for row in tiny_pairs(responses(20), validation=0.0, test=0.0)} == {"train"}


def test_a_response_without_a_label_is_left_out() -> None:
    rows = make_pairs(
        [Response("p", "q", text) for text in ("a", "b", "c")],
        lambda r: {"a": 1.0, "c": 0.0}.get(r.text),
        "helpfulness",
        source="people",
        seen=lambda r: r.text,
    )
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("a", "c")]


def test_helpfulness_is_trained_on_summaries_and_harmlessness_on_whole_responses() -> None:
    samples = responses(3)
    rows, questions = tiny_pairs(samples), {r.prompt_id: r.question for r in samples}
    helpful = preferences(rows, questions, "helpfulness", R1_ZERO)
    assert helpful and all("<think>" not in pair.chosen + pair.rejected for pair in helpful)
    assert any(pair.rejected == "" for pair in helpful)
    assert training_rows(helpful, "helpfulness") == helpful
    safe = preferences(rows, questions, "harmlessness", R1_ZERO)
    assert any("I will guess" in pair.rejected for pair in safe)
    labels = training_rows(safe, "harmlessness")
    assert {type(row) for row in labels} == {Labelled}
    assert len(labels) == len({(row.question, row.text) for row in labels if isinstance(row, Labelled)})
    assert all(row.good is harmless(row.text) for row in labels if isinstance(row, Labelled))
    with pytest.raises(UserError, match=r"no prompt id\d"):
        preferences(rows, {}, "helpfulness", R1_ZERO)


def test_a_summary_is_what_follows_the_reasoning() -> None:
    assert summary_of("<think>\nlong\n</think>\nIt is 4.", R1) == "It is 4."
    assert summary_of("<think>\nnever closed", R1) == ""
    assert summary_of("no tags at all", R1) == "no tags at all"
    assert summary_of("cut off", R1, opened=True) == ""


def test_whole_responses_are_shown_in_the_style_of_the_policy_that_is_judged() -> None:
    samples = responses(8)
    rows = tiny_pairs(samples, ["harmlessness"])
    questions = {r.prompt_id: r.question for r in samples}
    shown = preferences(rows, questions, "harmlessness", R1_ZERO, shown_in=R1)
    texts = {text for pair in shown for text in (pair.chosen, pair.rejected)}
    assert not any("<answer>" in text for text in texts)
    assert any(R1.parse(text).well_formed and R1.parse(text).reasoning for text in texts)
    same = preferences(rows, questions, "harmlessness", R1_ZERO, shown_in=R1_ZERO)
    assert {pair.chosen for pair in same} == {row["chosen"] for row in rows}


def test_rates_count_by_rule() -> None:
    shares = rates(responses(2))
    assert shares["helpfulness 2"] == pytest.approx(5 / 7)
    assert shares["helpfulness 1"] == shares["helpfulness 0"] == pytest.approx(1 / 7)
    assert shares["harmful"] == shares["harmful though fully helpful"] == pytest.approx(2 / 7)


# ------------------------------------------------------------------------------------------------ scorer


@pytest.mark.train
@pytest.mark.slow
def test_a_trained_model_is_a_reward(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from distill.reward_model import train_reward_model

    samples = responses()
    rows = tiny_pairs(samples, ["helpfulness"], per_question=3)
    data = preferences(rows, {r.prompt_id: r.question for r in samples}, "helpfulness", R1_ZERO)
    config = RewardConfig(
        kind="pairwise",
        sees="summary",
        template="plain:r1-zero",
        epochs=4,
        batch_size=16,
        max_length=64,
        learning_rate=2e-3,
        warmup_steps=4,
        centre=0.01,
    )
    result = train_reward_model(
        config, training_rows(data, "helpfulness"), "tiny-student", tmp_path / "model"
    )
    assert result.held_out["test"].accuracy >= 0.9
    scorer = ModelScorer(tmp_path / "model", "helpfulness", rows=4)
    assert (scorer.name, scorer.sees, scorer.max_length) == ("helpfulness", "summary", 64)
    a = next(i for i in range(60) if pair_split(SUM.format(a=i, b=2)) == "test")
    question = SUM.format(a=a, b=2)
    direct, wordy, empty = scorer.score(
        [
            (question, f"{a + 2}"),
            (question, f"{a} plus 2 is {a + 2}, so the answer is {a + 2}."),
            (question, ""),
        ]
    )
    assert direct is not None and wordy is not None and empty is not None
    assert 1 >= direct > wordy > empty >= 0
    assert scorer.score([(question, "402 " * 99), (question, "")]) == [None, empty]
    assert "1 of 2 texts without a score" in caplog.text and "takes 64" in caplog.text
    with pytest.raises(UserError, match="kind is pairwise, pointwise is needed"):
        ModelScorer(tmp_path / "model", "harmlessness")


def test_importing_loads_no_jax() -> None:
    import subprocess

    code = "import sys, factory.tiny.preferences, factory.teacher.preference, distill.preference_data; print('jax' in sys.modules)"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
