"""Prompts from files: formats, column mapping, choices, bad rows."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.records import PROMPTS, question_hash
from factory.sources import load_prompts, parse_source
from factory.sources.rows import BadRow, json_safe
from filters.errors import UserError
from tests.shared_data import DATA


@dataclass(frozen=True)
class Shares:
    validation: float = 0.05
    test: float = 0.1


def read(path: Path, bad: list[BadRow] | None = None, **values: Any) -> list[dict[str, Any]]:
    spec = parse_source({"kind": "files", "path": str(path), **values})
    rows = list(load_prompts(spec, splits=Shares(), on_bad_row=None if bad is None else bad.append))
    assert PROMPTS.rows_to_arrow(rows).num_rows == len(rows)
    return rows


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


SUMS = [{"question": f"What is {i} + {i}?", "reference": str(2 * i), "level": i % 3} for i in range(50)]


def test_the_three_formats_give_the_same_prompts(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", SUMS)
    pq.write_table(pa.Table.from_pylist(SUMS), tmp_path / "a.parquet")
    lines = ["question,reference,level", *(f"{s['question']},{s['reference']},{s['level']}" for s in SUMS)]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    jsonl, parquet, table = (
        read(tmp_path / f"a.{suffix}", name="sums") for suffix in ("jsonl", "parquet", "csv")
    )
    without_meta = [{k: v for k, v in row.items() if k != "meta"} for row in jsonl]
    assert without_meta == [{k: v for k, v in row.items() if k != "meta"} for row in parquet]
    assert without_meta == [{k: v for k, v in row.items() if k != "meta"} for row in table]
    assert json.loads(jsonl[3]["meta"]) == {"file": "a.jsonl", "row": 4, "columns": {"level": 0}}
    assert json.loads(table[3]["meta"]) == {"file": "a.csv", "row": 5, "columns": {"level": "0"}}
    assert jsonl[3]["messages"][0]["content"] == "What is 3 + 3?\n\nPut your final answer within \\boxed{}."
    assert jsonl[3]["question_hash"] == question_hash("What is 3 + 3?")
    assert {row["verifier"] for row in jsonl} == {"math"}
    assert {row["split"] for row in jsonl} >= {"train", "test"}


def test_columns_are_mapped_and_patterns_applied(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "g.jsonl",
        [
            {
                "problem": "2+2?",
                "answer": "two and #### two\n#### 4",
                "topic": "sums",
                "lang": "de",
                "terms": "CC0-1.0",
            }
        ],
    )
    columns = {
        "question": "problem",
        "reference": "answer",
        "domain": "topic",
        "language": "lang",
        "licence": "terms",
    }
    (row,) = read(
        path, columns=columns, reference_pattern=r"####\s*(\S.*)", licence="MIT", answer_instruction=""
    )
    assert (row["question"], row["reference"], row["domain"]) == ("2+2?", "4", "sums")
    assert (row["language"], row["licence"], row["source"]) == ("de", "CC0-1.0", "g")
    assert row["messages"] == [{"role": "user", "content": "2+2?"}]


def test_a_plain_list_of_questions_cannot_be_graded_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "q.txt").write_text("Why is the sky blue?\n\n  Who wrote Faust?\n", encoding="utf-8")
    rows = read(tmp_path / "q.txt")
    assert [row["question"] for row in rows] == ["Why is the sky blue?", "Who wrote Faust?"]
    assert {(row["verifier"], row["reference"]) for row in rows} == {("none", None)}
    assert rows[0]["messages"][0]["content"] == rows[0]["question"]
    assert "2 questions have no reference" in caplog.text
    as_json = read(write_jsonl(tmp_path / "q.jsonl", [{"question": row["question"]} for row in rows]))
    assert [row["prompt_id"] for row in as_json] == [row["prompt_id"] for row in rows]


def test_an_unmapped_answer_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(write_jsonl(tmp_path / "q.jsonl", [{"question": "2+2?", "answer": "4"}]))
    assert "columns: {reference: answer}" in caplog.text


@pytest.mark.parametrize(
    ("choices", "reference", "letter"),
    [
        (["red", "blue"], "B", "B"),
        (["red", "blue"], "(b)", "B"),
        (["red", "blue"], "blue", "B"),
        (["red", "blue"], 1, "B"),
        ('["red", "blue", "green"]', "2", "C"),
        ({"label": ["A", "B"], "text": ["red", "blue"]}, "A", "A"),
        (["2", "3"], "3", "B"),
    ],
)
def test_choices_are_listed_and_the_reference_is_a_letter(
    tmp_path: Path, choices: Any, reference: Any, letter: str
) -> None:
    rows = [{"question": "Which?", "choices": choices, "reference": reference}]
    (row,) = read(write_jsonl(tmp_path / "c.jsonl", rows))
    listed = json.loads(row["verifier_args"])["choices"]
    assert (row["verifier"], row["reference"]) == ("choice", letter)
    assert row["question"] == "\n".join(
        ["Which?", "", *(f"{a}. {b}" for a, b in zip("ABC", listed, strict=False))]
    )
    assert row["messages"][0]["content"].endswith("Answer with the letter of the correct choice.")


def test_bad_rows_are_reported_with_their_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    lines = [
        b'{"question": "one?", "reference": 1}',
        b'{"question": "two?"',
        b"",
        b'["three?"]',
        b'{"reference": "4"}',
        b'{"question": 5}',
        b'{"question": "  "}',
        b'{"question": "seven?", "reference": ["a"]}',
        b'{"question": "eight?", "choices": ["a", "b"], "reference": "Z"}',
        b'{"question": "nine?", "reference": "1", "verifier": "maths"}',
        b'{"question": "t\xff?"}',
        b'{"question": "eleven?", "reference": 1, "verifier_args": {"require_bxed": true}}',
        b'{"question": "two!", "reference": 2, "verifier_args": "{\\"require_boxed\\": true}"}',
    ]
    path.write_bytes(b"\n".join(lines))
    bad: list[BadRow] = []
    assert [row["question"] for row in read(path, bad)] == ["one?", "two!"]
    assert [row.line for row in bad] == [2, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert {row.file for row in bad} == {str(path)}
    reasons = """not JSON | object is wanted | no column 'question'; there is 'reference' | int, not a text | is empty
        | is a list | none of the 2 choices | unknown verifier | not UTF-8 | require_boxed"""
    for row, reason in zip(bad, reasons.split("|"), strict=True):
        assert reason.strip() in str(row)


def test_bad_rows_of_a_csv_have_the_line_they_begin_on(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text('question,reference\n"a\nlong one?",1\nshort?\nlast?,2\n', encoding="utf-8")
    bad: list[BadRow] = []
    rows = read(path, bad)
    assert [json.loads(row["meta"])["row"] for row in rows] == [2, 5]
    assert [(row.line, row.reason) for row in bad] == [(4, "1 fields where the header has 2")]


def test_bad_rows_are_logged_without_a_callback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(write_jsonl(tmp_path / "b.jsonl", [{"question": "one?"}, {"question": 2}]))
    assert "b.jsonl, line 2: 'question' is a int" in caplog.text


def test_equal_questions_come_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": "What  is 1?", "reference": 1}, {"question": "what is 1?", "reference": 2}]
    assert [row["reference"] for row in read(write_jsonl(tmp_path / "d.jsonl", rows))] == ["1"]
    assert "1 questions that came before were left out" in caplog.text


def test_size_and_quotas_limit_what_is_read(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", SUMS)
    assert len(read(path, size=7)) == 7
    rows = read(path, quotas={"train": 5, "test": 2})
    assert sorted(row["split"] for row in rows) == ["test"] * 2 + ["train"] * 5
    assert {row["split"] for row in read(path, evaluation_only=True)} == {"test"}


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_jsonl(tmp_path / "sub" / "a.jsonl", SUMS[:2])
    write_jsonl(tmp_path / "b.jsonl", SUMS[2:4])
    (tmp_path / ".hidden.jsonl").write_text("nonsense", encoding="utf-8")
    assert [json.loads(row["meta"])["file"] for row in read(tmp_path)] == ["b.jsonl"] * 2 + [
        "sub/a.jsonl"
    ] * 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.jsonl", b"", "not one question"),
        ("e.csv", b"question,reference\n", "not one question"),
        ("e.csv", b"question,question\na,b\n", "same name"),
        ("e.csv", b"question\n\xff\xfe\n", "cannot read"),
        ("e.parquet", b"PAR1 torn", "torn"),
        (
            "e.jsonl",
            b'{"prompt": "a?"}\n{"prompt": "b?"}\n',
            "none of its 2 rows can be used.*no column 'question'",
        ),
        ("e.xlsx", b"", "end in .jsonl"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_missing_paths_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.jsonl", "no file or folder"), (tmp_path, "holds no file")):
        with pytest.raises(UserError, match=message):
            load_prompts(parse_source({"kind": "files", "path": str(path)}), splits=Shares())


def test_whatever_a_column_holds_reaches_meta_as_json() -> None:
    value = {
        "when": datetime.date(2025, 1, 20),
        "array": np.arange(3),
        "scalar": np.float32(0.5),
        "text": np.str_("x"),
        "nan": float("nan"),
        "nested": ({"b", "a"}, {1: (2, None)}),
        "raw": b"abc",
    }
    assert json_safe(value) == {
        "when": "2025-01-20",
        "array": [0, 1, 2],
        "scalar": 0.5,
        "text": "x",
        "nan": None,
        "nested": [["a", "b"], {"1": [2, None]}],
        "raw": {"left_out": "bytes", "bytes": 3},
    }
    assert type(json_safe(np.str_("x"))) is str


def test_real_word_problems_are_read(tmp_path: Path) -> None:
    data = DATA / "gsm8k" / "test.jsonl"
    if not data.is_file():
        pytest.skip("no shared data")
    rows = read(data, columns={"reference": "answer"}, reference_pattern=r"####\s*(\S.*)")
    assert len(rows) > 900
    assert all(row["reference"].replace(",", "").lstrip("-").isdigit() for row in rows)
