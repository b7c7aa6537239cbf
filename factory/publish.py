"""Publishing: a mix as a data set of the Hugging Face Hub.

Parquet shards in the Hub's layout and a card, in one commit. Private unless asked otherwise, and the same mix
pushed again makes no commit.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.card import CardFacts, MixStats, render_card
from factory.hub_errors import explain
from filters.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_SHARD_BYTES = 256 * 2**20
"""Largest shard, in bytes of the file: small enough to be fetched alone, large enough that they are few."""

SMALLEST_LIMIT = 2**20
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = re.compile(r"data/[\w.-]+-\d{5}-of-\d{5}\.parquet")
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class LocalFile:
    """A file to upload: its path in the repository, where it lies, its size in bytes, rows of a shard."""

    path: str
    local: Path
    size: int
    rows: int | None = None


@dataclass(frozen=True)
class PushResult:
    """What a push did, or would do.

    Attributes:
        repo, url, private: the repository as it is now (as it would be created, for a dry run).
        dry_run: nothing was sent, no network was used.
        changed: a commit was made. Always False for a dry run.
        commit: the commit that holds the mix; None for a dry run.
        files: (path, bytes, rows or None) of every file of the mix.
        uploaded, deleted: paths that the commit changed.
        card: text of README.md.
        notes: sentences a person should read.
    """

    repo: str
    url: str
    private: bool
    dry_run: bool
    changed: bool
    commit: str | None
    files: tuple[tuple[str, int, int | None], ...]
    card: str
    uploaded: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """The result in lines for a person."""
        kind = "private" if self.private else "public"
        total = sum(size for _, size, _ in self.files)
        if self.dry_run:
            head = f"dry run, nothing was sent: {self.repo} ({kind}) would hold"
        elif self.changed:
            head = f"pushed to {self.url} ({kind}), commit {(self.commit or '')[:12]}"
        else:
            head = f"{self.url} ({kind}) holds exactly this already; no commit was made"
        lines = [head]
        for path, size, rows in self.files:
            rows_text = "" if rows is None else f"  {rows:,} rows"
            lines.append(f"  {path:<44}{_human(size):>12}{rows_text}")
        lines.append(f"  {len(self.files)} files, {_human(total)}")
        lines += [f"  deleted: {path}" for path in self.deleted]
        return "\n".join([*lines, *self.notes])


def push(
    mix_dir: Path,
    facts: CardFacts,
    *,
    repo: str,
    private: bool = True,
    dry_run: bool = False,
    token: str | None = None,
    message: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> PushResult:
    """Publish a mix.

    Args:
        mix_dir: folder of Parquet files with the schema `factory.records.MIX`.
        facts: what the card tells about the run.
        repo: `org/name`; created where it does not exist.
        private: visibility of a new repository. That of an existing one is never changed: asking for private
            where it is public is refused, so that nothing becomes public by accident.
        dry_run: build everything, send nothing, use no network.
        token: access token; None: the one of `hf auth login` or HF_TOKEN.
        message: first line of the commit message.
        max_shard_bytes: largest shard, in bytes.

    Raises:
        UserError: the mix cannot be read, there is no token, the Hub refuses or cannot be reached, or the
            repository was changed by somebody else during the push. Nothing is half published: there is one
            commit or none.
    """
    if not _REPO.fullmatch(repo):
        raise UserError(f"a repository is named ORG/NAME such as my-team/my-set, got {repo!r}")
    if max_shard_bytes < SMALLEST_LIMIT:
        raise UserError(
            f"a shard limit of {max_shard_bytes} bytes is too small; give at least {SMALLEST_LIMIT}"
        )
    with tempfile.TemporaryDirectory(prefix="r1-factory-push-") as folder:
        shards, stats, schema = build_shards(mix_dir, Path(folder), max_shard_bytes)
        info = dataset_info(schema, stats, sum(shard.size for shard in shards))
        card = render_card(facts, stats, repo=repo, private=private, dataset_info=info)
        readme = Path(folder) / "README.md"
        readme.write_text(card, encoding="utf-8")
        files = [LocalFile("README.md", readme, readme.stat().st_size), *shards]
        listed = tuple((file.path, file.size, file.rows) for file in files)
        if dry_run:
            return PushResult(repo, _url(repo), private, True, False, None, listed, card)
        message = message or f"Mix {facts.mix} of run {facts.run}: {stats.rows:,} samples"
        return _upload(repo, files, listed, card, private, _token(token), message)


# -------------------------------------------------------------------------------------------- shards


def build_shards(mix_dir: Path, out: Path, max_bytes: int) -> tuple[list[LocalFile], MixStats, pa.Schema]:
    """Write a mix as `data/SPLIT-00000-of-0000N.parquet` under `out`, no file above `max_bytes`.

    Rows keep their order, so equal mixes give equal bytes. Memory is bounded by a batch of rows.

    Raises:
        UserError: no Parquet file, a torn one, one without the columns of a mix or made by a newer version, no
            rows at all, or a full disk.
    """
    import pyarrow.compute as pc

    stats = MixStats()
    writers: dict[str, _ShardWriter] = {}
    schema = None
    (out / "data").mkdir()
    try:
        for table in _batches(mix_dir):
            schema = table.schema
            for split in sorted(set(table.column("split").to_pylist())):
                part = table.filter(pc.equal(table.column("split"), split))
                stats.add(split, part)
                if split not in writers:
                    writers[split] = _ShardWriter(out, split, max_bytes)
                writers[split].write(part)
        if schema is None or not writers:
            raise UserError(f"the mix {mix_dir} has no samples; there is nothing to publish")
        shards = [file for split in stats.splits for file in writers[split].finish()]
    except OSError as error:
        raise UserError(
            f"cannot write the shards to {out}: {error}. TMPDIR can name another disk."
        ) from error
    finally:
        for writer in writers.values():
            writer.close()
    return shards, stats, schema


def _batches(mix_dir: Path) -> Iterator[pa.Table]:
    """The rows of a mix, `_ROWS_AT_ONCE` at a time, with the columns of `MIX` in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from factory.records import MIX, SCHEMA_VERSION, file_metadata

    paths = sorted(mix_dir.glob("*.parquet")) if mix_dir.is_dir() else []
    if not paths:
        raise UserError(f"there is no mix in {mix_dir}: no Parquet file lies there")
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                names = set(file.schema_arrow.names)
                made_by = (file.schema_arrow.metadata or {}).get(b"r1_factory.schema_version", b"0")
                if int(made_by) > SCHEMA_VERSION:
                    raise UserError(
                        f"{path} was written by a newer r1-factory (schema {int(made_by)}); update first"
                    )
                missing = [name for name in MIX.schema.names if name not in names]
                if missing:
                    raise UserError(f"{path} is no mix: it has no column {missing[0]!r}")
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=MIX.schema.names):
                    table = pa.Table.from_batches([batch]).select(MIX.schema.names).cast(MIX.schema)
                    yield table.replace_schema_metadata(file_metadata("mix"))
        except pa.ArrowException as error:
            raise UserError(f"{path} is no Parquet file of a mix, or it is torn: {error}") from error


