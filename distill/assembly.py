"""What is static about a fine-tuning step: for the trainer, and for who compiles it ahead of time."""

from __future__ import annotations

import optax

from distill.batches import RowShape
from distill.gemma.forward import logit_chunk
from distill.loss import PassConfig
from distill.train_settings import Layout, TrainConfig
from distill.trainer import adamw, cosine_schedule


def row_shape(layout: Layout, samples: int, length: int) -> RowShape:
    """The compiled shape of a step of so many samples, in rows of so many cells."""
    rows = -(-layout.rows // layout.fsdp) * layout.fsdp
    return RowShape(samples, rows=rows, length=length, packed=layout.packing)


def pass_config(layout: Layout, shape: RowShape, vocabulary: int) -> PassConfig:
    """What a pass holds at a time."""
    return PassConfig(
        compute=layout.compute,
        remat=layout.remat,
        logit_chunk=logit_chunk(shape.rows, shape.length, vocabulary, layout.fsdp, layout.tp),
        attention_chunk=layout.attention_chunk,
    )


def schedule_of(config: TrainConfig, steps: int) -> optax.Schedule:
    """The learning rate of a run of so many steps."""
    return cosine_schedule(config.learning_rate, steps=steps, warmup=config.warmup_steps, final_fraction=0.1)


def optimiser_of(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser of a run of so many steps."""
    rate = schedule_of(config, steps)
    return adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, clip=config.clip)


def weights_dtype(config: TrainConfig) -> str:
    """Of a model's weights: beside adapters nothing is added to them, so they lie as they are computed with."""
    return (config.layout.compute if config.lora is not None else None) or config.dtype
