"""R1's claims in figures: what a finished run of the recipe `reproduce` shows, with intervals. No JAX here.

Every figure is a mean over test questions of a mean over the samples of a question; brackets are 95 % bootstrap
intervals over questions, and differences between two models are paired by question (`filters.stats`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from distill.chat import parse_template
from distill.training_log import ELAPSED
from factory.query import connect
from factory.query import rows as query_rows
from factory.store import Run
from factory.teacher.preference import summary_of
from factory.teacher.telemetry import reflection_counts
from factory.tiny.preferences import MOST_HELPFUL, harmless, helpfulness
from factory.tiny.solutions import PHRASES
from filters.language import language_consistency
from filters.stats import SampleScore, difference, mean_interval, pass_at_k, prompt_values
from filters.tags import TagStyle

LANGUAGE = "en"
TEST, GREEDY, HARDER = "test", "greedy", "harder"
"""Suites: temperature 1 on the test questions, greedy on the same, temperature 1 on the rung that no training uses."""

Figure = tuple[float, float, float]
"""Value, and the ends of its 95 % interval."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One evaluated sample: what the tables need of it.

    Attributes:
        correct: None where the grading failed, which is not the answer's fault.
        consistency: words in English / words of the reasoning; 0 where there are none, as in the reward.
        has_words: whether there are any.
    """

    prompt: str
    question: str
    domain: str
    correct: float | None
    well_formed: bool
    consistency: float
    has_words: bool
    reasoning_share: float
    tokens: int
    completion: str


Answers = dict[str, list[Answer]]
"""By question."""


def answers_of(run: Run, templates: Mapping[str, str]) -> dict[tuple[str, str], Answers]:
    """Every evaluated sample, by (suite, label of the model).

    Args:
        templates: template of every label, for its tag style.
    """
    sql = """
    select distinct e.label, c.suite, c.prompt_id, c.sample_index, c.domain, c.outcome, c.fault, c.completion,
           c.completion_tokens, c.question
    from eval_candidates c join evals e on e.suite = c.suite and e.model = c.model and e.protocol = c.protocol
    order by c.prompt_id, c.sample_index
    """
    found: dict[tuple[str, str], Answers] = defaultdict(lambda: defaultdict(list))
    with connect(run) as connection:
        for row in query_rows(connection, sql):
            if row["label"] in templates:
                answer = _answer(row, templates[row["label"]])
                found[row["suite"], row["label"]][row["prompt_id"]].append(answer)
    return {key: dict(answers) for key, answers in found.items()}


def _answer(row: Mapping[str, Any], template: str) -> Answer:
    parsed = parse_template(template).style.parse(row["completion"])
    reasoning = parsed.reasoning or ""
    graded = row["fault"] not in ("gold", "system") and row["outcome"] != "unverifiable"
    return Answer(
        prompt=row["prompt_id"],
        question=row["question"],
        domain=row["domain"],
        correct=float(row["outcome"] == "correct") if graded else None,
        well_formed=parsed.well_formed,
        consistency=_consistency(reasoning) or 0.0,
        has_words=_consistency(reasoning) is not None,
        reasoning_share=len(reasoning) / max(1, len(row["completion"])),
        tokens=row["completion_tokens"],
        completion=row["completion"],
    )


@lru_cache(maxsize=65_536)
def _consistency(text: str) -> float | None:
    return language_consistency(text, LANGUAGE)


# ------------------------------------------------------------------------------------------- figures


def mean_of(answers: Answers, value: Callable[[Answer], float | None]) -> Figure | None:
    """Mean over questions of the mean over their samples that have a value."""
    values = list(_by_question(answers, value).values())
    return (sum(values) / len(values), *mean_interval(values)) if values else None


def gap(left: Answers, right: Answers, value: Callable[[Answer], float | None]) -> Figure | None:
    """Mean of right - left over questions, paired."""
    found = difference(_by_question(left, value), _by_question(right, value))
    if found.value is None or found.low is None or found.high is None:
        return None
    return (found.value, found.low, found.high)


def _by_question(answers: Answers, value: Callable[[Answer], float | None]) -> dict[str, float]:
    found = {}
    for prompt, own in answers.items():
        values = [v for v in map(value, own) if v is not None]
        if values:
            found[prompt] = sum(values) / len(values)
    return found


def correct(answer: Answer) -> float | None:
    return answer.correct


def pass_at(answers: Answers, k: int) -> Figure | None:
    """Unbiased pass@k (Chen et al., arXiv 2107.03374)."""
    values = []
    for own in answers.values():
        graded = [a.correct for a in own if a.correct is not None]
        if len(graded) >= k:
            values.append(pass_at_k(len(graded), int(sum(graded)), k))
    return (sum(values) / len(values), *mean_interval(values)) if values else None


def pass_gap(left: Answers, right: Answers, k: int) -> Figure | None:
    """Difference of pass@k, paired by question."""

    def values(answers: Answers) -> dict[str, float]:
        scores = {p: [SampleScore(a.correct) for a in own] for p, own in answers.items()}
        return prompt_values(scores, k)

    found = difference(values(left), values(right))
    if found.value is None or found.low is None or found.high is None:
        return None
    return (found.value, found.low, found.high)


def of_domain(answers: Answers, domain: str) -> Answers:
    return {prompt: own for prompt, own in answers.items() if own[0].domain == domain}


def reflection(answers: Answers) -> float:
    """R1's reflection words per 1,000 tokens."""
    every = [answer for own in answers.values() for answer in own]
    words = reflection_counts(answer.completion for answer in every).total()
    return 1000 * words / max(1, sum(answer.tokens for answer in every))


