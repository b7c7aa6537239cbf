"""Memory of a fine-tuning step: what a dry run says, and what a process holds at its peak.

Each setting trains three steps of `distill.sft.train` in a process of its own on samples that fill a row. Measured is
the peak of its resident memory in the third step, over what it holds between steps, and the arrays that it holds then:
interpreter, libraries and what the compiler leaves on the heap are not of the step. "process" is all of it. A dry run
says `compiled.memory_analysis()` of the step (arguments + outputs - shared + temporary), compiled in the order that
holds least, which is what a chip's compiler looks for; the measured step is compiled so too. The last column is what
XLA plans where it is left to itself: on a CPU it orders the step for its threads.

    python benchmarks/bench_memory.py [--student gemma-3-270m] [--only NAME …] [--json FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ADAPTERS = {"rank": 16, "alpha": 32.0}
WHOLE_LOGITS = 1 << 62  # bytes: more than any
SETTINGS: dict[str, dict[str, Any]] = {
    "all weights, 2,048 tokens, logits whole": {"length": 2048, "whole_logits": True},
    "all weights, 2,048 tokens, logits in chunks": {"length": 2048},
    "adapters, 8,192 tokens, attention whole": {"length": 8192, "lora": ADAPTERS, "remat": "layer"},
    "adapters, 8,192 tokens, attention by 512": {
        "length": 8192,
        "lora": ADAPTERS,
        "remat": "layer",
        "attention_chunk": 512,
    },
    "adapters, two rows of 400 tokens": {"length": 400, "lora": ADAPTERS, "rows": 2},
}


def config_of(setting: dict[str, Any]) -> Any:
    """The training of a setting: a step's samples fill its rows."""
    from distill.lora_settings import LoraConfig
    from distill.train_settings import Layout, TrainConfig

    return TrainConfig(
        max_steps=3,
        batch_size=setting.get("rows", 1),
        max_length=setting["length"],
        lora=LoraConfig(**setting["lora"]) if "lora" in setting else None,
        report=(),
        layout=Layout(
            rows=setting.get("rows", 1),
            row_length=setting["length"],
            remat=setting.get("remat", "none"),
            attention_chunk=setting.get("attention_chunk"),
        ),
    )


def prepare(setting: dict[str, Any]) -> None:
    """Lift the bound of the logits where a setting asks for it."""
    from distill.gemma import forward

    if setting.get("whole_logits"):
        forward.LOGIT_BYTES = WHOLE_LOGITS


# ---------------------------------------------------------------------------------------- in child processes


def resident(what: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))


def run(student: str, setting: dict[str, Any]) -> dict[str, int]:
    """Peak resident bytes of a real step, and of the whole process meanwhile."""
    import jax

    from distill.sft import train

    prepare(setting)
    found: dict[str, int] = {}

    def on_progress(progress: Any) -> None:
        if progress.step == 1:  # the second step has been begun
            arrays = jax.live_arrays()
            jax.block_until_ready(arrays)
            time.sleep(2.0)  # until the runtime has given back what the step held
            ctypes.CDLL(None).malloc_trim(0)
            found["arrays"], found["between"] = sum(x.nbytes for x in arrays), resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
        found["process"] = resident("VmHWM")

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.jsonl"
        reply = "word " * (setting["length"] - 40)
        row = {"messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": reply}]}
        data.write_text((json.dumps(row) + "\n") * 4, encoding="utf-8")
        train(config_of(setting), data, student, Path(folder) / "out", on_progress=on_progress)
    return found | {"measured": found["process"] - found["between"] + found["arrays"]}


def plan(student: str, setting: dict[str, Any]) -> int:
    """Bytes that XLA plans for the step."""
    from distill.compiling import measure
    from distill.gemma.sizes import model_shape

    prepare(setting)
    found = measure(model_shape(student).config, config_of(setting), length=setting["length"])["update"]
    return found["arguments"] + found["outputs"] - found["shared"] + found["temporary"]


# ------------------------------------------------------------------------------------------------------- all


def child(student: str, part: str, name: str, flags: Sequence[str] = ()) -> Any:
    """What a process of its own answers."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
    command = [sys.executable, __file__, "--student", student, "--part", part, "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"{name} ({part}): {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--student", default="gemma-3-270m")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/memory.json"))
    parser.add_argument("--part", choices=("run", "plan"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part:
        (name,) = arguments.only
        act = run if arguments.part == "run" else plan
        sys.stdout.write("\n" + json.dumps(act(arguments.student, SETTINGS[name])) + "\n")
        return
    from factory.compiled import FLAGS

    print(f"{arguments.student}, float32, GiB of one process\n")
    print(f"{'':46}{'dry run':>9}{'measured':>10}{'ratio':>7}{'process':>9}{'left to itself':>16}")
    found = {}
    for name in arguments.only:
        dry = child(arguments.student, "plan", name, FLAGS)
        real = child(arguments.student, "run", name, FLAGS)
        own = child(arguments.student, "plan", name)
        found[name] = {"dry run": dry, "left to itself": own, **real}
        gib = [value / 2**30 for value in (dry, real["measured"], real["process"], own)]
        ratio = gib[0] / gib[1]
        print(f"{name:46}{gib[0]:>9.2f}{gib[1]:>10.2f}{ratio:>7.2f}{gib[2]:>9.2f}{gib[3]:>16.2f}", flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    settings = {name: SETTINGS[name] | found[name] for name in found}
    arguments.json.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    print(f"\n-> {arguments.json}")


if __name__ == "__main__":
    main()
