"""Writing to a disk that may be full, with a process that may be killed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filters.errors import UserError

TEMPORARY_PREFIX = ".tmp-"
"""Files that start like this are unfinished; nothing reads them and the next writer removes them."""


@contextlib.contextmanager
def disk_errors(path: Path, *, kept: str = "everything written before is kept") -> Iterator[None]:
    """Turn the errors of a disk into sentences: a full disk, a read-only folder, a missing permission."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full at {place}; {kept}. Free some space and run the same command again"
            ) from error
        if error.errno == errno.EROFS or isinstance(error, PermissionError):
            raise UserError(
                f"cannot write to {place}: {error.strerror}. Choose a folder you may write to"
            ) from error
        raise


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is synced and renamed to `target`, on failure removed.

    A reader sees the old file or the new one, whole, whatever happens in between.
    """
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{target.name}"
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(target)
            fsync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write a JSON file atomically, indented for people."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        UserError: when it is not whole JSON, naming the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Restore it from a copy, or remove it and run again"
        ) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def remove_temporaries(folder: Path) -> None:
    """Remove what an interrupted writer left behind."""
    if folder.is_dir():
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            path.unlink(missing_ok=True)
