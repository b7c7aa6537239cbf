"""R1's claims as tables: figures of a made-up run whose answers are known, and the page they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factory.evaluate import drop_predecessors
from factory.recipe import find_recipe, load_recipe
from factory.store import Run, now
from factory.tiny.claims import (
    answers_of,
    correct,
    gap,
    languages_of,
    learning_curve,
    mean_of,
    model_figures,
    pass_at,
    pass_gap,
    reflection,
    second_looks,
)
from factory.tiny.reproduce import harder_prompts, seeded
from factory.tiny.reproduce_page import _cells, markdown, shown

STYLES = {"en": "1 plus 1 is 2.", "zh": "1加1得2。", "mixed": "1 plus 1 is 2. 1加1得2。"}


def completion(language: str, answer: str = "2") -> str:
    return f"<think> {STYLES[language]} </think> <answer> {answer} </answer>"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two questions, four samples each: the base is right once and three times, R-Zero always."""
    made = Run.create(tmp_path / "run")
    rights = {"base": [1, 3], "zero": [4, 4]}
    samples: list[dict[str, Any]] = []
    evals: list[dict[str, Any]] = []
    for label, right in rights.items():
        head = {"suite": "run", "model": f"{label} hash", "protocol": "p"}
        evals.append(
            {**head, "slice": "all", "metric": "pass@1", "label": label, "value": 0.5, "created_at": now()}
        )
        for prompt, (domain, n) in enumerate(zip(("arithmetic", "search"), right, strict=True)):
            for index in range(4):
                language = "en" if label == "base" else ("en", "zh", "mixed", "en")[index]
                text = completion(language)
                if label == "base" and index == 3:
                    text = "2"
                if domain == "search" and index == 0:
                    text = text.replace("<think> ", "<think> 1 plus 2 is 3, no. ")
                samples.append(
                    {
                        **head,
                        "prompt_id": f"q{prompt}",
                        "sample_index": index,
                        "question": "1 + 1?",
                        "domain": domain,
                        "completion": text,
                        "completion_tokens": 20,
                        "finish_reason": "stop",
                        "outcome": "correct" if index < n else "incorrect",
                    }
                )
    made.replace("evals", "main", evals)
    made.replace("eval_candidates", "main", samples)
    return made


def found(run: Run) -> dict[tuple[str, str], Any]:
    return answers_of(run, {"base": "r1-zero", "zero": "r1-zero"})


def test_accuracy_pass_at_k_and_differences(run: Run) -> None:
    base, zero = found(run)["run", "base"], found(run)["run", "zero"]
    assert mean_of(base, correct)[0] == pytest.approx(0.5)  # type: ignore[index]
    assert pass_at(base, 4)[0] == 1.0  # type: ignore[index]
    assert pass_at(base, 2)[0] == pytest.approx((0.5 + 1.0) / 2)  # type: ignore[index]
    assert gap(base, zero, correct)[0] == pytest.approx(0.5)  # type: ignore[index]
    assert pass_gap(base, zero, 4)[0] == 0.0  # type: ignore[index]
    value, low, high = gap(base, zero, correct)  # type: ignore[misc]
    assert low <= value <= high


def test_a_fault_of_ours_is_left_out(run: Run) -> None:
    rows = run.read("eval_candidates").to_pylist()
    for row in rows:
        if row["model"] == "base hash" and row["prompt_id"] == "q0" and row["outcome"] == "incorrect":
            row |= {"outcome": "error", "fault": "system"}
    run.replace("eval_candidates", "main", rows)
    assert mean_of(found(run)["run", "base"], correct)[0] == pytest.approx((1.0 + 0.75) / 2)  # type: ignore[index]


def test_language_format_and_reflection(run: Run) -> None:
    base, zero = found(run)["run", "base"], found(run)["run", "zero"]
    figures = model_figures(base, None, None, ["arithmetic", "search"], 4)
    assert figures["readable_format"][0] == pytest.approx(0.75)
    assert figures["language_consistency"][0] == pytest.approx(
        0.75
    )  # without a thought: none, as in the reward
    assert 0.4 < model_figures(zero, None, None, [], 4)["language_consistency"][0] < 0.8
    shares = languages_of(zero)
    assert {name: part["samples"] for name, part in shares.items()} == {"en": 4, "zh": 2, "mixed": 2}
    assert shares["zh"]["accuracy"][0] == 1.0 and shares["en"]["share"] == 0.5
    assert second_looks(base)[0] == pytest.approx(0.125)  # type: ignore[index]
    assert figures["by_task"]["search"]["second_looks"][0] == pytest.approx(0.25)
    assert reflection(base) == 0.0


