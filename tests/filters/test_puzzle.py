"""Puzzles: exact numbers, countdown without eval, reasoning-gym's scorers made strict."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import Fault, Outcome, Verdict, verify_answer
from filters.verifiers.arithmetic import NotArithmetic, evaluate


def countdown(answer: str, numbers: list[int], target: int) -> Verdict:
    entry = {"answer": "", "metadata": {"numbers": numbers, "target": target}}
    return verify_answer("puzzle", "", None, answer, {"task": "countdown", "entry": entry})


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("3 * (4 + 2)", Outcome.CORRECT),
        ("(4+2)*3", Outcome.CORRECT),
        ("\\boxed{3 × (4 + 2)}", Outcome.CORRECT),
        ("-(-3*(4+2))", Outcome.CORRECT),
        ("3*4+6", Outcome.INCORRECT),
        ("3*(4+2)+4-4", Outcome.INCORRECT),
        ("9*2", Outcome.INCORRECT),
        ("18", Outcome.INCORRECT),
        ("3+4+2", Outcome.INCORRECT),
        ("3*(4+2) = 18", Outcome.UNPARSABLE),
        ("3**2+4", Outcome.UNPARSABLE),
        ("3//4+2", Outcome.UNPARSABLE),
        ("3*4.0+2", Outcome.UNPARSABLE),
        ("3/(4-4)", Outcome.UNPARSABLE),
        ("3(4+2)", Outcome.UNPARSABLE),
        ("", Outcome.UNPARSABLE),
    ],
)
def test_countdown(answer: str, outcome: Outcome) -> None:
    verdict = countdown(answer, [3, 4, 2], 18)
    assert verdict.outcome is outcome
    assert verdict.fault is (Fault.PREDICTION if outcome is Outcome.UNPARSABLE else None)


def test_countdown_is_exact() -> None:
    assert countdown("1/3*3", [1, 3, 3], 1).is_correct
    assert not countdown("99999999/100000000*1", [99999999, 100000000, 1], 1).is_correct


def test_countdown_uses_each_number_as_often_as_it_is_given() -> None:
    assert countdown("5+5+1", [5, 5, 1], 11).is_correct
    assert not countdown("5+5+1", [5, 1], 11).is_correct
    assert "does not use 1" in countdown("5+5", [5, 5, 1], 10).explanation


def test_model_text_is_never_run(tmp_path: Path) -> None:
    target = tmp_path / "made"
    attack = f"__import__('pathlib').Path({str(target)!r}).touch() or 3"
    eval(attack)
    assert target.exists()  # the attack works where text is evaluated
    target.unlink()
    tasks = {
        "countdown": [3],
        "puzzle24": [3],
        "n_queens": [],
        "polynomial_multiplication": [],
        "simple_integration": [],
    }
    for task, numbers in tasks.items():
        entry = {
            "answer": "3",
            "metadata": {"numbers": numbers, "target": 3, "solutions": [], "integrand": "x"},
        }
        verdict = verify_answer("puzzle", "", None, attack, {"task": task, "entry": entry})
        assert verdict.fault is Fault.PREDICTION, task
    assert not target.exists()


@given(st.text("0123456789+-*/() ", max_size=40))
def test_evaluate_agrees_with_python(text: str) -> None:
    try:
        value, numbers = evaluate(text)
    except NotArithmetic:
        return
    assert all(number < 10**12 for number in numbers)
    if "/" not in text:
        assert value == eval(text.strip())
    else:
        assert float(value) == pytest.approx(float(eval(text.strip())), rel=1e-6, abs=1e-6)
    assert isinstance(value, Fraction)


def numeric(task: str, gold: str, answer: str) -> Verdict:
    return verify_answer(
        "puzzle", "", None, answer, {"task": task, "entry": {"answer": gold, "metadata": {}}}
    )


def test_numeric_tasks_are_exact() -> None:
    assert numeric("chain_sum", "-1000", "-1,000.").is_correct
    assert numeric("gcd", "12", "\\boxed{12}").is_correct
    assert numeric("decimal_arithmetic", "2.50", "2.5").is_correct
    assert not numeric("decimal_arithmetic", "2.500000", "2.500001").is_correct  # their scorer tolerates it
    assert not numeric("chain_sum", "1000", "100").is_correct
    assert numeric("chain_sum", "1000", "a thousand or so").fault is Fault.PREDICTION


def test_scorers_that_take_nonsense_are_held_to_the_answer() -> None:
    assert numeric("game_of_life_halting", "False", "false").is_correct
    assert not numeric("game_of_life_halting", "False", "zzz 17").is_correct
    assert not numeric("spell_backward", "olleh", "olleh or so").is_correct


def test_own_answers_pass_and_others_fail_after_json() -> None:
    import reasoning_gym

    for task in (
        "knights_knaves",
        "string_insertion",
        "word_sorting",
        "arc_agi",
        "zebra_puzzles",
        "polynomial_multiplication",
    ):
        data = reasoning_gym.create_dataset(task, seed=3, size=4)
        entries = [json.loads(json.dumps(data[i])) for i in range(4)]
        for place, entry in enumerate(entries):
            options = {"task": task, "entry": entry}
            assert verify_answer("puzzle", "", None, f" {entry['answer']}\n", options).is_correct, task
            other = entries[place - 1]["answer"]
            if other != entry["answer"]:
                assert not verify_answer("puzzle", "", None, other, options).is_correct, (task, place)
            assert verify_answer("puzzle", "", None, f"not {entry['answer']} at all", options).score == 0.0, (
                task
            )


def test_partial_credit_is_none() -> None:
    import reasoning_gym

    data = reasoning_gym.create_dataset("caesar_cipher", seed=3, size=1)
    entry, near = data[0], f"I say {data[0]['answer']}"
    assert 0 < data.score_answer(near, entry) < 1
    verdict = verify_answer("puzzle", "", None, near, {"task": "caesar_cipher", "entry": entry})
    assert verdict.outcome is Outcome.INCORRECT and verdict.reward == 0.0


def test_extra_words_are_refused_where_the_scorer_reads_past_them() -> None:
    import reasoning_gym

    data = reasoning_gym.create_dataset("knights_knaves", seed=3, size=1)
    entry, negated = data[0], f"not {data[0]['answer']}"
    assert data.score_answer(negated, entry) == 1.0
    assert verify_answer("puzzle", "", None, negated, {"task": "knights_knaves", "entry": entry}).score == 0.0


def test_a_scorer_that_refuses_its_own_answer_is_the_golds_fault() -> None:
    entry = {"answer": "What is it?", "metadata": {"sorted_words": ["a", "b"]}}
    verdict = verify_answer("puzzle", "", None, "b, a", {"task": "word_sorting", "entry": entry})
    assert verdict.fault is Fault.GOLD


def test_unknown_task_and_config() -> None:
    entry = {"answer": "x", "metadata": {}}
    with pytest.raises(ValueError, match="did you mean 'word_sorting'"):
        verify_answer("puzzle", "", None, "x", {"task": "word_sort", "entry": entry})
    with pytest.raises(ValueError, match="config"):
        verify_answer(
            "puzzle", "", None, "x", {"task": "word_sorting", "entry": entry, "config": {"nope": 1}}
        )
    assert numeric("countdown", "1+1", "1+1").fault is Fault.GOLD  # an entry without its numbers
