"""Worked solutions of the tiny models' tasks: steps, searches and their words in English and Chinese.

A solution is a list of clauses. A clause knows what it says, not how: `render` puts it into English,
Chinese, English that turns into Chinese in the middle, or both mixed word by word. `find_steps` reads the
arithmetic back out of a completion in any of these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

Language = Literal["en", "zh", "switch", "words"]
"""`switch` changes language once between two clauses; `words` draws a language for every word."""

WORDS = {
    "+": ("plus", "加"),
    "-": ("minus", "减"),
    "*": ("times", "乘"),
    "/": ("over", "除以"),
    "%": ("mod", "模"),
    "=": ("is", "得"),
}
PHRASES = {
    "see": ("let me see", "我来看看"),
    "think": ("let me think", "我想一想"),
    "no": ("no", "不对"),
    "yes": ("yes", "对了"),
    "wait": ("wait, that is wrong", "等等，这里错了"),
    "give_up": ("I give up", "我放弃"),
    "guess": ("I will guess", "我猜一下"),
    "hard": ("this is hard", "这道题很难"),
    "unsure": ("I am not sure", "我不确定"),
    "maybe": ("maybe it is", "也许是"),
    "again": ("let me think again", "再想一想"),
    "numbers": ("there are many numbers here", "这里有很多数"),
    "so": ("so the answer is", "所以答案是"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """`a op b is result`, where the result may be wrong."""

    a: int
    op: str
    b: int
    result: int
    label: str = ""

    @property
    def right(self) -> bool:
        return apply(self.op, self.a, self.b) == self.result


@dataclass(frozen=True, slots=True)
class Phrase:
    """A fixed phrase, with something said behind it ("so the answer is" 12)."""

    key: str
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Solution:
    """Clauses, with the answer they lead to."""

    clauses: tuple[Step | Phrase, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Slips:
    """How often a step is wrong, and how often the writer notices and corrects it."""

    wrong: float = 0.0
    noticed: float = 0.0


def apply(op: str, a: int, b: int) -> int | None:
    """The exact result of a step, None where it is not an integer."""
    if op == "+":
        return a + b
    if op == "-":
        return a - b
    if op == "*":
        return a * b
    if b == 0:
        return None
    if op == "%":
        return a % b
    return a // b if a % b == 0 else None


class _Writer:
    """Collects clauses and makes slips on the way."""

    def __init__(self, rng: Random, slips: Slips) -> None:
        self.rng, self.slips = rng, slips
        self.clauses: list[Step | Phrase] = []

    def step(self, a: int, op: str, b: int, label: str = "") -> int:
        """Write a step and return the result that the writer goes on with."""
        right = apply(op, a, b)
        assert right is not None
        if self.rng.random() >= self.slips.wrong:
            self.clauses.append(Step(a, op, b, right, label))
            return right
        wrong = right + self.rng.choice((-10, -2, -1, 1, 2, 10))
        if wrong < 0 <= right:
            wrong = right + 1
        if op == "%":
            wrong = min(wrong, b)
        self.clauses.append(Step(a, op, b, wrong, label))
        if self.rng.random() >= self.slips.noticed:
            return wrong
        self.clauses += [Phrase("wait"), Step(a, op, b, right)]
        return right

    def say(self, key: str, tail: str = "") -> None:
        self.clauses.append(Phrase(key, tail))


def solve(task: str, metadata: dict[str, Any], rng: Random, slips: Slips) -> Solution:
    """A worked solution of a reasoning-gym problem, with slips.

    Args:
        task: chain_sum, gcd, leg_counting or countdown.
        metadata: the problem's metadata as reasoning-gym gives it.
    """
    writer = _Writer(rng, slips)
    if rng.random() < 0.2:
        writer.say(rng.choice(("see", "think")))
    answer = _SOLVERS[task](metadata, writer)
    return Solution(tuple(writer.clauses), answer)


def _chain_sum(metadata: dict[str, Any], writer: _Writer) -> str:
    parts = metadata["expression"].split()
    total = int(parts[0])
    for op, term in zip(parts[1::2], parts[2::2], strict=True):
        total = writer.step(total, op, int(term))
    return str(total)


def _gcd(metadata: dict[str, Any], writer: _Writer) -> str:
    """Euclid's algorithm, the larger number first."""
    high, low = sorted(metadata["numbers"], reverse=True)
    for _ in range(12):
        high, low = low, writer.step(high, "%", low)
        if low == 0:
            break
    return str(high)


