"""A wrong recipe says where and what, before any work starts."""

from pathlib import Path

import pytest
import yaml

from factory.catalogue_path import catalogue_dir
from factory.recipe import dump_recipe, find_recipe, load_recipe
from filters import UserError

GOOD = """\
name: small
prompts:
  sources:
    - kind: files
      path: questions.jsonl
generate:
  model: tiny-teacher
  n: 4
mixes:
  good:
    select: {require_correct: true}
"""


def load(tmp_path: Path, text: str, *overrides: str) -> object:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def fails(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value)


def test_a_good_recipe_and_its_dump_are_the_same(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))  # type: ignore[arg-type]
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("wrong", "right", "line"),
    [
        ("  modle: x", "model", 8),
        ("  m: 3\n  n: 4", "n", 8),
        ("  sampling: {temprature: 1}", "temperature", 8),
    ],
)
def test_an_unknown_key_names_line_and_nearest(tmp_path: Path, wrong: str, right: str, line: int) -> None:
    message = fails(tmp_path, GOOD.replace("  n: 4", wrong))
    assert f"recipe.yaml, line {line}: unknown key" in message and right in message


def test_an_unknown_key_deep_in_a_mix_and_in_a_source(tmp_path: Path) -> None:
    message = fails(tmp_path, GOOD.replace("require_correct", "require_corect"))
    assert "line 11" in message and "did you mean 'require_correct'?" in message
    message = fails(tmp_path, GOOD.replace("path:", "pth: x\n      path:"))
    assert "line 5" in message and "did you mean 'path'?" in message


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("generate.n=0", "generate.n"),
        ("generate.sampling.top_p=0", "top_p"),
        ("generate.template=r9", "template"),
        ("prompts.splits={validation: 0.6, test: 0.6}", "less than 1"),
        ("mixes.good.select.same_size_as=other", "no other mix"),
        ("mixes.good.select.same_size_as=good", "no other mix"),
        ("mixes.good.tag_style=r7", "unknown tag style"),
        ("students.s={mix: nowhere, base: tiny-student, max_steps: 1}", "'nowhere'"),
        ("students.s={mix: good, base: tiny-student}", "max_steps or epochs"),
        ("evaluation={models: [{name: a, model: 'student:x'}]}", "student 'x'"),
        ("evaluation={models: [{name: a, model: m}], n: 2, k: [4]}", "n = 2"),
        ("seed=minus one", "seed"),
    ],
)
def test_ranges_and_references_are_checked(tmp_path: Path, override: str, what: str) -> None:
    assert what in fails(tmp_path, GOOD, override)


GENERAL = """\
name: scored
prompts:
  sources:
    - {source: gsm8k}
    - {kind: reasoning_gym, task: countdown, domain: logic}
generate:
  model: tiny-teacher
scorers:
  words: {kind: pattern, sees: summary, pattern: please}
teacher:
  align:
    kind: rl
    base: tiny-teacher
    steps: 10
    rewards:
      helpfulness: {weight: 1.0, from_step: 8, scorer: words, prompts: general}
"""
UNGRADED = "    - {kind: hub, repo: some/one, domain: general, verifier: none"


def with_source(source: str) -> str:
    return GENERAL.replace("generate:", f"{source}\ngenerate:")


@pytest.mark.parametrize(
    "text",
    [
        GENERAL,
        with_source(UNGRADED + ", quotas: {test: 5}}"),
        with_source(UNGRADED + ", evaluation_only: true}"),
    ],
)
def test_general_prompts_that_no_source_gives_are_refused(tmp_path: Path, text: str) -> None:
    message = fails(tmp_path, text)
    assert "teacher.align.rewards.helpfulness" in message and "verifier: none" in message
    load(tmp_path, text, "teacher.align.rewards.helpfulness.prompts=all")


def test_general_prompts_of_other_domains_are_refused(tmp_path: Path) -> None:
    text = with_source(UNGRADED + "}")
    assert "in its domains (logic)" in fails(tmp_path, text, "teacher.align.domains=[logic]")
    load(tmp_path, text, "teacher.align.domains=[logic, general]")


@pytest.mark.parametrize(
    "source", [UNGRADED + "}", "    - {kind: files, path: questions.jsonl, verifier: math}"]
)
def test_a_source_that_may_give_general_prompts_is_enough(tmp_path: Path, source: str) -> None:
    """Rows of a file may lack a reference, whatever grades the others."""
    load(tmp_path, with_source(source))


def test_a_preference_behind_the_last_step_is_refused(tmp_path: Path) -> None:
    message = fails(tmp_path, with_source(UNGRADED + "}"), "teacher.align.steps=8")
    assert "rewards.helpfulness.from_step (8) must be less than steps (8)" in message
    assert "teacher.align" in message and "line" in message


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    message = fails(tmp_path, GOOD, "generate.n=0", "generate.batch_size=0")
    assert "generate.n" in message and "generate.batch_size" in message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_recipe_is_a_mapping(tmp_path: Path, text: str) -> None:
    assert "mapping" in fails(tmp_path, text)


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    assert "line 2" in fails(tmp_path, "name: a\nprompts: b: c\n")


def test_set_reaches_into_mappings_only(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD, "generate.sampling.temperature=0.5", "mixes.good.select.max_per_prompt=2")
    assert recipe.generate.sampling.temperature == 0.5  # type: ignore[attr-defined]
    assert "not a mapping" in fails(tmp_path, GOOD, "name.x=1")
    assert "key=value" in fails(tmp_path, GOOD, "name")


def test_a_recipe_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        find_recipe("tinny")
    with pytest.raises(UserError, match="no recipe file"):
        find_recipe("nowhere.yaml")


def test_every_shipped_recipe_is_valid_and_round_trips() -> None:
    from factory.catalogue_path import catalogue_dir

    paths = sorted((catalogue_dir() / "recipes").glob("*.yaml"))
    assert paths
    for path in paths:
        recipe = load_recipe(path)
        assert recipe.name == path.stem
        assert yaml.safe_load(dump_recipe(recipe))["name"] == path.stem


@pytest.mark.parametrize("name", sorted(path.stem for path in (catalogue_dir() / "recipes").glob("*.yaml")))
def test_a_recipe_that_is_written_out_whole_can_be_read_again(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(find_recipe(name))
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe
