"""The walk: what is skipped, what goes on, what is refused. Stages here only count."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from factory import pipeline, stages
from factory.console import Reporter
from factory.pipeline import Selection, execute, fingerprints, plan
from factory.recipe import Recipe, Splits, validate_recipe
from factory.stages import Context, StageResult
from factory.store import Run
from filters import UserError


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Replace what stages do by counting."""
    calls: Counter[str] = Counter()

    def work(kind: str) -> Callable[[Context], StageResult]:
        def count(context: Context) -> StageResult:
            calls[kind] += 1
            path = context.run.folder / f"{kind}.txt"
            path.write_text(kind)
            return StageResult([path], {"calls": calls[kind]})

        return count

    for kind in ("prompts", "evaluate", "report"):
        monkeypatch.setattr(stages, kind, work(kind))
    for kind in ("generate", "judge"):
        monkeypatch.setattr(
            stages, kind, lambda name, kind=kind: work(kind if name is None else f"{kind}-{name}")
        )
    for kind in ("select", "mix", "train", "teach_rl", "teach_sft"):
        monkeypatch.setattr(stages, kind, lambda name, kind=kind: work(f"{kind}-{name}"))
    monkeypatch.setattr(pipeline, "check_source", lambda source: None)
    monkeypatch.setattr(stages, "prompt_files", lambda recipe: {})
    monkeypatch.setattr(stages, "model_hash", lambda name: f"hash of {name}")
    return calls


def recipe(**generate: object) -> Recipe:
    return validate_recipe(
        {
            "name": "walk",
            "prompts": {"sources": [{"kind": "files", "path": "q.jsonl"}]},
            "generate": {"model": "m", **generate},
            "mixes": {"a": {"select": {"same_size_as": "b"}}, "b": {}},
            "students": {"s": {"mix": "a", "base": "m", "max_steps": 1}},
            "evaluation": {"models": [{"name": "s", "model": "student:s"}]},
        },
        "test",
    )


def walk(folder: Path, what: Recipe, **selection: str) -> Run:
    return execute(what, folder, Selection(**selection), Reporter(quiet=True))


def test_the_road_and_its_order(done: Counter[str], tmp_path: Path) -> None:
    names = [stage.name for stage in plan(recipe())]
    assert names == [
        "prompts", "generate", "judge", "select:b", "select:a", "mix:b", "mix:a", "train:s", "eval", "report",
    ]  # fmt: skip
    walk(tmp_path / "run", recipe())
    assert set(done.values()) == {1} and len(done) == 10


def test_finished_stages_are_skipped_and_the_report_is_made_anew(done: Counter[str], tmp_path: Path) -> None:
    walk(tmp_path / "run", recipe(), until="judge")
    assert set(done) == {"prompts", "generate", "judge"}
    walk(tmp_path / "run", recipe())
    walk(tmp_path / "run", recipe())
    assert done["generate"] == 1 and done["train-s"] == 1 and done["report"] == 2


def test_a_changed_setting_of_a_finished_stage_stops_the_run(done: Counter[str], tmp_path: Path) -> None:
    walk(tmp_path / "run", recipe())
    with pytest.raises(UserError, match=r"stage generate .* \(n: 8 -> 4\).*--from generate"):
        walk(tmp_path / "run", recipe(n=4))
    assert done["generate"] == 1
    walk(tmp_path / "run", recipe(n=4), start="generate")
    assert done["prompts"] == 1 and done["generate"] == 2 and done["evaluate"] == 2


