"""The set to train on: accepted reasoning samples and plain instructions, split by prompt."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.chat import parse_template
from factory.files import TEMPORARY_PREFIX, disk_errors, fsync_folder
from factory.query import rows
from factory.records import MIX, content_id, question_hash, split_of
from factory.sources.general import file_general, generated_general
from factory.store import Run, write_parquet
from filters.errors import UserError
from filters.tags import TAG_STYLES

if TYPE_CHECKING:
    import duckdb

    from factory.recipe import Mix

SHARD_ROWS = 50_000

_ACCEPTED = """
select c.candidate_id, c.completion, c.template, c.completion_tokens, c.engine, p.question, p.messages,
       p.question_hash, p.domain, p.source, p.licence, s.language, coalesce(p.language, 'en') as target_language,
       t.n_samples, t.n_judged, t.n_correct
from decisions d
join candidates c using (candidate_id)
join prompts p on p.prompt_id = c.prompt_id
left join signal s using (candidate_id)
left join prompt_stats t on t.prompt_id = c.prompt_id and t.generation_id = c.generation_id
where d.mix = ? and d.accepted
order by c.candidate_id
"""


def build_mix(
    run: Run, name: str, mix: Mix, connection: duckdb.DuckDBPyConnection
) -> tuple[list[Path], dict[str, int]]:
    """Write `RUN/mix/NAME` from the accepted candidates and the general component.

    Returns:
        the files, and counts by component and split.

    Raises:
        UserError: nothing was accepted, or the general source has too few rows.
    """
    accepted = rows(connection, _ACCEPTED, [name])
    if not accepted:
        raise UserError(f"mix {name}: no candidate was accepted ({_why_none(connection, name)})")
    samples = [_reasoning_sample(row, mix) for row in accepted]
    samples += list(_general_samples(mix, len(samples)))
    unique = {sample["sample_id"]: sample for sample in samples}
    ordered = sorted(unique.values(), key=lambda sample: _order(mix.seed, sample["sample_id"]))
    counts: dict[str, int] = {}
    for sample in ordered:
        for key in (sample["component"], sample["split"]):
            counts[key] = counts.get(key, 0) + 1
    return _write(run.folder / "mix" / name, ordered), counts


def _why_none(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    sql = "select reason, count(*) n from decisions, unnest(reasons) t(reason) where mix = ? group by 1 order by 2 desc"
    found = rows(connection, sql, [name])
    text = ", ".join(f"{row['reason']}: {row['n']}" for row in found[:5]) or "there was none to decide on"
    if any(row["reason"] == "unverifiable" for row in found):
        text += "; questions without a reference cannot be verified: take what is readable instead"
        text += " (require_correct: false, or `factory generate --keep readable --from select`)"
    return text


def _order(seed: int, sample_id: str) -> bytes:
    return hashlib.sha256(f"mix:{seed}:{sample_id}".encode()).digest()


def _reasoning_sample(row: Mapping[str, Any], mix: Mix) -> dict[str, Any]:
    """One accepted candidate in the mix's tag style. A completion that cannot be divided stays as it is."""
    parsed = parse_template(row["template"]).style.parse(row["completion"])
    style = TAG_STYLES[mix.tag_style]
    if parsed.answer is not None:
        content = style.format(parsed.reasoning, parsed.answer)
    else:
        content = row["completion"]
    messages = [*({"role": m["role"], "content": m["content"]} for m in row["messages"])]
    messages.append({"role": "assistant", "content": content})
    kind = "imported" if row["engine"] == "imported" else "generated"
    return _sample(
        messages=messages,
        origin={"kind": kind, "candidate_id": row["candidate_id"]},
        question=row["question"],
        reasoning=parsed.reasoning,
        answer=parsed.answer if parsed.answer is not None else row["completion"],
        component="reasoning",
        split=_split(row["question_hash"], mix),
        domain=row["domain"],
        language=row["language"] or row["target_language"],
        tokens=row["completion_tokens"],
        n_samples=row["n_samples"],
        n_judged=row["n_judged"],
        n_correct=row["n_correct"],
        source=row["source"],
        licence=row["licence"],
    )


def _general_samples(mix: Mix, reasoning: int) -> Iterator[dict[str, Any]]:
    """As many plain samples as make `share` of the whole."""
    if mix.general is None:
        return
    wanted = round(reasoning * mix.general.share / (1 - mix.general.share))
    if mix.general.max_samples is not None:
        wanted = min(wanted, mix.general.max_samples)
    got = 0
    for row in islice(_general_rows(mix), wanted):
        messages = row["messages"]
        question = next((m["content"] for m in messages if m["role"] == "user"), "")
        got += 1
        yield _sample(
            messages=messages,
            origin=row["origin"],
            question=question,
            reasoning=None,
            answer=messages[-1]["content"],
            component="general",
            split=_split(question_hash(question), mix),
            domain="general",
            language=row["language"],
            tokens=None,
            source=row["source"],
            licence=row["licence"],
        )
    if got < wanted:
        raise UserError(
            f"the general component wants {wanted} samples (share {mix.general.share}) and its source has {got}; "
            "lower general.share, set general.max_samples, or give more rows"
        )


def _general_rows(mix: Mix) -> Iterable[dict[str, Any]]:
    assert mix.general is not None
    source = mix.general.source
    if source.kind == "generated":
        return generated_general(source.seed)
    return file_general(source.path, licence=source.licence, language=source.language)


def _split(hash_hex: str, mix: Mix) -> str:
    """By prompt, with a hash of its own: the shares of the run's held-out splits do not shift it."""
    salted = hashlib.sha256(f"mix-split:{hash_hex}".encode()).hexdigest()
    return split_of(salted, validation=mix.validation, test=0.0)


def _sample(*, messages: list[dict[str, str]], origin: dict[str, Any], **columns: Any) -> dict[str, Any]:
    full = {
        "kind": None,
        "repo": None,
        "revision": None,
        "file": None,
        "row": None,
        "candidate_id": None,
        **origin,
    }
    return {
        "sample_id": content_id({"messages": messages, "origin": full}),
        "messages": messages,
        "origin": full,
        "weight": 1.0,
        **columns,
    }


def _write(folder: Path, samples: list[dict[str, Any]]) -> list[Path]:
    """Write the shards beside the old ones and swap the folders, so a reader never sees a half of each."""
    fresh = folder.parent / f"{TEMPORARY_PREFIX}{folder.name}"
    with disk_errors(folder):
        shutil.rmtree(fresh, ignore_errors=True)
        for number, start in enumerate(range(0, len(samples), SHARD_ROWS)):
            table = MIX.rows_to_arrow(samples[start : start + SHARD_ROWS])
            write_parquet(fresh / f"part-{number:06d}.parquet", table)
        if folder.exists():
            old = folder.parent / f"{TEMPORARY_PREFIX}old-{folder.name}"
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
        fsync_folder(folder.parent)
    return sorted(folder.glob("part-*.parquet"))
