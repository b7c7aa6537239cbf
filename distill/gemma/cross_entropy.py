"""Weighted cross-entropy over a large vocabulary, chunk by chunk, its gradient made on the way.

The loss is linear in what every cell loses, so the gradient of a chunk is known as soon as its logits are: they are
made once, and neither kept nor made again (Hsu et al. 2024, arXiv 2410.10989, section 3.2). Cells without a weight,
which are prompts and padding, are put behind the others, and chunks of them alone are not computed.

Shapes: R rows, L cells, C cells of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill.gemma.forward import cell_logits


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def chunked_nll(
    hidden: Float[Array, "R L D"],
    embedding: Float[Array, "V D"],
    targets: Int[Array, "R L"],
    weights: Float[Array, "R L"],
    cap: float | None,
    chunk: int,
    frozen: bool,
) -> Float[Array, ""]:
    """sum(weight · -log p(target)) in nats.

    Args:
        cap: of the logits, see `distill.gemma.forward.capped`.
        chunk: cells of a row whose logits are held at a time.
        frozen: nobody asks for the gradient by the embedding, and none is given.
    """

    def add(loss: Any, part: Any) -> tuple[Any, None]:
        cells, wanted, weight = part
        more = partial(_loss, cells, embedding, wanted, weight, cap)
        return loss + jax.lax.cond(jnp.any(weight != 0.0), more, lambda: jnp.float32(0)), None

    split, _ = _in_chunks(weights, chunk)
    loss: Float[Array, ""] = jax.lax.scan(add, jnp.float32(0), tuple(map(split, (hidden, targets, weights))))[
        0
    ]
    return loss


def _forward(
    hidden: Any, embedding: Any, targets: Any, weights: Any, cap: float | None, chunk: int, frozen: bool
) -> tuple[Any, tuple[Any, Any]]:
    """The loss, and its gradient by hidden states and embedding."""
    split, join = _in_chunks(weights, chunk)
    shape = () if frozen else embedding.shape

    def add(sums: tuple[Any, Any], part: tuple[Any, Any, Any]) -> tuple[tuple[Any, Any], Any]:
        cells, wanted, weight = part

        def compute(sums: tuple[Any, Any]) -> tuple[tuple[Any, Any], Any]:
            loss, pull = jax.vjp(lambda c, e: _loss(c, e, wanted, weight, cap), cells, embedding)
            by_cells, by_embedding = pull(jnp.ones_like(loss))
            return (sums[0] + loss, sums[1] if frozen else sums[1] + by_embedding), by_cells

        found: tuple[tuple[Any, Any], Any] = jax.lax.cond(
            jnp.any(weight != 0.0), compute, lambda sums: (sums, jnp.zeros_like(cells)), sums
        )
        return found

    start = jnp.float32(0), jnp.zeros(shape, jnp.promote_types(embedding.dtype, jnp.float32))
    (loss, by_embedding), by_chunks = jax.lax.scan(add, start, tuple(map(split, (hidden, targets, weights))))
    return loss, (join(by_chunks), None if frozen else by_embedding.astype(embedding.dtype))


def _backward(
    cap: float | None, chunk: int, frozen: bool, kept: tuple[Any, Any], given: Any
) -> tuple[Any, ...]:
    hidden, embedding = (None if part is None else part * given.astype(part.dtype) for part in kept)
    return hidden, embedding, None, None


chunked_nll.defvjp(_forward, _backward)


def _in_chunks(weights: Float[Array, "R L"], chunk: int) -> tuple[Any, Any]:
    """Functions that divide (R, L, …) into (chunks, R, C, …) with the cells that count first, and join them again."""
    rows, length = weights.shape
    order = jnp.argsort(weights == 0.0, axis=1, stable=True)
    pad = -length % chunk

    def split(x: Any) -> Any:
        ordered = jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1)
        padded = jnp.pad(ordered, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

    def join(x: Any) -> Any:
        joined = jnp.moveaxis(x, 0, 1).reshape(rows, -1, *x.shape[3:])[:, :length]
        return jnp.take_along_axis(joined, jnp.argsort(order, axis=1)[..., None], axis=1)

    return split, join


def _loss(cells: Any, embedding: Any, wanted: Any, weight: Any, cap: float | None) -> Any:
    """Of some cells (R, C, D), their logits all at once."""
    scores = cell_logits(embedding, cap, cells)
    chosen = jnp.take_along_axis(scores, wanted[..., None], axis=-1)[..., 0]
    return jnp.sum((jax.nn.logsumexp(scores, axis=-1) - chosen) * weight)
