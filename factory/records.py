"""The data model: canonical ids, Arrow schemas, and what "the same table" means.

Ids are content addresses: the first 16 bytes of SHA-256 over canonical JSON, in hex. A re-run, a shuffled
input or another machine gives the same ids. Test vectors stand in `docs/data-model.md`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 1
"""Stands in the metadata of every Parquet file. Additive changes keep it; readers refuse newer ones."""


# ------------------------------------------------------------------------------------------------ ids


def canonical_json(value: Any) -> str:
    """Serialise to the one JSON text that is hashed: sorted keys, no spaces, NFC strings, UTF-8.

    Integral floats are written as integers (1.0 -> 1), so a value that travelled through YAML, JSON or
    Arrow keeps its id.

    Raises:
        ValueError: for NaN, infinities, keys that are not strings, and types JSON does not have.
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _canonical(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"canonical JSON has no {value}")
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        out: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"canonical JSON wants string keys, got {key!r}")
            out[unicodedata.normalize("NFC", key)] = _canonical(item)
        return out
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    raise ValueError(f"canonical JSON has no {type(value).__name__}")


def content_id(value: Any) -> str:
    """First 16 bytes of SHA-256 over canonical JSON, as 32 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).digest()[:16].hex()


def prompt_id(
    messages: list[dict[str, str]], reference: str | None, verifier: str, verifier_args: Mapping[str, Any]
) -> str:
    """Id of a prompt: what is asked, what counts as right, and how that is decided."""
    return content_id(
        {"messages": messages, "reference": reference, "verifier": verifier, "verifier_args": verifier_args}
    )


def generation_id(model: str, template: Mapping[str, Any], sampling: Mapping[str, Any]) -> str:
    """Id of a way of sampling: model content, template content and sampling parameters."""
    return content_id({"model": model, "template": template, "sampling": sampling})


def candidate_id(prompt: str, generation: str, sample_index: int) -> str:
    """Id of the `sample_index`-th answer of one prompt under one way of sampling. No seed takes part."""
    return content_id({"prompt_id": prompt, "generation_id": generation, "sample_index": sample_index})


def imported_id(
    prompt: str, generation: str, *, model: str, completion: str, finish_reason: str | None, repeat: int = 0
) -> str:
    """Id of a trace that exists already: nobody drew it as the n-th, so its text takes the place of an index.

    `repeat` tells equal traces of a prompt apart: how many there were before.
    """
    identity = content_id(
        {
            "prompt_id": prompt,
            "generation_id": generation,
            "model": model,
            "completion": completion,
            "finish_reason": finish_reason,
        }
    )
    return content_id({"candidate_id": identity, "repeat": repeat}) if repeat else identity


def judgement_id(judge: str, messages: Iterable[Mapping[str, str]]) -> str:
    """Id of a request to a judge: which judge (a `generation_id`), and what it is asked."""
    return content_id({"judge_id": judge, "messages": [dict(message) for message in messages]})


def sample_seed(run_seed: int, candidate: str) -> int:
    """A seed of its own for every sample: 63 bits from the run's seed and the candidate's id."""
    digest = hashlib.sha256(f"{run_seed}:{candidate}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


_SPACE = re.compile(r"\s+")


def normalise_question(text: str) -> str:
    """NFKC, lower case, runs of white space as one space, ends stripped."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()


def question_hash(question: str) -> str:
    """Identity of a question whatever its provenance: for splits, duplicates and decontamination."""
    return hashlib.sha256(normalise_question(question).encode()).digest()[:16].hex()


