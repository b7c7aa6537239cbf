"""The published Gemma 3 sizes, so that a run can be planned before its weights are downloaded. No JAX here.

Shapes are those of the models' own `config.json` (text part) and of Tunix's `ModelConfig`; a pretrained model and
its instruction-tuned one have the same. Gemma 3 technical report, arXiv 2503.19786, table 1.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Any

from distill.gemma.checkpoint import slots
from distill.gemma.config import GemmaConfig
from distill.gemma.folder import ModelFolder, cached_model
from filters.errors import UserError


def _size(
    width: int, hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, **more: Any
) -> GemmaConfig:
    """A size; from 4B on the weights are those of multimodal models, with 64 more rows of embedding."""
    large: dict[str, Any] = {
        "vocab_size": 262_208,
        "sliding_window": 1024,
        "rope_factor_full": 8.0,
        "max_position_embeddings": 131_072,
    }
    small: dict[str, Any] = {"vocab_size": 262_144, "sliding_window": 512}
    return GemmaConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        dtype="bfloat16",
        **{**(large if width >= 2560 else small), **more},
    )


SIZES: dict[str, GemmaConfig] = {
    "270m": _size(640, 2048, 18, 4, 1, 256),
    "1b": _size(1152, 6912, 26, 4, 1, 256),
    "4b": _size(2560, 10_240, 34, 8, 4, 256),
    "12b": _size(3840, 15_360, 48, 16, 8, 256),
    "27b": _size(5376, 21_504, 62, 32, 16, 128, query_pre_attn_scalar=168),
}
"""By the part of a model's name: "1b" of google/gemma-3-1b-pt."""

_NAME = re.compile(r"(?:[^/@]+/|kaggle:.+/|^)gemma-3-(270m|1b|4b|12b|27b)(-pt|-it)?(/\d+|@.+)?")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What planning needs of a model.

    Attributes:
        config: its shape.
        parameters: numbers in the text model's weights; tied embeddings count once.
        downloaded: its weights are on this machine.
    """

    config: GemmaConfig
    parameters: int
    downloaded: bool


def published(name: str) -> GemmaConfig | None:
    """The shape of a Hub id such as "google/gemma-3-1b-it"; None for any other name."""
    found = _NAME.fullmatch(name)
    return None if found is None else SIZES[found[1]]


def parameter_count(config: GemmaConfig) -> int:
    """Numbers in the weights of a model of this shape."""
    return sum(math.prod(slot.shape) for slot in slots(config).values())


def model_shape(name_or_path: str | os.PathLike[str]) -> ModelShape:
    """A model's shape without a download: from its folder or the Hub's cache, else from the table.

    Raises:
        UserError: a folder that is not whole; a Hub id that is neither here nor in the table.
    """
    name = os.fspath(name_or_path)
    folder = cached_model(name)
    if folder is not None:
        opened = ModelFolder.open(folder)
        return ModelShape(opened.config, opened.parameter_count, downloaded=True)
    config = published(name)
    if config is None:
        raise UserError(
            f"{name} is not downloaded, and its shape is not known without it; download it first, for instance with "
            f"`hf download {name.partition('@')[0]}`"
        )
    return ModelShape(config, parameter_count(config), downloaded=False)


def is_downloaded(name_or_path: str | os.PathLike[str]) -> bool:
    """Is the model a folder, a shipped one, or in the Hub's cache?

    Raises:
        UserError: it is neither, nor a Hub id.
    """
    return cached_model(os.fspath(name_or_path)) is not None
