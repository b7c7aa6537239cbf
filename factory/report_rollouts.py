"""The samples behind a point: for a few steps of a training by reinforcement, a handful of what was drawn.

They stand in the page, so that it needs no server; how many bytes they may take is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from factory.query import rows
from factory.report_text import clip
from factory.teacher.telemetry import REFLECTION_WORDS

if TYPE_CHECKING:
    import duckdb

STEPS_SHOWN = 12
SAMPLES_OF_A_STEP = 6

_WORDS = "|".join(REFLECTION_WORDS)
_REFLECTION = re.compile(rf"\b({_WORDS})\b", re.IGNORECASE)

_FACTS = rf"""
select "group", sample_index, reward, reasoning_tokens, outcome, masked_because,
       md5(coalesce(prompt_id, '') || ' ' || sample_index) as drawn,
       len(regexp_extract_all(coalesce(completion, ''), '(?i)\b({_WORDS})\b')) as reflections
from rollouts where job = ? and step = ?
"""
_TEXTS = """
select r.*, p.question, p.reference, p.domain, p.verifier
from rollouts r
join (select unnest(?::int[]) as "group", unnest(?::int[]) as sample_index) chosen using ("group", sample_index)
left join prompts p on p.prompt_id = r.prompt_id
where r.job = ? and r.step = ?
"""


def shown_steps(connection: duckdb.DuckDBPyConnection, job: str) -> dict[int, str]:
    """Steps whose samples are shown, with what is special about them.

    They are spread over the training, its first and its last among them; one is the step in which the most
    reflection words were written.
    """
    found = rows(connection, "select distinct step from rollouts where job = ? order by step", [job])
    steps = [row["step"] for row in found]
    if not steps:
        return {}
    richest = rows(
        connection,
        "select step from metrics where job = ? and name = 'reflection' and isfinite(value) and value > 0 "
        "and step in (select unnest(?)) order by value desc, step limit 1",
        [job, steps],
    )
    chosen = dict.fromkeys(spread(steps, STEPS_SHOWN), "")
    for row in richest:
        if row["step"] not in chosen and len(chosen) == STEPS_SHOWN:
            chosen = dict.fromkeys(spread(steps, STEPS_SHOWN - 1), "")
        if len(steps) > 1:
            chosen[row["step"]] = "the most reflection words"
    return dict(sorted(chosen.items()))


def spread(values: Sequence[int], number: int) -> list[int]:
    """At most `number` of the values at equal distances, the first and the last among them."""
    if len(values) <= number:
        return list(values)
    return [values[round(i * (len(values) - 1) / (number - 1))] for i in range(number)]


def step_panels(
    connection: duckdb.DuckDBPyConnection, job: str, steps: Mapping[int, str], budget: int
) -> list[dict[str, Any]]:
    """One entry a step: figures of all its samples, and a handful of them to read.

    Args:
        steps: as `shown_steps` chose them.
        budget: bytes that the texts may take together, escaped.
    """
    # Step by step: the tables of a long training are large, and a step stands close together in them.
    share = budget // (max(len(steps), 1) * SAMPLES_OF_A_STEP)
    panels = []
    for step, note in steps.items():
        facts = rows(connection, _FACTS, [job, step])
        roles = choose(facts)
        groups, indices = map(list, zip(*roles, strict=True))
        texts = rows(connection, _TEXTS, [groups, indices, job, step])
        by_key = {(row["group"], row["sample_index"]): row for row in texts}
        shown = [card(by_key[key], why, share) for key, why in roles.items()]
        panels.append({"step": step, "note": note, **_figures(facts), "samples": shown})
    return panels


def _figures(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rewards = [row["reward"] for row in facts if row["reward"] is not None]
    return {
        "drawn": len(facts),
        "questions": len({row["group"] for row in facts}),
        "correct": sum(row["outcome"] == "correct" for row in facts),
        "masked": len(facts) - len(rewards),
        "reward": sum(rewards) / len(rewards) if rewards else None,
    }


def choose(facts: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list[str]]:
    """(group, sample) -> why it is shown: the best, median and worst reward, and what else a reader looks for.

    Among equals the hash decides, so the page is the same every time.
    """
    chosen: dict[tuple[int, int], list[str]] = {}

    def take(row: Mapping[str, Any], why: str) -> None:
        found = chosen.setdefault((row["group"], row["sample_index"]), [])
        if why:
            found.append(why)

    ranked = sorted(facts, key=lambda row: row["drawn"])
    rewarded = sorted((r for r in ranked if r["reward"] is not None), key=lambda r: -r["reward"])
    if rewarded:
        take(rewarded[0], "highest reward")
        worst = next(r for r in rewarded if r["reward"] == rewarded[-1]["reward"])
        take(rewarded[len(rewarded) // 2], "median reward")
        take(worst, "lowest reward")
    reflecting = [row for row in ranked if row["reflections"]]
    if reflecting:
        take(max(reflecting, key=lambda row: row["reflections"]), "most reflection words")
    if any(row["reasoning_tokens"] for row in ranked):
        take(max(ranked, key=lambda row: row["reasoning_tokens"] or 0), "longest reasoning")
    masked = [row for row in ranked if row["masked_because"] is not None]
    if masked:
        take(masked[0], "masked")
    for row in ranked:
        if len(chosen) >= SAMPLES_OF_A_STEP:
            break
        take(row, "")
    return chosen


def card(row: Mapping[str, Any], roles: Iterable[str], budget: int) -> dict[str, Any]:
    """A sample as it is shown, within about `budget` bytes."""
    return {
        **row,
        "roles": list(roles),
        "question": clip(row["question"] or "(the question is not in this run)", budget // 6),
        "reference": None if row["reference"] is None else clip(row["reference"], budget // 20),
        "masked_because": clip(row["masked_because"] or "", budget // 20),
        "parts": _parts(row["rewards"]),
        "length": len(row["completion"] or ""),
        "completion": highlighted(row["completion"] or "", budget * 2 // 3),
    }


def _parts(text: str | None) -> list[tuple[str, float | None]]:
    """Parts of a reward; what cannot be read is left out, for the page must not fail by one row."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return []
    if not isinstance(found, dict):
        return []
    return [(str(k), v) for k, v in found.items() if v is None or isinstance(v, int | float)]


def highlighted(text: str, limit: int) -> Markup:
    """Escaped text with its reflection words marked, in about `limit` bytes; without marks where they take too much."""
    shown = clip(text, limit)
    ends = [0, *(end for match in _REFLECTION.finditer(shown) for end in match.span()), len(shown)]
    parts = [
        Markup("<mark>{}</mark>").format(shown[start:end]) if index % 2 else escape(shown[start:end])
        for index, (start, end) in enumerate(pairwise(ends))
    ]
    marked = Markup("").join(parts)
    return marked if len(marked.encode()) <= limit * 5 // 4 else escape(shown)
