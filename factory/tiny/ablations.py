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
    """Reasoning tokens beside the band that the schedule asked for, every tenth step; and those without it."""
    stage = recipe.teacher["budget"]
    assert isinstance(stage, RlStage) and stage.rewards.token_budget is not None
    budget = stage.rewards.token_budget
    with_it = {p["step"]: p for p in learning_curve(run, "teach:budget", _CURVE)}
    without = {p["step"]: p for p in learning_curve(run, f"teach:{AGAINST}", _CURVE)}
    return [
        {
            "step": step,
            "weight": budget.weight_at(int(step) - 1),
            "band": budget.band_at(int(step) - 1),
            "reasoning_tokens": with_it[step]["tokens/reasoning"],
            "without the schedule": without[step]["tokens/reasoning"],
            "accuracy": with_it[step]["accuracy"],
            "accuracy without": without[step]["accuracy"],
        }
        for step in sorted(with_it)
        if step == 1 or step % 10 == 0
    ]


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
        "| step | weight | band | reasoning tokens | without the schedule | accuracy | without the schedule |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["schedule"]:
        low, high = row["band"]
        lines.append(
            f"| {row['step']} | {row['weight']:.2f} | {low:.0f}–{high:.0f} | {row['reasoning_tokens']:.1f} | "
            f"{row['without the schedule']:.1f} | {100 * row['accuracy']:.0f} | {100 * row['accuracy without']:.0f} |"
        )
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
