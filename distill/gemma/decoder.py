"""Gemma's forward pass for sampling: the same parameters as Tunix's module, a cache of our own.

Tunix's module writes the new keys of a whole batch at one index and reads the cache in an order in which
XLA on a CPU has to transpose it at every step. Here every row has its own write index (slot = the token's
own position), which is what lets a row be refilled while its neighbours go on, and the cache lies as the two
matrix products of a decoding step read it. A test pins the result to Tunix's forward pass.

Shapes: B rows, T tokens, S slots of the cache, D width, N query heads, K key/value heads, H width of a head,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from distill.gemma.forward import capped

_MASKED = -2.3819763e38  # Gemma's own mask value: finite, so a row without any visible slot gives no NaN.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What is static about a layer: its window (None: global) and its rotary embedding."""

    window: int | None
    rope_base: int
    rope_scale: float


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """What is static about a model. Gemma 2 has no norms of queries and keys, and caps on scores and logits."""

    layers: tuple[LayerSpec, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_embed: int
    query_scale: float
    qk_norm: bool = True
    score_cap: float | None = None
    logit_cap: float | None = None


class LayerWeights(NamedTuple):
    """One layer's parameters; `qkv` is (D, (N + 2K)·H), the three projections side by side."""

    attention_norm: Float[Array, " D"]
    query_norm: Float[Array, " H"] | None
    key_norm: Float[Array, " H"] | None
    attention_out_norm: Float[Array, " D"]
    mlp_norm: Float[Array, " D"]
    mlp_out_norm: Float[Array, " D"]
    qkv: Float[Array, "D (N+2K)H"]
    out: Float[Array, "N H D"]
    gate: Float[Array, "D F"]
    up: Float[Array, "D F"]
    down: Float[Array, "F D"]


class Weights(NamedTuple):
    """A model's parameters, in the order in which the forward pass uses them."""

    embedding: Float[Array, "V D"]
    layers: tuple[LayerWeights, ...]
    final_norm: Float[Array, " D"]


class LayerCache(NamedTuple):
    """Keys (B, K, H, S) and values (B, K, S, H) of one layer; slot s holds position s of its row."""

    keys: Float[Array, "B K H S"]
    values: Float[Array, "B K S H"]


Cache = tuple[LayerCache, ...]


def spec_of(model: Any) -> DecoderSpec:
    """Read what is static from a Tunix `Gemma3`.

    Raises:
        ValueError: where the model carries adapters that are not `distill.lora`'s: this forward pass would silently
            leave them out.
    """
    from flax import nnx
    from tunix.models.gemma3.model import AttentionType

    if any(path[-1] not in ("a", "b") for path, _ in nnx.state(model, nnx.LoRAParam).flat_state()):
        raise ValueError("the model carries LoRA adapters: merge them into its weights before sampling")
    first = model.layers[0].attn
    layers = tuple(
        LayerSpec(
            window=layer.attn.sliding_window_size
            if layer.attn.attn_type == AttentionType.LOCAL_SLIDING
            else None,
            rope_base=int(layer.attn.rope_base_frequency),
            rope_scale=float(layer.attn.rope_scale_factor),
        )
        for layer in model.layers
    )
    return DecoderSpec(
        layers=layers,
        num_heads=int(model.config.num_heads),
        num_kv_heads=int(model.config.num_kv_heads),
        head_dim=int(model.config.head_dim),
        num_embed=int(model.num_embed),
        query_scale=float(first.query_pre_attn_scalar),
        qk_norm=hasattr(first, "_query_norm"),
        score_cap=getattr(first, "softcap", None),
        logit_cap=getattr(model, "final_softcap", None),
    )


def weights_of(model: Any) -> Weights:
    """Collect a Tunix `Gemma3`'s parameters as they are now, adapters added.

    Only the q, k and v projections are copied, and what has adapters.
    """
    layers = []
    for layer in model.layers:
        attn, mlp = layer.attn, layer.mlp
        if attn.use_qkv_einsum:
            qkv = _jit_fuse_square(_matrix(attn.qkv_einsum, "w"))
        else:
            qkv = _jit_fuse_grouped(_matrix(attn.q_einsum, "w"), _matrix(attn.kv_einsum, "w"))
        layers.append(
            LayerWeights(
                attention_norm=layer.pre_attention_norm.scale[...],
                query_norm=attn._query_norm.scale[...] if hasattr(attn, "_query_norm") else None,
                key_norm=attn._key_norm.scale[...] if hasattr(attn, "_key_norm") else None,
                attention_out_norm=layer.post_attention_norm.scale[...],
                mlp_norm=layer.pre_ffw_norm.scale[...],
                mlp_out_norm=layer.post_ffw_norm.scale[...],
                qkv=qkv,
                out=_matrix(attn.attn_vec_einsum, "w"),
                gate=_matrix(mlp.gate_proj, "kernel"),
                up=_matrix(mlp.up_proj, "kernel"),
                down=_matrix(mlp.down_proj, "kernel"),
            )
        )
    return Weights(model.embedder.input_embedding[...], tuple(layers), model.final_norm.scale[...])


def _matrix(module: Any, name: str) -> Any:
    """A module's matrix; of one with adapters (`distill.lora.LowRank`) the sum."""
    return module.matrix() if hasattr(module, "matrix") else getattr(module, name)[...]


def _fuse_grouped(q: Float[Array, "N D H"], kv: Float[Array, "2 K D H"]) -> Float[Array, "D (N+2K)H"]:
    return _columns(jnp.concatenate([q, kv[0], kv[1]], axis=0))


def _fuse_square(qkv: Float[Array, "3 N D H"]) -> Float[Array, "D 3NH"]:
    return _columns(qkv.reshape(-1, *qkv.shape[2:]))


def _columns(heads: Float[Array, "A D H"]) -> Float[Array, "D AH"]:
    return heads.transpose(1, 0, 2).reshape(heads.shape[1], -1)


_jit_fuse_grouped = jax.jit(_fuse_grouped)
_jit_fuse_square = jax.jit(_fuse_square)


def empty_cache(spec: DecoderSpec, rows: int, slots: int, dtype: Any) -> Cache:
    """A cache of zeros."""
    keys = (rows, spec.num_kv_heads, spec.head_dim, slots)
    values = (rows, spec.num_kv_heads, slots, spec.head_dim)
    return tuple(LayerCache(jnp.zeros(keys, dtype), jnp.zeros(values, dtype)) for _ in spec.layers)


# ------------------------------------------------------------------------------------------ the forward pass


def prefill(spec: DecoderSpec, weights: Weights, tokens: Int[Array, "B T"]) -> Cache:
    """Keys and values of right-padded prompts: a cache of T slots.

    What stands in the slots of the padding is meaningless; a decoding step overwrites a slot before the first
    query that may look at it.
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    x = _embed(weights, tokens)
    cache = []
    for index, (layer, w) in enumerate(zip(spec.layers, weights.layers, strict=True)):
        q, k, v = _project(spec, layer, w, x, positions)
        cache.append(LayerCache(k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)))
        if index + 1 < len(spec.layers):
            visible = _visible(positions[:, :, None], positions[:, None, :], layer.window)
            x = _finish(w, x, _attend(spec, q, cache[-1], visible))
    return tuple(cache)


def decode_step(
    spec: DecoderSpec, weights: Weights, cache: Cache, token: Int[Array, " B"], position: Int[Array, " B"]
) -> tuple[Float[Array, "B V"], Cache]:
    """Feed one token a row at the row's own position.

    Returns:
        The logits after it, float32 (B, V), and the cache with its keys and values at slot `position`.
    """
    rows = jnp.arange(token.shape[0])
    slots = jnp.arange(cache[0].values.shape[2])
    positions = position[:, None]
    x = _embed(weights, token[:, None])
    written = []
    for layer, w, (keys, values) in zip(spec.layers, weights.layers, cache, strict=True):
        q, k, v = _project(spec, layer, w, x, positions)
        keys = keys.at[rows, :, :, position].set(k[:, 0], unique_indices=True)
        values = values.at[rows, :, position, :].set(v[:, 0], unique_indices=True)
        written.append(LayerCache(keys, values))
        visible = _visible(positions[:, :, None], slots[None, None, :], layer.window)
        x = _finish(w, x, _attend(spec, q, written[-1], visible))
    x = _rms_norm(x[:, 0], weights.final_norm)
    logits = jnp.dot(x, weights.embedding.T, preferred_element_type=jnp.float32)
    return capped(logits, spec.logit_cap), tuple(written)


def _embed(weights: Weights, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    x = weights.embedding[tokens]
    return x * jnp.sqrt(x.shape[-1]).astype(x.dtype)


def _rms_norm(x: Float[Array, "*A D"], scale: Float[Array, " D"]) -> Float[Array, "*A D"]:
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(variance + _EPSILON) * (1 + scale)


def _project(
    spec: DecoderSpec,
    layer: LayerSpec,
    w: LayerWeights,
    x: Float[Array, "B T D"],
    positions: Int[Array, "B T"],
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
    heads = (_rms_norm(x, w.attention_norm) @ w.qkv).reshape(*x.shape[:2], -1, spec.head_dim)
    q, k, v = jnp.split(heads, [spec.num_heads, spec.num_heads + spec.num_kv_heads], axis=2)
    if w.query_norm is not None and w.key_norm is not None:
        q, k = _rms_norm(q, w.query_norm), _rms_norm(k, w.key_norm)
    return _rotate(layer, q, positions) * spec.query_scale, _rotate(layer, k, positions), v


def _rotate(
    layer: LayerSpec, x: Float[Array, "B T A H"], positions: Int[Array, "B T"]
) -> Float[Array, "B T A H"]:
    half = x.shape[-1] // 2
    timescale = layer.rope_base ** (2 * jnp.arange(half) / x.shape[-1])
    angle = positions[..., None, None] / timescale / layer.rope_scale
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def _visible(
    query: Int[Array, "B T 1"], key: Int[Array, "B 1 S"], window: int | None
) -> Bool[Array, "B T S"]:
    visible = key <= query
    return visible if window is None else visible & (key > query - window)


def _attend(
    spec: DecoderSpec, q: Float[Array, "B T N H"], cache: LayerCache, visible: Bool[Array, "B T S"]
) -> Float[Array, "B T N H"]:
    b, t, n, h = q.shape
    groups = n // spec.num_kv_heads
    # (B, K, G·T, H): queries that share a key/value head are rows of one matrix product.
    grouped = q.reshape(b, t, spec.num_kv_heads, groups, h).transpose(0, 2, 3, 1, 4)
    batched = partial(jnp.matmul, preferred_element_type=jnp.float32)
    scores = batched(grouped.reshape(b, spec.num_kv_heads, groups * t, h), cache.keys)
    scores = scores.reshape(b, spec.num_kv_heads, groups, t, -1)
    scores = jnp.where(visible[:, None, None], capped(scores, spec.score_cap), _MASKED)
    shares = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    read = jnp.matmul(shares.reshape(b, spec.num_kv_heads, groups * t, -1), cache.values)
    return read.reshape(b, spec.num_kv_heads, groups, t, h).transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


def _finish(
    w: LayerWeights, x: Float[Array, "B T D"], read: Float[Array, "B T N H"]
) -> Float[Array, "B T D"]:
    """What follows attention in a layer: output projection, residuals, feed-forward block."""
    attended = read.reshape(*x.shape[:2], -1) @ w.out.reshape(-1, w.out.shape[-1])
    x = _rms_norm(attended, w.attention_out_norm) + x
    hidden = _rms_norm(x, w.mlp_norm)
    hidden = (jax.nn.gelu(hidden @ w.gate) * (hidden @ w.up)) @ w.down
    return _rms_norm(hidden, w.mlp_out_norm) + x
