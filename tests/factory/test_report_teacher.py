"""The report on learning by reinforcement: its numbers, the base beside them, and the samples behind a point."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.training_log import write_manifest
from factory.push import card_facts
from factory.query import connect
from factory.records import METRICS
from factory.report import write_report
from factory.report_rollouts import SAMPLES_OF_A_STEP, STEPS_SHOWN, choose, highlighted, shown_steps, spread
from factory.store import Run, now, stage_manifest, write_parquet
from factory.trained_models import model_names, trained_hash
from tests.factory.test_report import ATTACK, Page, full_run

ZERO_HASH = "0123456789abcdef0123456789abcdef"


def metric_rows(job: str, steps: int, every: int = 0, reflection: float = 2.0) -> list[dict[str, Any]]:
    """A training in which all changes evenly; with validation before the first step where `every` says so."""
    found: list[dict[str, Any]] = []

    def add(step: int, prefix: str, share: float) -> None:
        values = {
            "accuracy": 0.25 + 0.5 * share,
            "accuracy/sums": 0.3 + 0.5 * share,
            "accuracy/<b>odd</b>": 0.2 + 0.5 * share,
            "tokens/response": 20 + 40 * share,
            "tokens/reasoning": 10 + 40 * share,
            "tokens/reasoning_p95": 30 + 60 * share,
            "reflection": reflection * (1 - share / 2),
            "reflection/wait": reflection * (1 - share / 2),
            "language_consistency": 0.9 - 0.2 * share,
            "format": 0.5 + 0.5 * share,
            "truncated": 0.0,
            "reward": 0.3 + 0.6 * share,
            "reward/accuracy": 0.25 + 0.5 * share,
            "reward/format": 0.5 + 0.5 * share,
        }
        found.extend(
            {"job": job, "step": step, "name": f"{prefix}{name}", "value": value}
            for name, value in values.items()
        )

    for step in range(1, steps + 1):
        add(step, "", step / steps)
        of_step = {
            "entropy": 0.5,
            "kl": 0.001 * step,
            "zero_variance": 0.2,
            "masked": 0.0,
            "speed/rollout": 900.0,
        }
        found.extend({"job": job, "step": step, "name": n, "value": v} for n, v in of_step.items())
    if every:
        for step in range(0, steps + 1, every):
            add(step, "eval/", step / steps)
    return found


def rollout(job: str, step: int, group: int, index: int, **changes: Any) -> dict[str, Any]:
    correct = index % 2 == 0
    text = f"<think> {job}, step {step}: {group} and {index} </think> <answer> {group} </answer>"
    parts = {"accuracy": float(correct), "format": 1.0}
    return {
        "job": job, "step": step, "group": group, "sample_index": index, "prompt_id": f"p{group}", "completion": text,
        "reward": 1.1 if correct else 0.1, "rewards": json.dumps(parts), "advantage": 0.5 if correct else -0.5,
        "completion_tokens": 30, "reasoning_tokens": 20 + index, "finish_reason": "stop",
        "outcome": "correct" if correct else "incorrect", "well_formed": True, "language_consistency": 1.0,
        "masked_because": None,
    } | changes  # fmt: skip


def add_questions(run: Run, n: int = 4) -> None:
    run.replace(
        "prompts",
        "learning",
        [
            {"prompt_id": f"p{i}", "question_hash": f"{i:032x}", "split": "train", "domain": "sums",
             "question": f"Question number {i}?", "reference": str(i), "verifier": "math"}
            for i in range(n)
        ],
    )  # fmt: skip


def teach(
    run: Run,
    job: str,
    metrics: list[dict[str, Any]],
    rollouts: list[dict[str, Any]],
    *,
    base: str = "tiny-teacher",
    content: str = ZERO_HASH,
) -> None:
    """What a stage of reinforcement leaves in a run's folder."""
    out = run.folder / "teacher" / job
    out.mkdir(parents=True)
    config = {"job": job, "steps": 40, "prompts": 4, "samples": 4, "template": "r1-zero"}
    write_manifest(out, {"status": "done", "config": config, "student": {"name": base}, "model": content})
    if metrics:
        write_parquet(out / "metrics.parquet", METRICS.rows_to_arrow(metrics))
    if rollouts:
        run.replace("rollouts", job, rollouts)


