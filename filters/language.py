"""Which language is a text in, and how much of it stays in that language?

`language_consistency` is the share of target-language words among the words of a text, the measure that
DeepSeek-R1 rewarded (arXiv 2501.12948, section 2.3.2). Filter and reward both call this function.

Words: a run of letters of an alphabet is one word. Han and kana are written without spaces, so a run counts
one word for every two characters, rounded up; Thai, Lao, Khmer and Burmese one for every four. Numbers, code,
formulas, LaTeX, URLs, names of mathematical functions, single Latin letters and short capitals (GCD, DNA) are
no words of any language.

Language of a word: by script; Han beside kana on a line is Japanese; among Latin-script languages by function
words and letters, decided for all words of the text together so that a change of language has a price and a
word without evidence follows its neighbours (Viterbi, linear time).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from filters.language_profiles import EVIDENCE, LATIN_LANGUAGES, MARKED_LETTERS
from filters.verifiers.options import nearest

_SCRIPTS: dict[str, tuple[str, str]] = {
    # script: (characters, language)
    "latin": ("A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff", ""),
    "han": ("\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f\u3005\u3006", "zh"),
    "kana": ("\u3041-\u3096\u309d-\u30ff\u31f0-\u31ff\uff66-\uff9f", "ja"),
    "hangul": ("\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3", "ko"),
    "cyrillic": ("\u0400-\u052f", "ru"),
    "greek": ("\u0370-\u03ff\u1f00-\u1fff", "el"),
    "arabic": ("\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u0750-\u077f", "ar"),
    "hebrew": ("\u05d0-\u05ea\u0591-\u05c7", "he"),
    "devanagari": ("\u0900-\u0963\u0971-\u097f", "hi"),
    "bengali": ("\u0980-\u09e3", "bn"),
    "tamil": ("\u0b80-\u0bd0", "ta"),
    "telugu": ("\u0c00-\u0c63", "te"),
    "thai": ("\u0e01-\u0e4e", "th"),
    "lao": ("\u0e81-\u0ecd", "lo"),
    "khmer": ("\u1780-\u17d3", "km"),
    "burmese": ("\u1000-\u103f", "my"),
    "georgian": ("\u10a0-\u10ff", "ka"),
    "armenian": ("\u0531-\u0587", "hy"),
}
_CHARACTERS_A_WORD = {"han": 2, "kana": 2, "thai": 4, "lao": 4, "khmer": 4, "burmese": 4}
_OTHER_LETTERS = {"cyrillic": ("uk", "іїєґІЇЄҐ"), "arabic": ("fa", "پچژگیک")}
LANGUAGES: tuple[str, ...] = tuple(
    sorted({*LATIN_LANGUAGES, *(language for _, language in _SCRIPTS.values() if language), "uk", "fa"})
)
"""Languages that can be told apart, as ISO 639-1 codes."""

_WORD = re.compile(
    "|".join(
        rf"(?P<{name}>[{letters}]+(?:['’ʼ-][{letters}]+)*)"
        if name == "latin"
        else rf"(?P<{name}>[{letters}]+)"
        for name, (letters, _) in _SCRIPTS.items()
    )
)
_OPENING = re.compile(r"```|`|\$\$|\$|\\\(|\\\[|https?://\S+|www\.\S+")
_CLOSING = {  # opening: (closing, longest content, may hold a line break)
    "```": ("```", 1 << 30, True),
    "`": ("`", 400, False),
    "$$": ("$$", 2000, True),
    "$": ("$", 400, False),
    "\\(": ("\\)", 1000, True),
    "\\[": ("\\]", 2000, True),
}
_MATHS = frozenset(
    {
        *(
            "sin",
            "cos",
            "tan",
            "log",
            "ln",
            "exp",
            "sqrt",
            "mod",
            "gcd",
            "lcm",
            "max",
            "min",
            "lim",
            "det",
            "arcsin",
        ),
        *("arccos", "arctan", "cm", "mm", "km", "kg", "ml", "abs", "pi", "div", "hcf", "lhs", "rhs", "qed"),
    }
)
_SWITCH = 1.3
"""Price of a change of language, in units of one function word's evidence."""


@dataclass(frozen=True, slots=True)
class ForeignSpan:
    """A stretch of words of one language that is not the target: [start, end) in characters."""

    start: int
    end: int
    language: str


@dataclass(frozen=True, slots=True)
class LanguageReport:
    """What a text is written in.

    Attributes:
        language: the language with most words; None where there are no words.
        consistency: share of words in the target language; None where there are no words.
        words: number of words.
        foreign: the stretches that are not in the target language.
    """

    language: str | None
    consistency: float | None
    words: int
    foreign: tuple[ForeignSpan, ...]


@dataclass(slots=True)
class _Word:
    start: int
    end: int
    script: str
    weight: int
    language: str
    text: str


def language_consistency(text: str, target: str) -> float | None:
    """Words in the target language / words; None where the text has no words.

    Raises:
        ValueError: a language that is not in `LANGUAGES`.
    """
    return analyse(text, target).consistency


def language_of_tag(tag: str | None) -> str | None:
    """The language of a tag such as "en-US"; None for one that is not in `LANGUAGES`."""
    language = (tag or "").replace("_", "-").partition("-")[0].lower()
    return language if language in LANGUAGES else None


