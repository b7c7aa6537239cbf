"""Prompts from reasoning-gym: any of its tasks with any of its configs, graded by its own scorer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

from factory.records import canonical_json, question_hash
from factory.sources.config import ReasoningGymSource, Rung, nearest
from factory.sources.rows import PromptParts, Shares, json_safe, make_prompt, split_for
from filters.errors import UserError
from filters.verifiers.puzzle import load_reasoning_gym

log = logging.getLogger(__name__)

DRY_AFTER = 500
"""A task is taken for exhausted after this many draws in a row that brought nothing new."""

_RESERVED = {"size", "seed"}


def check(spec: ReasoningGymSource) -> None:
    """Check tasks and configs by building each task once.

    Raises:
        UserError: an unknown task or config key (names the nearest), a config the task refuses, or neither
            `size` nor `quotas`.
    """
    if spec.size is None and spec.quotas is None:
        raise UserError(
            f"source {spec.label}: reasoning-gym never ends; say how many questions by size or quotas"
        )
    for rung in spec.rungs:
        _build(rung, seed=spec.seed, size=1)


def prompts(spec: ReasoningGymSource, splits: Shares) -> Iterator[dict[str, Any]]:
    """The questions of every rung in turn; a warning where a task has fewer than were asked for."""
    seen: set[str] = set()
    for rung, wanted in zip(spec.rungs, _allocate(spec), strict=True):
        if not wanted:
            continue
        drawn = _Draw(spec, rung, splits, wanted, seen)
        yield from drawn.rows()
        missing = sum(drawn.wanted.values())
        if missing:
            log.warning(
                "source %s: task %s has run dry, %d of %d questions could not be made",
                spec.label, rung.task, missing, sum(wanted.values()),
            )  # fmt: skip


# ------------------------------------------------------------------------------------- the same problem


def problem_of(task: str, metadata: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What a question asks, whatever the order of its numbers and its wording; None for tasks without such a rule.

    Args:
        metadata: of the package's entry.
    """
    if task == "chain_sum":
        parts = ["+", *str(metadata["expression"]).split()]
        return (task, tuple(sorted(zip(parts[::2], parts[1::2], strict=True))))
    if task == "leg_counting":
        return (task, tuple(sorted(metadata["animals"].items())))
    if task in ("gcd", "lcm", "countdown"):
        return (task, tuple(sorted(metadata["numbers"])), metadata.get("target"))
    return None


