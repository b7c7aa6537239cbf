"""Does rejection sampling pay? Recipe `filtering` over several seeds: filtered against unfiltered students.

Every seed draws its own questions, samples, mixes, orders of training and evaluation samples. The table gives
pass@1 of base and students and the paired difference filtered - unfiltered over questions, with 95 % bootstrap
intervals; pooled, questions of all seeds count as different questions.

    python benchmarks/filtering.py [--seeds 0 1 2] [--runs runs/filtering] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from factory.console import Reporter
from factory.pipeline import Selection, execute
from factory.query import connect, rows
from factory.recipe import find_recipe, load_recipe
from factory.store import Run
from filters.stats import Metric, SampleScore, difference, prompt_values, summarise
from filters.verdict import Verdict

_SAMPLES = """
select e.label, c.prompt_id, c.outcome, c.fault, c.extracted_answer
from eval_candidates c join (select distinct model, protocol, label from evals) e using (model, protocol)
order by c.prompt_id, c.sample_index
"""


def run_of_seed(seed: int, folder: Path, extra: list[str]) -> Run:
    """Recipe `filtering` with every seed in it set."""
    overrides = [
        f"seed={seed}",
        f"prompts.sources=[{{source: tiny, seed: {2026 + seed}, quotas: {{train: 1500, test: 240}}}}]",
        f"evaluation.seed={seed}",
        *(
            f"{part}.{name}.seed={seed}"
            for part in ("mixes", "students")
            for name in ("filtered", "unfiltered")
        ),
        *extra,
    ]
    recipe = load_recipe(find_recipe("filtering"), overrides)
    return execute(recipe, folder, Selection(), Reporter())


def scores_of(run: Run) -> dict[str, dict[str, list[SampleScore]]]:
    """label -> prompt -> scores."""
    found: dict[str, dict[str, list[SampleScore]]] = {}
    with connect(run) as connection:
        for row in rows(connection, _SAMPLES):
            scores = found.setdefault(row["label"], {}).setdefault(row["prompt_id"], [])
            scores.append(SampleScore.of(Verdict.from_row(row)))
    return found


def figures(scores: dict[str, dict[str, list[SampleScore]]]) -> dict[str, Metric]:
    values = {label: summarise(by_prompt)[0] for label, by_prompt in scores.items()}
    filtered, unfiltered = (prompt_values(scores[label]) for label in ("filtered", "unfiltered"))
    return {**values, "filtered - unfiltered": difference(unfiltered, filtered)}


def pooled(
    seeds: dict[int, dict[str, dict[str, list[SampleScore]]]],
) -> dict[str, dict[str, list[SampleScore]]]:
    found: dict[str, dict[str, list[SampleScore]]] = {}
    for seed, scores in seeds.items():
        for label, by_prompt in scores.items():
            found.setdefault(label, {}).update({f"{seed}:{p}": s for p, s in by_prompt.items()})
    return found


def line(name: str, metrics: dict[str, Metric]) -> str:
    cells = []
    for label in ("base", "unfiltered", "filtered", "filtered - unfiltered"):
        metric = metrics[label]
        assert metric.value is not None and metric.low is not None and metric.high is not None
        cells.append(f"{100 * metric.value:.1f} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/filtering"))
    parser.add_argument("--set", dest="extra", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/filtering.json"))
    arguments = parser.parse_args()
    seeds = {
        seed: scores_of(run_of_seed(seed, arguments.runs / str(seed), arguments.extra))
        for seed in arguments.seeds
    }
    found: dict[str, dict[str, Metric]] = {f"seed {seed}": figures(scores) for seed, scores in seeds.items()}
    found["all seeds"] = figures(pooled(seeds))
    result: dict[str, Any] = {
        name: {label: [m.value, m.low, m.high] for label, m in metrics.items()}
        for name, metrics in found.items()
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print("| pass@1, % | base | unfiltered | filtered | filtered - unfiltered |")
    print("|---|---|---|---|---|")
    for name, metrics in found.items():
        print(line(name, metrics))


if __name__ == "__main__":
    main()
