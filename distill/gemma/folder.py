"""A model as it lies on disk: an ordinary Hugging Face folder, checked before anything is loaded. No JAX here."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.gemma.config import GemmaConfig
from filters.errors import UserError

TINY = {"tiny-teacher": "teacher", "tiny-student": "student"}
"""Names of the models that ship with the package, and their folders under `distill/gemma/tiny`."""

PACKAGED = "gemma-3-270m"
"""The model that comes as a Python package of its own."""
_KAGGLE = "kaggle:"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.jinja",
)
"""What belongs to a tokenizer in a folder. Only `tokenizer.json` must be there."""

# Gemma's own tables pad the vocabulary by 63 rows; a tokenizer that is further off is another model's.
_MAX_PADDING_ROWS = 256
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: file, dtype as safetensors names it, shape, byte offsets in the file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class ModelFolder:
    """A checked folder: config, weights (named and measured, not read) and tokenizer fit each other.

    Attributes:
        path: the folder.
        config: the model's shape.
        tensors: every tensor of the weights by name.
    """

    path: Path
    config: GemmaConfig
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ModelFolder:
        """Check a folder.

        Raises:
            UserError: names exactly what is missing or does not fit.
        """
        folder = Path(path)
        if not folder.exists():
            raise UserError(f"model folder {folder} does not exist")
        if not folder.is_dir():
            raise UserError(f"model {folder} is a file; give the folder that holds config.json")
        found = cls.without_weights(folder)
        return cls(folder, found.config, read_tensor_index(folder))

    @classmethod
    def without_weights(cls, path: str | os.PathLike[str]) -> ModelFolder:
        """The config and tokenizer of a folder that need not have weights: `tensors` is empty. Raises as `open`."""
        folder = Path(path)
        config = GemmaConfig.from_hf(_read_json(folder / "config.json", folder), str(folder / "config.json"))
        _check_tokenizer(folder, config)
        return cls(folder, config, {})

    @property
    def tokenizer_file(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def tokenizer_files(self) -> list[Path]:
        """The tokenizer's files that are there."""
        return [self.path / name for name in TOKENIZER_FILES if (self.path / name).is_file()]

    @cached_property
    def multimodal(self) -> bool:
        """Is the text model a part of one that sees images too, as in the published 4B, 12B and 27B?"""
        return bool(_read_json(self.path / "config.json", self.path).get("model_type") == "gemma3")

    @cached_property
    def parameter_count(self) -> int:
        """Numbers in the text model's weights; tied embeddings count once."""
        return sum(math.prod(t.shape) for t in self.tensors.values() if is_text_tensor(t.name))

    @cached_property
    def content_hash(self) -> str:
        """First 16 bytes, in hex, of SHA-256 over config.json, the weights and tokenizer.json: names, sizes, bytes."""
        weights = sorted({t.file for t in self.tensors.values()})
        return hash_files([self.path / "config.json", *weights, self.tokenizer_file])


def resolve_model(name_or_path: str | os.PathLike[str]) -> Path:
    """Find a model's folder by its name.

    - "tiny-teacher" or "tiny-student": they ship with the package;
    - a folder, or a GGUF file, which is converted once into a cache;
    - "org/name", "@revision" behind it where one is meant: from the Hub, through `huggingface_hub`, whose cache
      and login apply;
    - "kaggle:OWNER/MODEL/FRAMEWORK/VARIATION": from Kaggle, through `kagglehub`;
    - "gemma-3-270m": the base model that the extra [gemma-270m] installs, quantised to some 4 bits.

    What the folder holds is for `ModelFolder.open` to check.

    Raises:
        UserError: nothing of that name.
        ModuleNotFoundError: an extra is not installed; says which.
    """
    name = os.fspath(name_or_path)
    if name in TINY:
        return Path(__file__).parent / "tiny" / TINY[name]
    if name == PACKAGED:
        from distill.gemma.gguf import packaged_folder

        return packaged_folder()
    if Path(name).is_file() and name.endswith(".gguf"):
        from distill.gemma.gguf import cached_folder

        return cached_folder(name)
    if Path(name).exists():
        return Path(name)
    if name.startswith(_KAGGLE):
        return _download_from_kaggle(name.removeprefix(_KAGGLE))
    if not _looks_like_hub_id(name):
        raise UserError(
            f"model folder {name} does not exist; shipped models are {', '.join(TINY)}, and {PACKAGED} comes with the "
            "extra [gemma-270m]"
        )
    return Path(_download(name))


def cached_model(name: str) -> Path | None:
    """As `resolve_model`, but without a download: None for a Hub id whose weights are not in the Hub's cache.

    Raises:
        UserError: neither a folder nor a Hub id.
    """
    if name == PACKAGED:
        from distill.gemma.gguf import packaged_place

        place = packaged_place()
        return place if place is not None and (place / "config.json").is_file() else None
    if name.startswith(_KAGGLE):
        return None  # asking whether it is here would fetch it, which planning should not do
    if name in TINY or Path(name).exists() or not _looks_like_hub_id(name):
        return resolve_model(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        found = Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    # A snapshot may hold a tokenizer alone, or a download that was broken off.
    whole = (found / "config.json").is_file() and any(found.glob("model*.safetensors"))
    return found if whole else None


def _looks_like_hub_id(name: str) -> bool:
    parts = name.split("@", 1)[0].split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~", "/"))


def _download(name: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    repo, _, revision = name.partition("@")
    patterns = ["*.safetensors", "*.safetensors.index.json", "*config.json", *TOKENIZER_FILES]
    try:
        return str(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))
    except GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo}, then log in with "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"there is no folder {name}, and the Hub did not give a model of that name: {first_line}"
        ) from error


