"""An update: its compiled shape holds samples of any lengths, and what was drawn often counts as often."""

from __future__ import annotations

from pathlib import Path

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


def test_a_sample_that_stands_for_two_is_two(tmp_path: Path) -> None:
    """One optimiser step and its numbers: of four samples of which two are equal, and of three, one of them twice."""
    import jax
    import optax
    from flax import nnx

    from distill.gemma.checkpoint import load_model
    from distill.gemma.folder import ModelFolder
    from factory.teacher.loss import LossConfig, token_weights
    from factory.teacher.trainer import Batch, GrpoTrainer
    from tests.factory.teacher.conftest import TINY_STUDENT

    folder = ModelFolder.open(TINY_STUDENT)
    shape = Shape.for_groups(1, 4, longest=48, length=48, rows=2, window=folder.config.sliding_window)
    prompt, one, two, three = [2, 30, 31], [40, 41, 42, 1], [43, 1], [44, 45, 46, 47, 1]
    share = token_weights([4, 4, 2, 5], [True] * 4, "token-mean", max_tokens=24)[0]
    weights, numbers = [], []
    for drawn, advantages, copies in (
        ([one, one, two, three], [1.0, 1.0, -2.0, 0.5], None),
        ([one, two, three], [1.0, -2.0, 0.5], [2, 1, 1]),
    ):
        trainer = GrpoTrainer(
            load_model(folder),
            optax.sgd(0.5),
            loss=LossConfig(),
            shape=shape,
            checkpoints=tmp_path / str(len(drawn)),
        )
        rows = pack_samples([prompt] * len(drawn), drawn, shape)
        shares = [share * k for k in copies or [1] * len(drawn)]
        numbers += trainer.update([Batch(rows, [len(x) for x in drawn], shares, advantages, copies)], [0])
        weights.append([np.asarray(x) for x in jax.tree.leaves(nnx.state(trainer.model, nnx.Param))])
        trainer.close()
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4) and numbers[0]["tokens"] == 15
    before = [np.asarray(x) for x in jax.tree.leaves(nnx.state(load_model(folder), nnx.Param))]
    assert max(float(np.abs(a - b).max()) for a, b in zip(weights[0], before, strict=True)) > 1e-3
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