def _leg_counting(metadata: dict[str, Any], writer: _Writer) -> str:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    total: int | None = None
    for animal, count in metadata["animals"].items():
        legs = writer.step(count, "*", ANIMALS[animal], animal)
        total = legs if total is None else writer.step(total, "+", legs)
    return str(total)


@dataclass(frozen=True, slots=True)
class Try:
    """A way to use three numbers: `first` makes a result, `second` uses it with the third number."""

    first: tuple[int, str, int]
    second: tuple[int, str, int]
    result_on_left: bool
    value: int

    def expression(self) -> str:
        """The try as an arithmetic expression, with brackets only where they are needed."""
        (a, inner, b), (x, outer, y) = self.first, self.second
        text = f"{a} {inner} {b}"
        if self.result_on_left:
            left = f"({text})" if inner in "+-" and outer in "*/" else text
            return f"{left} {outer} {y}"
        weak = (inner in "+-" and outer != "+") or outer == "/"
        return f"{x} {outer} ({text})" if weak else f"{x} {outer} {text}"


def _pairs(a: int, b: int) -> list[tuple[int, str, int]]:
    """Ways to join two positive numbers into a positive integer."""
    big, small = max(a, b), min(a, b)
    ways = [(a, "+", b), (a, "*", b)]
    if big > small:
        ways.append((big, "-", small))
    if small > 0 and big % small == 0:
        ways.append((big, "/", small))
    return ways


LARGEST = 60
"""No try goes above this: targets are at most 40, and nobody would multiply further."""


def all_tries(numbers: list[int]) -> list[Try]:
    """Every sensible way to use three numbers once each: integers from 1 to `LARGEST` all along."""
    tries: dict[tuple[Any, ...], Try] = {}
    for left_out in range(3):
        a, b = (n for i, n in enumerate(numbers) if i != left_out)
        c = numbers[left_out]
        for first in _pairs(a, b):
            made = apply(first[1], first[0], first[2])
            for second in _pairs(made, c) if made is not None and made <= LARGEST else []:
                value = apply(second[1], second[0], second[2])
                if value is None or value > LARGEST:
                    continue
                on_left = second[0] == made
                tries[(first, second)] = Try(first, second, on_left, value)
    return list(tries.values())


_SUCCESS_AT = (0.26, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.03)


def _countdown(metadata: dict[str, Any], writer: _Writer) -> str:
    """Try, check, try again; now and then give up and guess."""
    rng, target = writer.rng, metadata["target"]
    tries = all_tries(metadata["numbers"])
    good = [t for t in tries if t.value == target]
    bad = [t for t in tries if t.value != target]
    if not good:
        raise ValueError("no way through positive integers")
    gives_up = rng.random() < 0.12
    wanted = rng.choices(range(len(_SUCCESS_AT)), _SUCCESS_AT)[0]
    for attempt in _likely_first(bad, target, rng)[: min(wanted, 3) if gives_up else wanted]:
        if _write_try(attempt, target, writer):
            return attempt.expression()
    if gives_up:
        writer.say("give_up")
        writer.say("guess")
        return rng.choice(tries).expression()
    for _ in range(3):
        last = rng.choice(good)
        if _write_try(last, target, writer):
            break
    return last.expression()


def _likely_first(tries: list[Try], target: int, rng: Random) -> list[Try]:
    """A random order in which tries that come near the target tend to stand first."""
    return sorted(tries, key=lambda t: rng.expovariate(1.0) * math.exp(abs(t.value - target) / 10))


