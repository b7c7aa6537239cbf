"""A judge in a recipe: the stage, its fingerprint, the plan of a run, and the road to a mix."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from factory import judge as judge_module
from factory.catalogue_path import catalogue_dir
from factory.console import Reporter
from factory.dry_run import print_plan
from factory.pipeline import Selection, execute, fingerprints, plan
from factory.query import connect, rows
from factory.recipe import JudgeModel, Recipe, load_recipe, validate_recipe
from factory.report import write_report
from factory.sources import load_prompts
from factory.stages import generation_of
from factory.status import run_status
from factory.store import Run
from filters import UserError
from tests.factory.judging import ScriptedJudge, honest

RUBRIC = {
    "mode": "rubric",
    "criteria": [{"text": "says because", "weight": 2}, "says light"],
    "threshold": 0.6,
}


def recipe(tmp_path: Path, judge: dict[str, Any] | None = None) -> Recipe:
    path = tmp_path / "questions.jsonl"
    if not path.exists():
        path.write_text("".join(f'{{"question": "Why is thing {i} so?"}}\n' for i in range(4)))
    source = {"kind": "files", "path": str(path), "verifier": "judge", "verifier_args": RUBRIC}
    value = {
        "name": "judged",
        "prompts": {"sources": [source], "splits": {"validation": 0, "test": 0}},
        "generate": {"model": "tiny-teacher", "n": 2},
        "judge": {"workers": 1, "llm": {"model": "tiny-student"}, **(judge or {})},
        "mixes": {"good": {"select": {"require_correct": True}}},
    }
    return validate_recipe(value, "test")


ANSWERS = ["It is so because of light.", "It is so."]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedJudge:
    """A teacher and a judge that follow a script, behind the stages as they are."""
    scripted = ScriptedJudge()
    described = judge_module.language_judge

    def judged_by(spec: JudgeModel) -> Any:
        real = described(spec)
        return scripted.as_judge(real.identity, real.name)

    def generate(context: Any) -> Any:
        from factory.stages import StageResult

        spec = context.recipe.generate
        found = [
            {
                "candidate_id": f"{row['prompt_id']}-{index}",
                "prompt_id": row["prompt_id"],
                "generation_id": generation_of(context.run, spec),
                "sample_index": index,
                "completion": f"<think>\nSo.\n</think>\n{text}",
                "template": "gemma:r1",
                "finish_reason": "stop",
                "completion_tokens": 12,
                "engine": "scripted",
            }
            for row in context.run.read("prompts").to_pylist()
            for index, text in enumerate(ANSWERS)
        ]
        with context.run.writer("candidates") as writer:
            writer.append(found)
        return StageResult(context.run.shards("candidates"), {"candidates": len(found)})

    monkeypatch.setattr(judge_module, "language_judge", judged_by)
    monkeypatch.setattr("factory.stages.generate", lambda _: generate)
    return scripted


def walk(tmp_path: Path, what: Recipe, **selection: str) -> Run:
    return execute(what, tmp_path / "run", Selection(**selection), Reporter(quiet=True))


def test_open_questions_to_a_mix_by_a_rubric(tmp_path: Path, engine: ScriptedJudge) -> None:
    run = walk(tmp_path, recipe(tmp_path))
    with connect(run) as connection:
        mixed = rows(connection, "select answer, n_samples, n_judged, n_correct from mix")
        graders = rows(connection, "select distinct grader from verdict")
    assert [row["answer"] for row in mixed] == [ANSWERS[0]] * 4
    assert mixed[0]["n_samples"] == mixed[0]["n_judged"] == 2 and mixed[0]["n_correct"] == 1
    assert graders == [{"grader": "judge:tiny-student"}]
    manifest = run.manifest("judge")
    assert manifest is not None and manifest["counts"]["replies paid"] == 16 == len(engine.paid)
    assert manifest["config"]["llm_hash"] and manifest["config"]["llm"]["model"] == "tiny-student"
    assert any("judgements" in output["path"] for output in manifest["outputs"])
    assert run_status(run, check=True)["tables"]["judgements"] == 16
    assert write_report(run).is_file()


def test_another_judge_is_another_stage_and_replies_are_kept(tmp_path: Path, engine: ScriptedJudge) -> None:
    walk(tmp_path, recipe(tmp_path))
    other = recipe(tmp_path, {"llm": {"model": "tiny-teacher"}})
    with pytest.raises(UserError, match=r"stage judge .*llm\.model: 'tiny-student' -> 'tiny-teacher'"):
        walk(tmp_path, other)
    engine.script = lambda asked: honest(asked).replace("NO", "YES")
    run = walk(tmp_path, other, start="judge")
    with connect(run) as connection:
        assert rows(connection, "select count(*) n from mix")[0]["n"] == 8
    assert len(engine.paid) == 32
    walk(tmp_path, recipe(tmp_path), start="judge")  # back to the first: all its replies are there
    assert len(engine.paid) == 32


def test_the_policy_belongs_to_selection(tmp_path: Path, engine: ScriptedJudge) -> None:
    run = walk(tmp_path, recipe(tmp_path))
    judged = (run.folder / "stages" / "judge.json").stat().st_mtime_ns
    union = recipe(tmp_path, {"policy": "union"})
    with pytest.raises(UserError, match=r"stage select:good .*policy: 'first' -> 'union'"):
        walk(tmp_path, union)
    walk(tmp_path, union, start="select")
    assert (run.folder / "stages" / "judge.json").stat().st_mtime_ns == judged
    assert (run.folder / "verdict.json").read_text().count("union") == 1


def test_what_takes_part_in_the_fingerprint(tmp_path: Path) -> None:
    def judge_print(**llm: Any) -> str:
        return fingerprints(plan(recipe(tmp_path, {"llm": {"model": "tiny-student", **llm}})))["judge"]

    assert judge_print() == judge_print()
    changed = [
        judge_print(ask="all"),
        judge_print(template="gemma:tunix"),
        judge_print(sampling={"temperature": 0.3}),
        fingerprints(plan(recipe(tmp_path, {"vote": {"min_votes": 5}})))["judge"],
        fingerprints(plan(recipe(tmp_path, {"llm": None})))["judge"],
    ]
    assert len({judge_print(), *changed}) == 6


def test_a_dry_run_says_who_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(recipe(tmp_path), tmp_path / "run", Selection())
    printed = " ".join(capsys.readouterr().out.split())
    assert "tiny-student" in printed and "rules cannot" in printed
    with pytest.raises(UserError, match="nowhere"):
        plan(recipe(tmp_path, {"llm": {"model": "nowhere"}}))


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ({"llm": {"model": "m", "asks": "all"}}, "did you mean 'ask'"),
        ({"llm": {"model": "m", "ask": "some"}}, "judge.llm.ask"),
        ({"llm": {"model": "m", "template": "r9"}}, "unknown template"),
        ({"vote": {"min_share": 0}}, "judge.vote.min_share"),
        ({"vote": {"min_votes": 1}}, "judge.vote.min_votes"),
        ({"policy": "best"}, "judge.policy"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, judge: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, judge)


def test_the_shipped_recipe(tmp_path: Path) -> None:
    """Its questions become prompts of kind `judge`, with its rubric unless a row brings its own."""
    text = (catalogue_dir() / "recipes" / "judged-questions.yaml").read_text(encoding="utf-8")
    value = yaml.safe_load(text)
    value["generate"]["model"] = value["judge"]["llm"]["model"] = "tiny-teacher"
    questions = tmp_path / "questions.jsonl"
    own = '"verifier_args": {"criteria": ["It rhymes."], "threshold": 1}'
    questions.write_text(f'{{"question": "Why is the sky blue?"}}\n{{"question": "A poem?", {own}}}\n')
    value["prompts"]["sources"][0]["path"] = str(questions)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(value))
    mine = load_recipe(tmp_path / "mine.yaml")
    assert [stage.name for stage in plan(mine)][:3] == ["prompts", "generate", "judge"]
    prompts = list(load_prompts(mine.prompts.sources[0], splits=mine.prompts.splits))
    assert [row["verifier"] for row in prompts] == ["judge", "judge"]
    rubrics = [yaml.safe_load(row["verifier_args"]) for row in prompts]
    assert len(rubrics[0]["criteria"]) == 5 and rubrics[1]["criteria"] == ["It rhymes."]
