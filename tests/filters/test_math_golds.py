"""Real golds of many shapes: each equals itself, and golds of different questions are not taken for the same
(R1_SHARED_DATA)."""

import json
import random

import pytest

from filters import verify_answer
from filters.verifiers import math_fallback
from filters.verifiers.math_scalars import Rules
from tests import shared_data

DATA = shared_data.DATA / "math_benchmarks"
SETS = ("math500", "gaokao2023en", "carp_en", "cmath", "svamp", "eval_rm_maj_math_cot_100", "sat_math")


def golds(name: str) -> list[str]:
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there: set R1_SHARED_DATA")
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    values = {str(row.get("answer", row.get("Answer"))).strip() for row in rows}
    return sorted(value for value in values if value)


@pytest.mark.parametrize("name", SETS)
def test_every_gold_equals_itself(name: str) -> None:
    for gold in golds(name):
        inner = gold.strip("$") if gold.startswith("$") and gold.count("$") == 2 else gold
        for answer in (gold, f"So it is \\boxed{{{inner}}}.", f"The answer is ${inner}$."):
            verdict = verify_answer("math", "", gold, answer)
            assert verdict.is_correct, f"{answer}: {verdict.explanation}"


def test_college_golds_equal_themselves_in_a_box() -> None:
    """They are prose in part: a box says where the answer is."""
    verdicts = [verify_answer("math", "", gold, f"\\boxed{{{gold}}}") for gold in golds("college_math")]
    assert sum(not verdict.is_correct for verdict in verdicts) <= 0.005 * len(verdicts)


def test_golds_of_different_questions_differ() -> None:
    """What is called equal among random pairs, math-verify calls equal too."""
    values = [gold for name in SETS for gold in golds(name)]
    pairs = random.Random(0).sample([(a, b) for a in values for b in values if a < b], 20_000)
    equal = [(a, b) for a, b in pairs if verify_answer("math", "", a, f"\\boxed{{{b}}}").is_correct]
    assert 5 < len(equal) < 100
    for a, b in equal:
        left, right = (math_fallback.read(text.strip("$")) for text in (a, b))
        assert math_fallback.same(left, right, Rules()) or math_fallback.same(right, left, Rules()), (a, b)
