"""Seconds of a GRPO step against Tunix's own `GRPOLearner`, on the same model, prompts, batch and lengths.

Both sides train the shipped teacher on the same questions with the same reward (accuracy and format by `filters`),
group size, token limit, temperature 1, KL term (k3) against a reference, one optimiser step a batch, AdamW with
clipping, fp32. Tunix is wired as its GRPO demo is: `RLCluster` with the vanilla rollout, actor and reference on one
mesh. Each side runs in a process of its own with all cores, in turn, `rounds` times; a side's figure is the median
over rounds of the median step. The first two steps are left out: they compile; what they took beyond a median step
is given as compile time, and compilations after them are counted (JAX's own event).

    python benchmarks/bench_grpo.py [--prompts 8] [--samples 8] [--tokens 104] [--json FILE]
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WARM_UP = 2
PROMPT_LENGTH = 24
RATE = 1e-4
BETA = 0.04


class Compilations:
    """When JAX compiled something."""

    def __init__(self) -> None:
        import jax

        self.at: list[float] = []
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, *_: Any, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.at.append(time.perf_counter())


def questions(n: int) -> list[dict[str, Any]]:
    """Rows of `prompts`: training questions of the tiny tasks."""
    from factory.tiny.tasks import problems, training_rungs

    streams = [problems(rung, 11, "train") for rung in training_rungs()]
    rows = []
    for index in range(n):
        problem = next(streams[index % len(streams)])
        entry = {"answer": problem.answer, "metadata": problem.metadata}
        rows.append(
            {
                "prompt_id": f"{index:032x}",
                "question": problem.question,
                "messages": [{"role": "user", "content": problem.question}],
                "reference": None,
                "verifier": "puzzle",
                "verifier_args": json.dumps({"task": problem.task, "entry": entry}),
                "domain": problem.task,
                "language": "en",
            }
        )
    return rows


def our_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step of `factory.teacher.grpo.train_rl`, telemetry and rollouts on disk included."""
    from distill.gemma.folder import ModelFolder, resolve_model
    from factory.store import Run
    from factory.teacher.grpo import train_rl
    from factory.teacher.settings import Rl

    compilations, marks, tokens = Compilations(), [time.perf_counter()], []
    spec = Rl.model_validate(
        {
            "steps": arguments.steps,
            "prompts": arguments.prompts,
            "samples": arguments.samples,
            "prompt_length": PROMPT_LENGTH,
            "max_new_tokens": arguments.tokens,
            "kl": BETA,
            "rewards": {"overlong": {"mode": "zero"}},
            "optimiser": {"learning_rate": RATE},
            "checkpoint_every": 10**6,
            "rollout_batch": arguments.prompts * arguments.samples,
            "mask_zero_variance": False,
        }
    )

    def mark(progress: Any) -> None:
        marks.append(time.perf_counter())
        tokens.append(progress.tokens)

    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run")
        rows = questions(arguments.steps * arguments.prompts)
        base = ModelFolder.open(resolve_model("tiny-teacher"))
        train_rl("bench", spec, base, rows, Path(folder) / "out", run, on_progress=mark)
    return _result(marks, compilations, tokens)


