"""Gemma's forward pass for training on long rows: Tunix's modules, without what does not fit on a chip.

Tunix's own pass holds three things that grow with the product of two large numbers: the logits (cells × 262,144),
the attention scores (cells × cells × heads), and every layer's activations. Here the logits are never made (the
caller gets hidden states), scores are made for `attention_chunk` queries at a time, and `remat` computes a
layer's activations again in the backward pass (Chen et al. 2016, arXiv 1604.06174). Projections, norms and the
feed-forward part are Tunix's own modules; the attention between projections is ours, with its values.

Shapes: R rows, L cells, C queries of a chunk, N query heads, K key-value heads, H width of a head, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.interpreters import pxla
from jaxtyping import Array, Float, Int

from distill.gemma.product import projected

if TYPE_CHECKING:
    from tunix.models.gemma3.model import Attention, DecoderLayer, FeedForward, Gemma3

Remat = Literal["none", "layer"]

LOGIT_BYTES = 1 << 28
"""Float32 logits that a chip holds at a time, of one copy; a pass has about four."""


def logit_chunk(rows: int, length: int, vocabulary: int, fsdp: int, tp: int) -> int | None:
    """Cells of a row whose logits a chip may hold at a time; None where they may all be."""
    chunk = max(1, LOGIT_BYTES // (4 * -(-rows // fsdp) * -(-vocabulary // tp)))
    return None if chunk >= length else chunk


def hidden_states(
    model: Gemma3,
    tokens: Int[Array, "R L"],
    positions: Int[Array, "R L"],
    group: Int[Array, "R L"],
    branch: Int[Array, "R L"],
    *,
    remat: Remat = "none",
    attention_chunk: int | None = None,
) -> Float[Array, "R L D"]:
    """What Tunix's `Gemma3.__call__` computes before its logits, on packed rows (`distill.packing`).

    Args:
        remat: "layer" keeps only each layer's input for the backward pass.
        attention_chunk: queries that attend at a time; None, or a number that is not below L: all of them.
    """
    length = tokens.shape[1]
    chunk = None if attention_chunk is None or attention_chunk >= length else attention_chunk
    cells = (jnp.broadcast_to(jnp.arange(length), group.shape), group, branch)
    # Layers with the same window share it: made once, and added, which has nothing to do in the backward pass.
    windows = {_window(layer.attn, length) for layer in model.layers}
    whole = {w: _bias(cells, cells, w) for w in windows} if chunk is None else {}

    pitches = {_pitch(layer.attn): layer.attn for layer in model.layers}
    angles = {pitch: _angles(attn, positions) for pitch, attn in pitches.items()}

    def run(layer: DecoderLayer, x: Float[Array, "R L D"]) -> Float[Array, "R L D"]:
        turn = angles[_pitch(layer.attn)]
        window, cap = _window(layer.attn, length), getattr(layer.attn, "softcap", None)
        if chunk is None:
            return _layer(layer, x, turn, lambda q, k, v: _read(q, k, v, whole[window], cap))
        return _layer(layer, x, turn, lambda q, k, v: _chunked(q, k, v, cells, window, chunk, cap))

    x = model.embedder.encode(tokens)
    if remat == "layer":
        x = _recomputed(model, run, x)
    else:
        for layer in model.layers:
            x = run(layer, x)
    hidden: Float[Array, "R L D"] = model.final_norm(x)
    return hidden


Run = Callable[["DecoderLayer", Float[Array, "R L D"]], Float[Array, "R L D"]]


def _recomputed(model: Gemma3, run: Run, x: Float[Array, "R L D"]) -> Float[Array, "R L D"]:
    """All layers, each computed again in the backward pass.

    Layers that repeat (Gemma 3: five with a window, one without) are one loop over their stacked weights. A
    compiler that sees them one after the other orders the backward pass of 62 as it likes, and was found to
    hold what many of them compute again at once; in a loop it holds one group's.
    """
    parts = [nnx.split(layer) for layer in model.layers]
    period = _period([graph for graph, _ in parts])
    groups = len(parts) // period if period else 0

    def layer(x: Float[Array, "R L D"], graph: Any, state: Any) -> Float[Array, "R L D"]:
        def again(x: Float[Array, "R L D"], state: Any) -> Float[Array, "R L D"]:
            return run(nnx.merge(graph, state), x)

        return jax.checkpoint(again)(_kept(model, x), state)

    def group(x: Float[Array, "R L D"], states: Sequence[Any]) -> tuple[Float[Array, "R L D"], None]:
        for (graph, _), state in zip(parts, states, strict=False):
            x = layer(x, graph, state)
        return x, None

    if groups > 1:
        stacked = [
            jax.tree.map(
                lambda *weights: jnp.stack(weights), *(parts[i * period + at][1] for i in range(groups))
            )
            for at in range(period)
        ]
        x, _ = jax.lax.scan(group, x, stacked)
        parts = parts[groups * period :]
    for graph, state in parts:
        x = layer(x, graph, state)
    return x


def _period(graphs: Sequence[Any]) -> int:
    """After how many layers they repeat, the last group perhaps not whole; 0 where they never do."""
    for period in range(1, len(graphs) // 2 + 1):
        if all(one == other for one, other in zip(graphs, graphs[period:], strict=False)):
            return period
    return 0


def _kept(model: Gemma3, x: Float[Array, "R L D"]) -> Float[Array, "R L D"]:
    """A layer's input as it is kept for the backward pass: divided among "tp" too, as Tunix divides the first.

    The barrier makes the layer read what is kept. Without it the compiler reads the whole input, and keeps that.
    """
    from tunix.utils import sharding_utils

    divided: Float[Array, "R L D"] = jax.lax.optimization_barrier(
        sharding_utils.shard(x, model.embedder.shd_config.act_btd)
    )
    return divided


Read = Callable[[Any, Any, Any], Any]
Angles = tuple[Float[Array, "R L 1 H"], Float[Array, "R L 1 H"]]
"""Cosine and sine of a rotary embedding, over both halves of a head; the sine of the first half is negative."""


def _angles(attn: Attention, positions: Int[Array, "R L"]) -> Angles:
    """Of Su et al. 2021 (arXiv 2104.09864), as Tunix's `apply_rope` makes them; float32."""
    half = attn.head_dim // 2
    pace = attn.rope_base_frequency ** (2 * jnp.arange(half) / attn.head_dim) * attn.rope_scale_factor
    turn = positions[..., None, None] / pace
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def _rotated(x: Float[Array, "R L N H"], angles: Angles) -> Float[Array, "R L N H"]:
    """Heads turned by their positions. The halves change places by a reversal, which a loop over cells vectorises;
    joining them again would choose between two for every number."""
    cos, sin = angles
    halves = x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    turned: Float[Array, "R L N H"] = x * cos + jnp.flip(halves, -2).reshape(x.shape) * sin
    return turned.astype(x.dtype)


