"""What is told of a training: its progress, its end, and which validation was the best. No JAX here."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distill import training_log as log
from distill.data import Dataset
from distill.train_settings import TrainConfig


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step, steps: optimiser steps done, of all.
        loss: of the last step, nats per token trained on.
        learning_rate: of the last step.
        tokens_per_second: tokens that are no padding, over the latest steps; 0 until two steps are done.
        eta_s: seconds to go, None until two steps are done.
        eval_loss: latest validation loss, None where there is none.
        accuracy: latest share of questions answered right, None where none are asked.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    eta_s: float | None
    eval_loss: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        model: the HF folder; of adapters, the weights with them added.
        metrics: metrics.parquet.
        steps: optimiser steps.
        train_loss, eval_loss, accuracy: the last ones; None where it was not measured.
        best, best_step: the model of the best validation, and its step; None where none was made or it was not kept.
        resumed_from: step of the checkpoint the run went on from, 0 for a fresh one.
        already_done: nothing had to be done.
        dataset: the line that counts the data's samples.
        seconds: of work, over all processes that had a part in it; None where it is not known.
    """

    model: Path
    metrics: Path
    steps: int
    train_loss: float | None
    eval_loss: float | None
    accuracy: float | None
    best: Path | None
    best_step: int | None
    resumed_from: int
    already_done: bool
    dataset: str
    seconds: float | None


def criterion(config: TrainConfig) -> tuple[str, Callable[[float, float], bool]]:
    """By which number a validation is better than another, and when."""
    if config.accuracy is not None:
        return "eval/accuracy", operator.gt
    return "eval/loss", operator.lt


def best_step(journal: log.Journal, config: TrainConfig) -> int | None:
    """The step behind which the best validation so far was made; None where none was."""
    name, better = criterion(config)
    best: int | None = None
    column = journal.column(name)
    for step in sorted(step for step in column if step > 0):
        if best is None or better(column[step], column[best]):
            best = step
    return best


def _best(journal: log.Journal, config: TrainConfig, out: Path) -> tuple[Path | None, int | None]:
    """The model of a finished run's best validation behind a step, and that step."""
    best = best_step(journal, config)
    if best is None:
        return None, None
    if best == max(journal.column(criterion(config)[0])):
        return out / log.MODEL, best
    return (out / log.BEST if log.holds_best_of(out, best) else None), best


def described(asked: Mapping[str, float]) -> str:
    if "accuracy" not in asked:
        return "no answer could be graded"
    interval = f"[{asked['accuracy_low']:.1%}, {asked['accuracy_high']:.1%}]"
    return f"accuracy {asked['accuracy']:.1%} {interval}, {asked['format']:.0%} well-formed"


def result_of(
    journal: log.Journal,
    config: TrainConfig,
    out: Path,
    dataset: Dataset,
    *,
    resumed_from: int,
    already_done: bool,
    seconds: float | None,
) -> TrainResult:
    best, best_step = _best(journal, config, out)
    return TrainResult(
        model=out / log.MODEL,
        metrics=journal.fold(),  # a lost file comes back
        steps=config.steps_for(len(dataset.train)),
        train_loss=journal.last("train/loss"),
        eval_loss=journal.last("eval/loss"),
        accuracy=journal.last("eval/accuracy"),
        best=best,
        best_step=best_step,
        resumed_from=resumed_from,
        already_done=already_done,
        dataset=dataset.summary(),
        seconds=seconds,
    )