def test_the_recipe_with_a_seed_has_it_everywhere() -> None:
    recipe = seeded("reproduce", 3)
    assert recipe.seed == 3 and recipe.name == "reproduce-3"
    assert {student.seed for student in recipe.students.values()} == {3}
    assert {mix.seed for mix in recipe.mixes.values()} == {3}
    assert recipe.teacher["sft"].seed == 3
    assert recipe.teacher["zero"].seed == 0  # the stage's own; the recipe's seed is added to it


def test_harder_questions_are_of_no_training_rung() -> None:
    prompts = harder_prompts()
    assert len(prompts) == 128 and len({p["prompt_id"] for p in prompts}) == 128
    assert {p["domain"] for p in prompts} == {"arithmetic", "number-theory", "counting", "search"}


@pytest.mark.parametrize("name", ["reproduce", "reproduce-ablations"])
def test_the_evaluation_is_of_256_test_questions(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    assert recipe.evaluation is not None and recipe.evaluation.split == "test"
    assert sum((source.quotas or {}).get("test", 0) for source in recipe.prompts.sources) == 256


def test_figures_as_people_read_them() -> None:
    assert shown((0.813, 0.775, 0.851)) == "81.3 [77.5, 85.1]"
    assert shown((0.05, -0.01, 0.11), signed=True) == "+5.0 [-1.0, +11.0]"
    assert shown(None) == "–"
    one, other = (0.8, 0.7, 0.9), (0.7, 0.6, 0.8)
    assert _cells([one]) == ["80.0 [70.0, 90.0]"]
    assert _cells([one, other, None])[-1] == "75.0 ± 7.1"
    assert _cells([one, other], signed=True)[-1] == "+75.0 ± 7.1"


def test_the_clock_of_a_curve_is_work(run: Run) -> None:
    """What was validated behind a step was known later than the step."""
    values = {"accuracy": 0.1, "speed/elapsed": 12.0, "eval/accuracy": 0.5, "eval/speed/elapsed": 15.0}
    rows = [{"job": "zero", "step": 1, "name": n, "value": v, "at": now()} for n, v in values.items()]
    rows += [
        {"job": "zero", "step": 2, "name": n, "value": v, "at": now()}
        for n, v in (("accuracy", 0.2), ("speed/elapsed", 20.0))
    ]
    run.replace("metrics", "zero", rows)
    curve = learning_curve(run, "teach:zero", ["accuracy", "eval/accuracy"])
    assert curve == [
        {"step": 1, "seconds": 15.0, "accuracy": 0.1, "eval/accuracy": 0.5},
        {"step": 2, "seconds": 20.0, "accuracy": 0.2},
    ]
    only_validated = learning_curve(run, "teach:zero", ["eval/accuracy"])
    assert [point["step"] for point in only_validated] == [1]


def test_figures_of_an_earlier_model_or_protocol_are_dropped(run: Run) -> None:
    row = {"suite": "greedy", "slice": "all", "metric": "pass@1", "label": "zero", "value": 0.5}
    paths = {}
    for part, model, protocol, label in (
        ("a", "old", "p", "zero"),
        ("b", "new", "q", "zero"),
        ("c", "new", "p", "zero"),
        ("d", "old", "p", "base"),
    ):
        one = {**row, "model": model, "protocol": protocol, "label": label, "created_at": now()}
        paths[part] = run.replace("evals", part, [one])
    drop_predecessors(run, paths["c"])
    assert set(run.shards("evals")) == {paths["c"], paths["d"], run.table_folder("evals") / "main.parquet"}


def test_both_roads_of_the_student_are_in_the_tables(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import factory.tiny.reproduce as module

    point = {"step": 75.0, "seconds": 30.0, "eval/accuracy": 0.5}
    monkeypatch.setattr(module, "distillation_curve", lambda *_: [point])
    monkeypatch.setattr(module, "learning_curve", lambda *_: [])
    found = module._curves(run, load_recipe(find_recipe("reproduce")))
    assert found["distilled"] == [point]
    assert {"zero", "reasoning_rl", "align", "student_rl"} < found.keys()


def test_the_page_says_what_the_figures_beside_it_say() -> None:
    docs = Path(__file__).parents[2] / "docs"
    results = [json.loads(file.read_text()) for file in sorted((docs / "reproducing-r1").glob("seed-*.json"))]
    assert [result["seed"] for result in results] == [0, 1, 2]
    assert markdown(results).strip() in (docs / "reproducing-r1.md").read_text()


def test_the_page_says_what_the_ablations_say() -> None:
    from factory.tiny.ablations import markdown as tables

    docs = Path(__file__).parents[2] / "docs"
    found = json.loads((docs / "reproducing-r1" / "ablations-seed-0.json").read_text())
    assert tables(found).strip() in (docs / "reproducing-r1.md").read_text()
