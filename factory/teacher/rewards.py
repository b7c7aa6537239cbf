"""The reward of the teacher's RL: rules, a schedule for length, and the scores of scorers that are handed in.

Correctness is `filters.verify`, in killable workers; language consistency is the filter's own function. Each part
is a number of its own, logged unweighted, and `compose` is the one place where weights are applied. A sample about
which nothing is known through no fault of its own has no reward: it leaves its group (`Reward.total` is None), so
nobody gains by breaking a grader. Formulas and the table of outcomes: `docs/rewards.md`.

Loads no JAX: a scorer may, behind the Protocol.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from factory.engines import Engine, Failure, SampleRequest
from factory.judge import NO_GRADER, is_graded
from factory.judgements import ATTEMPTS, SEED, LanguageJudge
from factory.protocol import options
from factory.records import judgement_id, sample_seed
from factory.teacher.budget import budget_reward
from factory.teacher.reward_settings import Preference, Rewards, Rubric
from filters.errors import UserError
from filters.language import analyse, language_consistency, language_of_tag
from filters.tags import Parsed, TagStyle
from filters.verdict import Outcome, Verdict
from filters.verifiers import judge as judging
from filters.verifiers.grade import shown
from filters.verifiers.options import OptionError
from filters.workers import GradeTask, WorkerPool

Sees = Literal["summary", "response"]

_SEES: Mapping[str, Sees] = {"helpfulness": "summary", "harmlessness": "response"}
"""R1 (arXiv 2501.12948, section 2.3.4): helpfulness is judged by the final summary alone, so that the reasoning
is not bent to please; harmlessness by all that was written, because harm may stand in the reasoning too."""

_NO_GRADER = Verdict(
    Outcome.UNVERIFIABLE, None, None, None, "the prompt has no reference to compare with", NO_GRADER, "1"
)


@dataclass(frozen=True, slots=True)
class Sampled:
    """What is rewarded.

    Attributes:
        prompt: row of `prompts`: prompt_id, question, reference, verifier, verifier_args (JSON), language.
        completion: what the model wrote, without the stop token.
        token_ids: tokens as drawn, the stop token included.
        reasoning_tokens: how many of them are reasoning.
        truncated: generation stopped at its length limit.
    """

    prompt: Mapping[str, Any]
    completion: str
    token_ids: tuple[int, ...]
    reasoning_tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one sample.

    Attributes:
        total: the weighted sum; None where the sample is masked: it leaves its group.
        parts: the unweighted value of every part that is on and has one. Penalties are 0..-1.
        verdict: of the prompt's grader; unverifiable, of the grader "none", where the prompt has none.
        well_formed: the tag style is kept (`Signals.well_formed`).
        language_consistency: as the filter measures it (`Signals.language_consistency`); None without words.
        masked_because: why `total` is None, in a line; None where it is not.
    """

    total: float | None
    parts: dict[str, float]
    verdict: Verdict
    well_formed: bool
    language_consistency: float | None
    masked_because: str | None = None


# ---------------------------------------------------------------------------------------------- scorers


class Scorer(Protocol):
    """Something that scores texts, one by one: a reward model, a rule, a language model.

    `sees` says which text it is given: the final summary alone, or the whole response as it was written.
    """

    @property
    def name(self) -> str: ...

    @property
    def sees(self) -> Sees: ...

    def score(self, items: Sequence[tuple[str, str]]) -> Sequence[float | None]:
        """A score for each (question, text), higher is better; None where it could not be told."""
        ...


@dataclass(frozen=True, slots=True)
class RuleScorer:
    """A scorer that is a function of question and text."""

    name: str
    sees: Sees
    rule: Callable[[str, str], float | None]

    @classmethod
    def of_pattern(cls, name: str, sees: Sees, pattern: str, *, wanted: bool = True) -> RuleScorer:
        """1 for texts in which a regular expression is found, otherwise 0; the other way round if not `wanted`.

        Raises:
            UserError: the pattern is no regular expression.
        """
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise UserError(f"scorer {name!r}: {shown(pattern)} is no regular expression: {error}") from error
        return cls(name, sees, lambda _, text: float((compiled.search(text) is not None) == wanted))

    def score(self, items: Sequence[tuple[str, str]]) -> list[float | None]:
        return [self.rule(question, text) for question, text in items]


