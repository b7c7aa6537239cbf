"""Products with a matrix whose gradient is made the cheap way round."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(axes: str, x: Float[Array, ...], w: Float[Array, ...]) -> Float[Array, ...]:
    """einsum(axes, x, w), w a matrix.

    The matrix's gradient is a product over cells, for which XLA on a CPU turns its first side, and makes it as it
    turns it. JAX puts the gradient by the result first. Behind a feed-forward layer's wide projections that is the
    wider side, and the hyperbolic tangents of its activation are then computed column by column, without vectors.
    Here the side with fewer numbers comes first.

    Args:
        axes: such as "BTD,DF->BTF".
    """
    return jnp.einsum(axes, x, w)


def _forward(axes: str, x: Any, w: Any) -> tuple[Any, tuple[Any, Any]]:
    return product(axes, x, w), (x, w)


def _backward(axes: str, kept: tuple[Any, Any], given: Any) -> tuple[Any, Any]:
    x, w = kept
    by_x, by_w = jax.vjp(partial(jnp.einsum, axes), x, w)[1](given)
    if given.size > x.size:
        sides, _, made = axes.partition("->")
        taken, _, matrix = sides.partition(",")
        by_w = jnp.einsum(f"{taken},{made}->{matrix}", x, given).astype(w.dtype)
    return by_x, by_w


product.defvjp(_forward, _backward)


def projected(module: Any, x: Float[Array, "R L ..."]) -> Float[Array, ...]:
    """`module(x)`, by `product` where it is one of Tunix's projections; adapters bring products of their own."""
    from tunix.models.gemma3.model import Einsum

    if isinstance(module, Einsum):
        return product(module.einsum_str, x, module.w[...])
    if isinstance(module, nnx.Linear):
        return product("BTD,DF->BTF", x, module.kernel[...])
    return module(x)