def split_of(hash_hex: str, *, validation: float, test: float) -> str:
    """Split of a question by its hash alone: the same question is in the same split everywhere.

    The first 32 bits of the hash, as a fraction of 2^32, fall into [0, test) for "test",
    [test, test + validation) for "validation", else "train".
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(
            f"validation={validation} and test={test} must be shares that leave something to train on"
        )
    position = int(hash_hex[:8], 16) / 2**32
    if position < test:
        return "test"
    if position < test + validation:
        return "validation"
    return "train"


# -------------------------------------------------------------------------------------------- tables

_ID = pa.string()
_TEXT = pa.string()
_TIME = pa.timestamp("us", tz="UTC")
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ORIGIN = pa.struct(
    [
        ("kind", pa.string()),
        ("repo", pa.string()),
        ("revision", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("candidate_id", pa.string()),
    ]
)


@dataclass(frozen=True)
class Table:
    """A table of a run.

    Attributes:
        name: folder under `tables/`.
        key: columns that identify a row.
        schema: Arrow schema.
        volatile: columns that differ between equal runs (clocks); left out of comparisons.
    """

    name: str
    key: tuple[str, ...]
    schema: pa.Schema
    volatile: tuple[str, ...] = ()

    def rows_to_arrow(self, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """Build an Arrow table of exactly this schema; unknown columns are refused.

        Raises:
            ValueError: names the unknown column, or the value that does not fit its column's type.
        """
        rows = list(rows)
        known = set(self.schema.names)
        for row in rows:
            unknown = row.keys() - known
            if unknown:
                raise ValueError(f"table {self.name} has no column {sorted(unknown)[0]!r}")
        columns = []
        for field in self.schema:
            try:
                columns.append(pa.array([row.get(field.name) for row in rows], type=field.type))
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(f"table {self.name}, column {field.name}: {error}") from error
        table = pa.Table.from_arrays(columns, schema=self.schema)
        return table.replace_schema_metadata(file_metadata(self.name))


def file_metadata(table: str) -> dict[str, str]:
    """Key-value metadata of every Parquet file we write."""
    return {"r1_factory.table": table, "r1_factory.schema_version": str(SCHEMA_VERSION)}


def _table(
    name: str, key: tuple[str, ...], columns: list[tuple[str, pa.DataType]], volatile: tuple[str, ...] = ()
) -> Table:
    fields = [pa.field(column, kind, nullable=column not in key) for column, kind in columns]
    return Table(name, key, pa.schema(fields), volatile)


PROMPTS = _table(
    "prompts",
    ("prompt_id",),
    [
        ("prompt_id", _ID),
        ("question_hash", _ID),
        ("source", _TEXT),
        ("split", _TEXT),
        ("domain", _TEXT),
        ("language", _TEXT),
        ("licence", _TEXT),
        ("question", _TEXT),
        ("messages", MESSAGES),
        ("reference", _TEXT),
        ("verifier", _TEXT),
        ("verifier_args", _TEXT),
        ("evaluation_only", pa.bool_()),
        ("meta", _TEXT),
    ],
)

CANDIDATES = _table(
    "candidates",
    ("candidate_id",),
    [
        ("candidate_id", _ID),
        ("prompt_id", _ID),
        ("generation_id", _ID),
        ("sample_index", pa.int32()),
        ("stage", _TEXT),
        ("parent_id", _ID),
        ("segment", pa.int32()),
        ("engine", _TEXT),
        ("model", _TEXT),
        ("template", _TEXT),
        ("seed", pa.int64()),
        ("completion", _TEXT),
        ("token_ids", pa.list_(pa.int32())),
        ("token_logprobs", pa.list_(pa.float32())),
        ("finish_reason", _TEXT),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("logprob_mean", pa.float32()),
        ("latency_s", pa.float64()),
        ("created_at", _TIME),
    ],
    volatile=("latency_s", "created_at"),
)

ATTEMPTS = _table(
    "attempts",
    ("candidate_id", "attempt"),
    [
        ("candidate_id", _ID),
        ("attempt", pa.int32()),
        ("error_class", _TEXT),
        ("message", _TEXT),
        ("at", _TIME),
    ],
    volatile=("at",),
)

VERDICTS = _table(
    "verdicts",
    ("candidate_id", "grader", "grader_version"),
    [
        ("candidate_id", _ID),
        ("grader", _TEXT),
        ("grader_version", _TEXT),
        ("outcome", _TEXT),
        ("fault", _TEXT),
        ("extracted_answer", _TEXT),
        ("span", pa.list_(pa.int32())),
        ("explanation", _TEXT),
        ("elapsed_ms", pa.float64()),
        ("detail", _TEXT),
    ],
    volatile=("elapsed_ms",),
)

SIGNALS = _table(
    "signals",
    ("candidate_id", "signal_version"),
    [
        ("candidate_id", _ID),
        ("signal_version", _TEXT),
        ("well_formed", pa.bool_()),
        ("format_fault", _TEXT),
        ("language", _TEXT),
        ("language_consistency", pa.float64()),
        (
            "foreign_spans",
            pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("language", pa.string())])),
        ),
        ("readability", pa.float64()),
        ("longest_paragraph_chars", pa.int32()),
        ("code_share", pa.float64()),
        ("repetition", pa.float64()),
        ("max_ngram_repeats", pa.int32()),
        ("coherence", pa.float64()),
        ("reasoning_tokens", pa.int32()),
        ("answer_tokens", pa.int32()),
    ],
)

JUDGEMENTS = _table(
    "judgements",
    ("judgement_id",),
    [
        ("judgement_id", _ID),
        ("judge_id", _ID),
        ("purpose", _TEXT),
        ("request", _TEXT),
        ("reply", _TEXT),
        ("finish_reason", _TEXT),
        ("model", _TEXT),
        ("seed", pa.int64()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("latency_s", pa.float64()),
        ("created_at", _TIME),
    ],
    volatile=("latency_s", "created_at"),
)

JUDGEMENT_ATTEMPTS = _table(
    "judgement_attempts",
    ("judgement_id", "attempt"),
    [
        ("judgement_id", _ID),
        ("attempt", pa.int32()),
        ("error_class", _TEXT),
        ("message", _TEXT),
        ("at", _TIME),
    ],
    volatile=("at",),
)

DECISIONS = _table(
    "decisions",
    ("mix", "candidate_id"),
    [
        ("mix", _TEXT),
        ("candidate_id", _ID),
        ("prompt_id", _ID),
        ("accepted", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
    ],
)

MIX = _table(
    "mix",
    ("sample_id",),
    [
        ("sample_id", _ID),
        ("messages", MESSAGES),
        ("question", _TEXT),
        ("reasoning", _TEXT),
        ("answer", _TEXT),
        ("component", _TEXT),
        ("split", _TEXT),
        ("weight", pa.float64()),
        ("domain", _TEXT),
        ("language", _TEXT),
        ("tokens", pa.int32()),
        ("n_samples", pa.int32()),
        ("n_judged", pa.int32()),
        ("n_correct", pa.int32()),
        ("source", _TEXT),
        ("licence", _TEXT),
        ("origin", ORIGIN),
    ],
)

_EVAL_KEY = [("suite", _TEXT), ("model", _TEXT), ("protocol", _ID)]

EVALS = _table(
    "evals",
    ("suite", "model", "protocol", "slice", "metric"),
    [
        *_EVAL_KEY,
        ("slice", _TEXT),
        ("metric", _TEXT),
        ("label", _TEXT),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("k", pa.int32()),
        ("n", pa.int32()),
        ("prompts", pa.int32()),
        ("left_out", pa.int32()),
        ("seed", pa.int64()),
        ("protocol_text", _TEXT),
        ("created_at", _TIME),
    ],
    volatile=("created_at",),
)

EVAL_CANDIDATES = _table(
    "eval_candidates",
    ("suite", "model", "protocol", "prompt_id", "sample_index"),
    [
        *_EVAL_KEY,
        ("prompt_id", _ID),
        ("sample_index", pa.int32()),
        ("question", _TEXT),
        ("reference", _TEXT),
        ("domain", _TEXT),
        ("seed", pa.int64()),
        ("completion", _TEXT),
        ("finish_reason", _TEXT),
        ("completion_tokens", pa.int32()),
        ("outcome", _TEXT),
        ("fault", _TEXT),
        ("extracted_answer", _TEXT),
        ("explanation", _TEXT),
        ("detail", _TEXT),
    ],
)

ROLLOUTS = _table(
    "rollouts",
    ("job", "step", "group", "sample_index"),
    [
        ("job", _TEXT),
        ("step", pa.int64()),
        ("group", pa.int32()),
        ("sample_index", pa.int32()),
        ("prompt_id", _ID),
        ("completion", _TEXT),
        ("reward", pa.float64()),
        ("rewards", _TEXT),
        ("advantage", pa.float64()),
        ("completion_tokens", pa.int32()),
        ("reasoning_tokens", pa.int32()),
        ("finish_reason", _TEXT),
        ("outcome", _TEXT),
        ("well_formed", pa.bool_()),
        ("language_consistency", pa.float64()),
        ("masked_because", _TEXT),
    ],
)

METRICS = _table(
    "metrics",
    ("job", "step", "name"),
    [("job", _TEXT), ("step", pa.int64()), ("name", _TEXT), ("value", pa.float64()), ("at", _TIME)],
    volatile=("at",),
)

PAIRS = _table(
    "pairs",
    ("pair_id",),
    [
        ("pair_id", _ID),
        ("prompt_id", _ID),
        ("purpose", _TEXT),
        ("chosen", _TEXT),
        ("rejected", _TEXT),
        ("source", _TEXT),
        ("split", _TEXT),
    ],
)

LOGPROBS = _table(
    "logprobs",
    ("candidate_id",),
    [
        ("candidate_id", _ID),
        ("model", _TEXT),
        ("k", pa.int32()),
        ("token_ids", pa.list_(pa.list_(pa.int32()))),
        ("values", pa.list_(pa.list_(pa.float32()))),
    ],
)

NOTES = _table(
    "notes",
    ("note_id",),
    [("note_id", _ID), ("candidate_id", _ID), ("author", _TEXT), ("text", _TEXT), ("created_at", _TIME)],
    volatile=("created_at",),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        PROMPTS,
        CANDIDATES,
        ATTEMPTS,
        VERDICTS,
        SIGNALS,
        JUDGEMENTS,
        JUDGEMENT_ATTEMPTS,
        DECISIONS,
        MIX,
        EVALS,
        EVAL_CANDIDATES,
        ROLLOUTS,
        METRICS,
        PAIRS,
        LOGPROBS,
        NOTES,
    )
}


def equal_tables(name: str, left: pa.Table, right: pa.Table) -> bool:
    """Equality of two tables of a run: sorted by key, without the volatile columns."""
    return bool(comparable(name, left).equals(comparable(name, right)))


def comparable(name: str, table: pa.Table) -> pa.Table:
    """The part of a table that two equal runs share, in key order."""
    spec = TABLES[name]
    kept = [column for column in spec.schema.names if column not in spec.volatile]
    ordered = table.select(kept).sort_by([(column, "ascending") for column in spec.key])
    return ordered.replace_schema_metadata(None).combine_chunks()
