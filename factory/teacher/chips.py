"""Accelerators as a forecast sees them: how fast they multiply, how much they hold, how fast they read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ChipName = Literal["v5e", "v6e", "v5p", "h100"]


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip: bfloat16 FLOP/s, bytes of memory, bytes/s of reading it. The makers' figures."""

    flops: float
    memory: int
    bandwidth: float


CHIPS: dict[ChipName, Chip] = {
    "v5e": Chip(197e12, 16 * 10**9, 819e9),
    "v6e": Chip(918e12, 32 * 10**9, 1638e9),
    "v5p": Chip(459e12, 95 * 10**9, 2765e9),
    "h100": Chip(989e12, 80 * 10**9, 3350e9),
}

UTILISATION = 0.3
"""Share of the FLOP/s that an update reaches: 30 % on an H200 with Gemma 3 1B (`benchmarks/bench_chip.py`). MaxText's
Gemma 3 12B, with an attention kernel, at 32k on v6e: 38 %."""

READING = 0.6
"""Share of the bandwidth that decoding reaches: an assumption. On an H200 it was 32 %, which is 1.8 ms a token beside
the reading; the same time beside a v5e's slower reading would make 73 %."""
