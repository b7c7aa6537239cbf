"""Evaluation suites: which questions, how they are asked, what is reported. Data in `datasets/suites/`.

A suite is also made from a source of the catalogue (its held-out questions), or from any file of questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from factory.catalogue_path import catalogue_dir
from factory.console import Reporter
from factory.judge import is_graded
from factory.measures import MEASURES
from factory.parts import JudgeEngine, Sampling
from factory.recipe import Splits
from factory.sources import (
    AnySource,
    HubSource,
    ReasoningGymSource,
    SourceSpec,
    catalogue_sources,
    load_catalogue_source,
    load_prompts,
    parse_source,
)
from factory.sources.config import DEFAULT_INSTRUCTIONS, nearest
from factory.sources.rows import BadRow
from filters.errors import UserError

R1_SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=32_768)
"""How DeepSeek-R1 was evaluated (arXiv 2501.12948, 3)."""

Split = Literal["test", "validation"]


class Suite(BaseModel):
    """A set of questions and the protocol they are asked by.

    Attributes:
        sources: where the questions come from; of a suite of the catalogue, splits for evaluation alone.
        n: samples a question. k: the k of pass@k and, where there is one answer to vote for, of maj@k.
        measures: what is reported beside pass@k: names in `factory.measures.MEASURES`.
        macro: also report pass@1 as the mean over domains (subjects).
        majority: report maj@k. Off where two right answers need not be alike.
        sampling: of the engine. prompt_length: longest prompt, in tokens.
        max_prompts: questions to ask, the first by their hash; all where null.
        split: of our own splits, the one that is asked. Sources for evaluation alone have no other than "test".
        note: what a reader of the figures must know; stands in the protocol.
        judge: grades what the rules of the kinds `judge` and `short_answer` leave open.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    n: int = Field(1, ge=1)
    k: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    measures: tuple[str, ...] = ()
    macro: bool = False
    majority: bool = True
    sampling: Sampling = R1_SAMPLING
    prompt_length: int = Field(1024, ge=8)
    max_prompts: int | None = Field(None, ge=1)
    split: Split = "test"
    note: str = ""
    judge: JudgeEngine | None = None

    @field_validator("measures")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in MEASURES:
                near = nearest(name, MEASURES)
                raise ValueError(f"unknown measure {name!r}" + (f"; did you mean {near!r}?" if near else ""))
        return names

    @model_validator(mode="after")
    def _k_within_n(self) -> Suite:
        if max(self.k) > self.n:
            raise ValueError(
                f"k goes up to {max(self.k)}, but there are only n = {self.n} samples a question"
            )
        return self

    @property
    def sealed(self) -> bool:
        """May no text of its questions be stored?"""
        return any(not isinstance(s, ReasoningGymSource) and s.sealed for s in self.sources)


@dataclass(frozen=True)
class Overrides:
    """What the command line says about every suite; None leaves a suite as it is."""

    n: int | None = None
    k: tuple[int, ...] | None = None
    split: Split | None = None
    max_prompts: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    prompt_length: int | None = None
    judge: str | None = None


def catalogue_suites() -> list[str]:
    """Names of the suites of the catalogue."""
    return sorted(path.stem for path in (catalogue_dir() / "suites").glob("*.yaml"))


def split_names(text: str) -> list[str]:
    """The suites that `--suite` names: separated by commas, unless a file has that whole name."""
    names = [text] if Path(text).exists() else [name.strip() for name in text.split(",")]
    found = list(dict.fromkeys(name for name in names if name))
    if not found:
        raise UserError(f"--suite names no suite; there is {', '.join(catalogue_suites())}")
    return found


def find_suite(name: str, *, seed: int = 0) -> Suite:
    """A suite of the catalogue, or of a YAML file; a source of the catalogue, with its held-out questions; or a
    file of questions.

    Args:
        seed: of questions that are generated.

    Raises:
        UserError: none of these, or its YAML is not valid.
    """
    if name in catalogue_suites():
        return _catalogue_suite(name)
    if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        return _read_suite(Path(name))
    if name in catalogue_sources():
        value = load_catalogue_source(name).model_dump(exclude_unset=True)
        return _plain(name, value | ({"seed": seed} if value["kind"] == "reasoning_gym" else {}))
    if Path(name).exists():
        return _plain(Path(name).stem, {"kind": "files", "path": name, "evaluation_only": True})
    known = [*catalogue_suites(), *catalogue_sources()]
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"there is {', '.join(catalogue_suites())}"
    raise UserError(f"there is no suite {name!r}, and no source or file of that name; {hint}")


def _plain(name: str, source: Mapping[str, Any]) -> Suite:
    """A suite around one source, asked like the recipes' own evaluations."""
    return Suite(
        name=name,
        sources=(parse_source(dict(source), name),),
        n=16,
        sampling=Sampling(temperature=1.0, max_new_tokens=160),
        prompt_length=256,
        max_prompts=200,
    )


def _catalogue_suite(name: str) -> Suite:
    path = catalogue_dir() / "suites" / f"{name}.yaml"
    suite = _read_suite(path)
    trained_on = [source.label for source in suite.sources if not source.for_evaluation]
    if suite.name != name or trained_on:
        fault = (
            f"{trained_on[0]} is not for evaluation alone" if trained_on else f"its name is {suite.name!r}"
        )
        raise UserError(f"{path}: {fault}")
    return suite


def _read_suite(path: Path) -> Suite:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    try:
        return Suite.model_validate(value)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {_sentence(detail)}" for detail in error.errors())) from error


