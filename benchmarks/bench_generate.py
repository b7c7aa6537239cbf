"""Tokens a second of `factory generate` — seeds, decoding, journal, shards — against Tunix's `Sampler`.

Both answer the same prompts with the same model, n samples each, at temperature 1 with log-probabilities, and
alternate within one run. Tunix's sampler is called batch by batch on ready token ids and writes nothing; ours
does all that a run does. Tokens are counted up to and with the stop id.

    python benchmarks/bench_generate.py [--model tiny-teacher] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_sampler import Work, measure, tunix_side


def prompts_of_source(count: int) -> list[dict[str, Any]]:
    """Training questions of the source `tiny`, as a run has them."""
    from factory.recipe import Splits
    from factory.sources import load_prompts, parse_source

    source = parse_source({"source": "tiny", "quotas": {"train": count}})
    return [dict(row) for row in load_prompts(source, splits=Splits())]


def factory_side(
    arguments: argparse.Namespace, prompts: list[dict[str, Any]], folder: Path
) -> Callable[[int], int]:
    """`factory.generate.generate` into a fresh run each round, with one compiled engine."""
    from distill.chat import parse_template
    from distill.gemma.folder import ModelFolder, resolve_model
    from factory.engines.gemma import GemmaEngine
    from factory.generate import Plan, generate
    from factory.store import Run

    engine = GemmaEngine(
        ModelFolder.open(resolve_model(arguments.model)),
        model_name=arguments.model,
        template=parse_template("r1-zero"),
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=arguments.max_new_tokens,
        prompt_length=arguments.prompt_length,
        batch_size=arguments.batch_size,
    )

    def run(seed: int) -> int:
        store = Run.create(folder / f"run-{seed}")
        plan = Plan(prompts, "benchmark", arguments.samples, seed)
        return generate(store, plan, engine, template="r1-zero").tokens

    return run


def peer_side(arguments: argparse.Namespace, prompts: list[dict[str, Any]]) -> Callable[[int], int]:
    from distill.chat import encode_prompt, parse_template, stop_ids
    from distill.gemma.checkpoint import load_model
    from distill.gemma.folder import ModelFolder, resolve_model
    from distill.gemma.tokenizer import Tokenizer

    folder = ModelFolder.open(resolve_model(arguments.model))
    tokenizer = Tokenizer.load(folder.path)
    template = parse_template("r1-zero")
    encoded = [tuple(encode_prompt(row["messages"], template, tokenizer)) for row in prompts]
    model = load_model(folder)
    return tunix_side(
        Work(
            model,
            encoded,
            arguments.samples,
            arguments.batch_size,
            arguments.prompt_length,
            arguments.max_new_tokens,
            tuple(stop_ids(tokenizer)),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-teacher")
    parser.add_argument("--prompts", type=int, default=192)
    parser.add_argument("--samples", type=int, default=8, help="samples a prompt")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--prompt-length", type=int, default=96)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/generate.json"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    prompts = prompts_of_source(arguments.prompts)
    with tempfile.TemporaryDirectory() as folder:
        sides = measure(
            {
                "tunix Sampler": peer_side(arguments, prompts),
                "factory generate": factory_side(arguments, prompts, Path(folder)),
            },
            arguments.rounds,
        )
    ratio = sides["factory generate"]["tokens_per_s"] / sides["tunix Sampler"]["tokens_per_s"]
    settings = {key: value for key, value in vars(arguments).items() if key != "json"}
    result = {
        "benchmark": "generate",
        "settings": settings,
        "cpus": os.cpu_count(),
        "sides": sides,
        "ratio": ratio,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'':<18}{'tokens/s':>10}{'tokens':>10}   (median of {arguments.rounds} rounds)")
    for name, side in sides.items():
        print(f"{name:<18}{side['tokens_per_s']:>10,.0f}{side['tokens']:>10,}")
    print(f"factory generate / tunix Sampler = {ratio:.2f}   -> {arguments.json}")


if __name__ == "__main__":
    main()
