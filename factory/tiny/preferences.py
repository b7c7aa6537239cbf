"""A miniature of human preference for the tiny models: two rules that stand in for annotators.

The rules label pairs and measure a policy before and after; a reward model never sees them, it learns from
the pairs. What they stand for, and what they do not, is in `docs/reward-models.md`.

*Helpfulness* of the final summary, three levels: 2, nothing but an answer of the form the question asks for (a
whole number; for countdown an expression over exactly the given numbers); 1, such an answer stated with other
words around it; 0, no answer, a doubtful one, or one of another form. Whether it is *right* takes no part:
that is the verifier's reward.

*Harmlessness* of the whole response: none of the phrases of giving up or guessing, anywhere, the reasoning
included. They play the part of content that must not appear.

    python -m factory.tiny.preferences distill/gemma/tiny/teacher [--questions 40] [--samples 8]

prints how often a model writes each.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from factory.teacher.preference import Purpose, Response, make_pairs, summary_of
from factory.tiny.solutions import PHRASES
from filters.tags import R1_ZERO

HARMFUL = ("give_up", "guess", "maybe")
"""Keys of `PHRASES`: "I give up", "I will guess", "maybe it is", and the same in Chinese."""
SOURCE = "rule:tiny"
MOST_HELPFUL = 2
"""The highest level of helpfulness."""

_NUMBERS = re.compile(
    r"Using all the numbers ([\d, ]+), create|using all of these numbers: ([\d, ]+)"  # countdown's two wordings
)
_INTEGER = re.compile(r"-?\d+")
_EXPRESSION = re.compile(r"[\d\s()+*/-]+")
_STATED = re.compile("(?:" + "|".join(PHRASES["so"]) + r")\s*(.+?)\s*[.。]?\s*$", re.DOTALL)


def helpfulness(question: str, summary: str) -> int:
    """0, 1 or 2; see the module's text."""
    if _right_form(question, summary.strip()):
        return 2
    if not harmless(summary):
        return 0
    stated = _STATED.search(summary)
    return int(stated is not None and _right_form(question, stated[1]))


def _right_form(question: str, answer: str) -> bool:
    found = _NUMBERS.search(question)
    if found is None:
        return _INTEGER.fullmatch(answer) is not None
    given = sorted(map(int, re.findall(r"\d+", found[1] or found[2])))
    return (
        _EXPRESSION.fullmatch(answer) is not None
        and sorted(map(int, re.findall(r"\d+", answer))) == given
        and _balanced(answer)
    )


def _balanced(answer: str) -> bool:
    depth = 0
    for character in answer:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def harmless(response: str) -> bool:
    """No phrase of giving up or guessing anywhere; white space does not hide one."""
    bare = re.sub(r"\s", "", response)
    return not any(phrase.replace(" ", "") in bare for key in HARMFUL for phrase in PHRASES[key])


def tiny_pairs(
    responses: Iterable[Response],
    purposes: Sequence[Purpose] = ("helpfulness", "harmlessness"),
    **options: Any,
) -> list[dict[str, Any]]:
    """Label samples by the rules and make rows of the table `pairs`.

    Args:
        responses: samples of a policy.
        purposes: which of the two.
        options: of `factory.teacher.preference.make_pairs`.
    """
    responses = list(responses)
    rows = []
    if "helpfulness" in purposes:
        rows += make_pairs(
            responses,
            lambda r: helpfulness(r.question, summary_of(r.text, R1_ZERO)),
            "helpfulness",
            source=SOURCE,
            seen=lambda r: summary_of(r.text, R1_ZERO),
            **options,
        )
    if "harmlessness" in purposes:
        rows += make_pairs(
            responses,
            lambda r: float(harmless(r.text)),
            "harmlessness",
            source=SOURCE,
            seen=lambda r: r.text,
            **options,
        )
    return rows


def rates(responses: Iterable[Response]) -> dict[str, float]:
    """Shares of responses by helpfulness level and harmlessness; for before and after."""
    counts: Counter[str] = Counter()
    for response in responses:
        counts["responses"] += 1
        level = helpfulness(response.question, summary_of(response.text, R1_ZERO))
        counts[f"helpfulness {level}"] += 1
        safe = harmless(response.text)
        counts["harmful"] += not safe
        counts["harmful though fully helpful"] += not safe and level == 2
    total = counts.pop("responses")
    names = [*(f"helpfulness {level}" for level in (2, 1, 0)), "harmful", "harmful though fully helpful"]
    return {name: counts[name] / max(1, total) for name in names}


def sample_responses(folder: Path, split: str, per_task: int, samples: int, seed: int) -> list[Response]:
    """Samples of a tiny model at temperature 1, under the protocol of `factory.tiny.measure`."""
    from factory.records import question_hash
    from factory.tiny.measure import held_out, sampler_of
    from factory.tiny.tokenizer import prompt_text

    chosen = held_out(split, per_task, seed)
    drawn = sampler_of(folder, seed)([prompt_text(problem.question) for problem in chosen], samples, 1.0)
    return [
        Response(question_hash(problem.question), problem.question, completion.text)
        for problem, completions in zip(chosen, drawn, strict=True)
        for completion in completions
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m factory.tiny.preferences", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="an HF folder of a tiny model")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="validation")
    parser.add_argument("--questions", type=int, default=40, help="questions a task")
    parser.add_argument("--samples", type=int, default=8, help="samples a question")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    responses = sample_responses(
        options.folder, options.split, options.questions, options.samples, options.seed
    )
    lines = [f"{name}: {100 * share:.1f}%" for name, share in rates(responses).items()]
    sys.stdout.write(f"{len(responses)} responses\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
