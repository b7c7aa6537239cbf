"""A random Gemma of a few thousand parameters and a byte-level tokenizer that knows every character."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
WORDS = ["user", "model", "User", "Assistant", "the", "is", "plus"]


def tokenizer_json() -> dict[str, Any]:
    """A BPE in Gemma's form: spaces become "▁", unknown characters fall back to their UTF-8 bytes."""
    base = CONTROL + [f"<0x{b:02X}>" for b in range(256)] + TAGS
    characters = ["▁", "\n", *[chr(c) for c in range(33, 127)]]
    merges: list[str] = []
    vocabulary = base + characters
    for word in WORDS:
        for end in range(2, len(word) + 1):
            left, right = word[: end - 1], word[end - 1]
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
            if word[:end] not in vocabulary:
                vocabulary.append(word[:end])
    added = [
        {
            "id": vocabulary.index(token),
            "content": token,
            "special": token in CONTROL,
            "normalized": False,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
        }
        for token in CONTROL + TAGS
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(vocabulary)},
            "merges": merges,
        },
    }


TOKENIZER_CONFIG = {
    "tokenizer_class": "GemmaTokenizer",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    return folder


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Any]:
    from distill.gemma.config import GemmaConfig

    def make(**changes: Any) -> GemmaConfig:
        shape: dict[str, Any] = {
            "vocab_size": len(tokenizer_json()["model"]["vocab"]),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "sliding_window": 64,
            "query_pre_attn_scalar": 8,
            "max_position_embeddings": 512,
        }
        return GemmaConfig(**{**shape, **changes})

    return make


def random_arrays(seed: int) -> Callable[[tuple[str | int, ...], tuple[int, ...]], Any]:
    """Kernels N(0, fan_in^-1/2), embeddings N(0, d^-1/2), small norm scales: what can be trained at once."""
    import numpy as np

    generator = np.random.default_rng(seed)

    def array_of(path: tuple[str | int, ...], shape: tuple[int, ...]) -> Any:
        draw = generator.standard_normal(shape)
        if path[-1] == "scale":
            return 0.1 * draw
        fan_in = shape[-1] if path[0] == "embedder" else shape[-2]
        return draw * fan_in**-0.5

    return array_of


@pytest.fixture(scope="session")
def make_folder(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A random model of a config, saved and opened."""
    from distill.gemma.checkpoint import model_from_arrays, save_model

    def make(config: Any, *, seed: int = 0, dtype: str = "float32", **options: Any) -> Any:
        model = model_from_arrays(config, random_arrays(seed), dtype=dtype)
        out = tmp_path_factory.mktemp("model") / "student"
        return save_model(model, config, out, tokenizer_from=tokenizer_folder, **options)

    return make


@pytest.fixture(scope="session")
def student(make_config: Callable[..., Any], make_folder: Callable[..., Any]) -> Any:
    """The small model most tests train."""
    return make_folder(make_config())
