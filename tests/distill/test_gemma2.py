"""Gemma 2: no norms of queries and keys, one rotary embedding, caps on scores and logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.gemma.config import FULL, SLIDING, GemmaConfig
from distill.gemma.folder import ModelFolder
from filters.errors import UserError

pytestmark = pytest.mark.train

LENGTH = 24


@pytest.fixture(scope="module")
def folder(make_config: Callable[..., Any], make_folder: Callable[..., Any]) -> ModelFolder:
    """Caps low enough to bend what this small model computes, a window shorter than a text."""
    config = make_config(
        family="gemma2",
        num_hidden_layers=4,
        num_key_value_heads=2,
        sliding_window=5,
        rope_theta_full=10_000.0,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=1.5,
    )
    made: ModelFolder = make_folder(config, seed=3)
    return made


def tokens_of(folder: ModelFolder) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(6, folder.config.vocab_size, (2, LENGTH))


def logits(folder: ModelFolder, **settings: Any) -> np.ndarray[Any, Any]:
    import jax.numpy as jnp

    from distill.gemma.checkpoint import load_model
    from distill.gemma.forward import hidden_states, logits_of

    model, tokens = load_model(folder), jnp.asarray(tokens_of(folder))
    positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
    hidden = hidden_states(
        model, tokens, positions, jnp.ones_like(tokens), jnp.zeros_like(tokens), **settings
    )
    return np.asarray(logits_of(model, hidden))


def test_every_second_layer_is_global(folder: ModelFolder) -> None:
    assert folder.config.layer_types == (SLIDING, FULL) * 2
    assert not any("q_norm" in name or "k_norm" in name for name in folder.tensors)


def test_the_config_of_the_hub_and_ours() -> None:
    v4 = {
        "model_type": "gemma2",
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "rope_theta": 10000.0,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
        "max_position_embeddings": 8192,
        "hidden_act": "gelu_pytorch_tanh",
        "torch_dtype": "float32",
    }
    config = GemmaConfig.from_hf(v4)
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert (config.rope_theta_sliding, config.rope_theta_full) == (1e4, 1e4)
    assert config.layer_types == (SLIDING, FULL) * 13
    assert GemmaConfig.from_hf(config.to_hf()) == config
    without = GemmaConfig.from_hf(v4 | {"final_logit_softcapping": None})
    assert without.final_logit_softcapping is None
    with pytest.raises(UserError, match="attn_logit_softcapping must be a number above 0"):
        GemmaConfig.from_hf(v4 | {"attn_logit_softcapping": -1})


def test_the_caps_matter_and_bound(folder: ModelFolder, tmp_path: Path) -> None:
    import dataclasses
    import json
    import shutil

    capped = logits(folder)
    assert np.abs(capped).max() < 1.5
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        other = tmp_path / name
        shutil.copytree(folder.path, other)
        config = dataclasses.replace(folder.config, **{name: None})
        (other / "config.json").write_text(json.dumps(config.to_hf()))
        assert np.abs(logits(ModelFolder.open(other)) - capped).max() > 1e-2


@pytest.mark.parametrize("settings", [{"attention_chunk": 7}, {"remat": "layer"}])
def test_what_is_held_at_a_time_changes_nothing(folder: ModelFolder, settings: dict[str, Any]) -> None:
    np.testing.assert_allclose(logits(folder, **settings), logits(folder), atol=1e-5)


def test_sampling_computes_what_training_does(folder: ModelFolder) -> None:
    import jax
    import jax.numpy as jnp

    from distill.gemma import decoder
    from distill.gemma.checkpoint import load_model

    model = load_model(folder)
    spec, weights = decoder.spec_of(model), decoder.weights_of(model)
    assert (spec.qk_norm, spec.score_cap, spec.logit_cap) == (False, 2.0, 1.5)
    tokens, expected = jnp.asarray(tokens_of(folder)), logits(folder)
    begun = decoder.prefill(spec, weights, tokens[:, :8])
    cache = jax.tree.map(
        lambda whole, part: whole.at[tuple(slice(n) for n in part.shape)].set(part),
        decoder.empty_cache(spec, 2, LENGTH, jnp.float32),
        begun,
    )
    for place in range(8, LENGTH):
        found, cache = decoder.decode_step(spec, weights, cache, tokens[:, place], jnp.full(2, place))
        np.testing.assert_allclose(found, expected[:, place], atol=2e-5)


def test_through_a_gguf(folder: ModelFolder, tmp_path: Path) -> None:
    from distill.gemma.gguf import from_gguf, to_gguf

    back = from_gguf(to_gguf(folder, tmp_path / "m.gguf", weights="f32"), tmp_path / "back")
    assert back.config == folder.config
    np.testing.assert_allclose(logits(back), logits(folder), atol=1e-5)


def test_it_is_trained(folder: ModelFolder, tmp_path: Path) -> None:
    import json

    from distill.lora_settings import LoraConfig
    from distill.sft import train
    from distill.train_settings import TrainConfig

    messages = [{"role": "user", "content": "1 plus 1?"}, {"role": "assistant", "content": "2"}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    for name, lora in (("whole", None), ("adapters", LoraConfig(rank=4, alpha=8.0))):
        config = TrainConfig(max_steps=12, batch_size=1, max_length=32, learning_rate=3e-2, lora=lora)
        result = train(config, tmp_path / "data.jsonl", folder.path, tmp_path / name)
        assert result.train_loss is not None and result.train_loss < 5.0
        assert ModelFolder.open(result.model).config.family == "gemma2"


@pytest.mark.parity
def test_logits_equal_transformers(folder: ModelFolder) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder.path, dtype=torch.float32, attn_implementation="eager"
    )
    assert type(theirs).__name__ == "Gemma2ForCausalLM"
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens_of(folder))).logits.numpy()
    assert np.abs(logits(folder) - expected).max() < 1e-4


@pytest.mark.parity
def test_what_transformers_saved_is_read(folder: ModelFolder, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import shutil

    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "saved")
    shutil.copyfile(folder.path / "tokenizer.json", tmp_path / "saved" / "tokenizer.json")
    np.testing.assert_array_equal(logits(ModelFolder.open(tmp_path / "saved")), logits(folder))
