"""Walks a recipe's stages. The whole road stands in `plan`; what each stage does, in `factory.stages`.

A stage is done when its manifest is there and its fingerprint fits: a hash over the stage's own settings and
the fingerprints of the stages it builds on. Finished stages are skipped; a half-finished one goes on where
it stopped; one whose settings changed stops the run until a person says what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory import stages
from factory.console import Reporter, duration
from factory.files import remove_temporaries, write_text
from factory.recipe import Recipe, dump_recipe, trained_stage
from factory.records import content_id
from factory.sources import check_source
from factory.stages import Context, StageResult
from factory.store import Run, stage_manifest
from factory.students import OnPolicyTeacher, SftStage, Student, TopKTeacher
from factory.teacher.scorer_settings import RewardModelSpec
from filters.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: "prompts", "select:filtered", …; the part before the colon is its kind.
        config: the settings that decide its result.
        upstream: names of the stages whose results it reads.
        work: does it, from wherever it stopped.
    """

    name: str
    config: Mapping[str, Any]
    upstream: tuple[str, ...]
    work: Callable[[Context], StageResult]

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    def matches(self, selector: str) -> bool:
        return selector in (self.name, self.kind)


def plan(recipe: Recipe) -> list[Stage]:
    """The stages of a recipe, in the order in which they run.

    Raises:
        UserError: stages that wait for each other.
    """
    road = [
        *_prompt_stage(recipe),
        *_teacher_stages(recipe),
        *_sampling_stages(recipe),
        *_reward_stages(recipe),
        *_mix_stages(recipe),
        *_student_stages(recipe),
    ]
    if recipe.evaluation:
        road.append(_evaluation_stage(recipe))
    road.append(Stage("report", {}, tuple(stage.name for stage in road), stages.report))
    return _ordered(road)


def _prompt_stage(recipe: Recipe) -> Iterator[Stage]:
    if recipe.prompts is not None:
        yield Stage("prompts", _config(recipe.prompts) | stages.prompt_files(recipe), (), stages.prompts)


def _teacher_stages(recipe: Recipe) -> Iterator[Stage]:
    for name, spec in recipe.teacher.items():
        config = _config(spec) | {"base_hash": stages.model_hash(spec.base)}
        upstream: tuple[str, ...]
        if isinstance(spec, SftStage):
            yield from _score_stage("teacher", name, spec)
            upstream, work = _taught_by("teacher", name, spec), stages.teach_sft(name)
            config |= stages.training_files(spec)
        else:
            config |= {"graders": stages.grader_versions()["graders"], "run_seed": recipe.seed}
            # What is asked belongs to the stage; a reward model is a stage of its own.
            asked = {scorer: recipe.scorers[scorer] for scorer in spec.rewards.scorers()}
            models = [n for n, scorer in asked.items() if isinstance(scorer, RewardModelSpec)]
            config |= {"scorers": {n: _config(s) for n, s in asked.items() if n not in models}}
            upstream, work = ("prompts", *(f"reward:{n}" for n in models)), stages.teach_rl(name)
        yield Stage(f"teach:{name}", config, (*upstream, *_trained(spec.base)), work)


def _reward_stages(recipe: Recipe) -> Iterator[Stage]:
    for name, spec in recipe.scorers.items():
        if isinstance(spec, RewardModelSpec):
            config = _config(spec) | {"base_hash": stages.model_hash(spec.base)} | stages.pairs_file(spec)
            upstream = (stage_name("generate", spec.of), *_trained(spec.base))
            yield Stage(f"reward:{name}", config, upstream, stages.reward_model(name))


