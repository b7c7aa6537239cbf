"""What every part of a recipe has in common; a module of its own, so that parts can stand where they are used."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from distill.chat import parse_template
from filters.errors import UserError

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


Dtype = Literal["float32", "bfloat16"]


class Part(BaseModel):
    """A part of a recipe: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Held(Part):
    """What a training holds at a time. Nothing here changes what is computed, but `compute` its rounding."""

    compute: Dtype | None = Field(
        None, description="of forward and backward pass, and of sampling in RL; null: that of the weights"
    )
    remat: Literal["none", "layer"] = Field("none", description="layer: activations are computed twice")
    attention_chunk: int | None = Field(None, ge=16, description="queries that attend at a time; null: all")


def check_template(value: str) -> str:
    """A pydantic validator: the name of a template that can be read."""
    try:
        parse_template(value)
    except UserError as error:
        raise ValueError(str(error)) from error
    return value


class Sampling(Part):
    """How tokens are drawn. `temperature: 0` is greedy; `top_p: 1` and `top_k: 0` switch those off."""

    temperature: float = Field(1.0, ge=0.0, le=5.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0)
    max_new_tokens: int = Field(160, ge=1, le=131_072)


class JudgeSampling(Sampling):
    """How a judge's replies are drawn: greedily, and long enough to consider."""

    temperature: float = Field(0.0, ge=0.0, le=5.0)
    max_new_tokens: int = Field(512, ge=1, le=131_072)


class JudgeEngine(Part):
    """A language model that judges. Its replies are stored and paid once (`factory.judgements`)."""

    engine: Literal["gemma"] = "gemma"
    model: str
    template: str = "gemma:r1"
    sampling: JudgeSampling = JudgeSampling()
    batch_size: int = Field(16, ge=1, le=8192)
    prompt_length: int = Field(2048, ge=8, le=131_072, description="longer requests are left unanswered")

    _template = field_validator("template")(check_template)
