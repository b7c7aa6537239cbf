"""Scorers that a recipe hands to its rewards: reward models it trains, a rubric and a judge, a pattern. No JAX here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from factory.parts import JudgeEngine, Name, Part, check_template


class TinyLabels(Part):
    """The rules that stand in for annotators on the tiny models' tasks (`factory.tiny.preferences`)."""

    kind: Literal["tiny"]


class JudgeLabels(JudgeEngine):
    """A language model labels the samples by a rubric; the share of it that is met is the label."""

    kind: Literal["llm_judge"]
    criteria: list[str] = Field(min_length=1)
    guidance: str = ""


class FilePairs(Part):
    """Pairs that exist already: JSONL with `question`, `chosen` and `rejected`."""

    kind: Literal["file"]
    path: Path


Labels = Annotated[TinyLabels | JudgeLabels | FilePairs, Field(discriminator="kind")]


class RewardModelSpec(Part):
    """A reward model, trained in this run on pairs of the run's own samples, or of a file.

    helpfulness: pairwise, sees the summary. harmlessness: pointwise, sees the whole response.
    """

    kind: Literal["reward_model"]
    purpose: Literal["helpfulness", "harmlessness"]
    base: str
    labels: Labels
    of: Name | None = Field(None, description="the sampling whose samples are compared; null: `generate`")
    per_question: int = Field(4, ge=1, description="pairs of one question, at most")
    template: str = Field(
        "gemma:r1", description="how question and text become a conversation of the reward model"
    )
    epochs: float = Field(1.0, gt=0.0)
    batch_size: int = Field(64, ge=1)
    max_length: int = Field(1024, ge=8)
    learning_rate: float = Field(1e-5, gt=0.0)
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0.0)
    centre: float = Field(0.0, ge=0.0)
    eval_every: int = Field(0, ge=0)
    keep_best: bool = False
    seed: int = 0

    _template = field_validator("template")(check_template)


class RubricSpec(JudgeEngine):
    """A language model that is asked about every criterion of the reward's `rubric`."""

    kind: Literal["rubric"]


class PatternSpec(Part):
    """1 for texts in which a regular expression is found, otherwise 0; the other way round where not `wanted`."""

    kind: Literal["pattern"]
    sees: Literal["summary", "response"]
    pattern: str = Field(min_length=1)
    wanted: bool = True


ScorerSpec = Annotated[RewardModelSpec | RubricSpec | PatternSpec, Field(discriminator="kind")]
