"""Tokens a second of `distill train` against TRL's `SFTTrainer`, packed and padded, on the same samples.

Full fine-tuning in fp32 of the same model, AdamW, gradient clipping, loss on completions, as many samples a step. TRL
packs rows without a mask between samples (`wrapped`: what it does without flash attention), ours see themselves alone.
Each side runs in a process of its own with all cores, in turn, `rounds` times; a side's figure is the median over
rounds of the median step, the first steps left out (they compile, or warm up). Tokens are those that are no padding.

Beside the speeds: what a step's FLOPs are of what this machine multiplies matrices at, the seconds and the number of
compilations, and how much of the cells is padding, on real lengths too where real data is at hand (R1_SHARED_DATA).

    python benchmarks/bench_sft.py [--student tiny-student] [--json FILE]
    python benchmarks/bench_sft.py --student gemma-3-270m --batch-size 8 --rows 1 --steps 8 --rounds 1
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIDES = ("trl padded", "trl packed", "padded", "packed")
RATE = 1e-3


# ------------------------------------------------------------------------------------------------- the samples


def write_data(path: Path, samples: int) -> None:
    """Worked solutions of the tiny tasks: the lengths of a real mix."""
    from random import Random

    from factory.sources.general import generated_general
    from factory.tiny.corpus import sample_of
    from factory.tiny.tasks import problems, training_rungs

    rng = Random(0)
    rungs = [problems(rung, 7, "train") for rung in training_rungs()]
    general = generated_general(0)
    with path.open("w", encoding="utf-8") as out:
        for index in range(samples):
            if index % 4 == 3:
                row = {"messages": next(general)["messages"]}
            else:
                problem = next(rungs[index % len(rungs)])
                text = sample_of(problem, rng).completion
                turns = [("user", problem.question), ("assistant", text)]
                row = {"messages": [{"role": role, "content": content} for role, content in turns]}
            out.write(json.dumps(row) + "\n")


def load(arguments: argparse.Namespace, data: Path) -> Any:
    """The encoded samples, one encoding for all sides."""
    from distill.chat import parse_template
    from distill.data import load_dataset
    from distill.gemma.folder import resolve_model
    from distill.gemma.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(resolve_model(arguments.student))
    return load_dataset(str(data), parse_template("gemma:r1"), tokenizer, arguments.max_length)


# --------------------------------------------------------------------------------------------------- our side


def our_steps(arguments: argparse.Namespace, data: Path, *, packing: bool) -> dict[str, Any]:
    """Seconds and tokens of each step of `distill.sft.train`, input pipeline, metrics and reports included."""
    import jax

    from distill.batches import RowShape, TrainStream, row_length
    from distill.sft import train
    from distill.train_settings import Layout, TrainConfig

    compiling: list[float] = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if "backend_compile" in event:
            compiling.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    marks: list[float] = []
    late: list[int] = []

    def mark(_: Any) -> None:
        marks.append(time.perf_counter())
        late.append(len(compiling))

    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig(
            max_steps=arguments.steps,
            batch_size=arguments.batch_size,
            max_length=arguments.max_length,
            learning_rate=RATE,
            checkpoint_every=10**6,
            layout=Layout(rows=arguments.rows, packing=packing),
        )
        train(config, data, arguments.student, Path(out) / "out", mark)
    dataset = load(arguments, data)
    length = row_length(dataset.longest, arguments.max_length)
    shape = RowShape(arguments.batch_size, arguments.rows, length, packing)
    stream = TrainStream(dataset.train, shape, steps=arguments.steps, seed=0, stop=lambda _: False)
    tokens = [stream.batch(step).tokens for step in range(arguments.steps)]
    return {
        "seconds": [b - a for a, b in itertools.pairwise(marks)],
        "tokens": tokens[1:],  # our clock is read behind every step, so the first step has no beginning
        "filled": stream.fullness()[1],
        "compiling": sum(compiling),
        "compilations": len(compiling),
        "late_compilations": late[-1] - late[1],
    }


# ------------------------------------------------------------------------------------------------------- TRL


def trl_steps(arguments: argparse.Namespace, data: Path, *, packing: bool) -> dict[str, Any]:
    """Seconds and tokens of each step of TRL's trainer on ready token ids."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from distill.gemma.folder import resolve_model

    folder = resolve_model(arguments.student)
    dataset = load(arguments, data)
    rows = [
        {"input_ids": e.ids.tolist(), "completion_mask": e.mask.astype(int).tolist()} for e in dataset.train
    ]
    # Packed: as many rows of `max_length` as a step's samples fill, so a step has as many tokens on both sides.
    each = sum(len(e.ids) for e in dataset.train) / len(dataset.train)
    batch = arguments.batch_size
    if packing:
        batch = max(1, round(batch * each / arguments.max_length))
    with tempfile.TemporaryDirectory() as out:
        settings = SFTConfig(
            output_dir=out,
            max_steps=arguments.steps,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            max_length=arguments.max_length,
            packing=packing,
            packing_strategy="wrapped",
            completion_only_loss=True,
            learning_rate=RATE,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            use_cpu=True,
            bf16=False,
            fp16=False,
            gradient_checkpointing=False,
            logging_steps=10**6,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        marks: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                marks.append(time.perf_counter())

        trainer = SFTTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[Clock()],
        )
        collate, tokens, cells = trainer.data_collator, [], []

        def counting(examples: Sequence[Any]) -> Any:
            found = collate(examples)
            tokens.append(sum(len(example["input_ids"]) for example in examples))
            cells.append(int(found["input_ids"].numel()))
            return found

        trainer.data_collator = counting
        trainer.train()
    tokens, cells = tokens[: arguments.steps], cells[: arguments.steps]
    return {
        "seconds": [b - a for a, b in itertools.pairwise(marks)],
        "tokens": tokens[1:],
        "filled": sum(tokens) / sum(cells),
        "threads": torch.get_num_threads(),
    }


