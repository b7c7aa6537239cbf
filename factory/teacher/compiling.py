"""Bytes of each device, from compiling what a stage runs ahead of time on a mesh of devices that are not there.

Run as a process of its own (`factory.compiled` does), with as many CPU devices as the mesh has: settings
as JSON on the standard input, bytes as JSON on the last line of the output. No array is made: the model is
abstract, and XLA's buffer assignment says what an executable holds at a time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from distill.gemma import decoder
from distill.gemma.ahead_of_time import Bytes, analysis, array, constrain_activations, device_bytes, placed
from distill.gemma.checkpoint import abstract_model
from distill.gemma.config import GemmaConfig
from distill.gemma.mesh import make_mesh
from distill.gemma.row_parallel import cache_shardings, compiled_functions, weight_shardings
from distill.gemma.sampler import SamplingConfig, round_up
from distill.in_place import TRAINING
from factory.teacher.assembly import loss_of, optimiser_of, update_shape
from factory.teacher.loss import Micro
from factory.teacher.settings import Rl
from factory.teacher.trainer import train_step


def measure(spec: Rl, config: GemmaConfig) -> dict[str, Bytes]:
    """Bytes of one device.

    Returns:
        "state": what lies there all the time: "weights", "optimiser", "reference" (exact, from shapes and
        shardings); "update" and "decode": "arguments", "outputs", "shared" (outputs in the place of arguments)
        and "temporary" of the two executables.
    """
    mesh = make_mesh(spec.mesh.fsdp, spec.mesh.tp)
    constrain_activations(mesh)
    model = placed(abstract_model(config, spec.dtype), mesh)
    optimizer = placed(
        nnx.eval_shape(
            lambda: nnx.Optimizer(abstract_model(config, spec.dtype), optimiser_of(spec), wrt=nnx.Param)
        ),
        mesh,
    )
    weights, moments = (device_bytes(nnx.state(part)) for part in (model, optimizer))
    return {
        "state": {"weights": weights, "optimiser": moments, "reference": weights if spec.kl else 0},
        "update": _update(spec, config, model, optimizer, mesh),
        "decode": _decode(spec, config, model, mesh),
    }


def _update(spec: Rl, config: GemmaConfig, model: Any, optimizer: Any, mesh: Any) -> Bytes:
    """The optimiser step, as the trainer compiles it."""
    shape = update_shape(spec, config)
    cells = partial(array, mesh, (shape.micros, shape.rows, shape.length))
    kinds = [jnp.int32] * 5 + [jnp.float32] * 5
    inputs = {
        "micros": Micro(*(cells(kind, None, "fsdp") for kind in kinds)),
        "used": array(mesh, (), jnp.int32),
        "count": array(mesh, (), jnp.int32),
    }
    step = nnx.jit(partial(train_step, loss_config=loss_of(spec, config)), donate_argnames=TRAINING)
    if mesh is None:
        return analysis(step.lower(model, optimizer, inputs).compile())
    with mesh:
        return analysis(step.lower(model, optimizer, inputs).compile())


def _decode(spec: Rl, config: GemmaConfig, model: Any, mesh: Any) -> Bytes:
    """A chunk of the sampler's decoding."""
    dtype = spec.compute or spec.dtype
    graph, state = nnx.split(model)
    spec_of = decoder.spec_of(model)
    weights = jax.eval_shape(lambda s: decoder.weights_of(nnx.merge(graph, s)), state)
    rows = round_up(-(-spec.rollout_batch // spec.mesh.fsdp))
    whole = rows * spec.mesh.fsdp
    slots = round_up(spec.prompt_length) + spec.last_limit
    cache = jax.eval_shape(partial(decoder.empty_cache, spec_of, whole, slots, dtype))
    if mesh is None:
        put: Any = lambda x, where: jax.ShapeDtypeStruct(x.shape, dtype)
        weights = jax.tree.map(lambda x: put(x, None), weights)
    else:
        put = lambda x, where: jax.ShapeDtypeStruct(x.shape, dtype, sharding=where)
        weights = jax.tree.map(put, weights, weight_shardings(spec_of, mesh))
        cache = jax.tree.map(put, cache, cache_shardings(spec_of, mesh))
    row: Any = lambda kind, *more: array(mesh, (whole, *more), kind, "fsdp")
    functions = compiled_functions(
        spec_of,
        SamplingConfig(spec.last_limit, temperature=spec.temperature),
        (1,),
        chunk=8,
        rows=rows,
        slots=slots,
        prompts=(1, spec.prompt_length),
        dtype=dtype,
        mesh=mesh,
    )
    now = (row(jnp.int32), row(jnp.int32), row(jnp.int32), row(jnp.bool_))
    return analysis(functions[3].lower(weights, cache, now, row(jnp.int32), row(jnp.uint32, 2)).compile())


def main() -> None:
    """Settings and shape from the standard input."""
    asked: Mapping[str, Any] = json.load(sys.stdin)
    spec = Rl.model_validate(asked["spec"])
    config = GemmaConfig.from_hf(asked["config"])
    answer = measure(spec, config)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
