"""Prompts from reasoning-gym: reproducible, distinct, in their splits, and still graded by its scorer."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from factory.records import PROMPTS, canonical_json, prompt_id, question_hash, split_of
from factory.sources import check_source, load_prompts, parse_source
from factory.sources.gym import without_held_out_problems
from filters.errors import UserError
from filters.verifiers import verify_answer


@dataclass(frozen=True)
class Shares:
    validation: float = 0.05
    test: float = 0.1


def gym(**values: Any) -> list[dict[str, Any]]:
    return list(load_prompts(parse_source({"kind": "reasoning_gym", **values}), splits=Shares()))


# One task at least of every family, and those whose entries hold tuples, numpy strings or integer keys.
TASKS = [
    "basic_arithmetic", "binary_matrix", "caesar_cipher", "calendar_arithmetic", "chain_sum", "complex_arithmetic",
    "countdown", "decimal_arithmetic", "family_relationships", "gcd", "isomorphic_strings", "knights_knaves",
    "largest_island", "leg_counting", "mini_sudoku", "n_queens", "number_sequence", "palindrome_partitioning",
    "power_function", "puzzle24", "shortest_path", "simple_equations", "simple_geometry", "syllogism", "time_intervals",
    "tower_of_hanoi", "word_ladder", "word_sorting",
]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_a_stored_entry_is_scored_as_the_original_was(task: str) -> None:
    from reasoning_gym import create_dataset

    rows = gym(task=task, size=3, seed=5)
    table = PROMPTS.rows_to_arrow(rows)
    originals = create_dataset(task, seed=5, size=json.loads(rows[0]["meta"])["size"])
    wrong = [row["reference"] for row in rows[1:]]
    for row in table.to_pylist():
        args, meta = json.loads(row["verifier_args"]), json.loads(row["meta"])
        assert args["task"] == meta["task"] == task
        original = originals[meta["index"]]
        assert original["question"] == row["question"]
        assert originals.score_answer(row["reference"], args["entry"]) == 1.0
        for answer in [*wrong, "", "no idea"]:
            stored = originals.score_answer(answer, args["entry"])
            assert stored == originals.score_answer(answer, original)


def test_a_task_with_integer_keys_is_scored_after_the_round_trip() -> None:
    from reasoning_gym import get_score_answer_fn

    (row,) = gym(task="graph_color", size=1)
    entry = json.loads(row["verifier_args"])["entry"]
    solution = entry["metadata"]["possible_answer"]
    assert row["reference"] is None
    assert get_score_answer_fn("graph_color")(json.dumps(solution), entry) == 1.0
    assert get_score_answer_fn("graph_color")(json.dumps(dict.fromkeys(solution, 99)), entry) < 1.0


@pytest.mark.parametrize(
    "task", ["arc_1d", "arc_agi", "chain_sum", "countdown", "knights_knaves", "word_ladder"]
)
def test_our_grader_accepts_the_reference_of_a_stored_prompt(task: str) -> None:
    rows = gym(task=task, size=2)
    for row, other in (rows, rows[::-1]):
        args = json.loads(row["verifier_args"])
        assert verify_answer("puzzle", row["question"], row["reference"], row["reference"], args).is_correct
        assert not verify_answer(
            "puzzle", row["question"], row["reference"], other["reference"], args
        ).is_correct


def test_rows_are_reproducible_and_content_addressed() -> None:
    config = {"min_terms": 2, "max_terms": 3}
    rows = gym(task="chain_sum", size=20, seed=3, config=config)
    assert rows == gym(task="chain_sum", size=20, seed=3, config=config)
    assert {r["prompt_id"] for r in rows} != {r["prompt_id"] for r in gym(task="chain_sum", size=20, seed=99)}
    for row in rows:
        args = json.loads(row["verifier_args"])
        assert row["prompt_id"] == prompt_id(row["messages"], row["reference"], "puzzle", args)
        assert row["verifier_args"] == canonical_json(args)
        assert args["config"] == config  # scorers that read their config need it
        assert row["question_hash"] == question_hash(row["question"])
        assert row["split"] == split_of(row["question_hash"], validation=0.05, test=0.1)
        assert row["messages"] == [{"role": "user", "content": row["question"]}]
        assert (row["domain"], row["licence"], row["source"]) == ("arithmetic", "Apache-2.0", "chain_sum")


def test_repeated_questions_are_replaced() -> None:
    config = {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 12}
    rows = gym(task="gcd", size=100, config=config)
    assert len({row["question_hash"] for row in rows}) == 100
    assert json.loads(rows[-1]["meta"])["index"] > 99  # something had to be drawn again


def test_a_dry_task_says_how_many_are_missing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = gym(
            task="gcd", size=50, config={"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 4}
        )
    assert len({row["question"] for row in rows}) == len(rows) < 50
    assert f"{50 - len(rows)} of 50" in caplog.text


def test_quotas_weights_and_held_out_rungs() -> None:
    rows = gym(
        tasks=[
            {"task": "chain_sum", "weight": 3, "rung": 1, "config": {"min_terms": 3, "max_terms": 3}},
            {"task": "gcd", "weight": 1},
            {"task": "chain_sum", "weight": 2, "rung": 2, "heldout_rung": True, "config": {"max_terms": 8}},
            {"task": "countdown", "weight": 0},
        ],
        quotas={"train": 40, "test": 12},
    )  # fmt: skip
    count: Counter[tuple[str, Any, str]] = Counter()
    for row in rows:
        meta = json.loads(row["meta"])
        count[meta["task"], meta["rung"], row["split"]] += 1
        assert row["split"] == split_of(row["question_hash"], validation=0.05, test=0.1)
    assert count == {
        ("chain_sum", 1, "train"): 30,
        ("gcd", None, "train"): 10,
        ("chain_sum", 1, "test"): 6,
        ("gcd", None, "test"): 2,
        ("chain_sum", 2, "test"): 4,
    }


def test_a_rung_does_not_change_when_another_is_added() -> None:
    first = {"task": "chain_sum", "weight": 1}
    alone = gym(tasks=[first], size=10, seed=1)
    beside = gym(tasks=[{"task": "gcd", "weight": 1}, first], size=20, seed=1)
    assert [r["prompt_id"] for r in alone] == [r["prompt_id"] for r in beside if "chain_sum" in r["meta"]]


def test_evaluation_only_means_test_split() -> None:
    assert {row["split"] for row in gym(task="gcd", size=20, evaluation_only=True)} == {"test"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "chain_sun", "size": 3}, "did you mean 'chain_sum'"),
        ({"task": "chain_sum", "size": 3, "config": {"max_term": 3}}, "did you mean 'max_terms'"),
        ({"task": "chain_sum", "size": 3, "config": {"max_terms": -3}}, "refuses its config"),
        ({"task": "chain_sum", "size": 3, "config": {"seed": 3}}, "beside the task"),
        ({"task": "chain_sum"}, "size or quotas"),
        ({"tasks": [{"task": "gcd", "heldout_rung": True}], "quotas": {"train": 3}}, "no train questions"),
    ],
)
def test_a_faulty_task_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gym(**values)


def test_a_check_draws_nothing() -> None:
    check_source(parse_source({"kind": "reasoning_gym", "task": "chain_sum", "size": 10**8}))


def test_a_held_out_rung_without_a_test_share_is_refused() -> None:
    spec = parse_source(
        {"kind": "reasoning_gym", "tasks": [{"task": "gcd", "heldout_rung": True}], "size": 3}
    )
    with pytest.raises(UserError, match="share is 0"):
        list(load_prompts(spec, splits=Shares(test=0.0)))


def test_training_questions_that_ask_a_held_out_problem_are_left_out() -> None:
    def row(task: str, split: str, *, only: bool = False, **metadata: Any) -> dict[str, Any]:
        arguments = {"task": task, "entry": {"answer": "1", "metadata": metadata}}
        return {
            "verifier": "puzzle",
            "verifier_args": json.dumps(arguments),
            "split": split,
            "evaluation_only": only,
        }

    held = [
        row("gcd", "test", numbers=[12, 8]),
        row("countdown", "validation", numbers=[3, 5, 7], target=12),
        row("chain_sum", "test", expression="3 - 5 + 2"),
        row("leg_counting", "train", only=True, animals={"cow": 2, "hen": 1}),
    ]
    same = [
        row("gcd", "train", numbers=[8, 12]),
        row("countdown", "train", numbers=[7, 3, 5], target=12),
        row("chain_sum", "train", expression="2 + 3 - 5"),
        row("leg_counting", "train", animals={"hen": 1, "cow": 2}),
    ]
    other = [
        row("gcd", "train", numbers=[12, 9]),
        row("countdown", "train", numbers=[3, 5, 7], target=13),
        row("chain_sum", "train", expression="3 + 5 - 2"),
        row("leg_counting", "train", animals={"hen": 2, "cow": 1}),
        row("zebra_puzzles", "train", anything=1),
        {"verifier": "math", "verifier_args": None, "split": "train", "evaluation_only": False},
    ]
    assert without_held_out_problems([*held, *same, *other]) == ([*held, *other], 4)