@dataclass
class _ShardWriter:
    """Writes one split, going on to the next file before the limit is reached."""

    out: Path
    split: str
    max_bytes: int
    done: list[tuple[Path, int]] = field(default_factory=list)
    writer: Any = None
    sink: Any = None
    rows: int = 0

    def write(self, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        # A twentieth is left for the footer. Compressed rows are smaller than rows in memory.
        budget = self.max_bytes - self.max_bytes // 20
        if table.nbytes > budget // 4 and table.num_rows > 1:
            half = table.num_rows // 2
            self.write(table.slice(0, half).combine_chunks())
            self.write(table.slice(half).combine_chunks())
            return
        if self.writer is not None and self.sink.tell() + table.nbytes > budget:
            self.close()
        if self.writer is None:
            import pyarrow as pa

            path = self.out / "data" / f"{self.split}-{len(self.done):05d}.parquet"
            self.sink = pa.OSFile(str(path), "wb")
            self.writer = pq.ParquetWriter(self.sink, table.schema, compression="zstd")
            self.rows = 0
        self.writer.write_table(table)
        self.rows += table.num_rows

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.sink.close()
            self.done.append((self.out / "data" / f"{self.split}-{len(self.done):05d}.parquet", self.rows))
            self.writer = None

    def finish(self) -> list[LocalFile]:
        """Close the last file and give all of them their names in the repository."""
        self.close()
        files = []
        for index, (path, rows) in enumerate(self.done):
            name = f"data/{self.split}-{index:05d}-of-{len(self.done):05d}.parquet"
            final = path.rename(self.out / name)
            files.append(LocalFile(name, final, final.stat().st_size, rows))
        return files


def dataset_info(schema: pa.Schema, stats: MixStats, download_size: int) -> dict[str, Any]:
    """Features, splits and sizes as the card's `dataset_info`, from which the viewer and `datasets` read them."""
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    splits = SplitDict()
    for split, rows in stats.splits.items():
        splits.add(SplitInfo(name=split, num_bytes=stats.split_bytes[split], num_examples=rows))
    info = DatasetInfo(
        features=Features.from_arrow_schema(schema),
        splits=splits,
        download_size=download_size,
        dataset_size=stats.split_bytes.total(),
    )
    card = DatasetCardData()
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    return dict(card["dataset_info"])


# -------------------------------------------------------------------------------------------- upload


def _upload(
    repo: str,
    files: list[LocalFile],
    listed: tuple[tuple[str, int, int | None], ...],
    card: str,
    private: bool,
    token: str,
    message: str,
) -> PushResult:
    import httpx
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        head, is_private = _open_repository(api, repo, private)
        remote = _remote_hashes(api, repo, head)
        changed = [file for file in files if remote.get(file.path) not in _hashes(file.local)]
        kept = {file.path for file in files}
        stale = sorted(path for path in remote if _SHARD.fullmatch(path) and path not in kept)
        notes: tuple[str, ...] = ()
        if is_private and not private:
            notes = (
                f"{repo} was private before and stays so; its settings page on the Hub can make it public.",
            )
        result = PushResult(
            repo, _url(repo, api.endpoint), is_private, False, False, head, listed, card, notes=notes
        )
        if not changed and not stale:
            return result
        adds = [CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=file.local) for file in changed]
        deletes = [CommitOperationDelete(path_in_repo=path) for path in stale]
        commit = api.create_commit(
            repo, [*adds, *deletes], commit_message=message, repo_type="dataset", parent_commit=head
        )
    except (HfHubHTTPError, httpx.HTTPError, ConnectionError) as error:
        raise explain(error, repo) from error
    done = {"changed": True, "commit": commit.oid, "deleted": tuple(stale)}
    return PushResult(**{**vars(result), **done, "uploaded": tuple(file.path for file in changed)})