def samples(job: str, steps: range, groups: int = 2, each: int = 4) -> list[dict[str, Any]]:
    return [rollout(job, s, g, i) for s in steps for g in range(groups) for i in range(each)]


def text_of(run: Run) -> str:
    return Page(write_report(run).read_text(encoding="utf-8")).text.replace("\u202f", " ")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run")
    add_questions(run)
    return run


def test_the_numbers_of_start_and_end_are_those_of_the_validation(run: Run) -> None:
    teach(run, "zero", metric_rows("zero", 40, every=10), samples("zero", range(1, 41)))
    text = text_of(run)
    assert (
        "After 40 steps of reinforcement the teacher’s stage zero is right in 75.0 % of the validation"
        in text
    )
    assert "In 40 steps: accuracy on the validation questions from 25.0 % to 75.0 %" in text
    assert "validation questions base model (before step 1) at the end accuracy 25.0 % 75.0 %" in text
    assert "reasoning tokens, mean 10 50 reasoning tokens, 95th percentile 30 90" in text
    assert "reflection words per 1,000 tokens 2 1 language consistency 90.0 % 70.0 %" in text
    for chart in ("Accuracy", "Reasoning tokens", "Reflection words per 1,000 tokens", "Language consistency",
                  "Tags in order", "Reward and its parts", "Accuracy by domain (validation)", "Entropy of the policy",
                  "KL to the reference", "Shares that teach nothing", "Tokens a second"):  # fmt: skip
        assert f"{chart} " in text, chart
    for measure in ("Length", "Reflection", "Language"):
        assert f"{measure} against accuracy" in text
    assert "No student has been trained in this run." in text  # its metrics are not those of a student


def test_the_base_models_count_stands_beside_every_stage(run: Run) -> None:
    recipe = {"name": "r", "teacher": {
        "zero": {"kind": "rl", "base": "tiny-teacher"},
        "cold_start": {"kind": "sft", "base": "tiny-teacher", "mix": "cold"},
        "reasoning_rl": {"kind": "rl", "base": "teacher:cold_start"},
    }}  # fmt: skip
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    teach(run, "reasoning_rl", metric_rows("reasoning_rl", 20, every=10, reflection=5.0), [])
    teach(run, "zero", metric_rows("zero", 20, every=10, reflection=3.7), samples("zero", range(1, 3)))
    source = write_report(run).read_text(encoding="utf-8")
    text = Page(source).text.replace("\u202f", " ")
    assert text.index("Stage zero") < text.index("Stage reasoning_rl")  # the recipe's order
    later = text[text.index("Stage reasoning_rl") :]
    assert "from teacher:cold_start" in later
    assert "validation questions base model at the start at the end" in later
    assert "reflection words per 1,000 tokens 3.7 5 2.5" in later
    assert "reflection words from 5 to 2.5 per 1,000 tokens (base model: 3.7)" in later
    assert (
        "3.7 per 1,000 tokens of the base model tiny-teacher, counted on the validation questions before"
        in later
    )
    assert source.count("base model: 3.7</title>") == 2  # the line across the chart of each stage
    assert "No sample of this stage is stored." in later


def test_without_validation_the_first_steps_samples_are_the_base(run: Run) -> None:
    teach(run, "zero", metric_rows("zero", 20), samples("zero", range(1, 21)))
    text = text_of(run)
    assert (
        "1.95 per 1,000 tokens of the base model tiny-teacher, counted in the samples of the first step"
        in text
    )
    assert "samples of training, means over a tenth of the steps base model at the start at the end" in text
    assert (
        "reflection words per 1,000 tokens 1.95 1.92 1.02" in text
    )  # step 1; mean of 1 and 2; mean of 19 and 20
    assert "Accuracy by domain (training)" in text


