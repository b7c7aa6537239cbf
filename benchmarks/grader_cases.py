"""Test cases of other graders, each graded under its own suite's conventions.

    R1_SHARED_DATA=... python benchmarks/grader_cases.py [--json FILE]

Reads `grader_cases/*.jsonl`: rows (gold, prediction, expected) of the test suites of Math-Verify, AReaL, TRL,
reasoning-gym, latex2sympy2 and of format checks. Prints how many are met, and every miss.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parsing_cases

from filters import TAG_STYLES, TagStyle, verify
from filters.verdict import Verdict

DATA = Path(os.environ.get("R1_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
GRADING = ("math-verify", "areal", "trl", "reasoning-gym")
_REASONING_TAGS = TagStyle("reasoning-tags", "<REASONING_START>", "</REASONING_END>")
_PASSED_ON = ("strict", "allow_set_relation_comp", "rel_tol")
_ROUNDING = ("precision", "float_rounding")


@dataclass(frozen=True)
class Outcome:
    """A row and what became of it."""

    row: Mapping[str, Any]
    met: bool
    said: str


def rows(suite: str) -> Iterator[dict[str, Any]]:
    """Rows of a suite; rows whose expectation is known to be wrong are left out."""
    with (DATA / "grader_cases" / f"{suite}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if not row.get("suspect"):
                yield row


def graded(row: Mapping[str, Any]) -> Verdict:
    """Our verdict on an answer-grading row, under its suite's conventions."""
    suite = row["id"].rpartition("-")[0]
    gold, prediction = sourced(row["gold"]), sourced(row["prediction"])
    if suite == "trl":
        return _trl(gold, prediction)
    if suite == "reasoning-gym":
        return _reasoning_gym(row)
    options: dict[str, Any] = {}
    if suite == "areal":
        options["brackets"] = "bracket" in row["kind"]
    given = row.get("options") or {}
    options |= {name: given[name] for name in _PASSED_ON if name in given}
    for name in _ROUNDING:
        if name in given:
            options["precision"] = given[name]
    return verify("math", "", gold, prediction, options)


def sourced(text: str) -> str:
    """A text that the suite computes: the row holds the source of an f-string over the module `math`."""
    if not text.startswith("SRC:"):
        return text
    value: str = eval(text.removeprefix("SRC:"), {"__builtins__": {}}, {"math": math})
    return value


def _trl(gold: str, prediction: str) -> Verdict:
    """TRL grades nothing but a box behind the reasoning; some of its prompts have opened the reasoning."""
    style = _REASONING_TAGS if "<REASONING_START>" in prediction else TAG_STYLES["r1"]
    opened = "</think>" in prediction and "<think>" not in prediction
    return verify("math", "", gold, prediction, {"require_boxed": True}, style=style, opened=opened)


def _reasoning_gym(row: Mapping[str, Any]) -> Verdict:
    """Tasks go to `puzzle` with the task's entry; scalar scorers are options of `math`."""
    way, _, name = row["kind"].partition(":")
    if way == "logic":
        entry = {"question": row.get("question", ""), "answer": row["gold"], **(row.get("entry") or {})}
        return verify(
            "puzzle", "", row["gold"], row["prediction"], {"task": name, "entry": {"metadata": {}, **entry}}
        )
    options: dict[str, Any] = {}
    if name == "float_match":  # it allows 1 %, and 0.01 around zero
        tolerance = (row.get("options") or {}).get("rel_tol", 0.01)
        options = {"rel_tol": tolerance, "abs_tol": tolerance}
    return verify("math", "", row["gold"], row["prediction"], options)


def grade_suites() -> list[Outcome]:
    """Every answer-grading row."""
    results = []
    for suite in GRADING:
        for row in rows(suite):
            verdict = graded(row)
            results.append(
                Outcome(
                    row, verdict.is_correct == row["expected"], f"{verdict.outcome}: {verdict.explanation}"
                )
            )
    return results


def check_formats() -> list[Outcome]:
    """Every format row: are the tags well-formed?"""
    results = []
    for row in rows("format-think"):
        style = TAG_STYLES["r1-zero" if "<answer>" in row["gold"] else "r1"]
        parsed = style.parse(row["prediction"])
        results.append(Outcome(row, parsed.well_formed == row["expected"], parsed.fault or "well-formed"))
    return results


def parse_rows() -> list[Outcome]:
    """Every parsing row: rows with a SymPy text must have its value, the others be refused."""
    return [Outcome(row, *parsing_cases.met(row)) for row in rows("latex2sympy2")]


def table(results: list[Outcome]) -> list[tuple[str, int, int, int, int]]:
    """(suite and kind, met, rows, met among the rows expected false, rows expected false)."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        suite = result.row["id"].rpartition("-")[0]
        kind = re.sub(r":.*", "", result.row["kind"])
        for name in (f"{suite} {kind}", f"{suite} (all)"):
            groups[name]["rows"] += 1
            groups[name]["met"] += result.met
            groups[name]["false"] += not result.row["expected"]
            groups[name]["false met"] += result.met and not result.row["expected"]
    return [(name, c["met"], c["rows"], c["false met"], c["false"]) for name, c in sorted(groups.items())]


def report(title: str, results: list[Outcome]) -> None:
    print(f"\n{title}\n{'':40} met/rows   of those expected false")
    for name, met, number, false_met, false in table(results):
        print(f"{name:40} {met:4}/{number:<4} {false_met:6}/{false}")
    met, false = sum(r.met for r in results), [r for r in results if not r.row["expected"]]
    share = f"{met / len(results):.1%}"
    print(f"{'all':40} {met:4}/{len(results):<4} {sum(r.met for r in false):6}/{len(false)}   {share}")
    for result in results:
        if not result.met:
            row = result.row
            print(f"  {row['id']} expected {row['expected']}: gold {row['gold'][-80:]!r}, "
                  f"prediction {row['prediction'][-80:]!r}\n      {result.said[:200]}")  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path, help="write the figures there")
    given = arguments.parse_args()
    grading, formats = grade_suites(), check_formats()
    report("Answers", grading)
    report("Formats", formats)
    parsing = parse_rows()
    report("Parsing", parsing)
    if given.json:
        figures = {"answers": table(grading), "formats": table(formats), "parsing": table(parsing)}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