def problem_of_prompt(row: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The same of a row of `prompts`; None where it is of another grader."""
    if row["verifier"] != "puzzle":
        return None
    arguments = json.loads(row["verifier_args"])
    return problem_of(arguments["task"], arguments["entry"].get("metadata") or {})


def without_held_out_problems(rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Leave out training questions that ask what a held-out one asks, in other words or another order.

    Splits are by the text of a question, so "gcd of 12, 8" may be held out and "gcd of 8, 12" learnt from.

    Returns:
        the rows that stay, and how many went.
    """
    rows = list(rows)
    problems = [problem_of_prompt(row) for row in rows]
    held = {
        problem
        for row, problem in zip(rows, problems, strict=True)
        if problem is not None and (row["split"] != "train" or row["evaluation_only"])
    }
    kept = [
        row
        for row, problem in zip(rows, problems, strict=True)
        if problem not in held or row["split"] != "train" or row["evaluation_only"]
    ]
    return kept, len(rows) - len(kept)


# ---------------------------------------------------------------------------------------- allocation

ANY = "any"
"""Key of an amount that does not name a split."""


def _allocate(spec: ReasoningGymSource) -> list[dict[str, int]]:
    """How many questions of each split every rung has to make."""
    amounts = {str(split): amount for split, amount in (spec.quotas or {}).items()}
    if spec.size is not None:
        amounts = {ANY: spec.size}
    out: list[dict[str, int]] = [{} for _ in spec.rungs]
    for split, amount in amounts.items():
        # A held-out rung has questions for the test split alone, whoever asks.
        takers = [
            i
            for i, rung in enumerate(spec.rungs)
            if rung.weight > 0 and (split in (ANY, "test") or not rung.heldout_rung)
        ]
        if not takers and amount:
            raise UserError(f"source {spec.label}: all tasks are held out, there are no {split} questions")
        for i, share in zip(takers, _apportion(amount, [spec.rungs[i].weight for i in takers]), strict=True):
            if share:
                out[i][split] = share
    return out


def _apportion(amount: int, weights: list[float]) -> list[int]:
    """Whole numbers in proportion to the weights that sum to `amount` (largest remainder)."""
    exact = [amount * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: amount - sum(counts)]:
        counts[i] += 1
    return counts


# ------------------------------------------------------------------------------------------- drawing


@dataclass
class _Draw:
    """Draws the questions of one rung until its amounts are met or the task runs dry."""

    spec: ReasoningGymSource
    rung: Rung
    splits: Shares
    amounts: dict[str, int]
    seen: set[str]

    def __post_init__(self) -> None:
        self.wanted = dict(self.amounts)
        self.seed = self.spec.seed if self.spec.task is not None else _seed_of(self.spec.seed, self.rung)
        self.size = self._size()
        self.dataset = _build(self.rung, seed=self.seed, size=self.size)
        self.category = str(self.dataset.category)

    def rows(self) -> Iterator[dict[str, Any]]:
        repeats = 0
        for index in range(self.size):
            if repeats >= DRY_AFTER or not any(self.wanted.values()):
                return
            try:
                entry = self.dataset[index]
            except IndexError:  # a task with a fixed stock of items
                return
            digest = question_hash(entry["question"])
            if digest in self.seen:
                repeats += 1
                continue
            repeats = 0
            key = self._taken_as(digest)
            if key is None:
                continue
            self.seen.add(digest)
            self.wanted[key] -= 1
            yield self._row(entry, index, digest)

    def _taken_as(self, digest: str) -> str | None:
        """The amount that this question counts against; None where it is not wanted."""
        split = split_for(digest, self.splits, evaluation_only=self.spec.evaluation_only)
        if self.rung.heldout_rung and split != "test":
            return None
        key = ANY if ANY in self.wanted else split
        return key if self.wanted.get(key, 0) > 0 else None

    def _size(self) -> int:
        """Draws that more than suffice: rare splits need several draws a question, small tasks repeat."""
        rarest = 1.0
        if not self.spec.evaluation_only:
            shares = {"test": self.splits.test, "validation": self.splits.validation}
            shares["train"] = 1 - sum(shares.values())
            needed = {"test"} if self.rung.heldout_rung else {key for key in self.amounts if key != ANY}
            for split in sorted(needed):
                if shares[split] <= 0:
                    raise UserError(
                        f"source {self.spec.label}: {split} questions are wanted, but the share is 0"
                    )
                rarest = min(rarest, shares[split])
        return 1000 + 4 * int(sum(self.amounts.values()) / rarest)

    def _row(self, entry: dict[str, Any], index: int, digest: str) -> dict[str, Any]:
        args: dict[str, Any] = {"task": self.rung.task, "entry": json_safe(entry)}
        if self.rung.config:  # some scorers read their task's config
            args["config"] = json_safe(self.rung.config)
        meta = {
            "generator": "reasoning_gym",
            "generator_version": version("reasoning-gym"),
            "task": self.rung.task,
            "rung": self.rung.rung,
            "heldout_rung": self.rung.heldout_rung,
            "config": json_safe(self.rung.config),
            "size": self.size,
            "seed": self.seed,
            "index": index,
        }
        answer = entry["answer"]
        parts = PromptParts(
            question=str(entry["question"]),
            reference=None if answer is None else str(answer),
            verifier="puzzle",
            verifier_args=args,
            domain=self.rung.domain or self.spec.domain or self.category,
            language=self.spec.language,
            licence=self.spec.licence or "Apache-2.0",
            meta=meta,
        )
        return make_prompt(self.spec, parts, self.splits, digest)


def _seed_of(seed: int, rung: Rung) -> int:
    text = f"{seed}:{rung.task}:{canonical_json(json_safe(rung.config))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _build(rung: Rung, *, seed: int, size: int) -> Any:
    """Build one task of reasoning-gym.

    Raises:
        UserError: no such task, no such config key, or a value the task refuses.
    """
    registry = load_reasoning_gym().factory
    known = registry.DATASETS.keys() - {"composite"}
    if rung.task not in known:
        near = nearest(rung.task, known)
        hint = f"did you mean {near!r}?" if near else f"its gallery lists the {len(known)} there are"
        raise UserError(f"reasoning-gym has no task {rung.task!r}; {hint}")
    keys = {field.name for field in fields(registry.DATASETS[rung.task][1])} - _RESERVED
    for key in rung.config:
        if key in _RESERVED:
            raise UserError(f"task {rung.task}: {key!r} is set beside the task, not in its config")
        if key not in keys:
            near = nearest(key, keys)
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join(sorted(keys)) or 'none'}"
            raise UserError(f"task {rung.task} has no config key {key!r}; {hint}")
    try:
        return registry.create_dataset(rung.task, seed=seed, size=size, **rung.config)
    except (AssertionError, ValueError, TypeError, KeyError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"task {rung.task} refuses its config {dict(rung.config)}: {reason}") from error
