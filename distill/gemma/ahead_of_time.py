"""A pass compiled for devices that are not there: models as shapes and shardings, and the bytes of an executable."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

Bytes = dict[str, int]


def constrain_activations(mesh: Any) -> None:
    """Tunix constrains activations to the mesh everywhere but on a CPU; here it must, to be compiled as on a chip."""
    if mesh is None:
        return
    from tunix.utils import sharding_utils

    def shard(x: Any, axes: Any, eager: bool = False) -> Any:
        del eager
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))

    sharding_utils.shard = shard


def placed(module: Any, mesh: Any) -> Any:
    """A module of `ShapeDtypeStruct`s, with the shardings that its variables name.

    A variable that holds several arrays (a quantised matrix and its scales) has them all divided alike; an axis that
    does not divide an array leaves it whole there.
    """
    if mesh is None:
        return module
    graph, state = nnx.split(module)

    def place(variable: Any) -> Any:
        axes = variable.get_metadata().get("out_sharding") or ()

        def one(shape: Any) -> Any:
            fitting = (
                axis if axis is not None and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(axes, shape.shape, strict=False)
            )
            where = NamedSharding(mesh, PartitionSpec(*fitting))
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)

        return variable.replace(jax.tree.map(one, variable.get_value()))

    is_variable = lambda x: isinstance(x, nnx.Variable)
    return nnx.merge(graph, jax.tree.map(place, state, is_leaf=is_variable))


def device_bytes(state: Any) -> int:
    """Bytes of one device that the arrays of a state take, from their shapes and shardings."""
    total = 0
    for leaf in jax.tree.leaves(state):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        total += jnp.dtype(leaf.dtype).itemsize * math.prod(shape)
    return total


def array(mesh: Any, shape: tuple[int, ...], dtype: Any, *axes: str | None) -> Any:
    """An array that is not there, divided among the axes of a mesh."""
    where = None if mesh is None else NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def analysis(compiled: Any) -> Bytes:
    """Bytes of one device: XLA's buffer assignment says what an executable holds at a time.

    Returns:
        "arguments", "outputs", "shared" (outputs in the place of arguments) and "temporary".
    """
    found = compiled.memory_analysis()
    return {
        "arguments": int(found.argument_size_in_bytes),
        "outputs": int(found.output_size_in_bytes),
        "shared": int(found.alias_size_in_bytes),
        "temporary": int(found.temp_size_in_bytes),
    }
