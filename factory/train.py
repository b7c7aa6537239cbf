"""Distillation as a stage of a run: `distill train` on one of its mixes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.console import Reporter, duration
from factory.recipe import trained_stage
from factory.store import Run
from factory.students import OnPolicyTeacher, TopKTeacher, layout_of

if TYPE_CHECKING:
    from distill.distillation import Distillation
    from distill.train_result import Progress
    from factory.students import Student
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
    from distill.sft import train
    from distill.train_identity import another_run
    from distill.train_settings import TrainConfig

    name = model.partition(":")[2]
    base = _place(run, spec.base)
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
        lora=spec.lora.settings() if spec.lora else None,
        distillation=_distillation(run, model, spec),
        short_first=spec.short_first,
        layout=layout_of(spec, mesh),
    )
    data = _data(run, spec)
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


def score_samples(
    run: Run, model: str, spec: Student, reporter: Reporter
) -> tuple[list[Path], dict[str, Any]]:
    """Store a teacher's likeliest tokens for what `student:NAME` or `teacher:NAME` will be trained on.

    Returns:
        the files, and how many samples were scored.
    """
    from distill.scores import ScoreConfig, other_scores, score

    own = spec.distillation
    assert isinstance(own, TopKTeacher)
    config = ScoreConfig(
        template=spec.template,
        max_length=spec.max_length,
        top_k=own.top_k,
        rows=spec.rows,
        row_length=spec.row_length,
        compute=spec.compute,
    )
    counted = [0]

    def note(done: int, of: int) -> None:
        counted[0] = of
        reporter.update(f"{model}: {done:,} of {of:,} samples scored")

    out = _scores_folder(run, model)
    what = (config, _data(run, spec), _place(run, own.teacher), out)
    if difference := other_scores(*what):
        move_aside(out, difference, reporter)
    written = score(*what, note)
    return [path for path in sorted(written.iterdir()) if not path.name.startswith(".")], {
        "samples": counted[0]
    }


def _scores_folder(run: Run, model: str) -> Path:
    folder = trained_folder(run, model)
    return folder.with_name(f"{folder.name}-scores")


def _place(run: Run, model: str) -> str:
    """Where a model lies: one of this run, or what its name says."""
    return str(trained_folder(run, model) / "model") if trained_stage(model) else model


def _data(run: Run, spec: Student) -> str:
    if spec.mix is not None:
        return str(run.folder / "mix" / spec.mix)
    assert spec.data is not None
    return spec.data


def _distillation(run: Run, model: str, spec: Student) -> Distillation | None:
    from distill.distillation import OnPolicy, TopK

    match spec.distillation:
        case TopKTeacher(share=share):
            return TopK(scores=str(_scores_folder(run, model)), share=share)
        case OnPolicyTeacher() as own:
            return OnPolicy(
                teacher=_place(run, own.teacher),
                samples=own.samples,
                max_new_tokens=own.max_new_tokens,
                temperature=own.temperature,
                rollout_rows=own.rollout_rows,
            )
        case _:
            return None


def move_aside(folder: Path, difference: str, reporter: Reporter) -> None:
    """Rename a folder that holds another training: nothing that was made is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(aside)
    reporter.say(f"  {folder} held another one ({difference}); it is {aside.name} now")


def _line(model: str, progress: Progress) -> str:
    eta = "" if progress.eta_s is None else f", about {duration(progress.eta_s)} to go"
    return (
        f"{trained_stage(model)}: step {progress.step:,} of {progress.steps:,}, loss {progress.loss:.3f}, "
        f"{progress.tokens_per_second:,.0f} tokens/s{eta}"
    )
