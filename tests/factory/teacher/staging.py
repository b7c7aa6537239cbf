"""A small stage of reinforcement learning over a scripted rollout, for tests."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from distill.gemma.folder import ModelFolder
from distill.gemma.tokenizer import Tokenizer
from factory.store import Run
from factory.teacher.grpo import train_rl
from factory.teacher.settings import Rl
from tests.factory.teacher.conftest import TINY_STUDENT, ScriptedRollout, sums

SMALL: dict[str, Any] = {
    "steps": 2,
    "prompts": 4,
    "samples": 4,
    "prompt_length": 24,
    "max_new_tokens": 24,
    "rows": 2,
    "rollout_batch": 16,
    "kl": 0.0,
    "optimiser": {"learning_rate": 1e-3},
    "rewards": {"overlong": {"mode": "mask"}},
}
RIGHT = "<think> so it is </think> <answer> {} </answer>"


def spec(**changes: Any) -> Rl:
    return Rl.model_validate({**SMALL, **changes})


def go(run: Run, what: Rl, script: Any = None, prompts: Any = None, job: str = "zero", **options: Any) -> Any:
    base = ModelFolder.open(TINY_STUDENT)
    made: list[ScriptedRollout] = []

    def rollout(_: Any, tokenizer: Tokenizer) -> ScriptedRollout:
        made.append(ScriptedRollout(tokenizer, script))
        return made[0]

    out = run.folder / "teacher" / job
    result = train_rl(
        job,
        what,
        base,
        sums(16) if prompts is None else prompts,
        out,
        run,
        rollout=None if script is None else rollout,
        **options,
    )
    return result, (made[0] if made else None)


def metrics(run: Run, job: str = "zero") -> dict[tuple[int, str], float]:
    """All numbers but the clocks."""
    rows = pq.read_table(run.folder / "teacher" / job / "metrics.parquet").to_pylist()
    return {(r["step"], r["name"]): r["value"] for r in rows if "speed/" not in r["name"]}


def asked_number(prompt: str) -> int:
    return int(prompt.split("What is")[1].split("+")[0])


def right_and_wrong(prompt: str, n: int) -> str:
    """Every other answer is right."""
    return RIGHT.format(asked_number(prompt) + n % 2)
