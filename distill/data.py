"""What `distill train` reads: conversations from Parquet, JSONL or the Hub, encoded once. No JAX here."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.chat import Template, control_text, encode_example
from filters.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from distill.gemma.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")
_COLUMNS = ("messages", "split", "weight")
_PARQUET_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One row: a conversation that ends with the assistant.

    Attributes:
        messages: dicts of role and content.
        split: "train", "validation" or "test".
        weight: factor on the sample's tokens in the training loss.
        where: file and row, for messages to people.
    """

    messages: list[dict[str, str]]
    split: str
    weight: float
    where: str


@dataclass(frozen=True, slots=True)
class Example:
    """An encoded sample.

    Attributes:
        ids, mask: token ids (L), and which of them are trained on.
        weight: factor on its tokens in the loss.
        where: its file and row, for messages to people.
        top: a teacher's likeliest tokens and their log-probabilities, (N, K) each, for the N tokens from `start` on;
            None where no teacher was asked.
    """

    ids: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any]
    weight: float
    where: str = ""
    top: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None

    @property
    def start(self) -> int:
        """Index of the first token that is trained on: what stands before it is the prompt. At least 1."""
        return max(1, int(self.mask.argmax()))


@dataclass(slots=True)
class Dataset:
    """Encoded samples of one source.

    Attributes:
        source: as the caller named it.
        train, validation: in the order of the source.
        fingerprint: 32 hex digits over every row's messages, split and weight, in order.
        rows: rows read, the left-out ones included.
        too_long: rows left out because they exceed `max_length`; none is ever cut.
        longest_left_out: tokens of the longest of them.
        held_out: rows of the split "test", never trained on.
        rendered: the first mark of a turn that stands in a message as text; None where none does.
    """

    source: str
    train: list[Example] = field(default_factory=list)
    validation: list[Example] = field(default_factory=list)
    fingerprint: str = ""
    rows: int = 0
    too_long: int = 0
    longest_left_out: int = 0
    held_out: int = 0
    rendered: str | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest example kept."""
        return max((len(example.ids) for example in (*self.train, *self.validation)), default=0)

    def summary(self) -> str:
        """One line for a person."""
        parts = [f"{len(self.train)} samples to train on", f"{len(self.validation)} for validation"]
        if self.held_out:
            parts.append(f"{self.held_out} of the test split left alone")
        if self.too_long:
            parts.append(
                f"{self.too_long} left out as too long (the longest has {self.longest_left_out} tokens)"
            )
        return ", ".join(parts)

    def warning(self) -> str | None:
        """What a person should know before a training begins; None where the data are as they should be."""
        if self.rendered is None:
            return None
        return (
            f"{self.rendered} as text: were these conversations rendered before? They are rendered here, and what "
            "looks like a mark is trained on as characters"
        )


def load_dataset(source: str, template: Template, tokenizer: Tokenizer, max_length: int) -> Dataset:
    """Read and encode a source.

    Args:
        source: a folder of Parquet or JSONL (a mix of a run is one), one such file, or a Hub id
            "org/name[:config][@revision]". Rows have `messages`, and may have `split` and `weight`. Without a
            column `split`, the names of the Hub's splits and of files count, such as `validation-00000.parquet`,
            `dev.jsonl` or `test_sft`; what remains is for training.
        max_length: in tokens; longer samples are left out and counted.

    Raises:
        UserError: nothing there, a bad row (with file and row), or nothing left to train on.
    """
    import numpy as np

    dataset = Dataset(source)
    digest = hashlib.sha256()
    for sample in read_samples(source):
        dataset.rows += 1
        digest.update(json.dumps([sample.messages, sample.split, sample.weight], sort_keys=True).encode())
        if sample.split == "test":
            dataset.held_out += 1
            continue
        try:
            ids, mask = encode_example(sample.messages, template, tokenizer)
        except UserError as error:
            raise UserError(f"{sample.where}: {error}") from error
        if len(ids) > max_length:
            dataset.too_long += 1
            dataset.longest_left_out = max(dataset.longest_left_out, len(ids))
            continue
        if dataset.rendered is None and (found := control_text(sample.messages)):
            dataset.rendered = f"{found} in {sample.where}"
        example = Example(np.asarray(ids, np.int32), np.asarray(mask, np.bool_), sample.weight, sample.where)
        (dataset.train if sample.split == "train" else dataset.validation).append(example)
    dataset.fingerprint = digest.digest()[:16].hex()
    if not dataset.train:
        raise UserError(f"{source}: nothing to train on ({dataset.rows} rows read, {dataset.summary()})")
    return dataset


def read_samples(source: str) -> Iterator[Sample]:
    """The rows of a source in a fixed order: files by name, rows as they stand.

    Raises:
        UserError: see `load_dataset`.
    """
    path = Path(source)
    if path.exists():
        for file in files_of(path):
            yield from _samples(_rows(file, _COLUMNS, "messages"), str(file), _split_of_name(file.name))
    elif source.count("/") == 1 and not source.startswith((".", "/", "~")):
        yield from _hub(source)
    else:
        raise UserError(
            f"data {source} does not exist: give a folder or file of Parquet or JSONL, or a Hub id"
        )


def read_rows(source: str, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a file or folder of Parquet or JSONL in a fixed order, with where they stand; of Parquet these columns.

    Raises:
        UserError: nothing there, or it cannot be read.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source} does not exist: give a folder or file of Parquet or JSONL")
    for file in files_of(path):
        for position, row in _rows(file, columns):
            yield f"{file}, {position}", row


def _rows(
    file: Path, columns: Sequence[str], required: str | None = None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return _parquet(file, columns, required) if file.suffix == ".parquet" else _jsonl(file)


def files_of(path: Path) -> list[Path]:
    """The Parquet or JSONL files of a source, in the order in which they are read.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        if path.suffix not in (".parquet", ".jsonl"):
            raise UserError(f"data {path}: only .parquet and .jsonl files can be read")
        return [path]
    found = sorted(
        file
        for suffix in (".parquet", ".jsonl")
        for file in path.rglob(f"*{suffix}")
        if not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    )
    if not found:
        raise UserError(f"data folder {path} holds no .parquet and no .jsonl file")
    if len({file.suffix for file in found}) > 1:
        raise UserError(
            f"data folder {path} holds both .parquet and .jsonl files, for instance {found[0].name} and "
            f"{next(f.name for f in found if f.suffix != found[0].suffix)}; give one of them, or a folder of one kind"
        )
    return found