def _sampling_stages(recipe: Recipe) -> Iterator[Stage]:
    # The policy chooses among verdicts that are there: it belongs to whoever selects by them.
    judging = _config(recipe.judge, leave_out=("workers", "policy"))
    judging |= stages.judge_model(recipe.judge.llm) | stages.grader_versions()
    for name, spec in stages.samplings(recipe).items():
        config = {"seed": recipe.seed} | _config(spec) | {"model_hash": stages.model_hash(spec.model)}
        upstream = ("prompts", *_trained(spec.model))
        yield Stage(stage_name("generate", name), config, upstream, stages.generate(name))
        if name is None or any(mix.of == name for mix in recipe.mixes.values()):
            yield Stage(
                stage_name("judge", name), judging, (stage_name("generate", name),), stages.judge(name)
            )


def _mix_stages(recipe: Recipe) -> Iterator[Stage]:
    # A mix that is cut to another's size is decided on after it.
    ordered = sorted(recipe.mixes, key=lambda name: recipe.mixes[name].select.same_size_as is not None)
    for name in ordered:
        mix = recipe.mixes[name]
        other = mix.select.same_size_as
        judged = stage_name("judge", mix.of)
        upstream = (judged, f"select:{other}") if other else (judged,)
        config = {"select": _config(mix.select), "seed": mix.seed, "policy": recipe.judge.policy}
        yield Stage(f"select:{name}", config, upstream, stages.select(name))
    for name in ordered:
        mix = recipe.mixes[name]
        yield Stage(
            f"mix:{name}", _config(mix) | stages.general_file(mix), (f"select:{name}",), stages.mix(name)
        )


def _student_stages(recipe: Recipe) -> Iterator[Stage]:
    for name, student in recipe.students.items():
        config = (
            _config(student) | {"base_hash": stages.model_hash(student.base)} | stages.training_files(student)
        )
        yield from _score_stage("student", name, student)
        upstream = (*_taught_by("student", name, student), *_trained(student.base))
        yield Stage(f"train:{name}", config, upstream, stages.train(name))


def _score_stage(kind: str, name: str, spec: Student) -> Iterator[Stage]:
    """What a teacher thinks of the samples, where a training learns that too."""
    own = spec.distillation
    if isinstance(own, TopKTeacher):
        config = _config(own, leave_out=("share",)) | {"teacher_hash": stages.model_hash(own.teacher)}
        config |= {"template": spec.template, "max_length": spec.max_length} | stages.training_files(spec)
        upstream = (*_data_of(spec), *_trained(own.teacher))
        yield Stage(f"score:{name}", config, upstream, stages.score(f"{kind}:{name}", spec))


def _evaluation_stage(recipe: Recipe) -> Stage:
    spec = recipe.evaluation
    assert spec is not None
    config = _config(spec)
    config["model_hashes"] = {m.name: stages.model_hash(m.model) for m in spec.models}
    config |= stages.judge_model(spec.judge) | {"graders": stages.grader_versions()["graders"]}
    trained = [stage for m in spec.models for stage in _trained(m.model)]
    return Stage("eval", config, ("prompts", *dict.fromkeys(trained)), stages.evaluate)


def _data_of(spec: Student) -> tuple[str, ...]:
    """The stage that makes what a model is trained on, where it is one of the recipe."""
    return () if spec.mix is None else (f"mix:{spec.mix}",)


def _taught_by(kind: str, name: str, spec: Student) -> tuple[str, ...]:
    """The stages that make what a model is trained on: samples, scores of them, a teacher."""
    match spec.distillation:
        case TopKTeacher():
            return (*_data_of(spec), f"score:{name}")
        case OnPolicyTeacher(teacher=teacher):
            return (*_data_of(spec), *_trained(teacher))
        case _:
            return _data_of(spec)


def _trained(model: str) -> tuple[str, ...]:
    """The stage that trains a model, where it is one of the recipe."""
    stage = trained_stage(model)
    return () if stage is None else (stage,)


def stage_name(kind: str, sampling: str | None) -> str:
    """Name of a stage of one sampling; the main one has none of its own."""
    return kind if sampling is None else f"{kind}:{sampling}"


