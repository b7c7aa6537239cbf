"""How a suite is asked and graded: everything that its figures depend on beside the model, as an id and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from distill.chat import parse_template
from factory.measures import MEASURES
from factory.records import content_id
from filters.verifiers import KINDS
from filters.verifiers import judge as judging

if TYPE_CHECKING:
    from factory.parts import Sampling
    from factory.suite_judge import SuiteJudge


@dataclass(frozen=True)
class Protocol:
    """How a suite is asked and graded.

    Attributes:
        suite: name of the set of questions; `prompts` are its rows, `origin` says where they come from.
        template, sampling: of the prompt and of the sampler.
        n: samples a prompt; ks: the k of pass@k, and of maj@k where `majority` is set.
        seed: every sample's own seed is drawn from it, the model and the prompt.
        measures: what is reported beside; macro: also pass@1 as the mean over domains.
        notes: what else a reader of the figures must know.
        sealed: no text of the questions, and none that may quote them, is stored.
        judge: asked about what rules leave open; None where nobody is, or no question needs it.
    """

    suite: str
    origin: str
    prompts: tuple[dict[str, Any], ...]
    template: str
    sampling: Sampling
    n: int
    ks: tuple[int, ...]
    seed: int
    measures: tuple[str, ...] = ()
    macro: bool = False
    majority: bool = True
    notes: tuple[str, ...] = ()
    sealed: bool = False
    judge: SuiteJudge | None = None

    @cached_property
    def graders(self) -> dict[str, str]:
        return {kind: KINDS[kind].version for kind in sorted({p["verifier"] for p in self.prompts})}

    @cached_property
    def drawn(self) -> Protocol:
        """The same without the judge: what samples are drawn and first graded by, so that judges share them."""
        return replace(self, judge=None)

    @cached_property
    def id(self) -> str:
        if self.judge is not None:
            by = self.judge.judge
            return content_id({"protocol": self.drawn.id, "judge": by.identity, "version": judging.VERSION})
        return content_id(
            {
                "suite": self.suite,
                "prompts": [p["prompt_id"] for p in self.prompts],
                "template": parse_template(self.template).to_dict(),
                "sampling": self.sampling.model_dump(),
                "n": self.n,
                "seed": self.seed,
                "graders": self.graders,
            }
        )

    @cached_property
    def text(self) -> str:
        s = self.sampling
        top_k = f", top-k {s.top_k}" if s.top_k else ""
        graders = ", ".join(f"{kind} {version}" for kind, version in self.graders.items())
        parts = [
            f"{len(self.prompts):,} questions of {self.origin}, {self.n} samples each",
            f"template {self.template}",
            f"temperature {s.temperature:g}, top-p {s.top_p:g}{top_k}, at most {s.max_new_tokens} tokens",
            f"answer taken by the tag style, graded by {graders}",
            *(f"{name}: {MEASURES[name].about}" for name in self.measures),
            *self.notes,
            self._judge_text,
            f"seed {self.seed}",
            "95 % bootstrap over questions",
        ]
        return "; ".join(parts)

    @property
    def _judge_text(self) -> str:
        if self.judge is not None:
            return self.judge.text
        if any(lower_bound(prompt) for prompt in self.prompts):
            return (
                "no judge, so an answer that the rules leave open counts as incorrect, and what is correct is a "
                "lower bound"
            )
        return "no judge"


def lower_bound(prompt: Mapping[str, Any]) -> bool:
    """True where, without a judge, an answer counts as incorrect that the rules leave open."""
    return prompt["verifier"] == "short_answer" and options(prompt).get("unmatched") == "incorrect"


def options(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a prompt's verifier."""
    found: dict[str, Any] = json.loads(prompt["verifier_args"] or "{}")
    return found