@dataclass(frozen=True)
class RubricScorer:
    """Share of a rubric's weight that a language model finds met, criterion by criterion.

    Requests and replies are those of the grader `judge`: the text is put between marks that it cannot forge, and
    a reply counts by its last line alone. Equal requests of a call are asked once. A request that fails is asked
    again; a text about which a reply is missing in the end, or cannot be read, has no score.

    Raises:
        UserError: the rubric has no criteria, or they do not fit.
    """

    judge: LanguageJudge
    rubric: Rubric

    def __post_init__(self) -> None:
        try:
            judging.check(self._options)
        except OptionError as error:
            raise UserError(f"scorer {self.name!r}: {error}") from error

    @property
    def name(self) -> str:
        return self.rubric.scorer

    @property
    def sees(self) -> Sees:
        return self.rubric.sees

    @property
    def _options(self) -> dict[str, Any]:
        criteria = [one if isinstance(one, str) else one.model_dump() for one in self.rubric.criteria]
        return {"mode": "rubric", "criteria": criteria, "guidance": self.rubric.guidance}

    @cached_property
    def _engine(self) -> Engine:
        """Opened once, when something is asked for the first time: it may hold a model."""
        return self.judge.open()

    def score(self, items: Sequence[tuple[str, str]]) -> list[float | None]:
        """Raises UserError where the judge answers nothing at all."""
        requests: dict[str, judging.Request] = {}
        keys: list[list[str]] = []
        for question, text in items:
            asked = (
                judging.requests(question, None, text, self._options)
                if len(text) <= judging.MAX_CHARS
                else []
            )
            keys.append([judgement_id(self.judge.identity, request.messages) for request in asked])
            requests |= zip(keys[-1], asked, strict=True)
        replies = self._ask(requests)
        return [self._share([replies[key] for key in own]) if own else None for own in keys]

    def _share(self, replies: Sequence[judging.Reply]) -> float | None:
        detail = judging.decide(replies, self._options, style=self.judge.style).detail or {}
        score: float | None = detail["score"]
        return score

    def _ask(self, requests: Mapping[str, judging.Request]) -> dict[str, judging.Reply]:
        replies: dict[str, judging.Reply] = {}
        said = "nothing"
        for _ in range(ATTEMPTS):
            todo = [key for key in requests if key not in replies]
            if not todo:
                break
            for result in self._engine.sample(_judge_requests(todo, requests)):
                if not isinstance(result, Failure):
                    fault = "" if result.finish_reason == "stop" else "it was cut off at its length limit"
                    replies[result.key] = judging.Reply(result.text, fault)
                    continue
                said = f"{result.error_class}: {result.message}"
                if result.permanent:
                    replies[result.key] = judging.Reply(None, said)
        if requests and not replies:
            raise UserError(
                f"the judge {self.judge.name} answered none of {len(requests)} requests; it said: {said}. Put "
                "that right and run again: training goes on from its last checkpoint"
            )
        return {key: replies.get(key, judging.Reply(None, said)) for key in requests}


def _judge_requests(keys: Sequence[str], requests: Mapping[str, judging.Request]) -> Iterator[SampleRequest]:
    for key in keys:
        yield SampleRequest(key, requests[key].messages, sample_seed(SEED, key))


# ----------------------------------------------------------------------------------------------- parts


