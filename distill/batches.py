"""Examples in fixed shapes, in an order that is a function of (seed, epoch) alone. No JAX here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from distill.data import Example

Batch = dict[str, np.ndarray[Any, Any]]
_ROUND_TO = 16


class Order:
    """An endless stream of example indices: one shuffled epoch after another.

    Position p is example `permutation(seed, p // n)[p % n]`, whatever was asked before; so a run that stops
    goes on by position, without a state. The permutation sorts raw output of PCG64, whose stream NumPy keeps
    stable between versions.

    Attributes:
        n: number of examples.
        seed: seed of the run.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self.n)
        if epoch != self._epoch:
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch])).random_raw(self.n)
            self._permutation = np.argsort(bits, kind="stable")
            self._epoch = epoch
        return int(self._permutation[offset])


def batch_length(longest: int, max_length: int) -> int:
    """Compiled length: the longest example, rounded up to 16 tokens, at most `max_length`."""
    return min(max_length, -(-longest // _ROUND_TO) * _ROUND_TO)


def make_batch(
    examples: Sequence[Example], rows: int, length: int, pad_id: int, *, weighted: bool = True
) -> Batch:
    """Pad examples on the right to (rows, length); missing rows are padding throughout.

    Returns:
        tokens (B, L) int32; present (B, L) bool, False on padding; weights (B, L) float32, the examples'
        weights (1 where `weighted` is False) on tokens that are trained on and 0 elsewhere.
    """
    tokens = np.full((rows, length), pad_id, np.int32)
    present = np.zeros((rows, length), np.bool_)
    weights = np.zeros((rows, length), np.float32)
    for row, example in enumerate(examples):
        n = len(example.ids)
        tokens[row, :n] = example.ids
        present[row, :n] = True
        weights[row, :n] = example.mask * (example.weight if weighted else 1.0)
    return {"tokens": tokens, "present": present, "weights": weights}


class TrainStream:
    """Training batches of one run, from any step on.

    Tunix's trainer pulls and drops the batches it has seen; `skip` of them are None and cost nothing. The
    stream ends after the last step, or at the first optimiser step behind `stop()`, so that accumulated
    gradients are never cut in half.

    Attributes:
        skip: micro-batches done before, a multiple of `accumulation`.
        counts: (tokens trained on, tokens that are no padding) of each step that was handed out and not yet
            taken by `take_counts`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        rows: int,
        length: int,
        pad_id: int,
        accumulation: int,
        steps: int,
        seed: int,
        stop: Callable[[], bool],
    ) -> None:
        self.skip = 0
        self.counts: dict[int, tuple[int, int]] = {}
        self._examples, self._rows, self._length, self._pad_id = examples, rows, length, pad_id
        self._accumulation, self._steps, self._stop = accumulation, steps, stop
        self._order = Order(len(examples), seed)

    def __iter__(self) -> Iterator[Batch | None]:
        for _ in range(self.skip):
            yield None
        for micro in range(self.skip, self._steps * self._accumulation):
            if micro % self._accumulation == 0 and self._stop():
                return
            chosen = [self._examples[self._order[micro * self._rows + row]] for row in range(self._rows)]
            step = micro // self._accumulation + 1
            trained, real = self.counts.get(step, (0, 0))
            self.counts[step] = (
                trained + sum(int(example.mask.sum()) for example in chosen),
                real + sum(len(example.ids) for example in chosen),
            )
            yield make_batch(chosen, self._rows, self._length, self._pad_id)

    def take_counts(self, step: int) -> tuple[int, int]:
        return self.counts.pop(step)


class EvalBatches:
    """Validation batches in order, the last one filled with padding; can be iterated again and again."""

    def __init__(self, examples: Sequence[Example], *, rows: int, length: int, pad_id: int) -> None:
        self._examples, self._rows, self._length, self._pad_id = examples, rows, length, pad_id

    def __len__(self) -> int:
        return -(-len(self._examples) // self._rows)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._examples), self._rows):
            part = self._examples[start : start + self._rows]
            yield make_batch(part, self._rows, self._length, self._pad_id, weighted=False)
