"""Which training a folder holds: what decides about its losses, and what differs from what is asked for."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from distill import training_log as log
from distill.chat import parse_template
from distill.data import Dataset, load_dataset
from distill.distillation import OnPolicy, TopK
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.tokenizer import Tokenizer
from distill.train_settings import TrainConfig
from filters.errors import UserError

_UNDECIDING = ("accuracy", "keep_best", "report", "job", "eval_every", "checkpoint_every", "keep")
"""Settings of what is measured, kept and written, and where; a training may go on with others."""


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide about the losses: of the layout the dtype alone, where it names one."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))  # as it is read again
    layout = settings.pop("layout")
    for name in _UNDECIDING:
        del settings[name]
    return settings | ({"compute": layout["compute"]} if layout["compute"] else {})


def prepare_teacher(config: TrainConfig, dataset: Dataset, tokenizer: Tokenizer) -> str | None:
    """Put a teacher's scores beside the samples, or check that a teacher can be asked; which teacher it is.

    Raises:
        UserError: scores of other data, a teacher with another tokenizer.
    """
    own = config.distillation
    if isinstance(own, TopK):
        from distill.scores import scores_identity, with_scores

        with_scores(dataset, own.scores, config.template, tokenizer)
        return scores_identity(own.scores)
    if isinstance(own, OnPolicy):
        folder = ModelFolder.open(resolve_model(own.teacher))
        if Tokenizer.load(folder.path).content_hash != tokenizer.content_hash:
            raise UserError(
                f"the teacher {own.teacher} has another tokenizer than the student; their distributions are over "
                "different tokens, so one cannot correct the other"
            )
        return folder.content_hash
    return None


def manifest_of(
    config: TrainConfig, dataset: Dataset, folder: ModelFolder, student: str, teacher: str | None
) -> dict[str, Any]:
    return {
        **({"teacher": {"content_hash": teacher}} if teacher else {}),
        "status": "running",
        "config": _deciding(config),
        "template": parse_template(config.template).to_dict(),
        "steps": config.steps_for(len(dataset.train)),
        "student": {
            "name": student,
            "content_hash": folder.content_hash,
            "parameters": folder.parameter_count,
        },
        "data": {
            "source": dataset.source,
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "too_long": dataset.too_long,
            "held_out": dataset.held_out,
        },
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("r1-factory", "jax", "flax", "google-tunix", "optax", "numpy")}


def model_is_whole(out: Path, manifest: dict[str, Any]) -> bool:
    """Is the finished model there, and the one that was saved?"""
    try:
        return bool(ModelFolder.open(out / log.MODEL).content_hash == manifest["model"])
    except UserError:
        return False


def another_run(
    config: TrainConfig,
    data: str | os.PathLike[str],
    student: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
) -> str | None:
    """What makes the run in `out_dir` another one than these arguments ask for; None where nothing does.

    Raises:
        UserError: as `train` does for bad input.
    """
    previous = log.read_manifest(Path(out_dir))
    if previous is None:
        return None
    folder = ModelFolder.open(resolve_model(student))
    tokenizer = Tokenizer.load(folder.path)
    dataset = load_dataset(os.fspath(data), parse_template(config.template), tokenizer, config.max_length)
    teacher = prepare_teacher(config, dataset, tokenizer)
    differing = differences(previous, manifest_of(config, dataset, folder, os.fspath(student), teacher))
    return differing[0] if differing else None


def refuse_another_run(out: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    differing = differences(there, now)
    if differing:
        raise UserError(
            f"{out} holds another run: {differing[0]}"
            + (f" (and {len(differing) - 1} more)" if len(differing) > 1 else "")
            + ". Choose another folder, or train with what was there"
        )


def differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Compare what decides about the losses. A setting that one side does not have is None there."""
    before, asked = there["config"], now["config"]
    differing = [
        f"{key} is {before.get(key)!r} there and {asked.get(key)!r} now"
        for key in (*asked, *(key for key in before if key not in asked))
        if key not in _UNDECIDING and before.get(key) != asked.get(key)
    ]
    if there["template"] != now["template"]:
        differing.append("the template's text changed")
    for part, key in (("student", "content_hash"), ("data", "fingerprint"), ("teacher", "content_hash")):
        one, other = (side.get(part, {}).get(key) for side in (there, now))
        if one != other:
            differing.append(f"{part} has {key} {one} there and {other} now")
    return differing


def refuse_foreign_folder(out: Path) -> None:
    """A folder without a manifest must not hold checkpoints: they would be taken for this run's."""
    if (out / log.CHECKPOINTS).exists():
        raise UserError(f"{out} holds checkpoints and no {log.MANIFEST}; choose another folder")


def copy_base(folder: ModelFolder, out: Path) -> None:
    base = out / log.BASE
    base.mkdir(exist_ok=True)
    for file in (folder.path / "config.json", *folder.tokenizer_files):
        shutil.copyfile(file, base / file.name)
