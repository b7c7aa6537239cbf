"""What a stage of reinforcement learning is: its questions, and what tells it from another stage. No JAX here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import training_log as log
from distill.chat import encode_prompt, parse_template
from distill.gemma.folder import ModelFolder
from distill.gemma.tokenizer import Tokenizer
from distill.train_identity import differences, versions
from factory.judge import JUDGED, is_graded
from factory.records import content_id
from factory.teacher.settings import Rl
from filters.errors import UserError

PromptRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as it is asked: its row and its tokens."""

    row: PromptRow
    ids: tuple[int, ...]


def another_stage(
    job: str,
    spec: Rl,
    base: ModelFolder,
    prompts: Sequence[PromptRow],
    out: Path,
    *,
    validation: Sequence[PromptRow] = (),
    identities: Mapping[str, Any] | None = None,
) -> str | None:
    """What makes the stage in `out` another one than these arguments ask for; None where nothing does."""
    previous = log.read_manifest(out)
    if previous is None:
        return None
    questions = questions_of(spec, prompts, validation, Tokenizer.load(base.path), lambda _: None)
    found = differences_of(previous, manifest_of(job, spec, base, *questions, identities))
    return found[0] if found else None


def questions_of(
    spec: Rl,
    prompts: Sequence[PromptRow],
    validation: Sequence[PromptRow],
    tokenizer: Tokenizer,
    say: Callable[[str], None],
) -> tuple[list[Question], list[Question]]:
    """What is learnt from, and what is only asked.

    Raises:
        UserError: there is nothing to learn from, or nothing to reward in the first step.
    """
    judged = [row for row in prompts if row["verifier"] == JUDGED]
    if judged:
        say(f"{len(judged)} of {len(prompts)} prompts left out: a language model alone could judge them")
    prompts, validation = (
        [row for row in rows if row["verifier"] != JUDGED] for rows in (prompts, validation)
    )
    asked = fitting(prompts, spec, tokenizer, say)
    if not spec.rewards.preferences(0) and not any(is_graded(question.row) for question in asked):
        raise UserError(
            "none of the prompts has a grader, and no scorer is asked in the first step: there is nothing to reward"
        )
    if spec.validation is None or not validation:
        return asked, []
    return asked, fitting(validation, spec, tokenizer, say)[: spec.validation.prompts]


def fitting(
    rows: Iterable[PromptRow], spec: Rl, tokenizer: Tokenizer, say: Callable[[str], None]
) -> list[Question]:
    """Prompts as tokens, without those longer than `prompt_length`.

    Raises:
        UserError: none is left.
    """
    template = parse_template(spec.template)
    questions = [Question(row, tuple(encode_prompt(row["messages"], template, tokenizer))) for row in rows]
    kept = [question for question in questions if len(question.ids) <= spec.prompt_length]
    if len(kept) < len(questions):
        longest = max(len(question.ids) for question in questions)
        say(
            f"{len(questions) - len(kept)} of {len(questions)} prompts left out as longer than prompt_length "
            f"({spec.prompt_length}); the longest has {longest} tokens"
        )
    if not kept:
        raise UserError(f"no prompt of at most prompt_length ({spec.prompt_length}) tokens to learn from")
    return kept


def manifest_of(
    job: str,
    spec: Rl,
    base: ModelFolder,
    asked: Sequence[Question],
    checked: Sequence[Question],
    identities: Mapping[str, Any] | None,
) -> dict[str, Any]:
    from factory.stages import grader_versions

    judging = grader_versions()
    graders = judging["graders"]
    if spec.rewards.language is not None:
        graders |= {"signals": judging["signals"]}
    return {
        "status": "running",
        "kind": "rl",
        "config": {"job": job, **spec.model_dump(mode="json")},
        "template": parse_template(spec.template).to_dict(),
        "student": {"name": str(base.path), "content_hash": base.content_hash},
        "data": {
            "fingerprint": content_id([_decisive(q.row, spec) for q in (*asked, *checked)]),
            "train": len(asked),
            "validation": len(checked),
        },
        "graders": graders,
        "scorers": {name: dict(identity) for name, identity in (identities or {}).items()},
        "versions": versions(),
    }


def _decisive(row: PromptRow, spec: Rl) -> Any:
    """What of a prompt decides about its rewards: a prompt's id is of everything but its language."""
    of_language = spec.rewards.language is not None and spec.rewards.language.target is None
    return [row["prompt_id"], row["language"]] if of_language else row["prompt_id"]


def differences_of(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Compare what decides about the numbers; who grades and scores is no setting of the stage, and decides too."""
    found = differences(there, now)
    for part in ("graders", "scorers"):
        if part not in there:
            found.append(f"it does not say which {part} it had")
            continue
        before, after = dict(_flat(there[part], part)), dict(_flat(now[part], part))
        found += [
            f"{key} is {before.get(key)!r} there and {after.get(key)!r} now"
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key)
        ]
    return found


def _flat(values: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", value
