"""Reading training data: every layout gives the same samples, every bad row is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.chat import parse_template
from distill.data import load_dataset, read_samples
from distill.gemma.tokenizer import Tokenizer
from filters.errors import UserError

pytestmark = pytest.mark.train
TEMPLATE = parse_template("gemma:r1")


def row(i: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{i} plus 1?"}, {"role": "assistant", "content": f"{i + 1}"}]
    return {"messages": messages, **more}


ROWS = [row(i, split="validation" if i % 4 == 0 else "train", weight=1.0) for i in range(12)]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


def write_jsonl(file: Path, rows: list[Any]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(file)


def write_parquet(file: Path, rows: list[Any]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return str(file)


def test_parquet_and_jsonl_give_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    sources = [
        write_jsonl(tmp_path / "a.jsonl", ROWS),
        write_parquet(tmp_path / "b.parquet", [{**r, "question": "an extra column"} for r in ROWS]),
    ]
    write_parquet(tmp_path / "folder" / "part-0.parquet", ROWS[:5])
    write_parquet(tmp_path / "folder" / "part-1.parquet", ROWS[5:])
    write_parquet(tmp_path / "folder" / ".part-1.parquet.tmp" / "x.parquet", ROWS)
    sources.append(str(tmp_path / "folder"))
    loaded = [load_dataset(source, TEMPLATE, tokenizer, 64) for source in sources]
    assert {d.fingerprint for d in loaded} == {loaded[0].fingerprint}
    for dataset in loaded:
        assert (len(dataset.train), len(dataset.validation), dataset.rows) == (9, 3, 12)
        assert [e.ids.tolist() for e in dataset.train] == [e.ids.tolist() for e in loaded[0].train]


def test_hub_layout_tells_splits_by_file_name(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [row(i) for i in range(5)])
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [row(i) for i in range(2)])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [row(i) for i in range(3)])
    dataset = load_dataset(str(tmp_path), TEMPLATE, tokenizer, 64)
    assert (len(dataset.train), len(dataset.validation), dataset.held_out) == (5, 2, 3)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("val.jsonl", "validation"),
        ("valid.jsonl", "validation"),
        ("dev-00000.jsonl", "validation"),
        ("eval.jsonl", "validation"),
        ("Validation_en.jsonl", "validation"),
        ("test_sft.jsonl", "test"),
        ("train_sft.jsonl", "train"),
        ("part-000000.jsonl", "train"),
        ("values.jsonl", "train"),
        ("testing-it.jsonl", "train"),
    ],
)
def test_names_of_splits(name: str, split: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / name, [row(0)])
    assert [sample.split for sample in read_samples(source)] == [split]


def test_a_folder_of_two_kinds_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    write_jsonl(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(
        UserError, match=r"both .parquet and .jsonl files, for instance a.parquet and b.jsonl"
    ):
        list(read_samples(str(tmp_path)))


def test_half_a_character_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    bad = {"messages": [*row(0)["messages"][:1], {"role": "assistant", "content": "fine \ud83d or not"}]}
    source = write_jsonl(tmp_path / "data.jsonl", [row(0), bad])
    with pytest.raises(
        UserError, match=r"data.jsonl, line 2: message 1 holds half a character .* at 5: 'fine"
    ):
        load_dataset(source, TEMPLATE, tokenizer, 64)


def test_the_datasets_library_reads_a_hub_id(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked: list[Any] = []
    original = datasets.load_dataset
    write_parquet(tmp_path / "data" / "train-0.parquet", [row(i) for i in range(5)])
    write_parquet(tmp_path / "data" / "validation-0.parquet", [row(9)])

    def local(repo: str, config: str | None, revision: str | None) -> Any:
        asked.append((repo, config, revision))
        return original(str(tmp_path), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", local)
    dataset = load_dataset("someone/set:reasoning@v1", TEMPLATE, tokenizer, 64)
    assert asked == [("someone/set", "reasoning", "v1")]
    assert (len(dataset.train), len(dataset.validation)) == (5, 1)


def test_long_samples_are_counted_and_never_cut(tokenizer: Tokenizer, tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x" * 90}]}
    source = write_jsonl(tmp_path / "a.jsonl", [*ROWS, long])
    dataset = load_dataset(source, TEMPLATE, tokenizer, 64)
    assert (dataset.too_long, len(dataset.train)) == (1, 9)
    assert dataset.longest_left_out > 90
    assert "1 left out as too long" in dataset.summary()
    assert all(e.mask[-1] for e in dataset.train)
    at_the_limit = load_dataset(source, TEMPLATE, tokenizer, dataset.longest_left_out)
    assert (at_the_limit.too_long, len(at_the_limit.train)) == (0, 10)


def test_the_fingerprint_follows_content_order_split_and_weight(tokenizer: Tokenizer, tmp_path: Path) -> None:
    changed = [*ROWS[:-1], row(99)]
    variants = [
        ROWS,
        ROWS[::-1],
        changed,
        [{**r, "weight": 2.0} for r in ROWS],
        [{**r, "split": "train"} for r in ROWS],
    ]
    prints = {
        load_dataset(write_jsonl(tmp_path / f"{i}.jsonl", rows), TEMPLATE, tokenizer, 64).fingerprint
        for i, rows in enumerate(variants)
    }
    assert len(prints) == len(variants)


BAD = [
    ({"text": "x"}, "line 3: no messages; it has text"),
    ({"messages": "hello"}, "line 3: messages must be a list"),
    ({"messages": []}, "line 3: messages must be a list"),
    ({"messages": [{"role": "user"}]}, "line 3: message 0 must have a text role"),
    (
        {"messages": [{"role": "user", "content": "a"}]},
        "line 3: the conversation must end with the assistant",
    ),
    (row(1, split="dev"), "line 3: split is 'dev'"),
    (row(1, weight=-1), "line 3: weight must be a number"),
    (row(1, weight="2"), "line 3: weight must be a number"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_row_is_named(bad: Any, message: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "data" / "rows.jsonl", [*ROWS[:2], bad])
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(source, TEMPLATE, tokenizer, 64)
    assert "rows.jsonl" in str(caught.value)


def test_bad_files_are_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def load(path: Path) -> None:
        load_dataset(str(path), TEMPLATE, tokenizer, 64)

    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.parquet"):
        load(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"only \.parquet and \.jsonl"):
        load(tmp_path / "notes.txt")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match=r"torn\.parquet cannot be read"):
        load(tmp_path / "torn.parquet")
    write_parquet(tmp_path / "other.parquet", [{"a": 1}])
    with pytest.raises(UserError, match="has no column messages; it has a"):
        load(tmp_path / "other.parquet")
    (tmp_path / "torn.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"messages": [')
    with pytest.raises(UserError, match="line 2: not valid JSON"):
        load(tmp_path / "torn.jsonl")
    write_jsonl(tmp_path / "held.jsonl", [row(1, split="test")])
    with pytest.raises(UserError, match="nothing to train on"):
        load(tmp_path / "held.jsonl")


def test_rows_are_named_by_file_and_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet", ROWS[:2])
    write_parquet(tmp_path / "a.parquet", ROWS[2:3])
    where = [sample.where.removeprefix(str(tmp_path) + "/") for sample in read_samples(str(tmp_path))]
    assert where == ["a.parquet, row 1", "b.parquet, row 1", "b.parquet, row 2"]
