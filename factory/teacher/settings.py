"""What a stage of reinforcement learning does: the part of a recipe that `factory.teacher.grpo` runs. No JAX here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from factory.parts import Dtype, Held, Name, Part, check_template
from factory.teacher.chips import ChipName
from factory.teacher.reward_settings import Rewards

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Optimiser(Part):
    """AdamW behind a clip of the gradient's global norm.

    `steps` of warm-up and of the cosine are optimiser steps: with minibatches or inner epochs there are several in
    a step of RL.
    """

    learning_rate: Positive = 3e-6
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: down to a tenth at the end"
    )
    b1: float = Field(0.9, ge=0.0, lt=1.0)
    b2: float = Field(0.95, ge=0.0, lt=1.0)
    weight_decay: float = Field(0.0, ge=0.0)
    clip: Positive = 1.0


class LengthStep(Part):
    """From this step on a completion may have so many tokens. R1-Zero: 32,768, then 65,536 from step 8,200.

    `from_step` counts as those of the rewards do: it is the number of steps before.
    """

    from_step: int = Field(ge=1, description="first step with this limit; steps are counted from 0")
    max_new_tokens: int = Field(ge=1, le=131_072)


class DynamicSampling(Part):
    """Groups that teach nothing are dropped, and other prompts asked in their place (DAPO, arXiv 2503.14476, 3.2).

    A group teaches nothing where all its rewards are equal. A step draws at most `max_rounds` rounds, and `max_rounds`
    times its prompts; what is lacking then is lacking.
    """

    max_rounds: int = Field(4, ge=2, le=64)


class Mesh(Part):
    """Devices: parameters, samples and rows are divided among `fsdp`, matrix products among `tp`."""

    fsdp: int = Field(1, ge=1)
    tp: int = Field(1, ge=1)
    chip: ChipName | None = Field(
        None,
        description="what the devices are; a dry run then tells hours, and whether memory is enough",
    )

    @property
    def devices(self) -> int:
        return self.fsdp * self.tp


class Validation(Part):
    """Questions of the validation split, answered before the first step, every `every` steps, and at the end."""

    every: int = Field(50, ge=1)
    prompts: int = Field(64, ge=1)
    samples: int = Field(4, ge=1)


class Rl(Held):
    """One stage of GRPO.

    `prompts` questions are asked in a step, `samples` times each. R1-Zero: 32 × 16, lr 3e-6, KL 0.001, clip 10 (v2
    of the paper), T 1, a reference refreshed every 400 steps, one inner epoch over 16 minibatches.
    """

    template: str = "r1-zero"
    steps: int = Field(ge=1)
    prompts: int = Field(16, ge=1, le=65_536)
    samples: int = Field(16, ge=2, le=4096)
    learn_from: int | None = Field(
        None,
        ge=2,
        description="samples of a group that are learnt from, whose rewards differ most; null: all",
    )
    rewards: Rewards = Rewards()
    temperature: float = Field(1.0, gt=0.0, le=5.0)
    prompt_length: int = Field(256, ge=8, le=131_072, description="longer prompts are left out and counted")
    max_new_tokens: int = Field(1024, ge=1, le=131_072)
    longer: list[LengthStep] = Field(default_factory=list, description="limits that rise on the way")
    optimiser: Optimiser = Optimiser()
    minibatches: int = Field(1, ge=1, description="optimiser steps over the groups of one step")
    epochs: int = Field(1, ge=1, description="times that a step's samples are learnt from")
    clip_low: float = Field(0.2, gt=0.0)
    clip_high: float = Field(0.2, gt=0.0, description="above clip_low: clip-higher (DAPO)")
    kl: float = Field(0.001, ge=0.0, description="weight of k3 against the reference; 0 holds no reference")
    reference_every: int | None = Field(
        None, ge=1, description="the reference becomes the policy every so often"
    )
    aggregation: Literal["token-mean", "sequence-mean", "constant"] = "token-mean"
    advantages: Literal["std", "none"] = Field(
        "std", description="none: not divided by the deviation (Dr. GRPO)"
    )
    dynamic_sampling: DynamicSampling | None = None
    mask_zero_variance: bool = Field(True, description="groups that teach nothing take no part in the mean")
    row_length: int | None = Field(
        None, ge=16, description="cells of a packed row; null: prompt and completion"
    )
    rows: int = Field(8, ge=1, description="packed rows of a micro-batch, over all devices")
    rollout_batch: int = Field(256, ge=1, description="rows that are decoded together")
    validation: Validation | None = None
    checkpoint_every: int = Field(50, ge=1)
    mesh: Mesh = Mesh()
    dtype: Dtype = Field("float32", description="of weights, optimiser and gradients")
    seed: int = Field(0, ge=0, lt=2**31)
    noise: Name | None = Field(
        None,
        description="stages that are compared may share it: with equal seeds their samples are drawn with the same "
        "noise; null: the stage's own name",
    )

    _template = field_validator("template")(check_template)

    @model_validator(mode="after")
    def _sound(self) -> Rl:
        limits = [self.max_new_tokens, *(step.max_new_tokens for step in self.longer)]
        starts = [step.from_step for step in self.longer]
        if limits != sorted(limits) or starts != sorted(set(starts)):
            raise ValueError("longer: steps and limits must rise")
        if self.row_length is not None and self.row_length < self.longest:
            raise ValueError(
                f"row_length ({self.row_length}) must hold prompt_length and the longest completion ({self.longest})"
            )
        if self.learn_from is not None and self.learn_from > self.samples:
            raise ValueError(f"learn_from ({self.learn_from}) must not be more than samples ({self.samples})")
        if self.reference_every is not None and not self.kl:
            raise ValueError("reference_every without kl: there is no reference to refresh")
        if self.minibatches > self.prompts:
            raise ValueError(
                f"minibatches ({self.minibatches}) must not be more than prompts ({self.prompts}): they divide the "
                "groups of a step, and a prompt has one group"
            )
        self._check_starts()
        if (
            self.optimiser.warmup_steps >= self.steps * self.minibatches * self.epochs
            and self.optimiser.warmup_steps
        ):
            raise ValueError(
                f"optimiser.warmup_steps ({self.optimiser.warmup_steps}) must end before the run does"
            )
        return self

    def _check_starts(self) -> None:
        """What begins behind the last step never begins, and nobody would see that it did not."""
        starts = {f"longer.{number}.from_step": part.from_step for number, part in enumerate(self.longer)}
        starts |= {
            f"rewards.{name}.from_step": part.from_step
            for name, part in self.rewards.preference_parts().items()
        }
        for key, start in starts.items():
            if start >= self.steps:
                raise ValueError(
                    f"{key} ({start}) must be less than steps ({self.steps}): steps are counted from 0, so the last "
                    f"one is {self.steps - 1}"
                )

    @property
    def learnt_samples(self) -> int:
        """Samples of a group that an update takes at most."""
        return self.learn_from or self.samples

    @property
    def last_limit(self) -> int:
        """The longest completion of any step."""
        return self.longer[-1].max_new_tokens if self.longer else self.max_new_tokens

    @property
    def longest(self) -> int:
        """Cells that the longest sample takes in a row."""
        return self.prompt_length + self.last_limit

    def limit(self, step: int) -> int:
        """The longest completion at a step. It is counted from 1 here, as the trainer and its metrics do."""
        reached = [part.max_new_tokens for part in self.longer if part.from_step < step]
        return reached[-1] if reached else self.max_new_tokens
