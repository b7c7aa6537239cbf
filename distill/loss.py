"""The loss of supervised fine-tuning: mean negative log-likelihood of the tokens that are trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from distill.gemma.forward import Remat, hidden_states, target_logprobs

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


def long_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What `long_completion_loss` takes: as `model_inputs`, without a mask of L × L."""
    present: Bool[Array, "B L"] = batch["present"]
    positions = jnp.maximum(jnp.cumsum(present, axis=1) - 1, 0)
    return {
        "tokens": batch["tokens"],
        "positions": positions,
        "present": present,
        "weights": batch["weights"],
    }


def long_loss(**settings: Any) -> Callable[..., Any]:
    """`long_completion_loss` with its settings: positional arguments alone, as `nnx.value_and_grad` wants them."""

    def loss(model: Gemma3, tokens: Any, positions: Any, present: Any, weights: Any) -> Any:
        return long_completion_loss(model, tokens, positions, present, weights, **settings)

    return loss


def long_completion_loss(
    model: Gemma3,
    tokens: Int[Array, "B L"],
    positions: Int[Array, "B L"],
    present: Bool[Array, "B L"],
    weights: Float[Array, "B L"],
    *,
    compute: str | None,
    remat: Remat,
    logit_chunk: int | None,
    attention_chunk: int | None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`completion_loss` for rows whose logits, scores or activations do not fit: see `distill.gemma.forward`.

    Args:
        compute: dtype of the pass, None for that of the weights; gradients come in the weights' own.
    """
    if compute is not None:
        graph, state = nnx.split(model)
        model = nnx.merge(graph, jax.tree.map(lambda x: x.astype(compute), state))
    group = present.astype(jnp.int32)
    hidden = hidden_states(
        model,
        tokens,
        positions,
        group,
        jnp.zeros_like(group),
        remat=remat,
        attention_chunk=attention_chunk,
    )
    targets, kept = jnp.roll(tokens, -1, axis=1), jnp.roll(weights, -1, axis=1).at[:, -1].set(0.0)
    logp, _ = target_logprobs(model, hidden, targets, logit_chunk=logit_chunk)
    total, weight = -jnp.sum(logp * kept), jnp.sum(kept)
    return total / jnp.maximum(weight, _TINY), {"nll": total, "weight": weight}
