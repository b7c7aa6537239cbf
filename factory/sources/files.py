"""Prompts from files: JSONL, CSV, Parquet, plain text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.sources.config import FilesSource
from factory.sources.rows import RawRow
from filters.errors import UserError

_LARGEST_FIELD = 2**31 - 1  # csv's own limit is 128 KiB a field, less than a long document


def find_files(path: Path) -> list[Path]:
    """The files that a path stands for, in the order of their names.

    Raises:
        UserError: nothing is there, or nothing of a kind that can be read.
    """
    suffixes = ", ".join(_READERS)
    if path.is_dir():
        inside = (p for p in path.rglob("*") if p.suffix.lower() in _READERS and p.is_file())
        found = sorted(
            p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)
        )
        if not found:
            raise UserError(f"the folder {path} holds no file that ends in {suffixes}")
        return found
    if not path.is_file():
        raise UserError(f"there is no file or folder {path}")
    if path.suffix.lower() not in _READERS:
        raise UserError(f"{path}: prompts are read from files that end in {suffixes}")
    return [path]


def read(spec: FilesSource) -> Iterator[RawRow]:
    """Every row of every file, the bad ones with what is wrong with them.

    Raises:
        UserError: a file that cannot be read at all.
    """
    base = spec.path if spec.path.is_dir() else spec.path.parent
    for path in find_files(spec.path):
        origin = path.relative_to(base).as_posix()
        try:
            for line, values, fault in _READERS[path.suffix.lower()](path, spec.columns.question):
                yield RawRow(str(path), line, values, fault, {"file": origin, "row": line})
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"cannot read {path}: {error}") from error


_Rows = Iterator[tuple[int, dict[str, Any] | None, str | None]]


def _lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Numbered lines that are not blank; None for one that is not UTF-8."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                yield number, None
                continue
            if text:
                yield number, text


def _jsonl(path: Path, question: str) -> _Rows:
    for number, text in _lines(path):
        if text is None:
            yield number, None, "not UTF-8"
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield number, None, f"not JSON: {error}"
            continue
        if isinstance(value, dict):
            yield number, value, None
        else:
            yield number, None, f"a JSON object is wanted, this is a {type(value).__name__}"


def _text(path: Path, question: str) -> _Rows:
    for number, text in _lines(path):
        yield (number, None, "not UTF-8") if text is None else (number, {question: text}, None)


def _csv(path: Path, question: str) -> _Rows:
    csv.field_size_limit(_LARGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, None)
        if header is None:
            return
        if len(set(header)) != len(header):
            raise UserError(f"{path}: two columns have the same name in the header: {', '.join(header)}")
        line = rows.line_num + 1
        for row in rows:
            if len(row) == len(header):
                yield line, dict(zip(header, row, strict=True)), None
            elif row:
                yield line, None, f"{len(row)} fields where the header has {len(header)}"
            line = rows.line_num + 1  # where the next row begins: a quoted field may span lines


def _parquet(path: Path, question: str) -> _Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row, None
    except pa.ArrowException as error:
        raise UserError(f"{path} is no Parquet file, or it is torn: {error}") from error


_READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet, ".txt": _text}
