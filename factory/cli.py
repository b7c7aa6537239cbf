"""The `factory` command: one thin function a verb. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from distill.command import run_command
from factory.grade_command import grade
from filters.errors import UserError

RUN = click.option(
    "--run", "run_folder", type=click.Path(path_type=Path), required=True, help="The run's folder."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="r1-factory")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Sample reasoning from a teacher, judge it, curate it, publish it."""


# ------------------------------------------------------------------------------------------- running


@cli.command()
@click.argument("recipe")
@click.option("--run", "run_folder", type=click.Path(path_type=Path), help="The run's folder. [runs/RECIPE]")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting: generate.n=4."
)
@click.option("--from", "start", metavar="STAGE", help="Redo this stage and all that follow.")
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option("--only", metavar="STAGE", help="Do this stage alone.")
@click.option("--dry-run", is_flag=True, help="Print stages, counts, tokens and memory; do nothing.")
def run(
    recipe: str,
    run_folder: Path | None,
    overrides: Sequence[str],
    start: str | None,
    until: str | None,
    only: str | None,
    dry_run: bool,
) -> None:
    """Run RECIPE: a name of the catalogue, or a YAML file. Goes on where an earlier run stopped."""
    from factory.console import Reporter
    from factory.pipeline import Selection, execute
    from factory.recipe import find_recipe, load_recipe

    if only and (start or until):
        raise click.UsageError("--only stands alone; it does not go with --from or --until")
    loaded = load_recipe(find_recipe(recipe), overrides)
    folder = run_folder or Path("runs") / loaded.name
    selection = Selection(start, until, only)
    if dry_run:
        from factory.dry_run import print_plan

        print_plan(loaded, folder, selection)
        return
    execute(loaded, folder, selection, Reporter())
    _say_result(folder)


@cli.command()
@click.argument("stage")
@click.option("--recipe", required=True, help="A name of the catalogue, or a YAML file.")
@click.option("--run", "run_folder", type=click.Path(path_type=Path), help="The run's folder. [runs/RECIPE]")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting: teacher.zero.steps=50.",
)
@click.option("--dry-run", is_flag=True, help="Print stages, counts, tokens and memory; do nothing.")
def teach(stage: str, recipe: str, run_folder: Path | None, overrides: Sequence[str], dry_run: bool) -> None:
    """Train the teacher up to STAGE: `zero`, any other stage of the recipe's teacher, or `r1`, the last of them.

    Stages that STAGE builds on are done first; finished ones are skipped.
    """
    from factory.console import Reporter
    from factory.pipeline import Selection, execute
    from factory.recipe import find_recipe, load_recipe, teacher_stage

    loaded = load_recipe(find_recipe(recipe), overrides)
    folder = run_folder or Path("runs") / loaded.name
    selection = Selection(goal=f"teach:{teacher_stage(loaded, stage)}")
    if dry_run:
        from factory.dry_run import print_plan

        print_plan(loaded, folder, selection)
        return
    execute(loaded, folder, selection, Reporter())
    click.echo(f"model: {folder / 'teacher' / teacher_stage(loaded, stage) / 'model'}", err=True)


def _say_result(folder: Path) -> None:
    report = folder / "report.html"
    if report.exists():
        click.echo(f"report: {report}", err=True)


@cli.command()
@click.option(
    "--prompts",
    required=True,
    type=click.Path(path_type=Path),
    help="JSONL, CSV, Parquet or text; or a folder in the Hub's layout.",
)
@click.option("--model", required=True, help="A model folder, or a shipped model such as tiny-teacher.")
@RUN
@click.option("--n", default=8, show_default=True, type=click.IntRange(1, 4096), help="Samples a prompt.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Where a field stands: question=problem.",
)
@click.option(
    "--verifier", help="How answers are checked: math, choice, puzzle. [math where there is a reference]"
)
@click.option(
    "--answer-instruction",
    help="Sentence behind every question. [what the verifier's kind needs; '' for none]",
)
@click.option("--template", default="gemma:r1", show_default=True, help="Turns and tag style of the prompt.")
@click.option("--temperature", default=1.0, show_default=True, type=click.FloatRange(0.0, 5.0))
@click.option("--top-p", default=1.0, show_default=True, type=click.FloatRange(0.0, 1.0, min_open=True))
@click.option("--top-k", default=0, show_default=True, type=click.IntRange(0))
@click.option("--max-new-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option(
    "--prompt-length",
    default=256,
    show_default=True,
    type=click.IntRange(8),
    help="Longest prompt, in tokens.",
)
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option(
    "--keep",
    type=click.Choice(["correct", "readable"]),
    default="correct",
    show_default=True,
    help="What the mix takes.",
)
@click.option("--mix", "mix_name", default="default", show_default=True, help="Name of the mix.")
@click.option("--from", "start", metavar="STAGE", help="Redo this stage and all that follow.")
@click.option("--raw", is_flag=True, help="Stop after sampling.")
def generate(run_folder: Path, raw: bool, start: str | None, **options: Any) -> None:
    """Sample answers to any file of questions, judge them, and cut a mix from them."""
    from factory.adhoc import recipe_for_file
    from factory.console import Reporter
    from factory.pipeline import Selection, execute

    recipe = recipe_for_file(**options)
    execute(recipe, run_folder, Selection(start, "generate" if raw else None), Reporter())
    if not raw:
        click.echo(f"mix: {run_folder / 'mix' / options['mix_name']}", err=True)
    _say_result(run_folder)


