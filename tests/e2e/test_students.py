"""A recipe of students alone: data that are there, a teacher's scores, a teacher that corrects; and a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.gemma.folder import ModelFolder
from factory.console import Reporter
from factory.dry_run import print_plan
from factory.pipeline import Selection, execute, plan
from factory.recipe import Recipe, validate_recipe
from factory.store import Run
from filters.errors import UserError

pytestmark = [pytest.mark.train, pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {a} + {b}?"},
                {"role": "assistant", "content": f"<think> {a} + {b} </think> {a + b}"},
            ],
            "split": "validation" if a == b else "train",
        }
        for a in range(6)
        for b in range(6)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def recipe(data: Path, **scored: Any) -> Recipe:
    common = {"data": str(data), "base": "tiny-student", "template": "plain:r1", "max_length": 64}
    common |= {"max_steps": 6, "batch_size": 4, "learning_rate": 0.002}
    top_k = {"kind": "top_k", "teacher": "student:plain", "top_k": 4, "share": 0.5, **scored}
    on_policy = {"kind": "on_policy", "teacher": "student:plain", "samples": 2, "max_new_tokens": 16}
    students = {
        "plain": {**common, "base": "tiny-teacher", "short_first": 2},
        "scored": {**common, "distillation": top_k},
        "corrected": {**common, "distillation": on_policy},
    }
    return validate_recipe({"name": "students", "students": students}, "test")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return execute(
        recipe(data), tmp_path_factory.mktemp("students") / "run", Selection(), Reporter(quiet=True)
    )


def test_the_order_of_the_road(data: Path) -> None:
    assert [stage.name for stage in plan(recipe(data))] == [
        "train:plain",
        "score:scored",
        "train:scored",
        "train:corrected",
        "report",
    ]


def test_every_student_is_trained_in_its_way(run: Run) -> None:
    for name in ("plain", "scored", "corrected"):
        assert ModelFolder.open(run.folder / "students" / name / "model").parameter_count > 0
    settings = {
        name: json.loads((run.folder / "students" / name / "train.json").read_text())
        for name in ("plain", "scored", "corrected")
    }
    assert settings["plain"]["config"]["short_first"] == 2
    assert settings["scored"]["config"]["distillation"]["share"] == 0.5
    assert settings["corrected"]["config"]["distillation"]["kind"] == "on_policy"
    teacher = ModelFolder.open(run.folder / "students" / "plain" / "model").content_hash
    assert settings["corrected"]["teacher"] == {"content_hash": teacher}
    assert settings["scored"]["teacher"]["content_hash"].startswith(teacher)
    manifest = run.manifest("score:scored")
    assert manifest is not None and manifest["counts"]["samples"] == 36
    assert (run.folder / "report.html").is_file()


def test_another_share_needs_no_new_scores(run: Run, data: Path) -> None:
    parts = run.folder / "students" / "scored-scores"
    before = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    execute(recipe(data, share=0.25), run.folder, Selection(only="train:scored"), Reporter(quiet=True))
    assert {path.name: path.stat().st_mtime_ns for path in parts.iterdir()} == before
    assert (run.folder / "students" / "scored.old-1").is_dir()


def test_other_scores_are_made_beside(run: Run, data: Path) -> None:
    with pytest.raises(UserError, match="score:scored"):
        execute(recipe(data, top_k=8), run.folder, Selection(), Reporter(quiet=True))
    execute(recipe(data, top_k=8), run.folder, Selection(start="score:scored"), Reporter(quiet=True))
    assert json.loads((run.folder / "students" / "scored-scores" / "scores.json").read_text())["top_k"] == 8
    assert (run.folder / "students" / "scored-scores.old-1").is_dir()


def test_changed_data_are_noticed(run: Run, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "data.jsonl"
    other.write_text(data.read_text().replace("What is 0 + 1?", "What is 1 + 0?"))
    with pytest.raises(UserError, match="train:plain"):
        execute(recipe(other), run.folder, Selection(), Reporter(quiet=True))


def test_the_plan_of_a_recipe_of_students(data: Path, tmp_path: Path, capsys: Any) -> None:
    print_plan(recipe(data), tmp_path / "run", Selection())
    said = capsys.readouterr().out
    assert "score:scored" in said and "train:corrected" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"students": {}}, "give prompts, or students"),
        ({"evaluation": {"models": [{"name": "m", "model": "tiny-student"}]}}, "evaluation needs prompts"),
        ({"generate": {"model": "tiny-student"}}, "generate needs prompts"),
        ({"mixes": {"a": {}}}, "the recipe has no generate"),
        ({"students": {"s": {"base": "m", "max_steps": 1}}}, "give mix or data"),
        ({"students": {"s": {"base": "m", "max_steps": 1, "mix": "a", "data": "d"}}}, "give mix or data"),
    ],
)
def test_recipes_that_lack_something(changes: dict[str, Any], message: str) -> None:
    whole = {"name": "r", "students": {"s": {"base": "m", "max_steps": 1, "data": "d"}}}
    with pytest.raises(UserError, match=message):
        validate_recipe({**whole, **changes}, "test")