def _layer(
    layer: DecoderLayer, x: Float[Array, "R L D"], angles: Angles, read: Read
) -> Float[Array, "R L D"]:
    """Tunix's `DecoderLayer.block`, with attention that reads as it is told."""
    attended = layer.post_attention_norm(_attention(layer.attn, layer.pre_attention_norm(x), angles, read))
    attended = attended + x
    out: Float[Array, "R L D"] = (
        layer.post_ffw_norm(_feed_forward(layer.mlp, layer.pre_ffw_norm(attended))) + attended
    )
    return out


def _attention(
    attn: Attention, x: Float[Array, "R L D"], angles: Angles, read: Read
) -> Float[Array, "R L D"]:
    """Tunix's `Attention.block`, but for what is between its projections."""
    from tunix.utils.sharding_utils import shard

    if attn.use_qkv_einsum:
        q, k, v = projected(attn.qkv_einsum, x)
    else:
        q, (k, v) = projected(attn.q_einsum, x), projected(attn.kv_einsum, x)
    q, k, v = (shard(part, attn.shd_config.act_btnh) for part in (q, k, v))
    if hasattr(attn, "_query_norm"):  # Gemma 2 has none
        q, k = attn._query_norm(q), attn._key_norm(k)
    q = _rotated(q, angles) * attn.query_pre_attn_scalar
    k = _rotated(k, angles)
    out: Float[Array, "R L D"] = shard(
        projected(attn.attn_vec_einsum, read(q, k, v)), attn.shd_config.act_btd
    )
    return out


def _feed_forward(mlp: FeedForward, x: Float[Array, "R L D"]) -> Float[Array, "R L D"]:
    """Tunix's `FeedForward.block`, by our products."""
    from tunix.utils.sharding_utils import shard

    inner = nnx.gelu(projected(mlp.gate_proj, x)) * projected(mlp.up_proj, x)
    return projected(mlp.down_proj, shard(inner, mlp.config.shd_config.act_btf))


