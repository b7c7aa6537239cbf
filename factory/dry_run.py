"""What a run would do: stages, counts, tokens, memory, and what is done already. Needs no JAX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory import pipeline
from factory.recipe import Student
from factory.stages import samplings
from factory.store import Run

if TYPE_CHECKING:
    from factory.pipeline import Selection, Stage
    from factory.recipe import Recipe, TeacherStage

_FLOAT = 4  # bytes: the models of a run are held in fp32
_ADAM_COPIES = 4  # weights, gradients, two moments


def print_plan(recipe: Recipe, folder: Path, selection: Selection) -> None:
    """Print the plan of a run as a table.

    Raises:
        UserError: whatever would stop the run before its first stage: a missing model, an unknown stage.
    """
    from rich.console import Console
    from rich.table import Table

    pipeline.check_sources(recipe)
    road = pipeline.plan(recipe)
    chosen, redo = selection.apply(road)
    names = {stage.name for stage in chosen}
    prints = pipeline.fingerprints(road)
    run = Run.open(folder) if (folder / "run.json").exists() else None
    console = Console(highlight=False, emoji=False)
    console.print(f"[bold]{recipe.name}[/bold] in {folder}. {recipe.description}")
    table = Table("stage", "state", "to come", "memory", show_edge=False)
    counts = expected_counts(recipe, run)
    for stage in road:
        table.add_row(
            stage.name, _state(run, stage, prints[stage.name], names, redo), *_forecast(recipe, stage, counts)
        )
    console.print(table)
    console.print(
        "Tokens are upper bounds (every sample at its longest); memory is weights, caches and logits, in fp32."
    )


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


def _forecast(recipe: Recipe, stage: Stage, counts: Mapping[str, int | None]) -> tuple[str, str]:
    training = counts["training"]
    own = stage.name.partition(":")[2]
    match stage.kind:
        case "prompts":
            return (_number(counts["prompts"], "prompts"), "")
        case "reward":
            scorer = recipe.scorers[own]
            return (f"{getattr(scorer, 'epochs', 0):g} epochs over pairs of its sampling", "")
        case "teach":
            return _teaching_forecast(recipe, recipe.teacher[own])
        case "generate":
            spec = samplings(recipe)[own or None]
            samples = None if training is None else min(training, spec.max_prompts or training) * spec.n
            tokens = None if samples is None else samples * spec.sampling.max_new_tokens
            length = spec.prompt_length + spec.sampling.max_new_tokens
            return (
                f"{_number(samples, 'samples')}, {_number(tokens, 'tokens at most')}",
                _bytes(_sampling_bytes(recipe.origin(spec.model), spec.batch_size, length)),
            )
        case "judge" | "select":
            sampled = recipe.mixes[own].of if stage.kind == "select" else own or None
            spec = samplings(recipe)[sampled]
            asked_n = None if training is None else min(training, spec.max_prompts or training) * spec.n
            candidates = _number(asked_n, "candidates")
            llm = recipe.judge.llm
            if llm is None or stage.kind == "select":
                return (candidates, "")
            length = llm.prompt_length + llm.sampling.max_new_tokens
            asked = {"unverifiable": "what rules cannot verify", "rejected": "what rules do not accept"}
            about = asked.get(llm.ask, "every answer")
            return (
                f"{candidates}; {llm.model} is asked about {about}",
                _bytes(_sampling_bytes(llm.model, llm.batch_size, length)),
            )
        case "train":
            return _training_forecast(recipe.students[own], recipe.origin(recipe.students[own].base))
        case "eval":
            return _evaluation_forecast(recipe, counts)
        case _:
            return ("", "")


def _teaching_forecast(recipe: Recipe, stage: TeacherStage) -> tuple[str, str]:
    base = recipe.origin(stage.base)
    if isinstance(stage, Student):
        return _training_forecast(stage, base)
    from factory.teacher.forecast import forecast

    found = forecast(stage, base)
    return found.work, _bytes(found.bytes_per_device)


def _training_forecast(student: Student, base: str) -> tuple[str, str]:
    rows = student.batch_size * student.gradient_accumulation
    work = (
        f"{student.max_steps:,} steps, {student.max_steps * rows * student.max_length:,} tokens at most"
        if student.max_steps
        else f"{student.epochs:g} epochs"
    )
    from distill.gemma.folder import ModelFolder, resolve_model

    folder = ModelFolder.open(resolve_model(base))
    config = folder.config
    # Logits and their gradient, and what backpropagation keeps of each layer: about 12 activations of the
    # model's width and 3 of the MLP's, and the attention scores.
    tokens = student.batch_size * student.max_length
    layer = (
        12 * config.hidden_size
        + 3 * config.intermediate_size
        + config.num_attention_heads * student.max_length
    )
    activations = tokens * (2 * config.vocab_size + config.num_hidden_layers * layer)
    return work, _bytes(_FLOAT * (_ADAM_COPIES * folder.parameter_count + activations))


def _evaluation_forecast(recipe: Recipe, counts: Mapping[str, int | None]) -> tuple[str, str]:
    spec = recipe.evaluation
    assert spec is not None
    total, training = counts["prompts"], counts["training"]
    held_out = None if total is None or training is None else total - training
    if spec.max_prompts is not None and held_out is not None:
        held_out = min(held_out, spec.max_prompts)
    samples = None if held_out is None else held_out * spec.n * len(spec.models)
    length = spec.prompt_length + spec.sampling.max_new_tokens
    known = {recipe.origin(m.model) for m in spec.models}
    memory = [_sampling_bytes(m, spec.batch_size, length) for m in known]
    work = _number(samples, "samples")
    if spec.judge is not None:  # loaded when the model is gone
        work += f"; {spec.judge.model} is asked about what rules cannot verify"
        length = spec.judge.prompt_length + spec.judge.sampling.max_new_tokens
        memory.append(_sampling_bytes(spec.judge.model, spec.judge.batch_size, length))
    return (work, _bytes(max(memory)))


def _sampling_bytes(model: str, batch: int, length: int) -> int:
    """Weights, key-value cache and one step's logits."""
    from distill.gemma.folder import ModelFolder, resolve_model

    folder = ModelFolder.open(resolve_model(model))
    config = folder.config
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length * batch
    return _FLOAT * (folder.parameter_count + cache + batch * config.vocab_size)


def _number(value: int | None, noun: str) -> str:
    return f"{value:,} {noun}" if value is not None else f"{noun}: known once the prompts are read"


def _bytes(value: Any) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"
