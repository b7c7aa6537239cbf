"""Preference data from a run's own samples, and trained reward models as rewards. Importing it loads no JAX.

A row of the table `pairs` holds two whole responses to one question. What a reward model sees of them is
decided when it is trained: for helpfulness the final summary alone, for harmlessness the whole response with
its reasoning (DeepSeek-R1, arXiv 2501.12948, "RL for all scenarios").

| purpose      | chosen             | rejected          | model                              | sees     |
|--------------|--------------------|-------------------|------------------------------------|----------|
| helpfulness  | the more helpful   | the less helpful  | pairwise, Bradley-Terry            | summary  |
| harmlessness | a harmless one     | a harmful one     | pointwise, logistic, labels 1 and 0 | response |
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distill.preference_data import Kind, Labelled, Pair, Sees, labelled
from factory.records import content_id, question_hash, split_of
from filters.errors import UserError
from filters.tags import TagStyle

log = logging.getLogger("factory.teacher")

Purpose = Literal["helpfulness", "harmlessness"]
KIND: dict[Purpose, Kind] = {"helpfulness": "pairwise", "harmlessness": "pointwise"}
SEES: dict[Purpose, Sees] = {"helpfulness": "summary", "harmlessness": "response"}

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2

SCORED_TOGETHER = 32
"""Rows that a reward model scores at once."""


@dataclass(frozen=True, slots=True)
class Response:
    """A sample of the run, a candidate or a rollout.

    Attributes:
        prompt_id: of the table `prompts`.
        question: what the user asked.
        text: the whole completion.
    """

    prompt_id: str
    question: str
    text: str


Label = Callable[[Response], float | None]
"""How good a response is, for comparisons within its question; None: leave it out."""


def summary_of(text: str, style: TagStyle, *, opened: bool = False) -> str:
    """The part of a response that a reader of the answer gets: what follows the reasoning; "" where nothing does.

    Args:
        opened: the prompt ended with the tag that opens the reasoning.
    """
    return style.parse(text, opened=opened).answer or ""


def pair_split(question: str, *, validation: float = VALIDATION_SHARE, test: float = TEST_SHARE) -> str:
    """Split of a question's pairs, by its hash alone.

    It is another draw than the split of prompts: a teacher samples training prompts only, and its reward
    models still need questions that they have not seen.
    """
    digest = hashlib.sha256(f"pairs:{question_hash(question)}".encode()).hexdigest()
    return split_of(digest, validation=validation, test=test)


def make_pairs(
    responses: Iterable[Response],
    label: Label,
    purpose: Purpose,
    *,
    source: str,
    seen: Callable[[Response], str],
    per_question: int = 4,
    validation: float = VALIDATION_SHARE,
    test: float = TEST_SHARE,
) -> list[dict[str, Any]]:
    """Rows of the table `pairs`: responses to the same question whose labels differ.

    Of a question's possible pairs at most `per_question` are taken, in turn from each combination of labels,
    in an order that is a hash of the texts. So neither the order of the responses nor a clock decides.

    Args:
        responses: samples; repeated texts of a question count once.
        label: the annotator: people, a judge, or a rule.
        source: who labelled, e.g. "rule:tiny"; stands in the rows and in their ids.
        seen: what the reward model will see of a response; two that look the same make no pair.
        validation, test: shares of the questions, see `pair_split`.

    Returns:
        Rows ordered by question and id.
    """
    by_question: dict[str, dict[str, tuple[Response, float]]] = {}
    for response in responses:
        value = label(response)
        if value is not None:
            own = by_question.setdefault(question_hash(response.question), {})
            _keep_first(own, seen(response), response, value)
    rows = []
    for _, own in sorted(by_question.items()):
        split = pair_split(next(iter(own.values()))[0].question, validation=validation, test=test)
        chosen = itertools.islice(_in_turn(list(own.values())), per_question)
        rows += sorted(
            (_row(better, worse, purpose, source, split) for better, worse in chosen),
            key=lambda row: str(row["pair_id"]),
        )
    return rows


def _keep_first(own: dict[str, tuple[Response, float]], text: str, response: Response, value: float) -> None:
    """Of responses that look the same, the one that sorts first stays: whatever the order they come in."""
    held = own.get(text)
    if held is None or (response.text, response.prompt_id) < (held[0].text, held[0].prompt_id):
        own[text] = (response, value)


def _in_turn(own: Sequence[tuple[Response, float]]) -> Iterator[tuple[Response, Response]]:
    """(better, worse), one from each combination of labels in turn."""
    kinds: dict[tuple[float, float], list[tuple[str, Response, Response]]] = {}
    for (left, a), (right, b) in itertools.combinations(own, 2):
        if a == b:
            continue
        better, worse = (left, right) if a > b else (right, left)
        order = content_id([better.text, worse.text])
        kinds.setdefault((max(a, b), min(a, b)), []).append((order, better, worse))
    queues = [sorted(pairs, key=lambda pair: pair[0]) for _, pairs in sorted(kinds.items())]
    for turn in itertools.zip_longest(*queues):
        yield from ((pair[1], pair[2]) for pair in turn if pair is not None)


def _row(better: Response, worse: Response, purpose: Purpose, source: str, split: str) -> dict[str, Any]:
    what = {
        "prompt_id": better.prompt_id,
        "purpose": purpose,
        "chosen": better.text,
        "rejected": worse.text,
        "source": source,
    }
    return {"pair_id": content_id(what), **what, "split": split}


def preferences(
    rows: Iterable[Mapping[str, Any]],
    questions: Mapping[str, str],
    purpose: Purpose,
    style: TagStyle,
    *,
    opened: bool = False,
    shown_in: TagStyle | None = None,
) -> list[Pair]:
    """Rows of the table `pairs` of one purpose, as a reward model sees them.

    Args:
        questions: prompt id -> question.
        style, opened: how responses divide into reasoning and summary, see `summary_of`.
        shown_in: the style of the policy that will be judged, where it is another: whole responses are written anew
            in it, so that the model does not learn from tags that it will never meet.

    Raises:
        UserError: a row's prompt is unknown.
    """
    pairs = []
    for row in rows:
        if row["purpose"] != purpose:
            continue
        if row["prompt_id"] not in questions:
            raise UserError(f"pair {row['pair_id']}: no prompt {row['prompt_id']} to take its question from")
        chosen, rejected = row["chosen"], row["rejected"]
        if SEES[purpose] == "summary":
            chosen, rejected = (summary_of(text, style, opened=opened) for text in (chosen, rejected))
        elif shown_in is not None and shown_in != style:
            chosen, rejected = (_rewritten(text, style, shown_in, opened) for text in (chosen, rejected))
        pairs.append(Pair(questions[row["prompt_id"]], chosen, rejected, row["split"]))
    return pairs


def _rewritten(text: str, style: TagStyle, wanted: TagStyle, opened: bool) -> str:
    """A response with the tags of another style; one without an answer as it is."""
    parsed = style.parse(text, opened=opened)
    return text if parsed.answer is None else wanted.format(parsed.reasoning, parsed.answer)


def training_rows(pairs: Sequence[Pair], purpose: Purpose) -> list[Pair] | list[Labelled]:
    """What `distill.reward_model.train_reward_model` takes for a purpose: pairs, or their texts labelled 1 and 0."""
    return list(pairs) if KIND[purpose] == "pairwise" else labelled(pairs)


class ModelScorer:
    """A trained reward model as a reward: scores in [0, 1], of summaries or of whole responses.

    Its `max_length` should hold the longest prompt and response of the run, else long responses go without a
    score and so leave their groups.

    Attributes:
        name: of the scorer, in telemetry and recipes.
        sees: "summary" or "response": what the second half of an item has to be.
    """

    name: str
    sees: Sees

    def __init__(
        self,
        folder: str | os.PathLike[str],
        purpose: Purpose,
        *,
        name: str | None = None,
        rows: int = SCORED_TOGETHER,
    ) -> None:
        """Load the model.

        Args:
            folder: made by `train_reward_model`.
            purpose: what it was trained for; decides about its kind and about what it sees.
            rows: conversations scored together.

        Raises:
            UserError: the folder holds no reward model, or one of another kind.
        """
        from distill.reward_model import load_reward_model

        self.sees, self.name = SEES[purpose], name or purpose
        self._model = load_reward_model(folder, kind=KIND[purpose], sees=self.sees, rows=rows)

    @property
    def max_length(self) -> int:
        """Tokens of the longest conversation, question included, that it scores."""
        return self._model.max_length

    def score(self, items: Sequence[tuple[str, str]]) -> list[float | None]:
        """Scores of (question, text); an empty text is scored as an empty answer.

        None for a text that is longer than the model takes: none is ever cut. How many there were is logged.
        """
        assessed = self._model.assess(items)
        reasons = [one.reason for one in assessed if one.reason is not None]
        if reasons:
            log.warning(
                "%s: %d of %d texts without a score: %s", self.name, len(reasons), len(items), reasons[0]
            )
        return [one.score for one in assessed]
