"""Settings of learning from a teacher's distribution, beside or instead of the likelihood of samples. No JAX here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from filters.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """A teacher's most probable tokens of every target, as `distill score` stored them.

    Attributes:
        scores: the file.
        share: of the divergence in the loss; the likelihood has the rest.
    """

    scores: str
    share: float = 0.5
    kind: Literal["top_k"] = "top_k"

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise UserError(f"the divergence's share of the loss must lie in (0, 1], got {self.share}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicy:
    """The student answers the data's questions, and the teacher's distribution corrects every token of it.

    What the data answers plays no part. A step asks `batch_size / samples` questions.

    Attributes:
        teacher: a model with the student's tokenizer.
        samples: answers a question.
        max_new_tokens: of an answer; one that is cut off is learnt from too, every token of it has a teacher's word.
        temperature: of sampling; the distributions are compared at temperature 1.
        rollout_rows: answers that are written at a time.
    """

    teacher: str
    samples: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    rollout_rows: int = 32
    kind: Literal["on_policy"] = "on_policy"

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "rollout_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.temperature >= 0.0 and math.isfinite(self.temperature)):
            raise UserError(f"temperature must not be negative, got {self.temperature}")


Distillation = TopK | OnPolicy
