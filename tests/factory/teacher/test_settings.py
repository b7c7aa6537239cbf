"""Settings of a stage that could not do what they say are refused, in a sentence with the numbers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from factory.teacher.settings import Rl

SCORED = {"helpfulness": {"weight": 1.0, "from_step": 7, "scorer": "helpful"}}


def fails(**settings: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Rl.model_validate(settings)
    return str(caught.value)


def test_more_minibatches_than_prompts_are_refused() -> None:
    assert "minibatches (5) must not be more than prompts (4)" in fails(steps=1, prompts=4, minibatches=5)
    assert Rl.model_validate({"steps": 1, "prompts": 4, "minibatches": 4}).minibatches == 4


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("rewards.helpfulness.from_step", {"rewards": SCORED}),
        ("rewards.rubric.from_step", {"rewards": {"rubric": {"weight": 1.0, "from_step": 7}}}),
        ("longer.0.from_step", {"longer": [{"from_step": 7, "max_new_tokens": 2048}]}),
    ],
)
def test_what_begins_behind_the_last_step_is_refused(key: str, settings: dict[str, Any]) -> None:
    for steps in (6, 7):
        assert f"{key} (7) must be less than steps ({steps})" in fails(steps=steps, **settings)
    assert Rl.model_validate({"steps": 8, **settings}).steps == 8


def test_limits_and_preferences_count_steps_alike() -> None:
    """`from_step` steps come before, of either; the trainer counts from 1 and gives rewards one less."""
    longer = [{"from_step": 7, "max_new_tokens": 2048}]
    spec = Rl.model_validate({"steps": 10, "max_new_tokens": 1024, "longer": longer, "rewards": SCORED})
    for step in range(1, spec.steps + 1):
        assert (spec.limit(step) == 2048) == bool(spec.rewards.preferences(step - 1)) == (step > 7)
