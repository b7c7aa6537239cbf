"""What a run would do: stages, counts, tokens, bytes of each device, hours, and what is done already.

Nothing is downloaded and no array is made. Stages of reinforcement are compiled where JAX is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory import pipeline
from factory.estimates import (
    generation_hours,
    reward_model_bytes,
    sampling_bytes,
    scorer_bytes,
    training_bytes,
    training_hours,
    training_tokens,
)
from factory.parts import JudgeEngine
from factory.recipe import RlStage, trained_stage
from factory.stages import samplings, without_downloads
from factory.store import Run
from factory.students import OnPolicyTeacher, Student
from factory.teacher.chips import CHIPS
from factory.teacher.scorer_settings import RewardModelSpec
from factory.teacher.settings import Mesh
from filters.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from factory.pipeline import Selection, Stage
    from factory.recipe import Recipe
    from factory.teacher.forecast import Memory


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a stage will take.

    Attributes:
        work: in words.
        peak: bytes of one device; None where nothing large is held.
        hours: None where no chip is named, or the counts are not known.
        mesh: the devices.
        memory: the breakdown, of reinforcement.
    """

    work: str
    peak: int | None = None
    hours: float | None = None
    mesh: Mesh | None = None
    memory: Memory | None = None


def print_plan(recipe: Recipe, folder: Path, selection: Selection) -> None:
    """Print the plan of a run as tables.

    Raises:
        UserError: whatever would stop the run before its first stage: a missing model, an unknown stage.
    """
    from rich.console import Console
    from rich.table import Table

    pipeline.check_sources(recipe)
    with without_downloads():
        road = pipeline.plan(recipe)
    chosen, redo = selection.apply(road)
    names = {stage.name for stage in chosen}
    prints = pipeline.fingerprints(road)
    run = Run.open(folder) if (folder / "run.json").exists() else None
    console = Console(highlight=False, emoji=False)
    console.print(f"[bold]{recipe.name}[/bold] in {folder}. {recipe.description}")
    table = Table("stage", "state", "to come", "memory", "hours", show_edge=False)
    counts = expected_counts(recipe, run)
    outlooks = {stage.name: _outlook(recipe, stage, counts) for stage in road}
    for stage in road:
        found = outlooks[stage.name]
        table.add_row(
            stage.name,
            _state(run, stage, prints[stage.name], names, redo),
            found.work,
            "" if found.peak is None else _bytes(found.peak),
            "" if found.hours is None else _hours(found.hours),
        )
    console.print(table)
    console.print(
        "Tokens and hours are upper bounds (every sample at its longest); memory is of one device: weights, caches, "
        "activations and logits."
    )
    _print_memory(console, outlooks)
    _print_budget(console, recipe, [outlooks[name] for name in names])
    for line in _warnings(recipe, outlooks):
        console.print(line)


def _print_memory(console: Console, outlooks: Mapping[str, Outlook]) -> None:
    """Where the bytes of the stages of reinforcement go."""
    from rich.table import Table

    known = {name: found for name, found in outlooks.items() if found.memory is not None}
    if not known:
        return
    table = Table("one device", *known, show_edge=False)
    memories = [found.memory for found in known.values() if found.memory is not None]
    table.add_row("mesh", *(_mesh(found.mesh) for found in known.values() if found.mesh is not None))
    for name in ("weights", "optimiser", "reference", "scorers", "update", "rollout", "scoring", "peak"):
        table.add_row(name, *(_bytes(getattr(memory, name)) for memory in memories))
    table.add_row("found by", *(memory.how for memory in memories))
    console.print()
    console.print(table)
    console.print(
        "Peak: weights, optimiser, reference, scorers (models that rewards ask, whole, on the first device), and the "
        "largest of update (gradients, activations), rollout (its copy of the weights, the cache) and scoring (a "
        "scorer's activations, by a formula). Compiled for CPU devices: temporaries are an upper estimate "
        "(docs/tpu.md)."
    )


def _print_budget(console: Console, recipe: Recipe, outlooks: Iterable[Outlook]) -> None:
    """The sum of the hours, and whether it is within the recipe's."""
    hours = [found.hours for found in outlooks if found.hours is not None]
    if not hours:
        return
    total = sum(hours)
    line = f"{_hours(total)} hours in all, at most, without compiling, loading, grading and saving"
    if recipe.hours is not None:
        line += f"; the recipe allows {recipe.hours:g}: " + (
            "it fits" if total <= recipe.hours else "too long"
        )
    console.print(line + ".")