def test_only_needs_what_comes_before(done: Counter[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs stage prompts, which is not done"):
        walk(tmp_path / "run", recipe(), only="generate")
    walk(tmp_path / "run", recipe(), until="judge")
    walk(tmp_path / "run", recipe(), only="select")
    assert done["select-a"] == done["select-b"] == 1 and done["mix-a"] == 0
    with pytest.raises(UserError, match="needs stage prompts, whose settings changed"):
        changed = recipe().model_copy(
            update={"prompts": recipe().prompts.model_copy(update={"splits": Splits(test=0.2)})}
        )
        walk(tmp_path / "run", changed, only="generate")


def test_a_file_that_disappeared_is_named(done: Counter[str], tmp_path: Path) -> None:
    walk(tmp_path / "run", recipe(), until="judge")
    (tmp_path / "run" / "generate.txt").unlink()
    with pytest.raises(UserError, match=r"generate\.txt, made by stage generate, is missing"):
        walk(tmp_path / "run", recipe())


def test_a_stage_that_dies_is_not_done(
    done: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(context: Context) -> StageResult:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "judge", lambda _: die)
        with pytest.raises(KeyboardInterrupt):
            walk(tmp_path / "run", recipe())
    assert Run.open(tmp_path / "run").manifest("judge") is None
    walk(tmp_path / "run", recipe())
    assert done["generate"] == 1 and done["judge"] == 1


def test_an_unknown_stage_lists_the_known_ones(done: Counter[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stage 'judgment'.*judge, select:b"):
        walk(tmp_path / "run", recipe(), until="judgment")


def test_two_walkers_of_one_run(done: Counter[str], tmp_path: Path) -> None:
    run = walk(tmp_path / "run", recipe(), until="prompts")
    with run.locked("pipeline"), pytest.raises(UserError, match="is being written by process"):
        walk(tmp_path / "run", recipe())


def test_fingerprints_follow_the_settings_and_what_comes_before(done: Counter[str]) -> None:
    before, after = fingerprints(plan(recipe())), fingerprints(plan(recipe(n=4)))
    same = {name for name in before if before[name] == after[name]}
    assert same == {"prompts"}
    workers = recipe().model_copy(update={"judge": recipe().judge.model_copy(update={"workers": 7})})
    assert fingerprints(plan(workers)) == before


def test_the_difference_names_every_key() -> None:
    old, new = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 3, "c": [1]}, "e": 2}
    assert pipeline._difference(old, new) == "a.b: 1 -> 3, d: 2 -> None, e: None -> 2"


# ------------------------------------------------------------------------------------------- a teacher


def taught(**teacher: object) -> Recipe:
    """R1's road: RL alone, a cold start from its samples, RL, rejection sampling, SFT."""
    stages_of_r1: dict[str, object] = {
        "zero": {"kind": "rl", "base": "m", "steps": 1},
        "reasoning_rl": {"kind": "rl", "base": "teacher:cold_start", "steps": 1},
        "cold_start": {"kind": "sft", "base": "m", "mix": "cold", "max_steps": 1},
        "sft": {"kind": "sft", "base": "m", "mix": "curated", "max_steps": 1},
    }
    return validate_recipe(
        {
            "name": "r1",
            "prompts": {"sources": [{"kind": "files", "path": "q.jsonl"}]},
            "teacher": {**stages_of_r1, **teacher},
            "samplings": {"zero": {"model": "teacher:zero", "max_prompts": 3}},
            "generate": {"model": "teacher:reasoning_rl"},
            "mixes": {"cold": {"of": "zero"}, "curated": {}},
            "students": {"s": {"mix": "curated", "base": "m", "max_steps": 1}},
            "evaluation": {
                "models": [{"name": "s", "model": "student:s"}, {"name": "r1", "model": "teacher:sft"}]
            },
        },
        "test",
    )


def test_the_road_of_r1(done: Counter[str], tmp_path: Path) -> None:
    names = [stage.name for stage in plan(taught())]
    assert names == [
        "prompts", "teach:zero", "generate:zero", "judge:zero", "select:cold", "mix:cold", "teach:cold_start",
        "teach:reasoning_rl", "generate", "judge", "select:curated", "mix:curated", "teach:sft", "train:s", "eval",
        "report",
    ]  # fmt: skip
    walk(tmp_path / "run", taught())
    assert done["teach_rl-zero"] == done["generate-zero"] == done["teach_sft-cold_start"] == 1


def test_a_goal_takes_along_what_it_builds_on_and_nothing_else(done: Counter[str], tmp_path: Path) -> None:
    walk(tmp_path / "run", taught(), goal="teach:cold_start")
    assert set(done) == {
        "prompts", "teach_rl-zero", "generate-zero", "judge-zero", "select-cold", "mix-cold", "teach_sft-cold_start",
    }  # fmt: skip
    walk(tmp_path / "run", taught(), goal="teach:sft")
    assert done["teach_rl-zero"] == 1 and done["teach_sft-sft"] == 1 and not done["train-s"]


def test_another_zero_undoes_what_was_made_from_it(done: Counter[str], tmp_path: Path) -> None:
    walk(tmp_path / "run", taught())
    other = taught(zero={"kind": "rl", "base": "m", "steps": 2})
    with pytest.raises(UserError, match=r"stage teach:zero .* \(steps: 1 -> 2\)"):
        walk(tmp_path / "run", other)
    walk(tmp_path / "run", other, start="teach:zero")
    assert done["prompts"] == 1 and done["generate"] == 2 and done["train-s"] == 2


def test_stages_that_wait_for_each_other(done: Counter[str]) -> None:
    circle = taught(zero={"kind": "rl", "base": "teacher:reasoning_rl", "steps": 1})
    with pytest.raises(UserError, match="wait for each other: teach:zero"):
        plan(circle)
    with pytest.raises(ValueError, match="trained from itself"):
        taught(zero={"kind": "rl", "base": "teacher:zero", "steps": 1}).origin("teacher:zero")


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            {"zero": {"kind": "rl", "base": "teacher:none", "steps": 1}},
            "names the teacher 'none'; there is cold_start",
        ),
        ({"sft": {"kind": "sft", "base": "m", "mix": "no", "max_steps": 1}}, "teacher.sft.mix names 'no'"),
        (
            {"zero": {"kind": "rl", "base": "m", "stepz": 1}},
            "unknown key 'teacher.zero.stepz'; did you mean 'steps'",
        ),
        ({"zero": {"kind": "ppo", "base": "m", "steps": 1}}, "'sft', 'rl'"),
    ],
)
def test_a_teacher_that_cannot_be(teacher: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        taught(**teacher)


def test_names_of_the_teachers_stages() -> None:
    from factory.recipe import teacher_stage

    assert teacher_stage(taught(), "zero") == "zero"
    assert teacher_stage(taught(), "r1") == "sft"
    with pytest.raises(UserError, match="no stage 'align'; it has cold_start, reasoning_rl, sft, zero"):
        teacher_stage(taught(), "align")


def test_seconds_are_those_of_all_attempts(
    done: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    whole = stages.generate

    def stopped(name: str | None) -> Callable[[Context], StageResult]:
        def work(context: Context) -> StageResult:
            clock[0] += 40
            raise KeyboardInterrupt

        return work

    monkeypatch.setattr(stages, "generate", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            walk(tmp_path / "run", recipe())
        clock[0] += 5000  # nobody works

    monkeypatch.setattr(stages, "generate", whole)
    manifest = walk(tmp_path / "run", recipe()).manifest("generate")
    assert manifest is not None and manifest["seconds"] == 80
    monkeypatch.setattr(stages, "generate", stopped)
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path / "run", recipe(), start="generate")
    monkeypatch.setattr(stages, "generate", whole)
    manifest = walk(tmp_path / "run", recipe(), start="generate").manifest("generate")
    assert manifest is not None and manifest["seconds"] == 40  # the work of a stage that was finished is over


def test_a_stage_that_knows_how_long_it_worked_is_believed(
    done: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that is finished already takes a second to look at."""

    def known(name: str) -> Callable[[Context], StageResult]:
        return lambda context: StageResult([], {}, seconds=600.0)

    monkeypatch.setattr(stages, "train", known)
    manifest = walk(tmp_path / "run", recipe()).manifest("train:s")
    assert manifest is not None and manifest["seconds"] == pytest.approx(600.0, abs=1.0)


def test_the_seed_of_a_run_belongs_to_its_rl_stages(done: Counter[str]) -> None:
    def config(seed: int) -> dict[str, object]:
        what = taught().model_copy(update={"seed": seed})
        return next(dict(stage.config) for stage in plan(what) if stage.name == "teach:zero")

    assert config(0) == config(0) != config(1)
