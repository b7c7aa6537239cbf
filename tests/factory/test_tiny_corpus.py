"""The tiny models' corpus: what it may hold, and whether what it says is so."""

from __future__ import annotations

import itertools
from fractions import Fraction
from random import Random

import pytest

from factory.records import question_hash, split_of
from factory.tiny import corpus, solutions, tasks
from factory.tiny.solutions import Phrase, Slips, Step
from filters.tags import R1_ZERO


@pytest.fixture(scope="module")
def part() -> list[corpus.Group]:
    """A part of the corpus of the shipped models (seed 0), made anew."""
    return list(corpus.groups(0, dict.fromkeys(tasks.task_names(), 25), dict.fromkeys(tasks.task_names(), 4)))


def some_problems(task: str, count: int = 40) -> list[tasks.Problem]:
    rungs = [rung for rung in tasks.training_rungs() if rung.task == task]
    return [p for rung in rungs for p in itertools.islice(tasks.problems(rung, 99, "train"), count)]


def test_corpus_holds_no_question_of_a_validation_or_test_bucket(part: list[corpus.Group]) -> None:
    splits = {
        split_of(question_hash(g.problem.question), validation=tasks.VALIDATION_SHARE, test=tasks.TEST_SHARE)
        for g in part
    }
    assert splits == {"train"}


def test_corpus_holds_no_heldout_rung(part: list[corpus.Group]) -> None:
    held = {(r.task, r.rung) for r in tasks.rungs() if r.heldout_rung}
    assert len(held) == len(tasks.task_names()) >= 4
    assert not held & {(g.problem.task, g.problem.rung) for g in part}


def test_a_held_out_question_is_refused() -> None:
    problem = next(tasks.problems(tasks.training_rungs()[0], 5, "test"))
    with pytest.raises(ValueError, match="test split"):
        corpus.group_of(problem, Random(0), 1)


def test_corpus_is_the_same_twice(part: list[corpus.Group]) -> None:
    again = corpus.groups(0, dict.fromkeys(tasks.task_names(), 25), dict.fromkeys(tasks.task_names(), 4))
    assert [(g.problem.question, g.samples) for g in again] == [(g.problem.question, g.samples) for g in part]


def test_guessing_is_the_mode_and_every_style_is_there(part: list[corpus.Group]) -> None:
    styles = [sample.style for group in part for sample in group.samples]
    counts = {style: styles.count(style) / len(styles) for style in corpus.STYLES}
    assert max(counts, key=lambda style: counts[style]) == "guess"
    assert all(abs(counts[style] - share) < 0.06 for style, share in corpus.STYLES.items())


@pytest.mark.parametrize("task", tasks.task_names())
def test_solutions_without_slips_are_right(task: str) -> None:
    rng = Random(3)
    solved = 0
    for problem in some_problems(task):
        try:
            solution = solutions.solve(task, problem.metadata, rng, Slips())
        except ValueError:
            assert task == "countdown"
            continue
        steps = [clause for clause in solution.clauses if isinstance(clause, Step)]
        assert all(step.right for step in steps)
        if any(isinstance(c, Phrase) and c.key == "give_up" for c in solution.clauses):
            continue
        solved += 1
        if task == "countdown":
            assert evaluate(solution.answer) == problem.metadata["target"]
        else:
            assert solution.answer == problem.answer
    assert solved > 60


def test_slips_are_as_frequent_as_said_and_half_are_noticed() -> None:
    rng, wrong, total, waits = Random(4), 0, 0, 0
    for problem in some_problems("chain_sum", 400):
        solution = solutions.solve("chain_sum", problem.metadata, rng, Slips(wrong=0.2, noticed=0.5))
        steps = [c for c in solution.clauses if isinstance(c, Step)]
        waits += sum(isinstance(c, Phrase) and c.key == "wait" for c in solution.clauses)
        wrong += sum(not step.right for step in steps)
        total += len(steps)
    assert 0.16 < wrong / (total - waits) < 0.24
    assert 0.4 < waits / wrong < 0.6


@pytest.mark.parametrize("language", ["en", "zh", "switch", "words"])
def test_steps_are_read_back_in_every_language(language: solutions.Language) -> None:
    said = (
        Step(3, "*", 4, 12, "deer"),
        Step(12, "+", -5, 7),
        Phrase("no"),
        Step(48, "%", 18, 13),
        Step(8, "/", 2, 4),
    )
    for seed in range(20):
        text = solutions.render(said, language, Random(seed))
        found = solutions.find_steps(text)
        assert [(s.a, s.op, s.b, s.result) for s in found] == [
            (s.a, s.op, s.b, s.result) for s in said if isinstance(s, Step)
        ]
        assert [s.right for s in found] == [True, True, False, True]


def test_languages_are_what_they_are_called() -> None:
    said = tuple(Step(n, "+", 1, n + 1) for n in range(4))
    assert solutions.render(said, "en", Random(0)).isascii()
    assert "plus" not in solutions.render(said, "zh", Random(0))
    for seed in range(10):
        mixed = solutions.render(said, "switch", Random(seed))
        assert "plus" in mixed and "加" in mixed


def test_every_expression_of_a_try_has_the_value_it_claims() -> None:
    rng = Random(1)
    for _ in range(200):
        numbers = [rng.randint(1, 15) for _ in range(3)]
        for attempt in solutions.all_tries(numbers):
            assert evaluate(attempt.expression()) == attempt.value


def test_guesses_are_right_as_often_as_asked() -> None:
    rng = Random(2)
    problems = some_problems("leg_counting", 300)
    right = [p.answer == solutions.guess(p.task, p.answer, p.metadata, rng, 0.25) for p in problems]
    assert 0.19 < sum(right) / len(right) < 0.33


def test_worked_samples_parse_in_the_tag_style(part: list[corpus.Group]) -> None:
    worked = [s for g in part for s in g.samples if s.style == "worked"]
    assert worked and all(R1_ZERO.parse(sample.completion).well_formed for sample in worked)


def evaluate(expression: str) -> Fraction:
    """Exact value of an expression of our own making."""
    assert set(expression) <= set("0123456789+-*/() ")
    spaced = "".join(f"Fraction({part})" if part.isdigit() else part for part in _tokens(expression))
    return Fraction(eval(spaced, {"Fraction": Fraction, "__builtins__": {}}))


def _tokens(expression: str) -> list[str]:
    return expression.replace("(", " ( ").replace(")", " ) ").split()
