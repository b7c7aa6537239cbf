"""Adapters: the sum they stand for, and nothing but them is trained, saved and exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill import training_log as log
from distill.chat import parse_template
from distill.export import export, export_adapter
from distill.gemma.folder import ModelFolder
from distill.lora_settings import TARGETS, LoraConfig
from distill.sft import train
from distill.train_settings import Layout, TrainConfig
from distill.verify import verify_export
from filters.errors import UserError

pytestmark = pytest.mark.train

LORA = LoraConfig(rank=2, alpha=3.0, tile=8)
CONFIG = TrainConfig(
    max_steps=8,
    batch_size=2,
    max_length=32,
    learning_rate=3e-2,
    checkpoint_every=2,
    keep=9,
    lora=LORA,
)

TEMPLATE = parse_template("gemma:r1")
TOKENS = [2, 7, 9, 11, 260, 13, 4, 8]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "data.jsonl"
    pairs = [("1 plus 1?", "2"), ("2 plus 2?", "4"), ("the user?", "is the model")]
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / log.JOURNAL).read_text().splitlines()]
    return [line["value"] for line in lines if line["name"] == "train/loss"]


def weights(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def logits(model: Any) -> np.ndarray[Any, Any]:
    import jax.numpy as jnp

    from distill.gemma.forward import hidden_states

    tokens = jnp.asarray([TOKENS])
    ones = jnp.ones_like(tokens)
    hidden = hidden_states(model, tokens, jnp.arange(8)[None], ones, 0 * ones)
    return np.asarray(hidden @ model.embedder.input_embedding[...].T)


def disturb(model: Any) -> None:
    """Adapters as they are after training: B is no longer 0."""
    import jax
    from flax import nnx

    state = nnx.state(model, nnx.LoRAParam)
    keys = iter(jax.random.split(jax.random.key(5), 1000))
    nnx.update(model, jax.tree.map(lambda x: 0.3 * jax.random.normal(next(keys), x.shape), state))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])  # grouped, and queries, keys and values in one array
@pytest.mark.parametrize("remat", ["none", "layer"])
def test_adapters_compute_what_the_merged_weights_do(
    make_config: Callable[..., Any],
    make_folder: Callable[..., Any],
    tmp_path: Path,
    kv_heads: int,
    remat: Any,
) -> None:
    from distill.export import save_trained
    from distill.gemma.checkpoint import load_model
    from distill.lora import attach

    folder = make_folder(make_config(num_key_value_heads=kv_heads))
    model = load_model(folder)
    before = logits(model)
    attach(model, LORA, seed=1)
    np.testing.assert_array_equal(logits(model), before)  # B is 0
    disturb(model)
    changed = logits(model)
    assert np.abs(changed - before).max() > 0.1
    merged = save_trained(model, folder, tmp_path / "merged", template=TEMPLATE)
    np.testing.assert_allclose(logits(load_model(merged)), changed, atol=2e-4)


def test_targets_are_the_matrices_that_change(student: ModelFolder, tmp_path: Path) -> None:
    from distill.export import save_trained
    from distill.gemma.checkpoint import load_model
    from distill.lora import attach

    for target in (("o_proj",), ("k_proj", "v_proj"), ("gate_proj", "down_proj"), ("q_proj",)):
        model = load_model(student)
        attach(model, LoraConfig(rank=1, alpha=1.0, targets=target), seed=0)
        disturb(model)
        after = weights(save_trained(model, student, tmp_path / "-".join(target), template=TEMPLATE).path)
        changed = {
            name for name, array in weights(student.path).items() if not np.array_equal(after[name], array)
        }
        assert {name.split(".")[-2] for name in changed} == set(target)
        assert len(changed) == student.config.num_hidden_layers * len(target)


@pytest.mark.parametrize(("kind", "close"), [("int8", 0.04), ("nf4", 0.6)])
def test_quantised_matrices(student: ModelFolder, tmp_path: Path, kind: Any, close: float) -> None:
    from distill.export import save_trained
    from distill.gemma.checkpoint import load_model
    from distill.lora import attach

    model = load_model(student)
    before = logits(model)
    attach(model, LoraConfig(rank=2, alpha=2.0, weights=kind, tile=8), seed=0)
    after = logits(model)
    error = np.abs(after - before).max()
    assert 0 < error < close * np.abs(before).max()
    disturb(model)
    merged = save_trained(model, student, tmp_path / "merged", template=TEMPLATE)
    np.testing.assert_allclose(logits(load_model(merged)), logits(model), atol=2e-4)


def test_only_adapters_are_trained_saved_and_exported(
    student: ModelFolder, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train(CONFIG, data, student.path, out)
    found = losses(out)
    assert found[-1] < 0.85 * found[0]
    before, after = weights(student.path), weights(out / "model")
    for name, array in before.items():
        adapted = name.split(".")[-2] in TARGETS
        assert np.array_equal(array, after[name]) != adapted, name
    size = sum(f.stat().st_size for f in (out / "checkpoints" / "8").rglob("*") if f.is_file())
    assert (
        size < student.path.joinpath("model.safetensors").stat().st_size * 2
    )  # with the optimiser's two moments
    settings = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 3.0)
    assert verify_export(out, out / "adapter").largest < 1e-3
    last = export(out, tmp_path / "last", 8)
    assert last.content_hash == ModelFolder.open(out / "model").content_hash
    earlier = export_adapter(out, tmp_path / "four", 4)
    assert verify_export(out, earlier, 4).same_texts >= 5
    with pytest.raises(UserError, match="is not the model that it was made of"):
        verify_export(out, earlier)


def test_going_on_is_never_having_stopped(student: ModelFolder, data: Path, tmp_path: Path) -> None:
    train(CONFIG, data, student.path, tmp_path / "whole")
    out = tmp_path / "stopped"

    class Killed(Exception): ...

    def kill(progress: Any) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(CONFIG, data, student.path, out, on_progress=kill)
    result = train(CONFIG, data, student.path, out)
    assert result.resumed_from == 4
    assert losses(out)[-4:] == losses(tmp_path / "whole")[-4:]
    assert (
        ModelFolder.open(out / "model").content_hash
        == ModelFolder.open(tmp_path / "whole" / "model").content_hash
    )


def test_beside_quantised_weights(student: ModelFolder, data: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        **{**{k: getattr(CONFIG, k) for k in ("max_steps", "batch_size", "max_length", "learning_rate")}},
        lora=LoraConfig(rank=2, alpha=3.0, weights="nf4", tile=8),
        layout=Layout(remat="layer"),
    )
    train(config, data, student.path, tmp_path / "out")
    found = losses(tmp_path / "out")
    assert found[-1] < 0.8 * found[0]
    last = export(tmp_path / "out", tmp_path / "last", 8)
    assert last.content_hash == ModelFolder.open(tmp_path / "out" / "model").content_hash


def test_another_rank_is_another_run(student: ModelFolder, data: Path, tmp_path: Path) -> None:
    import dataclasses

    train(CONFIG, data, student.path, tmp_path / "out")
    other = dataclasses.replace(CONFIG, lora=dataclasses.replace(LORA, rank=4))
    with pytest.raises(UserError, match=r"lora is .*'rank': 2.* there and .*'rank': 4.* now"):
        train(other, data, student.path, tmp_path / "out")


def test_a_base_that_changed_is_refused(student: ModelFolder, data: Path, tmp_path: Path) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(student.path, base)
    train(CONFIG, data, base, tmp_path / "out")
    file = base / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="is not the model that the adapters of .* were trained on"):
        export(tmp_path / "out", tmp_path / "four", 4)


def test_settings_that_cannot_be(student: ModelFolder) -> None:
    from distill.gemma.checkpoint import load_model
    from distill.lora import attach

    with pytest.raises(UserError, match="rank, alpha and tile above 0"):
        LoraConfig(rank=0)
    with pytest.raises(UserError, match="'lm_head' is none of q_proj"):
        LoraConfig(targets=("lm_head",))
    with pytest.raises(UserError, match="give both or neither"):
        LoraConfig(targets=("q_proj", "v_proj"))
    with pytest.raises(UserError, match=r"lora\.targets is empty"):
        LoraConfig(targets=())
    with pytest.raises(UserError, match=r"lora\.tile 9 does not divide layers\.0\.attn"):
        attach(load_model(student), LoraConfig(weights="int8", tile=9), seed=0)


def test_a_tile_that_does_not_divide_a_matrix_is_a_part_of_it(student: ModelFolder) -> None:
    from distill.gemma.checkpoint import load_model
    from distill.lora import attach

    model = load_model(student)
    attach(model, LoraConfig(weights="int8", tile=48), seed=0)
    config, layer = student.config, model.layers[0]
    scales = {name: getattr(layer.mlp, name).base.w[...].scale.size for name in ("gate_proj", "down_proj")}
    f, d = config.intermediate_size, config.hidden_size  # 48 inputs, and 32, of which 16 share one
    assert scales == {"gate_proj": f * (d // 16), "down_proj": d * (f // 48)}


def test_queries_alone_cannot_be_chosen_where_they_lie_with_keys(
    make_config: Callable[..., Any], make_folder: Callable[..., Any]
) -> None:
    from distill.gemma.checkpoint import load_model
    from distill.lora import attach

    model = load_model(make_folder(make_config(num_key_value_heads=4)))
    with pytest.raises(UserError, match="q_proj, k_proj and v_proj lie in one array"):
        attach(model, LoraConfig(targets=("q_proj",)), seed=0)


def test_whole_weights_have_no_adapters(student: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no adapters"):
        export_adapter(student.path, tmp_path / "a")


@pytest.mark.parity
@pytest.mark.parametrize("targets", [TARGETS, ("q_proj", "up_proj")])
def test_peft_puts_adapters_on_the_text_model_alone(
    targets: Any, student: ModelFolder, data: Path, tmp_path: Path
) -> None:
    """A model that sees images, as the published 4B does: its tower has projections of the same names."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from distill.gemma.checkpoint import load_model

    text = json.loads((student.path / "config.json").read_text())
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config={**tower, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        **{key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    torch.manual_seed(0)
    base = transformers.Gemma3ForConditionalGeneration(config)
    base.save_pretrained(tmp_path / "base")
    for file in student.tokenizer_files:
        shutil.copy(file, tmp_path / "base")
    out = tmp_path / "out"
    train(replace(CONFIG, lora=replace(LORA, targets=tuple(targets))), data, tmp_path / "base", out)

    adapter = export_adapter(out, tmp_path / "adapter")
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    assert type(whole).__name__ == "Gemma3ForConditionalGeneration"
    joined = peft.PeftModel.from_pretrained(whole, adapter)
    adapted = {name for name, _ in joined.named_parameters() if "lora_" in name}
    assert len(adapted) == 2 * len(targets) * student.config.num_hidden_layers
    assert not any("vision" in name for name in adapted)
    ids = [TOKENS]
    with torch.no_grad():
        theirs = joined(torch.tensor(ids)).logits[0].numpy()
        with joined.disable_adapter():
            before = joined(torch.tensor(ids)).logits[0].numpy()
    ours = logits(load_model(ModelFolder.open(out / "model")))[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert np.abs(before - theirs).max() > 0.01
    assert verify_export(out, adapter).largest < 1e-3
