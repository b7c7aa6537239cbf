"""A run's folder: tables as Parquet shards, journals of what is not folded yet, and stage manifests.

    RUN/run.json                      format, schema version
    RUN/recipe.yaml                   the resolved recipe
    RUN/stages/NAME.json              a stage is done when this is there
    RUN/tables/TABLE/SLICE-000000.parquet
    RUN/journal/TABLE/SLICE.jsonl     finished rows that no shard holds yet
    RUN/locks/TABLE.SLICE.json        who writes there
    RUN/mix/NAME/part-000000.parquet
    RUN/students/NAME/                what `distill train` writes
    RUN/report.html

The file system is the truth about progress. A shard appears by a rename and never changes afterwards.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from factory.files import (
    TEMPORARY_PREFIX,
    atomic_path,
    disk_errors,
    read_json,
    remove_temporaries,
    sha256_of,
    write_json,
)
from factory.journal import Journal, read_journal
from factory.locks import lock
from factory.records import SCHEMA_VERSION, TABLES, Table
from filters.errors import UserError

FORMAT = "r1-factory run"
SHARD_ROWS = 20_000
_READ_BYTES = 2**20
_SLICE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._=-]*$")


class Run:
    """A run's folder, opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> Run:
        """Open a run, making its folder where there is none.

        Raises:
            UserError: the folder holds something else, cannot be written, or was made by a newer version.
        """
        if (folder / "run.json").exists():
            return cls.open(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; choose a folder for the run")
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise UserError(
                f"{folder} is not empty and is not a run (no run.json). Choose another folder with --run"
            )
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / "run.json",
            {"format": FORMAT, "schema_version": SCHEMA_VERSION, "created_at": datetime.now(UTC).isoformat()},
        )
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open an existing run.

        Raises:
            UserError: no run there, or one that a newer version of this program made.
        """
        marker = folder / "run.json"
        if not marker.exists():
            raise UserError(
                f"{folder} is not a run: it has no run.json. `factory run RECIPE --run {folder}` makes one"
            )
        info = read_json(marker)
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise UserError(f"{marker} does not describe a run of this program")
        version = info.get("schema_version")
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise UserError(
                f"{folder} was made by a newer version of this program (schema {version}; this one reads up to "
                f"{SCHEMA_VERSION}). Upgrade with: pip install -U r1-factory"
            )
        return cls(folder)

    # ---------------------------------------------------------------- tables

    def table_folder(self, name: str) -> Path:
        return self.folder / "tables" / TABLES[name].name

    def shards(self, name: str) -> list[Path]:
        """Finished shards of a table, in the order of their names."""
        folder = self.table_folder(name)
        return (
            sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("."))
            if folder.is_dir()
            else []
        )

    def journals(self, name: str) -> list[Path]:
        return sorted((self.folder / "journal" / TABLES[name].name).glob("*.jsonl"))

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole table: its shards and what still stands in journals. Columns are matched by name.

        Raises:
            UserError: a file is torn, corrupt or of a newer schema; the message names it.
        """
        spec = TABLES[name]
        wanted = columns or spec.schema.names
        schema = pa.schema([spec.schema.field(column) for column in wanted])
        parts = [_read_shard(path, spec, wanted) for path in self.shards(name)]
        pending = self.pending(name)
        if pending.num_rows:
            parts.append(pending.select(wanted))
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def batches(self, name: str, columns: list[str], *, size: int) -> Iterator[pa.RecordBatch]:
        """The rows of `read`, in its order, at most `size` at once: what this takes does not grow with the table.

        Raises:
            UserError: as `read`.
        """
        for path in self.shards(name):
            yield from _shard_batches(path, TABLES[name], columns, size)
        yield from self.pending(name).select(columns).to_batches(size)

    def pending(self, name: str) -> pa.Table:
        """Rows of all journals that no shard holds yet. (A crash can leave a row in both.)"""
        spec = TABLES[name]
        rows = [row for path in self.journals(name) for row in read_journal(path)[0]]
        known = self.keys(name, journal=False) if rows else set()
        fresh = [decode_row(spec, row) for row in rows if row_key(spec, row) not in known]
        return spec.rows_to_arrow(fresh).replace_schema_metadata(None)

    def keys(self, name: str, *, journal: bool = True) -> set[Any]:
        """Keys of all rows: the key column's values, or tuples where the key has several columns."""
        spec = TABLES[name]
        keys: set[Any] = set()
        for path in self.shards(name):
            table = _read_shard(path, spec, list(spec.key))
            columns = [table.column(column).to_pylist() for column in spec.key]
            keys.update(columns[0] if len(columns) == 1 else zip(*columns, strict=True))
        if journal:
            for path in self.journals(name):
                keys.update(row_key(spec, row) for row in read_journal(path)[0])
        return keys

    def writer(self, name: str, part: str = "main", *, shard_rows: int = SHARD_ROWS) -> TableWriter:
        """A writer for one slice of a table; use it as a context manager."""
        return TableWriter(self, TABLES[name], part, shard_rows)

    def clear(self, name: str) -> None:
        """Remove all rows of a table that can be derived again."""
        for path in [*self.journals(name), *self.shards(name)]:
            path.unlink()

    def drop(self, name: str, part: str) -> None:
        """Remove what a writer of one slice has written: rows of a training that begins anew."""
        _check_slice(part)
        own = re.compile(re.escape(part) + r"-\d{6,}")
        for path in [*self.journals(name), *self.shards(name)]:
            if path.stem == part or own.fullmatch(path.stem):
                path.unlink()

    def replace(self, name: str, part: str, rows: Iterable[Mapping[str, Any]] | pa.Table) -> Path:
        """Write one slice of a table anew, in one step: for what is derived and can be derived again."""
        _check_slice(part)
        spec = TABLES[name]
        table = rows if isinstance(rows, pa.Table) else spec.rows_to_arrow(rows)
        folder = self.table_folder(name)
        remove_temporaries(folder)
        target = folder / f"{part}.parquet"
        write_parquet(target, table)
        return target

    # ------------------------------------------------------------- manifests

    def manifest_path(self, stage: str) -> Path:
        return self.folder / "stages" / f"{stage.replace(':', '.')}.json"

    def manifests(self) -> list[Path]:
        """Files of the manifests of all finished stages."""
        found = (self.folder / "stages").glob("*.json")
        return sorted(path for path in found if not path.name.startswith(TEMPORARY_PREFIX))

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """The manifest of a finished stage, None where the stage is not done."""
        path = self.manifest_path(stage)
        if not path.exists():
            return None
        value: dict[str, Any] = read_json(path)
        return value

    def check_outputs(self, manifest: Mapping[str, Any], *, content: bool = False) -> None:
        """See that every file a finished stage made is still there, as long as it was (and as it was).

        Raises:
            UserError: names the first file that is missing, torn or, with `content`, changed.
        """
        stage = manifest["stage"]
        for output in manifest["outputs"]:
            path = self.folder / output["path"]
            again = f"Restore it from a copy, or make it again with --from {stage}"
            if not path.exists():
                raise UserError(f"{path}, made by stage {stage}, is missing. {again}")
            if path.stat().st_size != output["bytes"]:
                raise UserError(
                    f"{path}, made by stage {stage}, has {path.stat().st_size} bytes instead of {output['bytes']}: "
                    f"it is torn or was changed. {again}"
                )
            if content and sha256_of(path) != output["sha256"]:
                raise UserError(f"{path}, made by stage {stage}, is corrupt: its checksum changed. {again}")

    def describe_outputs(self, paths: Iterable[Path]) -> list[dict[str, Any]]:
        """Path, size and checksum of files, for a manifest."""
        return [
            {"path": str(p.relative_to(self.folder)), "bytes": p.stat().st_size, "sha256": sha256_of(p)}
            for p in sorted(set(paths))
        ]

    def finish_stage(self, stage: str, manifest: Mapping[str, Any]) -> None:
        write_json(self.manifest_path(stage), manifest)
        self._stopped_path(stage).unlink(missing_ok=True)

    def stop_stage(self, stage: str, fingerprint: str, seconds: float) -> None:
        """Note how long an unfinished stage has worked so far, over all its attempts."""
        write_json(self._stopped_path(stage), {"fingerprint": fingerprint, "seconds": round(seconds, 3)})

    def stopped_seconds(self, stage: str, fingerprint: str) -> float:
        """Seconds that earlier attempts at the same work took; those that ended by SIGKILL left no note."""
        path = self._stopped_path(stage)
        found = read_json(path) if path.exists() else {}
        return float(found["seconds"]) if found.get("fingerprint") == fingerprint else 0.0

    def _stopped_path(self, stage: str) -> Path:
        return self.manifest_path(stage).with_suffix(".stopped")

    @cached_property
    def lock_folder(self) -> Path:
        return self.folder / "locks"

    @contextlib.contextmanager
    def locked(self, what: str) -> Iterator[None]:
        with lock(self.lock_folder / f"{what}.json", f"{what} of {self.folder}"):
            yield


