"""The part of the report about learning by reinforcement: what changed over training, and beside what.

One entry a stage: a sentence, a table of start and end, curves over steps, and length, reflection and language
against accuracy. Names of the metrics: `factory.teacher.telemetry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.training_log import read_manifest
from factory import report_data as data
from factory.query import rows
from factory.recipe import trained_stage
from factory.report_charts import SERIES_COLOURS, Curve, Mark, Stretch, brief, curves, number, percent, trail
from factory.report_rollouts import shown_steps, step_panels
from factory.store import Run
from factory.teacher.telemetry import REFLECTION_WORDS
from factory.trained_models import chain

if TYPE_CHECKING:
    import duckdb
    from markupsafe import Markup

ROLLOUT_BYTES = 450_000
"""What the texts of all rollouts may take in the page, escaped."""
MAX_JOBS = 6
"""Stages that are shown in full; more would make the page too large."""
POINTS = 60
"""Points of a curve of the training samples: where there are more steps, each is a mean over several."""
STRETCHES = 40
MAX_CHECKS = 60

_CHANGES = (
    ("accuracy", "accuracy", True),
    ("reasoning tokens, mean", "tokens/reasoning", False),
    ("reasoning tokens, 95th percentile", "tokens/reasoning_p95", False),
    ("reflection words per 1,000 tokens", "reflection", False),
    ("language consistency", "language_consistency", True),
    ("tags in order", "format", True),
    ("cut off at the limit", "truncated", True),
    ("reward", "reward", False),
)
"""What the table of start and end holds: title, metric, and whether it is a share."""


@dataclass(frozen=True)
class Base:
    """What the reflection count of a stage is to be compared with.

    Attributes:
        job: the stage whose numbers these are; is_base: it started from the model that nobody here trained.
        by_eval: counted on the validation questions before the first step; else on the samples of the first step,
            which that model wrote as well.
        values: by metric, without the prefix `eval/`.
    """

    job: str
    model: str
    is_base: bool
    by_eval: bool
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "base model" if self.is_base else f"start of {self.job}"

    @property
    def count(self) -> str:
        return brief(self.values["reflection"])

    @property
    def where(self) -> str:
        """How it was counted, as the end of a sentence."""
        if self.by_eval:
            return f"on the validation questions before the first step of {self.job}"
        return f"in the samples of the first step of {self.job}, drawn before anything was learnt"


def rl_jobs(connection: duckdb.DuckDBPyConnection, recipe: Mapping[str, Any]) -> list[str]:
    """Stages that learn by reinforcement: those of the recipe in its order, then any other by name."""
    found = rows(
        connection,
        "select job from metrics where name in ('tokens/response', 'eval/tokens/response') "
        "union select job from rollouts order by job",
    )
    names = [str(row["job"]) for row in found]
    order = list(recipe.get("teacher") or {})
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def reinforcement(
    run: Run, connection: duckdb.DuckDBPyConnection, recipe: Mapping[str, Any], jobs: Sequence[str]
) -> list[dict[str, Any]]:
    """What the template shows of every stage of `rl_jobs`."""
    settings = {job: _settings(run, recipe, job) for job in jobs}
    bases = [_base(connection, job, settings[job]) for job in jobs]
    shown = jobs[:MAX_JOBS]
    return [
        _stage(
            connection,
            job,
            index,
            settings[job],
            _reference(bases, settings[job]["origin"]),
            ROLLOUT_BYTES // len(shown),
        )
        for index, job in enumerate(shown)
    ]


def _settings(run: Run, recipe: Mapping[str, Any], job: str) -> dict[str, Any]:
    """What a stage was asked to do: as its folder says, else as the recipe does."""
    manifest = read_manifest(run.folder / "teacher" / job) or {}
    spec = (recipe.get("teacher") or {}).get(job) or {}
    config = manifest.get("config") or spec
    folder = Path((manifest.get("student") or {}).get("name") or "unknown")
    base = str(spec.get("base") or folder.name)
    if "base" not in spec and run.folder.resolve() in folder.resolve().parents:
        base = f"teacher:{folder.parent.name}"
    origin = chain(recipe, base)[-1]
    wanted = ("steps", "prompts", "samples", "template", "temperature", "kl", "max_new_tokens")
    return {"base": base, "origin": origin, **{key: config.get(key) for key in wanted}}


def _base(connection: duckdb.DuckDBPyConnection, job: str, settings: Mapping[str, Any]) -> Base | None:
    """The model that a stage started from, by its numbers before anything was learnt."""
    is_base = trained_stage(settings["base"]) is None
    found = rows(
        connection,
        "select name, value from metrics where job = ? and step = 0 and name like 'eval/%' and isfinite(value)",
        [job],
    )
    values = {row["name"].removeprefix("eval/"): row["value"] for row in found}
    if "reflection" in values:
        return Base(job, settings["base"], is_base, True, values)
    found = rows(
        connection,
        "select name, value from metrics where job = ? and step = 1 and name not like 'eval/%' and isfinite(value)",
        [job],
    )
    values = {row["name"]: row["value"] for row in found}
    return Base(job, settings["base"], is_base, False, values) if "reflection" in values else None


def _reference(bases: Sequence[Base | None], origin: str) -> Base | None:
    """The first stage that started from the base model, of the same origin if there is one; else the first at all."""
    there = [base for base in bases if base is not None]
    first = [base for base in there if base.is_base]
    same = [base for base in first if base.model == origin]
    return next(iter([*same, *first, *there]), None)


def _stage(
    connection: duckdb.DuckDBPyConnection,
    job: str,
    index: int,
    settings: Mapping[str, Any],
    base: Base | None,
    budget: int,
) -> dict[str, Any]:
    names = _names(connection, job)
    steps = shown_steps(connection, job)
    anchor = f"learning-{index}"
    charts = _Charts(connection, job, names, anchor, steps)
    panels = step_panels(connection, job, steps, budget)
    changes = _changes(connection, job, names, base)
    last_step = max((row["last"] for row in names.values()), default=max(steps, default=0))
    return {
        "job": job,
        "anchor": anchor,
        "settings": settings,
        "last_step": last_step,
        "base": base,
        "changes": changes,
        "sentence": _sentence(changes, last_step, base),
        "learnt": charts.learnt(base),
        "against": charts.against(),
        "health": charts.health(),
        "words": _words(connection, job, names, base),
        "panels": panels,
        "last": _last_values(connection, job),
        "not_finite": sum(row["not_finite"] for row in names.values()),
        "smoothed": last_step > POINTS,
        "no_kl": not charts.moves("kl"),
    }


def _names(connection: duckdb.DuckDBPyConnection, job: str) -> dict[str, dict[str, Any]]:
    """Metrics of a stage by name: the last step, and how many values are no numbers."""
    found = rows(
        connection,
        "select name, max(step) as last, count(*) filter (isfinite(value)) as points, "
        "count(*) filter (value is null or not isfinite(value)) as not_finite, "
        "count(distinct value) filter (isfinite(value)) as different, max(abs(value)) filter (isfinite(value)) as most "
        "from metrics where job = ? group by name order by name",
        [job],
    )
    return {row["name"]: row for row in found}


def _last_values(connection: duckdb.DuckDBPyConnection, job: str) -> list[dict[str, Any]]:
    return rows(
        connection,
        "select name, max(step) as step, arg_max(value, step) as value from metrics where job = ? "
        "group by name order by name like 'eval/%', name",
        [job],
    )


# ------------------------------------------------------------------------------------- start and end


@dataclass(frozen=True)
class Change:
    """A measure at the start and at the end of a stage, and of the base model; None where it is not known."""

    title: str
    metric: str
    share: bool
    base: float | None
    start: float | None
    end: float | None

    def shown(self, value: float | None) -> str:
        return percent(value) if self.share else brief(value)


def _changes(
    connection: duckdb.DuckDBPyConnection, job: str, names: Mapping[str, Any], base: Base | None
) -> dict[str, Any]:
    """Start and end of a stage, on the validation questions where they were asked, else in its own samples."""
    checked = names.get("eval/accuracy", {}).get("points", 0) > 1 and names["eval/accuracy"]["last"] > 0
    found = []
    for title, metric, share in _CHANGES:
        name = f"eval/{metric}" if checked else metric
        # Samples of training differ from step to step in their questions: a tenth of the steps is steadier.
        points = data.curve(connection, name, job, data.MAX_CURVE_POINTS if checked else 10)
        start, end = (points[0][1], points[-1][1]) if points else (None, None)
        of_base = base.values.get(metric) if base else None
        if start is not None or of_base is not None:
            found.append(Change(title, metric, share, of_base, start, end))
    # The same numbers in two columns would say nothing.
    starts_there = base is not None and base.job == job and base.by_eval and checked
    return {"checked": checked, "rows": found, "starts_there": starts_there}


def _sentence(changes: Mapping[str, Any], steps: int, base: Base | None) -> str:
    """What happened, in one sentence."""
    by_metric = {change.metric: change for change in changes["rows"]}
    where = "on the validation questions" if changes["checked"] else "of the samples"
    parts = []
    for metric, what, unit in (
        ("accuracy", f"accuracy {where}", ""),
        ("tokens/reasoning", "the reasoning", " tokens"),
        ("reflection", "reflection words", " per 1,000 tokens"),
        ("language_consistency", "language consistency", ""),
    ):
        change = by_metric.get(metric)
        if change is None or change.end is None:
            continue
        start, beside = change.shown(change.start), ""
        if metric == "reflection" and base is not None:
            if changes["starts_there"]:
                start = f"{start} ({base.name})"
            else:
                beside = f" ({base.name}: {change.shown(change.base)})"
        parts.append(f"{what} from {start} to {change.shown(change.end)}{unit}{beside}")
    if not parts:
        return "No number of this stage has been written yet."
    within = "In one step" if steps == 1 else f"In {number(steps)} steps"
    return f"{within}: {'; '.join(parts)}."


def short_sentence(stage: Mapping[str, Any]) -> str:
    """What a stage came to, for the head of the page."""
    change = next((c for c in stage["changes"]["rows"] if c.metric == "accuracy" and c.end is not None), None)
    if change is None:
        return (
            f"The teacher’s stage {stage['job']} learns by reinforcement. No accuracy has been written yet."
        )
    what = "of the validation questions" if stage["changes"]["checked"] else "of its samples"
    steps = "one step" if stage["last_step"] == 1 else f"{number(stage['last_step'])} steps"
    return (
        f"After {steps} of reinforcement the teacher’s stage {stage['job']} is right in "
        f"{change.shown(change.end)} {what}, {change.shown(change.start)} at the start."
    )


def _words(
    connection: duckdb.DuckDBPyConnection, job: str, names: Mapping[str, Any], base: Base | None
) -> list[dict[str, Any]]:
    """Every reflection word that anybody wrote: per 1,000 tokens of the base model, at the start and at the end.

    A word that was not written has no metric at that step: there it counts as zero.
    """
    found = rows(
        connection,
        """
        with steps as (
            select step, ntile(10) over (order by step) as part from metrics where job = $1 and name = 'reflection'
        ), edges as (
            select 'start' as edge, step from steps where part = 1
            union all select 'end', step from steps where part = (select max(part) from steps)
        )
        select name, edge, sum(value) / (select count(*) from edges e where e.edge = edges.edge) as value
        from metrics join edges using (step)
        where job = $1 and name like 'reflection/%' and isfinite(value) group by name, edge
        """,
        [job],
    )
    values = {(row["name"].removeprefix("reflection/"), row["edge"]): row["value"] for row in found}
    table = []
    for word in REFLECTION_WORDS:
        of_base = base.values.get(f"reflection/{word}", 0.0) if base else None
        start, end = values.get((word, "start"), 0.0), values.get((word, "end"), 0.0)
        if of_base or start or end or f"reflection/{word}" in names:
            table.append({"word": word, "base": of_base, "start": start, "end": end})
    return table


# -------------------------------------------------------------------------------------------- charts


@dataclass
class _Charts:
    """The charts of one stage: pairs of a caption and an SVG."""

    connection: duckdb.DuckDBPyConnection
    job: str
    names: Mapping[str, Any]
    anchor: str
    steps: Mapping[int, str]

    def points(self, name: str, limit: int = POINTS) -> list[tuple[float, float]]:
        if not self.names.get(name, {}).get("points"):
            return []
        return data.curve(self.connection, name, self.job, limit)

    def moves(self, name: str) -> bool:
        """Is it ever anything but zero?"""
        return bool(self.names.get(name, {}).get("most"))

    def pair(self, metric: str, extra: Iterable[Curve] = ()) -> list[Curve]:
        """A metric of the training samples and of the validation questions."""
        return [
            Curve("training", self.points(metric)),
            Curve("validation", self.points(f"eval/{metric}", MAX_CHECKS), 1, dots=True),
            *extra,
        ]

    def chart(
        self,
        caption: str,
        data: Sequence[Curve],
        *,
        shares: bool = False,
        level: tuple[str, float] | None = None,
        marked: str = "",
    ) -> list[tuple[str, Markup]]:
        """A chart, or none where there is nothing to draw."""
        if not any(curve.points for curve in data):
            return []
        marks = self._marks_on(marked, data[0].points) if marked else []
        label = f"{caption} over the steps of {self.job}"
        return [(caption, curves(data, label=label, shares=shares, level=level, marks=marks))]

    def learnt(self, base: Base | None) -> list[tuple[str, Markup]]:
        """Accuracy, length, reflection, language, form and reward."""
        level = None if base is None else (base.name, base.values["reflection"])
        longest = [Curve("95th percentile", self.points("tokens/reasoning_p95"), 2)]
        parts = sorted(name for name in self.names if name.startswith("reward/"))
        rewards = [
            Curve(name.removeprefix("reward/"), self.points(name), index + 1)
            for index, name in enumerate(parts)
        ]
        lengths = self.pair("tokens/reasoning", longest)
        return [
            *self.chart("Accuracy", self.pair("accuracy"), shares=True, marked="accuracy"),
            *self.chart("Reasoning tokens", lengths, marked="tokens/reasoning"),
            *self.chart(
                "Reflection words per 1,000 tokens", self.pair("reflection"), level=level, marked="reflection"
            ),
            *self.chart(
                "Language consistency",
                self.pair("language_consistency"),
                shares=True,
                marked="language_consistency",
            ),
            *self.chart("Tags in order", self.pair("format"), shares=True),
            *self.chart("Reward and its parts", [Curve("reward", self.points("reward")), *rewards]),
        ]

    def against(self) -> list[tuple[str, Markup]]:
        """Length, reflection and language against accuracy."""
        found = []
        for metric, caption, axis in (
            ("tokens/reasoning", "Length", "reasoning tokens"),
            ("reflection", "Reflection", "reflection words per 1,000 tokens"),
            ("language_consistency", "Language", "language consistency"),
        ):
            trained = self._stretches(metric, "accuracy", STRETCHES)
            checks = self._stretches(f"eval/{metric}", "eval/accuracy", MAX_CHECKS)
            if trained or checks:
                svg = trail(
                    trained,
                    checks,
                    label=f"{caption} against accuracy, over the steps of {self.job}",
                    x_label=axis,
                    shares=metric == "language_consistency",
                    marks=self._marks_beside(metric, axis),
                )
                found.append((f"{caption} against accuracy", svg))
        return found

    def health(self) -> list[tuple[str, Markup]]:
        """Accuracy by domain, and how the training itself went."""
        where, domains = "validation", self._domains("eval/accuracy/")
        if not domains:
            where, domains = "training", self._domains("accuracy/")
        by_domain = [
            Curve(
                name.rpartition("accuracy/")[2], self.points(name, MAX_CHECKS), index, where == "validation"
            )
            for index, name in enumerate(domains)
        ]
        groups = [
            Curve("groups of equal rewards", self.points("zero_variance")),
            Curve("masked samples", self.points("masked") if self.moves("masked") else [], 1),
            Curve("cut off", self.points("truncated"), 2),
        ]
        speed = [
            Curve("sampling", self.points("speed/rollout")),
            Curve("learning", self.points("speed/update"), 1),
        ]
        kl = [Curve("training", self.points("kl"))] if self.moves("kl") else []
        return [
            *self.chart(f"Accuracy by domain ({where})", by_domain, shares=True),
            *self.chart("Entropy of the policy", [Curve("training", self.points("entropy"))]),
            *self.chart("KL to the reference", kl),
            *self.chart("Shares that teach nothing", groups, shares=True),
            *self.chart("Tokens a second", speed),
        ]

    def _domains(self, prefix: str) -> list[str]:
        """Domains with the most points; as many as there are colours."""
        there = [name for name, row in self.names.items() if name.startswith(prefix) and row["points"]]
        return sorted(sorted(there, key=lambda name: (-self.names[name]["points"], name))[:SERIES_COLOURS])

    def _stretches(self, measure: str, accuracy: str, parts: int) -> list[Stretch]:
        found = rows(
            self.connection,
            """
            with pairs as (
                select m.step, m.value as x, a.value as y, ntile(?) over (order by m.step) as part
                from metrics m join metrics a on a.job = m.job and a.step = m.step
                where m.job = ? and m.name = ? and a.name = ? and isfinite(m.value) and isfinite(a.value)
            )
            select min(step) as first, max(step) as last, avg(x) as x, avg(y) as y from pairs
            group by part order by part
            """,
            [parts, self.job, measure, accuracy],
        )
        return [Stretch(row["first"], row["last"], row["x"], row["y"]) for row in found]

    def _at_steps(self, name: str) -> dict[int, float]:
        found = rows(
            self.connection,
            "select step, value from metrics where job = ? and name = ? and isfinite(value) "
            "and step in (select unnest(?::bigint[]))",
            [self.job, name, list(self.steps)],
        )
        return {row["step"]: row["value"] for row in found}

    def _mark(self, step: int, x: float, y: float, what: str) -> Mark:
        return Mark(x, y, step, f"{self.anchor}-{step}", f"step {step:,}: {what}. Its samples stand below")

    def _marks_on(self, name: str, line: Sequence[tuple[float, float]]) -> list[Mark]:
        """Points on a curve whose samples are shown; on the line, which may be a mean over several steps."""
        share = name in ("accuracy", "language_consistency")
        values = self._at_steps(name)
        return [
            self._mark(step, step, _height(line, step), percent(value) if share else number(value))
            for step, value in sorted(values.items())
            if line
        ]

    def _marks_beside(self, name: str, axis: str) -> list[Mark]:
        measure, accuracy = self._at_steps(name), self._at_steps("accuracy")
        show = percent if name == "language_consistency" else number
        return [
            self._mark(
                step,
                measure[step],
                accuracy[step],
                f"accuracy {percent(accuracy[step])}, {axis} {show(measure[step])}",
            )
            for step in sorted(measure.keys() & accuracy.keys())
        ]


def _height(line: Sequence[tuple[float, float]], x: float) -> float:
    """Where a line of points is at x."""
    before = [point for point in line if point[0] <= x] or [line[0]]
    after = [point for point in line if point[0] >= x] or [line[-1]]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 if x1 <= x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
