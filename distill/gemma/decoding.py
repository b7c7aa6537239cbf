"""The functions that a sampler compiles: insertion of prefilled rows, a chunk of decoding, the draw of a token.

Nothing in them looks from one row at another, so they may run on any part of the rows (`row_parallel`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from distill.gemma import decoder
from distill.gemma.decoder import Cache, DecoderSpec, Weights

if TYPE_CHECKING:
    from distill.gemma.sampler import SamplingConfig


def insert(
    cache: Cache, block: Cache, source: Int[Array, " B"], target: Int[Array, " B"], count: Int[Array, ""]
) -> Cache:
    """Copy row `source[i]` of a prefilled block into row `target[i]` of the cache, for i < count, in place."""

    def copy_row(i: Int[Array, ""], cache: Cache) -> Cache:
        def place(into: Float[Array, "B ..."], rows: Float[Array, "R ..."]) -> Float[Array, "B ..."]:
            row = jax.lax.dynamic_index_in_dim(rows, source[i], 0, keepdims=True)
            return jax.lax.dynamic_update_slice(into, row, (target[i], 0, 0, 0))

        placed: Cache = jax.tree.map(place, cache, block)
        return placed

    copied: Cache = jax.lax.fori_loop(0, count, copy_row, cache)
    return copied


State = tuple[Int[Array, " B"], Int[Array, " B"], Int[Array, " B"], Bool[Array, " B"]]
"""Token to feed, its position, tokens drawn so far, still going."""


def decode_chunk(
    spec: DecoderSpec,
    sampling: SamplingConfig,
    stop_ids: tuple[int, ...],
    steps: int,
    weights: Weights,
    cache: Cache,
    state: State,
    limit: Int[Array, " B"],
    key: UInt32[Array, "B 2"],
    *,
    across: str | None = None,
) -> tuple[Cache, State, Int[Array, "K B"], Float[Array, "K B"]]:
    """Up to `steps` tokens a row; ends early when no row is going. Row b's new tokens lead column b.

    Args:
        across: an axis of devices that go on until the last of them is done; None: each ends by itself.
    """
    rows = limit.shape[0]
    stops = jnp.array(stop_ids, jnp.int32)

    def going(carry: Any) -> Bool[Array, ""]:
        step, _, (_, _, _, active), _, _ = carry
        more = jnp.any(active)
        if across is not None:
            more = jax.lax.pmax(more.astype(jnp.int32), across) > 0
        return (step < steps) & more

    def one_step(carry: Any) -> Any:
        step, cache, (token, position, count, active), tokens, logprobs = carry
        logits, cache = decoder.decode_step(spec, weights, cache, token, position)
        drawn = draw(logits, key, count, sampling)
        logprob = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), drawn[:, None], axis=-1)[:, 0]
        tokens, logprobs = tokens.at[step].set(drawn), logprobs.at[step].set(logprob)
        count = count + active
        # A row that is done stays where it is and writes to its own slot, which nobody reads any more.
        position = position + active
        active = active & (count < limit) & ~jnp.isin(drawn, stops)
        return step + 1, cache, (drawn, position, count, active), tokens, logprobs

    tokens, logprobs = jnp.zeros((steps, rows), jnp.int32), jnp.zeros((steps, rows), jnp.float32)
    start = (jnp.int32(0), cache, state, tokens, logprobs)
    _, cache, state, tokens, logprobs = jax.lax.while_loop(going, one_step, start)
    return cache, state, tokens, logprobs


def draw(
    logits: Float[Array, "B V"], key: UInt32[Array, "B 2"], index: Int[Array, " B"], sampling: SamplingConfig
) -> Int[Array, " B"]:
    """Draw a token a row: one uniform number from (key, index), turned into a token by the inverse CDF.

    One number a row instead of a Gumbel number a token of the vocabulary: on a CPU the noise would otherwise
    cost more than the model. A 23-bit uniform cannot tell apart tokens below a probability of about 1e-7.

    Args:
        logits: float32.
        key: the seed's high and low words.
        index: which token of its sample this is.
        sampling: static.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    scaled, ids = logits / sampling.temperature, None
    if 0 < sampling.top_k < scaled.shape[-1]:
        scaled, ids = jax.lax.top_k(scaled, sampling.top_k)
    weight = jnp.exp(scaled - scaled.max(axis=-1, keepdims=True))
    if sampling.top_p < 1:
        weight = _nucleus(weight / weight.sum(axis=-1, keepdims=True), sampling.top_p)
    chosen = _inverse_cdf(weight, _uniform(key, index))
    return chosen if ids is None else jnp.take_along_axis(ids, chosen[:, None], axis=-1)[:, 0]