def _warnings(recipe: Recipe, outlooks: Mapping[str, Outlook]) -> list[str]:
    """Models that are not here yet, and stages that a chip cannot hold."""
    from distill.gemma.sizes import is_downloaded

    wanted = [model for _, model in recipe.models()]
    for scorer in recipe.scorers.values():
        judge = scorer.labels if isinstance(scorer, RewardModelSpec) else scorer
        wanted += [judge.model] if isinstance(judge, JudgeEngine) else []
    wanted += [] if recipe.judge.llm is None else [recipe.judge.llm.model]
    plain = dict.fromkeys(model for model in wanted if trained_stage(model) is None)
    lines = [f"{model}: not downloaded yet" for model in plain if not is_downloaded(model)]
    for name, found in outlooks.items():
        chip = None if found.mesh is None else found.mesh.chip
        if chip is not None and found.peak is not None and found.peak > CHIPS[chip].memory:
            lines.append(
                f"{name} does not fit: {_bytes(found.peak)}, a {chip} has {_bytes(CHIPS[chip].memory)}"
            )
    return lines


def _mesh(mesh: Mesh) -> str:
    size = f"fsdp {mesh.fsdp} × tp {mesh.tp}"
    return size if mesh.chip is None else f"{size}, {mesh.chip}"


def _state(run: Run | None, stage: Stage, fingerprint: str, names: set[str], redo: set[str]) -> str:
    found = pipeline.status(run, stage, fingerprint)
    if stage.name not in names:
        return f"{found.state}, not chosen"
    if stage.name in redo and found.state != "to do":
        return f"{found.state}, to be redone"
    return f"{found.state}: {found.detail}" if found.detail else found.state


def expected_counts(recipe: Recipe, run: Run | None) -> dict[str, int | None]:
    """Prompts and candidates: from the run where it has them, else from the recipe, else unknown."""
    training: int | None = None
    if run is not None and run.manifest("prompts") is not None:
        table = run.read("prompts", ["split", "evaluation_only"]).to_pylist()
        training = sum(row["split"] == "train" and not row["evaluation_only"] for row in table)
        return {"prompts": len(table), "training": training}
    prompts: int | None = 0
    training = 0
    if recipe.prompts is None:
        return {"prompts": prompts, "training": training}
    held_out = recipe.prompts.splits.validation + recipe.prompts.splits.test
    for source in recipe.prompts.sources:
        if prompts is None or training is None:
            break
        if source.quotas is not None:
            prompts += sum(source.quotas.values())
            training += source.quotas.get("train", 0)
        elif source.size is not None:
            prompts += source.size
            training += round(source.size * (1 - held_out))
        else:
            prompts = training = None
    return {"prompts": prompts, "training": training}


def _outlook(recipe: Recipe, stage: Stage, counts: Mapping[str, int | None]) -> Outlook:
    training = counts["training"]
    own = stage.name.partition(":")[2]
    match stage.kind:
        case "prompts":
            return Outlook(_number(counts["prompts"], "prompts"))
        case "reward":
            return _reward_model(recipe, own)
        case "teach":
            return _teaching(recipe, own, training)
        case "generate":
            return _generation(recipe, own or None, training)
        case "judge" | "select":
            return _judging(recipe, stage, own, training)
        case "train":
            return _training(recipe, recipe.students[own], training)
        case "eval":
            return _evaluation(recipe, counts)
        case _:
            return Outlook("")


def _teaching(recipe: Recipe, name: str, training: int | None) -> Outlook:
    from factory.teacher.forecast import forecast

    stage = recipe.teacher[name]
    if not isinstance(stage, RlStage):
        return _training(recipe, stage, training)
    try:
        found = forecast(stage, recipe.origin(stage.base))
    except UserError as error:
        raise UserError(f"teacher.{name}: {error}") from error
    hours = None if found.hours is None else found.hours.total
    scorers, scoring = scorer_bytes(stage, recipe)
    memory = replace(found.memory, scorers=scorers, scoring=scoring)
    return Outlook(found.work, memory.peak, hours, stage.mesh, memory)