def _sentence(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = nearest(str(detail["loc"][-1]), Suite.model_fields)
        return f"unknown key {key!r}" + (f"; did you mean {near!r}?" if near else "")
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def adapted(suite: Suite, overrides: Overrides) -> Suite:
    """The suite as the command line wants it.

    Raises:
        UserError: k above n, a value out of range, or a split where the suite has one of its own.
    """
    given = {key: value for key, value in vars(overrides).items() if value is not None}
    sampling = {key: given.pop(key) for key in Sampling.model_fields if key in given}
    if "split" in given and all(source.for_evaluation for source in suite.sources):
        raise UserError(f"suite {suite.name} asks its own split; leave --split out")
    if model := given.pop("judge", None):  # all else as the suite describes its judge
        described = {} if suite.judge is None else suite.judge.model_dump()
        given["judge"] = JudgeEngine.model_validate(described | {"model": model})
    value = {field: getattr(suite, field) for field in Suite.model_fields} | given
    value["sampling"] = suite.sampling.model_copy(update=sampling)
    if "k" not in given and "n" in given:  # fewer samples than asked for: the largest k there can be
        value["k"] = tuple(sorted({min(k, given["n"]) for k in suite.k}))
    try:
        return Suite.model_validate(value)
    except ValidationError as error:
        raise UserError(f"suite {suite.name}: {_sentence(error.errors()[0])}") from error


def with_local_copies(suites: Sequence[Suite], pairs: Sequence[str]) -> list[Suite]:
    """Suites whose sources are read from local copies, as NAME=PATH says; NAME is a source's, or its suite's.

    Raises:
        UserError: a pair that is none, a path that is not there, or a name that no suite uses.
    """
    copies = dict(_pair(pair) for pair in pairs)
    used: set[str] = set()

    def localised(suite: Suite) -> Suite:
        sources = []
        for source in suite.sources:
            names = {source.label} | ({suite.name} if len(suite.sources) == 1 else set())
            found = [name for name in copies if name in names]
            used.update(found)
            if found and not isinstance(source, HubSource):
                raise UserError(f"--local {found[0]}: {source.label} is not read from the Hub")
            sources.append(source.model_copy(update={"path": copies[found[0]]}) if found else source)
        return suite.model_copy(update={"sources": tuple(sources)})

    result = [localised(suite) for suite in suites]
    if unused := [name for name in copies if name not in used]:
        labels = ", ".join(dict.fromkeys(source.label for suite in suites for source in suite.sources))
        raise UserError(f"--local names {unused[0]!r}, which no suite asks; their sources are {labels}")
    return result


def _pair(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise UserError(f"--local wants NAME=PATH such as gsm8k=test.jsonl, got {text!r}")
    if not Path(path).exists():
        raise UserError(f"--local {text}: there is no file or folder {path}")
    return name, Path(path)


def suite_prompts(suite: Suite, reporter: Reporter) -> tuple[dict[str, Any], ...]:
    """The questions of a suite that can be graded, in the order of their hashes.

    Raises:
        UserError: a source that cannot be read, or no question that can be graded.
    """
    rows: dict[str, dict[str, Any]] = {}
    for source in suite.sources:
        bad: list[BadRow] = []
        prompts = load_prompts(_amount(suite, source), splits=Splits(), on_bad_row=bad.append, sealed_ok=True)
        for row in prompts:
            if row["split"] == suite.split and is_graded(row):
                rows.setdefault(row["prompt_id"], row)
        if bad:
            where = f"{bad[0].file}, line {bad[0].line}" if suite.sealed else str(bad[0])
            reporter.say(f"  {len(bad)} rows of {source.label} cannot be used; the first: {where}")
    if not rows:
        raise UserError(
            f"{suite.name} has no question of the {suite.split} split with a reference to grade against"
        )
    ordered = sorted(rows.values(), key=lambda row: (row["question_hash"], row["prompt_id"]))
    return tuple(ordered[: suite.max_prompts])


def _amount(suite: Suite, source: AnySource) -> AnySource:
    """A source that is not for evaluation alone is asked for its held-out questions, and no more than are wanted."""
    if source.for_evaluation or suite.max_prompts is None:
        return source
    return source.model_copy(update={"size": None, "quotas": {suite.split: suite.max_prompts}})


def suite_origin(suite: Suite) -> str:
    """Where the questions come from, for the protocol."""
    return " and ".join(_origin(source, suite.split) for source in suite.sources)


def _origin(source: AnySource, split: str) -> str:
    licence = f" ({source.licence})" if source.licence else ""
    if isinstance(source, HubSource):
        if source.local is not None:
            return f"{source.label}, split {source.split}, a local copy ({source.local.name}){licence}"
        configs = ", ".join(config for config in source.configs if config)
        at = f" at {source.revision}" if source.revision else ""
        return f"{source.repo}, {f'{configs}, ' if configs else ''}split {source.split}{at}{licence}"
    return f"{source.label}, {'all' if source.for_evaluation else f'the {split} split'}{licence}"


def suite_notes(suite: Suite, prompts: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What the protocol says about the answer instruction, and what the suite itself notes."""
    texts = dict.fromkeys(text for source in suite.sources for text in _instructions(source, prompts))
    said = [f'answer instruction "{text}"' if text else "no answer instruction" for text in texts]
    return (*said, *([suite.note] if suite.note else []))


def _instructions(source: AnySource, prompts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The source's own instruction, else those of the kinds of its questions."""
    if source.answer_instruction is not None:
        return [source.answer_instruction]
    kinds = {prompt["verifier"] for prompt in prompts if prompt["source"] == source.label}
    return [DEFAULT_INSTRUCTIONS[kind] for kind in sorted(kinds)]
