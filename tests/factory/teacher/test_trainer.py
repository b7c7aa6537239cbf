"""The compiled shape of an update: whatever lengths samples have, it holds them."""

from __future__ import annotations

import pytest

pytest.importorskip("tunix")
pytestmark = pytest.mark.train

import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from factory.teacher.trainer import Shape, most_rows, pack_samples  # noqa: E402

PROMPT, LIMIT = 6, 14


def lengths_of(draw: st.DrawFn, groups: int, samples: int) -> list[tuple[int, list[int]]]:
    """By group, tokens of the prompt and of each completion: any, or mostly the longest, which pack worst."""
    often = st.just(LIMIT) | st.integers(1, LIMIT)
    return [
        (draw(st.integers(1, PROMPT)), draw(st.lists(often, min_size=samples, max_size=samples)))
        for _ in range(groups)
    ]


@st.composite
def batches(draw: st.DrawFn) -> tuple[Shape, list[tuple[int, list[int]]]]:
    groups, samples = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    length = draw(st.integers(PROMPT + LIMIT, 10 * (PROMPT + LIMIT)))
    shape = Shape.for_groups(
        groups,
        samples,
        longest=PROMPT + LIMIT,
        length=length,
        rows=draw(st.integers(1, 4)),
        window=draw(st.sampled_from([0, length])),
    )
    # A step may learn from fewer groups than it asked for.
    return shape, lengths_of(draw, draw(st.integers(1, groups)), samples)


@given(batches(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_no_lengths_overflow_the_shape(batch: tuple[Shape, list[tuple[int, list[int]]]], alike: bool) -> None:
    """`alike`: all prompts are the same tokens, as where a short stream of prompts begins anew."""
    shape, groups = batch
    prompts, completions = [], []
    for number, (prompt, lengths) in enumerate(groups):
        ids = [2, *[30] * (PROMPT - 1)] if alike else [2, *[30 + number] * (prompt - 1)]
        prompts += [ids] * len(lengths)
        completions += [[40 + n % 5] * n for n in lengths]
    rows = pack_samples(prompts, completions, shape)
    assert len(rows) <= shape.micros * shape.rows
    assert int((rows.sample >= 0).sum()) == sum(map(len, completions))


@pytest.mark.parametrize(
    ("groups", "samples", "in_a_row", "rows"),
    [
        (32, 16, 1, 512),  # a sample a row
        (64, 8, 3, 192),  # 3, 3 and 2 of a prompt: nothing fits beside the 2
        (64, 8, 8, 64),  # a prompt a row
        (64, 8, 16, 32),
        (64, 8, 15, 64),
        (64, 7, 3, 128 + 22),  # 3, 3 and 1; three of the ones a row
        (10, 1, 4, 3),
    ],
)
def test_rows_by_hand(groups: int, samples: int, in_a_row: int, rows: int) -> None:
    assert most_rows(groups, samples, in_a_row) == rows


@pytest.mark.parametrize(("groups", "samples", "in_a_row"), [(64, 8, 3), (64, 8, 8), (12, 8, 16), (20, 1, 4)])
def test_the_longest_samples_fill_the_shape(groups: int, samples: int, in_a_row: int) -> None:
    """The shape is no larger than what the longest samples take, so nothing is held for nothing."""
    length = in_a_row * (PROMPT + LIMIT)
    shape = Shape.for_groups(groups, samples, longest=PROMPT + LIMIT, length=length, rows=1, window=length)
    prompts = [[2, *[30 + number] * (PROMPT - 1)] for number in range(groups) for _ in range(samples)]
    rows = pack_samples(prompts, [[40] * LIMIT] * len(prompts), shape)
    assert len(rows) <= shape.micros == most_rows(groups, samples, in_a_row)
    assert len(rows) > 0.7 * shape.micros


def test_a_shape_is_divided_among_devices() -> None:
    shape = Shape.for_groups(4, 8, longest=20, length=20, rows=6, window=10, data_shards=4)
    assert (shape.rows, shape.micros, shape.share) == (8, 4, 1)
    assert Shape.for_groups(4, 8, longest=20, length=40, rows=1, window=40).share == 8


def test_neighbours_share_a_prompt_only_where_they_may() -> None:
    prompts, completions = [[2, 30, 31]] * 4, [[40, 1]] * 4
    together = Shape.for_groups(1, 4, longest=10, length=20, rows=1, window=20)
    pairs = Shape.for_groups(2, 2, longest=10, length=20, rows=1, window=20)
    alone = Shape.for_groups(1, 4, longest=10, length=20, rows=1, window=10)
    held = [
        int(np.unique(pack_samples(prompts, completions, s).group).max()) for s in (together, pairs, alone)
    ]
    assert held == [1, 2, 4]
