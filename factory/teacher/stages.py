"""The teacher's stages of reinforcement learning, as stages of a run. Importing it loads no JAX."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from factory.console import Reporter, duration
from factory.recipe import Recipe, RlStage
from factory.store import Run
from filters.errors import UserError

if TYPE_CHECKING:
    from factory.teacher.grpo import RlProgress


def reinforce(
    run: Run, name: str, recipe: Recipe, reporter: Reporter
) -> tuple[list[Path], dict[str, Any], float | None]:
    """Train one stage of the teacher by GRPO in `RUN/teacher/NAME`, from wherever it stopped.

    Prompts without a grader are learnt from where a scorer is asked about them; elsewhere tags alone would be paid.

    A folder that holds another training is moved aside to `NAME.old-1`; its rollouts go when this one begins, for
    they say nothing about it.

    Returns:
        the files that the stage answers for, its counts, and its seconds of work.

    Raises:
        UserError: there is no prompt to learn from, and what `factory.teacher.grpo.train_rl` raises.
        ModuleNotFoundError: the extra [train] is not installed.
    """
    from factory.judge import is_graded
    from factory.stages import model_folder, training_prompts
    from factory.teacher.grpo import train_rl
    from factory.teacher.identity import another_stage
    from factory.teacher.scorers import identities_of, scorers_of
    from factory.teacher.settings import Rl
    from factory.train import move_aside, trained_folder

    if importlib.util.find_spec("tunix") is None:  # said before anything is read
        raise ModuleNotFoundError("training needs tunix: pip install 'r1-factory[train]'", name="tunix")
    stage = recipe.teacher[name]
    assert isinstance(stage, RlStage)
    spec = Rl.model_validate(
        {key: getattr(stage, key) for key in Rl.model_fields} | {"seed": stage.seed + recipe.seed}
    )
    which: Literal["all", "graded"] = "all" if spec.rewards.preference_parts() else "graded"
    prompts = _of_domains(training_prompts(run, stage.max_prompts, which), stage)
    if not prompts:
        raise UserError(f"teacher.{name}: this run has no training prompt for it")
    held = [row for row in run.read("prompts").to_pylist() if row["split"] == "validation"]
    validation = _of_domains([row for row in held if which == "all" or is_graded(row)], stage)
    validation.sort(key=lambda row: (row["question_hash"], row["prompt_id"]))
    if spec.validation is not None and not validation:
        raise UserError(
            f"teacher.{name}.validation: this run has no question of the validation split; give the source a quota"
        )
    base, out = model_folder(run, stage.base), trained_folder(run, f"teacher:{name}")
    arguments = (name, spec, base, prompts, out)
    identities = identities_of(run, recipe, spec.rewards)
    difference = another_stage(*arguments, validation=validation, identities=identities)
    if difference is not None:
        move_aside(out, difference, reporter)
    result = train_rl(
        *arguments,
        run,
        validation=validation,
        scorers=scorers_of(run, recipe, spec.rewards),
        identities=identities,
        workers=recipe.judge.workers,
        on_progress=lambda p: reporter.update(_line(p)),
        on_message=lambda text: reporter.say(f"  {text}"),
    )
    files = [result.metrics, *(path for path in result.model.iterdir() if path.is_file())]
    shown = ("accuracy", "eval/accuracy", "eval/format", "eval/language_consistency", "eval/tokens/response")
    counts = {name: round(result.last[name], 4) for name in shown if name in result.last}
    return files, {"steps": result.steps, **counts}, result.seconds


def _of_domains(rows: list[dict[str, Any]], stage: RlStage) -> list[dict[str, Any]]:
    return [row for row in rows if stage.domains is None or row["domain"] in stage.domains]


def _line(progress: RlProgress) -> str:
    accuracy = "" if progress.accuracy is None else f", {100 * progress.accuracy:.0f} % correct"
    left = progress.seconds * (progress.steps - progress.step)
    return (
        f"teach:{progress.job}: step {progress.step:,} of {progress.steps:,}, reward {progress.reward:.3f}{accuracy}, "
        f"{progress.tokens:.0f} tokens an answer, about {duration(left)} to go"
    )
