"""What fine-tuning on packed rows minimises, a mean over the tokens that are trained on; all in nats.

Three objectives: the likelihood of what stands there (supervised fine-tuning); that, and the distance from a
teacher's most probable tokens, which were stored; and the distance from a teacher that reads what the student wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from distill.gemma.cross_entropy import chunked_nll
from distill.gemma.forward import (
    Remat,
    cell_logits,
    gathered_embedding,
    hidden_states,
    over_cells,
    target_logprobs,
)
from distill.lora import has_adapters
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
    hidden = _hidden(model, rows, config)
    return target_logprobs(
        model, hidden, rows.targets, temperature=temperature, logit_chunk=config.logit_chunk
    )


def weighted_nll(model: Gemma3, micro: SftMicro, config: PassConfig) -> Float[Array, ""]:
    """sum(weight · -log p(target)) in nats. Where weights add up to 1 it is a mean over tokens."""
    chunk = config.logit_chunk
    if chunk is None or chunk >= micro.targets.shape[1]:
        return -jnp.sum(token_logprobs(model, micro, config)[0] * micro.weight)
    hidden, embedding = _hidden(model, micro, config), gathered_embedding(model)
    cap = getattr(model, "final_softcap", None)
    frozen = has_adapters(model)
    found: Float[Array, ""] = chunked_nll(hidden, embedding, micro.targets, micro.weight, cap, chunk, frozen)
    return found


# ------------------------------------------------------------------------------------------- objectives


class Objective(Protocol):
    """What a step minimises.

    Attributes:
        names: of the sums beside the loss that are reported.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def micro(self, columns: Sequence[Any]) -> Any:
        """The named tuple of a batch's columns, of which the first six are those of `SftMicro`."""
        ...

    def loss(
        self, model: Gemma3, micro: Any, shared: Any, config: PassConfig
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted sum over the micro-batch's cells, and sums by name. `shared` is the same in every step."""
        ...


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Mean negative log-likelihood: supervised fine-tuning."""

    names: tuple[str, ...] = ("nll",)

    def micro(self, columns: Sequence[Any]) -> SftMicro:
        return SftMicro(*columns)

    def loss(self, model: Gemma3, micro: SftMicro, shared: Any, config: PassConfig) -> tuple[Any, Any]:
        nll = weighted_nll(model, micro, config)
        return nll, {"nll": nll}


class ScoredMicro(NamedTuple):
    """Cells, and a teacher's likeliest tokens for the target of each: ids and log-probabilities."""

    cells: SftMicro
    top_ids: Int[Array, "R L K"]
    top_logprobs: Float[Array, "R L K"]


_SMALLEST_TAIL = 1e-6


@dataclass(frozen=True, slots=True)
class TopKDivergence:
    """(1 - share) · NLL + share · KL(teacher || student) over the teacher's K likeliest tokens and one for all others.

    Distillation as Hinton et al. 2015 (arXiv 1503.02531) have it, at temperature 1. With the rest of the
    probability as a token of its own the divergence stays one, and a lower bound of that over all tokens.
    """

    share: float
    names: tuple[str, ...] = ("nll", "kl")

    def micro(self, columns: Sequence[Any]) -> ScoredMicro:
        *cells, top_ids, top_logprobs = columns
        return ScoredMicro(SftMicro(*cells), top_ids, top_logprobs)

    def loss(self, model: Gemma3, micro: ScoredMicro, shared: Any, config: PassConfig) -> tuple[Any, Any]:
        rows = micro.cells
        hidden = _hidden(model, rows, config)
        embedding, cap = gathered_embedding(model), getattr(model, "final_softcap", None)
        wanted = jnp.concatenate([rows.targets[..., None], micro.top_ids], axis=-1)

        def chosen(part: Any) -> Any:
            cells, ids = part
            scores = cell_logits(embedding, cap, cells)
            found = jnp.take_along_axis(scores, ids, axis=-1)
            return found - jax.nn.logsumexp(scores, axis=-1, keepdims=True)

        logp = over_cells(chosen, (hidden, wanted), config.logit_chunk)
        teacher = jnp.exp(micro.top_logprobs)
        kl = jnp.sum(teacher * (micro.top_logprobs - logp[..., 1:]), axis=-1)
        rest = jnp.maximum(1.0 - teacher.sum(-1), 0.0)
        own = jnp.maximum(1.0 - jnp.exp(logp[..., 1:]).sum(-1), _SMALLEST_TAIL)
        kl += jax.scipy.special.xlogy(rest, rest) - rest * jnp.log(own)
        sums = {"nll": -jnp.sum(logp[..., 0] * rows.weight), "kl": jnp.sum(kl * rows.weight)}
        return (1.0 - self.share) * sums["nll"] + self.share * sums["kl"], sums


@dataclass(frozen=True, slots=True)
class ReverseDivergence:
    """KL(student || teacher) at every token that the student wrote, over the whole vocabulary.

    On-policy distillation (Agarwal et al. 2023, arXiv 2306.13649, with lambda = 1 and the reverse divergence): the
    gradient goes through the student's distribution at the contexts that it sampled, not through the sampling.

    Attributes:
        graph, tree: the teacher's graph, of `nnx.split`, and how its arrays make its state; the arrays are what the
            steps share.
    """

    graph: Any
    tree: Any
    names: tuple[str, ...] = ("kl", "entropy")

    @classmethod
    def from_teacher(cls, teacher: Gemma3) -> tuple[ReverseDivergence, list[Any]]:
        """The objective, and the teacher's arrays."""
        graph, state = nnx.split(teacher)
        leaves, tree = jax.tree.flatten(state)
        return cls(graph, tree), leaves

    def micro(self, columns: Sequence[Any]) -> SftMicro:
        return SftMicro(*columns)

    def loss(self, model: Gemma3, micro: SftMicro, shared: Any, config: PassConfig) -> tuple[Any, Any]:
        teacher = nnx.merge(self.graph, computing(jax.tree.unflatten(self.tree, shared), config.compute))
        pairs = [(gathered_embedding(m), getattr(m, "final_softcap", None)) for m in (model, teacher)]
        hidden = _hidden(model, micro, config), jax.lax.stop_gradient(_hidden(teacher, micro, config))

        def divergence(part: Any) -> Any:
            own, wanted = (
                jax.nn.log_softmax(cell_logits(*pair, cells), axis=-1)
                for pair, cells in zip(pairs, part, strict=True)
            )
            share = jnp.exp(own)
            entropy = -jnp.sum(share * own, axis=-1)
            return jnp.sum(share * (own - jax.lax.stop_gradient(wanted)), axis=-1), entropy

        kl, entropy = over_cells(divergence, hidden, config.logit_chunk)
        sums = {
            "kl": jnp.sum(kl * micro.weight),
            "entropy": jax.lax.stop_gradient(jnp.sum(entropy * micro.weight)),
        }
        return sums["kl"], sums


def _hidden(model: Gemma3, rows: PackedRows, config: PassConfig) -> Float[Array, "R L D"]:
    return hidden_states(
        model,
        rows.tokens,
        rows.positions,
        rows.group,
        rows.branch,
        remat=config.remat,
        attention_chunk=config.attention_chunk,
    )


# ------------------------------------------------------------------------------------------------- steps


def train_step(
    model: Any,
    optimizer: Any,
    inputs: Mapping[str, Any],
    *,
    config: PassConfig,
    objective: Objective | None = None,
    wrt: Any = nnx.Param,
) -> tuple[Any, Any, Any]:
    """One optimiser step.

    Args:
        inputs: "micros", of the objective's named tuple, of shape (M, R, L), whose weights add up to 1; "used", how
            many of the M hold samples; "shared", where the objective has something for all steps.
        objective: None for the likelihood.

    Returns:
        the loss in nats a token, the objective's sums, and the gradient's norm. Where that is not finite, neither
        weights nor optimiser have changed.
    """
    wanted = objective or Likelihood()
    graph, params, rest = nnx.split(model, wrt, ...)

    def loss(params: Any, micro: Any) -> tuple[Any, Any]:
        whole = nnx.merge(graph, computing(params, config.compute), rest)
        found, sums = wanted.loss(whole, micro, inputs.get("shared"), config)
        return found, {"loss": found, **sums}

    names = ("loss", *wanted.names)
    gradient, sums = accumulate(loss, params, inputs["micros"], inputs["used"], names)
    norm = optax.global_norm(gradient)
    before = jax.tree.map(lambda x: x, (params, nnx.state(optimizer)))  # variables of its own: others change
    optimizer.update(model, gradient)
    after = nnx.state(model, wrt), nnx.state(optimizer)
    # A step that is not finite ends the run; until then the weights must be such that its samples can be asked which
    # of them it was.
    chosen = jax.tree.map(lambda new, old: jnp.where(jnp.isfinite(norm), new, old), after, before)
    nnx.update(model, chosen[0])
    nnx.update(optimizer, chosen[1])
    return sums.pop("loss"), sums, norm


def evaluation_step(
    model: Any, inputs: Mapping[str, Any], *, config: PassConfig, objective: Objective | None = None
) -> tuple[Any, Any]:
    """The weighted sum of the objective over the micro-batches of `train_step`'s inputs, and its sums by name."""
    wanted = objective or Likelihood()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    whole = nnx.merge(graph, computing(params, config.compute), rest)

    def add(i: Any, totals: Any) -> Any:
        found, sums = wanted.loss(whole, micro_of(inputs["micros"], i), inputs.get("shared"), config)
        return jax.tree.map(jnp.add, totals, {"loss": found, **sums})

    start = {name: jnp.float32(0) for name in ("loss", *wanted.names)}
    sums = jax.lax.fori_loop(0, inputs["used"], add, start)
    return sums.pop("loss"), sums