def _open_repository(api: Any, repo: str, private: bool) -> tuple[str | None, bool]:
    """(head commit, is it private) of the repository, which is created where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.dataset_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        info = api.dataset_info(repo)
    if private and not info.private:
        raise UserError(
            f"{repo} exists and is public. Say so (--public) to publish there, or name another repository."
        )
    return info.sha, bool(info.private)


def _remote_hashes(api: Any, repo: str, revision: str | None) -> dict[str, str]:
    """Path -> SHA-256 of a large file, git's blob id of a small one."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo, recursive=True, revision=revision, repo_type="dataset")
    return {
        item.path: item.lfs.sha256 if item.lfs is not None else item.blob_id
        for item in tree
        if isinstance(item, RepoFile)
    }


def _hashes(path: Path) -> tuple[str, str]:
    """(SHA-256, git's blob id) of a file's content."""
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()


def _token(given: str | None) -> str:
    from huggingface_hub import get_token

    token = given or get_token()
    if not token:
        raise UserError("there is no access token for the Hub: run `hf auth login`, or set HF_TOKEN")
    return token


def _url(repo: str, endpoint: str | None = None) -> str:
    return f"{(endpoint or os.environ.get('HF_ENDPOINT') or 'https://huggingface.co').rstrip('/')}/datasets/{repo}"


def _human(size: int) -> str:
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
