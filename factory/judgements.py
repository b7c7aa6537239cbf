"""Judgements of a language model: requests to a judge, its replies on the disk, and the verdicts they give.

A judgement's id is a hash of the judge (model content, template, sampling) and of the messages. So a request is
paid once: after a crash, in a later run of the stage, and for all candidates that give the same answer. A reply
is on the disk before the next one is awaited. Verdicts are derived from the stored replies.

An engine that fails is asked again; what fails to the end leaves its candidates unverifiable and is written to
`judgement_attempts`. It is never a verdict against a sample.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from distill.chat import parse_template
from factory.engines import Completion, Engine, Failure, SampleRequest
from factory.records import canonical_json, generation_id, judgement_id, sample_seed
from factory.store import Run, TableWriter, now
from filters.errors import UserError
from filters.tags import TagStyle
from filters.verdict import Outcome, Verdict
from filters.verifiers import judge as judging

if TYPE_CHECKING:
    from factory.parts import JudgeEngine

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a request that fails is asked in one run of the stage."""

SEED = 0
"""Replies do not depend on a run's seed, so that runs can share them."""


@dataclass(frozen=True)
class LanguageJudge:
    """A model that judges.

    Attributes:
        name: what its grader is called, behind "judge:".
        identity: hash of the model's content, its template and its sampling; a `generation_id`.
        style: tag style of its replies.
        open: makes the engine. Called only where something is still to be asked.
    """

    name: str
    identity: str
    style: TagStyle
    open: Callable[[], Engine]

    @property
    def grader(self) -> str:
        return f"judge:{self.name}"

    @property
    def version(self) -> str:
        return f"{judging.VERSION}-{self.identity[:8]}"


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """One answer to be judged.

    Attributes:
        candidate_id: whose answer it is.
        question, reference, options: as for `filters.verifiers.judge.requests`.
        answer: the final answer. span: where it stands in the completion, in characters.
    """

    candidate_id: str
    question: str
    reference: str | None
    answer: str
    span: tuple[int, int] | None
    options: Mapping[str, Any]

    def requests(self) -> list[judging.Request]:
        return judging.requests(self.question, self.reference, self.answer, self.options)


@dataclass
class Asked:
    """What asking came to.

    Attributes:
        requests: distinct requests. kept: those answered before. paid: those answered now.
        failed: those without an answer, and why, by judgement id.
    """

    requests: int
    kept: int = 0
    paid: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        return self.kept + self.paid


def language_judge(spec: JudgeEngine) -> LanguageJudge:
    """The judge that a recipe or a suite describes.

    Raises:
        UserError: there is no such model, or its folder is not whole.
    """
    from distill.gemma.folder import ModelFolder, resolve_model

    folder = ModelFolder.open(resolve_model(spec.model))
    template = parse_template(spec.template)

    def open_engine() -> Engine:
        from factory.engines.gemma import GemmaEngine

        return GemmaEngine(
            folder,
            model_name=spec.model,
            template=template,
            prompt_length=spec.prompt_length,
            batch_size=spec.batch_size,
            **spec.sampling.model_dump(),
        )

    identity = generation_id(folder.content_hash, template.to_dict(), spec.sampling.model_dump())
    return LanguageJudge(Path(spec.model).name, identity, template.style, open_engine)


def judge_cases(
    run: Run,
    judge: LanguageJudge,
    cases: Sequence[JudgeCase],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[dict[str, Any]], Asked]:
    """Ask what is not answered yet, and decide every case from the stored replies.

    Args:
        on_progress: called with the requests answered, and all.

    Returns:
        rows of `verdicts`, in the cases' order, and what asking came to.

    Raises:
        UserError: the engine answered nothing at all.
    """
    wanted: dict[str, tuple[int, int]] = {}
    ids: list[list[str]] = []
    for place, case in enumerate(cases):
        keys = [judgement_id(judge.identity, request.messages) for request in case.requests()]
        for number, key in enumerate(keys):
            wanted.setdefault(key, (place, number))
        ids.append(keys)
    asked = _ask(run, judge, cases, wanted, on_progress)
    replies = _stored_replies(run, wanted)
    for key in wanted.keys() - replies.keys():
        replies[key] = judging.Reply(None, asked.failed.get(key, "the engine gave none"))
    rows = [_row(judge, case, keys, replies) for case, keys in zip(cases, ids, strict=True)]
    return rows, asked


def _row(
    judge: LanguageJudge, case: JudgeCase, keys: Sequence[str], replies: Mapping[str, judging.Reply]
) -> dict[str, Any]:
    grade = judging.decide([replies[key] for key in keys], case.options, style=judge.style)
    verdict = Verdict(
        grade.outcome,
        grade.fault,
        case.answer,
        case.span,
        grade.explanation,
        judge.grader,
        judge.version,
        detail={**(grade.detail or {}), "judgements": list(keys)},
    )
    return {"candidate_id": case.candidate_id, **verdict.to_dict()}


