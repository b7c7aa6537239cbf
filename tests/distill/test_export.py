"""From a training folder to an HF folder: exact, whole, and clear about what is not there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from distill.export import export
from distill.gemma.folder import ModelFolder
from distill.gemma.tokenizer import Tokenizer
from distill.sft import train
from distill.train_settings import TrainConfig
from distill.training_log import CHECKPOINTS, checkpoint_steps
from distill.verify import verify_export
from filters.errors import UserError

pytestmark = pytest.mark.train
CONFIG = TrainConfig(max_steps=6, batch_size=2, max_length=32, learning_rate=1e-2, checkpoint_every=2, keep=2)


@pytest.fixture(scope="module")
def trained(student: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    messages = [{"role": "user", "content": "1 plus 1?"}, {"role": "assistant", "content": "2"}]
    (folder / "data.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    train(CONFIG, folder / "data.jsonl", student.path, folder / "out")
    return folder / "out"


def test_the_final_model_and_its_checkpoint_are_the_same(trained: Path, tmp_path: Path) -> None:
    assert checkpoint_steps(trained / CHECKPOINTS) == [4, 6]
    final = export(trained, tmp_path / "final")
    last = export(trained, tmp_path / "last", 6)
    assert final.content_hash == last.content_hash == ModelFolder.open(trained / "model").content_hash
    names = {file.name for file in final.path.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names


def test_others_stop_where_the_model_was_trained_to(
    trained: Path, student: ModelFolder, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(student.path)
    assert student.config.eos_token_ids == (tokenizer.eos_id,)
    final = export(trained, tmp_path / "final")
    assert final.config.eos_token_ids == (tokenizer.eos_id, tokenizer.end_of_turn_id)
    generation = json.loads((final.path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [tokenizer.eos_id, tokenizer.end_of_turn_id]
    assert verify_export(trained, final.path).exact
    config = json.loads((final.path / "config.json").read_text())
    (final.path / "config.json").write_text(json.dumps(config | {"eos_token_id": tokenizer.eos_id}))
    with pytest.raises(UserError, match="trained to end with <end_of_turn>, and its config does not stop"):
        verify_export(trained, final.path)


def test_a_damaged_checkpoint_is_named(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    for file in (out / CHECKPOINTS / "6").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"checkpoints/6 cannot be read .*remove that folder.* from step 4"):
        export(out, tmp_path / "six", 6)
    manifest = json.loads((out / "train.json").read_text())
    (out / "train.json").write_text(json.dumps(manifest | {"status": "running"}))
    data = trained.parent / "data.jsonl"
    with pytest.raises(UserError, match=r"checkpoints/6 cannot be read .* goes on from step 4"):
        train(CONFIG, data, manifest["student"]["name"], out)
    shutil.rmtree(out / CHECKPOINTS / "6")
    assert train(CONFIG, data, manifest["student"]["name"], out).resumed_from == 4
    again = export(out, tmp_path / "again").content_hash
    assert again == ModelFolder.open(trained / "model").content_hash


def test_what_another_process_writes_is_left_alone(student: ModelFolder, tmp_path: Path) -> None:
    held, dead = tmp_path / ".model.tmp-1", tmp_path / ".model.tmp-2"
    held.mkdir()
    dead.mkdir()
    descriptor = os.open(held, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        export(student.path, tmp_path / "model")
    finally:
        os.close(descriptor)
    assert sorted(tmp_path.iterdir()) == [held, tmp_path / "model"]


def test_an_earlier_step_is_another_model(trained: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    earlier = load_file(export(trained, tmp_path / "four", 4).path / "model.safetensors")
    later = load_file(trained / "model" / "model.safetensors")
    assert earlier.keys() == later.keys()
    assert not any(np.array_equal(earlier[name], later[name]) for name in later)
    assert checkpoint_steps(trained / CHECKPOINTS) == [4, 6]  # reading left the folder as it was


def test_what_is_not_there_is_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint of step 5; it has 4, 6"):
        export(trained, tmp_path / "five", 5)
    with pytest.raises(UserError, match=r"has no config\.json"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        export(trained, tmp_path / "there")


def test_an_unfinished_run_has_no_final_model(trained: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    manifest = json.loads((trained / "train.json").read_text())
    (unfinished / "train.json").write_text(json.dumps({**manifest, "status": "running"}))
    with pytest.raises(UserError, match=r"is not finished; give --step, one of its checkpoints \(none\)"):
        export(unfinished, tmp_path / "out")


@pytest.mark.parity
def test_transformers_reads_the_export(trained: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import jax.numpy as jnp

    from distill.gemma.checkpoint import load_model
    from distill.gemma.tokenizer import Tokenizer

    folder = export(trained, tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float32)
    ids = [2, *Tokenizer.load(folder.path).encode("the model is 1 plus 1? <think>2</think>")]
    library = transformers.AutoTokenizer.from_pretrained(folder.path)
    assert library("the model is 1 plus 1? <think>2</think>", add_special_tokens=False).input_ids == ids[1:]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    n = len(ids)
    mask = jnp.tril(jnp.ones((1, n, n), bool))
    ours, _ = load_model(folder)(jnp.asarray([ids]), jnp.arange(n)[None], None, mask)
    assert np.abs(np.asarray(ours) - expected).max() < 1e-4
