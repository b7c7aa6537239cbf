"""The loss of supervised fine-tuning: mean negative log-likelihood of the tokens that are trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

if TYPE_CHECKING:
    from tunix.models.gemma3.model import Gemma3

_TINY = 1e-8


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What the loss takes, from a batch as `distill.batches` makes it.

    Positions and attention come from the padding, never from what is trained on: a completion sees its whole
    prompt. Padding stands at the end, so causal order alone would hide it from real tokens; it is masked all
    the same.
    """
    present: Bool[Array, "B L"] = batch["present"]
    length = present.shape[1]
    positions = jnp.maximum(jnp.cumsum(present, axis=1) - 1, 0)
    causal = jnp.tril(jnp.ones((length, length), jnp.bool_))
    return {
        "tokens": batch["tokens"],
        "positions": positions,
        "attention_mask": causal[None] & present[:, None, :],
        "weights": batch["weights"],
    }


def completion_loss(
    model: Gemma3,
    tokens: Int[Array, "B L"],
    positions: Int[Array, "B L"],
    attention_mask: Bool[Array, "B L L"],
    weights: Float[Array, "B L"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Token-mean over the batch: sum(weight · nll) / sum(weight), in float32.

    `weights[b, t]` belongs to `tokens[b, t]` as a target; it is 0 for prompts and padding.

    Returns:
        (loss, {"nll": weighted sum in nats, "weight": sum of weights}).
    """
    logits, _ = model(tokens, positions, None, attention_mask)
    scores: Float[Array, "B L-1 V"] = logits[:, :-1].astype(jnp.float32)
    targets, kept = tokens[:, 1:], weights[:, 1:]
    chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(scores, axis=-1) - chosen
    total, weight = jnp.sum(nll * kept), jnp.sum(kept)
    return total / jnp.maximum(weight, _TINY), {"nll": total, "weight": weight}