def analyse(text: str, target: str | None = None) -> LanguageReport:
    """Language, consistency and foreign stretches. `target=None` takes the text's own main language.

    Raises:
        ValueError: a language that is not in `LANGUAGES`.
    """
    if target is not None and target not in LANGUAGES:
        raise ValueError(f"no language {target!r}{nearest(target, LANGUAGES)}")
    words = list(_words(text))
    if not words:
        return LanguageReport(None, None, 0, ())
    _settle_scripts(text, words)
    _settle_latin([word for word in words if word.script == "latin"], target)
    weights: Counter[str] = Counter()
    for word in words:
        weights[word.language] += word.weight
    total = weights.total()
    language = max(weights, key=lambda name: (weights[name], name == target, name))
    wanted = target or language
    return LanguageReport(language, weights[wanted] / total, total, tuple(_foreign(words, wanted)))


def _words(text: str) -> Iterator[_Word]:
    begin = 0
    for start, end in [*_not_words(text), (len(text), len(text))]:
        for match in _WORD.finditer(text, begin, start):
            script = match.lastgroup or ""
            found = match.group()
            if script == "latin" and not _is_latin_word(text, match.start(), match.end(), found):
                continue
            size = _CHARACTERS_A_WORD.get(script, 0)
            weight = -(-len(found) // size) if size else 1
            yield _Word(match.start(), match.end(), script, weight, _SCRIPTS[script][1], found)
        begin = end


def _is_latin_word(text: str, start: int, end: int, word: str) -> bool:
    """False for variables, functions, identifiers, LaTeX commands and what is glued to a digit."""
    if len(word) == 1 or word.lower() in _MATHS or (len(word) <= 5 and word.isupper()):
        return False
    before, after = text[start - 1 : start], text[end : end + 1]
    return (
        before not in ("\\", "_")
        and after not in ("_", "(", "[")
        and not (before.isdecimal() or after.isdecimal())
    )


def _not_words(text: str) -> Iterator[tuple[int, int]]:
    """Spans of code, formulas and addresses. A fence that is never closed runs to the end."""
    place = 0
    while (match := _OPENING.search(text, place)) is not None:
        place = match.end()
        if match.group() not in _CLOSING:
            yield match.span()
            continue
        closing, longest, lines = _CLOSING[match.group()]
        stop = text.find(closing, place, place + longest)
        if stop < 0 and closing == "```":
            stop = len(text)
        if stop < 0 or (not lines and "\n" in text[place:stop]):
            continue
        place = stop + len(closing)
        yield match.start(), min(place, len(text))


def _settle_scripts(text: str, words: list[_Word]) -> None:
    """Languages that share a script and are told apart by letters on the same line."""
    ends = [place for place, character in enumerate(text) if character == "\n"]
    line, begin, lines = 0, 0, []
    for index, word in enumerate(words):
        while line < len(ends) and ends[line] <= word.start:
            line += 1
            lines.append((begin, index))
            begin = index
    lines.append((begin, len(words)))
    for first, last in lines:
        members = words[first:last]
        kana = sum(len(word.text) for word in members if word.script == "kana")
        han = sum(len(word.text) for word in members if word.script == "han")
        japanese = kana * 8 >= han and kana > 0
        for word in members:
            if word.script == "han" and japanese:
                word.language = "ja"
        for script, (language, letters) in _OTHER_LETTERS.items():
            same = [word for word in members if word.script == script]
            if any(letter in word.text for word in same for letter in letters):
                for word in same:
                    word.language = language


def _settle_latin(words: list[_Word], target: str | None) -> None:
    """Viterbi over the Latin-script words. A tie goes to the target, else to English."""
    if not words:
        return
    first = target if target in LATIN_LANGUAGES else "en"
    order = [first, *(language for language in LATIN_LANGUAGES if language != first)]
    scores = {language: (0.0 if language == first else -0.4) for language in order}
    came_from: list[dict[str, str]] = []
    for word in words:
        evidence = _evidence(word.text)
        best = max(order, key=scores.__getitem__)
        floor = scores[best] - _SWITCH
        previous, new = {}, {}
        for language in order:
            stay = scores[language]
            if stay >= floor:
                previous[language], base = language, stay
            else:
                previous[language], base = best, floor
            new[language] = base + evidence.get(language, 0.0)
        scores = new
        came_from.append(previous)
    language = max(order, key=scores.__getitem__)
    for word, previous in zip(reversed(words), reversed(came_from), strict=True):
        word.language = language
        language = previous[language]


def _evidence(word: str) -> dict[str, float]:
    """How strongly one word speaks for each Latin-script language."""
    lower = word.lower().replace("’", "'")
    evidence = dict(EVIDENCE.get(lower, {}))
    if not evidence and "'" in lower:
        evidence = dict(
            EVIDENCE.get(lower.split("'")[0] + "'", {}) or EVIDENCE.get("'" + lower.split("'")[-1], {})
        )
    if not lower.isascii():
        for character in lower:
            for language, weight in MARKED_LETTERS.get(character, {}).items():
                evidence[language] = max(evidence.get(language, 0.0), weight)
    return evidence


def _foreign(words: list[_Word], target: str) -> Iterator[ForeignSpan]:
    current: ForeignSpan | None = None
    for word in words:
        if word.language == target:
            if current is not None:
                yield current
            current = None
        elif current is not None and current.language == word.language:
            current = ForeignSpan(current.start, word.end, word.language)
        else:
            if current is not None:
                yield current
            current = ForeignSpan(word.start, word.end, word.language)
    if current is not None:
        yield current