def repetition_penalty(token_ids: Sequence[int], n: int, max_repeats: int) -> float:
    """Share of a sample's n-grams that are repeats beyond the allowed number, negative: 0 to almost -1.

    With c(g) for how often the n-gram g occurs: - Σ_g max(0, c(g) - max_repeats) / Σ_g c(g). It counts tokens, so
    a script that takes few characters for a word is not judged otherwise than one that takes many.
    """
    counts = Counter(zip(*(token_ids[shift:] for shift in range(n)), strict=False))
    excess = sum(count - max_repeats for count in counts.values() if count > max_repeats)
    return -excess / counts.total() if excess else 0.0


def overlong_penalty(tokens: int, limit: int, buffer: int, *, truncated: bool) -> float:
    """DAPO's soft overlong punishment, 0..-1, in tokens (arXiv 2503.14476, equation 13).

    0 up to limit - buffer, from there linear to -1 at the limit. What was cut off would have gone on beyond the
    limit, whatever the count is.
    """
    if truncated:
        return -1.0
    beyond = tokens - (limit - buffer)
    return -min(1.0, beyond / buffer) if beyond > 0 else 0.0


def compose(
    parts: Mapping[str, float], weights: Mapping[str, float], *, step: int, prompt_id: str, completion: str
) -> float:
    """The weighted sum of the parts: the only place where a weight meets a value.

    Args:
        parts: unweighted values by name.
        weights: weights by name; every part needs one.
        step, prompt_id, completion: for the message.

    Raises:
        UserError: a part, or the sum, is not finite. Training on it would spoil the model for good.
    """
    for name, value in parts.items():
        _check_finite(name, value, step, prompt_id, completion)
    total = math.fsum(weights[name] * value for name, value in parts.items())
    _check_finite("total", total, step, prompt_id, completion)
    return total


def _check_finite(name: str, value: float, step: int, prompt_id: str, completion: str) -> None:
    if not math.isfinite(value):
        raise UserError(
            f"the reward's part {name!r} is {value} at step {step}, for a sample of prompt {prompt_id} that begins "
            f"{shown(completion, 120)}; nothing was learnt from it. Put right what computes this part and run again",
            exit_code=1,
        )


# ---------------------------------------------------------------------------------------- the function


@dataclass(slots=True)
class _Draft:
    """A reward in the making. `correct` is None where nobody knows; `masked` says why there will be no total."""

    sample: Sampled
    parsed: Parsed
    verdict: Verdict
    correct: bool | None
    consistency: float | None
    masked: str | None
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def prompt_id(self) -> str:
        return str(self.sample.prompt["prompt_id"])

    @property
    def formatted(self) -> bool:
        """Well-formed and finished: what was cut off might still have broken its tags."""
        return self.parsed.well_formed and not self.sample.truncated

    def add(self, name: str, value: float, when: str = "always") -> None:
        """Note a part's value: 0 where its condition does not hold, nothing where nobody can tell if it does."""
        holds = {"always": True, "well_formed": self.formatted, "correct": self.correct}[when]
        if holds is not None:
            self.parts[name] = value if holds else 0.0


