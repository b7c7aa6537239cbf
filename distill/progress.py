"""How a person follows a training run: a live line in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from distill.train_result import Progress

LINE_SECONDS = 5.0


class TrainingDisplay:
    """Shows progress on standard error; standard output belongs to results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, highlight=False, emoji=False)
        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=None, numbers="compiling")
        self._last_line = 0.0

    def __enter__(self) -> TrainingDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def update(self, progress: Progress) -> None:
        numbers = describe(progress)
        self._bar.update(self._task, completed=progress.step, total=progress.steps, numbers=numbers)
        last = progress.step == progress.steps
        if not self.console.is_terminal and (last or time.monotonic() - self._last_line >= LINE_SECONDS):
            self._last_line = time.monotonic()
            self.say(f"step {progress.step}/{progress.steps}  {numbers}")


def describe(progress: Progress) -> str:
    """Loss, learning rate, speed and time to go on one line."""
    parts = [f"loss {progress.loss:.4f}", f"lr {progress.learning_rate:.2e}"]
    if progress.eval_loss is not None:
        parts.insert(1, f"validation {progress.eval_loss:.4f}")
    if progress.accuracy is not None:
        parts.append(f"accuracy {progress.accuracy:.1%}")
    if progress.eta_s is not None:
        minutes, seconds = divmod(round(progress.eta_s), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
        parts += [f"{progress.tokens_per_second:,.0f} tokens/s", f"{clock} to go"]
    return "  ".join(parts)
