"""Prompts from the Hub, with the real clients against one on the loopback, and from a local folder."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.sources import check_source, load_prompts, parse_source
from filters.errors import UserError
from tests.factory.test_sources_files import Shares
from tests.hub_server import Hub, running_hub

README = b"""---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
---
"""
ROWS = [{"problem": f"What is {i} + 3?", "answer": f"We add.\n#### {i + 3}", "level": i} for i in range(30)]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def layout() -> dict[str, bytes]:
    return {
        "README.md": README,
        "main/train-00000-of-00002.parquet": parquet(ROWS[:10]),
        "main/train-00001-of-00002.parquet": parquet(ROWS[10:20]),
        "main/test-00000-of-00001.parquet": parquet(ROWS[20:]),
    }


SPEC = {
    "kind": "hub",
    "config": "main",
    "columns": {"question": "problem", "reference": "answer"},
    "reference_pattern": r"####\s*(\S.*)",
    "licence": "MIT",
}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


SCRIPT = """
import json, sys
from factory.sources import load_prompts, parse_source
from filters.errors import UserError
from tests.factory.test_sources_files import Shares
answers = []
for spec in json.load(sys.stdin):
    try:
        answers.append(list(load_prompts(parse_source(spec), splits=Shares())))
    except UserError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def read_all(hub: Hub, home: Path, specs: list[dict[str, Any]], **environment: str) -> list[Any]:
    """Read several sources in one process whose clients know this Hub alone."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(specs),
        env={
            **os.environ,
            **hub.environment(),
            "HF_HOME": str(home),
            "PYTHONWARNINGS": "ignore",
            **environment,
        },
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_a_data_set_is_streamed_at_a_pinned_commit(hub: Hub, tmp_path: Path) -> None:
    repository = hub.create("team/sums", private=True, files=layout())
    first = repository.commits[-1].oid
    changed = [{**row, "problem": row["problem"].replace("3", "4")} for row in ROWS[:10]]
    second = repository.commit(
        "more", {**layout(), "main/train-00000-of-00002.parquet": parquet(changed)}
    ).oid
    spec = {**SPEC, "repo": "team/sums"}
    now, then, held, wrong_split, unmapped, wrong_revision, nobody = read_all(
        hub,
        tmp_path,
        [
            spec,
            {**spec, "revision": first},
            {**spec, "split": "test", "evaluation_only": True},
            {**spec, "split": "tset"},
            {**spec, "columns": {}},
            {**spec, "revision": "v9"},
            {**spec, "repo": "team/none"},
        ],
    )
    assert [row["question"] for row in then] == [row["problem"] for row in ROWS[:20]]
    assert now[0]["question"] == "What is 0 + 4?"
    assert [row["reference"] for row in then] == [str(i + 3) for i in range(20)]
    assert json.loads(then[12]["meta"]) == {
        "repo": "team/sums", "revision": first, "config": "main", "split": "train", "row": 12, "columns": {"level": 12},
    }  # fmt: skip
    assert json.loads(now[0]["meta"])["revision"] == second  # resolved, though none was given
    assert {row["split"] for row in held} == {"test"} and len(held) == 10
    assert (then[0]["verifier"], then[0]["licence"], then[0]["source"]) == ("math", "MIT", "team/sums")
    assert "tset" in wrong_split and "none of its 20 rows can be used" in unmapped
    assert "not at that revision" in wrong_revision and "there is no data set team/none" in nobody


def test_a_hub_that_cannot_be_reached_is_explained(hub: Hub, tmp_path: Path) -> None:
    specs = [{**SPEC, "repo": "team/sums"}]
    (gone,) = read_all(hub, tmp_path, specs, HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot reach the Hub for team/sums" in gone
    (offline,) = read_all(hub, tmp_path, specs, HF_HUB_OFFLINE="1")
    assert "cannot reach the Hub for team/sums" in offline and "offline" in offline


def test_a_local_folder_in_the_hubs_layout_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name, content in layout().items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    rows = list(load_prompts(parse_source({**SPEC, "repo": "set", "size": 15}), splits=Shares()))
    assert [row["question"] for row in rows] == [row["problem"] for row in ROWS[:15]]
    assert json.loads(rows[0]["meta"])["revision"] is None


def test_a_name_no_data_set_can_have_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="neither a folder nor the name"):
        check_source(parse_source({**SPEC, "repo": "a/b/c"}))
