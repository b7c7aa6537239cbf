"""What a stage makes of what an earlier one, or an earlier setting, left behind."""

import json
from pathlib import Path
from typing import Any

import pytest

from factory.console import Reporter
from factory.judge import judge_candidates
from factory.pipeline import Selection, check_sources, dependents, execute, plan
from factory.query import connect, rows
from factory.recipe import Judge, Recipe, validate_recipe
from factory.sources.general import generated_general
from factory.stages import Context, prompts, training_prompts
from factory.store import Run
from filters import UserError

CORRECT = "<think>\nTwo plus three is five.\n</think>\n5"


def questions(path: Path, count: int, **more: Any) -> Path:
    lines = [{"question": f"What is {i} + 3?", "reference": str(i + 3), **more} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(*sources: dict[str, Any], **more: Any) -> Recipe:
    value = {
        "name": "r",
        "prompts": {"sources": list(sources)},
        "generate": {"model": "tiny-teacher"},
        **more,
    }
    return validate_recipe(value, "test")


def candidates(run: Run, texts: dict[str, list[str]], generation: str = "g") -> None:
    found = [
        {
            "candidate_id": f"{generation}-{prompt}-{i}",
            "prompt_id": prompt,
            "generation_id": generation,
            "sample_index": i,
            "completion": text,
            "template": "gemma:r1",
            "finish_reason": "stop",
            "completion_tokens": 12,
        }
        for prompt, drawn in texts.items()
        for i, text in enumerate(drawn)
    ]
    with run.writer("candidates", f"slice-{generation}") as writer:
        writer.append(found)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run")
    prompt = {
        "question": "What is 2 + 3?",
        "reference": "5",
        "verifier": "math",
        "verifier_args": "{}",
        "split": "train",
    }
    run.replace("prompts", "main", [{"prompt_id": "p", "language": "en-US", **prompt}])
    return run


def test_candidates_of_other_settings_and_of_dropped_prompts_are_let_be(run: Run) -> None:
    candidates(run, {"p": [CORRECT, "6", "7"], "dropped": ["5"]})
    candidates(run, {"p": ["8"]}, generation="old")
    counts = judge_candidates(run, Judge(), generation="g", n=2)
    assert counts == {"judged": 2, "correct": 1, "incorrect": 1}
    assert run.read("verdicts").num_rows == 2


def test_another_target_language_measures_again_and_so_does_asking(run: Run) -> None:
    candidates(run, {"p": [CORRECT]})
    judge_candidates(run, Judge(), generation="g", n=1)
    assert run.read("signals").column("language_consistency").to_pylist() == [1.0]
    again = judge_candidates(run, Judge(language="zh"), generation="g", n=1)
    assert again["judged"] == 1 and run.read("signals").column("language_consistency").to_pylist() == [0.0]
    assert judge_candidates(run, Judge(language="zh"), generation="g", n=1)["judged"] == 0
    assert judge_candidates(run, Judge(language="zh"), generation="g", n=1, afresh=True)["judged"] == 1


def test_a_language_nobody_knows_is_no_fault_of_the_sample(run: Run) -> None:
    table = run.read("prompts").to_pylist()
    run.replace("prompts", "main", [{**row, "language": "Klingon"} for row in table])
    candidates(run, {"p": [CORRECT]})
    judge_candidates(run, Judge(), generation="g", n=1)
    row = run.read("signals").to_pylist()[0]
    assert row["well_formed"] and row["language_consistency"] == 1.0


def test_failures_of_ours_take_no_part_in_the_pass_rate(run: Run) -> None:
    candidates(run, {"p": ["5", "6", "7", "8"]})
    outcomes = [("correct", None), ("incorrect", None), ("timeout", "system"), ("unverifiable", None)]
    verdicts = [
        {
            "candidate_id": f"g-p-{i}",
            "grader": "math",
            "grader_version": "1",
            "outcome": outcome,
            "fault": fault,
        }
        for i, (outcome, fault) in enumerate(outcomes)
    ]
    run.replace("verdicts", "main", verdicts)
    with connect(run) as connection:
        stats = rows(connection, "select n_samples, n_judged, n_correct from prompt_stats")
    assert stats == [{"n_samples": 4, "n_judged": 2, "n_correct": 1}]


def test_a_held_out_question_stays_held_out_whoever_else_brings_it(tmp_path: Path) -> None:
    one = {"kind": "files", "path": str(questions(tmp_path / "one.jsonl", 4))}
    two = {"kind": "files", "path": str(questions(tmp_path / "two.jsonl", 2)), "evaluation_only": True}
    for sources in ([one, two], [two, one]):
        context = Context(
            Run.create(tmp_path / sources[0]["path"][-8:]), recipe(*sources), Reporter(quiet=True)
        )
        result = prompts(context)
        held = [row for row in context.run.read("prompts").to_pylist() if row["evaluation_only"]]
        assert len(held) == 2 and result.counts["prompts"] == 4 and result.counts["in two sources"] == 2


def test_other_questions_in_the_same_file_are_another_stage(tmp_path: Path) -> None:
    path = questions(tmp_path / "q.jsonl", 3)
    asked = recipe({"kind": "files", "path": str(path)})
    execute(asked, tmp_path / "run", Selection(until="prompts"), Reporter(quiet=True))
    questions(path, 5)
    with pytest.raises(UserError, match="stage prompts .* is done, but its settings changed"):
        execute(asked, tmp_path / "run", Selection(until="prompts"), Reporter(quiet=True))


def test_what_builds_on_a_stage_is_undone_with_it() -> None:
    road = plan(recipe({"kind": "reasoning_gym", "task": "gcd", "size": 2}, mixes={"a": {}}))
    assert dependents(road, "judge") == ["report", "mix:a", "select:a", "judge"]


def test_a_missing_general_file_is_found_before_any_work(tmp_path: Path) -> None:
    general = {"source": {"kind": "file", "path": str(tmp_path / "none.jsonl")}}
    wanted = recipe({"kind": "reasoning_gym", "task": "gcd", "size": 2}, mixes={"a": {"general": general}})
    with pytest.raises(UserError, match=r"none\.jsonl"):
        check_sources(wanted)


def test_a_row_that_is_not_unicode_is_one_bad_row(tmp_path: Path) -> None:
    path = questions(tmp_path / "q.jsonl", 3)
    path.write_text(path.read_text() + '{"question": "a \\ud800", "reference": "1"}\n')
    context = Context(
        Run.create(tmp_path / "run"), recipe({"kind": "files", "path": str(path)}), Reporter(quiet=True)
    )
    assert prompts(context).counts["bad rows"] == 1


def test_generated_instructions_come_to_an_end() -> None:
    texts = [row["messages"][0]["content"] for row in generated_general(0)]
    assert 10_000 < len(texts) == len(set(texts))


def test_a_torn_shard_is_named_by_a_query(run: Run) -> None:
    path = run.shards("prompts")[0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=path.name):
        connect(run)


def test_prompts_with_or_without_a_grader(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    shared = {"split": "train", "evaluation_only": False, "verifier_args": "{}"}
    run.replace(
        "prompts",
        "main",
        [
            {
                "prompt_id": f"p{i}",
                "question": f"q{i}",
                "question_hash": f"h{i}",
                "verifier": verifier,
                **shared,
            }
            for i, verifier in enumerate(("math", "none", "puzzle", "none"))
        ],
    )
    found = {
        which: [row["prompt_id"] for row in training_prompts(run, None, which)]  # type: ignore[arg-type]
        for which in ("all", "graded", "general")
    }
    assert [len(found[which]) for which in ("all", "graded", "general")] == [4, 2, 2]
    assert {*found["graded"]} | {*found["general"]} == {*found["all"]}
    assert len(training_prompts(run, 1, "general")) == 1
