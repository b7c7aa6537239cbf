"""Tunix's trainer for GRPO on packed rows: one optimiser step adds up the gradients of as many micro-batches as
the samples fill.

What differs from Tunix's own GRPO road, and why: samples are packed (its learner pads every completion to the
longest allowed); the gradient of a step is one sum over tokens, so the aggregation is exact whatever the
packing; and checkpoints are written where an RL step ends, with what is needed to go on bit by bit (its last
save lacks the metadata, and it cannot restore a data cursor or a refreshed reference); and weights are updated
where they lie (`distill.in_place`). Model, optimiser, sharding and checkpoints are Tunix's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from tunix.sft.peft_trainer import TrainingConfig

from distill.in_place import InPlaceTrainer
from distill.loss import token_logprobs
from distill.packing import Piece, Rows, pack, pieces_of
from distill.trainer import SilentLogger, reading_checkpoints
from distill.updates import accumulate, computing, stacked
from factory.teacher.loss import LossConfig, Micro, grpo_loss

Numbers = dict[str, float]


@dataclass(frozen=True, slots=True)
class Shape:
    """The compiled shape of an update.

    Attributes:
        rows: packed rows of a micro-batch, over all devices.
        length: cells of a row.
        micros: micro-batches that a step can hold; empty ones cost nothing.
        share: so many completions of a prompt may share it: all of them where `length` is at most the sliding
            window, because then it is exact, otherwise 1.
    """

    rows: int
    length: int
    micros: int
    share: int

    @classmethod
    def for_groups(
        cls,
        groups: int,
        samples: int,
        *,
        longest: int,
        length: int,
        rows: int,
        window: int,
        data_shards: int = 1,
    ) -> Shape:
        """The shape for at most `groups` prompts with `samples` completions each.

        Args:
            longest: most tokens of a prompt and its completion; at most `length`.
            rows: rounded up to a multiple of `data_shards`, among which they are divided.
        """
        rows = -(-rows // data_shards) * data_shards
        share = samples if length <= window else 1
        needed = most_rows(groups * (samples // share), share, max(1, length // longest))
        return cls(rows, length, -(-needed // rows), share)


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one optimiser step.

    Attributes:
        rows: the packed rows.
        lengths: completion tokens of every sample.
        weights, advantages: one number a sample; see `factory.teacher.loss`.
        copies: how many drawn samples each stands for, which is in its weight already; None: one.
    """

    rows: Rows
    lengths: Sequence[int]
    weights: Sequence[float]
    advantages: Sequence[float]
    copies: Sequence[int] | None = None


