"""Texts of others in a page: how much of them is shown."""

from __future__ import annotations


def clip(text: str, limit: int) -> str:
    """Text that takes at most about `limit` bytes in the page; what is left out stands as a number.

    Two thirds of what is kept are the beginning, one third the end: how a text ends matters.
    """
    from markupsafe import escape

    size = len(str(escape(text)).encode())
    if size <= limit:
        return text
    kept = max(len(text) * limit // size, 3)
    head, tail = kept - kept // 3, kept // 3
    return f"{text[:head]}\n[… {len(text) - head - tail:,} characters left out …]\n{text[len(text) - tail :]}"
