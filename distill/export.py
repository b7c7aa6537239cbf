"""From a training folder to a Hugging Face folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from distill import training_log as log
from distill.gemma.config import GemmaConfig
from distill.gemma.folder import ModelFolder
from filters.errors import UserError


def checkpoint_steps(out_dir: str | os.PathLike[str]) -> list[int]:
    """Steps that a training folder holds a whole checkpoint of, ascending."""
    folder = Path(out_dir) / log.CHECKPOINTS
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())


def export(
    out_dir: str | os.PathLike[str], target: str | os.PathLike[str], step: int | Literal["final"] = "final"
) -> ModelFolder:
    """Write a checkpoint of a training folder as an HF folder that transformers, vLLM and this package load.

    Args:
        out_dir: what `distill.sft.train` wrote.
        target: a folder that is not there yet, or is empty.
        step: an optimiser step that has a checkpoint, or "final" for the finished model.

    Raises:
        UserError: no training folder, no such step (names those that there are), a run that is not finished,
            or a target that is there.
    """
    out = Path(out_dir)
    manifest = log.read_manifest(out)
    if manifest is None:
        raise UserError(f"{out} is no folder that `distill train` wrote: it has no {log.MANIFEST}")
    steps = checkpoint_steps(out)
    listed = ", ".join(map(str, steps)) or "none"
    if step == "final":
        if manifest["status"] != "done":
            raise UserError(f"{out} is not finished; give --step, one of its checkpoints ({listed})")
        return _copy(ModelFolder.open(out / log.MODEL), target)
    if step not in steps:
        raise UserError(f"{out} has no checkpoint of step {step}; it has {listed}")
    return _from_checkpoint(out, manifest, target, step)


def _copy(folder: ModelFolder, target: str | os.PathLike[str]) -> ModelFolder:
    from distill.gemma.checkpoint import load_model, save_model

    model = load_model(folder, dtype=folder.config.dtype)
    return save_model(model, folder.config, target, tokenizer_from=folder.path)


def _from_checkpoint(
    out: Path, manifest: dict[str, Any], target: str | os.PathLike[str], step: int
) -> ModelFolder:
    import numpy as np

    from distill.gemma.checkpoint import model_from_arrays, save_model
    from distill.trainer import restore_model

    file = out / log.BASE / "config.json"
    config = GemmaConfig.from_hf(json.loads(file.read_text(encoding="utf-8")), str(file))
    dtype = manifest["config"]["dtype"]
    model = model_from_arrays(config, lambda _, shape: np.zeros(shape, np.float32), dtype=dtype)
    restore_model(model, out / log.CHECKPOINTS, step)
    return save_model(model, config, target, tokenizer_from=out / log.BASE)
