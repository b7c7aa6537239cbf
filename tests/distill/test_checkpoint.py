"""Folders, configurations and weights: strict in, exact out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.gemma.config import FULL, SLIDING, GemmaConfig
from distill.gemma.folder import ModelFolder, resolve_model
from filters.errors import UserError

pytestmark = pytest.mark.train


def weights_of(folder: ModelFolder) -> dict[str, Any]:
    from safetensors.numpy import load_file

    out: dict[str, Any] = {}
    for file in sorted({t.file for t in folder.tensors.values()}):
        out.update(load_file(file))
    return out


def rewrite(folder: ModelFolder, out: Path, change: Any) -> Path:
    """Copy a folder with `change(tensors)` applied to its weights."""
    from safetensors.numpy import save_file

    shutil.copytree(folder.path, out)
    tensors = weights_of(folder)
    change(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


SHAPES = {
    "grouped": {},
    "fused": {"num_key_value_heads": 4},
    "two-groups": {"num_key_value_heads": 2},
    "wide-heads": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "scaled-by-width": {"head_dim": 16, "query_pre_attn_scalar": 8},
    "deep": {"num_hidden_layers": 7, "sliding_window": 4, "rope_factor_full": 8.0},
    "own-order": {"layer_types": (FULL, SLIDING), "sliding_window": 4},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip_is_exact(shape: str, make_config: Any, make_folder: Any, tmp_path: Path) -> None:
    from distill.gemma.checkpoint import load_model, save_model

    folder = make_folder(make_config(**SHAPES[shape]), seed=3)
    again = save_model(load_model(folder), folder.config, tmp_path / "again", tokenizer_from=folder.path)
    assert again.config == folder.config
    assert again.content_hash == folder.content_hash
    before, after = weights_of(folder), weights_of(again)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].tobytes() == after[name].tobytes(), name


def test_bf16_round_trip_and_exact_widening(make_config: Any, make_folder: Any, tmp_path: Path) -> None:
    from distill.gemma.checkpoint import load_model, save_model

    folder = make_folder(make_config(), dtype="bfloat16")
    assert folder.config.dtype == "bfloat16"
    assert {t.dtype for t in folder.tensors.values()} == {"BF16"}
    same = save_model(
        load_model(folder, dtype="bfloat16"), folder.config, tmp_path / "bf16", tokenizer_from=folder.path
    )
    assert same.content_hash == folder.content_hash
    wide = save_model(load_model(folder), folder.config, tmp_path / "f32", tokenizer_from=folder.path)
    assert wide.config.dtype == "float32"
    narrow, widened = weights_of(folder), weights_of(wide)
    assert all(np.array_equal(narrow[n].astype(np.float32), widened[n]) for n in narrow)


def test_shards(make_config: Any, make_folder: Any, tmp_path: Path) -> None:
    from distill.gemma.checkpoint import load_model, save_model

    whole = make_folder(make_config(), seed=1)
    sharded = save_model(
        load_model(whole),
        whole.config,
        tmp_path / "shards",
        tokenizer_from=whole.path,
        max_shard_bytes=20_000,
    )
    assert len({t.file for t in sharded.tensors.values()}) > 2
    assert not (sharded.path / "model.safetensors").exists()
    assert sharded.parameter_count == whole.parameter_count
    back = save_model(load_model(sharded), whole.config, tmp_path / "back", tokenizer_from=whole.path)
    assert back.content_hash == whole.content_hash
    next(sharded.path.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match="names the shard model-00002"):
        ModelFolder.open(sharded.path)


def test_prefixes_of_multimodal_checkpoints(student: Any, tmp_path: Path) -> None:
    from distill.gemma.checkpoint import load_model, save_model

    for i, prefix in enumerate(("language_model.model.", "model.language_model.")):

        def rename(tensors: dict[str, Any], prefix: str = prefix) -> None:
            for name in list(tensors):
                tensors[prefix + name.removeprefix("model.")] = tensors.pop(name)
            tensors["vision_tower.vision_model.post_layernorm.weight"] = np.ones(3, np.float32)
            tensors["multi_modal_projector.mm_soft_emb_norm.weight"] = np.ones(3, np.float32)

        out = rewrite(student, tmp_path / f"mm{i}", rename)
        raw = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(
            json.dumps({"model_type": "gemma3", "text_config": raw, "eos_token_id": [1, 5]})
        )
        folder = ModelFolder.open(out)
        assert folder.config.eos_token_ids == (1, 5)
        assert folder.parameter_count == student.parameter_count
        back = save_model(load_model(folder), student.config, tmp_path / f"back{i}", tokenizer_from=out)
        assert back.content_hash == student.content_hash


def drop(name: str) -> Any:
    return lambda tensors: tensors.pop(name)


Q1 = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(Q1), f"lacks the tensor {Q1}"),
        (
            lambda t: t.update({"model.extra.weight": np.ones(2, np.float32)}),
            "unknown tensor model.extra.weight",
        ),
        (lambda t: t.update({Q1: t[Q1].T.copy()[:, :7].copy()}), rf"{Q1} has shape \(32, 7\)"),
        (lambda t: t.update({Q1: t[Q1].astype(np.int8)}), f"{Q1} is I8"),
        (
            lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}),
            "lm_head.weight differs from the embedding",
        ),
        (
            lambda t: t.update({"language_model." + Q1: t[Q1]}),
            "is there twice",
        ),
    ],
)
def test_a_wrong_tensor_is_named(change: Any, message: str, student: Any, tmp_path: Path) -> None:
    from distill.gemma.checkpoint import load_model

    out = rewrite(student, tmp_path / "bad", change)
    with pytest.raises(UserError, match=message):
        load_model(ModelFolder.open(out))


def test_a_tied_head_that_is_written_out_is_accepted(student: Any, tmp_path: Path) -> None:
    from distill.gemma.checkpoint import load_model

    out = rewrite(
        student,
        tmp_path / "tied",
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}),
    )
    load_model(ModelFolder.open(out))


def edit_config(**changes: Any) -> Any:
    def edit(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text())
        raw.update(changes)
        (folder / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if v != "DROP"}))

    return edit


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
        (truncate, "model.safetensors is torn"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no weights at all"), "not a safetensors file"),
        (edit_config(model_type="llama"), "model_type is 'llama'"),
        (edit_config(hidden_size="DROP"), "hidden_size must be a positive integer, got None"),
        (edit_config(vocab_size=100), "does not fit the model: it has a token of id"),
        (edit_config(vocab_size=4000), "belongs to another model"),
        (edit_config(tie_word_embeddings=False), "tie_word_embeddings = False is not supported"),
        (edit_config(final_logit_softcapping=30.0), "final_logit_softcapping = 30.0 is not supported"),
        (edit_config(layer_types=["full_attention"]), "layer_types names 1 layers"),
    ],
)
def test_a_wrong_folder_is_named(edit: Any, message: str, student: Any, tmp_path: Path) -> None:
    shutil.copytree(student.path, tmp_path / "bad")
    edit(tmp_path / "bad")
    with pytest.raises(UserError, match=message):
        ModelFolder.open(tmp_path / "bad")


def test_missing_folder_and_unknown_scaling(tmp_path: Path, make_config: Any) -> None:
    from distill.gemma.checkpoint import abstract_model

    with pytest.raises(UserError, match="nowhere does not exist"):
        resolve_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="query_pre_attn_scalar 7"):
        abstract_model(make_config(query_pre_attn_scalar=7))


def test_an_export_never_replaces_a_folder_unasked(student: Any, tmp_path: Path) -> None:
    from distill.gemma.checkpoint import load_model, save_model

    out = tmp_path / "there"
    out.mkdir()
    (out / "note.txt").write_text("mine")
    model = load_model(student)
    with pytest.raises(UserError, match="is there already"):
        save_model(model, student.config, out, tokenizer_from=student.path)
    assert (out / "note.txt").read_text() == "mine"
    save_model(model, student.config, out, tokenizer_from=student.path, overwrite=True)
    assert ModelFolder.open(out).content_hash == student.content_hash
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_the_hash_follows_weights_config_and_tokenizer(
    student: Any, make_config: Any, make_folder: Any, tmp_path: Path
) -> None:
    assert len(student.content_hash) == 32
    assert make_folder(make_config(), seed=0).content_hash == student.content_hash
    assert make_folder(make_config(), seed=1).content_hash != student.content_hash
    shutil.copytree(student.path, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    assert ModelFolder.open(tmp_path / "other").content_hash != student.content_hash


def test_config_reads_what_the_hub_holds() -> None:
    v4 = {
        "model_type": "gemma3_text",
        "vocab_size": 262144,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "sliding_window": 512,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "_sliding_window_pattern": 6,
        "eos_token_id": [1, 106],
        "torch_dtype": "bfloat16",
    }
    config = GemmaConfig.from_hf(v4)
    assert config.layer_types.count(FULL) == 3
    assert (config.rope_theta_sliding, config.rope_theta_full, config.dtype) == (1e4, 1e6, "bfloat16")
    assert config.eos_token_ids == (1, 106)
    assert GemmaConfig.from_hf(config.to_hf()) == config
    scaled = GemmaConfig.from_hf(v4 | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert scaled.rope_factor_full == 8.0
    assert GemmaConfig.from_hf(scaled.to_hf()) == scaled


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(shape: str, make_config: Any, make_folder: Any) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import jax.numpy as jnp

    from distill.gemma.checkpoint import load_model

    folder = make_folder(make_config(**SHAPES[shape]), seed=5)
    tokens = np.random.default_rng(0).integers(0, folder.config.vocab_size, (2, 24))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    positions = jnp.broadcast_to(jnp.arange(24), (2, 24))
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((24, 24), bool)), (2, 24, 24))
    ours, _ = load_model(folder)(jnp.asarray(tokens), positions, None, mask)
    assert np.abs(np.asarray(ours) - expected).max() < 1e-4
    assert theirs.generation_config.eos_token_id == list(folder.config.eos_token_ids)


def test_what_a_killed_export_left_is_cleared_away(student: Any, tmp_path: Path) -> None:
    from distill.gemma.checkpoint import load_model, save_model

    for leftover in (".out.tmp-1", ".out.old-1"):  # killed while writing, and between the two renames
        shutil.copytree(student.path, tmp_path / leftover)
    save_model(load_model(student), student.config, tmp_path / "out", tokenizer_from=student.path)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_export_leaves_nothing(
    student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill.gemma import checkpoint, saving

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    model = checkpoint.load_model(student)
    monkeypatch.setattr(saving, "publish", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_model(model, student.config, tmp_path / "out", tokenizer_from=student.path)
    assert list(tmp_path.iterdir()) == []


def test_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    assert resolve_model("tiny-teacher").parts[-2:] == ("tiny", "teacher")
    assert resolve_model(tmp_path) == tmp_path
    asked: list[Any] = []

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        if repo == "no/model":
            raise HFValidationError("not found")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("google/gemma-3-270m@abc") == tmp_path
    assert resolve_model("google/gemma-3-1b-pt") == tmp_path
    with pytest.raises(UserError, match="there is no folder no/model, and the Hub did not give"):
        resolve_model("no/model")
    assert asked == [("google/gemma-3-270m", "abc"), ("google/gemma-3-1b-pt", None), ("no/model", None)]