def _training(recipe: Recipe, student: Student, training: int | None) -> Outlook:
    base = recipe.origin(student.base)
    tokens = training_tokens(student, recipe, training)
    length = f"{student.max_steps:,} steps" if student.max_steps else f"{student.epochs:g} epochs"
    work = length if tokens is None else f"{length}, {tokens:,.0f} tokens at most"
    hours = training_hours(student, base, recipe, training)
    own = student.distillation
    teacher = recipe.origin(own.teacher) if isinstance(own, OnPolicyTeacher) else None
    return Outlook(work, training_bytes(student, base, recipe.mesh, teacher), hours, recipe.mesh)


def _reward_model(recipe: Recipe, name: str) -> Outlook:
    """On one device, whatever the recipe's mesh; how many pairs there will be is not known."""
    scorer = recipe.scorers[name]
    assert isinstance(scorer, RewardModelSpec)
    work = f"{scorer.epochs:g} epochs over pairs of its sampling"
    one = Mesh(chip=None if recipe.mesh is None else recipe.mesh.chip)
    return Outlook(work, reward_model_bytes(scorer, recipe.origin(scorer.base)), None, one)


def _generation(recipe: Recipe, name: str | None, training: int | None) -> Outlook:
    spec = samplings(recipe)[name]
    samples = None if training is None else min(training, spec.max_prompts or training) * spec.n
    tokens = None if samples is None else samples * spec.sampling.max_new_tokens
    peak = sampling_bytes(
        recipe.origin(spec.model),
        spec.batch_size,
        spec.prompt_length + spec.sampling.max_new_tokens,
        mesh=recipe.mesh,
        dtype=spec.dtype or "float32",
    )
    work = f"{_number(samples, 'samples')}, {_number(tokens, 'tokens at most')}"
    return Outlook(work, peak, generation_hours(spec, recipe, samples), recipe.mesh)


def _judging(recipe: Recipe, stage: Stage, own: str, training: int | None) -> Outlook:
    sampled = recipe.mixes[own].of if stage.kind == "select" else own or None
    spec = samplings(recipe)[sampled]
    asked_n = None if training is None else min(training, spec.max_prompts or training) * spec.n
    candidates = _number(asked_n, "candidates")
    llm = recipe.judge.llm
    if llm is None or stage.kind == "select":
        return Outlook(candidates)
    length = llm.prompt_length + llm.sampling.max_new_tokens
    asked = {"unverifiable": "what rules cannot verify", "rejected": "what rules do not accept"}
    about = asked.get(llm.ask, "every answer")
    return Outlook(
        f"{candidates}; {llm.model} is asked about {about}",
        sampling_bytes(llm.model, llm.batch_size, length),
    )


def _evaluation(recipe: Recipe, counts: Mapping[str, int | None]) -> Outlook:
    """On one device, whatever the recipe's mesh."""
    from distill.gemma.sizes import model_shape
    from factory.teacher.forecast import sample_hours

    spec = recipe.evaluation
    assert spec is not None
    total, training = counts["prompts"], counts["training"]
    held_out = None if total is None or training is None else total - training
    if spec.max_prompts is not None and held_out is not None:
        held_out = min(held_out, spec.max_prompts)
    samples = None if held_out is None else held_out * spec.n * len(spec.models)
    length = spec.prompt_length + spec.sampling.max_new_tokens
    known = {recipe.origin(m.model) for m in spec.models}
    memory = [sampling_bytes(m, spec.batch_size, length) for m in known]
    work = _number(samples, "samples")
    if spec.judge is not None:  # loaded when the model is gone
        work += f"; {spec.judge.model} is asked about what rules cannot verify"
        length = spec.judge.prompt_length + spec.judge.sampling.max_new_tokens
        memory.append(sampling_bytes(spec.judge.model, spec.judge.batch_size, length))
    one = Mesh(chip=None if recipe.mesh is None else recipe.mesh.chip)
    hours = None
    if samples is not None and one.chip is not None:
        new = spec.sampling.max_new_tokens
        drawn = [
            sample_hours(
                samples // len(spec.models),
                model_shape(recipe.origin(m.model)),
                one,
                rows=spec.batch_size,
                prompt=spec.prompt_length,
                new=new,
                dtype="float32",
            )
            for m in spec.models
        ]
        hours = sum(part or 0.0 for part in drawn)
    return Outlook(work, max(memory), hours, one)


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _number(value: int | None, noun: str) -> str:
    return f"{value:,} {noun}" if value is not None else f"{noun}: known once the prompts are read"


def _bytes(value: Any) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"