def _nucleus(shares: Float[Array, "B V"], top_p: float) -> Float[Array, "B V"]:
    """The likeliest tokens that together reach `top_p` (Holtzman et al. 2020, arXiv 1904.09751, section 3.1); others 0.

    A token stays where the tokens above it have less than `top_p`. The least such probability is found by halving the
    range of float32's bit patterns, which order numbers that are not negative as their values do: 30 sums over the
    vocabulary, where sorting 262,144 tokens takes seventeen times as long on a CPU. Tokens of one probability stay or
    go together.
    """

    def mass_above(bits: Int[Array, " B"]) -> Float[Array, " B"]:
        bound = jax.lax.bitcast_convert_type(bits, jnp.float32)[:, None]
        return jnp.sum(jnp.where(shares > bound, shares, 0), axis=-1)

    def halve(_: Any, ends: Any) -> Any:
        low, high = ends  # at `high` little enough lies above; at `low - 1` too much does
        middle = low + (high - low) // 2
        enough = mass_above(middle) < top_p
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    most = jax.lax.bitcast_convert_type(shares.max(axis=-1), jnp.int32)  # nothing lies above it
    least, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(most), most))
    return jnp.where(shares >= jax.lax.bitcast_convert_type(least, jnp.float32)[:, None], shares, 0)


def _uniform(key: UInt32[Array, "B 2"], index: Int[Array, " B"]) -> Float[Array, " B"]:
    def one(words: UInt32[Array, " 2"], index: Int[Array, ""]) -> Float[Array, ""]:
        base = jax.random.wrap_key_data(words, impl="threefry2x32")
        return jax.random.uniform(jax.random.fold_in(base, index))

    return jax.vmap(one)(key, index)


def _inverse_cdf(weight: Float[Array, "B V"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
    """The first index whose cumulated weight exceeds `uniform` of the total.

    In two levels of about √V, first the block and then the place in it: a cumulative sum over a whole
    vocabulary is slow on a CPU and loses digits.
    """
    rows, size = weight.shape
    width = max(1, int(size**0.5))
    blocks = -(-size // width)
    split = jnp.pad(weight, ((0, 0), (0, blocks * width - size))).reshape(rows, blocks, width)
    block_ends = jnp.cumsum(split.sum(axis=-1), axis=-1)
    target = uniform * block_ends[:, -1]
    block = _first_above(block_ends, target)
    begin = jnp.where(
        block > 0, jnp.take_along_axis(block_ends, jnp.maximum(block - 1, 0)[:, None], -1)[:, 0], 0
    )
    ends = jnp.cumsum(split[jnp.arange(rows), block], axis=-1)
    return (block * width + _first_above(ends, target - begin)).astype(jnp.int32)


def _first_above(ends: Float[Array, "B A"], target: Float[Array, " B"]) -> Int[Array, " B"]:
    """First index with `ends > target`; rounding can put the target at the end, where no weight is left."""
    below_total = jnp.nextafter(ends[:, -1], 0)
    return jnp.sum(ends <= jnp.minimum(target, below_total)[:, None], axis=-1)
