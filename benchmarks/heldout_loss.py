"""Held-out loss of models on the validation samples of a mix, with intervals; and of how much each lost or gained.

Every sample is scored alone, as training scores it: nats per token over its completion. A model's figure is the mean
over all completions' tokens, as in training's log; its interval is a 95 % percentile bootstrap over samples, and the
difference to the first model is paired by sample.

    python benchmarks/heldout_loss.py RUN/mix/NAME MODEL [MODEL …] [--template gemma:r1] [--max-length 1024]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

_RESAMPLES = 10_000


def scored(data: str, name: str, template: str, max_length: int, rows: int) -> tuple[Any, Any]:
    """Sum of -log p, and the number of tokens, of every validation sample's completion."""
    import jax
    from flax import nnx

    from distill.batches import RowShape, make_batch
    from distill.chat import parse_template
    from distill.data import load_dataset
    from distill.gemma.checkpoint import load_model
    from distill.gemma.folder import ModelFolder, resolve_model
    from distill.gemma.forward import logit_chunk
    from distill.gemma.tokenizer import Tokenizer
    from distill.loss import PassConfig, SftMicro, token_logprobs

    folder = ModelFolder.open(resolve_model(name))
    found = load_dataset(data, parse_template(template), Tokenizer.load(folder.path), max_length).validation
    length = max(len(example.ids) for example in found)
    model = load_model(folder, dtype="float32")
    config = PassConfig(logit_chunk=logit_chunk(rows, length, folder.config.vocab_size, 1, 1))
    shape = RowShape(rows, rows=rows, length=length, packed=False)

    @nnx.jit
    def logprobs(model: Any, micro: Any) -> Any:
        return token_logprobs(model, micro, config)[0]

    sums, counts = [], []
    for start in range(0, len(found), rows):
        part = found[start : start + rows]
        batch = make_batch(part, shape, weighted=False)
        columns = batch.rows.tokens, batch.rows.targets, batch.rows.positions, batch.rows.group
        filled = [_filled(x, rows) for x in (*columns, batch.rows.branch, batch.weights)]
        scores = np.asarray(jax.device_get(logprobs(model, SftMicro(*filled))))[: len(part)]
        sums += list(-(scores * batch.weights).sum(axis=1, dtype=np.float64))
        counts += list((batch.weights > 0).sum(axis=1))
    return np.asarray(sums), np.asarray(counts)


def _filled(values: Any, rows: int) -> Any:
    return np.pad(values, ((0, rows - len(values)), *((0, 0),) * (values.ndim - 1)))


def interval(sums: Any, counts: Any, seed: int = 0) -> tuple[float, float, float]:
    """A ratio of sums over samples, and the ends of its 95 % percentile bootstrap."""
    drawn = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)))
    ratios = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(sums.sum() / counts.sum()), float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--template", default="gemma:r1")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=4, help="samples that are computed at a time")
    asked = parser.parse_args(arguments)
    first: Any = None
    for name in asked.models:
        sums, counts = scored(asked.data, name, asked.template, asked.max_length, asked.rows)
        line = "{:.4f} [{:.4f}, {:.4f}]".format(*interval(sums, counts))
        if first is None:
            first = sums
            line += f"   {len(sums)} samples, {counts.sum():,} tokens"
        else:
            line += "   {:+.4f} [{:+.4f}, {:+.4f}]".format(*interval(sums - first, counts))
        sys.stdout.write(f"{name}: {line}\n")


if __name__ == "__main__":
    main()
