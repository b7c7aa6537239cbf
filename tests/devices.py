"""Scripts in processes of their own, with CPU devices that stand for chips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from factory.compiled import FLAGS


def answered(script: str, asked: Any, devices: int) -> Any:
    """The JSON on the last line that a script prints, told `asked` as its argument; compiled as a dry run compiles."""
    flags = " ".join((f"--xla_force_host_platform_device_count={devices}", *FLAGS))
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