def _chunked(
    q: Any, k: Any, v: Any, cells: tuple[Any, ...], window: int | None, chunk: int, cap: float | None
) -> Any:
    """`_read` for so many queries at a time, and again in the backward pass; keys before their window are not read."""
    rows, length = q.shape[:2]
    pad = -length % chunk
    seen = length if window is None else min(length, window + chunk)

    def split(array: Any) -> Any:
        """(R, L, ...) -> (chunks, R, C, ...); padded queries belong to no group and are cut off again."""
        padded = jnp.pad(array, ((0, 0), (0, pad)) + ((0, 0),) * (array.ndim - 2))
        return jnp.moveaxis(padded.reshape(rows, -1, chunk, *array.shape[2:]), 1, 0)

    def attend(part: Any) -> Any:
        begin, queries, own = part
        first = jnp.maximum(begin + chunk - seen, 0)  # a slice that would go beyond the end begins earlier
        keys, values, theirs = (
            (k, v, cells)
            if seen == length
            else jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, seen, axis=1), (k, v, cells))
        )
        return _read(queries, keys, values, _bias(own, theirs, window), cap)

    begins = jnp.arange(0, length, chunk)
    read = jax.lax.map(jax.checkpoint(attend), (begins, split(q), tuple(split(part) for part in cells)))
    return jnp.moveaxis(read, 0, 1).reshape(rows, -1, *q.shape[2:])[:, :length]


def _pitch(attn: Attention) -> tuple[float, float, int]:
    """What decides about a layer's rotation."""
    return attn.rope_base_frequency, attn.rope_scale_factor, attn.head_dim


def _window(attn: Attention, length: int) -> int | None:
    """Cells that a layer sees back to; None where it is all of a row."""
    from tunix.models.gemma3.model import AttentionType

    local = attn.attn_type == AttentionType.LOCAL_SLIDING and attn.sliding_window_size < length
    return attn.sliding_window_size if local else None


def _bias(query: Any, key: Any, window: int | None) -> Float[Array, "R C L"]:
    """0 where a query may read and a large negative number elsewhere: `distill.packing.attention_mask` for some of
    the queries, and the sliding window, which counts cells."""
    from tunix.models.gemma3.model import K_MASK

    (at, group, branch), (cells, groups, branches) = query, key
    gap = at[:, :, None] - cells[:, None, :]
    same_branch = (branches[:, None, :] == 0) | (branch[:, :, None] == branches[:, None, :])
    visible = (gap >= 0) & (group[:, :, None] == groups[:, None, :]) & same_branch
    return jnp.where(visible if window is None else visible & (gap < window), 0.0, K_MASK)


