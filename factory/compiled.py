"""Bytes of a device, from compiling ahead of time in a process of its own, with as many CPU devices as a mesh has."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys

from filters.errors import UserError

FLAGS = (
    # The default orders work for the threads of a CPU; a chip's compiler orders it for memory, as this does.
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    # Barriers keep what is computed again from being merged with what was computed first; on a chip they stay.
    "--xla_disable_hlo_passes=cse_barrier_expander",
)


def can_compile() -> bool:
    """Is there what a stage is compiled with?"""
    return all(importlib.util.find_spec(name) is not None for name in ("jax", "tunix"))


@functools.lru_cache(maxsize=64)
def compiled(module: str, asked: str, devices: int) -> dict[str, dict[str, int]]:
    """What `python -m module` answers to `asked`, JSON on its standard input: JSON on the last line of its output.

    Raises:
        UserError: it cannot be compiled.
    """
    flags = (f"--xla_force_host_platform_device_count={devices}", *FLAGS)
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=asked,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)},
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise UserError(
            f"the stage cannot be compiled for a mesh of {devices} devices: {lines[-1] if lines else 'no reason given'}"
        )
    found: dict[str, dict[str, int]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
