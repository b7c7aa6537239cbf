"""DuckDB over a run: every table of the data model as a view, and the views that join them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import pyarrow as pa

from factory.files import read_json, write_json
from factory.records import METRICS, MIX, TABLES, Table
from factory.store import Run, check_shard
from filters.errors import UserError
from filters.verifiers import KINDS

if TYPE_CHECKING:
    import duckdb

POLICY_FILE = "verdict.json"

# A grader whose outcome is "unverifiable", or whose gold or system failed, has not judged: it is silent. Where
# nobody could judge, the last to try says why.
_VERDICT = """
create view verdict as
with newest as (
    select * from verdicts
    qualify row_number() over (
        partition by candidate_id, grader order by length(grader_version) desc, grader_version desc) = 1
), ranked as (
    select *, outcome = 'unverifiable' as _passes, _passes or coalesce(fault in ('gold', 'system'), false) as _silent,
           case when grader in ({rules}) then 0 when grader like 'judge:%' then 1 when grader = 'vote' then 2 else 3 end
           as _rank
    from newest
)
select * exclude (_passes, _silent, _rank) from ranked
qualify row_number() over (
    partition by candidate_id order by {policy}_passes, case when _passes then -_rank else _rank end, grader) = 1
"""

POLICIES = {
    "first": "",
    "union": "outcome <> 'correct', ",
    "intersection": """case when not _silent and outcome <> 'correct' then 0
         when _silent and (_rank > 0 or not _passes) then 1
         when not _silent then 2 else 3 end, """,
}
"""What goes first where several graders judged one candidate; docs/data-model.md, "Several graders"."""

_VIEWS = """
create view signal as
    select * from signals
    qualify row_number() over (partition by candidate_id order by length(signal_version) desc, signal_version desc) = 1;
create view prompt_stats as
    select c.prompt_id, c.generation_id, count(*) as n_samples,
           count(*) filter (
               v.outcome <> 'unverifiable' and coalesce(v.fault, '') not in ('gold', 'system')) as n_judged,
           count(*) filter (v.outcome = 'correct') as n_correct
    from candidates c left join verdict v using (candidate_id)
    group by all;
create view curated as
    select d.mix, c.*, p.question, p.reference, p.source, p.domain, v.outcome, v.extracted_answer,
           s.language, s.language_consistency, s.readability, s.repetition, s.reasoning_tokens
    from decisions d
    join candidates c using (candidate_id)
    join prompts p on p.prompt_id = c.prompt_id
    left join verdict v using (candidate_id)
    left join signal s using (candidate_id)
    where d.accepted;
"""


def connect(run: Run) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with a view for each table, `verdict`, `signal`, `prompt_stats` and `curated`.

    Shards are read by DuckDB in place; rows that still stand in journals are added from memory, so a run
    can be queried while it goes on.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    for spec in TABLES.values():
        if spec not in (MIX, METRICS):
            _create_view(connection, spec, run.shards(spec.name), run.pending(spec.name))
    _create_view(connection, METRICS, _metrics_files(run), None)
    _create_mix_view(connection, run)
    rules = ", ".join(f"'{name}'" for name in (*KINDS, "none"))
    connection.execute(_VERDICT.format(rules=rules, policy=POLICIES[policy_of(run)]))
    connection.execute(_VIEWS)
    return connection


def set_policy(run: Run, policy: str) -> None:
    """Store which of several graders' verdicts is a candidate's."""
    write_json(run.folder / POLICY_FILE, {"policy": policy})


def policy_of(run: Run) -> str:
    """The policy that is stored with a run; "first" where there is none.

    Raises:
        UserError: the file names one that is not known.
    """
    path = run.folder / POLICY_FILE
    policy = read_json(path).get("policy") if path.exists() else "first"
    if policy not in POLICIES:
        raise UserError(f"{path}: unknown policy {policy!r}; there is {', '.join(POLICIES)}")
    return str(policy)


def _create_view(
    connection: duckdb.DuckDBPyConnection, spec: Table, files: Sequence[Path], pending: pa.Table | None
) -> None:
    """A view with exactly the columns of `spec`, whatever older files lack."""
    empty = f"_empty_{spec.name}"
    connection.register(empty, spec.schema.empty_table())
    parts = [f"select * from {empty}"]
    for path in files:
        check_shard(path)
    if files:
        parts.append(f"select * from read_parquet({_sql_list(files)}, union_by_name = true)")
    if pending is not None and pending.num_rows:
        connection.register(f"_pending_{spec.name}", pending)
        parts.append(f"select * from _pending_{spec.name}")
    connection.execute(f'create view "{spec.name}" as ' + " union all by name ".join(parts))


def _create_mix_view(connection: duckdb.DuckDBPyConnection, run: Run) -> None:
    connection.register("_empty_mix", MIX.schema.empty_table())
    parts = ["select null::varchar as mix, * from _empty_mix"]
    for folder in sorted((run.folder / "mix").glob("*")):
        files = sorted(folder.glob("part-*.parquet"))
        if files and not folder.name.startswith("."):
            for path in files:
                check_shard(path)
            name = folder.name.replace("'", "''")
            parts.append(
                f"select '{name}' as mix, * from read_parquet({_sql_list(files)}, union_by_name = true)"
            )
    connection.execute("create view mix as " + " union all by name ".join(parts))


def _metrics_files(run: Run) -> list[Path]:
    """Every training job writes its own metrics file; the view gathers them."""
    trained = [
        path
        for kind in ("students", "teacher")
        for path in run.folder.glob(f"{kind}/*/metrics.parquet")
        if ".old-" not in path.parent.name
    ]
    return [*run.shards("metrics"), *sorted(trained)]


def _sql_list(files: Sequence[Path]) -> str:
    quoted = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    return f"[{quoted}]"


def fetch(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
    """Run a query; the result as an Arrow table.

    Raises:
        UserError: with DuckDB's own words, which name the column or the file.
    """
    import duckdb

    try:
        relation = connection.sql(sql, params=list(parameters))
        # A statement without a result (a SET, say) gives no relation.
        return relation.to_arrow_table() if relation is not None else pa.table({})
    except duckdb.Error as error:
        raise UserError(f"the query failed: {error}") from error


def stream(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = (), *, size: int = 1024
) -> Iterator[pa.RecordBatch]:
    """Run a query whose result need not fit into memory; it comes in batches of at most about `size` rows."""
    relation = connection.sql(sql, params=list(parameters))
    # DuckDB 2 has another name for it and warns of the old one.
    read = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch
    yield from read(size)


def rows(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()
) -> list[dict[str, Any]]:
    """Run a query; the result as dicts."""
    result: list[dict[str, Any]] = fetch(connection, sql, parameters).to_pylist()
    return result


def write_result(table: pa.Table, style: Literal["table", "csv", "json"], out: TextIO) -> None:
    """Print a result: a table for people, CSV or JSON lines for programs."""
    if style == "json":
        for row in table.to_pylist():
            out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        return
    if style == "csv":
        writer = csv.writer(out)
        writer.writerow(table.column_names)
        writer.writerows(row.values() for row in table.to_pylist())
        return
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=out, emoji=False)
    shown = RichTable(show_edge=False)
    for column in table.column_names:
        shown.add_column(column, overflow="fold")
    for row in table.slice(0, 200).to_pylist():
        shown.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    console.print(shown)
    if table.num_rows > 200:
        console.print(f"… {table.num_rows - 200} more rows; --format csv or json prints them all")
