"""Programs a second in the sandbox, and the canonical solutions of HumanEval and MBPP with mutants of them.

    python benchmarks/bench_sandbox.py [--programs 200] [--threads 1 2] [--solutions] [--json FILE]

The peer is `python -I` with nothing around it, started in turn with the sandbox in the same run. `--solutions`
grades every canonical solution in R1_SHARED_DATA, which must be right, and a mutant of each, which must be wrong:
the mutant's function returns a different value of the same type whatever it is called with.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filters import Verdict, verify_answer
from filters.sandbox import Limits, local

DATA = Path(os.environ.get("R1_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "code"
PROGRAM = "print(sum(range(1000)))"
TESTS = {"test_list": ["assert f(1) == 2", "assert f(2) == 4", "assert f(3) == 6"]}

CHANGED = """
def _changed(value):
    if isinstance(value, bool): return not value
    if isinstance(value, (int, float, complex)): return value + 1
    if isinstance(value, str): return value + "~"
    if isinstance(value, (list, tuple)): return value + type(value)(["~"])
    if isinstance(value, (set, frozenset)): return value | {"~"}
    if isinstance(value, dict): return {**value, "~": "~"}
    return 0 if value is None else None
"""


def plain() -> None:
    subprocess.run(["/usr/bin/python3", "-I", "-c", PROGRAM], check=True, capture_output=True)


def script() -> None:
    assert local().run_program(PROGRAM, b"", Limits()).code == 0


def graded() -> None:
    assert verify_answer("code", "", None, "def f(x): return 2 * x", TESTS).is_correct


CASES: Mapping[str, Callable[[], None]] = {
    "python -I, no sandbox": plain,
    "sandbox, a script": script,
    "sandbox, kind `code`, 3 tests": graded,
}


def measure(programs: int, threads: int) -> list[dict[str, Any]]:
    """Every case in turn, in slices, so that a busy machine is busy for all of them."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    spent: dict[str, float] = dict.fromkeys(CASES, 0.0)
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(10):
            for name, run in CASES.items():
                start = time.perf_counter()
                times[name] += pool.map(lambda _, run=run: _timed(run), range(max(1, programs // 10)))
                spent[name] += time.perf_counter() - start
    return [
        {
            "case": name,
            "threads": threads,
            "programs": len(times[name]),
            "per_s": len(times[name]) / spent[name],
            "median_ms": statistics.median(times[name]) * 1e3,
            "p99_ms": sorted(times[name])[int(0.99 * len(times[name]))] * 1e3,
        }
        for name in CASES
    ]


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def solutions() -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """(set, id, options, program) of every canonical solution in Python."""
    for row in _rows("humaneval-python.jsonl"):
        options = {"prompt": row["prompt"], "test": row["test"]}
        yield "humaneval", row["task_id"], options, row["prompt"] + row["canonical_solution"]
    for row in _rows("mbpp.jsonl"):
        options = {"test_list": row["test_list"], "test_setup_code": row["test_setup_code"]}
        yield "mbpp", str(row["task_id"]), options, row["code"]


def _rows(name: str) -> list[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def mutant(program: str, options: Mapping[str, Any]) -> str:
    """The program with its tested function behind one of the same name that changes what it returns. Calls from
    within go to the original, so two changes cannot undo each other."""
    tree = ast.parse(program)
    tested = _tested(tree, options)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == tested:
            node.name = f"_original_{tested}"
        elif isinstance(node, ast.Name) and node.id == tested:
            node.id = f"_original_{tested}"
    wrapper = f"def {tested}(*a, **k): return _changed(_original_{tested}(*a, **k))"
    return "\n".join([ast.unparse(tree), CHANGED, wrapper])


def _tested(tree: ast.Module, options: Mapping[str, Any]) -> str:
    """The function of the program that the tests call: the prompt's last, or the first in an assertion."""
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if prompt := options.get("prompt"):
        in_prompt = [node.name for node in ast.parse(prompt).body if isinstance(node, ast.FunctionDef)]
        return in_prompt[-1]
    calls = [node for node in ast.walk(ast.parse(options["test_list"][0])) if isinstance(node, ast.Call)]
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    return next(name for name in names if name in defined)


def grade_both(program: str, options: Mapping[str, Any]) -> tuple[Verdict, Verdict]:
    """The verdicts of a solution and of its mutant."""
    one, other = (f"```python\n{text}\n```" for text in (program, mutant(program, options)))
    return verify_answer("code", "", None, one, options), verify_answer("code", "", None, other, options)


def check_solutions(threads: int) -> list[dict[str, Any]]:
    """Accepted solutions and rejected mutants of each set; what is not so is printed."""
    counts: dict[str, Counter[str]] = {}
    rows = list(solutions())
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        verdicts = pool.map(lambda row: grade_both(row[3], row[2]), rows)
        for (name, number, _, _), (right, wrong) in zip(rows, verdicts, strict=True):
            count = counts.setdefault(name, Counter())
            count["programs"] += 1
            count["accepted"] += right.is_correct
            count["mutants_rejected"] += wrong.score == 0.0
            if not right.is_correct or wrong.score != 0.0:
                print(name, number, right.explanation, "|", wrong.explanation)
    seconds = time.perf_counter() - start
    print(f"{2 * len(rows)} programs in {seconds:.0f} s with {threads} threads")
    return [{"set": name, **count} for name, count in counts.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=200, help="runs of each case")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--solutions", action="store_true", help="grade the canonical solutions and their mutants"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    speeds = [row for threads in arguments.threads for row in measure(arguments.programs, threads)]
    print(f"{'':32} threads  programs/s  median ms   p99 ms")
    for row in speeds:
        print(
            f"{row['case']:32} {row['threads']:7} {row['per_s']:11.1f} {row['median_ms']:10.1f} {row['p99_ms']:8.1f}"
        )
    checked = check_solutions(max(arguments.threads)) if arguments.solutions else []
    for row in checked:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"speed": speeds, "solutions": checked}, indent=1) + "\n")


if __name__ == "__main__":
    main()
