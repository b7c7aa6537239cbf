"""Batches: the order of the samples, how they share rows, and that a row changes no loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distill.batches import Order, RowShape, TrainStream, make_batch, row_length
from distill.data import Example

pytestmark = pytest.mark.train


def example(*ids: int, prompt: int = 1, weight: float = 1.0) -> Example:
    mask = np.arange(len(ids)) >= prompt
    return Example(np.asarray(ids, np.int32), mask, weight)


def test_every_epoch_shows_every_sample_once_in_another_order() -> None:
    order = Order(11, seed=3)
    epochs = [[order[e * 11 + i] for i in range(11)] for e in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    fresh = Order(11, seed=3)
    assert [fresh[p] for p in (32, 5, 17)] == [epochs[2][10], epochs[0][5], epochs[1][6]]
    assert [Order(11, seed=4)[i] for i in range(11)] != epochs[0]


def test_the_order_is_the_same_on_every_machine() -> None:
    assert [Order(8, seed=1)[i] for i in range(10)] == ORDER_8_1


ORDER_8_1 = [2, 4, 7, 5, 0, 6, 3, 1, 5, 6]


def shape(samples: int = 4, rows: int = 2, length: int = 8, packed: bool = True) -> RowShape:
    return RowShape(samples, rows, length, packed)


def test_samples_share_a_row_or_have_one_each() -> None:
    examples = [example(2, 7, 8, prompt=2, weight=0.5), example(2, 9), example(2, 5, 6, 4, prompt=2)]
    packed = make_batch(examples, shape())
    # A cell predicts its target, so a sample of n tokens takes n - 1 of them: 3, 2 and 1 share a row of 8.
    assert packed.rows.tokens.tolist() == [[2, 5, 6, 2, 7, 2, 0, 0]]
    assert packed.rows.targets.tolist() == [[0, 6, 4, 0, 8, 9, 0, 0]]
    assert packed.rows.positions.tolist() == [[0, 1, 2, 0, 1, 0, 0, 0]]
    assert packed.rows.group.tolist() == [[1, 1, 1, 2, 2, 3, 0, 0]]
    assert packed.weights.tolist() == [[0, 1, 1, 0, 0.5, 1, 0, 0]]
    assert (packed.total, packed.trained, packed.tokens) == (3.5, 4, 6)
    apart = make_batch(examples, shape(packed=False), weighted=False)
    assert apart.rows.tokens.tolist() == [[2, 7] + [0] * 6, [2] + [0] * 7, [2, 5, 6] + [0] * 5]
    assert apart.weights.tolist() == [[0, 1] + [0] * 6, [1] + [0] * 7, [0, 1, 1] + [0] * 5]
    assert (apart.total, apart.tokens) == (4.0, 6)


def test_turns_that_are_not_trained_on_keep_their_place() -> None:
    """A conversation of two replies: what the user says between them is read, and not trained on."""
    mask = np.asarray([False, False, True, True, False, True])
    two = Example(np.asarray([2, 3, 4, 5, 6, 7], np.int32), mask, 2.0)
    batch = make_batch([two], shape(length=8))
    assert batch.rows.targets.tolist() == [[0, 4, 5, 6, 7, 0, 0, 0]]
    assert batch.weights.tolist() == [[0, 2, 2, 0, 2, 0, 0, 0]]


def test_rows_are_as_long_as_the_longest_sample_rounded_up() -> None:
    assert [row_length(n, 64) for n in (1, 16, 17, 60, 64)] == [16, 16, 32, 64, 64]
    assert row_length(60, 61) == 61


def test_the_stream_goes_on_by_position_and_stops_between_steps() -> None:
    examples = [example(2, i + 10) for i in range(5)]
    stop = [False]

    def stream(skip: int) -> TrainStream:
        made = TrainStream(examples, shape(), steps=6, seed=0, stop=lambda _: stop[0])
        made.skip = skip
        return made

    whole = [b.rows.targets.tolist() for b in stream(0) if b is not None]
    assert len(whole) == 6
    later = list(stream(2))
    assert later[:2] == [None] * 2
    assert [b.rows.targets.tolist() for b in later[2:] if b is not None] == whole[2:]
    taken = 0
    for _ in stream(0):
        taken += 1
        if taken == 2:
            stop[0] = True
    assert taken == 2


def test_how_full_rows_are() -> None:
    examples = [example(*range(2, 7)) for _ in range(10)]  # four cells each
    stream = TrainStream(examples, shape(samples=6, rows=2), steps=9, seed=0, stop=lambda _: False)
    # Two to a row: three rows of eight, and one row more that fills up the second micro-batch.
    assert stream.fullness() == (2.0, 24 / 32)
    assert stream.counts == {}  # looking hands out nothing


def test_packed_samples_have_the_loss_and_gradient_of_lone_ones(make_config: Any, make_folder: Any) -> None:
    """The weighted mean over the tokens of a step, whatever shares a row or a micro-batch; with a window shorter
    than a row, and of the model as Tunix computes it."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from distill.gemma.checkpoint import load_model
    from distill.loss import PassConfig, SftMicro, weighted_nll
    from distill.updates import accumulate, stacked

    model = load_model(make_folder(make_config(sliding_window=9)))
    rng = np.random.default_rng(0)
    examples = [
        example(*rng.integers(3, 60, n), prompt=p, weight=w)
        for n, p, w in ((30, 3, 2.0), (5, 1, 1.0), (12, 11, 1.0), (7, 2, 0.5), (21, 4, 1.0))
    ]
    graph, params = nnx.split(model)

    @jax.jit
    def alone(params: Any, ids: Any, mask: Any) -> Any:
        n = ids.shape[0]
        causal = jnp.tril(jnp.ones((1, n, n), bool))
        logits, _ = nnx.merge(graph, params)(ids[None], jnp.arange(n)[None], None, causal)
        scores = jax.nn.log_softmax(logits.astype(jnp.float32))[0, :-1]
        return -jnp.sum(jnp.take_along_axis(scores, ids[1:, None], axis=1)[:, 0] * mask[1:])

    parts = [
        jax.value_and_grad(alone)(params, jnp.asarray(e.ids), jnp.asarray(e.mask * e.weight))
        for e in examples
    ]
    total = sum(float(e.mask[1:].sum()) * e.weight for e in examples)
    expected = sum(float(value) for value, _ in parts) / total
    gradient = jax.tree.map(lambda *g: sum(g) / total, *(g for _, g in parts))
    for form in (shape(5, 2, 40), shape(5, 1, 32), shape(5, 5, 48, packed=False)):
        batch = make_batch(examples, form)
        rows = batch.rows
        columns = (rows.tokens, rows.targets, rows.positions, rows.group, rows.branch)
        stack, used = stacked([*columns, batch.weights / np.float32(batch.total)], form.rows, form.micros)

        def loss(p: Any, micro: SftMicro) -> Any:
            nll = weighted_nll(nnx.merge(graph, p), micro, PassConfig())
            return nll, {"nll": nll}

        found, sums = accumulate(loss, params, SftMicro(*stack), used, ("nll",))
        assert float(sums["nll"]) == pytest.approx(expected, abs=1e-5)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
