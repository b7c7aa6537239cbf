"""The GRPO loss: against numbers worked out by hand, against Tunix's own, and what each trap would break."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tunix")
pytestmark = pytest.mark.train

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from distill.packing import pack, pieces_of  # noqa: E402
from factory.teacher.loss import (  # noqa: E402
    LossConfig,
    Micro,
    group_advantages,
    grpo_loss,
    most_different,
    token_weights,
)

EOS = 1
PROMPTS = [[2, 30, 31], [2, 33, 34, 35]]
COMPLETIONS = [[[40, 41, EOS], [42, EOS], [43, 44, 45, 46]], [[50, EOS], [51, 52, EOS], [53, EOS]]]
REWARDS = [[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]]
FLAT = [c for group in COMPLETIONS for c in group]
LENGTHS = [len(c) for c in FLAT]
ROW = 24


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    from distill.gemma.build import random_gemma3, tiny_config

    return random_gemma3(replace(tiny_config("student", 64), intermediate_size=32), seed=1)


@pytest.fixture(scope="module")
def logits(model) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    """(tokens, V) logits that predict each completion's tokens, from a forward pass of that sample alone."""
    found = []
    for prompt, group in zip(PROMPTS, COMPLETIONS, strict=True):
        for completion in group:
            tokens = jnp.array([[*prompt, *completion][:-1]])
            n = tokens.shape[1]
            out, _ = model(tokens, jnp.arange(n)[None], None, jnp.tril(jnp.ones((1, n, n), bool)))
            found.append(np.asarray(out[0, len(prompt) - 1 :], np.float64))
    return found


def logprobs_of(scores: np.ndarray, ids: list[int]) -> np.ndarray:
    shifted = scores - scores.max(-1, keepdims=True)
    table = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return table[np.arange(len(ids)), ids]


def micro(advantages, weights, old=None, reference=None, completions=COMPLETIONS) -> Micro:  # type: ignore[no-untyped-def]
    pieces, n = [], 0
    for prompt, group in zip(PROMPTS, completions, strict=True):
        pieces += pieces_of(prompt, group, ROW, first_sample=n)
        n += len(group)
    rows = pack(pieces, ROW)
    zeros = np.zeros(rows.tokens.shape, np.float32)
    columns = (rows.tokens, rows.targets, rows.positions, rows.group, rows.branch)
    return Micro(
        *columns,
        rows.spread_samples(weights),
        rows.trained,
        rows.spread_samples(advantages),
        zeros if old is None else rows.spread(old),
        zeros if reference is None else rows.spread(reference),
    )


def advantages() -> list[float]:
    return [a for rewards in REWARDS for a in group_advantages(rewards)]  # type: ignore[misc]


def test_advantages_by_hand() -> None:
    deviation = np.sqrt(1 / 6)  # of 1, 0 and 0.5 around their mean
    assert group_advantages(REWARDS[0]) == pytest.approx([0.5 / deviation, -0.5 / deviation, 0.0])
    assert group_advantages(REWARDS[0], scale="none") == pytest.approx([0.5, -0.5, 0.0])
    assert group_advantages([1.0, None, 0.0]) == pytest.approx([1.0, None, -1.0])
    assert group_advantages([1.0, 1.0]) == [0.0, 0.0]
    assert group_advantages([None, 1.0]) == [None, 0.0]
    assert group_advantages([None, None]) == [None, None]


def test_the_samples_that_are_learnt_from_have_the_greatest_variance() -> None:
    """Against every subset of that size."""
    rng = np.random.default_rng(3)
    for size, count in ((5, 2), (7, 4), (8, 3), (9, 8)):
        for _ in range(20):
            rewards = list(rng.choice([0.0, 0.1, 1.0, 1.1, 1.4], size))
            best = max(np.var(part) for part in itertools.combinations(rewards, count))
            chosen = most_different(rewards, count)
            assert chosen == sorted(set(chosen)) and len(chosen) == count
            assert np.var([rewards[n] for n in chosen]) == pytest.approx(best)
    assert most_different([1.0, None, 0.0, 1.0, 0.0, 1.0], 4) == [2, 3, 4, 5]
    assert most_different([1.0, None, 0.0], 4) == [0, 2]
    assert most_different([None, None], 1) == []


def test_weights_add_up_to_one_and_leave_masked_samples_out() -> None:
    kept = [True, False, True]
    by_token = token_weights([2, 5, 8], kept, "token-mean", max_tokens=10)
    assert by_token == pytest.approx([0.1, 0.0, 0.1])
    by_sample = token_weights([2, 5, 8], kept, "sequence-mean", max_tokens=10)
    assert by_sample == pytest.approx([0.25, 0.0, 0.0625])
    assert token_weights([2, 5, 8], kept, "constant", max_tokens=10) == pytest.approx([1 / 30, 0.0, 1 / 30])
    assert token_weights([2], [False], "token-mean", max_tokens=10) == [0.0]


