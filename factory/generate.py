"""Prompts x samples -> candidates: what is still to be drawn, and keeping what was drawn.

A candidate's id says which answer it is (prompt, way of sampling, index) and not when it was drawn, so going
on after any stop is: list the ids that are wanted, leave out those that are there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.engines import Completion, Engine, Failure, SampleRequest
from factory.records import candidate_id, sample_seed
from factory.store import Run, TableWriter, now
from filters.errors import UserError

log = logging.getLogger(__name__)

FLUSH_ROWS = 256
FLUSH_SECONDS = 1.0
ATTEMPTS = 3


@dataclass(frozen=True)
class Plan:
    """What a generate stage wants, whether or not it is there yet.

    Attributes:
        prompts: prompt rows (at least prompt_id and messages).
        generation: id of the way of sampling.
        n: samples a prompt.
        run_seed: seed of the run; every sample's own seed is drawn from it and the candidate's id.
    """

    prompts: list[dict[str, Any]]
    generation: str
    n: int
    run_seed: int

    @property
    def total(self) -> int:
        return len(self.prompts) * self.n

    def ids(self) -> Iterator[tuple[str, dict[str, Any], int]]:
        """(candidate_id, prompt row, sample index), the samples of a prompt side by side."""
        for prompt in self.prompts:
            for index in range(self.n):
                yield candidate_id(prompt["prompt_id"], self.generation, index), prompt, index


@dataclass
class Progress:
    """Counts of a running generation.

    Attributes:
        total, done, resumed: samples wanted, there, and there before this process began.
        tokens: completion tokens drawn. truncated: samples cut off at their length limit.
        left_out: prompts too long, in samples. failed: requests that failed to the end.
        clock: when the first results came, after compilation; rates count from there.
        warm_tokens, warm_done: what had come by then.
    """

    total: int
    done: int = 0
    resumed: int = 0
    tokens: int = 0
    truncated: int = 0
    left_out: int = 0
    failed: int = 0
    clock: float | None = None
    warm_tokens: int = 0
    warm_done: int = 0

    def advance(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count rows that are on the disk now."""
        self.done += len(rows)
        self.tokens += sum(row["completion_tokens"] for row in rows)
        self.truncated += sum(row["finish_reason"] == "length" for row in rows)
        if self.clock is None and rows:
            self.clock, self.warm_tokens, self.warm_done = time.monotonic(), self.tokens, self.done

    @property
    def tokens_per_second(self) -> float | None:
        """Completion tokens a second since the first results; None before the second."""
        if self.clock is None or self.tokens == self.warm_tokens:
            return None
        return (self.tokens - self.warm_tokens) / max(time.monotonic() - self.clock, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        if self.clock is None or self.done == self.warm_done:
            return None
        per_sample = (time.monotonic() - self.clock) / (self.done - self.warm_done)
        return per_sample * (self.total - self.done - self.left_out)


def generate(
    run: Run,
    plan: Plan,
    engine: Engine,
    *,
    template: str,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Draw every candidate of `plan` that the run does not hold yet.

    Completions are written to the journal in batches of at most `FLUSH_SECONDS`; those that a crash takes
    with it were never reported as done, and are drawn again with the same seed.

    Raises:
        UserError: the disk is full or another process writes the same slice.
    """
    progress = Progress(plan.total)
    with run.writer("candidates") as candidates, run.writer("attempts") as attempts:
        wanted = {key: (prompt, index) for key, prompt, index in plan.ids()}
        todo = [key for key in wanted if key not in candidates.keys]
        _refuse_other_seed(run, wanted.keys(), plan.run_seed)
        progress.resumed = progress.done = len(wanted) - len(todo)
        on_progress(progress)
        # Attempts of an interrupted run keep their numbers; a prompt too long fails the same way again.
        earlier = Counter(key for key, _ in attempts.keys)
        for attempt in range(1, ATTEMPTS + 1):
            pending = _Pending(
                candidates, attempts, plan, template, engine, progress, on_progress, attempt, earlier
            )
            for result in engine.sample(_requests(todo, wanted, plan.run_seed)):
                pending.add(result, wanted)
            pending.flush()
            todo = pending.to_retry
            if not todo:
                break
            log.warning(
                "%d requests failed and are asked again (attempt %d of %d)", len(todo), attempt, ATTEMPTS
            )
        progress.failed = len(todo)
    return progress


def _refuse_other_seed(run: Run, wanted: Collection[str], run_seed: int) -> None:
    """Samples that are kept must be those that this seed draws.

    Raises:
        UserError: they were drawn with another.
    """
    table = run.read("candidates", ["candidate_id", "seed"])
    for key, seed in zip(table["candidate_id"].to_pylist(), table["seed"].to_pylist(), strict=True):
        if key in wanted and seed is not None and seed != sample_seed(run_seed, key):
            raise UserError(
                f"{run.folder} holds samples of the same teacher and settings that another seed drew. Set `seed` back, "
                f"or choose another --run for seed {run_seed}"
            )


def _requests(
    keys: list[str], wanted: Mapping[str, tuple[dict[str, Any], int]], run_seed: int
) -> Iterator[SampleRequest]:
    for key in keys:
        prompt, _ = wanted[key]
        yield SampleRequest(key, tuple(prompt["messages"]), sample_seed(run_seed, key))


@dataclass
class _Pending:
    """Results that are not on the disk yet."""

    candidates: TableWriter
    attempts: TableWriter
    plan: Plan
    template: str
    engine: Engine
    progress: Progress
    on_progress: Callable[[Progress], None]
    attempt: int
    earlier: Mapping[str, int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    to_retry: list[str] = field(default_factory=list)
    last_flush: float = field(default_factory=time.monotonic)

    def add(self, result: Completion | Failure, wanted: Mapping[str, tuple[dict[str, Any], int]]) -> None:
        if isinstance(result, Failure):
            self._fail(result)
        else:
            prompt, index = wanted[result.key]
            self.rows.append(self._row(result, prompt, index))
        if len(self.rows) >= FLUSH_ROWS or time.monotonic() - self.last_flush > FLUSH_SECONDS:
            self.flush()

    def _fail(self, failure: Failure) -> None:
        self.failures.append(
            {
                "candidate_id": failure.key,
                "attempt": self.attempt + (0 if failure.permanent else self.earlier.get(failure.key, 0)),
                "error_class": failure.error_class,
                "message": failure.message,
                "at": now(),
            }
        )
        if failure.permanent:
            self.progress.left_out += 1
        else:
            self.to_retry.append(failure.key)

    def _row(self, result: Completion, prompt: Mapping[str, Any], index: int) -> dict[str, Any]:
        logprobs = result.logprobs
        return {
            "candidate_id": result.key,
            "prompt_id": prompt["prompt_id"],
            "generation_id": self.plan.generation,
            "sample_index": index,
            "stage": "generate",
            "parent_id": None,
            "segment": 0,
            "engine": self.engine.name,
            "model": self.engine.model_hash,
            "template": self.template,
            "seed": sample_seed(self.plan.run_seed, result.key),
            "completion": result.text,
            "token_ids": None if result.token_ids is None else list(result.token_ids),
            "token_logprobs": None if logprobs is None else list(logprobs),
            "finish_reason": result.finish_reason,
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "logprob_mean": sum(logprobs) / len(logprobs) if logprobs else None,
            "latency_s": result.latency_s,
            "created_at": now(),
        }

    def flush(self) -> None:
        """Make the results durable, then count them as done."""
        self.candidates.append(self.rows)
        self.attempts.append(self.failures)
        self.progress.advance(self.rows)
        self.rows, self.failures = [], []
        self.last_flush = time.monotonic()
        self.on_progress(self.progress)
