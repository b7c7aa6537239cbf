"""Does a text repeat itself? Measures without thresholds, in linear time.

A token is a word, a number, a Han, kana or Thai character, or a punctuation mark. Of a run of more than 30 letters
and digits every character is a token, so that a loop without spaces is seen too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

LONG_NGRAM = 20
"""AM-DeepSeek-R1-Distilled drops a trace with a 20-gram that occurs more than 20 times."""
SHORT_NGRAM = 4
WINDOW = 256
"""Tokens of the windows in which the share of repeated short n-grams is taken: over a whole text that share
grows with the length, also for good prose."""
LOOP_REPEATS = 3

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f]|\w{1,30}(?!\w)|\w|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Repetition:
    """Measures of one text.

    Attributes:
        score: 0..1, the larger of `repeated_share` and `loop_share`.
        repeated_share: in the worst window of `WINDOW` tokens, the share of 4-grams seen before in it.
        loop_share: share of the tokens in a loop at the end of the text: a unit of any length that stands at
            least `LOOP_REPEATS` times in a row (the last one may be cut off); 0 where there is none.
        loop_period: tokens of that unit, 0 where there is none.
        max_ngram_repeats: how often the commonest 20-gram occurs; 0 in texts of fewer tokens.
    """

    score: float
    repeated_share: float
    loop_share: float
    loop_period: int
    max_ngram_repeats: int


def repetition(text: str) -> Repetition:
    """Measure a text; a text without tokens does not repeat itself."""
    ids: dict[str, int] = {}
    tokens = [ids.setdefault(token, len(ids)) for token in _TOKEN.findall(text.lower())]
    share = _repeated_share(tokens)
    # A text that was cut off may end in a torn word, which no loop would contain.
    period, length = max(_loop_at_the_end(tokens), _loop_at_the_end(tokens[:-1]), key=lambda loop: loop[1])
    loop = length / len(tokens) if period else 0.0
    return Repetition(max(share, loop), share, loop, period, _most_repeated(tokens, LONG_NGRAM))


def _repeated_share(tokens: Sequence[int]) -> float:
    worst = 0.0
    last = max(0, len(tokens) - WINDOW)
    starts = [*range(0, last, WINDOW), last]  # the last window ends with the text, where loops are
    for start in starts:
        window = tokens[start : start + WINDOW]
        total = len(window) - SHORT_NGRAM + 1
        if total > 0:
            distinct = len({tuple(window[i : i + SHORT_NGRAM]) for i in range(total)})
            worst = max(worst, 1.0 - distinct / total)
    return worst


def _most_repeated(tokens: Sequence[int], n: int) -> int:
    """Largest count of any n-gram, by a rolling hash of 61 bits."""
    if len(tokens) < n:
        return 0
    modulus, base = (1 << 61) - 1, 1_000_003
    power = pow(base, n, modulus)
    value = 0
    counts: Counter[int] = Counter()
    for place, token in enumerate(tokens):
        value = (value * base + token + 1) % modulus
        if place >= n:
            value = (value - (tokens[place - n] + 1) * power) % modulus
        if place >= n - 1:
            counts[value] += 1
    return max(counts.values())


def _loop_at_the_end(tokens: Sequence[int]) -> tuple[int, int]:
    """(period, tokens covered) of the longest loop that ends the text; (0, 0) without one.

    The Z-function of the reversed text gives, for every shift p, how far the text's end agrees with itself p
    tokens earlier; that length plus p is what a loop of period p covers.
    """
    text = tokens[::-1]
    size = len(text)
    agrees = [0] * size
    left = right = 0
    best = (0, 0)
    for shift in range(1, size):
        length = min(right - shift, agrees[shift - left]) if shift < right else 0
        while shift + length < size and text[length] == text[shift + length]:
            length += 1
        if shift + length > right:
            left, right = shift, shift + length
        agrees[shift] = length
        covered = length + shift
        if covered >= LOOP_REPEATS * shift and covered > best[1]:
            best = (shift, covered)
    return best
