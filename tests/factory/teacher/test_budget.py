"""The token budget: its documented examples, and what must hold for any setting."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from factory.teacher.budget import TokenBudget, budget_reward

DOC = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text("utf-8")
SETTINGS = yaml.safe_load(re.findall(r"```yaml budget\n(.*?)```", DOC, re.DOTALL)[0])
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOC.splitlines()
    if re.match(r"\| \d+ \|", line)
]


def budget(**more: Any) -> TokenBudget:
    return TokenBudget.model_validate({**SETTINGS, **more})


def test_the_table_covers_every_phase() -> None:
    assert {row[1].split(",")[0] for row in ROWS} == {
        "warm-up begins", "warm-up", "plateau", "decay begins", "decay", "medium"
    }  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[2]}-{row[5]}")
def test_documented_example(row: list[str]) -> None:
    step, _, decay, weight, band, tokens, value, paid = row
    the_budget = budget(decay=decay)
    low, high = the_budget.band_at(int(step))
    reward = budget_reward(the_budget, int(tokens), int(step))
    assert f"{round(low, 1):g}–{round(high, 1):g}" == band
    assert the_budget.weight_at(int(step)) == pytest.approx(float(weight))
    assert reward == pytest.approx(float(value), abs=5e-4)
    assert the_budget.weight_at(int(step)) * reward == pytest.approx(float(paid), abs=5e-4)


def test_without_phases_it_is_the_medium_band_at_full_weight_from_the_start() -> None:
    plain = budget(warmup_steps=0, plateau_steps=0, decay_steps=0)
    assert plain.weight_at(0) == 0.5
    assert plain.band_at(0) == (400, 600)


def test_without_a_decay_the_band_jumps() -> None:
    jumping = budget(decay_steps=0)
    assert jumping.band_at(399) == (800, 1200)
    assert jumping.band_at(400) == (400, 600)


def test_without_softness_the_edge_is_hard() -> None:
    hard = budget(softness=0)
    assert [budget_reward(hard, n, 100) for n in (799, 800, 1200, 1201)] == [0, 1, 1, 0]


def test_what_is_longest_is_paid_less_at_the_end_than_in_the_middle() -> None:
    assert budget_reward(budget(), 1200, 200) == 1.0
    assert budget_reward(budget(), 1200, 2000) == 0.0


@given(
    edges=st.lists(st.integers(1, 50_000), min_size=4, max_size=4),
    phases=st.tuples(*[st.integers(0, 5000)] * 3),
    softness=st.integers(0, 50_000),
    decay=st.sampled_from(["linear", "cosine"]),
    step=st.integers(0, 20_000),
    tokens=st.integers(0, 200_000),
)
@settings(deadline=None, max_examples=200)
def test_any_schedule(
    edges: list[int], phases: tuple[int, int, int], softness: int, decay: str, step: int, tokens: int
) -> None:
    a, b, c, d = sorted(edges)
    warmup, plateau, decay_steps = phases
    any_budget = budget(
        medium_band=(a, c), high_band=(b, d), warmup_steps=warmup, plateau_steps=plateau,
        decay_steps=decay_steps, softness=min(softness, a), decay=decay,
    )  # fmt: skip
    assert 0.0 <= budget_reward(any_budget, tokens, step) <= 1.0
    assert 0.0 <= any_budget.weight_at(step) <= any_budget.weight
    assert any_budget.weight_at(step) <= any_budget.weight_at(step + 1)
    low, high = any_budget.band_at(step)
    assert a - 1e-6 <= low <= b + 1e-6
    assert c - 1e-6 <= high <= d + 1e-6
    later = any_budget.band_at(step + 1)
    assert later[0] <= low + 1e-6 and later[1] <= high + 1e-6
    assert budget_reward(any_budget, 0, step) == 0.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"high_band": (1200, 800)}, "goes from low to high"),
        ({"medium_band": (900, 1000)}, "lies above"),
        ({"medium_band": (400, 1300)}, "lies above"),
        ({"softness": 401}, "without reasoning would be paid"),
        ({"medium_band": (0, 600), "softness": 0}, "without reasoning would be paid"),
        ({"weight": -1}, "greater than or equal to 0"),
        ({"weight": float("nan")}, "finite"),
        ({"warmup": 3}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_meant(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        budget(**wrong)
