"""From a stage's settings to what is compiled for it: shape, loss, optimiser. Training and forecast share it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from distill.gemma.config import GemmaConfig
from distill.gemma.forward import logit_chunk
from distill.trainer import adamw, cosine_schedule
from factory.teacher.loss import LossConfig
from factory.teacher.settings import Rl
from factory.teacher.trainer import Shape

if TYPE_CHECKING:
    import optax


def update_shape(spec: Rl, config: GemmaConfig) -> Shape:
    """Rows and micro-batches of one optimiser step."""
    return Shape.for_groups(
        math.ceil(spec.prompts / spec.minibatches),
        spec.learnt_samples,
        longest=spec.longest,
        length=spec.row_length or spec.longest,
        rows=spec.rows,
        window=config.sliding_window,
        data_shards=spec.mesh.fsdp,
    )


def loss_of(spec: Rl, config: GemmaConfig) -> LossConfig:
    """What is static about the loss."""
    shape = update_shape(spec, config)
    return LossConfig(
        temperature=spec.temperature,
        clip_low=spec.clip_low,
        clip_high=spec.clip_high,
        beta=spec.kl,
        on_policy=spec.minibatches * spec.epochs == 1,
        remat=spec.remat,
        logit_chunk=logit_chunk(shape.rows, shape.length, config.vocab_size, spec.mesh.fsdp, spec.mesh.tp),
        attention_chunk=spec.attention_chunk,
        compute=spec.compute,
    )


def schedule_of(spec: Rl) -> optax.Schedule:
    """Learning rate by a place in the run: step t of RL has the places (t - 1) · u to t · u - 1, where u is the
    product of minibatches and epochs. A step that makes fewer updates leaves some of its places out."""
    o = spec.optimiser
    return cosine_schedule(
        o.learning_rate,
        steps=spec.steps * spec.minibatches * spec.epochs,
        warmup=o.warmup_steps,
        final_fraction=0.1 if o.schedule == "cosine" else 1.0,
    )


def optimiser_of(spec: Rl) -> Any:
    """The optax chain of one optimiser step."""
    o = spec.optimiser
    return adamw(schedule_of(spec), b1=o.b1, b2=o.b2, weight_decay=o.weight_decay, clip=o.clip)
