"""`reproduce.json` of one seed or of several as a page, and as the Markdown of `docs/reproducing-r1.md`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import jinja2
from markupsafe import Markup

from factory.report_charts import Series, lines

Result = Mapping[str, Any]
_LONG = 30
"""Seconds from which on a stage is shown."""

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>R1 in miniature</title>
<style>{{ style }}</style>
<body><main>
<h1>R1 in miniature</h1>
<p>{{ intro }}</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
<p>{{ section.text }}</p>
{{ section.chart or "" }}
<table><tr>{% for name in section.head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
</main></body></html>
"""


def shown(figure: Any, *, signed: bool = False) -> str:
    """A figure in percent with its interval: 81.3 [77.5, 85.1]; differences with their sign."""
    if figure is None:
        return "–"
    if isinstance(figure, int | float):
        return f"{figure:.1f}"
    value, low, high = (100 * part for part in figure)
    sign = "+" if signed else ""
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _cells(figures: Sequence[Any], *, signed: bool = False) -> list[str]:
    """One cell a seed, and where there are several the mean of their values and the standard deviation between them."""
    cells = [shown(figure, signed=signed) for figure in figures]
    if len(figures) > 1:
        values = [100 * figure[0] for figure in figures if figure is not None]
        sign = "+" if signed else ""
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.fmean(values):{sign}.1f}{spread}" if values else "–")
    return cells


