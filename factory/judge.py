"""Candidates -> verdicts and signals: `filters` run over a run's shards, in killable local processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from distill.chat import parse_template
from factory.files import read_json, write_json
from factory.store import Run, TableWriter
from filters.language import LANGUAGES
from filters.signals import SIGNAL_VERSION, Signals
from filters.tags import TagStyle
from filters.verdict import Fault, Outcome, Verdict
from filters.verifiers import KINDS
from filters.workers import Failure, GradeTask, WorkerPool

if TYPE_CHECKING:
    from factory.recipe import Judge

BATCH = 512
"""Candidates between two writes to the disk."""

NO_GRADER = "none"
"""Verifier of a prompt without a reference: nothing can be said about its answers."""

_COLUMNS = ["candidate_id", "prompt_id", "completion", "finish_reason", "template", "completion_tokens"]
_PROMPT_COLUMNS = ["prompt_id", "question", "reference", "verifier", "verifier_args", "language"]


def judge_candidates(
    run: Run,
    spec: Judge,
    *,
    generation: str,
    n: int,
    afresh: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Grade and measure every candidate that has no verdict of its grader's version, or no signals.

    Args:
        generation, n: which candidates: those of one way of sampling, the first n of each prompt.
        afresh: forget what was found before. Also done by itself where the target language changed.

    Returns:
        counts: judged now, and of every outcome (with the fault, where it is not the prediction's).
    """
    prompts = {row["prompt_id"]: row for row in run.read("prompts", _PROMPT_COLUMNS).to_pylist()}
    styles: dict[str, TagStyle] = {}
    done = 0
    _forget_other_settings(run, spec, afresh)
    with (
        run.writer("verdicts") as verdicts,
        run.writer("signals") as signals,
        WorkerPool(spec.workers, spec.time_limit_s, spec.memory_limit_mb) as pool,
    ):
        asked = _asked(run, prompts, generation, n)
        todo = _unjudged(asked, prompts, verdicts, signals)
        on_progress(0, len(todo))
        rows = iter(todo)
        while batch := list(islice(rows, BATCH)):
            for row in batch:
                styles.setdefault(row["template"], parse_template(row["template"]).style)
            graded = _grade(pool, batch, prompts, styles)
            measured = _measure(pool, batch, prompts, styles, spec.language)
            signals.append(measured)
            verdicts.append(graded)
            done += len(batch)
            on_progress(done, len(todo))
    return {"judged": done, **_outcomes(run, {row["candidate_id"] for row in asked})}


def _forget_other_settings(run: Run, spec: Judge, afresh: bool) -> None:
    """Verdicts and measures depend on settings that are no part of their key; they are made anew under others.

    The note of the settings is written last, so a process killed in between forgets once more.
    """
    note = run.folder / "stages" / "judge.settings"
    settings = {
        "language": spec.language,
        "time_limit_s": spec.time_limit_s,
        "memory_limit_mb": spec.memory_limit_mb,
    }
    before = read_json(note) if note.exists() else settings
    if afresh or before != settings:
        run.clear("verdicts")
        run.clear("signals")
    write_json(note, settings)


def _asked(run: Run, prompts: Mapping[str, Any], generation: str, n: int) -> list[dict[str, Any]]:
    table = run.read("candidates", [*_COLUMNS, "generation_id", "sample_index"])
    mask = pc.and_(pc.equal(table["generation_id"], generation), pc.less(table["sample_index"], n))
    return [row for row in table.filter(mask).select(_COLUMNS).to_pylist() if row["prompt_id"] in prompts]


def _unjudged(
    asked: list[dict[str, Any]],
    prompts: Mapping[str, Mapping[str, Any]],
    verdicts: TableWriter,
    signals: TableWriter,
) -> list[dict[str, Any]]:
    version = {name: kind.version for name, kind in KINDS.items()} | {NO_GRADER: "1"}
    return [
        row
        for row in asked
        if (row["candidate_id"], (kind := prompts[row["prompt_id"]]["verifier"]), version[kind])
        not in verdicts.keys
        or (row["candidate_id"], SIGNAL_VERSION) not in signals.keys
    ]


