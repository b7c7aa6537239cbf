"""Several completions in one row of fixed length, each as if it stood alone.

A row holds groups; a group is a prompt followed by completions (branches) that share it. A block mask lets each
token see the prompt and its own branch alone, and positions restart, so log-probabilities and gradients are
those of lone samples. A sliding window counts cells of the row: sharing a prompt is exact where a row is no
longer than the window. `pieces_of(..., share=False)` gives every completion its own copy of the prompt, which is
exact for any window. Importing this module loads no JAX.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_OPEN_ROWS = 64
Ids = Sequence[int] | np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A prompt and completions that share it in one row.

    Attributes:
        prompt: token ids, at least one.
        completions: token ids of each, the stop token included where the model wrote one.
        samples: the caller's number of each completion.
    """

    prompt: Ids
    completions: Sequence[Ids]
    samples: Sequence[int]

    @property
    def length(self) -> int:
        """Cells of a row that the piece takes: the prompt's last token stands at the head of every branch."""
        return len(self.prompt) - 1 + sum(map(len, self.completions))


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed rows, all of shape (rows, length).

    The prompt's last token stands at the head of every completion, because that is where the completion's
    first token is predicted; so the target of a cell is predicted in that very cell.

    Attributes:
        tokens, targets: int32 token ids; a target counts where `sample` is not -1.
        positions: int32, as if prompt and completion stood alone.
        group: int32, 1.. within a row; 0 is padding.
        branch: int32, 0 for the prompt, 1.. for its completions.
        sample: int32, the caller's number of the completion that the target belongs to, else -1.
        offset: int32, index of the target in its completion.
    """

    tokens: np.ndarray[Any, Any]
    targets: np.ndarray[Any, Any]
    positions: np.ndarray[Any, Any]
    group: np.ndarray[Any, Any]
    branch: np.ndarray[Any, Any]
    sample: np.ndarray[Any, Any]
    offset: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def trained(self) -> np.ndarray[Any, Any]:
        """Float32, 1 on completion targets (the stop token too)."""
        return (self.sample >= 0).astype(np.float32)

    def spread(self, values: Sequence[Sequence[float] | np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Values of every completion's tokens, by sample number, put into their cells; 0 elsewhere. Float32."""
        starts = np.cumsum([0, *map(len, values)])
        flat = np.concatenate([*(np.asarray(v, np.float32) for v in values), np.zeros(1, np.float32)])
        where = self.sample >= 0
        return np.where(where, flat[np.where(where, starts[self.sample] + self.offset, -1)], np.float32(0))

    def spread_samples(self, values: Sequence[float]) -> np.ndarray[Any, Any]:
        """One value a completion, put into all of its cells; 0 elsewhere. Float32."""
        padded = np.append(np.asarray(values, np.float32), np.float32(0))
        cells: np.ndarray[Any, Any] = padded[self.sample]
        return cells

    def gather(self, cells: np.ndarray[Any, Any], lengths: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """The inverse of `spread`: the cells of every completion, in order, as one array a sample number."""
        starts = np.cumsum([0, *lengths])
        flat = np.zeros((starts[-1], *cells.shape[2:]), cells.dtype)
        where = self.sample >= 0
        flat[starts[self.sample[where]] + self.offset[where]] = cells[where]
        return np.split(flat, starts[1:-1])


def pieces_of(
    prompt: Sequence[int],
    completions: Sequence[Sequence[int]],
    row: int,
    *,
    first_sample: int = 0,
    share: bool = True,
) -> Iterator[Piece]:
    """Divide a group into pieces that fit a row; a completion that fits no row is left out.

    Args:
        prompt: token ids, at least one.
        completions: token ids of each, the stop token included.
        row: cells of a row.
        first_sample: number of the first completion; the others follow.
        share: may completions share one copy of the prompt?
    """
    room = row - (len(prompt) - 1)
    held: list[Sequence[int]] = []
    numbers: list[int] = []
    used = 0
    for number, completion in enumerate(completions, start=first_sample):
        need = len(completion)
        if need > room:
            continue
        if held and (used + need > room or not share):
            yield Piece(prompt, held, numbers)
            held, numbers, used = [], [], 0
        held.append(completion)
        numbers.append(number)
        used += need
    if held:
        yield Piece(prompt, held, numbers)


def pack(pieces: Sequence[Piece], row: int, rng: np.random.Generator | None = None) -> Rows:
    """Pack pieces into rows.

    With `rng` in a random order, first fit over a window of open rows, and the rows are shuffled: for corpora.
    Without, the longest first and each into the fullest row that has room (best fit decreasing): for batches.
    """
    bins = _best_fit(pieces, row) if rng is None else _first_fit(pieces, row, rng)
    order = np.arange(len(bins)) if rng is None else rng.permutation(len(bins))
    return _fill([[pieces[n] for n in chosen] for chosen in bins], row, order)


def alone(pieces: Sequence[Piece], row: int) -> Rows:
    """Every piece in a row of its own, in order: what packing is compared with."""
    return _fill([[piece] for piece in pieces], row, np.arange(len(pieces)))


def _first_fit(pieces: Sequence[Piece], row: int, rng: np.random.Generator) -> list[list[int]]:
    bins: list[list[int]] = []
    open_bins: list[tuple[int, int]] = []  # (room, bin)
    for number in rng.permutation(len(pieces)):
        length = pieces[number].length
        for slot, (room, bin_id) in enumerate(open_bins):
            if room >= length:
                bins[bin_id].append(int(number))
                open_bins[slot] = (room - length, bin_id)
                break
        else:
            bins.append([int(number)])
            open_bins.append((row - length, len(bins) - 1))
            if len(open_bins) > _OPEN_ROWS:
                open_bins.remove(min(open_bins))
    return bins


def _best_fit(pieces: Sequence[Piece], row: int) -> list[list[int]]:
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # room -> bins, so that a step costs at most `row` look-ups
    for number in sorted(range(len(pieces)), key=lambda n: (-pieces[n].length, n)):
        length = pieces[number].length
        room = next((r for r in range(length, row + 1) if by_room.get(r)), None)
        if room is None:
            bins.append([number])
            by_room.setdefault(row - length, []).append(len(bins) - 1)
        else:
            bin_id = by_room[room].pop()
            bins[bin_id].append(number)
            by_room.setdefault(room - length, []).append(bin_id)
    return bins


def _fill(bins: Sequence[Sequence[Piece]], length: int, order: np.ndarray[Any, Any]) -> Rows:
    shape = (len(bins), length)
    tokens, targets, positions, groups, branches, offsets = (np.zeros(shape, np.int32) for _ in range(6))
    rows = Rows(tokens, targets, positions, groups, branches, np.full(shape, -1, np.int32), offsets)
    for row, chosen in zip(order, bins, strict=True):
        at = 0
        for group, piece in enumerate(chosen, start=1):
            at = _fill_piece(rows, int(row), at, group, piece)
    return rows


def _fill_piece(rows: Rows, row: int, at: int, group: int, piece: Piece) -> int:
    """Write a piece from cell `at` on; returns the cell behind it."""
    body, last = piece.prompt[:-1], piece.prompt[-1]
    end = at + len(body)
    rows.tokens[row, at:end] = body
    rows.positions[row, at:end] = range(len(body))
    rows.group[row, at:end] = group
    at = end
    numbered = zip(piece.completions, piece.samples, strict=True)
    for branch, (completion, sample) in enumerate(numbered, start=1):
        end = at + len(completion)
        rows.tokens[row, at:end] = [last, *completion[:-1]]
        rows.targets[row, at:end] = completion
        rows.positions[row, at:end] = range(len(body), len(body) + len(completion))
        rows.group[row, at:end], rows.branch[row, at:end] = group, branch
        rows.sample[row, at:end], rows.offset[row, at:end] = sample, range(len(completion))
        at = end
    return at


def attention_mask(group: Any, branch: Any) -> Any:
    """(B, L) group and branch numbers -> (B, L, L) bool: causal, own group, the prompt or the own branch."""
    import jax.numpy as jnp

    same_group = group[:, :, None] == group[:, None, :]
    visible = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    causal = jnp.tril(jnp.ones((group.shape[1], group.shape[1]), bool))
    return same_group & visible & causal