class RewardFunction:
    """Rewards of samples, by the settings.

    Args:
        settings: which parts are on, and their weights.
        style: tag style of the completions.
        pool: grades answers.
        scorers: by the names that the settings use.
        opened: prompts end with the opening tag of the reasoning.

    Raises:
        UserError: a scorer that the settings name is not there, or is given the wrong text.
    """

    def __init__(
        self,
        settings: Rewards,
        style: TagStyle,
        pool: WorkerPool,
        scorers: Mapping[str, Scorer] | None = None,
        *,
        opened: bool = False,
    ) -> None:
        self.settings, self.style, self.pool, self.opened = settings, style, pool, opened
        self.scorers = dict(scorers or {})
        last = max((part.from_step for part in self._preference_parts()), default=0)
        for name, part in settings.preferences(last).items():
            self._check_scorer(name, part)

    def __call__(self, samples: Sequence[Sampled], step: int, max_new_tokens: int) -> list[Reward]:
        """The rewards of samples, in their order. Equal answers to one prompt are looked at once.

        Args:
            samples: of any number of prompts; those of one prompt are best given together.
            step: training step, counted from 0.
            max_new_tokens: the length limit that they were drawn with; it may differ from call to call.

        Raises:
            UserError: a part is not finite, a scorer answers wrongly, or the limit is shorter than the buffer.
            OptionError: a prompt names an unknown verifier, or options that do not fit it.
        """
        buffer = self.settings.overlong.buffer_tokens or 0
        if buffer > max_new_tokens:
            raise UserError(
                f"overlong.buffer_tokens ({buffer}) is more than the length limit of {max_new_tokens} tokens at step "
                f"{step}; give a smaller buffer"
            )
        places: dict[Any, int] = {}
        for one in samples:
            places.setdefault(_identity(one), len(places))
        if len(places) < len(samples):
            distinct = {_identity(one): one for one in reversed(samples)}
            found = self([distinct[key] for key in places], step, max_new_tokens)
            return [found[places[_identity(one)]] for one in samples]
        verdicts = self._verdicts(samples)
        drafts = [self._draft(sample, verdict) for sample, verdict in zip(samples, verdicts, strict=True)]
        for draft in drafts:
            self._add_rules(draft, step, max_new_tokens)
        for name, part in self.settings.preferences(step).items():
            self._add_scores(name, part, drafts, step)
        weights = self.settings.weights(step)
        return [_finished(draft, weights, step) for draft in drafts]

    def _preference_parts(self) -> list[Preference]:
        parts = (self.settings.helpfulness, self.settings.harmlessness, self.settings.rubric)
        return [part for part in parts if part is not None]

    def _check_scorer(self, name: str, part: Preference) -> None:
        scorer = self.scorers.get(part.scorer)
        if scorer is None:
            there = ", ".join(sorted(self.scorers)) or "none"
            raise UserError(f"{name} names the scorer {part.scorer!r}; there is {there}")
        wanted = part.sees if isinstance(part, Rubric) else _SEES[name]
        if scorer.sees != wanted:
            raise UserError(
                f"{name} is judged by the {wanted}, but its scorer {part.scorer!r} is given the {scorer.sees}"
            )

    def _verdicts(self, samples: Sequence[Sampled]) -> list[Verdict]:
        places = [place for place, one in enumerate(samples) if is_graded(one.prompt)]
        found = self.pool.verify(self._task(samples[place]) for place in places)
        graded = dict(zip(places, found, strict=True))
        return [graded.get(place, _NO_GRADER) for place in range(len(samples))]

    def _task(self, sample: Sampled) -> GradeTask:
        return GradeTask(
            kind=sample.prompt["verifier"],
            question=sample.prompt["question"],
            reference=sample.prompt["reference"],
            completion=sample.completion,
            options=options(sample.prompt),
            style=self.style,
            truncated=sample.truncated,
            opened=self.opened,
        )

    def _draft(self, sample: Sampled, verdict: Verdict) -> _Draft:
        parsed = self.style.parse(sample.completion, opened=self.opened)
        override = None if self.settings.language is None else self.settings.language.target
        graded = is_graded(sample.prompt)
        masked = None
        if sample.truncated and self.settings.overlong.mode == "mask":
            masked = "it was cut off at its length limit"
        elif graded and verdict.ours and self.settings.needs_grade:
            fault = f" (fault: {verdict.fault})" if verdict.fault else ""
            masked = f"{verdict.outcome}{fault}: {verdict.explanation}"
        return _Draft(
            sample=sample,
            parsed=parsed,
            verdict=verdict,
            correct=verdict.is_correct if graded and not verdict.ours else None,
            consistency=_consistency(sample, parsed, override),
            masked=masked,
        )

    def _add_rules(self, draft: _Draft, step: int, max_new_tokens: int) -> None:
        settings, sample = self.settings, draft.sample
        if settings.accuracy is not None and draft.correct is not None and draft.masked is None:
            # The table's own word, but for what was cut off: that is masked above, or counts as wrong.
            draft.add("accuracy", draft.verdict.reward or 0.0)
        if settings.format is not None:
            draft.add("format", float(draft.formatted), settings.format.when)
        if settings.language is not None:
            # Without words, or without reasoning, there is nothing that could be in the target language. None
            # would mask such samples, and thinking in bare formulas would be a way out of the group.
            value = draft.consistency if draft.parsed.reasoning else None
            draft.add("language", value or 0.0, settings.language.when)
        if settings.token_budget is not None:
            when = "correct" if settings.token_budget.only_correct else "always"
            draft.add(
                "token_budget", budget_reward(settings.token_budget, sample.reasoning_tokens, step), when
            )
        if settings.repetition is not None:
            limits = settings.repetition.ngram_tokens, settings.repetition.max_repeats
            draft.add("repetition", repetition_penalty(sample.token_ids, *limits))
        if settings.overlong.mode == "penalise" and settings.overlong.buffer_tokens is not None:
            tokens, buffer = len(sample.token_ids), settings.overlong.buffer_tokens
            penalty = overlong_penalty(tokens, max_new_tokens, buffer, truncated=sample.truncated)
            draft.add("overlong", penalty)

    def _add_scores(self, name: str, part: Preference, drafts: Sequence[_Draft], step: int) -> None:
        """Ask a part's scorer about every sample that is not masked and has a text for it."""
        scorer = self.scorers[part.scorer]
        asked: list[tuple[_Draft, str]] = []
        without: list[_Draft] = []
        for draft in drafts:
            general = not is_graded(draft.sample.prompt)
            if draft.masked is not None or (part.prompts == "general" and not general):
                continue
            text = draft.parsed.answer if scorer.sees == "summary" else draft.sample.completion
            if text is None:
                without.append(draft)
            else:
                asked.append((draft, text))
        items = [(str(draft.sample.prompt["question"]), text) for draft, text in asked]
        scores = scorer.score(items) if items else []
        if len(scores) != len(items):
            raise UserError(
                f"the scorer {part.scorer!r} gave {len(scores)} scores for {len(items)} texts", exit_code=1
            )
        worst: dict[str, float] = {}
        for (draft, _), score in zip(asked, scores, strict=True):
            if score is None:
                draft.masked = f"the scorer {part.scorer!r} could not tell a score for {name}"
                continue
            value = float(score)
            _check_finite(name, value, step, draft.prompt_id, draft.sample.completion)
            draft.add(name, value)
            worst[draft.prompt_id] = min(worst.get(draft.prompt_id, 0.0), value)
        for draft in without:
            # 0, and never more than the worst summary of the same prompt got: a reward model's scores go below 0,
            # and then leaving the reasoning open would be a way to escape them.
            draft.add(name, worst.get(draft.prompt_id, 0.0))


def _identity(sample: Sampled) -> tuple[Any, ...]:
    """What a reward is a function of: samples of a group have one prompt, the same object."""
    return id(sample.prompt), sample.completion, sample.token_ids, sample.truncated


def _consistency(sample: Sampled, parsed: Parsed, override: str | None) -> float | None:
    """As `filters.signals` measures it: of the reasoning, of the whole completion where there is none."""
    start, end = parsed.reasoning_span or (0, len(sample.completion))
    text = sample.completion[start:end]
    target = override or language_of_tag(sample.prompt.get("language"))
    return analyse(text).consistency if target is None else language_consistency(text, target)


def _finished(draft: _Draft, weights: Mapping[str, float], step: int) -> Reward:
    masked = draft.masked
    if masked is None and not draft.parts:
        masked = "nothing about it could be scored"
    total = None
    if masked is None:
        completion = draft.sample.completion
        total = compose(draft.parts, weights, step=step, prompt_id=draft.prompt_id, completion=completion)
    return Reward(total, draft.parts, draft.verdict, draft.parsed.well_formed, draft.consistency, masked)
