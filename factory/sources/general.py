"""Plain instructions with plain answers: the non-reasoning quarter of a mix.

`generated_general` writes small ones by rule, for models too small to learn anything longer;
`file_general` reads real instruction data.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filters.errors import UserError

_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jonas", "Kira", "Leo")
_THINGS = (
    "tiger",
    "river",
    "bread",
    "cloud",
    "stone",
    "lamp",
    "apple",
    "train",
    "winter",
    "garden",
    "violin",
    "bridge",
)
_COLOURS = ("red", "green", "blue", "yellow", "white", "black")
_OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "fast": "slow",
    "early": "late",
    "open": "closed",
    "light": "dark",
}
_GREETINGS = {"morning": "Good morning", "evening": "Good evening", "day": "Hello"}


_MISSES = 100_000
"""So many draws in a row without anything new mean that there is nothing new."""


def _greet(rng: random.Random) -> tuple[str, str]:
    name, part = rng.choice(_NAMES), rng.choice(sorted(_GREETINGS))
    return f"It is {part}. Greet {name}.", f"{_GREETINGS[part]}, {name}!"


def _repeat(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(_THINGS, rng.randint(2, 4))
    return f"Repeat these words: {', '.join(words)}.", ", ".join(words)


def _opposite(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(sorted(_OPPOSITES))
    thing = rng.choice(_THINGS)
    return f"The {thing} is {word}. Say the opposite.", f"The {thing} is {_OPPOSITES[word]}."


def _colour(rng: random.Random) -> tuple[str, str]:
    name, colour, thing = rng.choice(_NAMES), rng.choice(_COLOURS), rng.choice(_THINGS)
    return f"{name} has a {colour} {thing}. What colour is the {thing}?", f"The {thing} is {colour}."


def _who(rng: random.Random) -> tuple[str, str]:
    (first, second), (one, other) = rng.sample(_NAMES, 2), rng.sample(_THINGS, 2)
    return (
        f"{first} likes the {one} and {second} likes the {other}. Who likes the {other}?",
        f"{second} does.",
    )


_KINDS: tuple[Callable[[random.Random], tuple[str, str]], ...] = (_greet, _repeat, _opposite, _colour, _who)


def generated_general(seed: int) -> Iterator[dict[str, Any]]:
    """Small instructions, none twice, until the templates have no more (about 31,000).

    Item i depends on (seed, i) and on the items before it.
    """
    seen: set[str] = set()
    index = misses = 0
    while misses < _MISSES:
        rng = random.Random(f"general:{seed}:{index}")
        question, answer = rng.choice(_KINDS)(rng)
        misses += 1
        if question not in seen:
            seen.add(question)
            misses = 0
            yield {
                "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
                "language": "en",
                "licence": "Apache-2.0",
                "source": "general/generated",
                "origin": {"kind": "general", "file": None, "row": index},
            }
        index += 1


def file_general(path: Path, *, licence: str, language: str) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL or Parquet file with `messages`, or with `question` and `answer`.

    Raises:
        UserError: a missing file, or a row that is neither; names file and row.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path} for the general component of the mix")
    for number, row in enumerate(_file_rows(path), start=1):
        messages = row.get("messages")
        if messages is None and isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
            messages = [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        if not _is_conversation(messages):
            raise UserError(
                f"{path}, row {number}: expected `messages` that end with the assistant, or `question` and `answer`"
            )
        yield {
            "messages": [{"role": m["role"], "content": m["content"]} for m in messages or ()],
            "language": row.get("language") or language,
            "licence": row.get("licence") or row.get("license") or licence,
            "source": f"general/{path.name}",
            "origin": {"kind": "general", "file": path.name, "row": number},
        }


def _is_conversation(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and len(messages) >= 2
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
        and messages[-1]["role"] == "assistant"
    )


def _file_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: expected an object")
            yield row
