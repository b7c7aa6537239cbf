"""The published sizes: against Tunix's own table, and found without a download."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.gemma import folder, sizes
from distill.gemma.config import GemmaConfig
from distill.gemma.folder import ModelFolder, resolve_model
from filters.errors import UserError


@pytest.mark.train
@pytest.mark.parametrize(
    ("size", "theirs"),
    [
        ("270m", "gemma3_270m"),
        ("1b", "_gemma3_1b"),
        ("4b", "_gemma3_4b"),
        ("12b", "_gemma3_12b"),
        ("27b", "_gemma3_27b"),
    ],
)
def test_shapes_are_tunix_own(size: str, theirs: str) -> None:
    pytest.importorskip("tunix")
    from distill.gemma.checkpoint import tunix_config

    config = sizes.SIZES[size]
    ours, published = tunix_config(config, "bfloat16"), getattr(_tunix().ModelConfig, theirs)()
    for name in (
        *("num_layers", "embed_dim", "hidden_dim", "num_heads", "head_dim", "num_kv_heads"),
        *("sliding_window_size", "local_base_frequency", "global_base_frequency", "global_scale_factor"),
        "query_pre_attn_norm",
    ):
        assert getattr(ours, name) == getattr(published, name), name
    assert config.vocab_size - published.num_embed == (64 if size in ("4b", "12b", "27b") else 0)


def _tunix():  # type: ignore[no-untyped-def]
    from tunix.models.gemma3 import model

    return model


def test_parameters_are_those_that_the_papers_names_say() -> None:
    counts = {name: sizes.parameter_count(config) for name, config in sizes.SIZES.items()}
    assert counts["270m"] == 268_098_176 and counts["1b"] == 999_885_952
    assert {name: round(count / 1e9, 1) for name, count in counts.items()} == {
        "270m": 0.3,
        "1b": 1.0,
        "4b": 3.9,
        "12b": 11.8,
        "27b": 27.0,
    }


def test_a_shape_survives_config_json() -> None:
    for config in sizes.SIZES.values():
        assert GemmaConfig.from_hf(config.to_hf()) == config


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "cached_model", lambda name: None)
    for name in ("google/gemma-3-1b-pt", "google/gemma-3-1b-it", "unsloth/gemma-3-1b-pt@main"):
        found = sizes.model_shape(name)
        assert found.config is sizes.SIZES["1b"] and not found.downloaded
    assert sizes.published("google/gemma-3-1b-mine") is None
    with pytest.raises(UserError, match=r"me/mine@v2 is not downloaded.*`hf download me/mine`"):
        sizes.model_shape("me/mine@v2")


def test_what_is_here_is_read() -> None:
    found = sizes.model_shape("tiny-teacher")
    opened = ModelFolder.open(resolve_model("tiny-teacher"))
    assert found.downloaded and found.config == opened.config
    assert found.parameters == opened.parameter_count == sizes.parameter_count(opened.config)
    with pytest.raises(UserError, match="nowhere"):
        sizes.model_shape("./nowhere")


def test_the_hubs_cache_counts_where_it_holds_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def snapshot(repo: str, *, revision: str | None, local_files_only: bool) -> str:
        asked.append((repo, revision, local_files_only))
        return str(tmp_path)

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert folder.cached_model("google/gemma-3-1b-pt@abc") is None
    (tmp_path / "config.json").touch()
    assert folder.cached_model("google/gemma-3-1b-pt@abc") is None
    (tmp_path / "model.safetensors").touch()
    assert folder.cached_model("google/gemma-3-1b-pt@abc") == tmp_path
    assert asked[0] == ("google/gemma-3-1b-pt", "abc", True)
