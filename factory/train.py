"""Distillation as a stage of a run: `distill train` on one of its mixes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.console import Reporter, duration
from factory.recipe import trained_stage
from factory.store import Run

if TYPE_CHECKING:
    from distill.sft import Progress
    from factory.recipe import Student
    from factory.teacher.settings import Mesh


def trained_folder(run: Run, model: str) -> Path:
    """Folder of the training of a model `student:NAME` or `teacher:NAME` of a run."""
    kind, _, name = model.partition(":")
    return run.folder / {"student": "students", "teacher": "teacher"}[kind] / name


def fine_tune(
    run: Run, model: str, spec: Student, reporter: Reporter, mesh: Mesh | None = None
) -> tuple[list[Path], dict[str, Any], float | None]:
    """Train a model `student:NAME` or `teacher:NAME` on a mix, from wherever it stopped.

    A folder that holds another training (a redone stage with other settings or other data) is moved aside to
    `NAME.old-1`, never deleted.

    Returns:
        the files that the stage answers for, its counts, and its seconds of work.
    """
    from distill.sft import Layout, TrainConfig, another_run, train

    name = model.partition(":")[2]
    base = str(trained_folder(run, spec.base) / "model") if trained_stage(spec.base) else spec.base
    layout = Layout(
        rows=spec.rows,
        row_length=spec.row_length,
        packing=spec.packing,
        fsdp=mesh.fsdp if mesh else 1,
        tp=mesh.tp if mesh else 1,
        compute=spec.compute,
        remat=spec.remat,
        attention_chunk=spec.attention_chunk,
    )
    config = TrainConfig(
        job=name,
        template=spec.template,
        max_steps=spec.max_steps,
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        max_length=spec.max_length,
        learning_rate=spec.learning_rate,
        warmup_steps=spec.warmup_steps,
        weight_decay=spec.weight_decay,
        eval_every=spec.eval_every,
        checkpoint_every=spec.checkpoint_every,
        keep=spec.keep,
        seed=spec.seed,
        layout=layout,
    )
    data = run.folder / "mix" / spec.mix
    out = trained_folder(run, model)
    difference = another_run(config, data, base, out)
    if difference is not None:
        move_aside(out, difference, reporter)
    result = train(
        config,
        data,
        base,
        out,
        on_progress=lambda p: reporter.update(_line(model, p)),
        on_message=lambda text: reporter.say(f"  {text}"),
    )
    files = [result.metrics, *(path for path in result.model.iterdir() if path.is_file())]
    counts: dict[str, Any] = {"steps": result.steps}
    for key, value in (("loss", result.train_loss), ("validation loss", result.eval_loss)):
        if value is not None:
            counts[key] = round(value, 4)
    return files, counts, result.seconds


def move_aside(folder: Path, difference: str, reporter: Reporter) -> None:
    """Rename a folder that holds another training: nothing that was made is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(aside)
    reporter.say(f"  {folder} held another training ({difference}); it is {aside.name} now")


def _line(model: str, progress: Progress) -> str:
    eta = "" if progress.eta_s is None else f", about {duration(progress.eta_s)} to go"
    return (
        f"{trained_stage(model)}: step {progress.step:,} of {progress.steps:,}, loss {progress.loss:.3f}, "
        f"{progress.tokens_per_second:,.0f} tokens/s{eta}"
    )
