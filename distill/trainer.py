"""Tunix's PeftTrainer, made to lose nothing: it tells an observer of every step before a checkpoint holds it.

What differs from Tunix's own: a step's numbers are written before its checkpoint (Tunix writes them a step
later, so a kill in between loses them); no metrics logger, because closing Tunix's clears every
`jax.monitoring` listener of the process; a step is one mean over its tokens, however many micro-batches of
packed rows they fill, and so is the validation loss; no evaluation is repeated when a run goes on; and weights
are updated where they lie (`distill.in_place`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from tunix.sft.peft_trainer import TrainingConfig

from distill.batches import Batch, RowShape, make_batch
from distill.data import Example
from distill.gemma.mesh import processes, put
from distill.in_place import InPlaceTrainer
from distill.loss import Likelihood, Objective, PassConfig, evaluation_step, train_step
from distill.training_log import checkpoint_steps
from distill.updates import stacked
from filters.errors import UserError

_TINY = 1e-8


class Observer(Protocol):
    """Who is told what happens. Steps are optimiser steps, counted from 1."""

    def on_step(self, step: int, loss: float, grad_norm: float, sums: Mapping[str, float]) -> None:
        """`sums` are the objective's."""
        ...

    def evaluation_due(self, step: int) -> bool: ...

    def on_evaluation(self, step: int, loss: float | None) -> None:
        """`loss` is None where there is nothing to validate on."""
        ...

    def before_checkpoint(self, step: int) -> None: ...


@contextlib.contextmanager
def reading_checkpoints(folder: Path, step: int | None = None) -> Iterator[None]:
    """Name a checkpoint that cannot be read, and what to do.

    Args:
        step: the one that is read; None: the latest.

    Raises:
        UserError: for whatever the libraries raise while they read it.
    """
    steps = checkpoint_steps(folder)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not steps:
            raise
        read = steps[-1] if step is None else step
        earlier = [other for other in steps if other < read]
        then = f"step {earlier[-1]}" if earlier else "the beginning"
        raise UserError(
            f"the checkpoint {folder / str(read)} cannot be read ({_first_line(error)}); where it is damaged, remove "
            f"that folder, and the same command goes on from {then}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


class SilentLogger:
    """Stands in for Tunix's metrics logger."""

    def log(self, *_: Any) -> None: ...

    def close(self) -> None: ...


class SftTrainer(InPlaceTrainer):
    """See the module.

    Args:
        model: a Tunix Gemma 3.
        optimizer: the optax chain of one optimiser step.
        shape: the compiled shape of a step.
        checkpoints: folder of this job alone. A checkpoint that is there is restored at once.
        checkpoint_every: in optimiser steps; the last step is saved in any case.
        keep: checkpoints that stay.
        mesh: axes "fsdp" and "tp", on which the model lies; None for one device.
        config: what a pass holds at a time.
        objective: what is minimised; None for the likelihood. Validation is of the same.
        shared: what the objective wants in every step, a tree of arrays on the devices.
    """

    def __init__(
        self,
        model: Any,
        optimizer: optax.GradientTransformation,
        *,
        shape: RowShape,
        checkpoints: Path,
        checkpoint_every: int,
        evaluate_every: int,
        keep: int,
        observer: Observer,
        mesh: Any = None,
        config: PassConfig | None = None,
        objective: Objective | None = None,
        shared: Any = None,
    ) -> None:
        managers = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=managers.FixedIntervalPolicy(checkpoint_every),
            preservation_policy=managers.LatestN(keep),
        )
        settings = TrainingConfig(
            eval_every_n_steps=max(1, evaluate_every),
            checkpoint_root_directory=str(checkpoints.resolve()),
            checkpointing_options=options,
            data_sharding_axis=(None, "fsdp"),
        )
        self._mesh: Any = contextlib.nullcontext() if mesh is None else mesh
        with self._mesh, reading_checkpoints(checkpoints):
            super().__init__(model, optimizer, settings, metrics_logger=SilentLogger())
        self._shape, self._pass = shape, config or PassConfig()
        self._objective, self._shared = objective or Likelihood(), shared
        self._observer = observer
        self._checkpoint_every = checkpoint_every
        self._buffered_train_metrics: Any = None
        self._pending: list[Any] = []
        self._sums: Mapping[str, Any] = {}
        self._evaluation: Iterable[Batch] | None = None

    def run(self, batches: Iterable[Batch | None], evaluation: Iterable[Batch] | None) -> int:
        """Train until the batches end; returns the number of optimiser steps the model has behind it."""
        self._evaluation = evaluation
        try:
            with self._mesh:
                self.train(batches, evaluation)
        except BaseException:
            self.checkpoint_manager.close()  # an asynchronous save that has begun is finished
            raise
        return int(self.train_steps)

    def close(self) -> None:
        """Write what is pending, evaluate the last step if that is due, save the last checkpoint."""
        self._write_train_metrics()
        if self._evaluation is not None:
            _, evaluate = self.jit_train_and_eval_step()
            self._run_eval(self._evaluation, evaluate)
        super().close()

    # ------------------------------------------------------------------- what the compiled steps take and do

    def _prepare_inputs(self, input_data: Batch) -> dict[str, Any]:
        return self._inputs(input_data, input_data.weights / np.float32(max(input_data.total, _TINY)))

    def _inputs(self, batch: Batch, weights: np.ndarray[Any, Any]) -> dict[str, Any]:
        rows = batch.rows
        columns = (
            rows.tokens,
            rows.targets,
            rows.positions,
            rows.group,
            rows.branch,
            weights,
            *batch.further,
        )
        stack, used = stacked(columns, self._shape.rows, self._shape.micros)
        if processes() == 1:
            return {"micros": self._objective.micro(stack), "used": np.int32(used)}
        # Every process has the whole batch; Tunix would take it for a part of it.
        rows, everywhere = (NamedSharding(self._mesh, PartitionSpec(*axes)) for axes in ((None, "fsdp"), ()))
        micros = self._objective.micro([put(column, rows) for column in stack])
        return {"micros": micros, "used": put(np.asarray(used, np.int32), everywhere)}

    def jit_train_and_eval_step(self, *args: Any, **kwargs: Any) -> Any:
        """Tunix's, with what all steps share put in last: inputs are divided among devices before."""
        steps = super().jit_train_and_eval_step(*args, **kwargs)
        if self._shared is None:
            return steps
        return tuple(_Shared(step.func, step.args, self._shared) for step in steps)

    def create_train_step_fn(self) -> Any:
        self._has_aux = True
        trained = nnx.LoRAParam if self._lora_enabled else nnx.Param
        return partial(train_step, config=self._pass, objective=self._objective, wrt=trained)

    def create_eval_step_fn(self) -> Any:
        return partial(evaluation_step, config=self._pass, objective=self._objective)

    def _post_process_train_step(self, aux: Any) -> None:
        self._sums = aux

    def _write_train_metrics(self) -> None:
        """Report finished steps. The newest waits for the next, so that reading it does not stall the device,
        unless a checkpoint is about to be written or the run ends."""
        newest, self._buffered_train_metrics = self._buffered_train_metrics, None
        due = newest is None or self._train_steps % self._checkpoint_every == 0
        if newest is not None:
            self._pending.append((newest, self._sums))
        while len(self._pending) > (0 if due else 1):
            done, sums = self._pending.pop(0)
            norms, mean = done.additional_metrics["grad_norm"]
            norm = float(mean(np.asarray(norms, np.float32)))
            self._observer.on_step(
                done.step + 1, float(done.loss), norm, {name: float(value) for name, value in sums.items()}
            )
        if due:
            self._observer.before_checkpoint(self._train_steps)

    def _run_eval(self, eval_ds: Iterable[Any], eval_step_fn: Any) -> None:
        if not self._observer.evaluation_due(self._train_steps):
            return
        total, weight = 0.0, 0.0
        for batch in eval_ds:
            nll, _ = eval_step_fn(self._inputs(batch, batch.weights))
            total += float(nll)
            weight += batch.total
        self._observer.on_evaluation(self._train_steps, total / weight if weight else None)

    def losses(self, examples: Sequence[Example]) -> list[float]:
        """The objective of every example alone, a mean over its tokens, with the weights as they are."""
        _, evaluate = self.jit_train_and_eval_step()
        with self._mesh:
            return [
                float(evaluate(self._prepare_inputs(make_batch([example], self._shape)))[0])
                for example in examples
            ]