def _grade(
    pool: WorkerPool,
    batch: list[dict[str, Any]],
    prompts: Mapping[str, Mapping[str, Any]],
    styles: Mapping[str, TagStyle],
) -> list[dict[str, Any]]:
    """Rows of `verdicts`, in the batch's order."""
    gradable = [row for row in batch if prompts[row["prompt_id"]]["verifier"] != NO_GRADER]
    found = pool.verify(_task(row, prompts[row["prompt_id"]], styles) for row in gradable)
    verdicts = {row["candidate_id"]: verdict for row, verdict in zip(gradable, found, strict=True)}
    return [
        {"candidate_id": row["candidate_id"], **verdicts.get(row["candidate_id"], _UNVERIFIABLE).to_dict()}
        for row in batch
    ]


_UNVERIFIABLE = Verdict(
    Outcome.UNVERIFIABLE, None, None, None, "the prompt has no reference to compare with", NO_GRADER, "1"
)


def _task(row: Mapping[str, Any], prompt: Mapping[str, Any], styles: Mapping[str, TagStyle]) -> GradeTask:
    return GradeTask(
        kind=prompt["verifier"],
        question=prompt["question"],
        reference=prompt["reference"],
        completion=row["completion"],
        options=json.loads(prompt["verifier_args"] or "{}"),
        style=styles[row["template"]],
        truncated=row["finish_reason"] == "length",
    )


def _measure(
    pool: WorkerPool,
    batch: list[dict[str, Any]],
    prompts: Mapping[str, Mapping[str, Any]],
    styles: Mapping[str, TagStyle],
    language: str | None,
) -> list[dict[str, Any]]:
    """Rows of `signals`, in the batch's order. A text that cannot be measured in time has no measures."""
    calls = (
        (
            (row["completion"],),
            {
                "style": styles[row["template"]],
                "target_language": language or _known_language(prompts[row["prompt_id"]]["language"]),
            },
        )
        for row in batch
    )
    return list(_signal_rows(batch, pool.map("signals", calls), styles))


def _known_language(tag: str | None) -> str | None:
    """The language of a tag such as "en-US"; None, the text's own main language, for one we cannot tell."""
    language = (tag or "").replace("_", "-").partition("-")[0].lower()
    return language if language in LANGUAGES else None


def _signal_rows(
    batch: list[dict[str, Any]], results: Iterable[Signals | Failure], styles: Mapping[str, TagStyle]
) -> Iterator[dict[str, Any]]:
    for row, result in zip(batch, results, strict=True):
        if isinstance(result, Failure):
            measures: dict[str, Any] = {
                "signal_version": SIGNAL_VERSION,
                "well_formed": styles[row["template"]].parse(row["completion"]).well_formed,
                "format_fault": f"not measured: {result.kind}: {result.detail}",
            }
        else:
            measures = result.to_dict()
        reasoning = reasoning_tokens(row["completion"], row["completion_tokens"], styles[row["template"]])
        yield {
            "candidate_id": row["candidate_id"],
            **measures,
            "reasoning_tokens": reasoning,
            "answer_tokens": row["completion_tokens"] - reasoning,
        }


def reasoning_tokens(completion: str, tokens: int, style: TagStyle) -> int:
    """Tokens of the reasoning: the completion's tokens times the reasoning's share of its characters.

    An estimate, so that imported traces and engines that tell no token ids are measured like all others.
    """
    reasoning = style.parse(completion).reasoning
    if not reasoning or not completion:
        return 0
    return max(1, round(tokens * len(reasoning) / len(completion)))


def _outcomes(run: Run, asked: set[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in run.read("verdicts", ["candidate_id", "outcome", "fault"]).to_pylist():
        if row["candidate_id"] not in asked:
            continue
        ours = row["fault"] in (Fault.GOLD, Fault.SYSTEM)
        key = f"{row['outcome']} ({row['fault']})" if ours else row["outcome"]
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))