def test_no_stage_that_started_from_the_base_model_is_said(run: Run) -> None:
    recipe = {"teacher": {"later": {"kind": "rl", "base": "teacher:sft"}}}
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    teach(run, "later", metric_rows("later", 5, every=5), [])
    text = text_of(run)
    assert "no stage of this run started from the base model" in text
    assert "start of later (before step 1)" in text and "base model (before step 1)" not in text


def test_a_single_step_without_validation_or_samples(run: Run) -> None:
    teach(run, "zero", metric_rows("zero", 1), samples("zero", range(1, 2), groups=1, each=2))
    text = text_of(run)
    assert "In one step: accuracy of the samples from 75.0 % to 75.0 %" in text
    assert "Step 1 – 2 samples of 1 question, 1 correct, mean reward 0.6. 2 of them:" in text
    assert "per 1,000 tokens base model first tenth of the steps last tenth wait 1 1 1" in text


def test_samples_before_there_are_metrics(run: Run) -> None:
    teach(run, "zero", [], samples("zero", range(1, 3)))
    text = text_of(run)
    assert "No number of this stage has been written yet." in text
    assert "The base model’s count of reflection words is not known" in text
    assert "Step 2 – 8 samples of 2 questions" in text


def test_values_that_are_no_numbers_break_nothing(run: Run) -> None:
    metrics = metric_rows("zero", 12, every=6)
    for row in metrics[::7]:
        row["value"] = [float("nan"), float("inf"), None][row["step"] % 3]
    odd = {"reward": None, "rewards": '{"accuracy": NaN, "x": "y"}', "advantage": None, "reasoning_tokens": None,
           "completion_tokens": None, "language_consistency": None, "outcome": None, "completion": None,
           "prompt_id": None, "masked_because": "the grader failed"}  # fmt: skip
    teach(run, "zero", metrics, [rollout("zero", s, 0, i, **odd) for s in (1, 12) for i in range(2)])
    source = write_report(run).read_text(encoding="utf-8")
    assert f"{len(metrics[::7])} values are not finite" in source
    assert not re.search(r"\b(nan|inf|None)\b", source.partition("<main>")[2].partition("<script>")[0])
    assert "masked: the grader failed" in source and "advantage none" in source


def test_only_infinite_values(run: Run) -> None:
    metrics = [row | {"value": float("nan")} for row in metric_rows("zero", 3, every=3)]
    teach(run, "zero", metrics, [])
    assert "No number of this stage has been written yet." in text_of(run)


def test_the_samples_of_a_step_stand_in_the_page_and_every_point_leads_to_them(run: Run) -> None:
    teach(run, "zero", metric_rows("zero", 40, every=10), samples("zero", range(1, 41)))
    source = write_report(run).read_text(encoding="utf-8")
    page = Page(source)
    panels = {a["id"]: a["data-panel"] for _, a in page.tags if "data-panel" in a}
    assert len(panels) == STEPS_SHOWN and {"1", "40"} <= set(panels.values())
    links = [(a["href"], a["data-step"]) for tag, a in page.tags if tag == "a" and "data-step" in a]
    assert len(links) == 7 * STEPS_SHOWN  # four curves and three pairs
    assert all(panels[str(href).removeprefix("#")] == step for href, step in links)
    assert "Step 40 – 8 samples of 2 questions, 4 correct, mean reward 0.6. 6 of them:" in page.text
    assert "zero, step 40: 0 and 3" in page.text and "zero, step 2:" not in page.text
    assert "1.1 (accuracy 1, format 1) ; advantage +0.50" in page.text
    assert "Question number 1?" in page.text
    assert source.count('<article class="sample ') == STEPS_SHOWN * SAMPLES_OF_A_STEP


