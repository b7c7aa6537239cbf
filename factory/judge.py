"""Candidates -> verdicts and signals: `filters` run over a run's shards, in killable local processes.

Rules come first. Where the recipe asks for it, a language model then judges what rules cannot
(`factory.judgements`), and prompts without a reference are judged by vote (`factory.vote`). Their verdicts are
derived from stored replies and from the samples, so they are made anew each time, each in one file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from factory.asked import IDS, Candidates, Prompts, Styles
from factory.files import read_json, write_json
from factory.judgements import JudgeCase, LanguageJudge, describe, judge_cases, language_judge
from factory.query import connect, rows, set_policy
from factory.store import Run
from factory.vote import vote_rows
from filters.language import language_of_tag
from filters.signals import SIGNAL_VERSION, Signals
from filters.tags import TagStyle
from filters.verdict import Fault, Outcome, Verdict
from filters.verifiers import KINDS
from filters.verifiers import judge as judging
from filters.workers import Failure, GradeTask, WorkerPool

if TYPE_CHECKING:
    from factory.recipe import Judge, JudgeModel

BATCH = 512
"""Candidates between two writes to the disk."""

NO_GRADER = "none"
"""Verifier of a prompt without a reference: nothing can be said about its answers."""
JUDGED = "judge"
"""Verifier of a prompt whose answers a language model judges, and nothing else."""

_COLUMNS = ["completion", "finish_reason", "template", "completion_tokens"]

LLM_SLICE, VOTE_SLICE = "llm", "vote"
"""Slices of `verdicts` that hold what the judge and the vote say. Rules write the slice "main"."""

COMPARABLE = frozenset({"math", "choice", "span"})
"""Kinds whose reference a judge can compare an answer with, where their rules say nothing or are doubted."""

_REJECTED = frozenset({Outcome.INCORRECT, Outcome.UNPARSABLE})


def judge_candidates(
    run: Run,
    spec: Judge,
    *,
    generation: str,
    n: int,
    afresh: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_asked: Callable[[int, int], None] = lambda done, total: None,
    judge: LanguageJudge | None = None,
) -> dict[str, Any]:
    """Grade and measure every candidate that has no verdict of its grader's version, or no signals.

    Completions are read as they are needed, a batch at a time. What grows with the number of candidates are
    their ids and, where a language model or a vote judges, the answers that are judged.

    Args:
        generation, n: which candidates: those of one way of sampling, the first n of each prompt.
        afresh: forget what rules found before. Also done by itself where the target language changed. Replies
            of a language model are kept: they are paid.
        on_progress: called with the candidates done, and those to do. on_asked: the same for requests to the
            language model.
        judge: the language model to ask; `spec.llm` describes it where it is not given.

    Returns:
        counts: judged now, of every outcome (with the fault, where it is not the prediction's), and what
        asking the language model came to.

    Raises:
        UserError: the language model cannot be loaded, or answers nothing.
    """
    prompts, styles = Prompts(run), Styles()
    asked = Candidates(run, prompts, generation, n)
    _forget_other_settings(run, spec, afresh)
    _forget_derived(run)
    set_policy(run, spec.policy)
    counts: dict[str, Any] = {}
    with WorkerPool(spec.workers, spec.time_limit_s, spec.memory_limit_mb) as pool:
        done = _by_rule(run, spec, pool, asked, prompts, styles, on_progress)
        if spec.vote is not None:
            without = asked.rows(_COLUMNS, lambda _, prompt: prompts.verifier(prompt) == NO_GRADER)
            run.replace("verdicts", VOTE_SLICE, vote_rows(without, styles, spec.vote, pool))
    if spec.llm is not None:
        cases = _cases(run, asked, prompts, styles, spec.llm)
        judged, replies = judge_cases(run, judge or language_judge(spec.llm), cases, on_asked)
        run.replace("verdicts", LLM_SLICE, judged)
        counts = describe(replies, judged)
    return {"judged": done, **_outcomes(run, generation, n), **counts}


def _by_rule(
    run: Run,
    spec: Judge,
    pool: WorkerPool,
    asked: Candidates,
    prompts: Prompts,
    styles: Mapping[str, TagStyle],
    on_progress: Callable[[int, int], None],
) -> int:
    """Verdicts and signals of all candidates that lack one; how many those were."""
    versions = {name: kind.version for name, kind in KINDS.items()} | {NO_GRADER: "1"}
    done = 0
    with run.writer("verdicts") as verdicts, run.writer("signals") as signals:

        def is_open(candidate: str, prompt: str) -> bool:
            kind = prompts.verifier(prompt)
            graded = (candidate, kind, versions[kind]) in verdicts.keys
            return not graded or (candidate, SIGNAL_VERSION) not in signals.keys

        total = sum(is_open(*ids) for ids in asked.ids())
        on_progress(0, total)
        waiting = asked.rows(_COLUMNS, is_open) if total else iter(())
        while batch := list(islice(waiting, BATCH)):
            about = prompts.of(batch)
            graded = _grade(pool, batch, about, styles)
            signals.append(_measure(pool, batch, about, styles, spec.language))
            verdicts.append(graded)
            done += len(batch)
            on_progress(done, total)
    return done


def _forget_derived(run: Run) -> None:
    """Remove what an earlier judge or vote said, so that a run never holds the word of one that is gone."""
    for name in (LLM_SLICE, VOTE_SLICE):
        (run.table_folder("verdicts") / f"{name}.parquet").unlink(missing_ok=True)


def _cases(
    run: Run, asked: Candidates, prompts: Prompts, styles: Mapping[str, TagStyle], spec: JudgeModel
) -> list[JudgeCase]:
    """The candidates whose answers a language model is asked about, in the order of their ids."""
    left_open = _left_open(run, spec.ask)

    def wanted(candidate: str, prompt: str) -> bool:
        return (candidate, prompts.verifier(prompt)) in left_open

    cases = []
    for row in asked.rows(_COLUMNS, wanted):
        prompt = prompts[row["prompt_id"]]
        question = judge_question(prompt)
        if question is None:
            continue
        reference, options = question
        parsed = styles[row["template"]].parse(row["completion"])
        if parsed.answer is not None and len(parsed.answer) <= judging.MAX_CHARS:
            cases.append(
                JudgeCase(
                    row["candidate_id"],
                    prompt["question"],
                    reference,
                    parsed.answer,
                    parsed.answer_span,
                    options,
                )
            )
    return sorted(cases, key=lambda case: case.candidate_id)


def _left_open(run: Run, ask: str) -> set[tuple[str, str]]:
    """(candidate_id, grader) of what the rules of today leave to a language model."""
    columns = ["candidate_id", "grader", "grader_version", "outcome", "fault"]
    found = set()
    for batch in run.batches("verdicts", columns, size=IDS):
        for row in batch.to_pylist():
            kind = KINDS.get(row["grader"])
            if kind is None or kind.version != row["grader_version"]:
                continue
            if _is_asked_about(row["outcome"], row["fault"], ask):
                found.add((row["candidate_id"], kind.name))
    return found


def _is_asked_about(outcome: str, fault: str | None, ask: str) -> bool:
    """A gold that cannot be read and a grader that failed stay what they are: no reply could mend them."""
    if fault in (Fault.GOLD, Fault.SYSTEM):
        return False
    if outcome == Outcome.UNVERIFIABLE:
        return True
    if outcome in _REJECTED:
        return ask in ("rejected", "all")
    return ask == "all" and outcome in (Outcome.CORRECT, Outcome.NOT_ATTEMPTED)


def is_graded(prompt: Mapping[str, Any]) -> bool:
    """Has the prompt a grader?"""
    return bool(prompt["verifier"] != NO_GRADER)


def judge_question(prompt: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]] | None:
    """Reference and options for judging answers to a prompt; None where a judge has nothing to go by."""
    kind = prompt["verifier"]
    options: dict[str, Any] = json.loads(prompt["verifier_args"] or "{}")
    if kind == JUDGED:
        return prompt["reference"], options
    if kind != "short_answer" and kind not in COMPARABLE:
        return None
    golds = _golds(prompt["reference"], options.get("golds") or options.get("aliases") or ())
    if not golds:
        return None
    # Several golds are not one text that says the same as an answer: the judge has to be told that they are golds.
    mode = "short_answer" if kind == "short_answer" or len(golds) > 1 else "reference"
    return "\nor: ".join(golds), {"mode": mode}


def _golds(reference: str | None, more: Iterable[str | Sequence[str]]) -> list[str]:
    """All golds of a prompt as texts, each once. A gold of several spans is one text."""
    texts = [reference or "", *(gold if isinstance(gold, str) else "; ".join(gold) for gold in more)]
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


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


def _grade(
    pool: WorkerPool,
    batch: list[dict[str, Any]],
    prompts: Mapping[str, Mapping[str, Any]],
    styles: Mapping[str, TagStyle],
) -> list[dict[str, Any]]:
    """Rows of `verdicts`, in the batch's order."""
    gradable = [row for row in batch if is_graded(prompts[row["prompt_id"]])]
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
                "target_language": language or language_of_tag(prompts[row["prompt_id"]]["language"]),
            },
        )
        for row in batch
    )
    return list(_signal_rows(batch, pool.map("signals", calls), styles))


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


_OUTCOMES = """
select v.outcome || case when v.fault in ('gold', 'system') then ' (' || v.fault || ')' else '' end as name,
       count(*) as n
from verdict v
join candidates c using (candidate_id)
join prompts p on p.prompt_id = c.prompt_id
where c.generation_id = ? and c.sample_index < ?
group by name order by name
"""


def _outcomes(run: Run, generation: str, n: int) -> dict[str, int]:
    """How often each outcome is a candidate's verdict, by the run's policy: each candidate counts once."""
    with connect(run) as connection:
        return {row["name"]: row["n"] for row in rows(connection, _OUTCOMES, [generation, n])}
