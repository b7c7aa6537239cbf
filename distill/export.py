"""From a training folder, or any model, to a Hugging Face folder, PEFT adapters, or a GGUF."""

from __future__ import annotations

import os
import re
import shutil
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distill import training_log as log
from distill.chat import Template, parse_template, stop_id, to_jinja
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.gguf import Weights, to_gguf
from distill.gemma.saving import copy_tokenizer, publish, write_folder, write_json
from distill.gemma.tokenizer import Tokenizer
from distill.lora_settings import LoraConfig
from filters.errors import UserError

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@(.+))?")
Step = int | Literal["final", "best"]


@dataclass(frozen=True, slots=True)
class _Source:
    """What is exported: a finished model, or a training folder at a step."""

    path: Path
    manifest: dict[str, Any] | None
    step: Step

    @classmethod
    def find(cls, name: str | os.PathLike[str], step: Step) -> _Source:
        out = Path(name)
        manifest = log.read_manifest(out) if out.is_dir() else None
        if manifest is None:
            if step != "final":
                raise UserError(f"{out} is no folder that `distill train` wrote: it has no {log.MANIFEST}")
            return cls(resolve_model(name), None, step)
        if step == "best" and not (out / log.BEST).is_dir() and manifest["status"] != "done":
            raise UserError(f"{out} is not finished, and no validation so far was made whose model was kept")
        if step == "best" and manifest.get("best_step") is not None and manifest["best"] is None:
            raise UserError(
                f"the validation of step {manifest['best_step']} was the best of {out}, and its model was not kept "
                "(--no-keep-best); `final` is the last one"
            )
        steps = log.checkpoint_steps(out / log.CHECKPOINTS)
        listed = ", ".join(map(str, steps)) or "none"
        if step == "final" and manifest["status"] != "done":
            raise UserError(f"{out} is not finished; give --step, one of its checkpoints ({listed})")
        if isinstance(step, int) and step not in steps:
            raise UserError(f"{out} has no checkpoint of step {step}; it has {listed}")
        return cls(out, manifest, step)

    @property
    def finished(self) -> Path | None:
        """The folder of a model that is there as a whole."""
        if self.manifest is None:
            return self.path
        if self.step == "best" and self.manifest.get("best", log.BEST) == log.BEST:
            kept = self.path / log.BEST
            return kept if kept.is_dir() else self.path / log.MODEL
        return None if isinstance(self.step, int) else self.path / log.MODEL

    @property
    def lora(self) -> LoraConfig | None:
        settings = (self.manifest or {"config": {}})["config"].get("lora")
        return None if settings is None else LoraConfig(**settings | {"targets": tuple(settings["targets"])})


def export(
    source: str | os.PathLike[str], target: str | os.PathLike[str], step: Step = "final"
) -> ModelFolder:
    """Write a model as an HF folder that transformers, vLLM and this package load; adapters are added in.

    Args:
        source: what `distill.sft.train` wrote, or a model as `distill.gemma.folder.resolve_model` finds it.
        target: a folder that is not there yet, or is empty.
        step: an optimiser step that has a checkpoint, "final" for the finished model, or "best" for that of the
            best validation, which is the finished one where no validation before it was better.

    Raises:
        UserError: no such model, no such step (names those that there are), a run that is not finished,
            or a target that is there.
    """
    found = _Source.find(source, step)
    if found.finished is not None:
        return _copy(ModelFolder.open(found.finished), target)
    model, base = _restored(found)
    assert found.manifest is not None
    return save_trained(model, base, target, template=parse_template(found.manifest["config"]["template"]))


def export_adapter(
    source: str | os.PathLike[str], target: str | os.PathLike[str], step: Step = "final"
) -> Path:
    """Write the adapters alone, as PEFT reads them. Raises as `export`, and where every weight was trained."""
    found = _Source.find(source, step)
    if found.manifest is None or found.lora is None:
        raise UserError(f"{source} has no adapters: every weight was trained; export it whole")
    if found.step == "best":
        raise UserError(
            "of the best validation the whole model is kept; export it without --to peft, or give a step"
        )
    if found.step == "final":
        place = _free(Path(target))
        shutil.copytree(found.path / log.ADAPTER, place)
        return place
    model, base = _restored(found)
    return save_adapter(model, base, found.lora, target, name=found.manifest["student"]["name"])