def test_a_constant_does_not_depend_on_what_survives() -> None:
    for kept in ([True] * 4, [True, False, True, False], [False, False, False, True]):
        weights = token_weights([2, 5, 8, 9], kept, "constant", max_tokens=10)
        assert weights == [1 / 40 if keep else 0.0 for keep in kept]
    # A batch from which whole groups were dropped weighs as if they stood in it.
    assert token_weights([2, 5], [True, True], "constant", max_tokens=10, asked=4) == [1 / 40, 1 / 40]


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "constant"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_loss_by_hand(model, logits, aggregation, temperature) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    config = LossConfig(temperature=temperature, clip_low=0.2, clip_high=0.28, beta=0.05, on_policy=False)
    new = [logprobs_of(s / temperature, c) for s, c in zip(logits, FLAT, strict=True)]
    old = [value + rng.normal(0, 0.4, len(value)) for value in new]
    reference = [value + rng.normal(0, 0.4, len(value)) for value in new]
    loss = kl_sum = clipped = 0.0
    for i, advantage in enumerate(advantages()):
        ratio = np.exp(new[i] - old[i])
        gain = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.28) * advantage)
        gap = reference[i] - new[i]
        kl = np.exp(gap) - gap - 1
        total = (-gain + 0.05 * kl).sum()
        match aggregation:
            case "token-mean":
                loss += total / sum(LENGTHS)
            case "sequence-mean":
                loss += total / LENGTHS[i] / len(FLAT)
            case "constant":
                loss += total / (len(FLAT) * 10)
        kl_sum += kl.sum()
        clipped += (np.clip(ratio, 0.8, 1.28) * advantage < ratio * advantage).sum()
    weights = token_weights(LENGTHS, [True] * len(FLAT), aggregation, max_tokens=10)
    ours, sums = grpo_loss(model, micro(advantages(), weights, old, reference), config)
    assert float(ours) == pytest.approx(loss, abs=1e-5)
    assert float(sums["kl"]) == pytest.approx(kl_sum, abs=1e-4)
    assert float(sums["clipped"]) == clipped > 0
    assert float(sums["tokens"]) == sum(LENGTHS)


