"""Telling a person how far a run is: one live line in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

LINE_SECONDS = 10.0


class Reporter:
    """Prints the stages of a run to standard error; standard output belongs to results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(
            file=sys.stderr, quiet=quiet, highlight=False, emoji=False
        )  # ':zero:' is a stage
        self._status: Status | None = None
        self._last = 0.0

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Announce a stage; inside it, `update` shows its progress."""
        self._last = time.monotonic()
        if not self.console.is_terminal:
            self.say(f"> {title}")
            yield
            return
        with self.console.status(title) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def update(self, text: str) -> None:
        """Show progress: live in a terminal, else at most one line every `LINE_SECONDS`."""
        if self._status is not None:
            self._status.update(text)
        elif time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            self.say(f"  {text}")


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
