"""Bytes of a device and hours of what is no reinforcement: sampling, fine-tuning, evaluation, scorers. Needs no JAX.

These bytes are formulas, but for fine-tuning on a mesh; those of reinforcement are in `factory.teacher.forecast`,
with the formulas of the hours.
"""

from __future__ import annotations

import math

from distill.gemma.config import GemmaConfig
from distill.gemma.sizes import ModelShape, model_shape
from factory.parts import JudgeEngine
from factory.recipe import Generate, Recipe, RlStage
from factory.students import Student
from factory.teacher.forecast import BYTES, PASSES, memory_of, sample_hours, train_hours
from factory.teacher.preference import SCORED_TOGETHER
from factory.teacher.scorer_settings import RewardModelSpec
from factory.teacher.settings import Mesh, Rl


def sampling_bytes(
    model: str, batch: int, length: int, *, mesh: Mesh | None = None, dtype: str = "float32"
) -> int:
    """Weights, cache and a token's logits. On a mesh the weights lie there twice: divided, and as they are read."""
    shape, where, unit = model_shape(model), mesh or Mesh(), BYTES[dtype]
    config = shape.config
    rows = math.ceil(batch / where.fsdp)
    heads = config.num_key_value_heads
    heads = heads // where.tp if heads % where.tp == 0 else heads
    cache = 2 * config.num_hidden_layers * heads * config.head_dim * length * rows
    weights = shape.parameters / where.tp + (shape.parameters / where.devices if where.devices > 1 else 0)
    return int(unit * (weights + cache) + 4 * rows * config.vocab_size / where.tp)


def generation_hours(spec: Generate, recipe: Recipe, samples: int | None) -> float | None:
    """Hours of a sampling on the recipe's mesh."""
    if samples is None or recipe.mesh is None:
        return None
    return sample_hours(
        samples,
        model_shape(recipe.origin(spec.model)),
        recipe.mesh,
        rows=spec.batch_size,
        prompt=spec.prompt_length,
        new=spec.sampling.max_new_tokens,
        dtype=spec.dtype or "float32",
    )


def training_bytes(student: Student, base: str, mesh: Mesh | None) -> int:
    """Weights before and after a step, gradients, two moments, and what backpropagation keeps.

    On a mesh it is compiled, as an update of reinforcement with the same rows: both add up gradients over
    micro-batches, the passes are the same, and the terms of that loss are small beside them. With adapters it is a
    formula there too: what is trained and what lies frozen are divided, activations are those of a chip's rows.
    """
    shape = model_shape(base)
    if student.lora is not None:
        lora, where = student.lora.settings(), mesh or Mesh()
        frozen = lora.frozen_bytes(shape.config, shape.parameters, BYTES[student.compute or "float32"])
        held = frozen + 4 * 5 * lora.parameters(shape.config)
        return held // where.devices + _activations(student, shape) // where.fsdp
    if mesh is None:  # beside the gradients of a micro-batch there is their sum
        return 4 * 5 * shape.parameters + _activations(student, shape)
    found = memory_of(_as_update(student, mesh), shape)
    return found.weights + found.optimiser + found.update


def _as_update(student: Student, mesh: Mesh) -> Rl:
    """The stage of reinforcement whose update has the shape of a fine-tuning step."""
    prompt = 8
    return Rl(
        steps=1,
        prompts=1,
        samples=max(2, student.batch_size),
        prompt_length=prompt,
        max_new_tokens=max(1, student.max_length - prompt),
        row_length=max(16, student.row_length or student.max_length),
        rows=student.rows,
        rollout_batch=mesh.fsdp,
        kl=0.0,
        compute=student.compute,
        remat=student.remat,
        attention_chunk=student.attention_chunk,
        mesh=mesh,
    )


def _activations(student: Student, shape: ModelShape) -> int:
    """About 12 activations of the width and 3 of the MLP's in a layer, the scores, the logits and their gradient."""
    config = shape.config
    length = student.row_length or student.max_length
    tokens = student.rows * length
    layer = 12 * config.hidden_size + 3 * config.intermediate_size
    layer += config.num_attention_heads * length
    return 4 * tokens * (2 * config.vocab_size + config.num_hidden_layers * layer)


def reward_model_bytes(spec: RewardModelSpec, base: str) -> int:
    """Weights, gradients, two moments and activations in float32, of both texts of a pair; no logits."""
    shape = model_shape(base)
    cells = spec.batch_size * (2 if spec.purpose == "helpfulness" else 1) * spec.max_length
    layers = shape.config.num_hidden_layers
    return 4 * (4 * shape.parameters + cells * layers * _layer(shape.config, spec.max_length))


def _layer(config: GemmaConfig, length: int) -> int:
    """Numbers of one layer's activations, of each cell of a row of so many."""
    return 12 * config.hidden_size + 3 * config.intermediate_size + 2 * config.num_attention_heads * length


def scorer_bytes(stage: RlStage, recipe: Recipe) -> tuple[int, int]:
    """Weights of all models that a stage's rewards ask, and what the largest takes beside them while it is asked.

    They are loaded in float32, whole, on the first device, and stay. Scoring keeps no activations for a backward
    pass: one layer's at a time.
    """
    weights, scoring = 0, 0
    for name in stage.rewards.scorers():
        spec = recipe.scorers[name]
        if isinstance(spec, RewardModelSpec):
            shape = model_shape(recipe.origin(spec.base))
            own = 4 * shape.parameters
            asked = 4 * SCORED_TOGETHER * spec.max_length * _layer(shape.config, spec.max_length)
        elif isinstance(spec, JudgeEngine):
            own = 4 * model_shape(spec.model).parameters
            length = spec.prompt_length + spec.sampling.max_new_tokens
            asked = sampling_bytes(spec.model, spec.batch_size, length) - own
        else:  # a pattern
            continue
        weights, scoring = weights + own, max(scoring, asked)
    return weights, scoring


def training_tokens(student: Student, recipe: Recipe, training: int | None) -> float | None:
    """Tokens of a fine-tuning, at most: every sample at `max_length`, a mix as large as its thresholds allow."""
    if student.max_steps is not None:
        return float(student.max_steps * student.batch_size * student.max_length)
    # How much there is of other data is not known before it is read.
    size = None if student.mix is None else mix_size(recipe, student.mix, training)
    return None if size is None else (student.epochs or 0.0) * size * student.max_length


def mix_size(recipe: Recipe, name: str, training: int | None) -> int | None:
    """Samples of a mix, at most: what is drawn, cut by the limits that the mix sets; its general part included."""
    mix = recipe.mixes[name]
    spec = recipe.generate if mix.of is None else recipe.samplings[mix.of]
    if training is None or spec is None:
        return None
    asked = min(training, spec.max_prompts or training)
    size = asked * min(spec.n, mix.select.max_per_prompt or spec.n)
    size = min(size, mix.select.max_samples or size)
    if mix.general is None:
        return size
    general = math.ceil(size * mix.general.share / (1 - mix.general.share))
    return size + min(general, mix.general.max_samples or general)


def training_hours(student: Student, base: str, recipe: Recipe, training: int | None) -> float | None:
    """Hours of a fine-tuning on the recipe's mesh."""
    tokens = training_tokens(student, recipe, training)
    if tokens is None or recipe.mesh is None:
        return None
    passes = PASSES[student.remat]
    return train_hours(tokens, model_shape(base), recipe.mesh, student.max_length, passes=passes)
