"""The evaluation part of the report: one sentence, the table, the slices, and how the numbers were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from factory.query import rows
from factory.report_charts import Interval, intervals, number, percent

if TYPE_CHECKING:
    import duckdb


def headline(
    suites: Sequence[Mapping[str, Any]],
    totals: Mapping[str, Any],
    recipe: Mapping[str, Any],
    learnt: str = "",
) -> str:
    """The one sentence that matters, computed from the evaluation, or from what there is. Names are escaped.

    Args:
        learnt: what a run says that has trained a teacher and no more.
    """
    if suites and suites[0]["first"]:
        return _evaluation_sentence(suites[0]["first"], recipe)
    if totals["graded"]:
        return (
            f"{number(totals['correct'])} of {number(totals['graded'])} graded samples are correct "
            f"({percent(totals['correct'] / totals['graded'])}). No model of this run has been evaluated yet."
        )
    if totals["candidates"]:
        return f"{number(totals['candidates'])} samples are drawn. None of them has been judged yet."
    return learnt or "This run holds no samples yet."


def _evaluation_sentence(ranked: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> Markup:
    """`ranked`: rows of pass@1 over all prompts, the best first."""
    parts = []
    for position, row in enumerate(ranked):
        bounds = "" if row["low"] is None else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        wording = "{} {}" if position else "{} solves {} of held-out problems"
        share = f"{percent(row['value'])}{bounds}"
        parts.append(Markup(wording).format(_who(row["label"], recipe, position), share))
    sentence = Markup(", ").join(parts) + "."
    if len(ranked) > 1 and ranked[0]["low"] is not None and ranked[1]["high"] is not None:
        if ranked[0]["low"] > ranked[1]["high"]:
            return sentence + " The intervals of the best two do not overlap."
        return sentence + " The intervals of the best two overlap: the difference between them may be chance."
    return sentence


def _who(label: str, recipe: Mapping[str, Any], position: int) -> Markup:
    """ "the student trained on the mix NAME" or the teacher's stage where the recipe says so, else the model's name."""
    models = (recipe.get("evaluation") or {}).get("models") or []
    model = next((str(entry["model"]) for entry in models if entry.get("name") == label), "")
    kind, _, student = model.partition(":")
    mix = ((recipe.get("students") or {}).get(student) or {}).get("mix")
    article = "the" if position else "The"
    if kind == "student" and mix:
        noun = "one" if position else "student"
        return Markup("{} {} trained on the mix <em>{}</em>").format(article, noun, mix)
    if kind == "teacher" and student in (recipe.get("teacher") or {}):
        return Markup("{} teacher after its stage <em>{}</em>").format(article, student)
    return Markup("{} model <em>{}</em>").format(article, label)


# ------------------------------------------------------------------------------------------ evaluation


def evaluation(
    connection: duckdb.DuckDBPyConnection, recipe: Mapping[str, Any], colours: Mapping[str, int]
) -> list[dict[str, Any]]:
    """One entry a suite: the table over all prompts, the slices, the protocols."""
    found = rows(connection, "select * from evals order by suite, label, protocol, metric, slice")
    order = [m.get("name") for m in (recipe.get("evaluation") or {}).get("models") or []]
    suites = []
    for suite in dict.fromkeys(row["suite"] for row in found):
        mine = [row for row in found if row["suite"] == suite]
        protocols = _protocols(mine)
        names = {key: entry["name"] for entry in protocols for key in entry["keys"]}
        whole = [row for row in mine if row["slice"] == "all"]
        suites.append(
            {
                "suite": suite,
                "first": _ranked(whole),
                "chart": _interval_chart(whole, order, colours),
                "table": _grid(whole, order, names),
                "slices": _slices([row for row in mine if row["slice"] != "all"], order),
                "protocols": protocols,
            }
        )
    return suites


def _ranked(whole: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """pass@1 of every label, the newest where there are several, the best first."""
    newest: dict[str, Mapping[str, Any]] = {}
    for row in sorted(whole, key=lambda r: (str(r["created_at"]), str(r["seed"]), r["protocol"])):
        if row["metric"] == "pass@1" and row["value"] is not None:
            newest[row["label"]] = row
    return sorted(newest.values(), key=lambda row: (-row["value"], row["label"]))


def _protocols(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How the numbers were made: one entry a text; seeds, prompts and left-out samples are gathered."""
    texts: dict[str, dict[str, Any]] = {}
    for row in found:
        text = row["protocol_text"] or "(no description was stored)"
        entry = texts.setdefault(
            text, {"text": text, "name": f"P{len(texts) + 1}", "keys": [], "labels": [], "models": {}}
        )
        if row["protocol"] not in entry["keys"]:
            entry["keys"].append(row["protocol"])
        if row["label"] not in entry["labels"]:
            entry["labels"].append(row["label"])
        if row["slice"] == "all" and row["metric"] == "pass@1":
            entry["models"][(row["label"], row["seed"])] = row
    for entry in texts.values():
        entry["models"] = [entry["models"][key] for key in sorted(entry["models"], key=str)]
    return list(texts.values())


