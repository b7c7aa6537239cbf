"""A recipe: one YAML file that says what a run does. Typed, validated, and complete before work starts.

Unknown keys are refused with the nearest known key and the line they stand on; ranges, names and paths are
checked before the first stage. The models below are the documentation of the format.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from factory.catalogue_path import catalogue_dir
from factory.parts import Dtype, JudgeEngine, Name, Part, Sampling, Share, check_template
from factory.sources import AnySource, ReasoningGymSource, SourceSpec
from factory.students import SftStage, Student
from factory.teacher.scorer_settings import RewardModelSpec, ScorerSpec
from factory.teacher.settings import Mesh, Rl
from filters.errors import UserError
from filters.language import LANGUAGES
from filters.tags import TAG_STYLES


class Splits(Part):
    """Shares of questions held out, by the hash of the question."""

    validation: Share = 0.05
    test: Share = 0.10

    @model_validator(mode="after")
    def _leave_something(self) -> Splits:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must be less than 1")
        return self


class Prompts(Part):
    """Where the questions come from."""

    sources: list[SourceSpec] = Field(min_length=1)
    splits: Splits = Splits()


class Generate(Part):
    """The teacher answers every training prompt `n` times.

    `model`: a folder, a shipped model, a Hub id, or `teacher:NAME`, a stage of this recipe's teacher.
    """

    engine: Literal["gemma"] = "gemma"
    model: str
    template: str = "gemma:r1"
    n: int = Field(8, ge=1, le=4096)
    sampling: Sampling = Sampling()
    batch_size: int = Field(64, ge=1, le=8192)
    prompt_length: int = Field(256, ge=8, le=131_072, description="longer prompts are left out and counted")
    prompts: Literal["all", "graded", "general"] = Field(
        "all", description="training prompts to answer; graded: with a grader, general: without one"
    )
    max_prompts: int | None = Field(None, ge=1, description="of these prompts, by their hashes")
    dtype: Dtype | None = Field(
        None,
        description="of weights and cache; null: float32",
    )

    _template = field_validator("template")(check_template)


class JudgeModel(JudgeEngine):
    """The judge of a run's candidates.

    `ask` says about which candidates: `unverifiable` by rule; also those that a rule `rejected`, to recover
    right answers in a form that it cannot read; or `all`, for the policy `intersection`.
    """

    ask: Literal["unverifiable", "rejected", "all"] = "unverifiable"


class JudgeVote(Part):
    """Prompts without a reference: a clear majority of a prompt's samples takes its place."""

    answers: Literal["math", "whole"] = Field(
        "math", description="the final answer: as maths finds it, or all"
    )
    min_share: float = Field(
        0.5, gt=0.0, le=1.0, description="of all samples, those without an answer included"
    )
    min_votes: int = Field(3, ge=2)


class Judge(Part):
    """Verdicts and signals for every candidate: by rules, and where asked for by a model and by vote.

    `policy` makes one verdict of several (the view `verdict`): the `first` that is one, in the order rules,
    judge, vote; correct where any grader says so (`union`); correct where all agree (`intersection`).
    """

    language: str | None = Field(None, description="target language; each prompt's own where null")
    llm: JudgeModel | None = None
    vote: JudgeVote | None = None
    policy: Literal["first", "union", "intersection"] = "first"

    @field_validator("language")
    @classmethod
    def _known_language(cls, value: str | None) -> str | None:
        if value is not None and value not in LANGUAGES:
            raise ValueError(f"unknown language {value!r}; there is {', '.join(sorted(LANGUAGES))}")
        return value

    workers: int = Field(2, ge=1, le=256)
    time_limit_s: float = Field(10.0, gt=0.0)
    memory_limit_mb: int = Field(1024, ge=128)


class Select(Part):
    """Thresholds. Each is off where it is null (or false); `{}` accepts everything that is not held out."""

    require_correct: bool = False
    require_format: bool = False
    require_reasoning: bool = False
    min_language_consistency: float | None = Field(None, ge=0.0, le=1.0)
    require_target_language: bool = False
    min_reasoning_tokens: int | None = Field(None, ge=0)
    max_reasoning_tokens: int | None = Field(None, ge=1)
    max_repetition: float | None = Field(None, ge=0.0, le=1.0)
    max_ngram_repeats: int | None = Field(None, ge=1)
    min_readability: float | None = Field(None, ge=0.0, le=1.0)
    drop_duplicates: bool = False
    min_pass_rate: float | None = Field(None, ge=0.0, le=1.0)
    max_pass_rate: float | None = Field(None, ge=0.0, le=1.0)
    max_per_prompt: int | None = Field(None, ge=1)
    max_samples: int | None = Field(None, ge=1)
    same_size_as: Name | None = Field(None, description="cut to the number of samples another mix accepted")

    @model_validator(mode="after")
    def _one_size(self) -> Select:
        if self.max_samples is not None and self.same_size_as is not None:
            raise ValueError("give max_samples or same_size_as, not both")
        return self