def test_what_a_model_wrote_never_becomes_markup(run: Run) -> None:
    metrics = metric_rows(f"zero {ATTACK}".replace("/", ":"), 3, every=3)
    attacked = [
        rollout("zero", 1, 0, i, completion=f"Wait, {ATTACK} wait\x00", rewards=json.dumps({ATTACK: 1.0}),
                masked_because=ATTACK, outcome=ATTACK, finish_reason=ATTACK)
        for i in range(3)
    ]  # fmt: skip
    questions = run.read("prompts").to_pylist()
    run.replace(
        "prompts",
        "learning",
        [q | {"question": ATTACK, "reference": ATTACK, "domain": ATTACK} for q in questions],
    )
    teach(run, "zero", metrics, attacked)
    source = write_report(run).read_text(encoding="utf-8")
    page = Page(source)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [tag for tag, _ in page.tags if tag in ("img", "think", "textarea", "b ")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<mark>Wait</mark>, &lt;script&gt;alert(" in source
    assert "\x00" not in source


def test_the_page_stays_small(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run", prompts=60, n=4)
    long = run.read("candidates").to_pylist()
    for path in run.shards("candidates"):
        path.unlink()
    run.replace(
        "candidates", "main", [row | {"completion": f"<think>{'思<考 ' * 20_000}</think>"} for row in long]
    )
    add_questions(run)
    for job in ("zero", "reasoning_rl", "align"):
        huge = [
            rollout("zero", s, g, i, completion="Wait <wait> & " * 6000, masked_because="<" * 5000) | {"job": job}
            for s in range(1, 31, 2) for g in range(2) for i in range(4)
        ]  # fmt: skip
        teach(run, job, metric_rows(job, 600, every=10), huge)
    source = write_report(run).read_text(encoding="utf-8")
    assert len(source.encode()) < 2_000_000
    assert "characters left out" in source
    assert source.count("data-panel=") == 3 * STEPS_SHOWN


def test_the_step_with_the_most_reflection_words_is_shown(run: Run) -> None:
    metrics = metric_rows("zero", 100)
    next(r for r in metrics if r["step"] == 43 and r["name"] == "reflection")["value"] = 9.0
    teach(run, "zero", metrics, samples("zero", range(1, 101), groups=1, each=2))
    with connect(run) as connection:
        steps = shown_steps(connection, "zero")
    assert steps[43] == "the most reflection words"
    assert len(steps) == STEPS_SHOWN and list(steps) == sorted(steps) and {1, 100} <= set(steps)


def test_best_median_worst_and_reflecting_samples_are_chosen() -> None:
    facts = [
        {"group": 0, "sample_index": i, "reward": i / 10, "reasoning_tokens": 50 - i, "drawn": f"{i:02d}",
         "reflections": 3 if i == 7 else 0, "masked_because": None}
        for i in range(11)
    ]  # fmt: skip
    facts.append(
        facts[0] | {"sample_index": 11, "reward": None, "masked_because": "grader", "reasoning_tokens": 99}
    )
    chosen = {index: roles for (_, index), roles in choose(facts).items()}
    assert (
        chosen[10] == ["highest reward"] and chosen[0] == ["lowest reward"] and chosen[5] == ["median reward"]
    )
    assert chosen[7] == ["most reflection words"] and chosen[11] == ["longest reasoning", "masked"]
    assert len(chosen) == SAMPLES_OF_A_STEP


def test_spread_keeps_both_ends() -> None:
    assert spread([3, 4], 12) == [3, 4]
    assert spread(list(range(1, 101)), 4) == [1, 34, 67, 100]


def test_marks_are_left_out_where_they_would_take_too_much() -> None:
    assert str(highlighted("but <i> However", 100)) == "<mark>but</mark> &lt;i&gt; <mark>However</mark>"
    assert "<mark>" not in highlighted("but " * 100, 400)
    assert str(highlighted("butter", 100)) == "butter"


# ------------------------------------------------------------------------- names and contents of models


def drawn_by_teacher(tmp_path: Path) -> Run:
    """A run whose mix `filtered` was selected from samples of `teacher:zero`, as its sampling `second`."""
    run = full_run(tmp_path / "run", prompts=10, n=4)
    own = [row | {"model": ZERO_HASH} for row in run.read("candidates").to_pylist()]
    for path in run.shards("candidates"):
        path.unlink()
    run.replace("candidates", "main", own)
    for path in run.manifests():
        path.unlink()
    recipe = {
        "name": "r", "prompts": {"sources": [{"source": "tiny", "seed": 1, "quotas": {"train": 5}}]},
        "teacher": {"zero": {"kind": "rl", "base": "tiny-teacher", "steps": 1}}, "generate": {"model": "tiny-teacher"},
        "samplings": {"second": {"model": "teacher:zero"}}, "mixes": {"filtered": {"of": "second"}},
        "evaluation": {"models": [{"name": "filtered", "model": "teacher:zero"}]},
    }  # fmt: skip
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    sampling = {"temperature": 1.0, "top_p": 1.0}
    second = {
        "model": "teacher:zero",
        "model_hash": "teacher:zero",
        "n": 4,
        "template": "r1-zero",
        "sampling": sampling,
    }
    configs: dict[str, dict[str, Any]] = {
        "prompts": {"sources": []},
        "generate": second | {"model": "tiny-teacher", "model_hash": "other"},
        "teach:zero": {"kind": "rl", "base": "tiny-teacher", "steps": 1},
        "generate:second": second,
        "judge": {},
        "judge:second": {},
        "select:filtered": {"select": {}},
        "mix:filtered": {"tag_style": "r1", "of": "second"},
    }
    for stage, config in configs.items():
        run.finish_stage(stage, stage_manifest(stage, "0" * 32, config, [], {}, now().timestamp()))
    teach(run, "zero", metric_rows("zero", 2, every=1), [])
    return run


def test_a_teacher_of_the_run_is_named_by_what_its_content_is(tmp_path: Path) -> None:
    run = drawn_by_teacher(tmp_path)
    assert trained_hash(run, "teacher:zero") == ZERO_HASH and trained_hash(run, "student:none") is None
    assert model_names(run) == {ZERO_HASH: "teacher:zero", "other": "tiny-teacher"}
    text = text_of(run)
    assert "teacher teacher:zero trained from tiny-teacher; r1-zero, engine gemma" in text
    assert "The teacher after its stage zero solves 41.2 %" in text
    assert "Mix filtered – of: second" in text


def test_the_card_names_the_content_of_the_teacher_that_answered(tmp_path: Path) -> None:
    run = drawn_by_teacher(tmp_path)
    facts = card_facts(run, "filtered")
    assert facts.teacher_hash == ZERO_HASH
    assert facts.teacher == "teacher:zero, trained by this run from tiny-teacher"
    assert facts.teacher_licence == "apache-2.0"
    assert facts.generation["samples a prompt"] == "4"
    assert yaml.safe_load(facts.recipe_text)["teach:zero"]["base"] == "tiny-teacher"


def test_several_ways_of_sampling_stand_side_by_side(tmp_path: Path) -> None:
    run = drawn_by_teacher(tmp_path)
    own = run.read("candidates").to_pylist()
    half = [row | ({"generation_id": "g2", "model": "other"} if i % 2 else {}) for i, row in enumerate(own)]
    run.replace("candidates", "main", half)
    text = text_of(run)
    assert "By way of sampling" in text and "and 2 ways of sampling" in text
    assert re.search(r"teacher:zero r1-zero 9 18 \d", text) and re.search(
        r"tiny-teacher r1-zero 9 18 \d", text
    )