cli.add_command(grade)


@cli.group()
def recipes() -> None:
    """The recipes that come with the program."""


@recipes.command("ls")
def recipes_ls() -> None:
    """List the recipes."""
    import yaml

    from factory.catalogue_path import catalogue_dir

    for path in sorted((catalogue_dir() / "recipes").glob("*.yaml")):
        description = yaml.safe_load(path.read_text(encoding="utf-8")).get("description", "")
        click.echo(f"{path.stem:16} {' '.join(description.split())}")


@recipes.command("show")
@click.argument("recipe")
def recipes_show(recipe: str) -> None:
    """Print a recipe."""
    from factory.recipe import find_recipe

    click.echo(find_recipe(recipe).read_text(encoding="utf-8"), nl=False)


@recipes.command("cp")
@click.argument("recipe")
@click.argument("target", type=click.Path(path_type=Path))
def recipes_cp(recipe: str, target: Path) -> None:
    """Copy a recipe to TARGET, to be edited and run."""
    from factory.files import write_text
    from factory.recipe import find_recipe

    source = find_recipe(recipe)
    path = target / source.name if target.is_dir() else target
    if path.exists():
        raise UserError(f"{path} is there already; choose another name")
    write_text(path, source.read_text(encoding="utf-8"))
    click.echo(str(path))


