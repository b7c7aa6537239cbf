"""Our own checkers of puzzles: hand-made cases, and every generated entry with mutants (R1_SHARED_DATA)."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from filters import Outcome, verify_answer
from tests import shared_data

DATA = shared_data.DATA / "logic_generated"
KNIGHTS = {
    "answer": "Ann is a hero, and Bob is a villain.",
    "metadata": {"names": ["Ann", "Bob"], "solution": [True, False], "knight_knave_terms": {"knight": "hero", "knave": "villain"}},
}  # fmt: skip
GRID = ["1234", "3412", "2143", "4321"]
SUDOKU = {
    "answer": "\n".join(GRID),
    "metadata": {"puzzle": [[1, 0, 0, 4], [0, 0, 1, 0], [2, 0, 0, 0], [0, 3, 0, 1]]},
}
LOGIC = {"answer": None, "metadata": {"premises": ["(P → Q)", "P"], "variables": ["P", "Q", "R"]}}
WORD = {"answer": "Yes", "metadata": {}}


@pytest.mark.parametrize(
    ("task", "entry", "answer", "outcome"),
    [
        ("knights_knaves", KNIGHTS, "Ann is a hero, and Bob is a villain.", Outcome.CORRECT),
        ("knights_knaves", KNIGHTS, "Bob is a villain and Ann is a hero", Outcome.CORRECT),
        ("knights_knaves", KNIGHTS, "**ann** is a hero; bob is a villain", Outcome.CORRECT),
        ("knights_knaves", KNIGHTS, "Ann is a villain, and Bob is a hero.", Outcome.INCORRECT),
        ("knights_knaves", KNIGHTS, "Ann is a hero", Outcome.UNPARSABLE),
        ("knights_knaves", KNIGHTS, "Ann is not a hero, Bob is a villain", Outcome.UNPARSABLE),
        ("knights_knaves", KNIGHTS, "Ann is a hero, Ann is a villain, Bob is a villain", Outcome.UNPARSABLE),
        ("knights_knaves", KNIGHTS, "Ann is a hero, Bob is a villain, or not", Outcome.UNPARSABLE),
        ("mini_sudoku", SUDOKU, "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1", Outcome.CORRECT),
        ("mini_sudoku", SUDOKU, "[[1,2,3,4],[3,4,1,2],[2,1,4,3],[4,3,2,1]]", Outcome.CORRECT),
        ("mini_sudoku", SUDOKU, "2 1 3 4\n3 4 1 2\n1 2 4 3\n4 3 2 1", Outcome.INCORRECT),
        ("mini_sudoku", SUDOKU, "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 2", Outcome.INCORRECT),
        ("mini_sudoku", SUDOKU, "1 2 3 4", Outcome.UNPARSABLE),
        ("mini_sudoku", SUDOKU, "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 _", Outcome.UNPARSABLE),
        ("propositional_logic", LOGIC, "Q", Outcome.CORRECT),
        ("propositional_logic", LOGIC, "(P & Q)", Outcome.CORRECT),
        ("propositional_logic", LOGIC, "¬P -> R", Outcome.CORRECT),
        ("propositional_logic", LOGIC, "R", Outcome.INCORRECT),
        ("propositional_logic", LOGIC, "(R ∨ ¬R)", Outcome.INCORRECT),
        ("propositional_logic", LOGIC, "Z", Outcome.INCORRECT),
        ("propositional_logic", LOGIC, "Q or R", Outcome.UNPARSABLE),
        ("propositional_logic", LOGIC, "((((Q", Outcome.UNPARSABLE),
        ("syllogism", WORD, "yes.", Outcome.CORRECT),
        ("syllogism", WORD, "**Yes**", Outcome.CORRECT),
        ("syllogism", WORD, "Yes or no", Outcome.INCORRECT),
        ("zebra_puzzles", WORD, "no", Outcome.INCORRECT),
    ],
)  # fmt: skip
def test_checkers(task: str, entry: dict[str, Any], answer: str, outcome: Outcome) -> None:
    verdict = verify_answer("puzzle", "", None, answer, {"task": task, "entry": entry})
    assert verdict.outcome is outcome, verdict.explanation


def test_implication_takes_what_stands_to_its_right() -> None:
    entry = {"answer": None, "metadata": {"premises": ["P → Q → R", "P", "Q"], "variables": ["P", "Q", "R"]}}
    options = {"task": "propositional_logic", "entry": entry}
    assert verify_answer("puzzle", "", None, "R", options).is_correct
    assert not verify_answer("puzzle", "", None, "(P → Q) → ¬R", options).is_correct


def entries(task: str) -> Iterator[dict[str, Any]]:
    path = DATA / f"{task}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there: set R1_SHARED_DATA")
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def mutants(task: str, answer: str, others: list[str]) -> list[str]:
    """Answers that are wrong for certain."""
    if task == "knights_knaves":
        roles = sorted(set(re.findall(r"is an? (\w+)", answer)))
        if len(roles) == 2:
            return [re.sub(roles[0], roles[1], answer, count=1, flags=re.IGNORECASE), answer.split(",")[0]]
        return [answer.split(",")[0]]
    wrong = [other for other in others if other.casefold() != answer.casefold()]
    return [
        *random.Random(0).sample(wrong, min(3, len(wrong))),
        f"not {answer}",
        f"{answer} or {wrong[0]}",
        f"{answer} {answer}",
    ]


@pytest.mark.parametrize("task", ["knights_knaves", "zebra_puzzles", "syllogism", "family_relationships"])
def test_generated_solutions_pass_and_mutants_fail(task: str) -> None:
    rows = list(entries(task))
    answers = sorted({row["answer"] for row in rows})
    for row in rows:
        options = {"task": task, "entry": row}
        assert verify_answer("puzzle", "", None, row["answer"], options).is_correct
        assert verify_answer("puzzle", "", None, f"So \\boxed{{{row['answer']}}}", options).is_correct
        for mutant in mutants(task, row["answer"], answers):
            assert verify_answer("puzzle", "", None, mutant, options).score == 0.0, mutant


def test_generated_conclusions() -> None:
    """Two examples in 219 do not follow from their premises, which hold anyway."""
    verdicts = [
        verify_answer("puzzle", "", None, row["metadata"]["example_answer"], {"task": "propositional_logic", "entry": row})
        for row in entries("propositional_logic")
    ]  # fmt: skip
    assert sum(not verdict.is_correct for verdict in verdicts) <= 0.01 * len(verdicts)
    assert all(verdict.outcome in (Outcome.CORRECT, Outcome.INCORRECT) for verdict in verdicts)