def tunix_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step of Tunix's learner: the time between two calls of its reward function."""
    import jax
    import numpy as np
    import optax
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
    from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
    from tunix.rl.rollout.base_rollout import RolloutConfig

    from distill.chat import parse_template, render_prompt_text
    from distill.gemma.checkpoint import load_model
    from distill.gemma.folder import ModelFolder, resolve_model
    from distill.gemma.tokenizer import Tokenizer
    from factory.teacher.reward_settings import Rewards
    from factory.teacher.rewards import RewardFunction, Sampled
    from filters.tags import R1_ZERO
    from filters.workers import WorkerPool

    compilations, marks, tokens = Compilations(), [time.perf_counter()], []
    folder = ModelFolder.open(resolve_model("tiny-teacher"))
    own, template = Tokenizer.load(folder.path), parse_template("r1-zero")

    class Adapter:
        """What Tunix asks of a tokenizer."""

        def encode(self, text: str, **_: Any) -> list[int]:
            return own.encode(text)

        def decode(self, ids: Any, **_: Any) -> str:
            return own.decode(ids)

        def bos_id(self) -> int:
            return own.bos_id

        def eos_id(self) -> int:
            return own.eos_id

        def pad_id(self) -> int:
            return own.pad_id

    rows = questions(arguments.steps * arguments.prompts)
    by_text = {render_prompt_text(row["messages"], template): row for row in rows}
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    config = ClusterConfig(
        role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
        rollout_engine="vanilla",
        training_config=RLTrainingConfig(
            actor_optimizer=optax.chain(
                optax.clip_by_global_norm(1.0), optax.adamw(RATE, b2=0.95, weight_decay=0.0)
            ),
            eval_every_n_steps=10**6,
            max_steps=arguments.steps,
            mini_batch_size=arguments.prompts,
            train_micro_batch_size=arguments.prompts,
        ),
        rollout_config=RolloutConfig(
            max_tokens_to_generate=arguments.tokens,
            max_prompt_length=32,  # its bucket: the next power of two
            kv_cache_size=32 + arguments.tokens + 8,
            temperature=1.0,
            top_p=1.0,
            top_k=None,
        ),
    )
    with WorkerPool(2) as pool, mesh:
        reward = RewardFunction(Rewards.model_validate({"overlong": {"mode": "zero"}}), R1_ZERO, pool)

        def rewards(prompts: Any, completions: Any, **_: Any) -> list[float]:
            ids = [tuple(own.encode(text)) for text in completions]
            tokens.append(sum(map(len, ids)) / len(ids))
            samples = [
                Sampled(by_text[str(prompt)], text, own_ids, 0, len(own_ids) >= arguments.tokens)
                for prompt, text, own_ids in zip(prompts, completions, ids, strict=True)
            ]
            found = [one.total or 0.0 for one in reward(samples, 0, arguments.tokens)]
            marks.append(time.perf_counter())
            return found

        cluster = RLCluster(
            actor=load_model(folder, mesh=mesh),
            reference=load_model(folder, mesh=mesh),
            tokenizer=Adapter(),
            cluster_config=config,
        )
        algorithm = GRPOConfig(num_generations=arguments.samples, beta=BETA, kl_loss_mode="low_var_kl")
        learner = GRPOLearner(rl_cluster=cluster, algo_config=algorithm, reward_fns=rewards)
        learner.train(_batches(np.array(list(by_text)), arguments.prompts))
    return _result(marks, compilations, tokens)


def _batches(texts: Any, size: int) -> list[dict[str, Any]]:
    return [{"prompts": texts[start : start + size]} for start in range(0, len(texts), size)]


def _result(marks: list[float], compilations: Compilations, tokens: list[float]) -> dict[str, Any]:
    seconds = [b - a for a, b in itertools.pairwise(marks)]
    steady = seconds[WARM_UP:]
    after = marks[WARM_UP]
    return {
        "seconds": steady,
        "compile": sum(seconds[:WARM_UP]) - WARM_UP * statistics.median(steady),
        "recompiled": sum(at > after for at in compilations.at),
        "tokens": statistics.mean(tokens),
    }


SIDES = {"ours": our_steps, "tunix": tunix_steps}


def run_side(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own."""
    options = [f"--{name}={getattr(arguments, name)}" for name in ("prompts", "samples", "tokens", "steps")]
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rounds(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    for _ in range(arguments.rounds):
        for side in SIDES:
            yield side, run_side(side, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=104)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=tuple(SIDES))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](arguments)))
        return
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for side, result in rounds(arguments):
        found[side].append(result)
    table = {
        side: {
            "seconds a step": statistics.median(statistics.median(one["seconds"]) for one in results),
            "compile, s": statistics.median(one["compile"] for one in results),
            "compilations after the first steps": max(one["recompiled"] for one in results),
            "tokens an answer": statistics.mean(one["tokens"] for one in results),
        }
        for side, results in found.items()
    }
    ratio = table["ours"]["seconds a step"] / table["tunix"]["seconds a step"]
    batch = f"{arguments.prompts} prompts x {arguments.samples} samples, at most {arguments.tokens} tokens"
    print(f"{batch}, {os.cpu_count()} cores")
    for side, row in table.items():
        print(f"{side:6} " + ", ".join(f"{name} {value:.2f}" for name, value in row.items()))
    print(f"ratio  {ratio:.2f} (ours / Tunix)")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"table": table, "ratio": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
