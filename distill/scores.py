"""A teacher's most probable tokens for every token of a data set, on the disk: what a student can learn from later.

OUT/scores.json        of which data, by which teacher, how many a token
OUT/part-00000.parquet 512 samples each: `ids` and `logprobs`, K of them a token, flat

Parts are written whole, in order; a command that was stopped goes on behind the last one.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill import training_log as log
from distill.chat import parse_template
from distill.data import Dataset, Example, load_dataset
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.saving import publish
from distill.gemma.tokenizer import Tokenizer
from filters.errors import UserError

MANIFEST = "scores.json"
_PART = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """How a data set is scored.

    Attributes:
        template, max_length: as the student will be trained, see `distill.train_settings.TrainConfig`.
        top_k: tokens kept for every target.
        rows, row_length: packed rows computed at a time, and their tokens (None: the longest sample's).
        compute: dtype of the pass; None for float32.
    """

    template: str = "gemma:r1"
    max_length: int = 1024
    top_k: int = 16
    rows: int = 8
    row_length: int | None = None
    compute: str | None = None

    def __post_init__(self) -> None:
        parse_template(self.template)
        for name in ("max_length", "top_k", "rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")


def score(
    config: ScoreConfig,
    data: str | os.PathLike[str],
    teacher: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the scores of a data set; returns the folder.

    Args:
        data: see `distill.data.load_dataset`.
        teacher: see `distill.gemma.folder.resolve_model`.
        on_progress: told samples done, of all.

    Raises:
        UserError: bad input, or a folder that holds other scores.
    """
    folder = ModelFolder.open(resolve_model(teacher))
    tokenizer = Tokenizer.load(folder.path)
    dataset = load_dataset(os.fspath(data), parse_template(config.template), tokenizer, config.max_length)
    examples = [*dataset.train, *dataset.validation]
    out = Path(out_dir)
    manifest = _manifest(config, dataset, folder, tokenizer)
    with log.disk_faults(out), log.locked(out):
        if (out / MANIFEST).is_file():
            _refuse_others(out, json.loads((out / MANIFEST).read_text(encoding="utf-8")), manifest)
        elif any(out.glob("part-*.parquet")):
            raise UserError(f"{out} holds parts and no {MANIFEST}; choose another folder")
        else:
            log.write_atomically(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        teach: Any = None
        for number, start in enumerate(range(0, len(examples), _PART)):
            chosen = examples[start : start + _PART]
            file = out / f"part-{number:05d}.parquet"
            if not file.is_file():
                teach = teach or _Teacher(folder, config, dataset.longest)
                _write_part(file, teach.top(chosen), config.top_k)
            if on_progress is not None:
                on_progress(start + len(chosen), len(examples))
    return out


def other_scores(
    config: ScoreConfig,
    data: str | os.PathLike[str],
    teacher: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
) -> str | None:
    """What makes the scores in `out_dir` others than these arguments ask for; None where nothing does.

    Raises as `score`.
    """
    file = Path(out_dir) / MANIFEST
    if not file.is_file():
        return None
    folder = ModelFolder.open(resolve_model(teacher))
    tokenizer = Tokenizer.load(folder.path)
    dataset = load_dataset(os.fspath(data), parse_template(config.template), tokenizer, config.max_length)
    there = json.loads(file.read_text(encoding="utf-8"))
    return _difference(there, _manifest(config, dataset, folder, tokenizer))


def with_scores(
    dataset: Dataset, scores: str | os.PathLike[str], template: str, tokenizer: Tokenizer
) -> None:
    """Put a teacher's scores beside the examples of the data set that they were made of, in place.

    Raises:
        UserError: they are of other data, another template or another tokenizer; or not whole.
    """
    out = Path(scores)
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out} holds no scores: make them with `distill score`")
    there = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    examples = [*dataset.train, *dataset.validation]
    now = {
        "data": dataset.fingerprint,
        "samples": len(examples),
        "template": parse_template(template).to_dict(),
        "tokenizer": tokenizer.content_hash,
    }
    for key, value in now.items():
        if there[key] != value:
            raise UserError(f"the scores in {out} have {key} {there[key]!r}, and the training {value!r}")
    found = iter(_read_parts(out, len(examples)))
    for part in (dataset.train, dataset.validation):
        for number, example in enumerate(part):
            part[number] = dataclasses.replace(example, top=next(found))


def scores_identity(scores: str | os.PathLike[str]) -> str:
    """By which teacher scores were made, and how many a token."""
    there = json.loads((Path(scores) / MANIFEST).read_text(encoding="utf-8"))
    return f"{there['teacher']}/{there['top_k']}"


def _manifest(
    config: ScoreConfig, dataset: Dataset, folder: ModelFolder, tokenizer: Tokenizer
) -> dict[str, Any]:
    return {
        "data": dataset.fingerprint,
        "samples": len(dataset.train) + len(dataset.validation),
        "template": parse_template(config.template).to_dict(),
        "max_length": config.max_length,
        "top_k": config.top_k,
        "compute": config.compute,
        "teacher": folder.content_hash,
        "tokenizer": tokenizer.content_hash,
    }


def _refuse_others(out: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    if difference := _difference(there, now):
        raise UserError(f"{out} holds other scores: {difference}. Choose another folder")


def _difference(there: dict[str, Any], now: dict[str, Any]) -> str | None:
    for key, value in now.items():
        if there.get(key) != value:
            return f"{key} is {there.get(key)!r} there and {value!r} now"
    return None


class _Teacher:
    """The teacher, its pass compiled once."""

    def __init__(self, folder: ModelFolder, config: ScoreConfig, longest: int) -> None:
        import jax
        from flax import nnx

        from distill.batches import RowShape, row_length
        from distill.gemma.checkpoint import load_model
        from distill.gemma.forward import (
            cell_logits,
            gathered_embedding,
            hidden_states,
            logit_chunk,
            over_cells,
        )

        length = config.row_length or row_length(longest, config.max_length)
        if length < longest:
            raise UserError(f"row_length {length} must hold the longest sample: {longest} tokens")
        self._shape = RowShape(_PART, rows=config.rows, length=length)
        chunk = logit_chunk(config.rows, length, folder.config.vocab_size, 1, 1)
        graph, state = nnx.split(load_model(folder, dtype=config.compute or "float32"))
        self._state = state

        def top(state: Any, tokens: Any, positions: Any, group: Any, branch: Any) -> Any:
            model = nnx.merge(graph, state)
            hidden = hidden_states(model, tokens, positions, group, branch)
            embedding, cap = gathered_embedding(model), getattr(model, "final_softcap", None)

            def of_cells(part: Any) -> Any:
                scores = cell_logits(embedding, cap, part[0])
                values, ids = jax.lax.top_k(scores, config.top_k)
                return ids, values - jax.nn.logsumexp(scores, axis=-1, keepdims=True)

            return over_cells(of_cells, (hidden,), chunk)

        self._top = jax.jit(top)

    def top(self, examples: Sequence[Example]) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """(ids, log-probabilities), (N, K) each, of every example's tokens from `Example.start` on."""
        from distill.batches import make_batch

        rows = make_batch(examples, self._shape).rows
        size = self._shape.rows
        ids: list[Any] = []
        logprobs: list[Any] = []
        for start in range(0, len(rows), size):
            columns = [
                _filled(x[start : start + size], size)
                for x in (rows.tokens, rows.positions, rows.group, rows.branch)
            ]
            for found, part in zip((ids, logprobs), self._top(self._state, *columns), strict=True):
                found.append(np.asarray(part))
        lengths = [len(example.ids) - example.start for example in examples]
        both = (np.concatenate(found)[: len(rows)] for found in (ids, logprobs))
        return list(zip(*(rows.gather(cells, lengths) for cells in both), strict=True))


def _filled(x: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    full = np.zeros((rows, *x.shape[1:]), x.dtype)
    full[: len(x)] = x
    return full


def _write_part(file: Path, found: Sequence[tuple[Any, Any]], top_k: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "ids": pa.array([ids.reshape(-1) for ids, _ in found], pa.list_(pa.int32())),
            "logprobs": pa.array([logprobs.reshape(-1) for _, logprobs in found], pa.list_(pa.float32())),
        },
        metadata={"r1_factory.table": "logprobs", "r1_factory.top_k": str(top_k)},
    )
    temporary = file.with_name(f".{file.name}.tmp-{os.getpid()}")
    pq.write_table(table, temporary, compression="zstd")
    publish(temporary, file)


def _read_parts(out: Path, samples: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for number in range(-(-samples // _PART)):
        file = out / f"part-{number:05d}.parquet"
        if not file.is_file():
            raise UserError(f"{out} is not finished: it lacks {file.name}; run `distill score` again")
        try:
            table = pq.read_table(file)
            top_k = int(table.schema.metadata[b"r1_factory.top_k"])
        except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged; remove it, and run `distill score` again") from error
        for ids, logprobs in zip(table["ids"], table["logprobs"], strict=True):
            found.append(
                (
                    np.asarray(ids.values, np.int32).reshape(-1, top_k),
                    np.asarray(logprobs.values, np.float32).reshape(-1, top_k),
                )
            )
    return found
