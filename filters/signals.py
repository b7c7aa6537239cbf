"""All signals of one completion: measures, never thresholds. Selection decides what they are worth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from filters.language import ForeignSpan, analyse
from filters.readability import readability
from filters.repetition import repetition
from filters.tags import TagStyle
from filters.verifiers import style_named

SIGNAL_VERSION = "1"
"""Goes up when any measure changes; signals are stored under it."""


@dataclass(frozen=True, slots=True)
class Signals:
    """Measures of one completion; the columns of the table `signals` that need no tokenizer.

    Language, readability and repetition are those of the reasoning; of the whole completion where it has none.

    Attributes:
        well_formed, format_fault: is the tag style kept, and if not, what is wrong.
        language: main language (ISO 639-1), None without words.
        language_consistency: words in the target language / words, None without words.
        foreign_spans: stretches in other languages, in characters of the completion.
        readability, longest_paragraph_chars, code_share: see `filters.readability`.
        repetition, max_ngram_repeats: see `filters.repetition`; repetition is its `score`.
        coherence: does the answer follow from the reasoning? Not measured yet: always None.
    """

    well_formed: bool
    format_fault: str | None
    language: str | None
    language_consistency: float | None
    foreign_spans: tuple[ForeignSpan, ...]
    readability: float | None
    longest_paragraph_chars: int
    code_share: float
    repetition: float
    max_ngram_repeats: int
    coherence: float | None = None
    signal_version: str = SIGNAL_VERSION

    def to_dict(self) -> dict[str, Any]:
        """A row of the table `signals`, less the candidate and the token counts."""
        row = asdict(self)
        row["foreign_spans"] = [asdict(span) for span in self.foreign_spans]
        return row


def signals(
    completion: str,
    *,
    style: str | TagStyle = "r1",
    target_language: str | None = None,
    opened: bool = False,
) -> Signals:
    """Measure one completion, in time linear in its length.

    Args:
        completion: what the model wrote.
        style: tag style, by name or as data.
        target_language: language that was asked for; None takes the text's own main language.
        opened: the prompt ended with the opening tag of the reasoning.

    Raises:
        ValueError: an unknown style or language.
    """
    parsed = style_named(style).parse(completion, opened=opened)
    start, end = parsed.reasoning_span or (0, len(completion))
    text = completion[start:end]
    words = analyse(text, target_language)
    layout = readability(text)
    repeats = repetition(text)
    return Signals(
        well_formed=parsed.well_formed,
        format_fault=parsed.fault,
        language=words.language,
        language_consistency=words.consistency,
        foreign_spans=tuple(ForeignSpan(s.start + start, s.end + start, s.language) for s in words.foreign),
        readability=layout.score,
        longest_paragraph_chars=layout.longest_paragraph_chars,
        code_share=layout.code_share,
        repetition=repeats.score,
        max_ngram_repeats=repeats.max_ngram_repeats,
    )
