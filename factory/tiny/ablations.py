"""What each part of the reward does, in miniature: recipe `reproduce-ablations`, one run a part.

    python -m factory.tiny.ablations --seed 0 [--run runs/reproduce-ablations-0]

writes RUN/ablations.json and RUN/ablations.md. All runs have the same base, questions, seed and number of steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distill.command import run_command
from factory.console import Reporter
from factory.files import write_text
from factory.pipeline import Selection, execute
from factory.query import connect
from factory.query import rows as query_rows
from factory.recipe import Recipe, RlStage
from factory.store import Run
from factory.tiny.claims import (
    answers_of,
    correct,
    dump,
    gap,
    learning_curve,
    model_figures,
    preference_rates,
)
from factory.tiny.reproduce import seeded
from factory.tiny.reproduce_page import shown
from filters.tags import R1_ZERO

RECIPE = "reproduce-ablations"
AGAINST = "format"
"""The run that the others are compared with: accuracy and format, as R-Zero has it."""
_CURVE = ("tokens/reasoning", "accuracy", "format", "language_consistency", "reward/token_budget")


def tables(run: Run, recipe: Recipe, seed: int) -> dict[str, Any]:
    """All figures."""
    spec = recipe.evaluation
    assert spec is not None
    found = answers_of(run, {entry.name: entry.template for entry in spec.models})
    test = {entry.name: found[run.folder.name, entry.name] for entry in spec.models}
    domains = sorted({own[0].domain for own in test["base"].values()})
    return {
        "seed": seed,
        "models": {
            name: model_figures(answers, None, None, domains, spec.n) for name, answers in test.items()
        },
        "preferences": {name: preference_rates(answers, R1_ZERO) for name, answers in test.items()},
        "against accuracy and format": {
            name: {
                "pass@1": gap(test[AGAINST], answers, correct),
                "language_consistency": gap(test[AGAINST], answers, lambda a: a.consistency),
                "readable_format": gap(test[AGAINST], answers, lambda a: float(a.well_formed)),
            }
            for name, answers in test.items()
            if name not in ("base", AGAINST)
        },
        "curves": {name: learning_curve(run, f"teach:{name}", _CURVE) for name in recipe.teacher},
        "schedule": _schedule(run, recipe),
    }


def _schedule(run: Run, recipe: Recipe) -> list[dict[str, Any]]:
    """Reasoning tokens by ten steps, beside the band that the schedule asked for, with and without it.

    Countdown stands apart: how long one tries is free there, where the other questions say how long their working is.

    Returns:
        of each ten steps: "steps", "weight" and "band" in their middle, and under "with" and "without": tokens on
        "search" and on the "other" tasks as (mean, standard error over groups), and the mean accuracy in percent.
    """
    stage = recipe.teacher["budget"]
    assert isinstance(stage, RlStage) and stage.rewards.token_budget is not None
    budget = stage.rewards.token_budget
    runs = {"with": "budget", "without": AGAINST}
    with connect(run) as connection:
        rows = query_rows(connection, _LENGTHS, list(runs.values()))
    tokens = {(row["job"], row["ten"], row["task"]): (row["mean"], row["error"]) for row in rows}
    curves = {key: learning_curve(run, f"teach:{job}", _CURVE) for key, job in runs.items()}
    found = []
    for ten in range(stage.steps // 10):
        middle = 10 * ten + 5
        found.append(
            {
                "steps": (10 * ten + 1, 10 * ten + 10),
                "weight": budget.weight_at(middle),
                "band": budget.band_at(middle),
            }
            | {
                key: {task: tokens[job, ten, task] for task in ("search", "other")}
                | {"accuracy": 100 * _mean_of(curves[key], "accuracy", ten)}
                for key, job in runs.items()
            }
        )
    return found


def _mean_of(curve: list[dict[str, float]], name: str, ten: int) -> float:
    values = [p[name] for p in curve if name in p and (p["step"] - 1) // 10 == ten]
    return sum(values) / len(values)


_LENGTHS = """
with groups as (
    select r.job, (r.step - 1) // 10 as ten, case when p.domain = 'search' then 'search' else 'other' end as task,
           avg(r.reasoning_tokens) as tokens
    from rollouts r join prompts p using (prompt_id)
    where r.job in (?, ?)
    group by 1, 2, 3, r.step, r."group"
)
select job, ten, task, avg(tokens) as mean, stddev_samp(tokens) / sqrt(count(*)) as error from groups group by all
"""


def markdown(found: dict[str, Any]) -> str:
    """The tables for `docs/reproducing-r1.md`."""
    lines = [
        "| reward | pass@1 | language consistency | readable format | reasoning tokens | helpful | harmless |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in found["models"].items():
        cells = [shown(figures[key]) for key in ("pass@1", "language_consistency", "readable_format")]
        cells.append(f"{figures['reasoning_tokens']:.1f}")
        cells += [shown(found["preferences"][name][key]) for key in ("helpful", "harmless")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| against accuracy and format | pass@1 | language consistency | readable format |",
        "|---|---|---|---|",
    ]
    for name, figures in found["against accuracy and format"].items():
        lines.append(
            f"| {name} | " + " | ".join(shown(figure, signed=True) for figure in figures.values()) + " |"
        )
    lines += [
        "",
        "Tokens of the thought over ten steps, mean ± standard error over groups, with the schedule and without:",
        "",
        "| steps | weight | band | countdown | without | other tasks | without | correct, % | without |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["schedule"]:
        (first, last), (low, high) = row["steps"], row["band"]
        cells = [f"{first}–{last}", f"{row['weight']:.2f}", f"{low:.0f}–{high:.0f}"]
        for task in ("search", "other"):
            cells += ["{:.1f} ± {:.1f}".format(*row[key][task]) for key in ("with", "without")]
        cells += [f"{row[key]['accuracy']:.0f}" for key in ("with", "without")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    help="The run's folder. [runs/reproduce-ablations-SEED]",
)
def main(seed: int, folder: Path | None) -> None:
    """One run a part of the reward; writes ablations.json and ablations.md."""
    recipe = seeded(RECIPE, seed)
    run = execute(recipe, folder or Path("runs") / f"{RECIPE}-{seed}", Selection(), Reporter())
    found = tables(run, recipe, seed)
    write_text(run.folder / "ablations.json", dump(found))
    write_text(run.folder / "ablations.md", markdown(found))
    click.echo(f"{run.folder / 'ablations.json'}\n{run.folder / 'ablations.md'}")


if __name__ == "__main__":
    run_command(main, "ablations")