class TableWriter:
    """Appends rows to one slice of a table: journal first, shards when there are enough rows.

    Rows whose key is already there are skipped, so whoever resumes may offer everything again.
    """

    def __init__(self, run: Run, spec: Table, part: str, shard_rows: int) -> None:
        _check_slice(part)
        self.run, self.spec, self.part, self.shard_rows = run, spec, part, shard_rows
        self._stack = contextlib.ExitStack()
        self._pending: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        run, name = self.run, self.spec.name
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                lock(
                    run.lock_folder / f"{name}.{self.part}.json",
                    f"slice {self.part} of table {name} in {run.folder}",
                )
            )
            remove_temporaries(run.table_folder(name))
            self._journal = Journal(run.folder / "journal" / name / f"{self.part}.jsonl")
            stack.callback(self._journal.close)
            self.keys = run.keys(name, journal=False)
            for row in self._journal.recovered:
                key = row_key(self.spec, row)
                if key not in self.keys:
                    self.keys.add(key)
                    self._pending.append(decode_row(self.spec, row))
            self._next = self._next_number()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            # An interrupted writer leaves its rows in the journal; folding is for those who finish.
            if kind is None:
                self.fold()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Make rows durable; the number of rows that were new. Returns only when the disk has them."""
        fresh: list[dict[str, Any]] = []
        for row in rows:
            key = row_key(self.spec, row)
            if key not in self.keys:
                self.keys.add(key)
                fresh.append(dict(row))
        if not fresh:
            return 0
        try:
            self.spec.rows_to_arrow(fresh)  # a row that no shard can hold must not enter the journal
            self._journal.append(fresh)
        except BaseException:
            self.keys.difference_update(row_key(self.spec, row) for row in fresh)
            raise
        self._pending.extend(fresh)
        if len(self._pending) >= self.shard_rows:
            self.fold()
        return len(fresh)

    def fold(self) -> None:
        """Write the journal's rows as one shard, then empty the journal."""
        if self._pending:
            target = self.run.table_folder(self.spec.name) / f"{self.part}-{self._next:06d}.parquet"
            write_parquet(target, self.spec.rows_to_arrow(self._pending))
            self._next += 1
            self._pending = []
        self._journal.clear()

    def _next_number(self) -> int:
        numbers = [
            int(match.group(1))
            for path in self.run.shards(self.spec.name)
            if (match := re.fullmatch(re.escape(self.part) + r"-(\d{6,})\.parquet", path.name))
        ]
        return max(numbers, default=-1) + 1