def _metric_order(name: str) -> tuple[int, int, str]:
    """pass@1, pass@4, …, maj@4, …, then anything else."""
    kind, _, k = name.partition("@")
    return ({"pass": 0, "maj": 1}.get(kind, 2), int(k) if k.isdigit() else 0, name)


def _label_order(order: Sequence[Any], row: Mapping[str, Any]) -> tuple[int, str, str, str]:
    place = order.index(row["label"]) if row["label"] in order else len(order)
    return (place, row["label"], row["protocol"], row["model"])


def _grid(
    whole: Sequence[Mapping[str, Any]], order: Sequence[Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """Rows of `evals` as a table: a line a model and protocol, a column a metric."""
    columns = sorted({row["metric"] for row in whole}, key=_metric_order)
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in sorted(whole, key=lambda r: _label_order(order, r)):
        empty = {"label": row["label"], "protocol": names[row["protocol"]], "seed": row["seed"], "cells": {}}
        lines.setdefault((row["label"], row["model"], row["protocol"]), empty)["cells"][row["metric"]] = row
    best = {name: _best([line["cells"].get(name) for line in lines.values()]) for name in columns}
    return {"columns": columns, "lines": list(lines.values()), "best": best}


def _slices(found: Sequence[Mapping[str, Any]], order: Sequence[Any]) -> dict[str, Any]:
    """pass@1 of the slices as a table: a line a slice (a task), a column a model and protocol."""
    first = sorted((r for r in found if r["metric"] == "pass@1"), key=lambda r: _label_order(order, r))
    columns = {(r["label"], r["model"], r["protocol"]): r for r in first}
    labels = [key[0] for key in columns]
    lines = []
    for name in sorted({row["slice"] for row in first}):
        mine = {(r["label"], r["model"], r["protocol"]): r for r in first if r["slice"] == name}
        cells = [mine.get(key) for key in columns]
        prompts = max((row["prompts"] or 0 for row in mine.values()), default=0)
        title = name.removeprefix("domain=")
        lines.append({"name": title, "prompts": prompts, "cells": cells, "best": _best(cells)})
    headings = [
        f"{label} (seed {row['seed']})" if labels.count(label) > 1 else label
        for label, row in zip(labels, columns.values(), strict=True)
    ]
    return {"columns": headings, "lines": lines}


def _best(cells: Sequence[Mapping[str, Any] | None]) -> float | None:
    """The largest value, where there are at least two to compare."""
    values = [cell["value"] for cell in cells if cell is not None and cell["value"] is not None]
    return max(values) if len(values) > 1 else None


def _interval_chart(
    whole: Sequence[Mapping[str, Any]], order: Sequence[Any], colours: Mapping[str, int]
) -> Markup | None:
    first = [row for row in whole if row["metric"] == "pass@1" and row["value"] is not None]
    if not first:
        return None
    first.sort(key=lambda row: _label_order(order, row))
    labels = [row["label"] for row in first]
    shown = [
        Interval(
            f"{row['label']} (seed {row['seed']})" if labels.count(row["label"]) > 1 else row["label"],
            row["value"],
            row["low"],
            row["high"],
            colours[row["label"]],
        )
        for row in first
    ]
    return intervals(
        shown, label="pass@1 of every model with its interval", x_label="pass@1 on held-out prompts, per cent"
    )
