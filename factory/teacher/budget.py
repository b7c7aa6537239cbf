"""A reward on the length of the reasoning that follows a schedule, as a learning rate does.

First it pays for a medium to high number of reasoning tokens, so that a base model learns to think at all; later
it pulls back to a medium number, so that it does not ramble. Everything is counted in tokens.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.parts import Part

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
"""Weight of a part of the reward. With 0 the part is measured and logged, and pays nothing."""

Band = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]


class TokenBudget(Part):
    """A band of reasoning tokens that moves over training, and how much it pays to stay in it.

    With s for the step, counted from 0, and n for the reasoning tokens of a sample:

        w(s) = weight · min(1, s / warmup_steps)                                   weight where warmup_steps is 0
        p(s) = clip((s - warmup_steps - plateau_steps) / decay_steps, 0, 1)   a jump where decay_steps is 0
        q(s) = p                            decay: linear
               (1 - cos(π p)) / 2           decay: cosine
        low(s)  = high_band.low + q · (medium_band.low - high_band.low)            high(s) likewise
        d(n, s) = max(low(s) - n, n - high(s), 0)                                  tokens outside the band
        R(n, s) = max(0, 1 - d / softness)                                         0 outside where softness is 0

    R is in 0..1 and is what is logged; w(s) · R is what is paid. With `only_correct` a wrong answer gets R = 0.

    The closest published relative, LCPO (arXiv 2503.04697), rewards closeness to a length that the prompt asks for.
    The moving band is ours.
    """

    weight: Weight
    high_band: Band = Field(description="tokens wanted first: lowest, highest")
    medium_band: Band = Field(description="tokens wanted in the end: lowest, highest")
    warmup_steps: int = Field(0, ge=0, description="steps in which the weight rises from 0")
    plateau_steps: int = Field(0, ge=0, description="steps at full weight in the high band")
    decay_steps: int = Field(0, ge=0, description="steps in which the band moves from high to medium")
    decay: Literal["linear", "cosine"] = "linear"
    softness: int = Field(0, ge=0, description="tokens outside the band over which the reward falls to 0")
    only_correct: bool = Field(True, description="pay for correct answers alone")

    @model_validator(mode="after")
    def _bands(self) -> TokenBudget:
        for name, (low, high) in (("high_band", self.high_band), ("medium_band", self.medium_band)):
            if low > high:
                raise ValueError(f"{name} goes from low to high, got {low} and {high}")
        if self.medium_band[0] > self.high_band[0] or self.medium_band[1] > self.high_band[1]:
            raise ValueError(
                f"the schedule pulls back from high to medium, but medium_band {self.medium_band} lies above "
                f"high_band {self.high_band}"
            )
        if self.softness > self.medium_band[0] or self.medium_band[0] == 0:
            raise ValueError(
                f"a sample without reasoning would be paid: medium_band must begin above 0 and softness "
                f"({self.softness}) must not exceed its lower edge ({self.medium_band[0]})"
            )
        return self

    def weight_at(self, step: int) -> float:
        """w(step)."""
        return self.weight * (min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0)

    def band_at(self, step: int) -> tuple[float, float]:
        """low(step) and high(step), in tokens."""
        moved = self._moved(step)
        # Written so that an edge that does not move is the same float at every step.
        low, high = (
            first + moved * (last - first)
            for first, last in zip(self.high_band, self.medium_band, strict=True)
        )
        return low, high

    def _moved(self, step: int) -> float:
        """q(step): how far the band has moved, 0..1."""
        since = step - self.warmup_steps - self.plateau_steps
        if not self.decay_steps:
            return float(since >= 0)
        progress = min(1.0, max(0.0, since / self.decay_steps))
        return progress if self.decay == "linear" else (1.0 - math.cos(math.pi * progress)) / 2.0


def budget_reward(budget: TokenBudget, reasoning_tokens: int, step: int) -> float:
    """R(n, s) of `TokenBudget`, in 0..1: neither weighted nor gated by the answer.

    Args:
        reasoning_tokens: n.
        step: training step, counted from 0.
    """
    low, high = budget.band_at(step)
    outside = max(low - reasoning_tokens, reasoning_tokens - high, 0.0)
    if not outside:
        return 1.0
    return max(0.0, 1.0 - outside / budget.softness) if budget.softness else 0.0
