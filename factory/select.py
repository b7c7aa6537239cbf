"""Thresholds: which candidates a mix takes, and every reason why it does not take the others.

Signals and verdicts carry no thresholds, so a set can be cut again, in another way, without sampling or
judging anything again.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from factory.query import rows
from filters.dedup import text_hash
from filters.errors import UserError
from filters.verdict import OUTCOME_REASONS, Outcome, Reason

if TYPE_CHECKING:
    import duckdb

    from factory.recipe import Select

_FACTS = """
select c.candidate_id, c.prompt_id, c.completion, c.finish_reason, p.split, p.evaluation_only,
       coalesce(p.language, 'en') as target_language, v.outcome, s.well_formed, s.language,
       s.language_consistency, s.readability, s.repetition, s.max_ngram_repeats, s.reasoning_tokens,
       t.n_judged, t.n_correct
from candidates c
join prompts p on p.prompt_id = c.prompt_id
left join verdict v using (candidate_id)
left join signal s using (candidate_id)
left join prompt_stats t on t.prompt_id = c.prompt_id and t.generation_id = c.generation_id
where c.generation_id = ? and c.sample_index < ?
order by c.candidate_id
"""


def candidate_facts(connection: duckdb.DuckDBPyConnection, generation: str, n: int) -> list[dict[str, Any]]:
    """Everything selection looks at, one row a candidate of the current generate stage.

    Raises:
        UserError: some of them are not judged yet.
    """
    facts = rows(connection, _FACTS, [generation, n])
    missing = sum(fact["outcome"] is None or fact["well_formed"] is None for fact in facts)
    if missing:
        raise UserError(
            f"{missing} of {len(facts)} candidates have no verdict or signals yet; run the judge stage first"
        )
    return facts


def decide(
    mix: str, select: Select, facts: Iterable[Mapping[str, Any]], *, seed: int, size: int | None = None
) -> list[dict[str, Any]]:
    """Decide on every candidate: rows of `decisions`.

    Thresholds come first and each gives its reason. Duplicates and quotas are then taken among those that
    passed, in an order drawn from the seed and the candidate's id, so the order of the input is nothing.

    Args:
        size: accept at most this many; overrides `select.max_samples` (used by `same_size_as`).
    """
    limit = size if size is not None else select.max_samples
    verdicts: dict[str, tuple[str, list[Reason]]] = {}
    passed: list[tuple[bytes, Mapping[str, Any]]] = []
    for fact in facts:
        reasons = threshold_reasons(select, fact)
        verdicts[fact["candidate_id"]] = (fact["prompt_id"], reasons)
        if not reasons:
            passed.append((_rank(seed, fact["candidate_id"]), fact))
    passed.sort(key=lambda item: item[0])
    _apply_quotas(select, [fact for _, fact in passed], verdicts, limit)
    return [
        {
            "mix": mix,
            "candidate_id": candidate,
            "prompt_id": prompt,
            "accepted": not reasons,
            "reasons": [str(reason) for reason in reasons],
        }
        for candidate, (prompt, reasons) in verdicts.items()
    ]


def _rank(seed: int, candidate: str) -> bytes:
    return hashlib.sha256(f"{seed}:{candidate}".encode()).digest()


def threshold_reasons(select: Select, fact: Mapping[str, Any]) -> list[Reason]:
    """Every threshold that a candidate fails. Off thresholds (None, False) never fail."""
    reasons: list[Reason] = []

    def drop(reason: Reason, when: bool) -> None:
        if when and reason not in reasons:
            reasons.append(reason)

    outcome = Outcome(fact["outcome"])
    tokens = fact["reasoning_tokens"] or 0
    if select.require_correct and outcome is not Outcome.CORRECT:
        drop(OUTCOME_REASONS[outcome], True)
    drop(Reason.FORMAT, select.require_format and not fact["well_formed"])
    drop(Reason.NO_REASONING, select.require_reasoning and tokens == 0)
    drop(Reason.TOO_SHORT, _below(tokens, select.min_reasoning_tokens))
    drop(Reason.TOO_LONG, _above(tokens, select.max_reasoning_tokens))
    drop(Reason.LANGUAGE_MIX, _below(fact["language_consistency"], select.min_language_consistency))
    other = fact["language"] is not None and fact["language"] != fact["target_language"]
    drop(Reason.WRONG_LANGUAGE, select.require_target_language and other)
    drop(Reason.REPETITION, _above(fact["repetition"], select.max_repetition))
    drop(Reason.REPETITION, _above(fact["max_ngram_repeats"], select.max_ngram_repeats))
    drop(Reason.UNREADABLE, _below(fact["readability"], select.min_readability))
    rate = fact["n_correct"] / fact["n_judged"] if fact["n_judged"] else None
    drop(Reason.TOO_HARD, _below(rate, select.min_pass_rate))
    drop(Reason.TOO_EASY, _above(rate, select.max_pass_rate))
    drop(Reason.HELD_OUT, fact["split"] != "train")
    drop(Reason.EVALUATION_ONLY, bool(fact["evaluation_only"]))
    return reasons


def _below(value: float | None, limit: float | None) -> bool:
    """A measure that does not exist for a text (no words, say) fails no threshold."""
    return limit is not None and value is not None and value < limit


def _above(value: float | None, limit: float | None) -> bool:
    return limit is not None and value is not None and value > limit


def _apply_quotas(
    select: Select,
    ordered: Iterable[Mapping[str, Any]],
    verdicts: Mapping[str, tuple[str, list[Reason]]],
    limit: int | None,
) -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    per_prompt: Counter[str] = Counter()
    accepted = 0
    for fact in ordered:
        prompt, reasons = verdicts[fact["candidate_id"]]
        if select.drop_duplicates:
            text = text_hash(fact["completion"])
            if text in seen[prompt]:
                reasons.append(Reason.DUPLICATE)
            seen[prompt].add(text)
        if select.max_per_prompt is not None and not reasons:
            if per_prompt[prompt] >= select.max_per_prompt:
                reasons.append(Reason.PROMPT_QUOTA)
            per_prompt[prompt] += 1
        if limit is not None and not reasons and accepted >= limit:
            reasons.append(Reason.SIZE_QUOTA)
        accepted += not reasons
