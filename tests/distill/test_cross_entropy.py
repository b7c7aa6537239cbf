"""The loss over a large vocabulary in chunks: value and gradient of the plain one, without what does not count."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.gemma.cross_entropy import chunked_nll
from distill.gemma.forward import cell_logits

pytestmark = pytest.mark.train

ROWS, LENGTH, WIDTH, VOCABULARY = 3, 22, 8, 37


def made() -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32)
    embedding = jnp.asarray(rng.normal(size=(VOCABULARY, WIDTH)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, VOCABULARY, (ROWS, LENGTH)), jnp.int32)
    weights = rng.uniform(0.5, 2.0, (ROWS, LENGTH)) * (rng.uniform(size=(ROWS, LENGTH)) < 0.4)
    weights[2] = 0.0  # a row of padding
    return hidden, embedding, targets, jnp.asarray(weights / weights.sum(), jnp.float32)


def plain(hidden: Any, embedding: Any, targets: Any, weights: Any, cap: float | None) -> Any:
    table = jax.nn.log_softmax(cell_logits(embedding, cap, hidden), axis=-1)
    return -jnp.sum(jnp.take_along_axis(table, targets[..., None], -1)[..., 0] * weights)


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 4, 11, 21])
def test_value_and_gradient_are_the_plain_ones(cap: float | None, chunk: int) -> None:
    hidden, embedding, targets, weights = made()

    def scaled(loss: Any) -> Any:  # what comes back is not 1
        return 2.5 * loss**2

    ours = jax.jit(
        jax.value_and_grad(
            lambda h, e: scaled(chunked_nll(h, e, targets, weights, cap, chunk, False)), (0, 1)
        )
    )
    theirs = jax.value_and_grad(lambda h, e: scaled(plain(h, e, targets, weights, cap)), (0, 1))
    (value, gradients), (expected, wanted) = ours(hidden, embedding), theirs(hidden, embedding)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(found, other, atol=1e-5)
    # Where nobody differentiates, nothing but the loss is computed, and it is the same.
    np.testing.assert_allclose(
        chunked_nll(hidden, embedding, targets, weights, cap, chunk, False),
        plain(hidden, embedding, targets, weights, cap),
        rtol=1e-6,
    )


def test_a_frozen_embedding_gets_no_gradient_and_costs_none() -> None:
    hidden, embedding, targets, weights = made()

    def compiled(frozen: bool) -> Any:
        loss = jax.value_and_grad(lambda h: chunked_nll(h, embedding, targets, weights, None, 4, frozen))
        return jax.jit(loss).lower(hidden).compile()

    (value, by_hidden), (other, expected) = (compiled(frozen)(hidden) for frozen in (True, False))
    np.testing.assert_allclose(value, other, rtol=1e-6)
    np.testing.assert_allclose(by_hidden, expected, atol=1e-7)
    jaxpr = str(
        jax.make_jaxpr(lambda h, e: jax.grad(chunked_nll)(h, e, targets, weights, None, 4, True))(
            hidden, embedding
        )
    )
    carried = f"f32[{VOCABULARY},{WIDTH}]"
    assert f"{carried} = add_any" not in jaxpr and f"{carried} = add" not in jaxpr


def test_chunks_that_do_not_count_are_not_computed() -> None:
    """One weighted cell in a row of many: a single chunk runs, which a callback counts."""
    hidden, embedding, targets, _ = made()
    ran: list[int] = []
    weights = jnp.zeros((ROWS, LENGTH)).at[1, LENGTH - 1].set(1.0)  # the last cell, put first

    import distill.gemma.cross_entropy as module

    original = module._loss

    def counting(*arguments: Any) -> Any:
        jax.debug.callback(lambda: ran.append(1))
        return original(*arguments)

    module._loss = counting
    try:
        found = jax.jit(partial(chunked_nll, cap=None, chunk=2, frozen=False))(
            hidden, embedding, targets, weights
        )
        jax.effects_barrier()
    finally:
        module._loss = original
    assert len(ran) == 1
    np.testing.assert_allclose(found, plain(hidden, embedding, targets, weights, None), rtol=1e-6)


def test_memory_does_not_grow_with_the_vocabulary_times_the_cells() -> None:
    """Of what XLA plans: the temporaries of loss and gradient, in bytes."""
    rows, length, width, vocabulary = 1, 512, 64, 16_384
    shapes = [
        jax.ShapeDtypeStruct((rows, length, width), jnp.float32),
        jax.ShapeDtypeStruct((vocabulary, width), jnp.float32),
        jax.ShapeDtypeStruct((rows, length), jnp.int32),
        jax.ShapeDtypeStruct((rows, length), jnp.float32),
    ]

    def temporaries(loss: Any) -> int:
        done = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile()
        return int(done.memory_analysis().temp_size_in_bytes)

    logits = 4 * rows * length * vocabulary
    chunked = temporaries(lambda h, e, t, w: chunked_nll(h, e, t, w, None, 32, False))
    whole = temporaries(lambda h, e, t, w: plain(h, e, t, w, None))
    assert whole >= logits
    assert chunked < logits / 2