_SPLIT_NAME = re.compile(r"(train)|(validation|valid|val|dev|eval)|(test)")


def _split_of_name(name: str) -> str:
    """Split that the name of a file, or of a split on the Hub, begins with; "train" where it tells none."""
    found = _SPLIT_NAME.fullmatch(re.split(r"[-_.]", name, maxsplit=1)[0].lower())
    return "train" if found is None else SPLITS[(found.lastindex or 1) - 1]


def _parquet(
    file: Path, columns: Sequence[str], required: str | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as reader:
            names = reader.schema_arrow.names
            if required is not None and required not in names:
                raise UserError(f"{file} has no column {required}; it has {', '.join(names)}")
            row = 0
            for batch in reader.iter_batches(_PARQUET_ROWS, columns=[c for c in columns if c in names]):
                for value in batch.to_pylist():
                    row += 1
                    yield f"row {row}", value
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _jsonl(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise UserError(f"{file}, line {number}: not valid JSON: {error}") from error
            if not isinstance(value, dict):
                raise UserError(f"{file}, line {number}: must be a JSON object")
            yield f"line {number}", value


def _hub(source: str) -> Iterator[Sample]:
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    name, _, revision = source.partition("@")
    repo, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(repo, config or None, revision=revision or None)
    except (DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"data {source}: no such folder, and the Hub did not give it: {first_line}"
        ) from error
    for split, table in sorted(loaded.items(), key=lambda item: str(item[0])):
        where = f"{source}, split {split}"
        if "messages" not in table.column_names:
            raise UserError(f"{where} has no column messages; it has {', '.join(table.column_names)}")
        rows = ((f"row {i}", row) for i, row in enumerate(table, 1))
        yield from _samples(rows, where, _split_of_name(str(split)))


def _samples(
    rows: Iterable[tuple[str, Mapping[str, Any]]], file: str, default_split: str
) -> Iterator[Sample]:
    for position, row in rows:
        where = f"{file}, {position}"
        if "messages" not in row:
            raise UserError(f"{where}: no messages; it has {', '.join(row) or 'nothing'}")
        split = row.get("split") or default_split
        if split not in SPLITS:
            raise UserError(f"{where}: split is {split!r}; it must be one of {', '.join(SPLITS)}")
        yield Sample(_messages(row["messages"], where), split, _weight(row.get("weight"), where), where)


def _messages(value: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: messages must be a list of role and content, got {_short(value)}")
    for i, message in enumerate(value):
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(k), str) for k in ("role", "content")
        ):
            raise UserError(
                f"{where}: message {i} must have a text role and a text content, got {_short(message)}"
            )
        refuse_half_characters(message["content"], f"{where}: message {i}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def refuse_half_characters(text: str, where: str) -> None:
    """JSON can hold a lone surrogate, as of an emoji that was cut in two; no tokenizer or hash can read it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 10) : error.end + 10]
        raise UserError(
            f"{where} holds half a character (a lone surrogate) at {error.start}: {_short(around)}"
        ) from error


def _weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: weight must be a number that is not negative, got {_short(value)}")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
