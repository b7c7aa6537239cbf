"""How often a model answers right while it is trained: asked with its weights as they are, graded by `filters`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.chat import Template, encode_prompt, stop_ids
from distill.data import read_rows, refuse_half_characters
from distill.gemma.tokenizer import Tokenizer
from filters.errors import UserError
from filters.stats import SampleScore, summarise
from filters.verifiers import OptionError, open_case
from filters.workers import GradeTask, WorkerPool

_COLUMNS = ("messages", "question", "reference", "verifier", "verifier_args", "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledAccuracy:
    """Questions that are answered whenever the validation loss is measured.

    Attributes:
        questions: Parquet or JSONL, a file or a folder; rows have `messages` or `question`, `reference` and
            `verifier`, and may have `verifier_args` and `split`, as the table `prompts` of a run has. Where there
            are splits, those of validation are asked.
        count: questions asked; which they are is a function of their text alone.
        samples: answers a question.
        max_new_tokens, temperature, top_p: of an answer. Its noise is the same at every step.
        rollout_rows: answers that are written at a time.
    """

    questions: str
    count: int = 64
    samples: int = 1
    max_new_tokens: int = 256
    temperature: float = 0.6
    top_p: float = 0.95
    rollout_rows: int = 32

    def __post_init__(self) -> None:
        for name in ("count", "samples", "max_new_tokens", "rollout_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.temperature >= 0.0 and math.isfinite(self.temperature) and 0.0 < self.top_p <= 1.0):
            raise UserError(
                f"temperature must not be negative and top_p in (0, 1], got {self.temperature} and {self.top_p}"
            )


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt that can be graded."""

    messages: list[dict[str, str]]
    text: str
    reference: str | None
    verifier: str
    options: Mapping[str, Any]


def load_questions(settings: SampledAccuracy) -> list[Question]:
    """The questions that will be asked.

    Raises:
        UserError: nothing there, or a row that cannot be graded (with file and row).
    """
    found: list[Question] = []
    for where, row in read_rows(settings.questions, _COLUMNS):
        if row.get("split") in (None, "validation"):
            found.append(_question(row, where))
    if not found:
        raise UserError(f"{settings.questions}: no question to ask; rows need the split validation, or none")
    found.sort(key=lambda question: hashlib.sha256(question.text.encode()).digest())
    return found[: settings.count]


def _question(row: Mapping[str, Any], where: str) -> Question:
    messages = row.get("messages") or [{"role": "user", "content": row.get("question")}]
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise UserError(f"{where}: a question needs messages of role and content, or a text `question`")
    text = row.get("question") or messages[-1]["content"]
    verifier, options = row.get("verifier"), row.get("verifier_args") or {}
    if not isinstance(verifier, str):
        raise UserError(f"{where}: no verifier; it says how an answer is graded, see `docs/graders.md`")
    try:
        options = json.loads(options) if isinstance(options, str) else options
    except ValueError as error:
        raise UserError(f"{where}: verifier_args is not JSON: {error}") from error
    if not isinstance(options, Mapping):
        raise UserError(f"{where}: verifier_args must be an object, got {options!r}")
    for value in (text, row.get("reference"), *(message["content"] for message in messages)):
        if isinstance(value, str):
            refuse_half_characters(value, f"{where}: the question or its reference")
    plain = [{"role": m["role"], "content": m["content"]} for m in messages]
    try:
        open_case(verifier, text, row.get("reference"), "", options)
    except OptionError as error:
        raise UserError(f"{where}: it cannot be graded: {error}") from error
    return Question(plain, text, row.get("reference"), verifier, options)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(k), str) for k in ("role", "content"))


class AccuracyProbe:
    """Asks a model that is being trained.

    Args:
        model: its weights are read anew at every measurement.
        template: how questions are laid out, and where an answer stands.
        seed: of the answers.
        mesh, dtype: as the training's.
    """

    def __init__(
        self,
        settings: SampledAccuracy,
        model: Any,
        template: Template,
        tokenizer: Tokenizer,
        *,
        seed: int,
        mesh: Any = None,
        dtype: str | None = None,
    ) -> None:
        from distill.gemma.sampler import Sampler, SamplingConfig

        self._settings, self._style, self._tokenizer, self._seed = settings, template.style, tokenizer, seed
        self._questions = load_questions(settings)
        self._prompts = [tuple(encode_prompt(q.messages, template, tokenizer)) for q in self._questions]
        self._stops = frozenset(stop_ids(tokenizer))
        self._sampler = Sampler(
            model,
            sampling=SamplingConfig(settings.max_new_tokens, settings.temperature, settings.top_p),
            prompt_length=max(map(len, self._prompts)),
            batch_size=min(settings.rollout_rows, len(self._prompts) * settings.samples),
            stop_ids=self._stops,
            pad_id=tokenizer.pad_id,
            mesh=mesh,
            dtype=dtype,
        )
        self._pool = WorkerPool(1)

    def measure(self) -> dict[str, float]:
        """Ask every question; pass@1 with its interval of 95 % over questions, and how the answers look.

        Returns:
            accuracy, accuracy_low, accuracy_high, format (share of answers that are well-formed), answer_tokens
            (mean), truncated (share that came to the limit), ungraded (share that no grader could judge).
        """
        from distill.gemma.sampler import Request

        samples = self._settings.samples
        requests = (
            Request(number, self._prompts[number // samples], _seed(self._seed, number))
            for number in range(len(self._prompts) * samples)
        )
        drawn = sorted(self._sampler.run(requests), key=lambda sample: int(str(sample.key)))
        texts = [self._text(sample.token_ids) for sample in drawn]
        tasks = [
            self._task(self._questions[number // samples], text, sample.finish_reason)
            for number, (text, sample) in enumerate(zip(texts, drawn, strict=True))
        ]
        verdicts = list(self._pool.verify(tasks))
        scores = [SampleScore.of(verdict) for verdict in verdicts]
        by_question = {
            f"{number:06d}": scores[number * samples : (number + 1) * samples]
            for number in range(len(self._questions))
        }
        (metric,) = summarise(by_question)
        graded = {"accuracy": metric.value, "accuracy_low": metric.low, "accuracy_high": metric.high}
        return {
            **{name: value for name, value in graded.items() if value is not None},
            "format": _mean([float(self._style.parse(text).well_formed) for text in texts]),
            "answer_tokens": _mean([float(len(sample.token_ids)) for sample in drawn]),
            "truncated": _mean([float(sample.finish_reason == "length") for sample in drawn]),
            "ungraded": _mean([float(score.score is None) for score in scores]),
        }

    def close(self) -> None:
        """End the grader's process."""
        self._pool.close()

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids[:-1] if ids and ids[-1] in self._stops else ids)

    def _task(self, question: Question, text: str, finish_reason: str) -> GradeTask:
        return GradeTask(
            question.verifier,
            question.text,
            question.reference,
            text,
            question.options,
            self._style,
            truncated=finish_reason == "length",
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _seed(seed: int, number: int) -> int:
    digest = hashlib.sha256(f"accuracy\0{seed}\0{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
