"""The GRPO loss on packed rows, and the numbers the host puts into it.

GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3; DeepSeek-R1, arXiv 2501.12948, eq. 1), per token t of sample i:

    ratio   = exp(logp - old)
    gain    = min(ratio · A_i, clip(ratio, 1 - clip_low, 1 + clip_high) · A_i)
    kl      = exp(ref - logp) - (ref - logp) - 1                             (k3, Schulman 2020)
    loss    = Σ w_it · (-gain + beta · kl)

Log-probabilities are those of the distribution that was sampled: logits divided by the temperature. The weights
w carry the aggregation (`token_weights`), so a loss is a plain sum, whatever the number of micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from distill.loss import PassConfig, token_logprobs

Aggregation = Literal["token-mean", "sequence-mean", "constant"]


class Micro(NamedTuple):
    """Packed rows of one micro-batch, or with an axis in front of many. Shapes (R, L); see `distill.packing.Rows`.

    `copies` says how often the sample of a cell was drawn. `weight` has that in it; what is counted goes by it.
    """

    tokens: Int[Array, "R L"]
    targets: Int[Array, "R L"]
    positions: Int[Array, "R L"]
    group: Int[Array, "R L"]
    branch: Int[Array, "R L"]
    weight: Float[Array, "R L"]
    copies: Float[Array, "R L"]
    advantage: Float[Array, "R L"]
    old: Float[Array, "R L"]
    reference: Float[Array, "R L"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig(PassConfig):
    """What is static about the loss, and what its pass holds at a time.

    Attributes:
        temperature: of sampling.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]. R1's stage of reasoning RL has
            10 for both.
        beta: weight of the KL term; 0 leaves it out, and then `reference` is not read.
        on_policy: one optimiser step a batch: the old policy is the current one, and `old` is not read.
    """

    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.0
    on_policy: bool = True


def grpo_loss(
    model: Any, micro: Micro, config: LossConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The sum of weighted token losses of one micro-batch.

    Returns:
        the loss, and sums over the tokens that count (weight above 0), each as often as it was drawn: "kl", "clipped",
        "entropy", "tokens", "ratio_gap" (sum of |ratio - 1|); "loss" is the loss again.
    """
    logp, entropy = token_logprobs(model, micro, config, temperature=config.temperature)
    old = jax.lax.stop_gradient(logp) if config.on_policy else micro.old
    counts = jnp.where(micro.weight > 0, micro.copies, 0.0)
    ratio = jnp.exp(jnp.where(counts > 0, logp - old, 0.0))
    bounded = jnp.clip(ratio, 1.0 - config.clip_low, 1.0 + config.clip_high)
    gain = jnp.minimum(ratio * micro.advantage, bounded * micro.advantage)
    clipped = (bounded * micro.advantage < ratio * micro.advantage).astype(jnp.float32)
    losses = -gain
    kl = jnp.zeros_like(logp)
    if config.beta > 0:
        gap = jnp.where(counts > 0, micro.reference - logp, 0.0)
        kl = jnp.exp(gap) - gap - 1.0
        losses = losses + config.beta * kl
    loss = jnp.sum(micro.weight * losses)
    sums = {
        "loss": loss,
        "kl": jnp.sum(kl * counts),
        "clipped": jnp.sum(clipped * counts),
        "entropy": jnp.sum(entropy * counts),
        "ratio_gap": jnp.sum(jnp.abs(ratio - 1.0) * counts),
        "tokens": jnp.sum(counts),
    }
    return loss, {name: jax.lax.stop_gradient(value) for name, value in sums.items()}


def group_advantages(
    rewards: Sequence[float | None], *, scale: Literal["std", "none"] = "std"
) -> list[float | None]:
    """Advantages within one group: reward less the mean, divided by the standard deviation (R1, eq. 3).

    Masked samples (None) take no part and get None. A group of equal rewards, or of a single one, has advantages
    of 0. The deviation is the population's, as in the paper; `scale="none"` leaves it out (Dr. GRPO, arXiv
    2503.20783).
    """
    present = np.array([reward for reward in rewards if reward is not None], np.float64)
    if len(present) == 0:
        return [None] * len(rewards)
    mean, deviation = present.mean(), present.std()
    if not has_variance(rewards):
        return [None if reward is None else 0.0 for reward in rewards]
    divisor = deviation if scale == "std" else 1.0
    return [None if reward is None else float((reward - mean) / divisor) for reward in rewards]


def most_different(rewards: Sequence[float | None], count: int) -> list[int]:
    """Which samples of a group to learn from: `count` of those that have a reward, with the greatest variance.

    They are so many of the lowest and the rest of the highest (Xu et al. 2025, arXiv 2504.13818, max-variance
    down-sampling). Which of equal rewards are taken depends on their place alone: one is as random as another.

    Returns:
        their numbers, rising.
    """
    paid = {n: reward for n, reward in enumerate(rewards) if reward is not None}
    if len(paid) <= count:
        return list(paid)
    ranked = sorted(paid, key=lambda n: (paid[n], n))
    parts = [ranked[:lowest] + ranked[len(ranked) - (count - lowest) :] for lowest in range(count + 1)]
    return sorted(max(parts, key=lambda part: float(np.var([paid[n] for n in part]))))


def has_variance(rewards: Sequence[float | None]) -> bool:
    """Do the rewards of a group differ, so that it teaches something?"""
    present = [reward for reward in rewards if reward is not None]
    return len(present) > 1 and max(present) - min(present) > 1e-6


def token_weights(
    lengths: Sequence[int],
    kept: Sequence[bool],
    aggregation: Aggregation,
    *,
    max_tokens: int,
    asked: float | None = None,
) -> list[float]:
    """Weight of every token of each sample; 0 for samples that are left out.

    - "token-mean" (DAPO, arXiv 2503.14476, eq. 8): every token of the batch weighs the same.
    - "sequence-mean" (GRPO): every sample weighs the same, its tokens share its weight.
    - "constant" (Dr. GRPO, arXiv 2503.20783): a token weighs 1 / (`asked` · `max_tokens`), whatever became of the
      samples. So neither long answers are favoured, nor those beside which many were left out.

    Args:
        max_tokens: of a completion.
        asked: samples that an optimiser step asks for, on the average; None: as many as there are.
    """
    total = sum(n for n, keep in zip(lengths, kept, strict=True) if keep)
    samples = sum(kept)
    if not samples:
        return [0.0] * len(lengths)
    match aggregation:
        case "token-mean":
            weights = [1.0 / total] * len(lengths)
        case "sequence-mean":
            weights = [1.0 / (samples * n) if n else 0.0 for n in lengths]
        case "constant":
            weights = [1.0 / ((len(lengths) if asked is None else asked) * max_tokens)] * len(lengths)
    return [weight if keep else 0.0 for weight, keep in zip(weights, kept, strict=True)]
