"""Examples in packed rows of fixed shapes, in an order that is a function of (seed, epoch) alone. No JAX here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.data import Example
from distill.packing import Piece, Rows, alone, pack

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


def row_length(longest: int, max_length: int) -> int:
    """Cells of a row where none are asked for: the longest example, rounded up to 16 tokens, at most `max_length`."""
    return min(max_length, -(-longest // _ROUND_TO) * _ROUND_TO)


@dataclass(frozen=True, slots=True)
class RowShape:
    """The compiled shape of a step.

    Attributes:
        samples: of a step.
        rows, length: of a micro-batch.
        packed: several samples in a row, or one in each.
    """

    samples: int
    rows: int
    length: int
    packed: bool = True

    @property
    def micros(self) -> int:
        """Micro-batches that a step can need: those of samples that all are as long as a row."""
        return -(-self.samples // self.rows)


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one step.

    Attributes:
        rows: the packed rows.
        weights: (n, L) float32; of targets that are trained on the example's weight, or 1 where they are counted
            alone, otherwise 0.
        total: the weights' sum.
        trained: targets whose weight is not 0.
        tokens: cells that are no padding.
    """

    rows: Rows
    weights: np.ndarray[Any, Any]
    total: float
    trained: int
    tokens: int


def make_batch(examples: Sequence[Example], shape: RowShape, *, weighted: bool = True) -> Batch:
    """Pack examples; each sees itself alone."""
    starts = [max(1, int(np.argmax(example.mask))) for example in examples]
    pieces = [
        Piece(example.ids[:start], [example.ids[start:]], [number])
        for number, (example, start) in enumerate(zip(examples, starts, strict=True))
    ]
    rows = (pack if shape.packed else alone)(pieces, shape.length)
    values = [
        example.mask[start:] * (example.weight if weighted else 1.0)
        for example, start in zip(examples, starts, strict=True)
    ]
    weights = rows.spread(values)
    return Batch(
        rows,
        weights,
        float(weights.sum(dtype=np.float64)),
        int(np.count_nonzero(weights)),
        int((rows.group > 0).sum()),
    )


class TrainStream:
    """Training batches of one run, from any step on.

    Tunix's trainer pulls and drops the batches it has seen; `skip` of them are None and cost nothing. The
    stream ends after the last step, or at the first step behind `stop()`.

    Attributes:
        skip: steps done before.
        counts: (tokens trained on, tokens that are no padding) of each step that was handed out and not yet
            taken by `take_counts`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        shape: RowShape,
        *,
        steps: int,
        seed: int,
        stop: Callable[[], bool],
    ) -> None:
        self.skip = 0
        self.counts: dict[int, tuple[int, int]] = {}
        self._examples, self._shape, self._steps, self._stop = examples, shape, steps, stop
        self._order = Order(len(examples), seed)

    def __iter__(self) -> Iterator[Batch | None]:
        for _ in range(self.skip):
            yield None
        for step in range(self.skip, self._steps):
            if self._stop():
                return
            batch = self.batch(step)
            self.counts[step + 1] = (batch.trained, batch.tokens)
            yield batch

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        first = step * self._shape.samples
        chosen = [self._examples[self._order[first + i]] for i in range(self._shape.samples)]
        return make_batch(chosen, self._shape)

    def take_counts(self, step: int) -> tuple[int, int]:
        return self.counts.pop(step)

    def fullness(self, samples: int = 512) -> tuple[float, float]:
        """Of the steps of the first samples: samples in a row, and the share of the cells that are no padding.

        Rows that fill up a micro-batch count as computed.
        """
        shape = self._shape
        batches = [self.batch(step) for step in range(min(-(-samples // shape.samples), self._steps))]
        rows = sum(len(batch.rows) for batch in batches)
        computed = sum(-(-len(batch.rows) // shape.rows) * shape.rows for batch in batches)
        tokens = sum(batch.tokens for batch in batches)
        return len(batches) * shape.samples / rows, tokens / (computed * shape.length)


class EvalBatches:
    """Validation batches in order; can be iterated again and again."""

    def __init__(self, examples: Sequence[Example], shape: RowShape) -> None:
        self._examples, self._shape = examples, shape

    def __len__(self) -> int:
        return -(-len(self._examples) // self._shape.samples)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._examples), self._shape.samples):
            part = self._examples[start : start + self._shape.samples]
            yield make_batch(part, self._shape, weighted=False)