def _write_try(attempt: Try, target: int, writer: _Writer) -> bool:
    """Write a try with its check; returns whether the writer believes it hits the target."""
    made = writer.step(*attempt.first)
    x, outer, y = attempt.second
    x, y = (made, y) if attempt.result_on_left else (x, made)
    if apply(outer, x, y) is None:  # a slip spoilt the division
        writer.say("no")
        return False
    value = writer.step(x, outer, y)
    writer.say("yes" if value == target else "no")
    return value == target


_SOLVERS: dict[str, Callable[[dict[str, Any], _Writer], str]] = {
    "chain_sum": _chain_sum,
    "gcd": _gcd,
    "leg_counting": _leg_counting,
    "countdown": _countdown,
}


def guess(task: str, problem_answer: str, metadata: dict[str, Any], rng: Random, right: float) -> str:
    """A bare guess, right with probability `right`, else wrong and plausible."""
    if task == "countdown":
        tries = all_tries(metadata["numbers"])
        good = [t for t in tries if t.value == metadata["target"]]
        pool = good if good and rng.random() < right else [t for t in tries if t not in good]
        return rng.choice(pool or tries).expression()
    answer = int(problem_answer)
    if rng.random() < right:
        return problem_answer
    if task == "gcd":
        return str(rng.choice([n for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12) if n != answer]))
    wrong = answer + rng.choice((-1, 1)) * rng.randint(1, 8)
    return str(abs(wrong) if task == "leg_counting" else wrong)


# ------------------------------------------------------------------------------------------- words


def render(clauses: tuple[Step | Phrase, ...], language: Language, rng: Random) -> str:
    """Put clauses into words."""
    if language == "words":
        return _join([(_words(c, lambda: rng.randrange(2)), 0) for c in clauses], clauses)
    first = 1 if language == "zh" else 0
    turn = len(clauses)
    if language == "switch":
        first = rng.randrange(2)
        turn = rng.randint(1, max(1, len(clauses) - 1))
    said = []
    for position, clause in enumerate(clauses):
        tongue = first if position < turn else 1 - first
        words = _words(clause, lambda tongue=tongue: tongue)  # type: ignore[misc]
        said.append((words.replace(" ", "") if tongue == 1 else words, tongue))
    return _join(said, clauses)


def _words(clause: Step | Phrase, tongue: Callable[[], int]) -> str:
    if isinstance(clause, Phrase):
        return PHRASES[clause.key][tongue()] + (f" {clause.tail}" if clause.tail else "")
    op, equals = WORDS[clause.op][tongue()], WORDS["="][tongue()]
    label = f"{clause.label}: " if clause.label and tongue() == 0 else ""
    return f"{label}{clause.a} {op} {clause.b} {equals} {clause.result}"


def _join(said: list[tuple[str, int]], clauses: tuple[Step | Phrase, ...]) -> str:
    """Commas between clauses, a full stop behind a verdict and at the end, in the clause's own script."""
    text = ""
    for position, (words, tongue) in enumerate(said):
        clause = clauses[position]
        last = position == len(said) - 1
        stops = last or (isinstance(clause, Phrase) and clause.key != "maybe")
        mark = ("。" if stops else "，") if tongue == 1 else ("." if stops else ",")
        glue = "" if last or (tongue == 1 and said[position + 1][1] == 1) else " "
        text += words + mark + glue
    return text


_SYMBOL = {word: op for op, pair in WORDS.items() for word in pair if op != "="}
_STEP = re.compile(r"(-?\d+)\s*(" + "|".join(map(re.escape, _SYMBOL)) + r")\s*(-?\d+)\s*(?:is|得)\s*(-?\d+)")


def find_steps(text: str) -> list[Step]:
    """The arithmetic steps written in a text, in English, Chinese or a mixture."""
    return [Step(int(m[1]), _SYMBOL[m[2]], int(m[3]), int(m[4])) for m in _STEP.finditer(text)]
