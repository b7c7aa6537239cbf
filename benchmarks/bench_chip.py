"""A stage of reinforcement on one real accelerator, beside what a dry run says: bytes and seconds of its two parts.

The model has the recipe's shape and random weights, so nothing is downloaded. One device gets what each device of the
recipe's "fsdp" axis has (its rows, its share of the samples), with weights, optimiser and reference whole: there is
nobody to divide them with. The forecast is made for exactly that (`factory.teacher.forecast`, compiled for a CPU).
Every sample is as long as it may be. Seconds are medians after the first, which compiles.

    python benchmarks/bench_chip.py gemma3-1b-zero [--stage zero] [--prompts 4] [--steps 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distill.gemma.config import GemmaConfig
from distill.gemma.sizes import model_shape
from factory.recipe import RlStage, find_recipe, load_recipe
from factory.teacher.forecast import PASSES, attention_flops, decode_bytes, memory_of
from factory.teacher.settings import Mesh, Rl

GIB = 1 << 30


def alone(spec: Rl, prompts: int | None) -> Rl:
    """The stage as one device of "fsdp" has it."""
    share = spec.mesh.fsdp
    shorter = {} if prompts is None else {"prompts": prompts}
    value = spec.model_dump() | {
        "mesh": Mesh().model_dump(),
        "rows": max(1, spec.rows // share),
        "rollout_batch": max(8, spec.rollout_batch // share),
        "prompts": max(1, spec.prompts // share),
        **shorter,
    }
    return type(spec).model_validate(value)


def timed(run: Callable[[], Any], times: int) -> tuple[float, float]:
    """Seconds of the first call, and the median of the others."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds[0], statistics.median(seconds[1:])


def peak() -> int | None:
    """Most bytes that were in use on the device so far; None where the backend does not say."""
    import jax

    found = jax.local_devices()[0].memory_stats()
    return None if not found else int(found["peak_bytes_in_use"])


def _drain(sampler: Any, asked: list[Any]) -> None:
    for _ in sampler.run(iter(asked)):
        pass


def measure(spec: Rl, config: GemmaConfig, steps: int) -> dict[str, Any]:
    """Sampling first: it takes less, so that the update's peak is the update's."""
    import jax
    import numpy as np

    from distill.gemma.build import random_gemma3
    from distill.gemma.sampler import Request, Sampler, SamplingConfig
    from factory.teacher.assembly import loss_of, optimiser_of, update_shape
    from factory.teacher.trainer import Batch, GrpoTrainer, pack_samples

    model = random_gemma3(config, 0)
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(10, config.vocab_size, n)))

    prompts = [draw(spec.prompt_length) for _ in range(spec.prompts)]
    sampler = Sampler(
        model,
        sampling=SamplingConfig(spec.last_limit, temperature=spec.temperature),
        prompt_length=spec.prompt_length,
        batch_size=spec.rollout_batch,
        stop_ids=(),
        pad_id=0,
        dtype=spec.compute,
    )
    asked = [Request(i, prompts[i % len(prompts)], i) for i in range(spec.rollout_batch)]
    first, rollout = timed(partial(_drain, sampler, asked), 1)
    found: dict[str, Any] = {
        "device": str(jax.devices()[0].device_kind),
        "rollout": {
            "tokens": spec.rollout_batch * spec.last_limit,
            "first_seconds": first,
            "seconds": rollout,
            "peak_bytes": peak(),
        },
    }
    del sampler
    shape, loss = update_shape(spec, config), loss_of(spec, config)
    given = [prompt for prompt in prompts for _ in range(spec.learnt_samples)]
    completions = [draw(spec.last_limit) for _ in given]
    rows = pack_samples(given, completions, shape)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GrpoTrainer(model, optimiser_of(spec), loss=loss, shape=shape, checkpoints=Path(folder))
        old = [trainer.logprobs(rows)] if not loss.on_policy else None
        reference = trainer.snapshot() if spec.kl else None
        of_reference = [trainer.logprobs(rows, reference)] if reference is not None else None
        lengths = [len(completion) for completion in completions]
        advantages = [1.0 if i % 2 else -1.0 for i in range(len(given))]
        batch = Batch(rows, lengths, [1.0 / sum(lengths)] * len(given), advantages)
        numbers: list[Any] = []

        def update() -> None:
            numbers[:] = trainer.update([batch], [0], old, of_reference)

        first, seconds = timed(update, steps)
        trainer.close()
    assert np.isfinite(numbers[0]["loss"]), numbers
    found["update"] = {
        "cells": int(rows.tokens.size),
        "first_seconds": first,
        "seconds": seconds,
        "peak_bytes": peak(),
    }
    return found


def main() -> None:
    """Print, and with --json write, the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("recipe")
    parser.add_argument("--stage", default="zero")
    parser.add_argument(
        "--prompts", type=int, help="questions of a step; as many as a device has in the recipe"
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--no-forecast", action="store_true", help="leave out the forecast, which compiles on the CPU"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    stage = load_recipe(find_recipe(options.recipe)).teacher[options.stage]
    if not isinstance(stage, RlStage):
        sys.exit(f"{options.stage} is no stage of reinforcement learning")
    spec, shape = alone(stage, options.prompts), model_shape(stage.base)
    found = measure(spec, shape.config, options.steps)
    rollout, update = found["rollout"], found["update"]
    once = decode_bytes(
        shape,
        Mesh(),
        rows=spec.rollout_batch,
        slots=spec.prompt_length + spec.last_limit,
        unit=2 if (spec.compute or spec.dtype) == "bfloat16" else 4,
    )
    rollout["bytes_per_second"] = once * spec.last_limit / rollout["seconds"]
    flops = PASSES[spec.remat] * (
        shape.parameters
        + attention_flops(shape.config, spec.row_length or spec.longest, spec.attention_chunk)
    )
    update["flops_per_second"] = flops * update["cells"] / update["seconds"]
    if not options.no_forecast:
        memory = memory_of(spec, shape)
        rollout["forecast_bytes"] = memory.weights + memory.rollout
        update["forecast_bytes"] = memory.state + memory.update
    for part in ("rollout", "update"):
        for key in ("peak_bytes", "forecast_bytes"):
            if found[part].get(key):
                found[part][key.replace("bytes", "gib")] = round(found[part][key] / GIB, 2)
    text = json.dumps(found, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
