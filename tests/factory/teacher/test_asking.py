"""What a stage of reinforcement learning asks and when, where it stops, and what its folder says afterwards."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

pytest.importorskip("tunix")
pytestmark = pytest.mark.train

from distill.gemma.folder import ModelFolder  # noqa: E402
from factory.store import Run  # noqa: E402
from factory.teacher.identity import another_stage  # noqa: E402
from filters.errors import UserError  # noqa: E402
from tests.factory.teacher.conftest import TINY_STUDENT, sums  # noqa: E402
from tests.factory.teacher.rewarding import Listener  # noqa: E402
from tests.factory.teacher.staging import go, metrics, right_and_wrong, spec  # noqa: E402

LATE = {"overlong": {"mode": "mask"}, "harmlessness": {"weight": 0.5, "scorer": "rm", "from_step": 2}}


def mixed(general: int) -> list[dict[str, Any]]:
    """16 prompts, the last `general` of them without a grader."""
    prompts = sums(16)
    for row in prompts[16 - general :]:
        row |= {"verifier": "none", "reference": None, "prompt_id": f"general{row['prompt_id']}"}
    return prompts


def test_general_prompts_wait_for_the_scorers(run: Run) -> None:
    scorer = Listener("response")
    go(run, spec(steps=4, rewards=LATE), right_and_wrong, mixed(8), scorers={"rm": scorer})
    asked: dict[int, set[str]] = {}
    for row in run.read("rollouts").to_pylist():
        asked.setdefault(row["step"], set()).add(row["prompt_id"])
    assert [sum(p.startswith("general") for p in asked[step]) for step in (1, 2)] == [0, 0]
    assert any(p.startswith("general") for step in (3, 4) for p in asked[step])
    assert all(len(prompts) == 4 for prompts in asked.values())
    assert scorer.calls == 2


def test_nothing_to_reward_until_a_scorer_is_asked(run: Run) -> None:
    with pytest.raises(UserError, match="no scorer is asked in the first step"):
        go(
            run,
            spec(steps=4, rewards=LATE),
            right_and_wrong,
            mixed(16),
            scorers={"rm": Listener("response")},
        )


def test_what_only_a_language_model_could_judge_is_left_out(run: Run) -> None:
    prompts = sums(16)
    for row in prompts[4:]:
        row["verifier"] = "judge"
    said: list[str] = []
    go(run, spec(steps=2), right_and_wrong, prompts, on_message=said.append)
    assert {row["prompt_id"] for row in run.read("rollouts").to_pylist()} == {
        f"train{n:03d}" for n in range(4)
    }
    assert "12 of 16 prompts left out: a language model alone could judge them" in said


def test_steps_without_any_reward_stop_and_say_why(run: Run) -> None:
    prompts = sums(16)
    for row in prompts:
        row["reference"] = "\\frac{"
    go(run, spec(steps=2), right_and_wrong, prompts, job="short")
    with pytest.raises(
        UserError, match=r"step 3 of zero: for 3 steps no sample .* of the last 16, 16 because .*gold"
    ):
        go(run, spec(steps=4), right_and_wrong, prompts)


def test_the_language_of_a_prompt_belongs_to_the_stage_where_it_is_rewarded(run: Run) -> None:
    def difference(what: Any, prompts: Any) -> str | None:
        return another_stage(
            "zero", what, ModelFolder.open(TINY_STUDENT), prompts, run.folder / "teacher" / "zero"
        )

    rewarded = spec(steps=1, rewards={"overlong": {"mode": "mask"}, "language": {"weight": 0.1}})
    go(run, rewarded, right_and_wrong)
    chinese = [row | {"language": "zh"} for row in sums(16)]
    assert difference(rewarded, sums(16)) is None
    assert "fingerprint" in (difference(rewarded, chinese) or "")


def test_a_finished_stage_keeps_its_seconds_and_mends_its_metrics(run: Run) -> None:
    first, _ = go(run, spec(steps=1), right_and_wrong)
    before = metrics(run)
    first.metrics.unlink()
    again, rollout = go(run, spec(steps=1), right_and_wrong)
    assert rollout is None and again.seconds == first.seconds > 0
    assert metrics(run) == before


def test_a_signal_in_the_last_step_is_passed_on(run: Run) -> None:
    def script(prompt: str, n: int) -> str:
        if n == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return right_and_wrong(prompt, n)

    with pytest.raises(
        UserError, match="stopped by SIGTERM after step 1 of 1; the model is finished"
    ) as caught:
        go(run, spec(steps=1), script)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert json.loads((run.folder / "teacher" / "zero" / "train.json").read_text())["status"] == "done"
