"""What a training folder holds beside weights: manifest, metrics, lock. No JAX here.

OUT/train.json        what is trained, on what, from what, and how far it is; written whole or not at all
OUT/metrics.jsonl     every number as it comes; append-only while the job runs
OUT/metrics.parquet   the same, folded at the end (columns of the table `metrics`)
OUT/base/             config.json and tokenizer of the student, so that checkpoints can be exported alone
OUT/checkpoints/N/    model and optimiser after N optimiser steps
OUT/model/            the finished model, an HF folder
OUT/best/             the model of the best validation between the first and the last; best.json tells its step
OUT/adapter/          adapters alone, where only they were trained, as PEFT reads them
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from distill.reporting import Sink
from filters.errors import DiskFull, UserError

MANIFEST = "train.json"
JOURNAL = "metrics.jsonl"
METRICS = "metrics.parquet"
BASE = "base"
CHECKPOINTS = "checkpoints"
MODEL = "model"
ADAPTER = "adapter"
BEST = "best"
BEST_STEP = "best.json"
_FULL = re.compile(r"No space left on device|Disk quota exceeded|os[ _]error(_code)?[ =]'?(28|122)\b")
"""How orbax and safetensors say, in exceptions of their own, that a disk is full (ENOSPC, EDQUOT)."""
ELAPSED = "speed/elapsed"
"""Name of `Journal.elapsed` when a row was written; rows of a validation have it behind "eval/"."""
FORMAT = 1
"""Version of the manifest; a newer one is refused."""


def write_atomically(file: Path, text: str) -> None:
    """Write a file whole: temporary name, fsync, rename."""
    temporary = file.with_name(f".{file.name}.tmp-{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of a training folder, None where there is none yet.

    Raises:
        UserError: it is no JSON, or a newer version wrote it.
    """
    file = out / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = int(manifest["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not the manifest of a training folder: {error}") from error
    if version > FORMAT:
        raise UserError(f"{file} was written by a newer version (format {version}, this one knows {FORMAT})")
    return manifest


def write_manifest(out: Path, manifest: Mapping[str, Any]) -> None:
    write_atomically(
        out / MANIFEST, json.dumps({"format": FORMAT, **manifest}, indent=2, ensure_ascii=False) + "\n"
    )


def write_best_step(out: Path, step: int | None) -> None:
    """Say of which step OUT/best is; None while it is written."""
    write_atomically(out / BEST_STEP, json.dumps({"step": step}) + "\n")


def holds_best_of(out: Path, step: int | None) -> bool:
    """Is OUT/best the model of that step? Folders of older versions do not tell, and are believed."""
    if step is None or not (out / BEST).is_dir():
        return False
    file = out / BEST_STEP
    return not file.is_file() or json.loads(file.read_text(encoding="utf-8"))["step"] == step


def forget_best(out: Path) -> None:
    shutil.rmtree(out / BEST, ignore_errors=True)
    (out / BEST_STEP).unlink(missing_ok=True)


def checkpoint_steps(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints in a folder of them, ascending. They appear whole, under their number."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(entry.name) for entry in checkpoints.iterdir() if entry.name.isdigit())


@contextmanager
def disk_faults(out: Path, then: str = "the same command goes on from the last checkpoint") -> Iterator[None]:
    """Say in one sentence what the disk refused.

    Args:
        then: what happens where there is space again.

    Raises:
        UserError: the folder cannot be written; `DiskFull`: the disk is full.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        elsewhere = _elsewhere(error, out)
        if number in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(str(error)):
            raise DiskFull(f"the disk of {elsewhere or out} is full; free some space, and {then}") from error
        if number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR):
            reason = os.strerror(number)
            if elsewhere is not None:
                raise UserError(f"{elsewhere} cannot be read or written ({reason})") from error
            raise UserError(f"{out} cannot be written ({reason}); choose another folder") from error
        raise


def _elsewhere(error: Exception, out: Path) -> Path | None:
    """The file that an error names, where it is neither in a folder, nor above it, nor beside it, where it is built."""
    name = error.filename if isinstance(error, OSError) else None
    if not isinstance(name, str | os.PathLike):
        return None
    file, place = Path(name).absolute(), out.absolute()
    if file.is_relative_to(place) or place.is_relative_to(file):
        return None
    building = file.is_relative_to(place.parent) and file.relative_to(place.parent).parts[0].startswith(".")
    return None if building else file


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make and hold a training folder; the lock goes with the process, however it ends.

    Raises:
        UserError: another process trains there; names its host and pid.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            owner = stream.read().strip() or "unknown"
            raise UserError(
                f"{out} is being trained by another process ({owner}); wait for it or stop it"
            ) from error
        stream.truncate(0)
        stream.write(f"host {socket.gethostname()}, pid {os.getpid()}\n")
        stream.flush()
        yield


class Journal:
    """The append-only record of a job's numbers.

    A row is in the operating system's hands when `add` returns, so a killed process loses none; `sync` puts
    them on the disk. Rows are keyed by (step, name) and never written twice.

    Attributes:
        sinks: told of every new row too, see `distill.reporting`.

    Args:
        writes: False in a process beside the one that writes; it keeps the same rows, in memory alone.
    """

    def __init__(self, out: Path, job: str, *, writes: bool = True) -> None:
        self._writes = writes
        self._began, self._before = time.monotonic(), 0.0
        self._file = out / JOURNAL
        self._parquet = out / METRICS
        self._job = job
        self._rows: dict[tuple[int, str], tuple[float, str]] = {}
        self._stream: IO[str] | None = None
        self.sinks: list[Sink] = []

    def open(self, restored_step: int) -> None:
        """Go on behind a checkpoint: rows of later steps are dropped, for they will be made again."""
        self.read()
        self._rows = {key: row for key, row in self._rows.items() if key[0] <= restored_step}
        if self._writes:
            write_atomically(self._file, "".join(self._line(*key, *row) for key, row in self._rows.items()))
        self._stream = self._file.open("a", encoding="utf-8") if self._writes else io.StringIO()
        worked = [value for (_, name), (value, _) in self._rows.items() if name.endswith(ELAPSED)]
        self._before = max(worked, default=0.0)

    @property
    def elapsed(self) -> float:
        """Seconds of work: since this journal was made, and before the checkpoint behind which it goes on.

        Work that is done again because its process died counts once, and nothing counts between two processes.
        """
        return self._before + time.monotonic() - self._began

    def read(self) -> None:
        """Read what earlier processes wrote.

        Raises:
            UserError: a line that no interrupted append explains.
        """
        if not self._file.is_file():
            return
        lines = self._file.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines[:-1], 1):  # what stands behind the last newline is a torn append
            try:
                row = json.loads(line)
                self._rows[(row["step"], row["name"])] = (row["value"], row["at"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self._file}, line {number} is damaged: {error}") from error

    def add(self, step: int, values: Mapping[str, float]) -> None:
        if self._stream is None:
            raise RuntimeError("the journal is not open")
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        new = {name: value for name, value in values.items() if (step, name) not in self._rows}
        for name, value in new.items():
            self._rows[(step, name)] = (value, at)
            self._stream.write(self._line(step, name, value, at))
        self._stream.flush()
        for sink in self.sinks:
            sink.add(step, new)

    def has(self, step: int, name: str) -> bool:
        return (step, name) in self._rows

    def last(self, name: str) -> float | None:
        """Latest value of a number, None where there is none."""
        steps = [step for step, other in self._rows if other == name]
        return self._rows[(max(steps), name)][0] if steps else None

    def column(self, name: str) -> dict[int, float]:
        """All values of a number, by step."""
        return {step: value for (step, other), (value, _) in self._rows.items() if other == name}

    def values(self, step: int) -> dict[str, float]:
        """All numbers of a step, by name."""
        return {name: value for (other, name), (value, _) in self._rows.items() if other == step}

    def sync(self) -> None:
        if self._stream is not None and self._writes:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        if self._stream is not None:
            self.sync()
            self._stream.close()
            self._stream = None
            for sink in self.sinks:
                sink.close()

    def fold(self) -> Path:
        """Write metrics.parquet: job, step, name, value, at; ordered by step and name."""
        if not self._writes:
            return self._parquet
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(
            [
                pa.field("job", pa.string(), nullable=False),
                pa.field("step", pa.int64(), nullable=False),
                pa.field("name", pa.string(), nullable=False),
                pa.field("value", pa.float64()),
                pa.field("at", pa.timestamp("us", tz="UTC")),
            ],
            metadata={"r1_factory.table": "metrics", "r1_factory.schema_version": "1"},
        )
        rows = [
            {"job": self._job, "step": step, "name": name, "value": value, "at": datetime.fromisoformat(at)}
            for (step, name), (value, at) in sorted(self._rows.items())
        ]
        temporary = self._parquet.with_name(f".{self._parquet.name}.tmp-{os.getpid()}")
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")
        temporary.replace(self._parquet)
        return self._parquet

    @staticmethod
    def _line(step: int, name: str, value: float, at: str) -> str:
        return json.dumps({"step": step, "name": name, "value": value, "at": at}) + "\n"
