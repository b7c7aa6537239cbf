"""SIGKILL at moments over whole stages: the resumed run equals the uninterrupted one, none twice, none lost."""

import json
import random
from pathlib import Path

import pytest

from factory.records import TABLES, equal_tables
from factory.store import Run
from tests.e2e.killing import run, run_and_die, run_and_kill

pytestmark = [pytest.mark.train, pytest.mark.slow]

DRAW = random.Random(20260)


def arguments(folder: Path, questions: Path, *more: str) -> list[str]:
    return [
        "generate", "--prompts", str(questions), "--model", "tiny-teacher", "--n", "8", "--run", str(folder),
        "--template", "r1-zero", "--answer-instruction", "", "--max-new-tokens", "48", "--prompt-length", "96", "--batch-size", "32", *more,
    ]  # fmt: skip


def sum_of(text: str) -> int:
    first, second, third = (int(part) for part in text.replace("+", " ").replace("-", " ").split())
    return first + second - third


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    lines = [
        {"question": f"State the final answer: {i} + {i % 7} =", "reference": str(i + i % 7)}
        for i in range(48)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, questions: Path, cache: Path) -> Run:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(arguments(folder, questions, "--keep", "readable"), cache)
    return Run.open(folder)


def same(left: Run, right: Run, *names: str) -> None:
    for name in names:
        one, two = left.read(name), right.read(name)
        keys = two.select(list(TABLES[name].key)).to_pylist()
        assert len({tuple(key.values()) for key in keys}) == two.num_rows, f"{name}: a row is there twice"
        assert one.num_rows == two.num_rows, f"{name}: rows are missing"
        assert equal_tables(name, one, two), f"{name} differs"


def test_generation(whole: Run, questions: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    raw = arguments(folder, questions, "--raw")
    journal = folder / "journal" / "candidates" / "main.jsonl"
    killed = [
        run_and_die(raw, cache, "torn append", DRAW.randint(1, 3)),
        run_and_kill(raw, cache, journal, DRAW.uniform(0.0, 4.0)),
        run_and_die(raw, cache, "append", DRAW.randint(2, 4)),
        run_and_kill(raw, cache, journal, DRAW.uniform(0.0, 8.0)),
        run_and_die(raw, cache, "torn append", 2),
        run_and_die(raw, cache, "before clear", 1),
    ]
    assert sum(killed) >= 5, killed
    run(raw, cache)
    same(whole, Run.open(folder), "prompts", "candidates")


@pytest.mark.parametrize(
    ("stage", "points"),
    [
        (
            "judge",
            [
                ("torn append", 3),
                ("append", 4),
                ("before rename", 1),
                ("after rename", 2),
                ("before clear", 1),
            ],
        ),
        ("select", [("before rename", 1), ("after rename", 1), ("before rename", 2)]),
        ("mix", [("before rename", 1), ("after rename", 1), ("before rename", 2)]),
    ],
)
def test_judging_selection_and_mix(
    stage: str, points: list[tuple[str, int]], whole: Run, questions: Path, cache: Path, tmp_path: Path
) -> None:
    """A copy of the whole run, with the stage and what follows undone, killed at every point and resumed."""
    folder = tmp_path / "run"
    copy_before(whole.folder, folder, stage)
    full = arguments(folder, questions, "--keep", "readable")
    killed = [run_and_die(full, cache, point, nth) for point, nth in points]
    assert all(killed[:2])
    run(full, cache)
    same(whole, Run.open(folder), "candidates", "verdicts", "signals", "decisions")
    parts = [sorted((r / "mix" / "default").glob("part-*.parquet")) for r in (whole.folder, folder)]
    assert [p.read_bytes() for p in parts[0]] == [p.read_bytes() for p in parts[1]] != []


def copy_before(source: Path, target: Path, stage: str) -> None:
    import shutil

    shutil.copytree(source, target)
    made = {"judge": ["verdicts", "signals", "decisions"], "select": ["decisions"], "mix": []}[stage]
    for table in made:
        shutil.rmtree(target / "tables" / table)
        shutil.rmtree(target / "journal" / table, ignore_errors=True)
    shutil.rmtree(target / "mix")
    later = {
        "judge": ("judge", "select", "mix", "report"),
        "select": ("select", "mix", "report"),
        "mix": ("mix", "report"),
    }
    for manifest in (target / "stages").glob("*.json"):
        if manifest.stem.partition(".")[0] in later[stage]:
            manifest.unlink()