def export_gguf(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    step: Step = "final",
    *,
    weights: Weights = "f16",
) -> Path:
    """Write one GGUF, see `distill.gemma.gguf.to_gguf`. Raises as `export` and as that."""
    found = _Source.find(source, step)
    if found.finished is not None:
        return to_gguf(ModelFolder.open(found.finished), target, weights=weights, name=found.path.name)
    whole = Path(target).parent / f".{Path(target).name}.hf-{os.getpid()}"
    try:
        return to_gguf(export(source, whole, step), target, weights=weights, name=found.path.name)
    finally:
        shutil.rmtree(whole, ignore_errors=True)


# ------------------------------------------------------------------------------------------- what is written


def save_trained(
    model: Any,
    base: ModelFolder,
    target: str | os.PathLike[str],
    *,
    template: Template,
    overwrite: bool = False,
) -> ModelFolder:
    """A trained model as an HF folder, with its base's tokenizer and the template that it was trained with.

    With adapters, they are added to the base's own weights, in the base's dtypes. What the template ends a turn with is
    among the tokens that end a completion: a base's config does not have <end_of_turn> there.
    """
    from distill.gemma.checkpoint import hf_tensors
    from distill.gemma.mesh import is_first, meet
    from distill.lora import has_adapters, merged_tensors

    tensors = merged_tensors(model, base) if has_adapters(model) else hf_tensors(model, base.config)
    if is_first():
        tokenizer = copy_tokenizer(base.path, to_jinja(template))
        stops = (*base.config.eos_token_ids, stop_id(template, Tokenizer.load(base.path)))
        config = replace(base.config, eos_token_ids=tuple(dict.fromkeys(stops)))
        write_folder(target, config, tensors, tokenizer, overwrite=overwrite)
    else:
        deque(tensors, maxlen=0)  # all processes gather a tensor together
    meet(f"saved {target}")
    return ModelFolder.open(target)


def save_adapter(
    model: Any,
    base: ModelFolder,
    lora: LoraConfig,
    target: str | os.PathLike[str],
    *,
    name: str,
    overwrite: bool = False,
) -> Path:
    """adapter_config.json and adapter_model.safetensors, the folder whole or not at all.

    Args:
        name: of the base, as `resolve_model` takes it; a Hub id is written as such, of all else the folder.

    Raises:
        UserError: the folder is there.
    """
    from safetensors.numpy import save_file

    from distill.gemma.mesh import is_first, meet
    from distill.lora import TEXT_MODEL, peft_tensors

    tensors = peft_tensors(model, base)
    if not is_first():
        meet(f"saved {target}")
        return Path(target)
    place = Path(target) if overwrite else _free(Path(target))
    temporary = place.parent / f".{place.name}.tmp-{os.getpid()}"
    temporary.mkdir(parents=True)
    try:
        save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        origin, revision = _origin(name, base)
        settings = lora.to_peft(origin, revision, within=TEXT_MODEL if base.multimodal else "")
        write_json(temporary / "adapter_config.json", settings)
        publish(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    meet(f"saved {target}")
    return place


def _origin(name: str, base: ModelFolder) -> tuple[str, str | None]:
    """What others find a base by: a Hub id and its revision, or the folder."""
    found = None if Path(name).exists() else _HUB_ID.fullmatch(name)
    return (str(base.path), None) if found is None else (found[1], found[2])


def _free(target: Path) -> Path:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rmdir()
    return target


def _copy(folder: ModelFolder, target: str | os.PathLike[str]) -> ModelFolder:
    from distill.gemma.checkpoint import read_tensor, text_tensors

    tensors = ((name, read_tensor(info)) for name, info in text_tensors(folder).items())
    return write_folder(target, folder.config, tensors, copy_tokenizer(folder.path))


def _restored(source: _Source) -> tuple[Any, ModelFolder]:
    """The model of a checkpoint, and the folder whose config and tokenizer are its own."""
    import numpy as np

    from distill.gemma.checkpoint import load_model, model_from_arrays
    from distill.lora import attach
    from distill.trainer import restore_model

    assert source.manifest is not None and isinstance(source.step, int)
    settings, student = source.manifest["config"], source.manifest["student"]
    if source.lora is not None:
        base = ModelFolder.open(resolve_model(student["name"]))
        if base.content_hash != student["content_hash"]:
            raise UserError(
                f"{student['name']} is not the model that the adapters of {source.path} were trained on: its content "
                f"is {base.content_hash}, theirs was {student['content_hash']}"
            )
        model = load_model(base, dtype=settings.get("compute") or settings["dtype"])
        attach(model, source.lora, seed=settings["seed"])
    else:
        base = ModelFolder.without_weights(source.path / log.BASE)
        model = model_from_arrays(
            base.config, lambda _, shape: np.zeros(shape, np.float32), dtype=settings["dtype"]
        )
    restore_model(model, source.path / log.CHECKPOINTS, source.step)
    return model, base