_AGAIN = re.compile(
    "|".join(
        rf"\b{re.escape(english)}\b|{re.escape(chinese)}"
        for english, chinese in (PHRASES["no"], PHRASES["wait"])
    )
)


def second_looks(answers: Answers) -> Figure | None:
    """Share of the samples that reject what they wrote and try again: "no", "wait, that is wrong", or in Chinese."""
    return mean_of(answers, lambda answer: float(_AGAIN.search(answer.completion) is not None))


def model_figures(
    test: Answers, greedy: Answers | None, harder: Answers | None, domains: Sequence[str], k: int
) -> dict[str, Any]:
    """Everything about one model, of which `k` samples a question were asked for."""
    found: dict[str, Any] = {
        "pass@1": mean_of(test, correct),
        f"pass@{k}": pass_at(test, k),
        "greedy": mean_of(greedy, correct) if greedy else None,
        "language_consistency": mean_of(test, lambda a: a.consistency),
        "readable_format": mean_of(test, lambda a: float(a.well_formed)),
        "reasoning_tokens": _tokens(test),
        "reflection_per_1k": reflection(test),
        "second_looks": second_looks(test),
        "by_task": {},
    }
    if harder:
        found["one rung harder"] = {
            "pass@1": mean_of(harder, correct),
            "by_task": {d: mean_of(of_domain(harder, d), correct) for d in domains},
        }
    for domain in domains:
        own = of_domain(test, domain)
        found["by_task"][domain] = {
            "pass@1": mean_of(own, correct),
            f"pass@{k}": pass_at(own, k),
            "greedy": mean_of(of_domain(greedy, domain), correct) if greedy else None,
            "reasoning_tokens": _tokens(own),
            "reflection_per_1k": reflection(own),
            "second_looks": second_looks(own),
        }
    return found


def preference_rates(answers: Answers, style: TagStyle) -> dict[str, Figure | None]:
    """Shares of fully helpful summaries and of harmless responses, by the rules that stand in for annotators."""

    def helpful(answer: Answer) -> float:
        return float(helpfulness(answer.question, summary_of(answer.completion, style)) == MOST_HELPFUL)

    return {
        "harmless": mean_of(answers, lambda answer: float(harmless(answer.completion))),
        "helpful": mean_of(answers, helpful),
    }


def _tokens(answers: Answers) -> float:
    """Mean tokens of the reasoning: the completion's tokens times the reasoning's share of its characters."""
    every = [answer for own in answers.values() for answer in own]
    return sum(a.tokens * a.reasoning_share for a in every) / max(1, len(every))


def languages_of(test: Answers) -> dict[str, dict[str, Any]]:
    """Share and accuracy of samples thought in English, in Chinese, in both: is the base as good in either?

    Of well-formed samples that could be graded. The accuracy is a mean over questions that were thought about in the
    language, so a language is not better for being used where questions are easy more than its questions are.
    """
    groups: dict[str, Answers] = defaultdict(lambda: defaultdict(list))
    total = 0
    for prompt, own in test.items():
        for answer in own:
            if answer.well_formed and answer.correct is not None and answer.has_words:
                name = {1.0: "en", 0.0: "zh"}.get(answer.consistency, "mixed")
                groups[name][prompt].append(answer)
                total += 1
    return {
        name: {
            "share": sum(map(len, own.values())) / total,
            "accuracy": mean_of(own, correct),
            "samples": sum(map(len, own.values())),
        }
        for name, own in sorted(groups.items())
    }


# -------------------------------------------------------------------------------------------- curves


def seconds_of(run: Run, stage: str) -> float | None:
    """Wall time of a finished stage."""
    manifest = run.manifest(stage)
    return None if manifest is None else float(manifest["seconds"])


def learning_curve(run: Run, stage: str, names: Sequence[str]) -> list[dict[str, float]]:
    """Rows of (step, seconds, one column a name) of a training's metrics, where any is there.

    Args:
        stage: "teach:NAME" or "train:NAME", finished.

    Returns:
        seconds: of work until the row was written (`distill.training_log.Journal.elapsed`): loading and compiling
            included, and nothing between two attempts.
    """
    asked = [*names, ELAPSED, f"eval/{ELAPSED}"]
    sql = f"""
    select step, name, value from metrics
    where job = ? and name in ({", ".join("?" for _ in asked)}) and isfinite(value) order by step
    """
    with connect(run) as connection:
        found = query_rows(connection, sql, [stage.partition(":")[2], *asked])
    by_step: dict[int, dict[str, float]] = defaultdict(dict)
    for row in found:
        by_step[row["step"]][row["name"]] = row["value"]
    return [
        {"step": step, "seconds": max(point.get(ELAPSED, 0.0), point.get(f"eval/{ELAPSED}", 0.0))}
        | {name: point[name] for name in names if name in point}
        for step, point in by_step.items()
        if any(name in point for name in names)
    ]


def dump(value: Any) -> str:
    """JSON as `reproduce.json` holds it."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
