"""Exact duplicates among texts, after a normalisation that changes nothing a reader would mind."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

_SPACE = re.compile(r"\s+")


def normalise(text: str) -> str:
    """NFKC, case folded, runs of white space as one space, ends stripped."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def text_hash(text: str) -> str:
    """Identity of a normalised text: 32 hex digits. Lone surrogates are hashed as they are."""
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).digest()[:16].hex()


def duplicates(texts: Iterable[str]) -> list[int | None]:
    """For each text the index of the first text equal to it after normalisation, None for that first one."""
    first: dict[str, int] = {}
    found: list[int | None] = []
    for index, text in enumerate(texts):
        at = first.setdefault(text_hash(text), index)
        found.append(None if at == index else at)
    return found
