"""Tag styles: how a completion is divided into reasoning and answer, and put together again.

A style is data: four strings and a preamble. The parser looks for the reasoning part first and takes the
answer only from what follows it, so nothing a model writes while it thinks can be graded as its answer.
"""

from __future__ import annotations

from dataclasses import dataclass

R1_ZERO_PREAMBLE = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. "
    "The Assistant first thinks about the reasoning process and then gives the User the answer. The reasoning "
    "process and the answer stand inside <think> </think> and <answer> </answer> tags: "
    "<think> reasoning process here </think> <answer> answer here </answer>."
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A completion divided by a tag style.

    Attributes:
        reasoning: text of the reasoning, None where no reasoning tag was found.
        answer: text of the final answer; None where the reasoning was opened and never closed, or where
            the style's answer tags are missing behind the reasoning.
        answer_span: (start, end) of `answer` in the completion, in characters.
        well_formed: every tag of the style exactly once, in order, nothing but white space outside them
            (styles without answer tags: a non-empty answer behind the reasoning).
        fault: None, or one line that says what is not well-formed.
        closed: False where reasoning was opened and never closed.
    """

    reasoning: str | None
    answer: str | None
    answer_span: tuple[int, int] | None
    well_formed: bool
    fault: str | None
    closed: bool = True


@dataclass(frozen=True, slots=True)
class TagStyle:
    """How reasoning and answer are written.

    Attributes:
        name: name in recipes.
        think_open, think_close: strings around the reasoning. They may be the same string twice.
        answer_open, answer_close: strings around the answer; both empty where the answer is whatever
            follows the reasoning.
        gap: text between reasoning and answer when a completion is written.
        pad: text between a tag and what it encloses when a completion is written.
        preamble: text that tells a base model about the format, used by plain (turn-less) templates.
    """

    name: str
    think_open: str
    think_close: str
    answer_open: str = ""
    answer_close: str = ""
    gap: str = "\n"
    pad: str = ""
    preamble: str = ""

    def __post_init__(self) -> None:
        if not self.think_open or not self.think_close:
            raise ValueError(f"tag style {self.name!r}: think_open and think_close must not be empty")
        if bool(self.answer_open) != bool(self.answer_close):
            raise ValueError(f"tag style {self.name!r}: give both answer tags or neither")

    @property
    def tags(self) -> tuple[str, ...]:
        """The distinct tags, in the order in which they appear."""
        present = (self.think_open, self.think_close, self.answer_open, self.answer_close)
        return tuple(dict.fromkeys(tag for tag in present if tag))

    def format(self, reasoning: str | None, answer: str) -> str:
        """Write a completion. `reasoning=None` gives the bare answer (general samples)."""
        if reasoning is None:
            return answer
        p = self.pad
        thought = f"{self.think_open}{p}{reasoning}{p}{self.think_close}"
        if not self.answer_open:
            return f"{thought}{self.gap}{answer}"
        return f"{thought}{self.gap}{self.answer_open}{p}{answer}{p}{self.answer_close}"

    def parse(self, completion: str) -> Parsed:
        """Divide a completion. Without any tag of the style it is all answer."""
        if not any(tag in completion for tag in self.tags):
            return _bare(completion)
        open_at = completion.find(self.think_open)
        if open_at < 0:
            return self._parse_without_opening(completion)
        inner = open_at + len(self.think_open)
        close_at = completion.find(self.think_close, inner)
        if close_at < 0:
            return Parsed(completion[inner:].strip(), None, None, False, "the reasoning is never closed", False)
        reasoning = completion[inner:close_at].strip()
        rest_at = close_at + len(self.think_close)
        before = completion[:open_at].strip()
        return self._parse_answer(completion, reasoning, rest_at, "text before the reasoning" if before else None)

    def _parse_without_opening(self, completion: str) -> Parsed:
        """A chat template may already have written the opening tag, and some models forget it."""
        close_at = completion.find(self.think_close)
        if close_at < 0:
            return self._parse_answer(completion, None, 0, "no reasoning")
        rest_at = close_at + len(self.think_close)
        return self._parse_answer(
            completion, completion[:close_at].strip(), rest_at, "the reasoning is never opened"
        )

    def _parse_answer(self, completion: str, reasoning: str | None, rest_at: int, fault: str | None) -> Parsed:
        rest = completion[rest_at:]
        if not self.answer_open:
            span = _strip_span(completion, rest_at, len(completion))
            if span is None:
                return Parsed(reasoning, None, None, False, fault or "no answer behind the reasoning")
            if fault is None and any(tag in rest for tag in self.tags):
                fault = "a tag appears again behind the reasoning"
            return Parsed(reasoning, completion[span[0] : span[1]], span, fault is None, fault)
        start = rest.find(self.answer_open)
        if start < 0:
            return Parsed(reasoning, None, None, False, fault or f"no {self.answer_open} behind the reasoning")
        inner = rest_at + start + len(self.answer_open)
        end = completion.find(self.answer_close, inner)
        if end < 0:
            return Parsed(reasoning, None, None, False, fault or f"{self.answer_open} is never closed")
        outside = rest[:start] + completion[end + len(self.answer_close) :]
        if fault is None and outside.strip():
            fault = "text or tags outside the reasoning and the answer"
        span = _strip_span(completion, inner, end)
        if span is None:
            return Parsed(reasoning, None, None, False, fault or "the answer is empty")
        answer = completion[span[0] : span[1]]
        parts = answer + (reasoning or "")
        if fault is None and any(tag in parts for tag in self.tags):
            fault = "a tag appears inside the reasoning or the answer"
        return Parsed(reasoning, answer, span, fault is None, fault)


def _strip_span(text: str, start: int, end: int) -> tuple[int, int] | None:
    part = text[start:end]
    stripped = part.strip()
    if not stripped:
        return None
    begin = start + part.index(stripped)
    return begin, begin + len(stripped)


def _bare(completion: str) -> Parsed:
    span = _strip_span(completion, 0, len(completion))
    if span is None:
        return Parsed(None, None, None, False, "the completion is empty")
    return Parsed(None, completion[span[0] : span[1]], span, False, "no tags")


R1_ZERO = TagStyle(
    "r1-zero", "<think>", "</think>", "<answer>", "</answer>", gap=" ", pad=" ", preamble=R1_ZERO_PREAMBLE
)
R1 = TagStyle("r1", "<think>", "</think>", gap="\n", pad="\n")
TUNIX = TagStyle("tunix", "<reasoning>", "</reasoning>", "<answer>", "</answer>")
NOTES = TagStyle("notes", "<reasoning_start>", "<reasoning_end>", "<answer_start>", "<answer_end>")
COLD_START = TagStyle("cold-start", "|special_token|", "|special_token|", gap="")

TAG_STYLES: dict[str, TagStyle] = {style.name: style for style in (R1_ZERO, R1, TUNIX, NOTES, COLD_START)}
