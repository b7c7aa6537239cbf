"""Checking of names: refuse the unknown, and say which known one is nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OptionError(ValueError):
    """An unknown kind, option or task, or an option's value that does not fit: the caller's mistake."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(names)}" if len(names) <= 12 else f"; there are {len(names)} others"
