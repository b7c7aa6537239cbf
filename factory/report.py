"""`report.html`: one self-contained page that says what a run did, for a person.

The page loads nothing: styles and script stand in it, charts are inline SVG, and its content security policy
allows no request. Everything a model wrote is escaped. It is a function of the run alone, so writing it again
gives the same page.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distill.chat import parse_template
from factory import report_data as data
from factory.console import duration
from factory.files import read_json, write_text
from factory.query import connect, rows
from factory.report_charts import (
    Bar,
    Series,
    Step,
    bars,
    brief,
    funnel,
    lines,
    meter,
    mirror_histogram,
    number,
    percent,
)
from factory.report_evaluation import evaluation, headline
from factory.report_teacher import MAX_JOBS, reinforcement, rl_jobs, short_sentence
from factory.report_text import clip
from factory.store import Run
from factory.trained_models import chain, model_names
from filters.errors import UserError
from filters.verdict import Reason

if TYPE_CHECKING:
    import duckdb
    from markupsafe import Markup

SAMPLES_SHOWN = 20
SAMPLE_BYTES = 1_200_000
"""What the texts of all samples together may take, escaped: the page stays below 2 MB."""
SAMPLE_BYTES_BESIDE_LEARNING = 700_000
"""The same where the page also holds charts and samples of learning by reinforcement."""
LONG_REASONING = 700
"""Characters above which reasoning is folded away."""
MAX_CHARTED_JOBS = 12
_CONTROL_SYMBOLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}
"""Control characters stand as their symbols: a page may not hold NUL, and a reader should see the others."""

REASON_TEXTS: dict[Reason, str] = {
    Reason.INCORRECT: "the answer is wrong",
    Reason.NOT_ATTEMPTED: "no answer was given",
    Reason.UNPARSABLE: "the answer could not be read",
    Reason.TIMEOUT: "grading ran out of time",
    Reason.TRUNCATED: "cut off at the token limit",
    Reason.GRADER_ERROR: "the grader failed",
    Reason.UNVERIFIABLE: "nothing can check the answer",
    Reason.FORMAT: "the tags are not in order",
    Reason.NO_REASONING: "no reasoning before the answer",
    Reason.TOO_SHORT: "reasoning below the least length",
    Reason.TOO_LONG: "reasoning above the greatest length",
    Reason.LANGUAGE_MIX: "languages are mixed",
    Reason.WRONG_LANGUAGE: "not in the target language",
    Reason.REPETITION: "repeats itself",
    Reason.UNREADABLE: "hard to read",
    Reason.DUPLICATE: "same text as another sample of its prompt",
    Reason.TOO_EASY: "the teacher solves the prompt too often",
    Reason.TOO_HARD: "the teacher solves the prompt too rarely",
    Reason.PROMPT_QUOTA: "its prompt has enough samples",
    Reason.SIZE_QUOTA: "the mix has enough samples",
    Reason.HELD_OUT: "its question is held out",
    Reason.EVALUATION_ONLY: "its source is for evaluation only",
}

QUERIES: tuple[tuple[str, str], ...] = (
    (
        "why candidates were dropped",
        "select mix, reason, count(*) as n from decisions, unnest(reasons) as t(reason) group by all order by all",
    ),
    (
        "the hardest questions that were solved",
        "select question, n_correct, n_samples from prompt_stats join prompts using (prompt_id) "
        "where n_correct > 0 order by n_correct / n_samples, question limit 20",
    ),
    (
        "accepted samples to read",
        "select question, completion, reference from curated order by candidate_id limit 5",
    ),
    (
        "what the graders said about wrong answers",
        "select explanation, count(*) as n from verdict where outcome <> 'correct' "
        "group by all order by n desc limit 20",
    ),
    (
        "one candidate, by the start of its id",
        "select * from candidates where candidate_id like '{candidate}%'",
    ),
    (
        "the set to train on, by component and split",
        "select mix, component, split, count(*) as n, sum(tokens) as tokens from mix group by all order by all",
    ),
)
"""What to ask next: title and SQL. `{candidate}` becomes the start of an id of this run."""


def write_report(run: Run) -> Path:
    """Write `RUN/report.html` from the run's tables and manifests, atomically.

    Raises:
        UserError: a table or manifest is damaged, or the disk is full.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("factory"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "brief": brief, "percent": percent, "duration": duration}
    environment.globals["meter"] = meter
    script = _asset(environment, "report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    with connect(run) as connection:
        context = report_context(run, connection)
    page = environment.get_template("report.html.j2").render(
        context, script=script, script_hash=digest, style=_asset(environment, "report.css")
    )
    target = run.folder / "report.html"
    write_text(target, page.translate(_CONTROL_SYMBOLS))
    return target


def _asset(environment: Any, name: str) -> Markup:
    """A file of ours that stands in the page as it is."""
    from markupsafe import Markup

    return Markup(environment.loader.get_source(environment, name)[0])


def report_context(run: Run, connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Everything the template shows."""
    data.prepare(connection)
    recipe = _recipe(run)
    stages = _stages(run)
    totals = data.totals(connection)
    jobs = rl_jobs(connection, recipe)
    mixes = _mixes(connection, recipe, stages, SAMPLE_BYTES_BESIDE_LEARNING if jobs else SAMPLE_BYTES)
    colours = _colours(connection, recipe)
    suites = evaluation(connection, recipe, colours)
    names = model_names(run)
    learning = _learning(run, connection, recipe, jobs)
    return {
        "recipe": recipe,
        "name": recipe.get("name") or run.folder.name,
        "folder": str(run.folder),
        "created": _created(run),
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in stages),
        "totals": totals,
        "teachers": data.teachers(connection),
        "model_names": names,
        "origins": {key: road[-1] for key, name in names.items() if len(road := chain(recipe, name)) > 1},
        "headline": headline(suites, totals, recipe, _learnt(learning)),
        "learning": learning,
        "suites": suites,
        "funnel": _funnel(totals),
        "mixes": mixes,
        "rates": _rates(connection),
        "lengths": _lengths(connection),
        "outcomes": data.outcomes(connection),
        "languages": _languages(connection),
        "training": _training(connection, colours, jobs),
        "versions": _versions(),
        "queries": _queries(run, connection),
        "long_reasoning": LONG_REASONING,
    }


def _learning(
    run: Run, connection: duckdb.DuckDBPyConnection, recipe: Mapping[str, Any], jobs: Sequence[str]
) -> dict[str, Any] | None:
    """Stages of the teacher that learnt by reinforcement, where there are any."""
    if not jobs:
        return None
    stages = reinforcement(run, connection, recipe, jobs)
    return {"stages": stages, "more": len(jobs[MAX_JOBS:]), "more_names": jobs[MAX_JOBS:]}


def _learnt(learning: Mapping[str, Any] | None) -> str:
    """What the last stage of the teacher came to, for a run that has nothing else to say."""
    if learning is None:
        return ""
    return short_sentence(learning["stages"][-1])


def _colours(connection: duckdb.DuckDBPyConnection, recipe: Mapping[str, Any]) -> dict[str, int]:
    """A colour for every student and model, the same in all charts."""
    evaluated = [model.get("name") for model in (recipe.get("evaluation") or {}).get("models") or []]
    found = rows(
        connection, "select distinct job as name from metrics union select distinct label from evals"
    )
    names = [*(recipe.get("students") or {}), *evaluated, *sorted(str(row["name"]) for row in found)]
    return {name: index for index, name in enumerate(dict.fromkeys(names))}


# --------------------------------------------------------------------------------------- head and end


def _recipe(run: Run) -> dict[str, Any]:
    """The run's recipe as plain values, empty where it has none. Not validated: an old run stays readable."""
    path = run.folder / "recipe.yaml"
    if not path.exists():
        return {}
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Restore it from a copy, or run the recipe again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is damaged: it holds no recipe. Restore it from a copy, or run the recipe again"
        )
    return value


def _created(run: Run) -> str:
    created = read_json(run.folder / "run.json").get("created_at")
    return datetime.fromisoformat(created).strftime("%-d %B %Y, %H:%M UTC") if created else "unknown"


def _stages(run: Run) -> list[dict[str, Any]]:
    """Manifests of the finished stages, in the order in which they finished; the report's own is left out."""
    found = [read_json(path) for path in run.manifests()]
    found = [manifest for manifest in found if manifest["stage"] != "report"]
    for manifest in found:
        manifest["bytes"] = sum(output["bytes"] for output in manifest["outputs"])
        manifest["finished"] = datetime.fromisoformat(manifest["finished_at"]).strftime("%H:%M:%S")
    return sorted(found, key=lambda manifest: (manifest["finished_at"], manifest["stage"]))


def _versions() -> list[tuple[str, str]]:
    versions = [("Python", platform.python_version())]
    for package in ("r1-factory", "duckdb", "pyarrow", "reasoning-gym", "jax", "flax", "google-tunix"):
        try:
            versions.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue  # an optional extra that is not installed here
    return versions


def _queries(run: Run, connection: duckdb.DuckDBPyConnection) -> list[dict[str, str]]:
    first = rows(connection, "select candidate_id from candidates order by candidate_id limit 1")
    candidate = first[0]["candidate_id"][:12] if first else ""
    folder = shlex.quote(str(run.folder))
    queries = [(title, sql.replace("{candidate}", candidate)) for title, sql in QUERIES]
    return [{"title": title, "command": f'factory query {folder} "{sql}"'} for title, sql in queries]


# ----------------------------------------------------------------------------------------------- mixes


def _funnel(totals: Mapping[str, Any]) -> Markup | None:
    """Up to the correct ones; what each mix takes of them has a funnel of its own."""
    candidates = totals["candidates"]
    if not candidates:
        return None
    steps = [
        Step("prompts", totals["asked"], f"asked, of {number(totals['prompts'])}", "f4"),
        Step("candidates", candidates, f"{candidates / totals['asked']:.1f} a prompt"),
        Step("judged", totals["judged"], f"{percent(totals['judged'] / candidates)} of candidates"),
        Step("correct", totals["correct"], f"{percent(totals['correct'] / candidates)} of candidates"),
    ]
    return funnel(steps, label="From prompts to correct candidates")


def _mixes(
    connection: duckdb.DuckDBPyConnection,
    recipe: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
    sample_bytes: int,
) -> list[dict[str, Any]]:
    """One entry a mix, in the recipe's order: funnel, reasons, samples."""
    found = data.mixes(connection)
    order = list(recipe.get("mixes") or {})
    decided = {stage["stage"]: stage["config"] for stage in stages}
    found.sort(key=lambda row: (order.index(row["mix"]) if row["mix"] in order else len(order), row["mix"]))
    reasons = data.reasons(connection)
    budget = sample_bytes // (2 * SAMPLES_SHOWN * max(len(found), 1))
    for row in found:
        name = row["mix"]
        row["chart"] = _mix_funnel(row)
        row["reasons"] = _reason_rows(row, [r for r in reasons if r["mix"] == name])
        row["unused"] = [
            str(reason) for reason in Reason if str(reason) not in {r["reason"] for r in row["reasons"]}
        ]
        row["accepted_samples"] = list(
            _cards(connection, name, data.accepted_ids(connection, name, SAMPLES_SHOWN), budget)
        )
        row["rejected_samples"] = list(
            _cards(connection, name, data.rejected_ids(connection, name, SAMPLES_SHOWN), budget)
        )
        done = decided.get(f"select:{name}") or (recipe.get("mixes") or {}).get(name) or {}
        of = ((recipe.get("mixes") or {}).get(name) or {}).get("of")
        row["select"] = [*([("of", of)] if of else []), *_settings(done.get("select") or {})]
    return found


def _settings(select: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The thresholds that are on."""
    return [(key, value) for key, value in select.items() if value is not None and value is not False]


def _mix_funnel(row: Mapping[str, Any]) -> Markup:
    decided, accepted = row["decided"] or 0, row["accepted"] or 0
    steps = [Step("decided on", decided, "candidates")]
    if decided:
        steps.append(Step("accepted", accepted, f"{percent(accepted / decided)} of candidates"))
    if accepted:
        share = percent((row["accepted_correct"] or 0) / accepted)
        steps.append(Step("of these correct", row["accepted_correct"] or 0, f"{share} of the accepted", "f2"))
    if row["samples"]:
        steps.append(Step("reasoning samples", row["reasoning"], "in the mix"))
        steps.append(Step("general samples", row["general"], "in the mix", "f3"))
    return funnel(steps, label=f"From candidates to the mix {row['mix']}")


def _reason_rows(row: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    texts = {str(reason): text for reason, text in REASON_TEXTS.items()}
    decided = row["decided"] or 1
    return [
        {
            "reason": r["reason"],
            "text": texts.get(r["reason"], ""),
            "has": r["has"],
            "only": r["only_this"],
            "share": r["has"] / decided,
            "only_share": r["only_this"] / decided,
        }
        for r in found
    ]


# --------------------------------------------------------------------------------------------- samples


def _cards(
    connection: duckdb.DuckDBPyConnection, mix: str, ids: Sequence[str], budget: int
) -> Iterator[dict[str, Any]]:
    """Samples as they are shown: divided by the tags of their template, each within `budget` bytes."""
    for row in data.samples(connection, mix, ids):
        completion = row["completion"] or ""
        parsed = parse_template(row["template"]).style.parse(completion) if row["template"] else None
        reasoning = parsed.reasoning if parsed else None
        answer = parsed.answer if parsed else completion
        yield {
            **row,
            "question": clip(row["question"] or "", budget // 5),
            "reasoning": None if reasoning is None else clip(reasoning, budget // 2),
            "answer": None if answer is None else clip(answer, budget // 5),
            "reference": None if row["reference"] is None else clip(row["reference"], budget // 20),
            "extracted_answer": clip(row["extracted_answer"] or "", budget // 20),
            "explanation": clip(row["explanation"] or "", budget // 20),
            "format_fault": parsed.fault if parsed else None,
        }


# --------------------------------------------------------------------------------------- distributions


def _rates(connection: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    found = data.pass_rates(connection)
    if not found:
        return None
    total = sum(entry.prompts for entry in found)
    chart = bars(
        [
            Bar(
                b.label, b.prompts, f"{b.meaning}: {number(b.prompts)} prompts ({percent(b.prompts / total)})"
            )
            for b in found
        ],
        label="Distribution of the pass rate over prompts",
        x_label="per cent correct" if found[-1].label == "100" else f"correct samples of {found[-1].label}",
        y_label="prompts",
        width=1040,
        height=260,
    )
    domains = data.domains(connection)
    return {
        "chart": chart,
        "all": data.teacher_rate(connection),
        "ways": data.ways(connection),
        "domains": domains[: data.MAX_DOMAINS],
        "more": max(0, len(domains) - data.MAX_DOMAINS),
    }


def _lengths(connection: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    found = data.lengths(connection)
    if found is None:
        return None
    chart = mirror_histogram(
        found.edges,
        found.correct,
        found.other,
        names=("correct", "not correct"),
        label="Completion length, correct and not correct candidates",
        x_label="completion tokens",
        y_label="candidates",
    )
    return {"chart": chart, "groups": found.groups}


def _languages(connection: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    found = data.languages(connection)
    if not found:
        return None
    counts = data.consistency_bins(connection)
    labels = [*(f"{i / 10:.1f}–" for i in range(10)), "1"]
    meanings = [*(f"from {i / 10:.1f} to below {(i + 1) / 10:.1f}" for i in range(10)), "exactly 1"]
    chart = (
        bars(
            [
                Bar(label, count, f"{meaning}: {number(count)} candidates")
                for label, meaning, count in zip(labels, meanings, counts, strict=True)
            ],
            label="Language consistency of the candidates",
            x_label="language consistency",
            y_label="candidates",
        )
        if counts
        else None
    )
    return {"rows": found, "chart": chart}


# -------------------------------------------------------------------------------------------- training


def _training(
    connection: duckdb.DuckDBPyConnection, colours: Mapping[str, int], elsewhere: Sequence[str]
) -> dict[str, Any] | None:
    """Curves of losses and learning rates, every job in one chart; last values of all other metrics.

    Jobs that stand `elsewhere` in the page, with more about them, are left out.
    """
    summary = [row for row in data.metric_summary(connection) if row["job"] not in elsewhere]
    if not summary:
        return None
    curves: dict[str, list[Series]] = {}
    for name in sorted(
        {row["name"] for row in summary}, key=lambda name: ("loss" not in name, "train" not in name, name)
    ):
        jobs = [row["job"] for row in summary if row["name"] == name and row["points"] > row["not_finite"]]
        if not _is_curve(name) or not jobs:
            continue
        curves[name] = [
            Series(job, data.curve(connection, name, job), colours[job]) for job in jobs[:MAX_CHARTED_JOBS]
        ]
    width = 510 if len(curves) < 3 else 336
    jobs = list(dict.fromkeys(row["job"] for row in summary))
    last = {(row["name"], row["job"]): row["last_value"] for row in summary}
    names = list(dict.fromkeys(row["name"] for row in summary))
    return {
        "charts": [
            lines(series, label=f"{name} over steps", x_label="step", y_label=name, width=width)
            for name, series in curves.items()
        ],
        "jobs": jobs,
        "last": [(name, [last.get((name, job)) for job in jobs]) for name in names],
        "steps": {row["job"]: row["last_step"] for row in summary},
        "not_finite": sum(row["not_finite"] for row in summary),
        "uncharted": max(0, len(jobs) - MAX_CHARTED_JOBS),
    }


def _is_curve(name: str) -> bool:
    lowered = name.lower()
    return "loss" in lowered or "learning_rate" in lowered or lowered.rsplit("/", 1)[-1] == "lr"
