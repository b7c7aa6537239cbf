"""Somebody's own questions: a file, or a folder in the Hub's layout, through `factory generate` to a mix."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.query import connect, rows
from factory.store import Run

pytestmark = [pytest.mark.train, pytest.mark.slow]

ASKED = "State the final answer to the following arithmetic problem: "

MAIN = """
import sys
from factory.cli import main
try:
    main()
finally:
    assert "reasoning_gym" not in sys.modules, "a file of questions needs no reasoning-gym"
"""


def generate(folder: Path, prompts: Path, *more: str) -> Run:
    arguments = [
        "generate", "--prompts", str(prompts), "--model", "tiny-teacher", "--run", str(folder), "--n", "4",
        "--template", "r1-zero", "--answer-instruction", "", "--max-new-tokens", "64", "--prompt-length", "40", *more,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Run.open(folder)


def sums(count: int) -> list[tuple[str, str]]:
    terms = [(a, b, c) for a in range(1, 10) for b in range(1, 10) for c in range(1, 4)]
    return [(f"{ASKED}{a} + {b} - {c} =", str(a + b - c)) for a, b, c in terms[:count]]


def check(run: Run, count: int) -> None:
    with connect(run) as connection:
        asked = rows(connection, "select count(*) n, count(distinct prompt_id) p from candidates")[0]
        right = rows(connection, "select count(*) n from verdict where outcome = 'correct'")[0]["n"]
        mixed = rows(connection, "select count(*) n from mix where mix = 'default'")[0]["n"]
        taken = rows(connection, "select count(*) n from curated where outcome = 'correct'")[0]["n"]
    assert asked == {"n": 4 * count, "p": count}
    assert right > count // 4 and 0 < taken == mixed <= right


def test_a_file_of_200_questions(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    lines = [json.dumps({"id": i, "problem": q, "gold": a}) for i, (q, a) in enumerate(sums(200))]
    lines[7] = '{"id": 7, "problem": '
    path.write_text("\n".join(lines) + "\n")
    run = generate(tmp_path / "run", path, "--column", "question=problem", "--column", "reference=gold")
    check(run, 199)
    with connect(run) as connection:
        kept = rows(connection, "select meta from prompts limit 1")[0]["meta"]
    assert "id" in json.loads(kept)["columns"]


def test_a_folder_in_the_layout_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    questions = sums(40)
    table = pa.table({"question": [q for q, _ in questions], "reference": [a for _, a in questions]})
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n"
    )
    check(generate(tmp_path / "run", folder), 40)


def test_raw_stops_after_sampling_and_goes_on_later(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"question": q, "reference": a}) for q, a in sums(30)) + "\n")
    run = generate(tmp_path / "run", path, "--raw")
    assert run.manifest("generate") and run.manifest("judge") is None
    before = [shard.stat().st_mtime_ns for shard in run.shards("candidates")]
    check(generate(tmp_path / "run", path), 30)
    assert before == [shard.stat().st_mtime_ns for shard in run.shards("candidates")]
