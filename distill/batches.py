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
        stages: of each example; the first epoch goes through them in ascending order, shuffled within each. None: one.
    """

    def __init__(self, n: int, seed: int, stages: np.ndarray[Any, Any] | None = None) -> None:
        self.n = n
        self.seed = seed
        self.stages = stages
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self.n)
        if epoch != self._epoch:
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch])).random_raw(self.n)
            self._permutation = np.argsort(bits, kind="stable")
            if epoch == 0 and self.stages is not None:
                by_stage = np.argsort(self.stages[self._permutation], kind="stable")
                self._permutation = self._permutation[by_stage]
            self._epoch = epoch
        return int(self._permutation[offset])


def length_stages(examples: Sequence[Example], count: int) -> np.ndarray[Any, Any]:
    """Stage 0 … count - 1 of every example, (n,): as many examples in each, the shortest in the first."""
    rank = np.empty(len(examples), np.int64)
    rank[np.argsort([len(example.ids) for example in examples], kind="stable")] = np.arange(len(examples))
    return rank * count // max(1, len(examples))


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
        further: what an objective wants of every cell beside these, (n, L, …).
    """

    rows: Rows
    weights: np.ndarray[Any, Any]
    total: float
    trained: int
    tokens: int
    further: tuple[np.ndarray[Any, Any], ...] = ()


def make_batch(examples: Sequence[Example], shape: RowShape, *, weighted: bool = True) -> Batch:
    """Pack examples; each sees itself alone."""
    pieces = [
        Piece(example.ids[: example.start], [example.ids[example.start :]], [number])
        for number, example in enumerate(examples)
    ]
    rows = (pack if shape.packed else alone)(pieces, shape.length)
    values = [example.mask[example.start :] * (example.weight if weighted else 1.0) for example in examples]
    weights = rows.spread(values)
    return Batch(
        rows,
        weights,
        float(weights.sum(dtype=np.float64)),
        int(np.count_nonzero(weights)),
        int((rows.group > 0).sum()),
        _top_tokens(rows, examples),
    )


def _top_tokens(rows: Rows, examples: Sequence[Example]) -> tuple[np.ndarray[Any, Any], ...]:
    """Ids (n, L, K) int32 and log-probabilities (n, L, K) float32 of a teacher's likeliest tokens, if it was asked."""
    tops = [example.top for example in examples if example.top is not None]
    if len(tops) < len(examples):
        return ()
    ids, logprobs = (
        np.stack([rows.spread([top[part][:, k] for top in tops]) for k in range(tops[0][part].shape[1])], -1)
        for part in (0, 1)
    )
    return ids.astype(np.int32), logprobs


class TrainStream:
    """Training batches of one run, from any step on.

    Tunix's trainer pulls and drops the batches it has seen; `skip` of them are None and cost nothing. The
    stream ends after the last step, or where `stop`, asked with the steps done before every other, says so.

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
        stop: Callable[[int], bool],
        short_first: int | None = None,
    ) -> None:
        self.skip = 0
        self.counts: dict[int, tuple[int, int]] = {}
        self._examples, self._shape, self._steps, self._stop = examples, shape, steps, stop
        stages = None if short_first is None else length_stages(examples, short_first)
        self._order = Order(len(examples), seed, stages)

    def __iter__(self) -> Iterator[Batch | None]:
        for _ in range(self.skip):
            yield None
        for step in range(self.skip, self._steps):
            if self._stop(step):
                return
            batch = self.batch(step)
            self.counts[step + 1] = (batch.trained, batch.tokens)
            yield batch

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        return make_batch(self.samples(step), self._shape)

    def samples(self, step: int) -> list[Example]:
        """What the batch of a step is made of."""
        first = step * self._shape.samples
        return [self._examples[self._order[first + i]] for i in range(self._shape.samples)]

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
    """Validation batches in order, none where there is nothing to validate on; can be iterated again and again."""

    def __init__(self, examples: Sequence[Example], shape: RowShape) -> None:
        self._examples, self._shape = examples, shape

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._examples), self._shape.samples):
            part = self._examples[start : start + self._shape.samples]
            yield make_batch(part, self._shape, weighted=False)
