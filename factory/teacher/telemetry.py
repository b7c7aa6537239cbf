"""What is counted of every RL step, and what is kept of every sample. No JAX here.

Names: `reward` and `reward/PART` (means, the parts unweighted), `accuracy` (share of the samples that a grader can
tell about; what was cut off is wrong, whatever its reward is), `format` (tags exact), `language_consistency` (mean
over samples with words), `tokens/response`, `tokens/response_p95`, `tokens/reasoning`, `tokens/reasoning_p95`,
`truncated`, `masked`, `zero_variance` (share of groups), `reflection` (words per 1,000 tokens), `reflection/WORD`,
and from the update `entropy`, `kl`, `clip_fraction`, `ratio_gap`, `grad_norm`, `loss`, `learning_rate` (mean over
updates); `speed/rollout` and `speed/update` in tokens a second, `speed/seconds` a step, `speed/elapsed` seconds of
work so far (`distill.training_log.Journal.elapsed`). The same names behind `eval/` are of the validation questions.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.teacher.rewards import Reward, Sampled

REFLECTION_WORDS = (
    "wait",
    "mistake",
    "however",
    "but",
    "retry",
    "error",
    "verify",
    "wrong",
    "evaluate",
    "check",
)
"""The words that R1's authors counted (arXiv 2501.12948v2, supplement). Base models write them too: a count says
something only beside the base's."""

_REFLECTION = re.compile(rf"\b({'|'.join(REFLECTION_WORDS)})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Graded:
    """A sample of a group with all that was found out about it.

    Attributes:
        position: of the prompt in the stream; group: number of the group within the step.
        advantage: None where it is masked, its group was dropped, or it was not among those learnt from.
    """

    sampled: Sampled
    reward: Reward
    position: int
    group: int
    sample_index: int
    prompt_ids: tuple[int, ...]
    advantage: float | None = None


def reflection_counts(texts: Iterable[str]) -> Counter[str]:
    """How often each of `REFLECTION_WORDS` stands in the texts, as whole words in any case."""
    return Counter(word.lower() for text in texts for word in _REFLECTION.findall(text))


def sample_metrics(samples: Sequence[Graded]) -> dict[str, float]:
    """Means over samples; see the module for the names."""
    if not samples:
        return {}
    lengths = np.array([len(s.sampled.token_ids) for s in samples], np.float64)
    thoughts = np.array([s.sampled.reasoning_tokens for s in samples], np.float64)
    graded = _scores(samples)
    spoken = [s.reward.language_consistency for s in samples if s.reward.language_consistency is not None]
    totals = [s.reward.total for s in samples if s.reward.total is not None]
    words = reflection_counts(s.sampled.completion for s in samples)
    found = {
        "format": _mean(s.reward.well_formed for s in samples),
        "tokens/response": float(lengths.mean()),
        "tokens/response_p95": float(np.percentile(lengths, 95)),
        "tokens/reasoning": float(thoughts.mean()),
        "tokens/reasoning_p95": float(np.percentile(thoughts, 95)),
        "truncated": _mean(s.sampled.truncated for s in samples),
        "masked": _mean(s.reward.total is None for s in samples),
        "reflection": 1000 * words.total() / max(1.0, float(lengths.sum())),
    }
    found |= {f"reflection/{word}": 1000 * n / float(lengths.sum()) for word, n in sorted(words.items())}
    for name, values in (("reward", totals), ("accuracy", graded), ("language_consistency", spoken)):
        if values:
            found[name] = _mean(values)
    parts: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in sample.reward.parts.items():
            parts.setdefault(name, []).append(value)
    return found | {f"reward/{name}": _mean(values) for name, values in sorted(parts.items())}


def domain_metrics(samples: Sequence[Graded]) -> dict[str, float]:
    """`accuracy/DOMAIN` and `tokens/reasoning/DOMAIN`."""
    by_domain: dict[str, list[Graded]] = {}
    for sample in samples:
        by_domain.setdefault(str(sample.sampled.prompt.get("domain") or "none"), []).append(sample)
    found = {}
    for domain, own in sorted(by_domain.items()):
        graded = _scores(own)
        if graded:
            found[f"accuracy/{domain}"] = _mean(graded)
        found[f"tokens/reasoning/{domain}"] = _mean(s.sampled.reasoning_tokens for s in own)
    return found


def rollout_rows(job: str, step: int, samples: Iterable[Graded]) -> list[dict[str, Any]]:
    """Rows of the table `rollouts`: every sample that was drawn, those of dropped groups too."""
    return [
        {
            "job": job,
            "step": step,
            "group": s.group,
            "sample_index": s.sample_index,
            "prompt_id": s.sampled.prompt["prompt_id"],
            "completion": s.sampled.completion,
            "reward": s.reward.total,
            "rewards": json.dumps(s.reward.parts, sort_keys=True),
            "advantage": s.advantage,
            "completion_tokens": len(s.sampled.token_ids),
            "reasoning_tokens": s.sampled.reasoning_tokens,
            "finish_reason": "length" if s.sampled.truncated else "stop",
            "outcome": str(s.reward.verdict.outcome),
            "well_formed": s.reward.well_formed,
            "language_consistency": s.reward.language_consistency,
            "masked_because": s.reward.masked_because,
        }
        for s in samples
    ]


def weighted_mean(parts: Sequence[Mapping[str, float]], by: str = "tokens") -> dict[str, float]:
    """Mean of the updates of one step, by the tokens that counted."""
    total = sum(part[by] for part in parts) or 1.0
    names = [name for name in parts[0] if name != by] if parts else []
    return {name: sum(part[name] * part[by] for part in parts) / total for name in names}


def _scores(samples: Iterable[Graded]) -> list[float]:
    """1 and 0 of the samples that can be graded. A score, no reward: a setting that cuts more off is no better."""
    scores = (sample.reward.verdict.score for sample in samples)
    return [score for score in scores if score is not None]


def _mean(values: Iterable[float | bool]) -> float:
    found = [float(value) for value in values]
    return sum(found) / len(found) if found else 0.0
