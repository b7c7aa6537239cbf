"""One writer per table and slice: a lock file that names its owner."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.files import TEMPORARY_PREFIX, disk_errors
from filters.errors import UserError


def _process_start(pid: int) -> str | None:
    """When a process of this host was started, so that a reused pid is not taken for the owner.

    None where there is no such process. Hosts without /proc answer "unknown" for a live one.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return "unknown"
        return "unknown"
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


@contextlib.contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs.

    The file is created with its content in one step (a hard link), so nobody sees it half-written. A lock
    whose owner is gone (killed on this host) is taken over.

    Raises:
        UserError: another process holds it; the message names its host and pid.
    """
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start": _process_start(os.getpid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(owner))
        try:
            _acquire(temporary, path, what)
        finally:
            temporary.unlink(missing_ok=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def held_locks(folder: Path) -> list[dict[str, Any]]:
    """Owners of the locks in a folder, with `lock` the name of each; those whose owner died here are left out."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith(TEMPORARY_PREFIX):
            continue
        try:
            owner = json.loads(path.read_text())
        except FileNotFoundError:
            continue  # given back in this moment
        alive = owner["host"] != socket.gethostname() or _process_start(owner["pid"]) == owner["start"]
        if alive:
            found.append({**owner, "lock": path.stem})
    return found


def _acquire(temporary: Path, path: Path, what: str) -> None:
    for _ in range(8):
        try:
            os.link(temporary, path)
        except FileExistsError:
            _refuse_unless_stale(path, what)
        else:
            return
    raise UserError(f"could not take the lock {path}: other processes keep taking it. Try again")


def _refuse_unless_stale(path: Path, what: str) -> None:
    """Remove a lock whose owner is dead; raise for a live or a foreign one."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    try:
        owner = json.loads(text)
        host, pid, start = owner["host"], int(owner["pid"]), owner.get("start")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the lock {path} is unreadable; if no other process writes {what}, remove that file"
        ) from error
    if host != socket.gethostname():
        raise UserError(
            f"{what} is being written by process {pid} on host {host} (since {owner.get('since')}). "
            f"Wait for it; if that process is gone, remove {path}"
        )
    alive = _process_start(pid)
    if alive is not None and (start is None or alive == start):
        raise UserError(
            f"{what} is being written by process {pid} on this host, {host} (since {owner.get('since')}). "
            "Wait for it or stop it first"
        )
    # Two takers may both find it stale: the rename lets one of them win, the other finds the new lock.
    grave = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-stale-{path.name}"
    with contextlib.suppress(FileNotFoundError):
        path.rename(grave)
        if grave.read_text() != text:
            os.link(grave, path)
        grave.unlink()
