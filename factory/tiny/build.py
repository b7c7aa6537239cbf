"""Make a tiny base Gemma from nothing: corpus, tokenizer, pre-training, and an HF folder.

    python -m factory.tiny.build teacher --out DIR
    python -m factory.tiny.build student --out DIR

Both are deterministic in `--seed`; a second machine may differ in the last bits of a float.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.gemma.build import Tiny
from distill.packing import Piece, Rows, attention_mask, pack, pieces_of
from factory.tiny import tokenizer as tiny_tokenizer
from factory.tiny.corpus import Group, groups
from filters.errors import UserError

log = logging.getLogger("factory.tiny")

ROW = 128
"""Tokens in a packed row. It equals the sliding window, so a packed row attends exactly as a lone sample."""
MAX_LENGTH = 512
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"
"""One thread: the same bits whatever the number of cores, and two builds run side by side on two cores."""

QUESTIONS = {"chain_sum": 6_000, "gcd": 1_500, "leg_counting": 5_000, "countdown": 3_000}
"""Distinct questions a rung, at most."""
COMPLETIONS = {"chain_sum": 5, "gcd": 40, "leg_counting": 6, "countdown": 10}
"""Completions a question: many where a rung has few questions or the task needs much practice."""


@dataclass(frozen=True, slots=True)
class Training:
    """How a tiny model is pre-trained: AdamW, warm-up, then a cosine.

    Attributes:
        steps: optimiser steps. rows: packed rows a step. warmup: steps of linear warm-up.
        learning_rate: the peak; the cosine ends at `final_share` of it.
        b2, weight_decay, clip: of AdamW and of the gradient's global norm.
    """

    steps: int
    rows: int = 8
    warmup: int = 50
    learning_rate: float = 3e-3
    final_share: float = 0.03
    b2: float = 0.99
    weight_decay: float = 0.01
    clip: float = 1.0


TRAININGS = {"teacher": Training(3_600), "student": Training(1_000, learning_rate=4e-3)}


def encode_corpus(corpus: Sequence[Group], tokenizer: Any) -> list[Piece]:
    """Token ids of the corpus: a prompt is `<bos>` and `prompt_text`, a completion stands as it is, then `<eos>`."""
    pieces: list[Piece] = []
    for group in corpus:
        texts = [tiny_tokenizer.prompt_text(group.problem.question), *(s.completion for s in group.samples)]
        prompt, *completions = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
        ended = [[*completion, tiny_tokenizer.EOS] for completion in completions]
        pieces += pieces_of([tiny_tokenizer.BOS, *prompt], ended, ROW)
    return pieces


def make_corpus(seed: int) -> list[Group]:
    """The whole corpus of the shipped models."""
    return list(groups(seed, QUESTIONS, COMPLETIONS))


def make_tokenizer(corpus: Sequence[Group]) -> Any:
    """The tokenizer, from every tenth group of the corpus."""
    texts = []
    for group in corpus[::10]:
        texts.append(tiny_tokenizer.prompt_text(group.problem.question))
        texts += [sample.completion for sample in group.samples]
    return tiny_tokenizer.build(texts)


def train(model: Any, rows: Rows, training: Training, seed: int) -> list[float]:
    """Pre-train `model` in place; returns the loss of every step (nats a completion token)."""
    import jax
    import optax
    from flax import nnx

    graph, params = nnx.split(model)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        training.learning_rate,
        training.warmup,
        training.steps,
        training.learning_rate * training.final_share,
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(training.clip),
        optax.adamw(schedule, b2=training.b2, weight_decay=training.weight_decay),
    )

    def loss(params: Any, batch: tuple[Any, ...]) -> Any:
        tokens, targets, positions, group, branch, weights = batch
        logits, _ = nnx.merge(graph, params)(tokens, positions, None, attention_mask(group, branch))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return (losses * weights).sum() / weights.sum()

    def step(params: Any, state: Any, batch: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    jitted = jax.jit(step, donate_argnums=(0, 1))
    state, losses, started = optimiser.init(params), [], time.monotonic()
    for number, index in enumerate(_batches(len(rows), training, seed), start=1):
        params, state, value = jitted(params, state, _arrays(rows, index))
        losses.append(value)
        if number % 100 == 0:
            recent = float(np.mean([float(v) for v in losses[-100:]]))
            log.info("step %d  loss %.4f  %.0f s", number, recent, time.monotonic() - started)
    nnx.update(model, params)
    return [float(value) for value in losses]


def _arrays(rows: Rows, index: np.ndarray) -> tuple[np.ndarray, ...]:
    """What the loss takes of the rows `index`: (B, ROW) each."""
    columns = (rows.tokens, rows.targets, rows.positions, rows.group, rows.branch, rows.trained)
    return tuple(column[index] for column in columns)


def _batches(n_rows: int, training: Training, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of every step: epochs, each in an order of its own."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    for _ in range(training.steps):
        while len(order) < training.rows:
            order = np.concatenate([order, rng.permutation(n_rows)])
        yield order[: training.rows]
        order = order[training.rows :]


def build(which: Tiny, out: Path, seed: int, training: Training | None = None) -> dict[str, Any]:
    """Make a model and write it to `out`; returns what was done, in figures."""
    import jax

    from distill.gemma.build import parameter_count, random_gemma3, tiny_config
    from distill.gemma.checkpoint import save_model

    started = time.monotonic()
    corpus = make_corpus(seed)
    tokenizer = make_tokenizer(corpus)
    rows = pack(encode_corpus(corpus, tokenizer), ROW, np.random.default_rng(seed))
    report = _corpus_report(corpus, rows) | {"corpus_s": round(time.monotonic() - started, 1)}
    log.info("%s", json.dumps(report))
    config = tiny_config(which, tokenizer.get_vocab_size())
    model = random_gemma3(config, seed)
    training = training or TRAININGS[which]
    losses = train(model, rows, training, seed)
    with tempfile.TemporaryDirectory() as folder:
        tiny_tokenizer.save(tokenizer, Path(folder), MAX_LENGTH)
        save_model(model, config, out, tokenizer_from=folder, overwrite=True)
    report |= {
        "model": which,
        "seed": seed,
        "parameters": parameter_count(model),
        "vocabulary": tokenizer.get_vocab_size(),
        "training": asdict(training),
        "row_tokens": ROW,
        "final_loss": round(float(np.mean(losses[-100:])), 4),
        "total_s": round(time.monotonic() - started, 1),
        "device": jax.devices()[0].device_kind,
    }
    (out / "build.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _corpus_report(corpus: Sequence[Group], rows: Rows) -> dict[str, Any]:
    samples = [sample for group in corpus for sample in group.samples]
    return {
        "questions": len(corpus),
        "completions": len(samples),
        "styles": dict(Counter(sample.style for sample in samples)),
        "languages": dict(Counter(sample.language for sample in samples)),
        "rows": len(rows),
        "completion_tokens": int(rows.trained.sum()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m factory.tiny.build", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("which", choices=("teacher", "student"))
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced where it exists")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimiser steps, where the shipped number is too many")
    options = parser.parse_args(arguments)
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("jax").setLevel(logging.WARNING)
    training = TRAININGS[options.which]
    if options.steps is not None:
        training = replace(training, steps=options.steps)
    try:
        report = build(options.which, options.out, options.seed, training)
    except UserError as error:
        parser.error(str(error))
    log.info("%s", json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