def _download_from_kaggle(handle: str) -> Path:
    try:
        import kagglehub
    except ModuleNotFoundError as error:
        message = "models of Kaggle need kagglehub: pip install 'r1-factory[kaggle]'"
        raise ModuleNotFoundError(message, name="kagglehub") from error
    try:
        return Path(kagglehub.model_download(handle))
    except Exception as error:  # requests', its own and ValueError, without a common ancestor
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Kaggle did not give the model {handle} (OWNER/MODEL/FRAMEWORK/VARIATION): {first_line}. Gemma's licence "
            "is accepted on the model's page; log in with KAGGLE_API_TOKEN or ~/.kaggle"
        ) from error


def hash_files(files: list[Path]) -> str:
    """32 hex digits of SHA-256 over (name, size, bytes) of each file, streamed."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.digest()[:16].hex()


def text_name(name: str) -> str | None:
    """A text tensor's name with the prefix "model."; None for the vision tower and its projector.

    Text models write "model.", multimodal ones "language_model.model." (transformers 4) or
    "model.language_model." (transformers 5).
    """
    if name.startswith(("vision_tower.", "model.vision_tower.")) or "multi_modal_projector." in name:
        return None
    for prefix in ("language_model.model.", "model.language_model."):
        if name.startswith(prefix):
            return "model." + name.removeprefix(prefix)
    return name.removeprefix("language_model.") if name == "language_model.lm_head.weight" else name


def is_text_tensor(name: str) -> bool:
    plain = text_name(name)
    return plain is not None and plain != "lm_head.weight"


# --------------------------------------------------------------------------------------- reading headers


def read_tensor_index(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a folder's safetensors, one file or shards with an index.

    Raises:
        UserError: no weights, a shard of the index missing, a tensor that the index names and no shard
            holds (or the other way round), a torn file.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        hint = ""
        if any(folder.glob("*.bin")) or any(folder.glob("*.gguf")):
            hint = "; it holds weights in another format: name a .gguf itself, convert others to safetensors"
        raise UserError(
            f"model folder {folder} has no weights (model.safetensors or its shards with an index){hint}"
        )
    weight_map = _read_json(index, folder).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: no weight_map")
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        file = folder / shard
        if not file.is_file():
            raise UserError(f"{index} names the shard {shard}, which is not in {folder}")
        tensors.update(read_header(file))
    if missing := sorted(weight_map.keys() - tensors.keys()):
        raise UserError(f"{index} names the tensor {missing[0]}, which no shard holds")
    if extra := sorted(tensors.keys() - weight_map.keys()):
        raise UserError(
            f"{tensors[extra[0]].file} holds the tensor {extra[0]}, which {index.name} does not name"
        )
    return tensors


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read a safetensors header: 8 bytes of length, JSON, then the tensors' bytes.

    Raises:
        UserError: the file is torn or no safetensors file.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if 8 + length > size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        base = 8 + length
        tensors = {
            name: TensorInfo(
                name,
                file,
                part["dtype"],
                tuple(part["shape"]),
                base + part["data_offsets"][0],
                base + part["data_offsets"][1],
            )
            for name, part in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not a safetensors file, or it is torn: {error}") from error
    end = max((t.end for t in tensors.values()), default=base)
    if end != size:
        raise UserError(f"{file} is torn: its header promises {end} bytes, the file has {size}")
    return tensors


def _read_json(file: Path, folder: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"model folder {folder} has no {file.name}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} must hold a JSON object")
    return value


def _check_tokenizer(folder: Path, config: GemmaConfig) -> None:
    """Compare tokenizer.json with the config, without the `tokenizers` package."""
    file = folder / "tokenizer.json"
    raw = _read_json(file, folder)
    vocabulary = (raw.get("model") or {}).get("vocab")
    if isinstance(vocabulary, dict):
        ids = list(vocabulary.values())
    elif isinstance(vocabulary, list):
        ids = list(range(len(vocabulary)))
    else:
        raise UserError(f"{file} has no model.vocab")
    ids += [token["id"] for token in raw.get("added_tokens") or []]
    largest = max(ids, default=-1)
    if largest >= config.vocab_size:
        raise UserError(
            f"{file} does not fit the model: it has a token of id {largest}, config.json says "
            f"vocab_size {config.vocab_size}"
        )
    by_content = {token["content"]: token["id"] for token in raw.get("added_tokens") or []}
    for content, name, expected in (
        ("<bos>", "bos_token_id", config.bos_token_id),
        ("<pad>", "pad_token_id", config.pad_token_id),
    ):
        if by_content.get(content, expected) != expected:
            raise UserError(
                f"{file} does not fit the model: {content} is {by_content[content]}, config.json says {name} {expected}"
            )
    if config.vocab_size - 1 - largest > _MAX_PADDING_ROWS:
        raise UserError(
            f"{file} does not fit the model: its largest id is {largest}, config.json says vocab_size "
            f"{config.vocab_size}; it belongs to another model"
        )
