"""The whole road on the shipped models, small: prompts in, mixes, students, evaluation and report out."""

import json
from collections import Counter

import pytest
import yaml

from factory.catalogue_path import catalogue_dir
from factory.console import Reporter
from factory.pipeline import Selection, execute
from factory.query import connect, rows
from factory.recipe import Recipe, load_recipe
from factory.store import Run
from filters import TAG_STYLES

pytestmark = [pytest.mark.train, pytest.mark.slow]

SMALL = [
    "prompts.sources=[{source: tiny, quotas: {train: 80, test: 16}, seed: 5}]",
    "evaluation.n=4",
    "evaluation.k=[1, 4]",
    "evaluation.sampling.max_new_tokens=64",
    "generate.sampling.max_new_tokens=96",
]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    path = catalogue_dir() / "recipes" / "filtering.yaml"
    students = yaml.safe_load(path.read_text())["students"]
    steps = [f"students.{name}.max_steps=12" for name in students]
    steps += [f"students.{name}.warmup_steps=2" for name in students]
    return load_recipe(path, [*SMALL, *steps])


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("road") / "run"
    return execute(recipe, folder, Selection(), Reporter(quiet=True))


def ask(run: Run, sql: str) -> list[dict[str, object]]:
    with connect(run) as connection:
        return rows(connection, sql)


def test_every_table_of_the_road_is_filled(run: Run, recipe: Recipe) -> None:
    counts = {row["split"]: row["n"] for row in ask(run, "select split, count(*) n from prompts group by 1")}
    assert counts == {"train": 80, "test": 16}
    candidates = 80 * recipe.generate.n
    for table in ("candidates", "verdicts", "signals", "verdict", "signal"):
        assert ask(run, f"select count(*) n from {table}") == [{"n": candidates}]
    assert ask(run, "select count(*) n from eval_candidates") == [{"n": 3 * 16 * 4}]
    assert (run.folder / "report.html").stat().st_size > 20_000


def test_a_candidate_that_is_not_taken_has_a_reason_and_one_that_is_has_none(run: Run) -> None:
    assert ask(run, "select count(*) n from decisions where accepted = (len(reasons) > 0)") == [{"n": 0}]
    wrong = "select count(*) n from curated where mix = 'filtered' and outcome <> 'correct'"
    assert ask(run, wrong) == [{"n": 0}]
    worst = ask(run, "select min(language_consistency) c from curated where mix = 'filtered'")
    assert worst[0]["c"] >= 0.9  # type: ignore[operator]
    most = ask(run, "select max(n) n from (select count(*) n from curated group by mix, prompt_id)")
    assert most[0]["n"] <= 4  # type: ignore[operator]


def test_both_mixes_are_of_one_size_and_hold_no_held_out_question(run: Run) -> None:
    sizes = ask(run, "select mix, count(*) n from mix where component = 'reasoning' group by 1 order by 1")
    assert [row["mix"] for row in sizes] == ["filtered", "unfiltered"] and sizes[0]["n"] == sizes[1]["n"]
    held_out = "select count(*) n from mix join prompts p using (question) where p.split <> 'train'"
    assert ask(run, held_out) == [{"n": 0}]
    assert {row["component"] for row in ask(run, "select distinct component from mix")} == {
        "reasoning",
        "general",
    }


def test_mixed_samples_are_in_the_style_of_the_mix_and_split_by_prompt(run: Run) -> None:
    found = ask(
        run, "select mix, question, reasoning, answer, messages, split from mix where component = 'reasoning'"
    )
    style = TAG_STYLES["r1"]
    splits: dict[object, set[object]] = {}
    for row in found:
        splits.setdefault((row["mix"], row["question"]), set()).add(row["split"])
        if row["mix"] == "filtered":
            text = row["messages"][-1]["content"]  # type: ignore[index]
            parsed = style.parse(text)
            assert (parsed.reasoning, parsed.answer) == (row["reasoning"], row["answer"])
    assert all(len(split) == 1 for split in splits.values())


def test_evaluation_agrees_with_its_samples(run: Run) -> None:
    counted = ask(
        run, "select model, avg((outcome = 'correct')::int) v from eval_candidates group by 1 order by 1"
    )
    stored = ask(run, "select model, value v from evals where metric = 'pass@1' and slice = 'all' order by 1")
    assert [row["v"] for row in stored] == pytest.approx([row["v"] for row in counted])
    labels = ask(run, "select distinct label from evals order by 1")
    assert [row["label"] for row in labels] == ["base", "filtered", "unfiltered"]
    for row in ask(run, "select value, low, high from evals where value is not null"):
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1  # type: ignore[operator]


def test_students_learned_and_are_ordinary_folders(run: Run) -> None:
    for name in ("filtered", "unfiltered"):
        curve = ask(
            run, f"select value from metrics where job = '{name}' and name = 'train/loss' order by step"
        )
        losses = [row["value"] for row in curve]
        assert len(losses) == 12 and losses[-1] < losses[0]  # type: ignore[operator]
        config = json.loads((run.folder / "students" / name / "model" / "config.json").read_text())
        assert config["model_type"] == "gemma3_text"


def test_running_again_does_nothing_but_the_report(run: Run, recipe: Recipe) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.parquet")}
    execute(recipe, run.folder, Selection(), Reporter(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.parquet")} == before


def test_a_set_is_mixed_again_without_sampling_or_judging(run: Run, recipe: Recipe) -> None:
    mixes = dict(recipe.mixes)
    select = mixes["filtered"].select.model_copy(update={"max_per_prompt": 1})
    mixes["strict"] = mixes["filtered"].model_copy(update={"select": select, "general": None})
    changed = recipe.model_copy(update={"mixes": mixes})
    before = Counter(path.stat().st_mtime_ns for path in run.shards("candidates") + run.shards("verdicts"))
    execute(changed, run.folder, Selection(until="mix"), Reporter(quiet=True))
    after = Counter(path.stat().st_mtime_ns for path in run.shards("candidates") + run.shards("verdicts"))
    assert before == after
    one = ask(
        run, "select max(n) n from (select count(*) n from curated where mix = 'strict' group by prompt_id)"
    )
    assert one == [{"n": 1}]
