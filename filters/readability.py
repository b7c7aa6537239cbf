"""How readable is a text? Measures without thresholds.

DeepSeek-R1 dropped "long paragraphs and code blocks" from its reasoning (arXiv 2501.12948, section 2.3.3);
replications found that dropping them can hurt, so these are numbers for a recipe to use or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COMFORTABLE_PARAGRAPH = 1_200
"""Characters of a paragraph up to which the score is not lowered: about 200 English words."""

_FENCE = re.compile(r"^[ \t]*(```|~~~)", re.MULTILINE)
_UNREADABLE = re.compile(r"[^\s\w!-~¡-¿‐-⯿、-〿\uff00-\uffef]|[\ue000-\uf8ff\ufffd]")


@dataclass(frozen=True, slots=True)
class Readability:
    """Measures of one text.

    Attributes:
        score: 0..1, the product of three shares: (what fits into a comfortable paragraph of the longest one)
            × (what is not fenced code) × (characters that are letters, digits, white space, punctuation or
            common symbols). None for a text without any visible character.
        longest_paragraph_chars: length of the longest paragraph outside code; a line break ends a paragraph.
        code_share: share of the visible characters that stand in fenced code.
    """

    score: float | None
    longest_paragraph_chars: int
    code_share: float


def readability(text: str) -> Readability:
    """Measure a text in linear time."""
    visible = _visible(text)
    if not visible:
        return Readability(None, 0, 0.0)
    prose, code = _split_code(text)
    longest = max((len(line.strip()) for line in prose.split("\n")), default=0)
    code_share = min(1.0, _visible(code) / visible)
    paragraphs = min(1.0, COMFORTABLE_PARAGRAPH / longest) if longest else 1.0
    clean = 1.0 - len(_UNREADABLE.findall(text)) / len(text)
    return Readability(paragraphs * (1.0 - code_share) * clean, longest, code_share)


def _split_code(text: str) -> tuple[str, str]:
    """Prose and fenced code. A fence that is never closed runs to the end of the text."""
    prose: list[str] = []
    code: list[str] = []
    place = 0
    opened: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        if opened is None:
            prose.append(text[place : match.start()])
            opened, place = match, match.start()
        elif match.group(1) == opened.group(1):
            end = text.find("\n", match.end())
            end = len(text) if end < 0 else end
            code.append(text[place:end])
            opened, place = None, end
    (prose if opened is None else code).append(text[place:])
    return "\n".join(prose), "\n".join(code)


def _visible(text: str) -> int:
    return sum(map(len, text.split()))