def _stored_replies(run: Run, wanted: Collection[str]) -> dict[str, judging.Reply]:
    table = run.read("judgements", ["judgement_id", "reply", "finish_reason"])
    chosen = table.filter(pc.is_in(table["judgement_id"], value_set=pa.array(list(wanted), pa.string())))
    return {
        row["judgement_id"]: judging.Reply(
            row["reply"], "" if row["finish_reason"] == "stop" else "it was cut off at its length limit"
        )
        for row in chosen.to_pylist()
    }


# ---------------------------------------------------------------------------------------------- asking


def _ask(
    run: Run,
    judge: LanguageJudge,
    cases: Sequence[JudgeCase],
    wanted: Mapping[str, tuple[int, int]],
    on_progress: Callable[[int, int], None],
) -> Asked:
    """Get a reply to every request that has none."""
    asked = Asked(len(wanted))
    with run.writer("judgements") as judgements, run.writer("judgement_attempts") as attempts:
        todo = [key for key in wanted if key not in judgements.keys]
        asked.kept = len(wanted) - len(todo)
        on_progress(asked.answered, asked.requests)
        if not todo:
            return asked
        engine = judge.open()
        earlier = Counter(key for key, _ in attempts.keys)
        for attempt in range(1, ATTEMPTS + 1):
            again = _Round(judge, judgements, attempts, asked, attempt, earlier)
            for result in engine.sample(_requests(todo, cases, wanted)):
                place, number = wanted[result.key]
                again.add(result, cases[place].requests()[number])
                on_progress(asked.answered, asked.requests)
            todo = [key for key in todo if key not in again.settled]
            if not todo:
                break
            log.warning("%d requests to the judge failed (attempt %d of %d)", len(todo), attempt, ATTEMPTS)
    _refuse_a_dead_engine(judge, asked, todo)
    return asked


def _requests(
    keys: Sequence[str], cases: Sequence[JudgeCase], wanted: Mapping[str, tuple[int, int]]
) -> Iterator[SampleRequest]:
    """Requests are written when they are asked for, so that they are not all held at once."""
    for key in keys:
        place, number = wanted[key]
        yield SampleRequest(key, cases[place].requests()[number].messages, sample_seed(SEED, key))


def _refuse_a_dead_engine(judge: LanguageJudge, asked: Asked, unanswered: Collection[str]) -> None:
    """An engine that answers nothing is not at work; a whole set would pass as unverifiable.

    Raises:
        UserError: with its last words.
    """
    if not asked.paid and unanswered and len(unanswered) == asked.requests - asked.kept:
        last = next((asked.failed[key] for key in unanswered if key in asked.failed), "nothing")
        raise UserError(
            f"the judge {judge.name} answered none of {len(unanswered)} requests; it said: {last}. Put that right and "
            f"run again: what is judged already is kept"
        )


@dataclass
class _Round:
    """One round of asking. `settled`: requests that need no further round."""

    judge: LanguageJudge
    judgements: TableWriter
    attempts: TableWriter
    asked: Asked
    attempt: int
    earlier: Mapping[str, int]
    settled: set[str] = field(default_factory=set)

    def add(self, result: Completion | Failure, request: judging.Request) -> None:
        """Make a result durable, then count it."""
        if isinstance(result, Failure):
            self._fail(result)
            return
        self.settled.add(result.key)
        self.asked.failed.pop(result.key, None)
        self.asked.paid += self.judgements.append(
            [
                {
                    "judgement_id": result.key,
                    "judge_id": self.judge.identity,
                    "purpose": request.purpose,
                    "request": canonical_json(list(request.messages)),
                    "reply": result.text,
                    "finish_reason": result.finish_reason,
                    "model": self.judge.name,
                    "seed": sample_seed(SEED, result.key),
                    "prompt_tokens": result.prompt_tokens,
                    "completion_tokens": result.completion_tokens,
                    "latency_s": result.latency_s,
                    "created_at": now(),
                }
            ]
        )

    def _fail(self, failure: Failure) -> None:
        self.asked.failed[failure.key] = f"{failure.error_class}: {failure.message}"
        if failure.permanent:  # it fails the same way in every run: one row
            self.settled.add(failure.key)
        number = self.attempt + (0 if failure.permanent else self.earlier.get(failure.key, 0))
        self.attempts.append(
            [
                {
                    "judgement_id": failure.key,
                    "attempt": number,
                    "error_class": failure.error_class,
                    "message": failure.message,
                    "at": now(),
                }
            ]
        )


def describe(asked: Asked, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts for a stage's manifest; those that are zero are left out."""
    reasons = Counter(
        json.loads(row["detail"])["reason"] for row in rows if row["outcome"] == Outcome.UNVERIFIABLE
    )
    counts = {
        "put to the judge": len(rows),
        "requests": asked.requests,
        "replies kept": asked.kept,
        "replies paid": asked.paid,
        "requests failed": len(asked.failed),
        "judge contradicts itself": reasons["disagreement"],
        "judge unreadable": reasons["unreadable"],
    }
    return {name: count for name, count in counts.items() if count or name == "put to the judge"}
