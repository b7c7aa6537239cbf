"""An append-only journal: rows reach the disk before anybody is told that they are done.

Every line is a CRC-32 in hex, a space, and the row as JSON. A line that a crash cut short is the last
one, was never acknowledged, and is dropped with a warning; a damaged line anywhere else stops the reader.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from factory.files import disk_errors, fsync_folder
from filters.errors import UserError

log = logging.getLogger(__name__)


def _encode(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=_plain).encode(
        "utf-8", "surrogatepass"
    )
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a journal row holds a {type(value).__name__}")


def _decode(line: bytes) -> dict[str, Any] | None:
    """A row, or None where the checksum does not fit."""
    checksum, _, text = line.partition(b" ")
    try:
        if len(checksum) != 8 or int(checksum, 16) != zlib.crc32(text):
            return None
    except ValueError:
        return None
    row: dict[str, Any] = json.loads(text)
    return row


def read_journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows of a journal, and the length in bytes of its whole part.

    Raises:
        UserError: a line before the last one is damaged; the message gives file and line.
    """
    if not path.exists():
        return [], 0
    data = path.read_bytes()
    rows: list[dict[str, Any]] = []
    offset = 0
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        row = _decode(line)
        if row is None:
            if offset + len(line) + 1 == len(data):
                break  # a torn last line can end in a newline that belongs to a partly written block
            raise UserError(
                f"{path}, line {number} is damaged (its checksum does not fit). Restore the file from a copy, or "
                f"delete that line: what it held will be made again"
            )
        rows.append(row)
        offset += len(line) + 1
    return rows, offset


class Journal:
    """A journal that is open for appending. Opening it drops a torn last line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recovered, whole = read_journal(path)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not path.exists()
            self._file = path.open("ab", buffering=0)
            self._length = whole
            if not fresh and path.stat().st_size > whole:
                log.warning("%s: the last line was cut short by a crash; its row will be made again", path)
                self._cut(whole)
            if fresh:
                fsync_folder(path.parent)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and wait until the disk has them.

        Raises:
            UserError: the disk is full or read-only; what was written before this call stays whole.
        """
        data = memoryview(b"".join(_encode(row) for row in rows))
        with disk_errors(self.path):
            try:
                written = 0
                while written < len(data):
                    written += self._file.write(data[written:])
                os.fsync(self._file.fileno())
            except OSError:
                self._cut(self._length)
                raise
        self._length += len(data)

    def clear(self) -> None:
        """Forget all rows: they stand in a shard now."""
        with disk_errors(self.path):
            self._cut(0)

    def close(self) -> None:
        self._file.close()

    def _cut(self, length: int) -> None:
        self._file.truncate(length)
        os.fsync(self._file.fileno())
        self._length = length
