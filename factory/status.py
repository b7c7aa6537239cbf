"""Where a run stands: stages, counts, rates."""

from __future__ import annotations

from typing import Any

from factory.console import duration
from factory.files import read_json
from factory.locks import held_locks
from factory.query import connect, rows
from factory.records import TABLES
from factory.store import Run

_RATES = """
select count(*) as candidates, coalesce(sum(completion_tokens), 0)::bigint as tokens,
       count(*) filter (finish_reason = 'length') as truncated,
       (select count(*) from verdict) as judged,
       (select count(*) from verdict where outcome = 'correct') as correct
from candidates
"""


def run_status(run: Run, *, check: bool = False) -> dict[str, Any]:
    """Stages with their counts and times, rows a table, the state of writers, the main rates.

    Args:
        check: read every file of finished stages again and compare its checksum.

    Raises:
        UserError: a file is missing, torn or (with `check`) changed; the message names it.
    """
    finished = []
    for path in run.manifests():
        manifest = read_json(path)
        run.check_outputs(manifest, content=check)
        finished.append({key: manifest[key] for key in ("stage", "finished_at", "seconds", "counts")})
    finished.sort(key=lambda stage: stage["finished_at"])
    with connect(run) as connection:
        counts = {name: rows(connection, f'select count(*) as n from "{name}"')[0]["n"] for name in TABLES}
        rates = rows(connection, _RATES)[0]
    locks = held_locks(run.lock_folder)
    return {
        "run": str(run.folder),
        "stages": finished,
        "tables": {name: count for name, count in counts.items() if count},
        "rates": rates,
        "writers": locks,
        "checked": check,
    }


def print_status(status: dict[str, Any]) -> None:
    """Print what `run_status` found, for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, emoji=False)
    console.print(f"[bold]{status['run']}[/bold]")
    stages = Table("stage", "took", "counts", show_edge=False)
    for stage in status["stages"]:
        counts = ", ".join(
            f"{v:,} {k}" if isinstance(v, int) else f"{k} {v}" for k, v in stage["counts"].items()
        )
        stages.add_row(stage["stage"], duration(stage["seconds"]), counts)
    console.print(stages if status["stages"] else "no stage is finished yet")
    console.print(
        ", ".join(f"{name} {count:,}" for name, count in status["tables"].items()) or "all tables are empty"
    )
    rates = status["rates"]
    if rates["candidates"]:
        judged = (
            f", {rates['correct'] / rates['judged']:.1%} of the judged correct" if rates["judged"] else ""
        )
        console.print(
            f"{rates['tokens']:,} tokens in {rates['candidates']:,} candidates, "
            f"{rates['truncated'] / rates['candidates']:.1%} cut off{judged}"
        )
    for lock in status["writers"]:
        console.print(
            f"being written: {lock['lock']}, by process {lock['pid']} on {lock['host']} since {lock['since']}"
        )
    if status["checked"]:
        console.print("every file of the finished stages is as it was written")
