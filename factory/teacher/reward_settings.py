"""What the teacher is rewarded for. Every part has its own weight and is off where it is null.

The formulas, and what each part is good for, stand in `docs/rewards.md`; `factory.teacher.rewards` computes them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from factory.parts import Name, Part
from factory.teacher.budget import TokenBudget, Weight
from filters.language import LANGUAGES


class FormatReward(Part):
    """Every tag of the style exactly once and in order: 1, otherwise 0.

    R1-Zero adds it to the accuracy with the same weight (arXiv 2501.12948, section 2.2.2). `when: correct` pays
    it with a correct answer alone, so that a model cannot live on tags.
    """

    weight: Weight = 1.0
    when: Literal["always", "correct"] = "always"


class LanguageReward(Part):
    """Words in the target language / words of the reasoning.

    R1 adds it to the accuracy (arXiv 2501.12948, section 2.3.2).
    """

    weight: Weight = 1.0
    when: Literal["always", "well_formed", "correct"] = "always"
    target: str | None = Field(None, description="target language; each prompt's own where null")

    @field_validator("target")
    @classmethod
    def _known_language(cls, value: str | None) -> str | None:
        if value is not None and value not in LANGUAGES:
            raise ValueError(f"unknown language {value!r}; there is {', '.join(sorted(LANGUAGES))}")
        return value


class RepetitionPenalty(Part):
    """A penalty of 0..-1 for n-grams of tokens that come back too often.

    The limits are those above which AM-DeepSeek-R1-Distilled drops a trace (arXiv 2503.19633).
    """

    weight: Weight
    ngram_tokens: int = Field(20, ge=1, le=1024)
    max_repeats: int = Field(20, ge=1, description="an n-gram may occur so often at no cost")


class Overlong(Part):
    """What becomes of a sample that was cut off at the length limit.

    `mask`: it leaves its group. `zero`: its answer counts as wrong. `penalise`: its answer counts as wrong, and
    a penalty grows from 0 to -weight over the last `buffer_tokens` before the limit, for samples that ended in
    time too (DAPO's soft overlong punishment, arXiv 2503.14476, equation 13).
    """

    mode: Literal["mask", "zero", "penalise"] = "mask"
    buffer_tokens: int | None = Field(None, ge=1, description="mode penalise alone; DAPO: 4,096 of 20,480")
    weight: Weight = Field(1.0, description="mode penalise alone")

    @model_validator(mode="after")
    def _buffer(self) -> Overlong:
        if self.mode == "penalise" and self.buffer_tokens is None:
            raise ValueError("mode penalise needs buffer_tokens")
        # Values, not which keys were given: a recipe that is written out whole gives all of them.
        idle = {"buffer_tokens": self.buffer_tokens is not None, "weight": self.weight != 1.0}
        if self.mode != "penalise" and (named := [name for name, given in idle.items() if given]):
            raise ValueError(f"{' and '.join(named)} has no meaning in mode {self.mode}")
        return self


class Preference(Part):
    """Scores of a scorer that is handed to the reward by its name.

    R1 switches them on for the last 400 of 1,700 steps: longer leads to reward hacking (arXiv 2501.12948v2).
    It asks reward models about general prompts and rules about the others: `prompts: general`.
    """

    weight: Weight
    from_step: int = Field(
        0,
        ge=0,
        description="first step that is scored; steps are counted from 0, as in `longer`, so this many come before",
    )
    scorer: Name
    prompts: Literal["all", "general"] = Field("all", description="general: prompts without a grader")


class Criterion(Part):
    """One criterion of a rubric."""

    text: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0.0, allow_inf_nan=False)


class Rubric(Preference):
    """Share of a rubric's weight that a language model finds met, 0..1.

    `criteria` and `guidance` are for `factory.teacher.rewards.RubricScorer`; another scorer has its own.
    """

    scorer: Name = "rubric"
    sees: Literal["summary", "response"] = "summary"
    criteria: list[str | Criterion] = Field(default_factory=list)
    guidance: str = Field("", description="what the judge should know about this domain")


class Rewards(Part):
    """The whole reward: the sum of its parts, each times its weight.

    An answer that cannot be graded through no fault of its own leaves its group, where a part asks how it was graded.
    """

    accuracy: Weight | None = Field(1.0, description="the verdict of the prompt's grader: 1 or 0")
    format: FormatReward | None = FormatReward()
    language: LanguageReward | None = None
    token_budget: TokenBudget | None = None
    repetition: RepetitionPenalty | None = None
    overlong: Overlong = Overlong()
    helpfulness: Preference | None = None
    harmlessness: Preference | None = None
    rubric: Rubric | None = None

    @field_validator("overlong", mode="before")
    @classmethod
    def _masked_by_default(cls, value: object) -> object:
        """What is cut off has to count as something: null is what the table of outcomes says, masked."""
        return Overlong() if value is None else value

    @model_validator(mode="after")
    def _sound(self) -> Rewards:
        paying = (
            self.format,
            self.language,
            self.token_budget,
            self.helpfulness,
            self.harmlessness,
            self.rubric,
        )
        if not self.accuracy and not any(part is not None and part.weight > 0 for part in paying):
            raise ValueError("no part of the reward is on that could pay anything")
        if self.accuracy is not None and self.format is not None and self.format.weight > self.accuracy:
            raise ValueError(
                f"format.weight ({self.format.weight:g}) is more than accuracy ({self.accuracy:g}): tags around a "
                "wrong answer would pay more than a right answer"
            )
        return self

    @property
    def needs_grade(self) -> bool:
        """True where some part depends on what the grader says."""
        gates = [part.when for part in (self.format, self.language) if part is not None]
        budget = self.token_budget is not None and self.token_budget.only_correct
        return self.accuracy is not None or "correct" in gates or budget

    def scorers(self) -> list[str]:
        """Names of the scorers that are asked at any step, each once."""
        return list(dict.fromkeys(part.scorer for part in self.preference_parts().values()))

    def preference_parts(self) -> dict[str, Preference]:
        """The parts that scorers are asked for at any step, by name."""
        parts = {
            "helpfulness": self.helpfulness,
            "harmlessness": self.harmlessness,
            "rubric": self.rubric,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def preferences(self, step: int) -> dict[str, Preference]:
        """The parts that scorers are asked for at a step, counted from 0, by name."""
        return {name: part for name, part in self.preference_parts().items() if step >= part.from_step}

    def weights(self, step: int) -> dict[str, float]:
        """The weight of every part that is on at a step, by name."""
        parts = {"format": self.format, "language": self.language, "repetition": self.repetition}
        weights = {} if self.accuracy is None else {"accuracy": self.accuracy}
        weights |= {name: part.weight for name, part in parts.items() if part is not None}
        if self.token_budget is not None:
            weights["token_budget"] = self.token_budget.weight_at(step)
        if self.overlong.mode == "penalise":
            weights["overlong"] = self.overlong.weight
        return weights | {name: part.weight for name, part in self.preferences(step).items()}