class GeneralGenerated(Part):
    """Plain instructions with known good answers, written by rule: for the tiny models."""

    kind: Literal["generated"] = "generated"
    seed: int = 0


class GeneralFile(Part):
    """Plain instruction data from a file with `messages`, or with `question` and `answer`."""

    kind: Literal["file"]
    path: Path
    licence: str = ""
    language: str = "en"


class General(Part):
    """The non-reasoning component. R1: 200k beside 600k, a share of one quarter of the whole."""

    source: Annotated[GeneralGenerated | GeneralFile, Field(discriminator="kind")] = GeneralGenerated()
    share: Share = 0.25
    max_samples: int | None = Field(None, ge=0)


class Mix(Part):
    """A set to train on: which candidates, which plain data, in which shape."""

    of: Name | None = Field(None, description="which of `samplings` it selects from; null: `generate`")
    select: Select = Select()
    general: General | None = None
    tag_style: str = "r1"
    validation: Share = 0.05
    seed: int = 0

    @field_validator("tag_style")
    @classmethod
    def _style(cls, value: str) -> str:
        if value not in TAG_STYLES:
            raise ValueError(f"unknown tag style {value!r}; there are {', '.join(TAG_STYLES)}")
        return value


class RlStage(Rl):
    """A stage of the teacher that learns by reinforcement: from a model, or from an earlier stage."""

    kind: Literal["rl"]
    base: str
    max_prompts: int | None = Field(None, ge=1, description="of the training prompts, by their hashes")
    domains: list[str] | None = Field(None, min_length=1, description="prompts of these domains alone")


TeacherStage = Annotated[SftStage | RlStage, Field(discriminator="kind")]


class Evaluated(Part):
    """A model to evaluate: a folder, a shipped model, or `student:NAME` or `teacher:NAME` of this run."""

    name: Name
    model: str
    template: str = "gemma:r1"

    _template = field_validator("template")(check_template)


class Evaluation(Part):
    """pass@1, pass@k and maj@k on the run's held-out prompts.

    `judge` grades what the rules of the kinds `judge` and `short_answer` leave open.
    """

    split: Literal["test", "validation"] = "test"
    models: list[Evaluated] = Field(min_length=1)
    n: int = Field(16, ge=1)
    k: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [1])
    sampling: Sampling = Sampling(temperature=1.0)
    max_prompts: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1)
    prompt_length: int = Field(256, ge=8)
    seed: int = 0
    judge: JudgeEngine | None = None

    @model_validator(mode="after")
    def _k_within_n(self) -> Evaluation:
        if max(self.k) > self.n:
            raise ValueError(f"k goes up to {max(self.k)}, but there are only n = {self.n} samples a prompt")
        return self


