"""Tokens a second of `distill train`, packed and padded, against transformers and torch, on the same samples.

Full fine-tuning in fp32 of the same tiny model, AdamW, gradient clipping, loss on completions; the samples of a
step are the same on all sides, and torch has them padded to the longest of the set. Each side runs in a process of
its own with all cores, in turn, `rounds` times; a side's figure is the median over rounds of the median step, the
first five steps left out (they compile, or warm up). Tokens are those that are no padding.

    python benchmarks/bench_sft.py [--student tiny-student] [--json FILE]
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
from pathlib import Path
from typing import Any

WARM_UP = 5
SIDES = ("torch", "padded", "packed")
RATE = 1e-3


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


def our_steps(arguments: argparse.Namespace, data: Path, *, packing: bool) -> dict[str, Any]:
    """Seconds of each step of `distill.sft.train`, input pipeline and metrics included."""
    from distill.sft import Layout, TrainConfig, train

    marks: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig(
            max_steps=arguments.steps,
            batch_size=arguments.batch_size,
            max_length=arguments.max_length,
            learning_rate=RATE,
            checkpoint_every=10**6,
            layout=Layout(rows=arguments.rows, packing=packing),
        )
        train(config, data, arguments.student, Path(out) / "out", lambda _: marks.append(time.perf_counter()))
    return {"seconds": [b - a for a, b in itertools.pairwise(marks)]}


def torch_steps(arguments: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Seconds of each step of a plain torch loop over the same batches."""
    import torch
    from transformers import AutoModelForCausalLM

    from distill.gemma.folder import resolve_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(resolve_model(arguments.student), dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95))
    seconds = []
    for tokens, present, trained in padded_steps(arguments, data):
        tokens, present = torch.from_numpy(tokens).long(), torch.from_numpy(present).long()
        labels = tokens.masked_fill(~torch.from_numpy(trained), -100)
        start = time.perf_counter()
        loss = model(input_ids=tokens, attention_mask=present, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        float(loss.detach())
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "threads": torch.get_num_threads()}


def padded_steps(arguments: argparse.Namespace, data: Path) -> list[tuple[Any, Any, Any]]:
    """Of every step: ids, which of them are no padding, and which are trained on; (samples, length)."""
    import numpy as np

    from distill.batches import Order, row_length
    from distill.chat import parse_template
    from distill.data import load_dataset
    from distill.gemma.folder import resolve_model
    from distill.gemma.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(resolve_model(arguments.student))
    dataset = load_dataset(str(data), parse_template("gemma:r1"), tokenizer, arguments.max_length)
    order = Order(len(dataset.train), 0)
    shape = (arguments.batch_size, row_length(dataset.longest, arguments.max_length))
    steps = []
    for step in range(arguments.steps):
        ids = np.full(shape, tokenizer.pad_id, np.int32)
        present, trained = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        for row in range(shape[0]):
            example = dataset.train[order[step * shape[0] + row]]
            n = len(example.ids)
            ids[row, :n], present[row, :n], trained[row, :n] = example.ids, True, example.mask
        steps.append((ids, present, trained))
    return steps


def one_side(arguments: argparse.Namespace, side: str, data: Path) -> float:
    """Tokens a second of one side in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--data", str(data)]
    for name in ("student", "batch_size", "rows", "max_length", "steps"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    return float(statistics.median(result["rates"][WARM_UP:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", default="tiny-student")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/sft.json"))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        if arguments.side == "torch":
            result = torch_steps(arguments, arguments.data)
        else:
            result = our_steps(arguments, arguments.data, packing=arguments.side == "packed")
        # Our clock is read behind every step, so the first step has no beginning.
        tokens = [int(present.sum()) for _, present, _ in padded_steps(arguments, arguments.data)]
        tokens = tokens[-len(result["seconds"]) :]
        print(json.dumps({"rates": [n / s for n, s in zip(tokens, result["seconds"], strict=True)]}))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.jsonl"
        write_data(data, arguments.batch_size * 20)
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(arguments.rounds):
            for side in rates:
                rates[side].append(one_side(arguments, side, data))
    medians = {side: statistics.median(values) for side, values in rates.items()}
    ratios = {side: value / medians["torch"] for side, value in medians.items()}
    settings = {k: v for k, v in vars(arguments).items() if k not in ("json", "side", "data")}
    result = {
        "benchmark": "sft",
        "settings": settings,
        "cpus": os.cpu_count(),
        "rates": rates,
        "ratios": ratios,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'':<16}{'tokens/s':>10}{'of torch':>10}   (median of {arguments.rounds} rounds)")
    for side, value in medians.items():
        print(f"{side:<16}{value:>10,.0f}{ratios[side]:>10.2f}")
    print(f"-> {arguments.json}")


if __name__ == "__main__":
    main()
