"""Tokens a second: our in-process sampler against Tunix's `Sampler` called batch by batch.

Both get the same model, prompts, batch size, stop ids and token limit, at temperature 1, and are asked for
log-probabilities. They alternate within one run; the table and the JSON hold medians and their ratio. Tokens
are counted up to and with the stop id. Without `--model` the weights are random and stop ids are spread over
the vocabulary so that lengths are about geometric: most short, some at the limit.

    python benchmarks/bench_sampler.py [--model DIR] [--batch-size 64] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAD = 0


@dataclass(frozen=True)
class Work:
    """What both samplers are asked for."""

    model: Any
    prompts: list[tuple[int, ...]]
    samples: int
    batch_size: int
    prompt_length: int
    max_new_tokens: int
    stop_ids: tuple[int, ...]


class IdTokenizer:
    """Prompts are token ids written as text; both sides are measured without a tokenizer's cost."""

    def __init__(self, stop_id: int) -> None:
        self._stop_id = stop_id

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return ""

    def bos_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return self._stop_id

    def pad_id(self) -> int:
        return PAD


def tunix_side(work: Work) -> Callable[[int], int]:
    """Tunix's sampler, one prompt repeated `samples` times, batch after batch."""
    from tunix.generate.sampler import CacheConfig, Sampler

    config = work.model.config
    slots = work.prompt_length + work.max_new_tokens
    cache = CacheConfig(slots, config.num_layers, config.num_kv_heads, config.head_dim)
    sampler = Sampler(work.model, IdTokenizer(work.stop_ids[0]), cache)
    texts = [" ".join(map(str, prompt)) for prompt in work.prompts for _ in range(work.samples)]

    def run(seed: int) -> int:
        tokens = 0
        for start in range(0, len(texts), work.batch_size):
            batch = texts[start : start + work.batch_size]
            batch += batch[:1] * (work.batch_size - len(batch))  # the compiled shape
            output = sampler(
                batch,
                max_generation_steps=work.max_new_tokens,
                max_prompt_length=work.prompt_length,
                temperature=1.0,
                top_p=1.0,
                seed=seed * 100_003 + start,
                eos_tokens=list(work.stop_ids),
                return_logprobs=True,
            )
            # Tunix drops the stop id; it was decoded all the same, so it counts.
            kept = min(work.batch_size, len(texts) - start)
            tokens += sum(min(len(ids) + 1, work.max_new_tokens) for ids in output.tokens[:kept])
        return tokens

    return run


def our_side(work: Work) -> Callable[[int], int]:
    from distill.gemma.sampler import Request, Sampler, SamplingConfig

    sampler = Sampler(
        work.model,
        sampling=SamplingConfig(work.max_new_tokens),
        prompt_length=work.prompt_length,
        batch_size=work.batch_size,
        stop_ids=work.stop_ids,
        pad_id=PAD,
    )
    sampler.warm_up()

    def run(seed: int) -> int:
        draw = random.Random(seed)
        requests = (
            Request((i, j), prompt, draw.getrandbits(63))
            for i, prompt in enumerate(work.prompts)
            for j in range(work.samples)
        )
        return sum(len(sample.token_ids) for sample in sampler.run(requests))

    return run


def build_work(arguments: argparse.Namespace) -> Work:
    draw = random.Random(0)
    if arguments.model:
        from distill.gemma.checkpoint import load_model
        from distill.gemma.folder import ModelFolder

        folder = ModelFolder.open(arguments.model)
        model, stop_ids = load_model(folder), folder.config.eos_token_ids
    else:
        from distill.gemma.build import random_gemma3
        from distill.gemma.config import GemmaConfig

        config = GemmaConfig(
            vocab_size=800,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            sliding_window=128,
            query_pre_attn_scalar=32,
        )
        model, stop_ids = random_gemma3(config, seed=0), tuple(draw.sample(range(4, 800), 20))
    ordinary = [token for token in range(4, int(model.num_embed)) if token not in stop_ids]
    prompts = [tuple(draw.choices(ordinary, k=draw.randint(30, 60))) for _ in range(arguments.prompts)]
    return Work(
        model, prompts, arguments.samples, arguments.batch_size, 64, arguments.max_new_tokens, tuple(stop_ids)
    )


def measure(sides: dict[str, Callable[[int], int]], rounds: int) -> dict[str, dict[str, Any]]:
    for run in sides.values():
        run(0)  # compiles
    rates: dict[str, list[float]] = {name: [] for name in sides}
    tokens = dict.fromkeys(sides, 0)
    for seed in range(1, rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            count = run(seed)
            rates[name].append(count / (time.perf_counter() - start))
            tokens[name] += count
    return {
        name: {"tokens_per_s": statistics.median(rates[name]), "rounds": rates[name], "tokens": tokens[name]}
        for name in sides
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a model folder; without it, random weights")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8, help="samples a prompt")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/sampler.json"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    work = build_work(arguments)
    sides = measure({"tunix": tunix_side(work), "ours": our_side(work)}, arguments.rounds)
    ratio = sides["ours"]["tokens_per_s"] / sides["tunix"]["tokens_per_s"]
    result = {
        "benchmark": "sampler",
        "settings": {key: value for key, value in vars(arguments).items() if key != "json"},
        "cpus": os.cpu_count(),
        "sides": sides,
        "ratio": ratio,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'sampler':<10}{'tokens/s':>10}{'tokens':>10}   (median of {arguments.rounds} rounds)")
    for name, side in sides.items():
        print(f"{name:<10}{side['tokens_per_s']:>10,.0f}{side['tokens']:>10,}")
    print(f"ours / tunix = {ratio:.2f}   -> {arguments.json}")


if __name__ == "__main__":
    main()