# -------------------------------------------------------------------------------------------- looking


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("sql")
@click.option(
    "--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
def query(run_folder: Path, sql: str, style: Literal["table", "csv", "json"]) -> None:
    """Ask a run with SQL (DuckDB): tables prompts, candidates, verdicts, signals, decisions, mix, evals …

    Views: verdict and signal (one a candidate), prompt_stats, curated.
    """
    from factory.query import connect, fetch, write_result
    from factory.store import Run

    with connect(Run.open(run_folder)) as connection:
        write_result(fetch(connection, sql), style, sys.stdout)


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Read every file again and compare checksums.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(run_folder: Path, check: bool, as_json: bool) -> None:
    """Stages, counts and rates of a run."""
    from factory.status import print_status, run_status
    from factory.store import Run

    found = run_status(Run.open(run_folder), check=check)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_status(found)


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--min-share",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="Share of a prompt's samples that agree.",
)
@click.option(
    "--min-votes", default=4, show_default=True, type=click.IntRange(2), help="Samples that agree, at least."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write all of it: .parquet or .jsonl.")
@click.option(
    "--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
def audit(
    run_folder: Path,
    min_share: float,
    min_votes: int,
    out: Path | None,
    style: Literal["table", "csv", "json"],
) -> None:
    """Gold answers of RUN that a clear majority of samples speaks against, with the evidence."""
    from factory.audit import audit_run, print_audit, write_audit
    from factory.store import Run

    found = audit_run(Run.open(run_folder), min_share=min_share, min_votes=min_votes)
    if out is not None:
        write_audit(found, out)
    print_audit(found, style, sys.stdout)


# ---------------------------------------------------------------------------- evaluating, publishing


@cli.command("eval")
@click.argument("model")
@click.option(
    "--suite",
    "suite_list",
    required=True,
    metavar="NAME,NAME,…",
    help="Suites of the catalogue; or a source of it (its held-out questions), or a file of questions.",
)
@click.option(
    "--local",
    "copies",
    multiple=True,
    metavar="NAME=PATH",
    help="Read a source from a local copy with the Hub's columns: gsm8k=test.jsonl.",
)
@click.option(
    "--run",
    "run_folder",
    type=click.Path(path_type=Path),
    default=Path("runs/eval"),
    show_default=True,
    help="The run whose `evals` take the figures.",
)
@click.option("--n", type=click.IntRange(1), help="Samples a question. [the suite's]")
@click.option(
    "--k", multiple=True, type=click.IntRange(1), help="pass@k and maj@k; may be repeated. [the suite's]"
)
@click.option(
    "--split", type=click.Choice(["test", "validation"]), help="Of a source's own questions. [test]"
)
@click.option("--prompts", "max_prompts", type=click.IntRange(1), help="Questions to ask. [the suite's]")
@click.option("--template", default="gemma:r1", show_default=True)
@click.option("--temperature", type=click.FloatRange(0.0, 5.0), help="[the suite's]")
@click.option("--top-p", type=click.FloatRange(0.0, 1.0, min_open=True), help="[the suite's]")
@click.option("--max-new-tokens", type=click.IntRange(1), help="[the suite's]")
@click.option("--prompt-length", type=click.IntRange(8), help="Longest prompt, in tokens. [the suite's]")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1))
@click.option(
    "--judge",
    metavar="MODEL",
    help="Model that grades what rules leave open: open answers, SimpleQA. [the suite's, else none]",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--label", help="Name of the model in the tables. [its folder]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def evaluate(
    model: str,
    suite_list: str,
    copies: Sequence[str],
    run_folder: Path,
    template: str,
    batch_size: int,
    seed: int,
    label: str | None,
    as_json: bool,
    k: Sequence[int],
    **overrides: Any,
) -> None:
    """How well MODEL does on one or several suites: figures with intervals, and each suite's whole protocol.

    MODEL is a folder with a Gemma, a Hub id, or a shipped model (tiny-teacher, tiny-student).

    A suite that fails costs the others nothing, and finished samples are kept: run the command again.
    """
    import dataclasses

    from factory.console import Reporter
    from factory.evaluate import GemmaEngines, evaluate_suites, print_results
    from factory.store import Run
    from factory.suites import Overrides, adapted, find_suite, split_names, with_local_copies

    wanted = Overrides(k=tuple(k) or None, **overrides)
    found = [adapted(find_suite(name, seed=seed), wanted) for name in split_names(suite_list)]
    suites = with_local_copies(found, copies)
    engines = GemmaEngines(model, batch_size)
    results = evaluate_suites(
        Run.create(run_folder),
        suites,
        engines,
        template=template,
        label=label or Path(model).name,
        seed=seed,
        reporter=Reporter(),
        judge_for=engines.judge,
    )
    if as_json:
        listed = [dataclasses.asdict(result) for result in results]
        click.echo(json.dumps({"model": model, "suites": listed}, indent=2, default=str))
    else:
        print_results(model, results)
    if failed := [result.suite for result in results if result.error]:
        raise UserError(f"{len(failed)} of {len(results)} suites failed: {', '.join(failed)}")


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--mix", "mix_name", required=True, help="The mix to publish.")
@click.option("--repo", required=True, metavar="ORG/NAME", help="Dataset on the Hugging Face Hub.")
@click.option("--public", is_flag=True, help="Anybody may read it. [private]")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded; send nothing.")
@click.option("--message", help="Commit message. [mix, run and number of samples]")
def push(
    run_folder: Path, mix_name: str, repo: str, public: bool, dry_run: bool, message: str | None
) -> None:
    """Publish a mix to the Hugging Face Hub: Parquet shards and a card written from the run."""
    from factory.push import push_mix
    from factory.store import Run

    result = push_mix(
        Run.open(run_folder), mix_name, repo=repo, private=not public, dry_run=dry_run, message=message
    )
    click.echo(result.describe())
    if dry_run:
        click.echo(f"\n--- README.md\n{result.card}")


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
def report(run_folder: Path) -> None:
    """Write the run's report.html again."""
    from factory.report import write_report
    from factory.store import Run

    click.echo(str(write_report(Run.open(run_folder))))


def main() -> None:
    """Entry point of the console script."""
    run_command(cli, "factory", check=_refuse_factory_boy)


def _refuse_factory_boy() -> None:
    """`factory_boy` installs a module of the same name over ours; half of each is worse than an error."""
    import factory

    if hasattr(factory, "Factory"):
        raise UserError(
            "the package factory_boy is installed in this environment and owns the module name `factory`; "
            "install r1-factory into an environment of its own"
        )


if __name__ == "__main__":
    main()
