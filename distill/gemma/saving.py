"""Writing a model as a Hugging Face folder, tensor by tensor, whole or not at all. No JAX here."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill.gemma.config import GemmaConfig
from distill.gemma.folder import TOKENIZER_FILES, ModelFolder
from filters.errors import UserError

MAX_SHARD_BYTES = 5_000_000_000

Tensors = Iterable[tuple[str, np.ndarray[Any, Any]]]


def write_folder(
    out_dir: str | os.PathLike[str],
    config: GemmaConfig,
    tensors: Tensors,
    put_tokenizer: Callable[[Path], None],
    *,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ModelFolder:
    """Write config, generation config, safetensors in the tensors' dtype, and tokenizer files.

    The folder appears whole or not at all: it is written beside its place and renamed. No more than a shard is
    held at a time.

    Args:
        tensors: by Hugging Face's names; read once.
        put_tokenizer: puts tokenizer.json and its companions into a folder.
        overwrite: replace a folder that is there.
        max_shard_bytes: weights beyond it are written as shards with an index.

    Raises:
        UserError: `out_dir` is there and not empty.
    """
    target = Path(out_dir)
    if not overwrite and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    for leftover in (
        *target.parent.glob(f".{target.name}.tmp-*"),
        *target.parent.glob(f".{target.name}.old-*"),
    ):
        if not _in_use(leftover):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
    own = _make_held(temporary)
    try:
        dtype = _write_weights(tensors, temporary, max_shard_bytes)
        write_json(temporary / "config.json", config.with_dtype(dtype).to_hf())
        write_json(temporary / "generation_config.json", _generation_config(config))
        put_tokenizer(temporary)
        publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(own)
    return ModelFolder.open(target)


def _make_held(folder: Path) -> int:
    """Make a folder that is held from the moment it can be seen under its name."""
    building = folder.with_name(f".{uuid.uuid4().hex}")
    building.mkdir()
    descriptor = _hold(building)
    building.rename(folder)
    return descriptor


def _hold(folder: Path) -> int:
    """Lock a folder until the descriptor is closed or the process ends, however it does.

    Raises:
        BlockingIOError: another one holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _in_use(folder: Path) -> bool:
    try:
        os.close(_hold(folder))
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def copy_tokenizer(
    source: str | os.PathLike[str], chat_template: str | None = None
) -> Callable[[Path], None]:
    """Copies the tokenizer files of a folder into another.

    Args:
        chat_template: Jinja that takes the place of the folder's own.

    Raises:
        UserError: there is no tokenizer.json.
    """
    folder = Path(source)
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"no tokenizer.json in {folder}")

    def put(target: Path) -> None:
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
        if chat_template is not None:
            (target / "chat_template.jinja").write_text(chat_template, encoding="utf-8")

    return put


def _write_weights(tensors: Tensors, folder: Path, max_bytes: int) -> str:
    """Write the shards; returns the first tensor's dtype. A single shard is model.safetensors, without an index."""
    from safetensors.numpy import save_file

    weight_map: dict[str, Path] = {}
    shard: dict[str, np.ndarray[Any, Any]] = {}
    files: list[Path] = []
    total, dtype = 0, ""

    def flush() -> None:
        file = folder / f"shard-{len(files) + 1}"
        save_file(shard, file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        files.append(file)
        shard.clear()

    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > max_bytes:
            flush()
        shard[name] = tensor
        total += tensor.nbytes
        dtype = dtype or tensor.dtype.name
    flush()
    if len(files) == 1:
        files[0].rename(folder / "model.safetensors")
        return dtype
    names = {file: f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i, file in enumerate(files)}
    for file, final in names.items():
        file.rename(folder / final)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {n: names[f] for n, f in sorted(weight_map.items())},
    }
    write_json(folder / "model.safetensors.index.json", index)
    return dtype


def _generation_config(config: GemmaConfig) -> dict[str, Any]:
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def publish(temporary: Path, target: Path) -> None:
    """Flush every file of a folder, or the file, to the disk, then rename it into its place; what is there goes."""
    for file in temporary.rglob("*") if temporary.is_dir() else (temporary,):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    if target.is_dir():
        old = target.parent / f".{target.name}.old-{os.getpid()}"
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old)
    else:
        temporary.rename(target)
    parent = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def chat_template_of(folder: Path) -> str | None:
    """The chat template of a folder, Jinja: a file of its own (transformers 5), or a field of tokenizer_config.json."""
    own, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    if not settings.is_file():
        return None
    found = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    return found if isinstance(found, str) else None
