"""Bytes of a device and hours of what is no reinforcement: sampling, fine-tuning, evaluation, scorers. Needs no JAX.

These bytes are formulas, but for fine-tuning, which is compiled where JAX is installed; those of reinforcement are in
`factory.teacher.forecast`, with the formulas of the hours.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from distill.gemma.config import GemmaConfig
from distill.gemma.sizes import ModelShape, model_shape
from factory import compiled as ahead
from factory.parts import JudgeEngine
from factory.recipe import Generate, Recipe, RlStage
from factory.students import OnPolicyTeacher, Student, TopKTeacher, layout_of
from factory.teacher.forecast import BYTES, PASSES, sample_hours, train_hours
from factory.teacher.preference import SCORED_TOGETHER
from factory.teacher.scorer_settings import RewardModelSpec
from factory.teacher.settings import Mesh


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


def training_bytes(student: Student, base: str, mesh: Mesh | None, teacher: str | None = None) -> int:
    """Weights before and after a step, optimiser, gradients, and what backpropagation keeps, of one device.

    The step is compiled ahead of time where JAX is installed (`distill.compiling`), with every sample at its longest;
    else it is a formula. A teacher that corrects what the student writes lies beside it.

    Raises:
        UserError: the step cannot be compiled.
    """
    shape = model_shape(base)
    beside = None if teacher is None else model_shape(teacher)
    if not ahead.can_compile():
        return _estimated(student, shape, mesh or Mesh(), beside)
    where = mesh or Mesh()
    own = student.distillation
    asked = {
        "student": shape.config.to_hf(),
        "teacher": None if beside is None else beside.config.to_hf(),
        "top_k": own.top_k if isinstance(own, TopKTeacher) else None,
        "lora": None if student.lora is None else asdict(student.lora.settings()),
        "batch_size": student.batch_size,
        "length": student.row_length or student.max_length,
        "layout": asdict(layout_of(student, where)),
    }
    found = ahead.compiled("distill.compiling", json.dumps(asked), where.devices)
    update = found["update"]
    return update["arguments"] + update["outputs"] - update["shared"] + update["temporary"]


def _estimated(student: Student, shape: ModelShape, mesh: Mesh, teacher: ModelShape | None) -> int:
    """A formula for where nothing can be compiled.

    Weights, their gradients of a micro-batch and of all, two moments; with adapters only theirs, and the weights as
    they lie. About 12 activations of the width and 3 of the MLP's in a layer, the scores, the logits and their
    gradient.
    """
    config = shape.config
    unit = BYTES[student.compute or "float32"]
    held = 0 if teacher is None else unit * teacher.parameters
    if student.lora is None:
        held += 4 * 5 * shape.parameters
    else:
        lora = student.lora.settings()
        held += lora.frozen_bytes(config, shape.parameters, unit) + 4 * 5 * lora.parameters(config)
    length = student.row_length or student.max_length
    layer = 12 * config.hidden_size + 3 * config.intermediate_size + config.num_attention_heads * length
    activations = 4 * student.rows * length * (2 * config.vocab_size + config.num_hidden_layers * layer)
    return held // mesh.devices + activations // mesh.fsdp


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
    """Tokens of a fine-tuning, at most: every sample at `max_length`, a mix as large as its thresholds allow.

    On-policy every question of it is answered `samples` times.
    """
    if student.max_steps is not None:
        return float(student.max_steps * student.batch_size * student.max_length)
    # How much there is of other data is not known before it is read.
    size = None if student.mix is None else mix_size(recipe, student.mix, training)
    own = student.distillation
    answers = own.samples if isinstance(own, OnPolicyTeacher) else 1
    return None if size is None else (student.epochs or 0.0) * size * answers * student.max_length


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
    return train_hours(
        tokens,
        model_shape(base),
        recipe.mesh,
        student.row_length or student.max_length,
        chunk=student.attention_chunk,
        passes=PASSES[student.remat],
    )