class Recipe(Part):
    """A whole run: prompts, the teacher's training, generation, judging, mixes, students, evaluation, report.

    Stages run in the order that their models ask for: a teacher's stage may be trained on a mix that was selected
    from the samples of an earlier one.
    """

    name: Name
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**31)
    mesh: Mesh | None = Field(
        None,
        description="devices of `generate`, `samplings` and fine-tuning; a stage of RL has its own",
    )
    hours: float | None = Field(
        None,
        gt=0.0,
        description="what a dry run holds the plan against",
    )
    prompts: Prompts | None = Field(
        None, description="may be left out where students are trained on data alone"
    )
    teacher: dict[Name, TeacherStage] = Field(default_factory=dict)
    scorers: dict[Name, ScorerSpec] = Field(default_factory=dict, description="what rewards may ask")
    samplings: dict[Name, Generate] = Field(default_factory=dict, description="beside `generate`, for mixes")
    generate: Generate | None = None
    judge: Judge = Judge()
    mixes: dict[Name, Mix] = Field(default_factory=dict)
    students: dict[Name, Student] = Field(default_factory=dict)
    evaluation: Evaluation | None = None

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        asking = {
            "teacher": any(isinstance(stage, RlStage) for stage in self.teacher.values()),
            "samplings": bool(self.samplings),
            "generate": self.generate is not None,
            "evaluation": self.evaluation is not None,
        }
        for part, asks in asking.items():
            if asks and self.prompts is None:
                raise ValueError(f"{part} needs prompts, and the recipe has none")
        for name, mix in self.mixes.items():
            if mix.of is None and self.generate is None:
                raise ValueError(f"mixes.{name} is of what generate samples, and the recipe has no generate")
        if self.prompts is None and not self.students:
            raise ValueError("give prompts, or students that are trained on data")
        return self

    @model_validator(mode="after")
    def _references(self) -> Recipe:
        for name, mix in self.mixes.items():
            other = mix.select.same_size_as
            if other is not None and (other not in self.mixes or other == name):
                raise ValueError(
                    f"mixes.{name}.select.same_size_as names {other!r}, which is no other mix of this recipe"
                )
            if other is not None and self.mixes[other].select.same_size_as is not None:
                raise ValueError(
                    f"mixes.{name}.select.same_size_as names {other!r}, which itself follows another mix"
                )
        for name, mix in self.mixes.items():
            if mix.of is not None and mix.of not in self.samplings:
                raise ValueError(f"mixes.{name}.of names {mix.of!r}; samplings are {_list(self.samplings)}")
        for name, scorer in self.scorers.items():
            if (
                isinstance(scorer, RewardModelSpec)
                and scorer.of is not None
                and scorer.of not in self.samplings
            ):
                raise ValueError(
                    f"scorers.{name}.of names {scorer.of!r}; samplings are {_list(self.samplings)}"
                )
        for name, stage in self.teacher.items():
            for asked in stage.rewards.scorers() if isinstance(stage, RlStage) else ():
                if asked not in self.scorers:
                    raise ValueError(
                        f"teacher.{name}.rewards names the scorer {asked!r}; there is {_list(self.scorers)}"
                    )
            if isinstance(stage, RlStage):
                self._check_general(name, stage)
        if twice := self.students.keys() & self.teacher.keys():
            raise ValueError(f"a student and a stage of the teacher are both called {sorted(twice)[0]!r}")
        for where, trained in self.trained():
            if isinstance(trained, Student) and trained.mix is not None and trained.mix not in self.mixes:
                raise ValueError(f"{where}.mix names {trained.mix!r}; there is {_list(self.mixes)}")
        for where, model in self.models():
            kind, _, name = model.partition(":")
            named: dict[str, Mapping[str, Any]] = {"student": self.students, "teacher": self.teacher}
            there = named.get(kind)
            if there is not None and name not in there:
                raise ValueError(f"{where} names the {kind} {name!r}; there is {_list(there)}")
        return self

    def _check_general(self, name: str, stage: RlStage) -> None:
        """A scorer of general prompts alone needs a source that can give some: it would be trained, and never asked."""
        sources = self.prompts.sources if self.prompts else ()
        if any(_may_be_general(source, stage.domains) for source in sources):
            return
        for part, asked in stage.rewards.preference_parts().items():
            if asked.prompts == "general":
                within = "" if stage.domains is None else f" in its domains ({', '.join(stage.domains)})"
                raise ValueError(
                    f"teacher.{name}.rewards.{part} is asked about prompts without a grader alone (prompts: general), "
                    f"and no source gives this stage one{within}: add a source with verifier: none, or say "
                    "prompts: all"
                )

    def trained(self) -> Iterator[tuple[str, Student | RlStage]]:
        """Every model that this recipe trains, with its place in the recipe."""
        yield from ((f"students.{name}", student) for name, student in self.students.items())
        yield from ((f"teacher.{name}", stage) for name, stage in self.teacher.items())

    def models(self) -> Iterator[tuple[str, str]]:
        """Every model that the recipe names, with its place in the recipe."""
        if self.generate is not None:
            yield "generate.model", self.generate.model
        yield from ((f"samplings.{name}.model", spec.model) for name, spec in self.samplings.items())
        for name, scorer in self.scorers.items():
            if isinstance(scorer, RewardModelSpec):
                yield f"scorers.{name}.base", scorer.base
        for where, trained in self.trained():
            yield f"{where}.base", trained.base
            if isinstance(trained, Student) and (teacher := trained.teacher()) is not None:
                yield f"{where}.distillation.teacher", teacher
        for model in self.evaluation.models if self.evaluation else ():
            yield f"evaluation.models.{model.name}", model.model

    def origin(self, model: str) -> str:
        """The model that a model of this recipe was trained from, in the end: a folder, a shipped model or a Hub id.

        Raises:
            ValueError: models of the recipe are trained from each other in a circle.
        """
        seen = [model]
        while trained_stage(model) is not None:
            kind, _, name = model.partition(":")
            model = (self.students[name] if kind == "student" else self.teacher[name]).base
            if model in seen:
                raise ValueError(f"{model} is trained from itself: {' <- '.join([*seen, model])}")
            seen.append(model)
        return model


def trained_stage(model: str) -> str | None:
    """The stage of a run that trains a model named `student:NAME` or `teacher:NAME`; None for any other model."""
    kind, colon, name = model.partition(":")
    stage = {"student": "train", "teacher": "teach"}.get(kind)
    return f"{stage}:{name}" if colon and stage else None


R1_STAGES = ("zero", "cold_start", "reasoning_rl", "sft", "align")
"""R1's own names of the teacher's stages, in their order; a recipe may have others."""