def test_the_loss_and_its_gradient_are_tunix_own(model) -> None:  # type: ignore[no-untyped-def]
    from tunix.rl.algo_core import grpo_loss_fn
    from tunix.rl.common import TrainExample

    rng = np.random.default_rng(1)
    width, length = max(map(len, PROMPTS)), max(LENGTHS)
    old = [rng.normal(-4, 0.3, n) for n in LENGTHS]
    reference = [rng.normal(-4, 0.3, n) for n in LENGTHS]

    def right(values, fill=0) -> np.ndarray:  # type: ignore[no-untyped-def]
        return np.array([[*v, *[fill] * (length - len(v))] for v in values])

    prompts = [p for p, group in zip(PROMPTS, COMPLETIONS, strict=True) for _ in group]
    left = np.array([[0] * (width - len(p)) + p for p in prompts])
    example = TrainExample(
        prompt_ids=jnp.asarray(left),
        prompt_mask=jnp.asarray(left != 0),
        completion_ids=jnp.asarray(right(FLAT)),
        completion_mask=jnp.asarray(right([[1] * n for n in LENGTHS])),
        advantages=jnp.asarray(advantages()),
        ref_per_token_logps=jnp.asarray(right(reference)),
        old_per_token_logps=jnp.asarray(right(old)),
    )
    algorithm = SimpleNamespace(
        beta=0.05,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_algo="grpo",
        loss_agg_mode="token-mean",
        kl_loss_mode="low_var_kl",
        kl_clamp_value=None,
        temperature=1.0,
    )
    config = LossConfig(clip_low=0.2, clip_high=0.28, beta=0.05, on_policy=False)
    packed = micro(
        advantages(), token_weights(LENGTHS, [True] * 6, "token-mean", max_tokens=9), old, reference
    )
    theirs, their_gradient = nnx.value_and_grad(lambda m: grpo_loss_fn(m, example, algorithm, 0, EOS)[0])(
        model
    )
    ours, our_gradient = nnx.value_and_grad(lambda m: grpo_loss(m, packed, config)[0])(model)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    for a, b in zip(jax.tree.leaves(our_gradient), jax.tree.leaves(their_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_stop_token_gets_a_gradient(model) -> None:  # type: ignore[no-untyped-def]
    """Tunix's rollout drops it, and then nobody learns to stop."""
    weights = token_weights(LENGTHS, [True] * 6, "constant", max_tokens=10)

    def gradient(completions):  # type: ignore[no-untyped-def]
        packed = micro(advantages(), weights, completions=completions)
        return nnx.grad(lambda m: grpo_loss(m, packed, LossConfig())[0])(model)

    without = [[[t for t in c if t != EOS] for c in group] for group in COMPLETIONS]
    row = gradient(COMPLETIONS)["embedder"]["input_embedding"][...][EOS]
    row_without = gradient(without)["embedder"]["input_embedding"][...][EOS]
    # The tied embedding's row gets a little from every softmax; from being the target it gets far more.
    assert jnp.linalg.norm(row) > 3 * jnp.linalg.norm(row_without)


def test_on_policy_ratios_are_one_and_nothing_is_clipped(model) -> None:  # type: ignore[no-untyped-def]
    weights = token_weights(LENGTHS, [True] * 6, "token-mean", max_tokens=10)
    _, sums = grpo_loss(model, micro(advantages(), weights), LossConfig(on_policy=True))
    assert float(sums["ratio_gap"]) == 0.0
    assert float(sums["clipped"]) == 0.0


def test_samples_of_weight_zero_change_nothing(model) -> None:  # type: ignore[no-untyped-def]
    kept = [True, False, True, True, False, True]
    weights = token_weights(LENGTHS, kept, "token-mean", max_tokens=10)
    some = advantages()
    wild = [a if keep else 1e9 for a, keep in zip(some, kept, strict=True)]
    here = grpo_loss(model, micro(some, weights), LossConfig())
    there = grpo_loss(model, micro(wild, weights), LossConfig())
    assert float(here[0]) == float(there[0])
    assert float(here[1]["tokens"]) == sum(n for n, keep in zip(LENGTHS, kept, strict=True) if keep)


def test_the_kl_term_pulls_towards_the_reference() -> None:
    """k1 has an expected gradient of zero; k3's is that of KL(reference || policy), which is not."""
    policy = jnp.array([0.3, -1.0, 0.8, 0.1])
    reference = jax.nn.log_softmax(jnp.array([1.0, 0.5, -0.5, 0.0]))

    def expected(kind: str):  # type: ignore[no-untyped-def]
        """Gradient of the estimator, averaged over every token by its probability, as sampling would."""
        probabilities = jax.nn.softmax(policy)

        def term(logits, token):  # type: ignore[no-untyped-def]
            gap = reference[token] - jax.nn.log_softmax(logits)[token]
            return -gap if kind == "k1" else jnp.exp(gap) - gap - 1.0

        gradients = jax.vmap(jax.grad(term), (None, 0))(policy, jnp.arange(4))
        return (probabilities[:, None] * gradients).sum(0)

    np.testing.assert_allclose(expected("k1"), 0.0, atol=1e-6)
    towards = jax.nn.softmax(policy) - jnp.exp(reference)
    np.testing.assert_allclose(expected("k3"), towards, atol=1e-6)


def test_ours_has_that_gradient(model) -> None:  # type: ignore[no-untyped-def]
    """One-token completions, each weighted by its probability: the loss's own KL gradient, in expectation."""
    import factory.teacher.loss as module

    prompt = [2, 30, 31]
    logits, _ = model(jnp.array([prompt]), jnp.arange(3)[None], None, jnp.tril(jnp.ones((1, 3, 3), bool)))
    policy = jax.nn.log_softmax(logits[0, -1])
    vocabulary = policy.shape[-1]
    reference = jax.nn.log_softmax(policy + 0.5 * jnp.sin(jnp.arange(vocabulary)))
    rows = pack(list(pieces_of(prompt, [[t] for t in range(vocabulary)], 2 + vocabulary)), 2 + vocabulary)
    packed = Micro(
        *(rows.tokens, rows.targets, rows.positions, rows.group, rows.branch),
        rows.spread_samples(np.exp(policy)),
        rows.trained,
        rows.spread_samples([0.0] * vocabulary),
        np.zeros(rows.tokens.shape, np.float32),
        rows.spread([[float(r)] for r in reference]),
    )
    gradient = nnx.grad(lambda m: module.grpo_loss(m, packed, LossConfig(beta=1.0))[0])(model)

    def divergence(m):  # type: ignore[no-untyped-def]
        scores, _ = m(jnp.array([prompt]), jnp.arange(3)[None], None, jnp.tril(jnp.ones((1, 3, 3), bool)))
        return jnp.sum(jnp.exp(reference) * (reference - jax.nn.log_softmax(scores[0, -1])))

    wanted = nnx.grad(divergence)(model)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted)) > 1e-3
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