def most_rows(groups: int, samples: int, in_a_row: int) -> int:
    """Rows that `pack_samples` fills at most, however long prompts and completions are.

    A group of `samples` is divided where the next completion does not fit, so every piece but its last holds
    `in_a_row` completions or more. Pieces but the last of a full division are given a row of their own here. The
    last ones hold at most `left`; the packer opens a row for such a piece only where no row has room for
    `left` of the longest samples, and a row of such pieces has less room only with `in_a_row // left` of them.

    Args:
        in_a_row: samples of the greatest length that fit a row, each with its prompt; at least 1.
    """
    pieces = -(-samples // in_a_row)
    left = samples - (pieces - 1) * in_a_row
    return groups * (pieces - 1) + -(-groups // (in_a_row // left))


def pack_samples(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], shape: Shape
) -> Rows:
    """Pack samples; neighbours with the same prompt share it, as many as the shape allows."""
    pieces: list[Piece] = []
    start = 0
    for stop in range(1, len(prompts) + 1):
        whole = stop - start == shape.share
        if whole or stop == len(prompts) or prompts[stop] != prompts[start]:
            group = completions[start:stop]
            pieces += pieces_of(prompts[start], group, shape.length, first_sample=start)
            start = stop
    return pack(pieces, shape.length)


def train_step(
    model: Any, optimizer: Any, inputs: Mapping[str, Any], *, loss_config: LossConfig, wrt: Any = nnx.Param
) -> tuple[Any, Any, Any]:
    """One optimiser step: what `GrpoTrainer` runs and what `factory.teacher.compiling` measures.

    Args:
        inputs: "micros", a `Micro` of shape (M, R, L); "used", how many of them hold samples; and "count", the
            place of this step in the optimiser's schedules.

    Returns:
        the loss, sums over the tokens that count, and the gradient's norm.
    """
    graph, params, rest = nnx.split(model, wrt, ...)

    def loss(params: Any, micro: Micro) -> tuple[Any, Any]:
        return grpo_loss(nnx.merge(graph, computing(params, loss_config.compute), rest), micro, loss_config)

    names = ("loss", "kl", "clipped", "entropy", "ratio_gap", "tokens")
    gradient, sums = accumulate(loss, params, inputs["micros"], inputs["used"], names)
    norm = optax.global_norm(gradient)
    _set_count(optimizer, inputs["count"])
    optimizer.update(model, gradient)
    return sums["loss"], {**sums, "grad_norm": norm}, norm


def _set_count(optimizer: Any, count: Any) -> None:
    """Put the schedules of an optimiser where they shall be. Adam's own count, of its averages, stays."""
    for state in jax.tree.leaves(optimizer.opt_state, is_leaf=_is_schedule):
        if _is_schedule(state):
            state.count[...] = count


def _is_schedule(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)


def reference_logprobs(graph: Any, state: Any, micro: Micro, *, loss_config: LossConfig) -> Any:
    """(R, L) log-probability of every target, of the model that `graph` and `state` are."""
    model = nnx.merge(graph, computing(state, loss_config.compute))
    # Layers are not computed again where nothing is differentiated.
    once = replace(loss_config, remat="none")
    return token_logprobs(model, micro, once, temperature=loss_config.temperature)[0]


class _NeverByItself:
    """Checkpoints are written where we say so."""

    def should_save(self, *_: Any, **__: Any) -> bool:
        return False


class GrpoTrainer(InPlaceTrainer):
    """See the module.

    Args:
        model: a Tunix Gemma 3, with a mesh already placed on it.
        optimizer: the optax chain of one optimiser step.
        loss: what is static about the loss.
        shape: the compiled shape.
        checkpoints: folder of this job alone. The latest checkpoint that is there is restored at once.
        keep: checkpoints that stay.
        mesh: axes "fsdp" and "tp"; None for one device.
    """

    def __init__(
        self,
        model: Any,
        optimizer: optax.GradientTransformation,
        *,
        loss: LossConfig,
        shape: Shape,
        checkpoints: Path,
        keep: int = 2,
        mesh: Any = None,
    ) -> None:
        managers = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=_NeverByItself(), preservation_policy=managers.LatestN(keep)
        )
        config = TrainingConfig(
            eval_every_n_steps=1,
            checkpoint_root_directory=str(checkpoints.resolve()),
            checkpointing_options=options,
            data_sharding_axis=(None, "fsdp"),
        )
        self.mesh = mesh
        with self._mesh(), reading_checkpoints(checkpoints):
            super().__init__(model, optimizer, config, metrics_logger=SilentLogger())
        self.is_managed_externally = True
        self.loss_config, self.shape = loss, shape
        self._sums: list[Any] = []
        graph = nnx.split(model)[0]  # a description of the module; the weights come as an argument
        self._logprobs = jax.jit(partial(reference_logprobs, graph, loss_config=loss))

    @contextlib.contextmanager
    def _mesh(self) -> Iterator[None]:
        with self.mesh if self.mesh is not None else contextlib.nullcontext():
            yield

    @property
    def restored(self) -> tuple[int, Mapping[str, Any]]:
        """RL step and metadata of the checkpoint the trainer went on from; (0, {}) for a fresh one."""
        return int(self._train_steps), dict(self._restored_custom_metadata)

    @property
    def compilations(self) -> int:
        """Executables of the update so far."""
        if self._jitted_train_step_fn is None:
            return 0
        return int(self._jitted_train_step_fn.func.jitted_fn._cache_size())

    def update(
        self,
        batches: Sequence[Batch],
        counts: Sequence[int],
        old: Sequence[Any] | None = None,
        reference: Sequence[Any] | None = None,
    ) -> list[Numbers]:
        """One optimiser step a batch, in order.

        Args:
            counts: by batch, its place in the optimiser's schedules.
            old, reference: by batch, log-probabilities in the shape of its rows; None where the loss reads none.

        Returns:
            for every batch the loss and "grad_norm", and per token that counts "kl", "clip_fraction", "entropy",
            "ratio_gap"; "tokens" that count.
        """
        self._sums = []
        with self._mesh():
            self.train(
                [
                    self._inputs(
                        batch, counts[i], old[i] if old else None, reference[i] if reference else None
                    )
                    for i, batch in enumerate(batches)
                ]
            )
        return [_per_token(jax.device_get(sums)) for sums in self._sums]

    def logprobs(self, rows: Rows, state: Any = None) -> np.ndarray[Any, Any]:
        """Log-probability of every target, in the shape of the rows: of the model, or of another state of it."""
        state = nnx.split(self.model)[1] if state is None else state
        zeros = np.zeros(rows.tokens.shape, np.float32)
        micros, used = self._micros(rows, *[zeros] * 5)
        with self._mesh():
            parts = [
                np.asarray(self._logprobs(state, _placed(micro, self.mesh)))
                for micro in (jax.tree.map(lambda x, i=i: x[i], micros) for i in range(used))
            ]
        return np.concatenate(parts)[: len(rows)]

    def snapshot(self) -> Any:
        """A copy of the model's state, for a reference."""
        return jax.tree.map(jnp.copy, nnx.split(self.model)[1])

    def save(self, step: int, metadata: Mapping[str, Any]) -> None:
        """Write the checkpoint of an RL step, and wait until it is there."""
        self.checkpoint_manager.save(
            step, self.model, self.optimizer, force=True, custom_metadata=dict(metadata)
        )
        self.checkpoint_manager._checkpoint_manager.wait_until_finished()

    def close(self) -> None:
        self.checkpoint_manager.close()

    # ------------------------------------------------------------------- what the compiled step takes and does

    def _inputs(self, batch: Batch, count: int, old: Any, reference: Any) -> dict[str, Any]:
        rows = batch.rows
        zeros = np.zeros(rows.tokens.shape, np.float32)
        micros, used = self._micros(
            rows,
            rows.spread_samples(batch.weights),
            rows.spread_samples(batch.copies or [1] * len(batch.lengths)),
            rows.spread_samples(batch.advantages),
            zeros if old is None else old,
            zeros if reference is None else reference,
        )
        return {"micros": micros, "used": np.int32(used), "count": np.int32(count)}

    def _micros(self, rows: Rows, *values: np.ndarray[Any, Any]) -> tuple[Micro, int]:
        """Rows as (micros, rows, length), filled up with padding; and how many micro-batches hold any."""
        columns = (rows.tokens, rows.targets, rows.positions, rows.group, rows.branch, *values)
        stack, used = stacked(columns, self.shape.rows, self.shape.micros)
        return Micro(*stack), used

    def create_train_step_fn(self) -> Any:
        self._has_aux = True
        return partial(train_step, loss_config=self.loss_config, wrt=self._trained)

    @property
    def _trained(self) -> Any:
        return nnx.LoRAParam if self._lora_enabled else nnx.Param

    def _post_process_train_step(self, aux: Any) -> None:
        self._sums.append(aux)

    def _write_train_metrics(self) -> None:
        self._buffered_train_metrics = None


def _placed(micro: Micro, mesh: Any) -> Micro:
    if mesh is None:
        return micro
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    return Micro(*(jax.device_put(x, sharding) for x in micro))


def _per_token(sums: Mapping[str, Any]) -> Numbers:
    tokens = max(float(sums["tokens"]), 1.0)
    return {
        "loss": float(sums["loss"]),
        "grad_norm": float(sums["grad_norm"]),
        "kl": float(sums["kl"]) / tokens,
        "clip_fraction": float(sums["clipped"]) / tokens,
        "entropy": float(sums["entropy"]) / tokens,
        "ratio_gap": float(sums["ratio_gap"]) / tokens,
        "tokens": float(sums["tokens"]),
    }
