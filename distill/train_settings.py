"""Settings of a fine-tuning. No JAX here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from distill.chat import parse_template
from distill.distillation import Distillation, OnPolicy
from distill.lora_settings import LoraConfig
from distill.sampled import SampledAccuracy
from filters.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a training lies, and what it holds at a time. It decides about rounding alone.

    Attributes:
        rows: rows of a micro-batch, rounded up to a multiple of `fsdp`; a step has as many micro-batches as its
            samples fill.
        row_length: tokens of a row; None: the longest sample's, rounded up to 16.
        packing: several samples in a row, each as if it stood alone; False: one in each, and padding.
        fsdp, tp: devices among which parameters and rows, and matrix products, are divided.
        compute: dtype of the forward and backward pass; None: that of the weights.
        remat, attention_chunk: see `distill.gemma.forward.hidden_states`.
    """

    rows: int = 8
    row_length: int | None = None
    packing: bool = True
    fsdp: int = 1
    tp: int = 1
    compute: str | None = None
    remat: Literal["none", "layer"] = "none"
    attention_chunk: int | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "row_length", "fsdp", "tp", "attention_chunk"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides about a training run beside its data and its student.

    Attributes:
        job: name of the job in the metrics.
        template: how conversations are laid out, see `distill.chat.parse_template`.
        max_steps, epochs: one of the two; steps are optimiser steps, an epoch may be a fraction. On-policy an epoch
            asks every question, `samples` times each.
        batch_size: samples of an optimiser step.
        max_length: in tokens; longer samples are left out and counted.
        learning_rate: the peak, reached after `warmup_steps`; a cosine falls to a tenth of it.
        weight_decay, b1, b2: AdamW's. Norm scales do not decay.
        clip: bound of the gradient's global norm.
        seed: of the order of the samples.
        eval_every: validation loss every so many steps, and before the first and after the last; 0: only
            those two.
        checkpoint_every, keep: a checkpoint every so many steps, the latest `keep` stay.
        dtype: "float32" or "bfloat16", of weights and optimiser.
        lora: adapters to train in place of the weights, see `distill.lora`; None: every weight. Weights beside
            adapters lie in the pass's dtype, adapters and their optimiser in float32.
        distillation: learn from a teacher's distribution, see `distill.distillation`; None: from the samples alone.
        short_first: stages by length in which the first epoch goes, the shortest samples first; None: no such order.
        accuracy: questions answered and graded at every validation; None: none. It decides about no loss.
        keep_best: keep the model of the best validation between the first and the last: by accuracy where that is
            measured, otherwise by loss.
        report: where numbers go beside `metrics.parquet`, see `distill.reporting`.
        layout: devices and memory.
    """

    job: str = "sft"
    template: str = "gemma:r1"
    max_steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    max_length: int = 1024
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 0
    checkpoint_every: int = 100
    keep: int = 2
    dtype: str = "float32"
    lora: LoraConfig | None = None
    distillation: Distillation | None = None
    short_first: int | None = None
    accuracy: SampledAccuracy | None = None
    keep_best: bool = True
    report: tuple[str, ...] = ("tensorboard",)
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        parse_template(self.template)
        if (self.max_steps is None) == (self.epochs is None):
            raise UserError("give max_steps or epochs, one of the two")
        positive = ("max_steps", "epochs", "batch_size", "learning_rate", "clip", "short_first")
        for name in (*positive, "checkpoint_every", "keep"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"{name} must be above 0, got {value}")
        for name in ("warmup_steps", "weight_decay", "seed", "eval_every"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.max_length < 8:
            raise UserError(f"max_length must be at least 8 tokens, got {self.max_length}")
        if self.layout.row_length is not None and self.layout.row_length < self.max_length:
            raise UserError(
                f"row_length {self.layout.row_length} must hold a sample of max_length {self.max_length}"
            )
        own = self.distillation
        if isinstance(own, OnPolicy) and self.batch_size % own.samples:
            raise UserError(
                f"batch_size {self.batch_size} is no multiple of the {own.samples} answers a question"
            )
        if isinstance(own, OnPolicy) and self.short_first is not None:
            raise UserError(
                "short_first orders samples by length, and on-policy distillation learns from none"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")

    def steps_for(self, samples: int) -> int:
        """Optimiser steps of a run over so many training samples.

        Raises:
            UserError: the warm-up would not end before the run does.
        """
        if self.max_steps is not None:
            steps = self.max_steps
        else:
            own = self.distillation
            in_step = self.batch_size // (own.samples if isinstance(own, OnPolicy) else 1)
            steps = math.ceil((self.epochs or 0) * samples / in_step)
        if self.warmup_steps >= steps and self.warmup_steps:
            raise UserError(
                f"warmup_steps {self.warmup_steps} must be less than the {steps} steps of the run"
            )
        return steps
