"""What a sampler compiles, for one device or for the rows of a mesh.

On a mesh each device of the axis "fsdp" has rows of its own and runs the functions of one device on them: there is
nothing to say to the others, so `jax.shard_map` leaves each alone (without "tp" its loop over tokens ends when its
own rows are done), where automatic partitioning would have to see through scatters and loops. Weights are gathered over
"fsdp" once, before the first token; the axis "tp" divides heads and feed-forward columns, and there the compiler
partitions. All of a prompt block's keys and values go to every device: any row may need them.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from distill.gemma import decoder
from distill.gemma.decoder import Cache, DecoderSpec, LayerCache, LayerWeights, Weights
from distill.gemma.decoding import decode_chunk, insert

if TYPE_CHECKING:
    from distill.gemma.sampler import SamplingConfig

_ROWS, _WHOLE = PartitionSpec("fsdp"), PartitionSpec()
_STEPS_BY_ROWS = PartitionSpec(None, "fsdp")


@lru_cache(maxsize=32)
def compiled_functions(
    spec: DecoderSpec,
    sampling: SamplingConfig,
    stop_ids: tuple[int, ...],
    *,
    chunk: int,
    rows: int,
    slots: int,
    prompts: tuple[int, int],
    dtype: Any,
    mesh: Mesh | None,
) -> tuple[Any, Any, Any, Any]:
    """Jitted (empty cache, prefill, insert, decode): the same for all samplers of equal shapes in one process.

    A run of many stages makes many samplers of one shape; what one has compiled the next one finds.

    Args:
        rows: of one device of "fsdp"; slots: of the cache, a row; prompts: rows and length of a
            block of them, which tell apart what is compiled.
    """
    empty = partial(decoder.empty_cache, spec, rows, slots, dtype)
    prefill = partial(decoder.prefill, spec)
    decode = partial(decode_chunk, spec, sampling, stop_ids, chunk)
    if mesh is None:
        put = partial(insert)  # partial: a cache of its own
        return (
            jax.jit(empty),
            jax.jit(prefill),
            jax.jit(put, donate_argnums=0),
            jax.jit(decode, donate_argnums=1),
        )

    def prefill_rows(weights: Weights, tokens: Any) -> Cache:
        block = prefill(weights, tokens)
        whole: Cache = jax.tree.map(lambda x: jax.lax.all_gather(x, "fsdp", axis=0, tiled=True), block)
        return whole

    def put_rows(cache: Cache, block: Cache, source: Any, target: Any, count: Any) -> Cache:
        return insert(cache, block, source, target, count[0])

    if (
        mesh.shape["tp"] > 1
    ):  # what the compiler exchanges along "tp" waits for all devices: none may leave the loop
        decode = partial(decode, across="fsdp")
    on_rows = partial(_on_rows, mesh)
    return (
        jax.jit(_placed_empty(spec, mesh, empty, rows)),
        jax.jit(on_rows(prefill_rows, (_WHOLE, _ROWS), _WHOLE)),
        jax.jit(on_rows(put_rows, (_ROWS, _WHOLE, _ROWS, _ROWS, _ROWS), _ROWS), donate_argnums=0),
        jax.jit(
            on_rows(
                decode,
                (_WHOLE, _ROWS, _ROWS, _ROWS, _ROWS),
                (_ROWS, _ROWS, _STEPS_BY_ROWS, _STEPS_BY_ROWS),
            ),
            donate_argnums=1,
        ),
    )


def _on_rows(mesh: Mesh, function: Any, taken: Any, given: Any) -> Any:
    """Run a function on each device's own rows; "tp" is left to the compiler where it is more than one."""
    axes = {"fsdp"} if mesh.shape["tp"] > 1 else {"fsdp", "tp"}
    return jax.shard_map(
        function, mesh=mesh, in_specs=taken, out_specs=given, axis_names=axes, check_vma=False
    )


def _placed_empty(spec: DecoderSpec, mesh: Mesh, empty: Any, rows: int) -> Any:
    place = cache_shardings(spec, mesh)

    def make() -> Cache:
        shards = mesh.shape["fsdp"]
        placed: Cache = jax.tree.map(
            lambda x, where: jax.lax.with_sharding_constraint(
                jax.numpy.zeros((rows * shards, *x.shape[1:]), x.dtype), where
            ),
            jax.eval_shape(empty),
            place,
        )
        return placed

    return make


def cache_shardings(spec: DecoderSpec, mesh: Mesh) -> Cache:
    """Where a cache lies: rows by "fsdp", key-value heads by "tp" where they can be divided."""
    heads = "tp" if spec.num_kv_heads % mesh.shape["tp"] == 0 else None
    where = NamedSharding(mesh, PartitionSpec("fsdp", heads))
    return tuple(LayerCache(where, where) for _ in spec.layers)


def weight_shardings(spec: DecoderSpec, mesh: Mesh) -> Weights:
    """Where weights lie while sampling: divided by "tp" where that is possible, the same for every row."""
    tp = mesh.shape["tp"]

    def at(*axes: str | None) -> Any:
        return NamedSharding(mesh, PartitionSpec(*axes))

    fused = spec.num_heads % tp == 0 and spec.num_kv_heads % tp == 0
    norms = dict.fromkeys(LayerWeights._fields[:6], at())
    if not spec.qk_norm:
        norms |= {"query_norm": None, "key_norm": None}
    layer = LayerWeights(
        **norms,
        qkv=at(None, "tp") if fused else at(),
        out=at("tp") if spec.num_heads % tp == 0 else at(),
        gate=at(None, "tp"),
        up=at(None, "tp"),
        down=at("tp"),
    )
    embedding = at("tp") if spec.num_embed % tp == 0 else at()
    return Weights(embedding, tuple(layer for _ in spec.layers), at())


def placing(spec: DecoderSpec, mesh: Mesh | None, dtype: str | None) -> Any:
    """A jitted function that casts weights, and on a mesh puts them where `weight_shardings` says."""

    def cast(weights: Weights) -> Weights:
        cast_weights: Weights = weights if dtype is None else jax.tree.map(lambda x: x.astype(dtype), weights)
        return cast_weights

    return jax.jit(cast) if mesh is None else jax.jit(cast, out_shardings=weight_shardings(spec, mesh))
