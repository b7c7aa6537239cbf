"""What a stage of reinforcement learning will take: samples, tokens, memory of each device. Needs no JAX."""

from __future__ import annotations

from dataclasses import dataclass

from distill.gemma.folder import ModelFolder, resolve_model
from factory.teacher.settings import Rl

_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Forecast:
    """Work in words, and the larger of what sampling and learning take on one device, in bytes."""

    work: str
    bytes_per_device: int


def forecast(spec: Rl, model: str) -> Forecast:
    """Upper bounds: every sample at its longest, every round of dynamic sampling drawn."""
    folder = ModelFolder.open(resolve_model(model))
    config, unit = folder.config, _BYTES[spec.dtype]
    devices = spec.mesh.fsdp * spec.mesh.tp
    drawn = spec.steps * spec.prompts * spec.samples
    work = f"{spec.steps:,} steps, {drawn:,} samples, {drawn * spec.last_limit:,} tokens at most"
    # Weights, gradients, the sum of gradients, two moments; the reference is a copy more.
    weights = folder.parameter_count * unit * (6 if spec.kl else 5)
    cells = spec.rows * (spec.row_length or spec.longest)
    layer = 12 * config.hidden_size + 3 * config.intermediate_size
    scores = config.num_attention_heads * (spec.row_length or spec.longest)
    activations = cells * (4 * 3 * config.vocab_size + unit * config.num_hidden_layers * (layer + 2 * scores))
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    sampling = unit * spec.rollout_batch * (cache * spec.longest) + 4 * spec.rollout_batch * config.vocab_size
    return Forecast(work, (weights + max(activations, sampling)) // devices)
