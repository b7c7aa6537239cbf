"""R1's whole road as stages of a run, small; and the scorers of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.gemma.folder import ModelFolder
from factory.query import connect, rows
from factory.recipe import Recipe, validate_recipe
from factory.store import Run
from factory.teacher.rewards import RuleScorer
from factory.teacher.scorers import identities_of, scorers_of
from filters.errors import UserError

SAMPLING = {"temperature": 1.0, "max_new_tokens": 64}


def recipe(**changes: Any) -> Recipe:
    """Everything that `reproduce` has, in a few steps."""
    rl = {
        "kind": "rl",
        "template": "r1-zero",
        "steps": 2,
        "prompts": 4,
        "samples": 4,
        "prompt_length": 24,
        "max_new_tokens": 64,
        "kl": 0.0,
        "optimiser": {"learning_rate": 1e-4},
        "rewards": {"format": {"weight": 0.1}, "overlong": {"mode": "zero"}},
        "rollout_batch": 32,
    }
    model = {
        "kind": "reward_model",
        "base": "tiny-student",
        "of": "zero",
        "labels": {"kind": "tiny"},
        "template": "plain:r1",
        "batch_size": 16,
        "max_length": 160,
        "learning_rate": 1e-3,
    }
    sampling = {
        "template": "r1-zero",
        "n": 8,
        "max_prompts": 60,
        "sampling": SAMPLING,
        "batch_size": 64,
        "prompt_length": 24,
    }
    sft = {"kind": "sft", "base": "tiny-teacher", "max_steps": 3, "batch_size": 8, "max_length": 128}
    preferences = {
        "helpfulness": {"weight": 0.3, "from_step": 1, "scorer": "helpful"},
        "harmlessness": {"weight": 0.3, "from_step": 1, "scorer": "harmless"},
    }
    value: dict[str, Any] = {
        "name": "road",
        "prompts": {"sources": [{"source": "tiny", "seed": 5, "quotas": {"train": 80, "validation": 12, "test": 12}}]},
        "teacher": {
            "zero": {**rl, "base": "tiny-teacher", "validation": {"every": 2, "prompts": 8, "samples": 2}},
            "cold_start": {**sft, "mix": "cold_start", "template": "plain:cold-start"},
            "align": {**rl, "base": "teacher:cold_start", "template": "plain:cold-start",
                      "rewards": {**rl["rewards"], **preferences}},  # type: ignore[dict-item]
        },
        "scorers": {
            "helpful": {**model, "purpose": "helpfulness"},
            "harmless": {**model, "purpose": "harmlessness"},
        },
        "samplings": {"zero": {**sampling, "model": "teacher:zero"}},
        "generate": {**sampling, "model": "teacher:align", "template": "plain:cold-start", "n": 1, "max_prompts": 8},
        "mixes": {"cold_start": {"of": "zero", "tag_style": "cold-start", "select": {"require_correct": True, "require_format": True}}},
        **changes,
    }  # fmt: skip
    return validate_recipe(value, "test")


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("tunix")
    from factory.console import Reporter
    from factory.pipeline import Selection, execute

    return execute(recipe(), tmp_path_factory.mktemp("road") / "run", Selection(), Reporter(quiet=True))


@pytest.mark.train
@pytest.mark.slow
def test_the_road_of_the_teacher(road: Run) -> None:
    stages = {path.stem for path in road.manifests()}
    assert {
        "teach.zero",
        "mix.cold_start",
        "reward.helpful",
        "reward.harmless",
        "teach.align",
        "report",
    } <= stages
    for name in ("zero", "cold_start", "align"):
        assert (road.folder / "teacher" / name / "model" / "model.safetensors").exists()
    with connect(road) as connection:
        jobs = rows(connection, "select distinct job from metrics order by 1")
        steps = rows(connection, "select job, step, count(*) n from rollouts group by all order by all")
        cold = rows(connection, "select messages from mix where mix = 'cold_start'")
        parts = rows(connection, "select step, rewards from rollouts where job = 'align'")
    assert [row["job"] for row in jobs] == ["align", "cold_start", "zero"]
    assert {(row["job"], row["step"]): row["n"] for row in steps} == {
        ("align", 1): 16, ("align", 2): 16, ("zero", 1): 16, ("zero", 2): 16,
    }  # fmt: skip
    assert cold and all("|special_token|" in row["messages"][-1]["content"] for row in cold)
    scored = {row["step"] for row in parts if "helpfulness" in json.loads(row["rewards"])}
    assert scored == {2}  # from_step 1, counted from 0


@pytest.mark.train
@pytest.mark.parametrize(("stage", "asked"), [("zero", {"math"}), ("align", {"math", "none"})])
def test_prompts_without_a_grader_are_for_stages_with_scorers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, asked: set[str]
) -> None:
    """Without a scorer nothing could be paid for them but tags."""
    pytest.importorskip("tunix")
    from factory import stages
    from factory.console import Reporter
    from factory.teacher import grpo, identity
    from factory.teacher import stages as teacher
    from tests.factory.teacher.conftest import TINY_STUDENT, sums

    class Asked(Exception):
        """Ends the stage once its prompts are known."""

    def train(_: str, __: Any, ___: Any, prompts: Any, *rest: Any, validation: Any, **more: Any) -> None:
        raise Asked([row["verifier"] for row in prompts], [row["verifier"] for row in validation])

    run = Run.create(tmp_path / "run")
    rows = [*sums(4), *sums(4, "validation")]
    for row in rows[::2]:
        row["verifier"] = "none"
    for number, row in enumerate(rows):
        row["question_hash"] = f"{number:032x}"
    run.replace("prompts", "main", rows)
    monkeypatch.setattr(grpo, "train_rl", train)
    monkeypatch.setattr(identity, "another_stage", lambda *_, **__: None)
    monkeypatch.setattr(stages, "model_folder", lambda *_: ModelFolder.open(TINY_STUDENT))
    for name in ("identities_of", "scorers_of"):
        monkeypatch.setattr(f"factory.teacher.scorers.{name}", lambda *_: {})
    with pytest.raises(Asked) as found:
        teacher.reinforce(run, stage, recipe(), Reporter(quiet=True))
    assert [set(verifiers) for verifiers in found.value.args] == [asked, asked]


@pytest.mark.train
@pytest.mark.slow
def test_pairs_are_of_the_runs_own_samples(road: Run) -> None:
    with connect(road) as connection:
        pairs = rows(connection, "select * from pairs")
        said = {row["completion"] for row in rows(connection, "select completion from candidates")}
    assert {row["purpose"] for row in pairs} == {"helpfulness", "harmlessness"}
    assert all(row["chosen"] in said and row["rejected"] in said for row in pairs)
    counts = json.loads(road.manifest_path("reward:helpful").read_text())["counts"]
    assert counts["pairs"] > 0 and counts["steps"] > 0


@pytest.mark.train
@pytest.mark.slow
def test_a_finished_road_is_not_walked_again(road: Run) -> None:
    from factory.console import Reporter
    from factory.pipeline import Selection, execute

    before = {path.name: path.stat().st_mtime_ns for path in road.manifests() if path.stem != "report"}
    execute(recipe(), road.folder, Selection(), Reporter(quiet=True))
    assert {
        path.name: path.stat().st_mtime_ns for path in road.manifests() if path.stem != "report"
    } == before


@pytest.mark.train
@pytest.mark.slow
def test_a_stage_is_of_its_reward_models(road: Run) -> None:
    """A reward model with the same settings and other weights gives other rewards."""
    from safetensors.numpy import load_file, save_file

    from factory.teacher.scorers import reward_folder

    rewards = recipe().teacher["align"].rewards  # type: ignore[union-attr]
    before = identities_of(road, recipe(), rewards)
    noted = json.loads((road.folder / "teacher" / "align" / "train.json").read_text())
    assert noted["scorers"] == before and set(before) == {"helpful", "harmless"}
    assert (
        noted["graders"]["puzzle"]
        and not json.loads((road.folder / "teacher" / "zero" / "train.json").read_text())["scorers"]
    )
    head = reward_folder(road, "helpful") / "reward_head.safetensors"
    held = head.read_bytes()
    try:
        save_file({key: 2 * value for key, value in load_file(head).items()}, head)
        after = identities_of(road, recipe(), rewards)
    finally:
        head.write_bytes(held)
    assert after["helpful"] != before["helpful"] and after["harmless"] == before["harmless"]


@pytest.mark.train
@pytest.mark.slow
def test_another_pattern_trains_the_stage_anew(tmp_path: Path) -> None:
    """The pipeline redoes the stage, and the stage does not take its finished model for an answer."""
    pytest.importorskip("tunix")
    from factory.console import Reporter
    from factory.pipeline import Selection, execute

    def with_pattern(pattern: str) -> Recipe:
        zero = recipe().teacher["zero"].model_dump(mode="json")
        zero |= {"steps": 1, "validation": None}
        zero["rewards"] |= {"harmlessness": {"weight": 0.5, "scorer": "clean"}}
        return recipe(
            teacher={"zero": zero},
            scorers={"clean": {"kind": "pattern", "sees": "response", "pattern": pattern}},
            samplings={},
            mixes={},
            generate={"model": "tiny-teacher"},
        )

    folder = tmp_path / "run"
    for pattern in ("a", "b"):
        execute(
            with_pattern(pattern),
            folder,
            Selection(start="teach:zero", until="teach:zero"),
            Reporter(quiet=True),
        )
        noted = json.loads((folder / "teacher" / "zero" / "train.json").read_text())
        assert noted["scorers"]["clean"]["pattern"] == pattern
    assert (folder / "teacher" / "zero.old-1").is_dir()


def test_identities_are_of_content(tmp_path: Path) -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        pattern = {"kind": "pattern", "sees": "response", "pattern": "bad word"}
        rubric = {"kind": "rubric", "model": "tiny-teacher", "template": "plain:r1"}
        rewards = {
            "harmlessness": {"weight": 1.0, "scorer": "clean"},
            "rubric": {"weight": 1.0, "scorer": "asked", "criteria": ["It is kind."]},
        }
        what = recipe(
            teacher={"zero": {"kind": "rl", "base": "tiny-teacher", "steps": 1, "rewards": rewards}},
            scorers={
                "clean": pattern | changes.get("clean", {}),
                "asked": rubric | changes.get("asked", {}),
            },
            samplings={},
            mixes={},
            generate={"model": "tiny-teacher"},
        )
        return identities_of(Run.create(tmp_path / "run"), what, what.teacher["zero"].rewards)  # type: ignore[union-attr]

    same = identity()
    assert identity() == same
    for change in (
        {"clean": {"pattern": "worse word"}},
        {"clean": {"wanted": False}},
        {"asked": {"model": "tiny-student"}},
        {"asked": {"sampling": {"max_new_tokens": 99}}},
        {"asked": {"prompt_length": 99}},
    ):
        (name,) = change
        assert [key for key, value in identity(**change).items() if value != same[key]] == [name]
    assert identity(asked={"batch_size": 99}) == same  # decides about no reply


def test_scorers_that_need_no_model(tmp_path: Path) -> None:
    rewards = {"rewards": {"harmlessness": {"weight": 1.0, "scorer": "clean"}}}
    zero = {"kind": "rl", "base": "tiny-teacher", "steps": 1, **rewards}
    what = recipe(
        teacher={"zero": zero},
        scorers={"clean": {"kind": "pattern", "sees": "response", "pattern": "bad word", "wanted": False}},
        samplings={},
        mixes={},
        generate={"model": "tiny-teacher"},
    )
    found = scorers_of(Run.create(tmp_path / "run"), what, what.teacher["zero"].rewards)  # type: ignore[union-attr]
    assert isinstance(found["clean"], RuleScorer)
    assert found["clean"].score([("q", "a bad word"), ("q", "fine")]) == [0.0, 1.0]


def test_a_scorer_that_is_not_there() -> None:
    with pytest.raises(UserError, match="names the scorer 'helpful'; there is none"):
        recipe(scorers={})


def test_pairs_from_a_file(tmp_path: Path) -> None:
    from factory.teacher.scorers import _read_pairs

    file = tmp_path / "pairs.jsonl"
    file.write_text('{"question": "Why?", "chosen": "So.", "rejected": "No."}\n\n{"question": "Why?"}\n')
    spec = recipe().scorers["helpful"].model_copy(update={"labels": {"kind": "file", "path": file}})
    with pytest.raises(UserError, match=r"line 3: expected question, chosen and rejected"):
        _read_pairs(file, spec)  # type: ignore[arg-type]
    file.write_text('{"question": "Why?", "chosen": "So.", "rejected": "No."}\n' * 2)
    pairs, questions = _read_pairs(file, spec)  # type: ignore[arg-type]
    assert len(pairs) == 1 and list(questions.values()) == ["Why?"]
    assert pairs[0]["source"] == "file:pairs.jsonl" and pairs[0]["purpose"] == "helpfulness"
