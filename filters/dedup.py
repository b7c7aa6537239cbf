"""Exact duplicates among texts, after a normalisation that changes nothing a reader would mind."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_SPACE = re.compile(r"\s+")


def normalise(text: str) -> str:
    """NFKC, case folded, runs of white space as one space, ends stripped."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def text_hash(text: str) -> str:
    """Identity of a normalised text: 32 hex digits. Lone surrogates are hashed as they are."""
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).digest()[:16].hex()