def write_parquet(target: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically: zstd, page checksums."""
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def check_shard(path: Path) -> None:
    """See that a shard has a whole footer and a schema we know; its pages are not read.

    Raises:
        UserError: torn, corrupt, or written by a newer version.
    """
    with _shard_errors(path):
        _refuse_newer(path, pq.read_metadata(path).metadata or {})


def _refuse_newer(path: Path, metadata: Mapping[bytes, bytes]) -> None:
    version = int(metadata.get(b"r1_factory.schema_version", b"0"))
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer version of this program (schema {version}; this one reads up to "
            f"{SCHEMA_VERSION}). Upgrade with: pip install -U r1-factory"
        )


@contextlib.contextmanager
def _shard_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is torn or corrupt ({str(error).splitlines()[0]}). Restore it from a copy; or remove it, and run "
            f"the stage that made it again"
        ) from error


def _read_shard(path: Path, spec: Table, columns: list[str]) -> pa.Table:
    """Read columns of a shard by name; a column it lacks (an older file) is null.

    Raises:
        UserError: torn, corrupt, or written by a newer version.
    """
    with _shard_errors(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        _refuse_newer(path, file.schema_arrow.metadata or {})
        present = set(file.schema_arrow.names)
        return _in_shape(
            file.read(columns=[column for column in columns if column in present]), spec, columns
        )


def _shard_batches(path: Path, spec: Table, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
    """`_read_shard`, a batch at a time. The file is read piece by piece, not a row group at once."""
    with (
        _shard_errors(path),
        pq.ParquetFile(path, page_checksum_verification=True, buffer_size=_READ_BYTES) as file,
    ):
        _refuse_newer(path, file.schema_arrow.metadata or {})
        present = set(file.schema_arrow.names)
        wanted = [column for column in columns if column in present]
        for batch in file.iter_batches(size, columns=wanted):
            yield from _in_shape(pa.Table.from_batches([batch]), spec, columns).to_batches()


def _in_shape(table: pa.Table, spec: Table, columns: list[str]) -> pa.Table:
    """A table with these columns in the types of `spec`; a column that it lacks is null."""
    present = set(table.column_names)
    schema = pa.schema([spec.schema.field(column) for column in columns])
    arrays = [
        table.column(field.name).cast(field.type)
        if field.name in present
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def row_key(spec: Table, row: Mapping[str, Any]) -> Any:
    """The key of a row: a value, or a tuple where the key has several columns."""
    return row[spec.key[0]] if len(spec.key) == 1 else tuple(row[column] for column in spec.key)


def decode_row(spec: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """A journal's row with its times as times again."""
    return {
        name: datetime.fromisoformat(value)
        if value is not None and pa.types.is_timestamp(spec.schema.field(name).type)
        else value
        for name, value in row.items()
    }


def _check_slice(part: str) -> None:
    if not _SLICE.match(part):
        raise ValueError(f"a slice's name is letters, digits, '.', '_', '-' and '=', got {part!r}")


def now() -> datetime:
    """The time, in UTC, at the resolution the tables keep."""
    return datetime.now(UTC)


def stage_manifest(
    stage: str,
    fingerprint: str,
    config: Mapping[str, Any],
    outputs: list[dict[str, Any]],
    counts: Mapping[str, Any],
    started: float,
) -> dict[str, Any]:
    """What a finished stage leaves behind."""
    return {
        "stage": stage,
        "fingerprint": fingerprint,
        "config": json.loads(json.dumps(config)),
        "outputs": outputs,
        "counts": dict(counts),
        "seconds": round(time.time() - started, 3),
        "finished_at": datetime.now(UTC).isoformat(),
        "schema_version": SCHEMA_VERSION,
    }