# ------------------------------------------------------------------------------------------- what could be


def matmul_rate(shapes: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """FLOP/s of XLA's and of torch's (oneDNN's) product of float32 matrices of these shapes, the median of each."""
    import jax
    import jax.numpy as jnp
    import torch

    found: dict[str, list[float]] = {"xla": [], "torch": []}
    product = jax.jit(jnp.matmul)
    for m, k, n in shapes:
        a, b = jnp.ones((m, k)), jnp.ones((k, n))
        c, d = torch.ones(m, k), torch.ones(k, n)
        for name, act in (
            ("xla", lambda a=a, b=b: product(a, b).block_until_ready()),
            ("torch", lambda c=c, d=d: c @ d),
        ):
            act()
            times = []
            for _ in range(30):
                start = time.perf_counter()
                act()
                times.append(time.perf_counter() - start)
            found[name].append(2.0 * m * k * n / statistics.median(times))
    return {name: statistics.harmonic_mean(rates) for name, rates in found.items()}


def model_shapes(student: str, cells: int) -> tuple[int, list[tuple[int, int, int]], float]:
    """Parameters; the matrix products of a pass over so many cells; FLOPs a token of a step without attention."""
    from distill.gemma.folder import ModelFolder, resolve_model

    folder = ModelFolder.open(resolve_model(student))
    c = folder.config
    heads = c.num_attention_heads * c.head_dim
    layer = [
        (cells, c.hidden_size, heads + 2 * c.num_key_value_heads * c.head_dim),
        (cells, heads, c.hidden_size),
        (cells, c.hidden_size, 2 * c.intermediate_size),
        (cells, c.intermediate_size, c.hidden_size),
    ]
    shapes = [*layer, (cells, c.hidden_size, c.vocab_size)]
    multiplied = c.num_hidden_layers * sum(k * n for _, k, n in layer) + c.hidden_size * c.vocab_size
    return folder.parameter_count, shapes, 6.0 * multiplied


def real_waste(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Share of the cells that is padding on real lengths: packed in rows of 4,096, and padded to a batch's longest."""
    import numpy as np
    import pyarrow.parquet as pq

    from distill.batches import RowShape, TrainStream
    from distill.data import Example

    root = Path(os.environ.get("R1_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    found: dict[str, dict[str, float]] = {}
    for name, file, column in (
        ("short chains (zeroeval gsm)", "zeroeval_outputs/gsm.parquet", "output"),
        ("long chains (skythought)", "skythought_outputs/skythought_long_cot.parquet", "output"),
    ):
        path = root / file
        if not path.is_file():
            continue
        texts = pq.read_table(path, columns=[column])[column].to_pylist()
        lengths = [min(4096, 40 + len(str(text)) // 4) for text in texts if text]  # four characters a token
        examples = [Example(np.zeros(n, np.int32), np.ones(n, np.bool_), 1.0) for n in lengths]
        shape = RowShape(arguments.batch_size, 1, 4096, True)
        steps = min(40, len(examples) // arguments.batch_size)
        stream = TrainStream(examples, shape, steps=steps, seed=0, stop=lambda _: False)
        drawn = [[len(e.ids) for e in stream.samples(step)] for step in range(steps)]
        cells = sum(max(step) * len(step) for step in drawn)
        found[name] = {
            "packed": 1.0 - stream.fullness(steps * arguments.batch_size)[1],
            "padded": 1.0 - sum(map(sum, drawn)) / cells,
            "mean tokens": statistics.mean(lengths),
        }
    return found


# ------------------------------------------------------------------------------------------------ the comparison


def one_side(arguments: argparse.Namespace, side: str, data: Path) -> dict[str, Any]:
    """One side in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--data", str(data)]
    for name in ("student", "batch_size", "rows", "max_length", "steps", "warm_up"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    rates = [n / s for n, s in zip(found["tokens"], found["seconds"], strict=True)]
    return found | {"rate": statistics.median(rates[arguments.warm_up :])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", default="tiny-student")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/sft.json"))
    parser.add_argument("--side", choices=(*SIDES, "matmul"), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side == "matmul":
        print(
            json.dumps(matmul_rate(model_shapes(arguments.student, arguments.rows * arguments.max_length)[1]))
        )
        return
    if arguments.side:
        act = trl_steps if arguments.side.startswith("trl") else our_steps
        print(json.dumps(act(arguments, arguments.data, packing=arguments.side.endswith("packed"))))
        return
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.jsonl"
        write_data(data, arguments.batch_size * 20)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(arguments.rounds):
            for side in SIDES:
                runs[side].append(one_side(arguments, side, data))
        command = [sys.executable, __file__, "--side", "matmul", "--student", arguments.student]
        command += ["--rows", str(arguments.rows), "--max-length", str(arguments.max_length)]
        peak = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    medians = {side: statistics.median(run["rate"] for run in found) for side, found in runs.items()}
    parameters, _, flops = model_shapes(arguments.student, 1)
    result = {
        "benchmark": "sft",
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("json", "side", "data")},
        "cpus": os.cpu_count(),
        "parameters": parameters,
        "rates": {side: [run["rate"] for run in found] for side, found in runs.items()},
        "tokens/s": medians,
        "of trl": {
            "padded": medians["padded"] / medians["trl padded"],
            "packed": medians["packed"] / medians["trl packed"],
        },
        "filled": {side: found[0]["filled"] for side, found in runs.items()},
        "matmul FLOP/s": peak,
        "utilisation": {
            side: medians[side] * flops / peak["torch" if side.startswith("trl") else "xla"] for side in SIDES
        },
        "compiling s": statistics.median(run["compiling"] for run in runs["packed"]),
        "compilations": runs["packed"][0]["compilations"],
        "compilations after two steps": runs["packed"][0]["late_compilations"],
        "padding on real lengths": real_waste(arguments),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    report(result, arguments)


def report(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    print(f"{arguments.student}, {result['parameters']:,} parameters, median of {arguments.rounds} rounds\n")
    print(f"{'':<12}{'tokens/s':>10}{'of TRL':>8}{'filled':>8}{'of the matmul rate':>20}")
    for side in SIDES:
        ratio = result["of trl"].get(side)
        print(
            f"{side:<12}{result['tokens/s'][side]:>10,.0f}{'' if ratio is None else f'{ratio:.2f}':>8}"
            f"{result['filled'][side]:>8.0%}{result['utilisation'][side]:>20.0%}"
        )
    rates = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in result["matmul FLOP/s"].items())
    print(f"\nproducts of the model's own shapes, GFLOP/s: {rates}")
    print(
        f"compiling {result['compiling s']:.1f} s, {result['compilations']} compilations, "
        f"{result['compilations after two steps']} behind the second step"
    )
    for name, waste in result["padding on real lengths"].items():
        print(
            f"{name}, {waste['mean tokens']:,.0f} tokens on average: {waste['packed']:.0%} of the cells are padding "
            f"packed in rows of 4,096, {waste['padded']:.0%} padded to the longest of {arguments.batch_size}"
        )
    print(f"-> {arguments.json}")


if __name__ == "__main__":
    main()
