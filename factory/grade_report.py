"""What `factory grade` found, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from factory.confusion import Rate

Result = Mapping[str, Any]
_VOTE = {True: "yes", False: "no", None: "–"}


def print_grading(result: Result) -> None:
    """Print outcomes, confusions and where everything was written, to standard output."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    left_out = f"; {result['bad_rows']:,} left out" if result["bad_rows"] else ""
    console.print(f"{result['traces']:,} completions to {result['questions']:,} questions{left_out}")
    _print_outcomes(console, "verdict", result["outcomes"])
    if "second_opinion" in result:
        _print_outcomes(console, "second opinion", result["second_opinion"]["outcomes"])
    if "compare" in result:
        _print_comparison(console, result["compare"])
        console.print(f"disagreements: {result['disagreements']:,}, in {result['disagreements_file']}")
    if "mix" in result:
        console.print(f"mix: {result['mix'].get('reasoning', 0):,} samples, in {result['mix']['files'][0]}")
    console.print(f"verdicts: {result['verdicts']}")
    if result["warning"]:
        console.print(f"\nWARNING: {result['warning']}", style="bold red")


def _print_outcomes(console: Console, title: str, outcomes: Sequence[Result]) -> None:
    table = Table(title, "fault", "completions", "share", "meaning", "for example", show_edge=False)
    for row in outcomes:
        cells = (
            row["outcome"],
            row["fault"] or "",
            f"{row['completions']:,}",
            f"{row['share']:.1%}",
            row["meaning"],
        )
        table.add_row(*cells, Text(row["example"] or "", overflow="fold"))
    console.print()
    console.print(table, soft_wrap=False)
    console.print()


def _print_comparison(console: Console, compared: Result) -> None:
    if len(compared["judges"]) > 2:
        table = Table(*compared["judges"], "completions", show_edge=False)
        for row in compared["votes"]:
            table.add_row(*(_VOTE[row[judge]] for judge in compared["judges"]), f"{row['completions']:,}")
        console.print(table, soft_wrap=False)
        console.print()
    for pair in compared["pairs"]:
        _print_pair(console, pair)
    for word, count in compared["strange_labels"].items():
        console.print(f"a label that says neither right nor wrong: {word!r}, {count:,} times")


def _print_pair(console: Console, pair: Result) -> None:
    judge, against = pair["judge"], pair["against"]
    table = Table("", f"{against}: yes", f"{against}: no", show_edge=False)
    table.add_row(f"{judge}: yes", f"{pair['both_yes']:,}", f"{pair['false_accepts']:,}")
    table.add_row(f"{judge}: no", f"{pair['false_rejects']:,}", f"{pair['both_no']:,}")
    console.print(table, soft_wrap=False)
    for name, title in (
        ("agreement", "agreement"),
        ("false_accept_rate", f"false accepts, of what {against} says is wrong"),
        ("false_reject_rate", f"false rejects, of what {against} says is right"),
    ):
        console.print(f"  {title}: {Rate(**pair[name])}")
    console.print(
        f"  left out, {judge} has no grade: {pair['left_out']:,}; {against} is silent: {pair['unlabelled']:,}"
    )
    console.print()
