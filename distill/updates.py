"""An optimiser step over as many micro-batches of packed rows as its samples fill.

The gradient is one sum over all of them: the loss of a micro-batch carries its share of the step in its weights,
so what is divided among micro-batches, and how the rows are packed, changes no value but by rounding. A mean of
micro-batches' means, which is what accumulation often does, would weigh a token by its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.interpreters import pxla

Sums = dict[str, Any]


def accumulate(
    loss: Callable[[Any, Any], tuple[Any, Sums]], params: Any, micros: Any, used: Any, names: Sequence[str]
) -> tuple[Any, Sums]:
    """Gradient and sums over the micro-batches that hold samples; to be compiled.

    Args:
        loss: of the parameters and a micro-batch, its share of the step's loss, and sums by name.
        micros: arrays of shape (M, R, L).
        used: how many of the M hold any; the bound is dynamic, so the others are neither computed nor a shape of
            their own.
        names: of the sums.
    """

    def add(i: Any, carry: tuple[Any, Sums]) -> tuple[Any, Sums]:
        gradient, sums = carry
        (_, more), own = jax.value_and_grad(loss, has_aux=True)(params, micro_of(micros, i))
        return jax.tree.map(jnp.add, gradient, divided(own)), jax.tree.map(jnp.add, sums, more)

    start = (divided(jax.tree.map(jnp.zeros_like, params)), {name: jnp.float32(0) for name in names})
    gradient, sums = jax.lax.fori_loop(0, used, add, start)
    return gradient, sums


def micro_of(micros: Any, i: Any) -> Any:
    """The i-th of stacked micro-batches."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), micros)


def divided(state: Any) -> Any:
    """Gradients where their weights lie. Left alone the compiler may keep the sum whole on every device."""
    mesh = pxla.thread_resources.env.physical_mesh
    if mesh.empty:
        return state

    def place(variable: Any) -> Any:
        axes = variable.get_metadata().get("out_sharding") or ()
        where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        return variable.replace(jax.lax.with_sharding_constraint(variable.get_value(), where))

    return jax.tree.map(place, state, is_leaf=lambda x: isinstance(x, nnx.Variable))


def computing(state: Any, dtype: str | None) -> Any:
    """Weights in the dtype of the pass. The cast is part of what is differentiated: gradients come in their own."""
    return state if dtype is None else jax.tree.map(lambda x: x.astype(dtype), state)


def stacked(
    columns: Sequence[np.ndarray[Any, Any]], rows: int, micros: int
) -> tuple[list[np.ndarray[Any, Any]], int]:
    """Columns of packed rows (n, L, …) as (M, R, L, …), filled up with padding; and how many of the M hold any.

    Raises:
        ValueError: more rows than M · R.
    """
    count = len(columns[0])
    used = -(-count // rows)
    if used > micros:
        raise ValueError(f"{count} rows do not fit {micros} micro-batches of {rows}")

    def fit(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        full = np.zeros((micros * rows, *x.shape[1:]), x.dtype)
        full[:count] = x
        return full.reshape(micros, rows, *x.shape[1:])

    return [fit(column) for column in columns], used
