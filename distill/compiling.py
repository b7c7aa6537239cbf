"""Bytes of each device in a fine-tuning step, from compiling it ahead of time on devices that are not there.

Run as a process of its own (`factory.compiled` does), with as many CPU devices as the mesh has: what decides about
bytes as JSON on the standard input, bytes as JSON on the last line of the output. No array is made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx

from distill.assembly import optimiser_of, pass_config, row_shape, weights_dtype
from distill.gemma.ahead_of_time import Bytes, analysis, array, constrain_activations, device_bytes, placed
from distill.gemma.checkpoint import abstract_model
from distill.gemma.config import GemmaConfig
from distill.gemma.mesh import make_mesh
from distill.in_place import TRAINING
from distill.lora import attached
from distill.lora_settings import LoraConfig
from distill.loss import Likelihood, Objective, ReverseDivergence, TopKDivergence, train_step
from distill.train_settings import Layout, TrainConfig


def measure(
    student: GemmaConfig,
    config: TrainConfig,
    *,
    length: int,
    top_k: int | None = None,
    teacher: GemmaConfig | None = None,
) -> dict[str, Bytes]:
    """Bytes of one device.

    Args:
        config: of a training; data and steps decide about no byte.
        length: cells of a row.
        top_k: a teacher's tokens that are stored for every target, of distillation from those.
        teacher: of on-policy distillation; it lies beside the student.

    Returns:
        "state": what lies there all the time: "weights" (a teacher's too) and "optimiser", exact, from shapes and
        shardings; "update": "arguments", "outputs", "shared" (outputs in the place of arguments) and "temporary".
    """
    layout = config.layout
    mesh = make_mesh(layout.fsdp, layout.tp)
    constrain_activations(mesh)

    def whole() -> Any:
        model = abstract_model(student, weights_dtype(config))
        return model if config.lora is None else attached(model, config.lora, mesh)

    trained = nnx.Param if config.lora is None else nnx.LoRAParam
    model = placed(whole(), mesh)
    optimizer = placed(
        nnx.eval_shape(lambda: nnx.Optimizer(whole(), optimiser_of(config, 2), wrt=trained)), mesh
    )
    objective, shared = _objective(top_k, teacher, layout.compute or "float32", mesh)
    shape = row_shape(layout, config.batch_size, length)
    cells = partial(array, mesh, (shape.micros, shape.rows, shape.length))
    columns = [cells(kind, None, "fsdp") for kind in [jnp.int32] * 5 + [jnp.float32]]
    if top_k is not None:
        stored = partial(array, mesh, (shape.micros, shape.rows, shape.length, top_k))
        columns += [stored(kind, None, "fsdp") for kind in (jnp.int32, jnp.float32)]
    inputs = {"micros": objective.micro(columns), "used": array(mesh, (), jnp.int32)}
    if shared is not None:
        inputs["shared"] = shared
    step = nnx.jit(
        partial(
            train_step,
            config=pass_config(layout, shape, student.vocab_size),
            objective=objective,
            wrt=trained,
        ),
        donate_argnames=TRAINING,
    )
    lowered = (
        step.lower(model, optimizer, inputs)
        if mesh is None
        else _within(mesh, step, model, optimizer, inputs)
    )
    weights = device_bytes(nnx.state(model)) + device_bytes(shared)
    return {
        "state": {"weights": weights, "optimiser": device_bytes(nnx.state(optimizer))},
        "update": analysis(lowered.compile()),
    }


def _within(mesh: Any, step: Any, *arguments: Any) -> Any:
    with mesh:
        return step.lower(*arguments)


def _objective(
    top_k: int | None, teacher: GemmaConfig | None, dtype: str, mesh: Any
) -> tuple[Objective, list[Any] | None]:
    """What is minimised, and the arrays that its steps share."""
    if teacher is not None:
        return ReverseDivergence.from_teacher(placed(abstract_model(teacher, dtype), mesh))
    return (Likelihood() if top_k is None else TopKDivergence(0.5)), None


def main() -> None:
    """What is asked from the standard input."""
    asked: Mapping[str, Any] = json.load(sys.stdin)
    lora = asked["lora"]
    config = TrainConfig(
        max_steps=2,
        batch_size=asked["batch_size"],
        max_length=asked["length"],
        lora=None if lora is None else LoraConfig(**lora | {"targets": tuple(lora["targets"])}),
        layout=Layout(**asked["layout"]),
    )
    teacher = None if asked["teacher"] is None else GemmaConfig.from_hf(asked["teacher"])
    student = GemmaConfig.from_hf(asked["student"])
    found = measure(student, config, length=asked["length"], top_k=asked["top_k"], teacher=teacher)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
