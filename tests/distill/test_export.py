"""From a training folder to an HF folder: exact, whole, and clear about what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distill.export import checkpoint_steps, export
from distill.gemma.folder import ModelFolder
from distill.sft import train
from distill.train_settings import TrainConfig
from filters.errors import UserError

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def trained(student: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    messages = [{"role": "user", "content": "1 plus 1?"}, {"role": "assistant", "content": "2"}]
    (folder / "data.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    config = TrainConfig(
        max_steps=6, batch_size=2, max_length=32, learning_rate=1e-2, checkpoint_every=2, keep=2
    )
    train(config, folder / "data.jsonl", student.path, folder / "out")
    return folder / "out"


def test_the_final_model_and_its_checkpoint_are_the_same(trained: Path, tmp_path: Path) -> None:
    assert checkpoint_steps(trained) == [4, 6]
    final = export(trained, tmp_path / "final")
    last = export(trained, tmp_path / "last", 6)
    assert final.content_hash == last.content_hash == ModelFolder.open(trained / "model").content_hash
    names = {file.name for file in final.path.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names


def test_an_earlier_step_is_another_model(trained: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    earlier = load_file(export(trained, tmp_path / "four", 4).path / "model.safetensors")
    later = load_file(trained / "model" / "model.safetensors")
    assert earlier.keys() == later.keys()
    assert not any(np.array_equal(earlier[name], later[name]) for name in later)
    assert checkpoint_steps(trained) == [4, 6]  # reading left the folder as it was


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