class _Shared:
    """A compiled step of Tunix's, which looks at `func`, with what all steps share put into its inputs."""

    def __init__(self, func: Any, args: tuple[Any, ...], shared: Any) -> None:
        self.func, self._args, self._shared = func, args, shared

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        return self.func(*self._args, {**inputs, "shared": self._shared})


def adamw(
    schedule: optax.Schedule, *, b1: float, b2: float, weight_decay: float, clip: float
) -> optax.GradientTransformation:
    """AdamW behind a clip of the global norm; norm scales and other vectors do not decay."""
    import jax

    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(
            schedule,
            b1=b1,
            b2=b2,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        ),
    )


def cosine_schedule(peak: float, *, steps: int, warmup: int, final_fraction: float) -> optax.Schedule:
    """Linear from peak / warmup to the peak in `warmup` steps, then half a cosine down to the last step.

    The count of the first step is 0. Step `warmup` has the peak, step `steps - 1` has `final_fraction` of it.
    """

    def schedule(count: Any) -> Any:
        rising = (count + 1) / max(1, warmup)
        progress = jnp.clip((count - warmup) / max(1, steps - 1 - warmup), 0.0, 1.0)
        falling = final_fraction + (1 - final_fraction) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return peak * jnp.where(count < warmup, rising, falling)

    return schedule


def restore_model(model: Any, checkpoints: Path, step: int) -> None:
    """Put a checkpoint's weights into a model of the same shape, without its optimiser; adapters where it has some."""
    from tunix.sft.checkpoint_manager import CheckpointManager

    from distill.lora import has_adapters

    talkative = logging.getLogger("absl")  # it warns of what read-only means
    level = talkative.level
    talkative.setLevel(logging.ERROR)
    try:
        # Read-only: the folder may be in use, and an ordinary manager tidies up what it finds unfinished.
        with reading_checkpoints(checkpoints, step):
            manager = CheckpointManager(
                str(checkpoints.resolve()), ocp.CheckpointManagerOptions(read_only=True)
            )
            manager.maybe_restore(model, step=step, restore_only_lora_params=has_adapters(model))
            manager.close()
    finally:
        talkative.setLevel(level)