def _read(
    q: Float[Array, "R C N H"],
    k: Float[Array, "R L K H"],
    v: Float[Array, "R L K H"],
    bias: Float[Array, "R C L"],
    cap: float | None,
) -> Float[Array, "R C N H"]:
    """Softmax attention of some queries over all keys; heads of a group share a key-value head."""
    rows, count, heads, width = q.shape
    grouped = q.reshape(rows, count, k.shape[2], heads // k.shape[2], width)
    if cap is None:
        return _attend(grouped, k, v, bias).reshape(q.shape)
    scores = jnp.einsum("RCKGH,RLKH->RKCGL", grouped, k)
    scores = capped(scores, cap) + bias[:, None, :, None].astype(scores.dtype)
    shares = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("RKCGL,RLKH->RCKGH", shares, v).reshape(q.shape)


@jax.custom_vjp  # type: ignore[untyped-decorator]
def _attend(
    q: Float[Array, "R C K G H"],
    k: Float[Array, "R L K H"],
    v: Float[Array, "R L K H"],
    bias: Float[Array, "R C L"],
) -> Float[Array, "R C K G H"]:
    """softmax(q k + bias) v, which passes over the scores as few times as it can.

    What is divided is the sum that was read, not every share; and the backward pass takes the softmax's own term from
    what was read too (Dao et al. 2022, arXiv 2205.14135, appendix B.2), so it reads the scores once. Their axes stand
    as the product leaves them.
    """
    return _attend_forward(q, k, v, bias)[0]


def _attend_forward(q: Any, k: Any, v: Any, bias: Any) -> tuple[Any, tuple[Any, ...]]:
    scores = jnp.einsum("RCKGH,RLKH->RKCGL", q, k) + bias[:, None, :, None].astype(q.dtype)
    shares = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    total = jnp.moveaxis(_sum(shares), 2, 1)  # (R, C, K, G, 1)
    read = (jnp.einsum("RKCGL,RLKH->RCKGH", shares, v) / total).astype(v.dtype)
    return read, (q, k, v, shares, total, read)


def _attend_backward(kept: tuple[Any, ...], given: Any) -> tuple[Any, ...]:
    q, k, v, shares, total, read = kept
    given = (given / total).astype(v.dtype)
    own = jnp.moveaxis(_sum(given * read), 1, 2).astype(q.dtype)
    scores = shares * (jnp.einsum("RCKGH,RLKH->RKCGL", given, v) - own)
    return (
        jnp.einsum("RKCGL,RLKH->RCKGH", scores, k),
        jnp.einsum("RKCGL,RCKGH->RLKH", scores, q),
        jnp.einsum("RKCGL,RCKGH->RLKH", shares, given),
        None,
    )


_attend.defvjp(_attend_forward, _attend_backward)


def _sum(x: Float[Array, "*A L"]) -> Float[Array, "*A 1"]:
    """Over the last axis, in float32 at least."""
    return jnp.sum(x, axis=-1, keepdims=True, dtype=jnp.promote_types(x.dtype, jnp.float32))


def capped(x: Float[Array, "*A"], cap: float | None) -> Float[Array, "*A"]:
    """cap · tanh(x / cap), Gemma 2's bound on scores and logits (arXiv 2408.00118, section 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def logits_of(model: Gemma3, hidden: Float[Array, "*A D"]) -> Float[Array, "*A V"]:
    """Float32 logits of hidden states, all at once."""
    return cell_logits(model.embedder.input_embedding[...], getattr(model, "final_softcap", None), hidden)


def target_logprobs(
    model: Gemma3,
    hidden: Float[Array, "R L D"],
    targets: Int[Array, "R L"],
    *,
    temperature: float = 1.0,
    logit_chunk: int | None = None,
) -> tuple[Float[Array, "R L"], Float[Array, "R L"]]:
    """Log-probability of every target at a temperature, and the entropy of that distribution, in nats.

    Args:
        hidden: of `hidden_states`; the target of a cell is predicted in that cell.
        logit_chunk: cells of a row whose logits are held at a time, and computed again in the backward pass; None,
            or not below L: all of them at once.
    """
    embedding = gathered_embedding(model)
    score = partial(_score, embedding, temperature, getattr(model, "final_softcap", None))
    logp, entropy = over_cells(score, (hidden, targets), logit_chunk)
    return logp, entropy


def over_cells(function: Callable[[Any], Any], arrays: Any, chunk: int | None) -> Any:
    """A function of arrays (R, L, …), cell by cell: so many of a row at a time, and again in the backward pass.

    Args:
        function: of the arrays' tuple, for some cells (R, C, …) of each.
        chunk: None, or not below L: all cells at once.
    """
    rows, length = arrays[0].shape[:2]
    if chunk is None or chunk >= length:
        return function(arrays)
    pad = -length % chunk

    def split(x: Any) -> Any:
        padded = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

    def join(x: Any) -> Any:
        return jnp.moveaxis(x, 0, 1).reshape(rows, -1, *x.shape[3:])[:, :length]

    found = jax.lax.map(jax.checkpoint(function), tuple(split(x) for x in arrays))
    return jax.tree.map(join, found)


def _score(
    embedding: Float[Array, "V D"],
    temperature: float,
    cap: float | None,
    part: tuple[Float[Array, "R C D"], Int[Array, "R C"]],
) -> tuple[Float[Array, "R C"], Float[Array, "R C"]]:
    """Log-probability of the target and entropy of some cells, from their hidden states."""
    hidden, targets = part
    scores = cell_logits(embedding, cap, hidden) / temperature
    normaliser = jax.nn.logsumexp(scores, axis=-1)
    chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    fixed = jax.lax.stop_gradient(scores)
    entropy = jax.lax.stop_gradient(normaliser) - jnp.sum(jax.nn.softmax(fixed, axis=-1) * fixed, axis=-1)
    return chosen - normaliser, entropy


def gathered_embedding(model: Gemma3) -> Float[Array, "V D"]:
    """The output matrix, whole in D on every chip: once for all chunks, instead of once a chunk."""
    embedding: Float[Array, "V D"] = model.embedder.input_embedding[...]
    mesh = pxla.thread_resources.env.physical_mesh
    if mesh.empty:
        return embedding
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("tp", None))
    whole: Float[Array, "V D"] = jax.lax.with_sharding_constraint(embedding, place)
    return whole


def cell_logits(
    embedding: Float[Array, "V D"], cap: float | None, hidden: Float[Array, "R C D"]
) -> Float[Array, "R C V"]:
    """Float32 logits of some cells."""
    return capped(jnp.dot(hidden, embedding.T, preferred_element_type=jnp.float32), cap)
