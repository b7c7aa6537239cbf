"""What a recipe says of a fine-tuning: a student, or a stage of the teacher that is trained on a mix."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from distill.lora_settings import TARGETS, LoraConfig
from distill.train_settings import Layout
from factory.parts import Held, Name, Part, check_template
from factory.teacher.settings import Mesh
from filters.errors import UserError


class Lora(Part):
    """Low-rank adapters in place of the weights; see `distill.lora_settings.LoraConfig`."""

    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0.0, description="adapters count alpha / rank; null: twice the rank")
    targets: list[str] | None = Field(None, description="matrices by Hugging Face's names; null: all seven")
    weights: Literal["same", "nf4", "int8"] = Field(
        "same", description="how the matrices beside them are kept"
    )
    tile: int = Field(64, ge=1, description="inputs that share a scale, where they are quantised")

    @model_validator(mode="after")
    def _possible(self) -> Lora:
        try:
            self.settings()
        except UserError as error:
            raise ValueError(str(error)) from error
        return self

    def settings(self) -> LoraConfig:
        """As the trainer has them."""
        return LoraConfig(
            rank=self.rank,
            alpha=2.0 * self.rank if self.alpha is None else self.alpha,
            targets=tuple(TARGETS if self.targets is None else self.targets),
            weights=self.weights,
            tile=self.tile,
        )


class TopKTeacher(Part):
    """A teacher's likeliest tokens are stored for every token of the mix, and learnt beside it; `distill.loss`."""

    kind: Literal["top_k"]
    teacher: str
    top_k: int = Field(16, ge=1, description="tokens stored for every token")
    share: float = Field(0.5, gt=0.0, le=1.0, description="of the divergence in the loss")


class OnPolicyTeacher(Part):
    """The student answers the mix's questions, and the teacher's distribution corrects every token of it."""

    kind: Literal["on_policy"]
    teacher: str
    samples: int = Field(1, ge=1, description="answers a question")
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, ge=0.0, le=5.0)
    rollout_rows: int = Field(32, ge=1, description="answers that are written at a time")


Distillation = Annotated[TopKTeacher | OnPolicyTeacher, Field(discriminator="kind")]


class Student(Held):
    """A small Gemma fine-tuned on a mix, or on data that are there. `base` may be a model of this recipe too.

    `base` is as `distill train --student` has it, or `teacher:NAME` or `student:NAME`.
    """

    mix: Name | None = None
    data: str | None = Field(
        None, description="in place of a mix: Parquet or JSONL, or a Hub id, as `distill train` reads them"
    )
    base: str
    template: str = "gemma:r1"
    max_steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(32, ge=1, description="samples of an optimiser step")
    rows: int = Field(8, ge=1, description="packed rows of a micro-batch, over all devices")
    row_length: int | None = Field(
        None, ge=8, description="tokens of a row; null: those of the longest sample"
    )
    packing: bool = Field(True, description="several samples in a row; false: one in each")
    max_length: int = Field(256, ge=8)
    lora: Lora | None = Field(None, description="adapters; null: every weight is trained")
    distillation: Distillation | None = Field(
        None, description="learn from a teacher's distribution too; null: from the samples alone"
    )
    learning_rate: float = Field(1e-3, gt=0.0)
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0.0)
    short_first: int | None = Field(
        None, ge=1, description="stages by length in the first epoch, the shortest samples first"
    )
    eval_every: int = Field(0, ge=0)
    checkpoint_every: int = Field(100, ge=1)
    keep: int = Field(2, ge=1, description="checkpoints that stay")
    seed: int = 0

    _template = field_validator("template")(check_template)

    @model_validator(mode="after")
    def _one_source(self) -> Student:
        if (self.mix is None) == (self.data is None):
            raise ValueError("give mix or data, one of the two")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Student:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give max_steps or epochs, one of the two")
        if self.row_length is not None and self.row_length < self.max_length:
            raise ValueError(
                f"row_length ({self.row_length}) must hold a sample of max_length ({self.max_length})"
            )
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be less than max_steps ({self.max_steps})"
            )
        if isinstance(self.distillation, OnPolicyTeacher):
            if self.batch_size % self.distillation.samples:
                raise ValueError(
                    f"batch_size ({self.batch_size}) must be a multiple of distillation.samples "
                    f"({self.distillation.samples})"
                )
            if self.short_first is not None:
                raise ValueError("short_first orders samples, and on-policy distillation learns from none")
        return self

    def teacher(self) -> str | None:
        """The model whose distribution is learnt from."""
        return None if self.distillation is None else self.distillation.teacher


class SftStage(Student):
    """A stage of the teacher that is fine-tuned on a mix: R1's cold start, and its SFT on the curated set."""

    kind: Literal["sft"]


def layout_of(student: Student, mesh: Mesh | None) -> Layout:
    """Devices and memory of a training, as the trainer has them."""
    return Layout(
        rows=student.rows,
        row_length=student.row_length,
        packing=student.packing,
        fsdp=mesh.fsdp if mesh else 1,
        tp=mesh.tp if mesh else 1,
        compute=student.compute,
        remat=student.remat,
        attention_chunk=student.attention_chunk,
    )
