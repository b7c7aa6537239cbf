"""The forward pass for long rows: Tunix's values and gradients, whatever is held at a time."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import optax
import pytest

pytest.importorskip("tunix")
pytestmark = pytest.mark.train

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from distill.gemma.build import random_gemma3  # noqa: E402
from distill.gemma.config import GemmaConfig  # noqa: E402
from distill.gemma.forward import _period, logit_chunk  # noqa: E402
from distill.loss import PassConfig, SftMicro, token_logprobs, train_step  # noqa: E402
from distill.packing import attention_mask, pack, pieces_of  # noqa: E402
from factory.teacher.loss import LossConfig, Micro, grpo_loss  # noqa: E402

VOCABULARY, ROW = 61, 30


def make_model(kv_heads: int) -> Any:
    """Two groups of layers and one left over, windows shorter than a row and global; grouped, single, fused projections."""
    config = GemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=8,
        sliding_window=9,
        layer_types=("sliding_attention", "full_attention") * 2 + ("sliding_attention",),
        query_pre_attn_scalar=8,
    )
    return random_gemma3(config, seed=2)


def make_micro() -> Micro:
    rng = np.random.default_rng(0)
    pieces, number = [], 0
    for prompt, lengths in (([2, 30, 31], (7, 5, 9)), ([2, 40], (12, 3)), ([2, 50, 51, 52], (11,))):
        completions = [list(rng.integers(3, VOCABULARY, n)) for n in lengths]
        pieces += pieces_of(prompt, completions, ROW, first_sample=number)
        number += len(lengths)
    rows = pack(pieces, ROW)
    columns = (rows.tokens, rows.targets, rows.positions, rows.group, rows.branch)
    zeros = np.zeros(rows.tokens.shape, np.float32)
    advantages = rows.spread_samples(list(rng.normal(size=number)))
    return Micro(*columns, rows.trained / rows.trained.sum(), rows.trained, advantages, zeros, zeros - 3.0)


def results(kv_heads: int, **settings: Any) -> tuple[Any, Any, Any]:
    """Log-probabilities, entropies, and the gradient of the loss; compiled together, which is quicker.

    In float64 but for the logits, which are float32: an error of order would not hide behind rounding.
    """
    graph, state = nnx.split(make_model(kv_heads))
    micro = make_micro()
    config = LossConfig(temperature=0.7, beta=0.1, **settings)

    @jax.jit
    def run(state: Any) -> Any:
        found = token_logprobs(nnx.merge(graph, state), micro, config, temperature=0.7)
        return *found, jax.grad(lambda s: grpo_loss(nnx.merge(graph, s), micro, config)[0])(state)

    with jax.enable_x64(True):
        return run(jax.tree.map(lambda x: x.astype(jnp.float64), state))  # type: ignore[no-any-return]


plain = functools.cache(results)


@pytest.mark.parametrize(
    ("kv_heads", "settings"),
    [
        (2, {"remat": "layer"}),
        (2, {"logit_chunk": 7}),
        *((2, {"attention_chunk": n}) for n in (3, 8)),
        *((n, {"remat": "layer", "logit_chunk": 4, "attention_chunk": 11}) for n in (1, 2, 4)),
    ],
)
def test_what_is_held_at_a_time_changes_no_value_and_no_gradient(
    kv_heads: int, settings: dict[str, Any]
) -> None:
    real = make_micro().weight > 0
    ours, theirs = results(kv_heads, **settings), plain(kv_heads)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_allclose(np.where(real, a, 0), np.where(real, b, 0), atol=1e-5)
    for a, b in zip(jax.tree.leaves(ours[2]), jax.tree.leaves(theirs[2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_one_chunk_is_tunix_own_pass() -> None:
    model, micro = make_model(2), make_micro()
    logits, _ = model(micro.tokens, micro.positions, None, attention_mask(micro.group, micro.branch))
    table = jax.nn.log_softmax(logits, axis=-1)
    wanted = jnp.take_along_axis(table, micro.targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(token_logprobs(model, micro, PassConfig())[0], wanted, atol=1e-5)


def test_what_fine_tuning_holds_at_a_time_changes_no_loss_and_no_gradient() -> None:
    micro = make_micro()
    weight = np.where(micro.weight > 0, micro.weight, 0).astype(np.float32)
    inputs = {"micros": SftMicro(*(x[None] for x in (*micro[:5], weight))), "used": 1}

    def step(**settings: Any) -> Any:
        """Loss, norm of the gradient and what one step of plain descent leaves."""
        model = make_model(2)
        optimizer = nnx.Optimizer(model, optax.sgd(1.0), wrt=nnx.Param)
        loss, _, norm = nnx.jit(functools.partial(train_step, config=PassConfig(**settings)))(
            model, optimizer, inputs
        )
        return float(loss), float(norm), jax.tree.leaves(nnx.state(model, nnx.Param))

    plain, long = step(), step(remat="layer", logit_chunk=7, attention_chunk=8)
    assert long[:2] == pytest.approx(plain[:2], abs=1e-5)
    for x, y in zip(long[2], plain[2], strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    half = step(compute="bfloat16", remat="layer", logit_chunk=7, attention_chunk=8)
    assert half[0] == pytest.approx(plain[0], rel=0.02) and half[0] != plain[0]
    assert all(leaf.dtype == jnp.float32 for leaf in half[2])


def test_the_chunk_follows_from_what_a_chip_may_hold() -> None:
    assert logit_chunk(8, 128, 933, 1, 1) is None  # the tiny models: all at once
    assert logit_chunk(8, 1024, 262_144, 8, 1) == 256
    assert logit_chunk(32, 1024, 262_144, 8, 1) == 64
    assert logit_chunk(32, 66_560, 262_208, 32, 16) == 4095


@pytest.mark.parametrize(
    ("kinds", "period"),
    [("aaaa", 1), ("ababa", 2), ("aabaab", 3), ("aab", 0), ("ab", 0), ("aaabaaab" + "aa", 4), ("abcd", 0)],
)
def test_layers_that_repeat_are_found(kinds: str, period: int) -> None:
    assert _period(list(kinds)) == period


def test_layers_that_repeat_are_one_loop() -> None:
    """The backward pass of a group is computed again inside the loop: a deep model holds no more than one group."""
    graph, state = nnx.split(make_model(2))

    def text(remat: Any) -> str:
        found = jax.make_jaxpr(
            lambda s: token_logprobs(nnx.merge(graph, s), make_micro(), PassConfig(remat=remat))[0]
        )
        return str(found(state))

    assert "scan[" in text("layer") and "scan[" not in text("none")
