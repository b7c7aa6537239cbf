"""The one interface of all graders: `verify(kind, question, reference, completion, options) -> Verdict`.

Every kind is a module of its own with `VERSION`, `OPTIONS` and `grade`; `KINDS` is the table of them. Adding a
kind adds a line there. Conventions and options are described in `docs/graders.md`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from filters.tags import TAG_STYLES, TagStyle
from filters.verdict import Fault, Outcome, Verdict
from filters.verifiers import choice, math, puzzle
from filters.verifiers.grade import Grade, bad_prediction, shown
from filters.verifiers.options import OptionError, nearest

__all__ = ["KINDS", "Kind", "OptionError", "check_options", "style_named", "verify", "verify_answer"]


@dataclass(frozen=True)
class Kind:
    """One kind of verifier.

    Attributes:
        name: name in recipes, and name of the grader in verdicts.
        version: goes up when any verdict could change, so that stored verdicts are made anew.
        options: option name -> one line about it.
        grade: (question, reference, answer, options) -> Grade.
        required: options that must be given.
        check: raises OptionError where the options' values do not fit.
    """

    name: str
    version: str
    options: Mapping[str, str]
    grade: Callable[[str, str | None, str, Mapping[str, Any]], Grade]
    required: tuple[str, ...] = ()
    check: Callable[[Mapping[str, Any]], None] | None = None


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("math", math.VERSION, math.OPTIONS, math.grade),
        Kind("choice", choice.VERSION, choice.OPTIONS, choice.grade, ("choices",), choice.check),
        Kind("puzzle", puzzle.VERSION, puzzle.OPTIONS, puzzle.grade, ("task", "entry"), puzzle.check),
    )
}


def verify(
    kind: str,
    question: str,
    reference: str | None,
    completion: str,
    options: Mapping[str, Any] | None = None,
    *,
    style: str | TagStyle = "r1",
    truncated: bool = False,
    opened: bool = False,
) -> Verdict:
    """Grade one completion.

    Only the final answer is graded, never the reasoning; a completion without tags is all answer; reasoning
    that is never closed leaves no answer. A truncated completion is always `truncated`: even a complete-looking
    answer may be the beginning of another ("12" of "120").

    Args:
        kind: a name in `KINDS`.
        question: what was asked.
        reference: the gold answer; None where the options hold it (`puzzle`).
        completion: what the model wrote.
        options: options of the kind.
        style: tag style, by name or as data.
        truncated: generation stopped at a length limit.
        opened: the prompt ended with the opening tag of the reasoning.

    Raises:
        OptionError (a ValueError): an unknown kind, style or option, or a value that does not fit: the
            caller's mistake, whatever the text.
    """
    start = time.perf_counter()
    the_kind = _checked(kind, options)
    style = style_named(style)
    if truncated:
        grade = Grade(Outcome.TRUNCATED, "the completion was cut off at its length limit")
        return _verdict(the_kind, grade, start)
    parsed = style.parse(completion, opened=opened)
    if parsed.answer is None or parsed.answer_span is None:
        # A broken gold is reported even so: it is a fact about the prompt, whatever this completion did.
        gold = _guarded(the_kind, question, reference, "", options or {})
        missing = gold if gold.fault is Fault.GOLD else bad_prediction(f"no answer: {parsed.fault}")
        return _verdict(the_kind, missing, start)
    grade = _guarded(the_kind, question, reference, parsed.answer, options or {})
    verdict = _verdict(the_kind, grade, start, parsed.answer_span[0])
    if not parsed.other_answers or verdict.fault in (Fault.GOLD, Fault.SYSTEM):
        return verdict
    return _with_conflict(verdict, parsed.other_answers[-1])


def verify_answer(
    kind: str, question: str, reference: str | None, answer: str, options: Mapping[str, Any] | None = None
) -> Verdict:
    """Grade an answer that is already extracted; `span` counts from its beginning. Raises as `verify`."""
    start = time.perf_counter()
    the_kind = _checked(kind, options)
    return _verdict(the_kind, _guarded(the_kind, question, reference, answer, options or {}), start)


def check_options(kind: str, options: Mapping[str, Any] | None) -> None:
    """Check a kind and its options before any work starts.

    Raises:
        OptionError: names what is unknown and the nearest known name, or what is missing or does not fit.
    """
    _checked(kind, options)


def style_named(style: str | TagStyle) -> TagStyle:
    """The tag style of that name. Raises OptionError, naming the nearest known style."""
    if isinstance(style, TagStyle):
        return style
    if style not in TAG_STYLES:
        raise OptionError(f"no tag style {style!r}{nearest(style, TAG_STYLES)}")
    return TAG_STYLES[style]


def _checked(name: str, options: Mapping[str, Any] | None) -> Kind:
    kind = KINDS.get(name)
    if kind is None:
        raise OptionError(f"no verifier kind {name!r}{nearest(name, KINDS)}")
    options = options or {}
    for option in options:
        if option not in kind.options:
            raise OptionError(f"kind {name!r} has no option {option!r}{nearest(option, kind.options)}")
    for option in kind.required:
        if option not in options:
            raise OptionError(f"kind {name!r} needs option {option!r} ({kind.options[option]})")
    if kind.check is not None:
        kind.check(options)
    return kind


def _guarded(
    kind: Kind, question: str, reference: str | None, answer: str, options: Mapping[str, Any]
) -> Grade:
    """Grade, and report a defect of a grader as a verdict: one odd text must not end a run of a million.

    MemoryError passes: a worker with a memory limit decides about it, and nobody else can go on after it.
    """
    try:
        return kind.grade(question, reference, answer, options)
    except (MemoryError, OptionError):
        raise
    except Exception as error:  # noqa: BLE001
        line = f"the {kind.name} grader failed: {type(error).__name__}: {error}"
        return Grade(Outcome.ERROR, shown(line, 300)[1:-1], Fault.SYSTEM)


def _verdict(kind: Kind, grade: Grade, start: float, offset: int = 0) -> Verdict:
    span = None if grade.span is None else (grade.span[0] + offset, grade.span[1] + offset)
    elapsed_ms = (time.perf_counter() - start) * 1e3
    return Verdict(
        grade.outcome,
        grade.fault,
        grade.extracted,
        span,
        grade.explanation,
        kind.name,
        kind.version,
        elapsed_ms,
    )


def _with_conflict(verdict: Verdict, other: str) -> Verdict:
    return replace(verdict, explanation=f"{verdict.explanation}; an earlier answer block was {shown(other)}")