def sections(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Every table: a title, what it shows, a head, and rows with one cell a seed."""
    seeds = [f"seed {result['seed']}" for result in results]
    k = next(name for name in results[0]["models"]["base"] if name.startswith("pass@") and name != "pass@1")
    averaged = [*seeds, "mean ± s.d."] if len(seeds) > 1 else seeds
    return [
        _models(results, averaged, k),
        _tasks(results, averaged, k),
        _new_problems(results, averaged),
        _claims(results, averaged, k),
        _language(results, seeds),
        _reflection(results, seeds),
        _students(results, seeds),
        _scenarios(results, seeds),
        _times(results, seeds),
    ]


def _section(title: str, text: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"title": title, "text": text, "head": head, "rows": rows}


def _models(results: Sequence[Result], seeds: Sequence[str], k: str) -> dict[str, Any]:
    measures = ("pass@1", k, "greedy", "language_consistency", "readable_format")
    rows = [
        [
            label,
            measure.replace("_", " "),
            *_cells([result["models"][label].get(measure) for result in results]),
        ]
        for label in results[0]["models"]
        for measure in measures
    ]
    text = (
        "Percent of the test questions, over all four tasks; language consistency and format of all samples: one "
        "without reasoning in words has a consistency of 0."
    )
    return _section("Every model", text, ["model", "measure", *seeds], rows)


def _tasks(results: Sequence[Result], seeds: Sequence[str], k: str) -> dict[str, Any]:
    rows = []
    for label in ("base", "zero", "reasoning_rl", "align"):
        for task in results[0]["models"][label]["by_task"]:
            for measure in ("pass@1", k):
                cells = _cells([result["models"][label]["by_task"][task][measure] for result in results])
                rows.append([label, task, measure, *cells])
        harder = _cells(
            [(result["models"][label].get("one rung harder") or {}).get("pass@1") for result in results]
        )
        rows.append([label, "one rung harder", "pass@1", *harder])
    return _section("By task", "Percent.", ["model", "task", "measure", *seeds], rows)


def _new_problems(results: Sequence[Result], seeds: Sequence[str]) -> dict[str, Any]:
    rows = []
    for label in ("base", "zero", "reasoning_rl", "align", "distilled"):
        rows.append([label, *_cells([result["new problems"][label] for result in results])])
    questions = results[0]["new problems"]["questions"]
    text = (
        "No test question is trained on, nor the same numbers in another order or other words. The base's corpus has "
        f"many of them in other words; pass@1 on the {questions} test questions of which it has nothing, percent."
    )
    return _section("New problems", text, ["model", *seeds], rows)


_DIFFERENCES = (
    ("reinforcement alone", "pass@1", "R-Zero against its base, pass@1"),
    ("reinforcement alone", "K", "R-Zero against its base, K"),
    ("reinforcement alone", "greedy", "R-Zero against its base, greedy"),
    ("reinforcement alone", "one rung harder", "R-Zero against its base, one rung harder"),
    ("language", "accuracy against zero", "R1 (cold start and language reward) against R-Zero, pass@1"),
    ("language", "align against zero", "R1, all stages, against R-Zero, pass@1"),
    ("second stage", "sft against reasoning_rl", "SFT on the curated mix against reasoning RL, pass@1"),
    ("second stage", "align against reasoning_rl", "all stages against reasoning RL alone, pass@1"),
    ("second stage", "align against sft", "RL for all scenarios against its start, pass@1"),
    ("distillation", "pass@1", "student: distilled against RL, pass@1"),
)


def _claims(results: Sequence[Result], seeds: Sequence[str], k: str) -> dict[str, Any]:
    rows = []
    for claim, key, name in _DIFFERENCES:
        key, name = (k if key == "K" else key), name.replace("K", k)
        rows.append([name, *_cells([result["claims"][claim][key] for result in results], signed=True)])
    return _section("Differences", "Points, paired by question.", ["what", *seeds], rows)


def _language(results: Sequence[Result], seeds: Sequence[str]) -> dict[str, Any]:
    rows = []
    for label in ("base by language", "zero by language"):
        for language in ("en", "zh", "mixed"):
            parts = [result["claims"]["language"][label].get(language) for result in results]
            cells = [f"{100 * p['share']:.1f} / {shown(p['accuracy'])}" if p else "–" for p in parts]
            rows.append([label.split()[0], language, *cells])
    text = (
        "Share of the well-formed thoughts in a language / how many of them lead to a right answer (mean over the "
        "questions that were thought about in it), percent."
    )
    return _section("Languages", text, ["model", "language", *seeds], rows)


def _reflection(results: Sequence[Result], seeds: Sequence[str]) -> dict[str, Any]:
    rows = []
    for label in ("base", "zero", "reasoning_rl", "align"):
        for measure, scale in (("reasoning_tokens", 1), ("reflection_per_1k", 1), ("second_looks", 100)):
            cells = []
            for result in results:
                value = result["models"][label]["by_task"]["search"][measure]
                cells.append(f"{scale * (value[0] if isinstance(value, list | tuple) else value):.1f}")
            rows.append([label, measure.replace("_", " "), *cells])
    text = (
        "On countdown, where checking pays: tokens of the reasoning, R1's reflection words per 1,000 tokens, and the "
        "share of samples that reject a try, in percent."
    )
    return _section("Length and reflection", text, ["model", "measure", *seeds], rows)


def _students(results: Sequence[Result], seeds: Sequence[str]) -> dict[str, Any]:
    rows = []
    for name in ("student", "by reinforcement", "distilled"):
        rows.append(
            [f"{name}: pass@1, percent", *(shown(r["claims"]["distillation"][name]) for r in results)]
        )
    for name in results[0]["claims"]["distillation"]["seconds"]:
        cells = [f"{r['claims']['distillation']['seconds'][name] or 0:.0f}" for r in results]
        rows.append([f"{name}: seconds", *cells])
    text = (
        "Wall time of whole stages, loading, compiling and validation included. The curves: validation accuracy over "
        "seconds since the stage began."
    )
    return _section("The small student", text, ["what", *seeds], rows) | {"chart": _student_curves(results)}


def _student_curves(results: Sequence[Result]) -> Markup:
    """Both roads of the student over wall time, one line a seed."""
    series = []
    for number, (job, name) in enumerate((("student_rl", "by reinforcement"), ("distilled", "distilled"))):
        for result in results:
            found = [p for p in result["curves"][job] if "eval/accuracy" in p]
            points = [(p["seconds"], 100 * p["eval/accuracy"]) for p in found]
            if points:
                series.append(Series(f"{name}, seed {result['seed']}", points, number))
    return lines(series, label="The student's two roads", x_label="seconds", y_label="correct, percent")


def _scenarios(results: Sequence[Result], seeds: Sequence[str]) -> dict[str, Any]:
    rows = []
    for name, held_out in results[0]["rewards"].items():
        for split in held_out or {}:
            cells = []
            for result in results:
                one = result["rewards"][name][split]
                cells.append(shown((one["accuracy"], one["low"], one["high"])))
            rows.append([f"reward model {name}: accuracy, {split}", *cells])
    for label in results[0]["claims"]["all scenarios"]:
        for measure in ("helpful", "harmless"):
            cells = [shown(r["claims"]["all scenarios"][label][measure]) for r in results]
            rows.append([f"{label}: {measure} by the rules", *cells])
    text = "Percent. Preference is rewarded in `align` alone, and only in its last part."
    return _section("RL for all scenarios", text, ["what", *seeds], rows)


def _times(results: Sequence[Result], seeds: Sequence[str]) -> dict[str, Any]:
    rows = []
    for stage in results[0]["seconds"]:
        cells = [result["seconds"].get(stage) or 0.0 for result in results]
        if max(cells) >= _LONG:
            rows.append([stage, *(f"{cell:.0f}" for cell in cells)])
    totals = [sum(filter(None, result["seconds"].values())) for result in results]
    rows.append(["all stages", *(f"{total:.0f}" for total in totals)])
    text = (
        f"Seconds of every stage of at least {_LONG}; greedy answers and the harder rung are not among them."
    )
    return _section("Wall time", text, ["stage", *seeds], rows)


def page(results: Sequence[Result]) -> str:
    """The HTML page, in the style of a run's report."""
    style = (Path(__file__).parents[1] / "templates" / "report.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(_PAGE)
    return template.render(style=Markup(style), intro=_intro(results), sections=sections(results)) + "\n"


def markdown(results: Sequence[Result]) -> str:
    """The same tables in Markdown."""
    lines = [_intro(results), ""]
    for section in sections(results):
        lines += [f"### {section['title']}", "", section["text"], ""]
        lines += ["| " + " | ".join(section["head"]) + " |", "|---" * len(section["head"]) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in section["rows"]]
        lines.append("")
    return "\n".join(lines)


def _intro(results: Sequence[Result]) -> str:
    protocol = results[0]["protocol"]
    return f"{protocol['test']}. {protocol['intervals'][0].upper()}{protocol['intervals'][1:]}."


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--html", "as_html", is_flag=True, help="A page instead of Markdown.")
def main(files: Sequence[Path], as_html: bool) -> None:
    """The tables of one `reproduce.json` or of several seeds side by side."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    click.echo(page(results) if as_html else markdown(results))


if __name__ == "__main__":
    main()
