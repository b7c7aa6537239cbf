"""Prompts, a small student and a scripted rollout for tests of the RL core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from factory.store import Run
from factory.teacher.rollout import Drawn, Request

TINY_STUDENT = Path(__file__).parents[3] / "distill" / "gemma" / "tiny" / "student"


def sums(n: int, split: str = "train") -> list[dict[str, Any]]:
    """Rows of `prompts`: questions whose answers are checked as maths."""
    rows = []
    for number in range(n):
        question = f"What is {number} + 1?"
        rows.append(
            {
                "prompt_id": f"{split}{number:03d}",
                "question_hash": f"{number:032x}",
                "split": split,
                "domain": "even" if number % 2 == 0 else "odd",
                "language": "en",
                "question": question,
                "messages": [{"role": "user", "content": question}],
                "reference": str(number + 1),
                "verifier": "math",
                "verifier_args": "{}",
                "evaluation_only": False,
            }
        )
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


class ScriptedRollout:
    """Answers by a script: (prompt ids, seed, number of the request) -> text. It writes real token ids, stop token
    included, and remembers what it was asked."""

    def __init__(self, tokenizer: Any, script: Callable[[str, int], str]) -> None:
        self.tokenizer, self.script = tokenizer, script
        self.seconds, self.tokens = 0.0, 0
        self.asked: list[Request] = []
        self.synced = 0

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        found = []
        for number, request in enumerate(requests):
            self.asked.append(request)
            text = self.script(self.tokenizer.decode(list(request.prompt_ids)), number)
            ids = (*self.tokenizer.encode(text), self.tokenizer.eos_id)
            cut = ids[: request.max_new_tokens]
            found.append(Drawn(cut, text, len(cut) < len(ids), None))
        return found

    def sync(self) -> None:
        self.synced += 1

    def reset_clock(self) -> None: ...
