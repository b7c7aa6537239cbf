"""The loss of supervised fine-tuning on packed rows: mean negative log-likelihood of the tokens that are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from distill.gemma.forward import Remat, hidden_states, target_logprobs
from distill.updates import accumulate, computing, micro_of

if TYPE_CHECKING:
    from tunix.models.gemma3.model import Gemma3


class PackedRows(Protocol):
    """What a pass over packed rows reads; see `distill.packing.Rows`."""

    @property
    def tokens(self) -> Int[Array, "R L"]: ...

    @property
    def targets(self) -> Int[Array, "R L"]: ...

    @property
    def positions(self) -> Int[Array, "R L"]: ...

    @property
    def group(self) -> Int[Array, "R L"]: ...

    @property
    def branch(self) -> Int[Array, "R L"]: ...


class SftMicro(NamedTuple):
    """Packed rows of one micro-batch, or with an axis in front of many; see `distill.packing.Rows`.

    `weight` belongs to the target that is predicted in the cell; it is 0 for prompts and padding.
    """

    tokens: Int[Array, "R L"]
    targets: Int[Array, "R L"]
    positions: Int[Array, "R L"]
    group: Int[Array, "R L"]
    branch: Int[Array, "R L"]
    weight: Float[Array, "R L"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassConfig:
    """What is held at a time in a pass, see `distill.gemma.forward`; only `compute`, its dtype, changes its rounding.

    Attributes:
        compute: None for the weights' own dtype; gradients come in the weights' own in any case.
    """

    compute: str | None = None
    remat: Remat = "none"
    logit_chunk: int | None = None
    attention_chunk: int | None = None


def token_logprobs(
    model: Gemma3, rows: PackedRows, config: PassConfig, *, temperature: float = 1.0
) -> tuple[Float[Array, "R L"], Float[Array, "R L"]]:
    """Log-probability of every target at a temperature, and the entropy of that distribution, in nats; float32."""
    hidden = hidden_states(
        model,
        rows.tokens,
        rows.positions,
        rows.group,
        rows.branch,
        remat=config.remat,
        attention_chunk=config.attention_chunk,
    )
    return target_logprobs(
        model, hidden, rows.targets, temperature=temperature, logit_chunk=config.logit_chunk
    )


def weighted_nll(model: Gemma3, micro: SftMicro, config: PassConfig) -> Float[Array, ""]:
    """sum(weight · -log p(target)) in nats. Where weights add up to 1 it is a mean over tokens."""
    return -jnp.sum(token_logprobs(model, micro, config)[0] * micro.weight)


def train_step(
    model: Any, optimizer: Any, inputs: Mapping[str, Any], *, config: PassConfig, wrt: Any = nnx.Param
) -> tuple[Any, Any, Any]:
    """One optimiser step.

    Args:
        inputs: "micros", an `SftMicro` of shape (M, R, L) whose weights add up to 1; "used", how many of the M hold
            samples.

    Returns:
        the loss in nats a token, {"nll": the same}, and the gradient's norm.
    """
    graph, params, rest = nnx.split(model, wrt, ...)

    def loss(params: Any, micro: SftMicro) -> tuple[Any, Any]:
        nll = weighted_nll(nnx.merge(graph, computing(params, config.compute), rest), micro, config)
        return nll, {"nll": nll}

    gradient, sums = accumulate(loss, params, inputs["micros"], inputs["used"], ("nll",))
    norm = optax.global_norm(gradient)
    optimizer.update(model, gradient)
    return sums["nll"], sums, norm


def evaluation_step(model: Any, inputs: Mapping[str, Any], *, config: PassConfig) -> tuple[Any, Any]:
    """The weighted sum of negative log-likelihoods over the micro-batches of `train_step`'s inputs, and none else."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    whole = nnx.merge(graph, computing(params, config.compute), rest)

    def add(i: Any, total: Any) -> Any:
        return total + weighted_nll(whole, micro_of(inputs["micros"], i), config)

    nll = jax.lax.fori_loop(0, inputs["used"], add, jnp.float32(0))
    return nll, {"nll": nll}