def teacher_stage(recipe: Recipe, name: str) -> str:
    """A stage of the recipe's teacher by its name; "r1" is the last of `R1_STAGES` that it has behind `zero`.

    Raises:
        UserError: it has none of that name.
    """
    if name in recipe.teacher:
        return name
    last = [stage for stage in R1_STAGES[1:] if stage in recipe.teacher]
    if name == "r1" and last:
        return last[-1]
    raise UserError(
        f"the teacher of recipe {recipe.name} has no stage {name!r}; it has {_list(recipe.teacher)}"
    )


def _may_be_general(source: AnySource, domains: Sequence[str] | None) -> bool:
    """Can a source give training prompts without a grader, in these domains, as far as its settings tell?

    Puzzles always have one, and so have the data sets of the catalogue that name theirs. In other data any row may
    lack a reference. Rows may also bring domains of their own, so only what a source says itself speaks against it.
    """
    if isinstance(source, ReasoningGymSource) or source.for_evaluation:
        return False
    if source.quotas is not None and not source.quotas.get("train"):
        return False
    if source.source is not None and source.verifier not in (None, "none"):
        return False
    return domains is None or source.domain is None or source.domain in domains


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"


# ------------------------------------------------------------------------------------------- loading


def find_recipe(name_or_path: str) -> Path:
    """A recipe of the catalogue by name, or any YAML file.

    Raises:
        UserError: neither; names the nearest recipe.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise UserError(f"there is no recipe file {path}")
    shipped = {p.stem: p for p in (catalogue_dir() / "recipes").glob("*.yaml")}
    if name_or_path in shipped:
        return shipped[name_or_path]
    near = difflib.get_close_matches(name_or_path, shipped, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there is {_list(shipped)}. A file ends in .yaml"
    raise UserError(f"there is no recipe {name_or_path!r}{hint}")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe file, with `a.b=value` overrides applied (values are YAML).

    Raises:
        UserError: every fault, one a line, with the line number it stands on.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a recipe is a mapping with keys such as name, prompts and generate")
    for override in overrides:
        _apply(value, override)
    return validate_recipe(value, str(path), node)


def validate_recipe(value: Mapping[str, Any], origin: str, node: yaml.Node | None = None) -> Recipe:
    """Validate a recipe given as plain values; `origin` and `node` place the messages."""
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        lines = [_message(detail, origin, node) for detail in error.errors()]
        raise UserError("\n".join(lines)) from error


def _apply(value: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set wants key=value such as generate.n=4, got {override!r}")
    *parents, last = key.split(".")
    here = value
    for parent in parents:
        child = here.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {override}: {parent!r} holds a {type(child).__name__}, not a mapping")
        here = child
    try:
        here[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not valid YAML") from error


def _message(detail: Any, origin: str, node: yaml.Node | None) -> str:
    """One validation error as a sentence: file, line, key, what is wrong, what was meant."""
    loc = tuple(part for part in detail["loc"] if isinstance(part, int) or not _is_tag(part))
    line = _line(node, loc)
    key = ".".join(str(part) for part in loc) or "the recipe"
    place = f"{origin}, line {line}" if line else origin
    if detail["type"] == "extra_forbidden":
        known = sorted(_known_keys(Recipe, loc[:-1]))
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{place}: unknown key {key!r}; {hint}"
    if detail["type"] == "missing":
        return f"{place}: {key!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    given = detail.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{place}: {key}: {message[0].lower()}{message[1:]}{shown}"


_SOURCE_TAGS = ("reasoning_gym", "files", "hub", "generated", "file")
_TEACHER_TAGS = ("sft", "rl", "reward_model", "rubric", "pattern", "tiny", "llm_judge")
_TAGS = frozenset((*_SOURCE_TAGS, *_TEACHER_TAGS))


def _is_tag(part: Any) -> bool:
    """Pydantic puts the chosen kind of a union into the location; a file has no such key."""
    return part in _TAGS


def _line(node: yaml.Node | None, loc: Sequence[Any]) -> int | None:
    """Line of the deepest key of `loc` that stands in the file."""
    if node is None:
        return None
    line: int | None = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                break
            key, node = found[0]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _known_keys(annotation: Any, loc: Sequence[Any]) -> set[str]:
    """Field names a recipe may have at `loc`, over all kinds that may stand there."""
    models = list(_models(annotation))
    if not loc:
        return {name for model in models for name in model.model_fields}
    head, rest = loc[0], loc[1:]
    keys: set[str] = set()
    for model in models:
        if head in model.model_fields:
            keys |= _known_keys(model.model_fields[head].annotation, rest)
    for item in _items(annotation):
        keys |= _known_keys(item, rest)
    return keys


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (Annotated, typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _models(argument)


def _items(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is list or origin is dict:
        yield typing.get_args(annotation)[-1]
    elif origin in (Annotated, typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _items(argument)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text
