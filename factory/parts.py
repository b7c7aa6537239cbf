"""What every part of a recipe has in common; a module of its own, so that parts can stand where they are used."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from distill.chat import parse_template
from filters.errors import UserError

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Part(BaseModel):
    """A part of a recipe: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_template(value: str) -> str:
    """A pydantic validator: the name of a template that can be read."""
    try:
        parse_template(value)
    except UserError as error:
        raise ValueError(str(error)) from error
    return value
