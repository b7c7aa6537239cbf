"""Rows a second of our grader, in its pool of processes, against stock Math-Verify on the same cores.

Two workloads, each graded by both sides in one run:

- `distinct`: different outputs, half long chains of thought, half short ones; our cache of verdicts is off;
- `sampling`: 16 long chains of thought to each question, as rejection sampling has them; the cache is on.

Stock is `verify(parse(gold), parse(output))` of the whole output, with its own time limits, in as many processes.

    python benchmarks/bench_grade.py [--rows 5000] [--workers 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import graded_outputs
from graded_outputs import Output

from filters.verifiers import Case, open_case, settle
from filters.workers import GradeTask, WorkerPool

STOCK_STALL_S = 60.0
"""Stock can hang in code that its alarm does not reach; such a row is given up and counted."""


def ours(rows: Sequence[Output], workers: int, cache: bool) -> list[float]:
    """Milliseconds that each row took, by the pool's own clock."""
    tasks = (GradeTask("math", row.question, row.gold, row.text, style=row.style) for row in rows)
    with WorkerPool(workers, **({} if cache else {"cache": 0})) as pool:
        return [verdict.elapsed_ms for verdict in pool.verify(tasks)]


def stock_one(row: Output) -> float:
    from math_verify import parse, verify

    start = time.perf_counter()
    verify(parse(f"${row.gold}$"), parse(row.output))
    return (time.perf_counter() - start) * 1e3


def _silence() -> None:
    """Stock logs every text that it gives up on."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def stock(rows: Sequence[Output], workers: int) -> list[float]:
    found: list[float] = []
    with multiprocessing.Pool(workers, _silence) as pool:
        results = [pool.apply_async(stock_one, (row,)) for row in rows]
        for result in results:
            try:
                found.append(result.get(STOCK_STALL_S))
            except multiprocessing.TimeoutError:
                found.append(STOCK_STALL_S * 1e3)
    return found


class PeakMemory:
    """Peak of the resident memory of this process and all below it, looked at ten times a second."""

    def __enter__(self) -> PeakMemory:
        self.mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.mib = max(self.mib, sum(map(_resident_mib, _tree(os.getpid()))))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(work: Callable[[], list[float]]) -> dict[str, float]:
    with PeakMemory() as memory:
        start = time.perf_counter()
        times = sorted(work())
        wall = time.perf_counter() - start
    return {
        "rows": len(times),
        "seconds": wall,
        "rows_per_s": len(times) / wall,
        "p50_ms": times[len(times) // 2],
        "p99_ms": times[int(len(times) * 0.99)],
        "slowest_ms": times[-1],
        "peak_mib": memory.mib,
    }


def settled_in_caller(rows: Sequence[Output]) -> float:
    """Share of rows that need no worker: found and decided in linear time, without SymPy."""
    cases = (open_case("math", row.question, row.gold, row.text, style=row.style) for row in rows)
    return sum(not isinstance(case, Case) or settle(case) is not None for case in cases) / len(rows)


def workloads(rows: int) -> dict[str, tuple[list[Output], bool]]:
    sky, l5 = graded_outputs.skythought(), graded_outputs.zeroeval("math-l5")
    half = rows // 2
    mixed = graded_outputs.distinct(sky, half, 0) + graded_outputs.distinct(l5, rows - half, 0)
    return {"distinct": (mixed, False), "sampling": (graded_outputs.by_question(sky, 16, rows, 0), True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"workers": arguments.workers}
    print(
        f"{'workload':9} {'grader':11} {'rows/s':>9} {'p50 ms':>8} {'p99 ms':>9} {'slowest':>9} {'peak MiB':>9}"
    )
    for name, (rows, cache) in workloads(arguments.rows).items():
        sides = {
            "ours": measure(lambda rows=rows, cache=cache: ours(rows, arguments.workers, cache)),
            "math-verify": measure(lambda rows=rows: stock(rows, arguments.workers)),
        }
        for side, m in sides.items():
            print(
                f"{name:9} {side:11} {m['rows_per_s']:9.1f} {m['p50_ms']:8.2f} {m['p99_ms']:9.1f} "
                f"{m['slowest_ms']:9.0f} {m['peak_mib']:9.0f}",
                flush=True,
            )
        ratio = sides["ours"]["rows_per_s"] / sides["math-verify"]["rows_per_s"]
        settled = settled_in_caller(rows)
        print(f"{name:9} ratio       {ratio:9.1f}   settled without a worker: {settled:.1%}")
        result[name] = {**sides, "ratio": ratio, "settled_in_caller": settled}
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
