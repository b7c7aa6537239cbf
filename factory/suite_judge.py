"""The judge of a suite: what rules leave open among its samples is put to a language model.

Samples are drawn and stored without it, so several judges grade the same samples. What a judge makes of them are
rows of `eval_candidates` under its own protocol, derived from the stored replies (`factory.judgements`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.chat import parse_template
from factory.console import Reporter
from factory.judge import judge_question
from factory.judgements import JudgeCase, LanguageJudge, describe, judge_cases
from factory.protocol import Protocol, lower_bound, options
from factory.store import Run
from filters.errors import UserError
from filters.tags import TagStyle
from filters.verdict import Outcome, Verdict
from filters.verifiers import judge as judging
from filters.workers import GradeTask, WorkerPool

if TYPE_CHECKING:
    from factory.parts import JudgeEngine

NEED_A_JUDGE = frozenset({"judge", "short_answer"})
"""Kinds of questions whose rules leave answers to a judge."""

JudgeFor = Callable[["JudgeEngine"], LanguageJudge]
"""What a suite says about its judge -> the judge."""


@dataclass(frozen=True)
class SuiteJudge:
    """Who grades what rules leave open, and the settings that it was made from."""

    spec: JudgeEngine
    judge: LanguageJudge

    @property
    def text(self) -> str:
        """For the protocol. The hash is over the model's content, the template and the sampling."""
        s = self.spec.sampling
        top_k = f", top-k {s.top_k}" if s.top_k else ""
        return (
            f"what the rules leave open is judged by {self.judge.name} (hash {self.judge.identity[:12]}, template "
            f"{self.spec.template}, temperature {s.temperature:g}, top-p {s.top_p:g}{top_k}, at most "
            f"{s.max_new_tokens} tokens), and what it cannot say is left out"
        )


def suite_judge(
    spec: JudgeEngine | None, prompts: Sequence[Mapping[str, Any]], sealed: bool, judge_for: JudgeFor
) -> SuiteJudge | None:
    """The judge of these questions; None where nobody is to be asked, or none of them needs it.

    Raises:
        UserError: the suite is sealed, for requests are stored; or there is no such model.
    """
    if spec is None or not any(prompt["verifier"] in NEED_A_JUDGE for prompt in prompts):
        return None
    if sealed:
        raise UserError(
            "no text of this suite may be stored, and requests to a judge are: it cannot be judged"
        )
    return SuiteJudge(spec, judge_for(spec))


def judged_rows(
    run: Run,
    drawn: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, Mapping[str, Any]],
    protocol: Protocol,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Rows of `eval_candidates` under a protocol with a judge, from those that were drawn without it.

    Requests that are answered are never asked again: in a second call only what has no reply yet is.

    Args:
        drawn: rows of `eval_candidates` of one model.
        prompts: by their ids.

    Raises:
        UserError: the judge's model cannot be loaded, or answers nothing at all.
    """
    assert protocol.judge is not None, "there is a judge"
    verdicts = _by_rule(drawn, prompts, parse_template(protocol.template).style)
    cases = [
        case
        for place, (row, verdict) in enumerate(zip(drawn, verdicts, strict=True))
        if (case := _case(str(place), row, verdict, prompts[row["prompt_id"]], protocol)) is not None
    ]
    said, asked = judge_cases(
        run,
        protocol.judge.judge,
        cases,
        lambda done, total: reporter.update(f"eval: {done:,} of {total:,} replies of the judge"),
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in describe(asked, said).items())
    reporter.say(f"  {protocol.suite}: {counts}")
    for row in said:
        verdicts[int(row["candidate_id"])] = Verdict.from_row(row)
    return [
        {**row, "protocol": protocol.id, **verdict_columns(verdict)}
        for row, verdict in zip(drawn, verdicts, strict=True)
    ]


def verdict_columns(verdict: Verdict) -> dict[str, Any]:
    """What `eval_candidates` keeps of a verdict."""
    kept = ("outcome", "fault", "extracted_answer", "explanation", "detail")
    return {key: value for key, value in verdict.to_dict().items() if key in kept}


def _by_rule(
    drawn: Sequence[Mapping[str, Any]], prompts: Mapping[str, Mapping[str, Any]], style: TagStyle
) -> list[Verdict]:
    """What the rules say where nothing that they leave open counts as incorrect."""
    verdicts = [Verdict.from_row(row) for row in drawn]
    again = [
        place
        for place, verdict in enumerate(verdicts)
        if verdict.outcome is Outcome.INCORRECT and lower_bound(prompts[drawn[place]["prompt_id"]])
    ]
    tasks = (_open_task(drawn[place], prompts[drawn[place]["prompt_id"]], style) for place in again)
    with WorkerPool(2) as pool:
        for place, verdict in zip(again, pool.verify(tasks), strict=True):
            verdicts[place] = verdict
    return verdicts


def _open_task(row: Mapping[str, Any], prompt: Mapping[str, Any], style: TagStyle) -> GradeTask:
    return GradeTask(
        prompt["verifier"],
        prompt["question"],
        prompt["reference"],
        row["completion"],
        {**options(prompt), "unmatched": "unverifiable"},
        style,
        truncated=row["finish_reason"] == "length",
    )


def _case(
    name: str, row: Mapping[str, Any], verdict: Verdict, prompt: Mapping[str, Any], protocol: Protocol
) -> JudgeCase | None:
    """What the judge is asked about a sample; None where there is nothing to ask."""
    if verdict.outcome is not Outcome.UNVERIFIABLE or prompt["verifier"] not in NEED_A_JUDGE:
        return None
    question = judge_question(prompt)
    parsed = parse_template(protocol.template).style.parse(row["completion"])
    if question is None or parsed.answer is None or len(parsed.answer) > judging.MAX_CHARS:
        return None
    reference, judge_options = question
    return JudgeCase(name, prompt["question"], reference, parsed.answer, parsed.answer_span, judge_options)