def _ordered(road: Sequence[Stage]) -> list[Stage]:
    """Every stage behind those it builds on, otherwise in the order given.

    Raises:
        UserError: stages that wait for each other.
    """
    waiting, found = list(road), []
    done: set[str] = set()
    while waiting:
        ready = next((stage for stage in waiting if set(stage.upstream) <= done), None)
        if ready is None:
            names = ", ".join(stage.name for stage in waiting if stage.name != "report")
            raise UserError(
                f"these stages wait for each other: {names}; a model cannot be trained from its own samples"
            )
        waiting.remove(ready)
        found.append(ready)
        done.add(ready.name)
    return found


def _config(part: Any, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Settings that take part in a fingerprint; how many workers do the work does not."""
    dumped: dict[str, Any] = part.model_dump(mode="json", exclude=set(leave_out))
    return dumped


def fingerprints(road: Sequence[Stage]) -> dict[str, str]:
    """Fingerprint of every stage: its settings and those of everything it builds on."""
    found: dict[str, str] = {}
    for stage in road:
        upstream = {name: found[name] for name in stage.upstream}
        found[stage.name] = content_id({"stage": stage.name, "config": stage.config, "upstream": upstream})
    return found


@dataclass(frozen=True)
class Selection:
    """Which stages to run. `start` and `only` also redo stages that are done; `goal` takes what it builds on along."""

    start: str | None = None
    until: str | None = None
    only: str | None = None
    goal: str | None = None

    def asks_for(self, stage: Stage) -> bool:
        """Was this very stage asked to be redone? (Those behind it are redone because of it.)"""
        return any(selector is not None and stage.matches(selector) for selector in (self.start, self.only))

    def apply(self, road: Sequence[Stage]) -> tuple[list[Stage], set[str]]:
        """The stages to walk, and the names of those that may be redone.

        Raises:
            UserError: a selector that names no stage.
        """
        for selector in (self.start, self.until, self.only, self.goal):
            if selector is not None and not any(stage.matches(selector) for stage in road):
                names = ", ".join(stage.name for stage in road)
                raise UserError(f"there is no stage {selector!r} in this recipe; its stages are: {names}")
        if self.goal is not None:
            needed = needs(road, self.goal)
            return [stage for stage in road if stage.name in needed], set()
        if self.only is not None:
            chosen = [stage for stage in road if stage.matches(self.only)]
            return chosen, {stage.name for stage in chosen}
        # The report is derived from all the rest in seconds: it is made anew whenever it is walked.
        first = next((i for i, s in enumerate(road) if self.start and s.matches(self.start)), len(road) - 1)
        ends = [i for i, stage in enumerate(road) if self.until and stage.matches(self.until)]
        last = ends[-1] if ends else len(road) - 1
        return list(road[: last + 1]), {stage.name for stage in road[first:]}


@dataclass(frozen=True)
class Status:
    """Where a stage stands: "done", "to do", "changed" (and which keys), "missing" (a file is gone)."""

    state: str
    detail: str = ""


def status(run: Run | None, stage: Stage, fingerprint: str) -> Status:
    """Compare a stage with its manifest, if it has one."""
    manifest = run.manifest(stage.name) if run is not None else None
    if manifest is None:
        return Status("to do")
    if manifest["fingerprint"] == fingerprint:
        return Status("done")
    return Status("changed", _difference(manifest["config"], stage.config))


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Every key whose value changed, as `key: old -> new`."""
    before, after = dict(_flat(old)), dict(_flat(new))
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    if not changed:
        return "a stage before it changed"
    return ", ".join(f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in changed)


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for index, item in enumerate(value):
            yield from _flat(item, f"{prefix}.{index}")
    else:
        yield prefix, value


def execute(recipe: Recipe, folder: Path, selection: Selection, reporter: Reporter) -> Run:
    """Run a recipe's stages in `folder`, as far as `selection` says.

    Raises:
        UserError: bad input, a changed setting of a finished stage, a damaged file, another process at work.
    """
    road = plan(recipe)
    chosen, redo = selection.apply(road)
    check_sources(recipe)
    prints = fingerprints(road)
    run = Run.create(folder)
    with run.locked("pipeline"):
        context = Context(run, recipe, reporter, frozenset(s.name for s in chosen if selection.asks_for(s)))
        remove_temporaries(folder / "stages")
        _check(run, road, chosen, redo, prints)
        write_text(folder / "recipe.yaml", dump_recipe(recipe))
        for stage in chosen:
            if stage.name not in redo and status(run, stage, prints[stage.name]).state == "done":
                reporter.say(f"  {stage.name}: done before")
                continue
            _run_stage(context, stage, prints[stage.name], dependents(road, stage.name))
    return run


def check_sources(recipe: Recipe) -> None:
    """Tasks, settings and paths of every source, before any work.

    Raises:
        UserError: what is wrong with the first that does not fit.
    """
    for source in recipe.prompts.sources if recipe.prompts else ():
        check_source(source)
    for mix in recipe.mixes.values():
        stages.general_file(mix)


def _check(
    run: Run, road: Sequence[Stage], chosen: Sequence[Stage], redo: set[str], prints: Mapping[str, str]
) -> None:
    """Before any work: no finished stage changed unasked, and what the chosen stages read is there and whole."""
    names = {stage.name for stage in chosen}
    checked: set[str] = set()
    by_name = {stage.name: stage for stage in road}
    for stage in road:
        found = status(run, stage, prints[stage.name])
        if found.state == "changed" and stage.name in names - redo:
            raise UserError(
                f"stage {stage.name} of {run.folder} is done, but its settings changed ({found.detail}). "
                f"Set them back; or redo it and what follows with --from {stage.name} (finished samples are kept); or "
                f"choose another --run"
            )
    for stage in chosen:
        for name in stage.upstream:
            manifest = run.manifest(name)
            if name in names and name in redo:
                continue
            if manifest is None:
                if name not in names:
                    raise UserError(
                        f"stage {stage.name} needs stage {name}, which is not done in {run.folder}; run it first"
                    )
                continue
            if manifest["fingerprint"] != prints[name]:
                detail = _difference(manifest["config"], by_name[name].config)
                raise UserError(
                    f"stage {stage.name} needs stage {name}, whose settings changed since it was done ({detail}); "
                    f"redo it with --from {name}"
                )
            if name not in checked:
                run.check_outputs(manifest, content=True)
                checked.add(name)


def needs(road: Sequence[Stage], name: str) -> set[str]:
    """A stage and all that it builds on."""
    by_name = {stage.name: stage for stage in road}
    found, waiting = set(), [name]
    while waiting:
        stage = by_name[waiting.pop()]
        found.add(stage.name)
        waiting += [other for other in stage.upstream if other not in found]
    return found


def dependents(road: Sequence[Stage], name: str) -> list[str]:
    """A stage and all that builds on it, the last first."""
    found = {name}
    for stage in road:
        if found & set(stage.upstream):
            found.add(stage.name)
    return [stage.name for stage in reversed(road) if stage.name in found]


def _run_stage(context: Context, stage: Stage, fingerprint: str, undone: Sequence[str]) -> None:
    run = context.run
    started = time.time() - run.stopped_seconds(stage.name, fingerprint)
    # From here on the stage is not done, and neither is what builds on it. The last goes first: a crash in
    # between leaves no stage done over one that is not.
    for name in undone:
        run.manifest_path(name).unlink(missing_ok=True)
    try:
        with context.reporter.stage(stage.name):
            result = stage.work(context)
    except BaseException:
        run.stop_stage(stage.name, fingerprint, time.time() - started)
        raise
    if result.seconds is not None:
        started = time.time() - result.seconds
    outputs = run.describe_outputs(result.outputs)
    run.finish_stage(
        stage.name, stage_manifest(stage.name, fingerprint, stage.config, outputs, result.counts, started)
    )
    counts = ", ".join(
        f"{value:,} {key}" if isinstance(value, int) else f"{key} {value}"
        for key, value in result.counts.items()
    )
    context.reporter.say(f"  {stage.name}: {counts or 'done'} ({duration(time.time() - started)})")
