"""What reward models are trained on, and how: pairs and labelled responses, encoded once. No JAX here."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from distill.batches import Order
from distill.chat import Template, encode_example, encode_prompt, parse_template
from distill.data import SPLITS
from filters.errors import UserError
from filters.stats import mean_interval

if TYPE_CHECKING:
    import numpy as np

    from distill.gemma.tokenizer import Tokenizer

_SHORTEST = 32
"""Tokens of the smallest compiled length; every further one is twice as long."""
_WINDOW = 8
"""Batches whose rows are sorted by length together."""

Kind = Literal["pairwise", "pointwise"]
Sees = Literal["summary", "response"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """Everything that decides about a reward model beside its data and its base.

    Attributes:
        kind: "pairwise" (Bradley-Terry on pairs) or "pointwise" (logistic on labelled responses).
        sees: "summary" or "response": what the texts are. The trainer does not cut summaries out; it is
            written down so that nobody scores something else.
        template: how question and text become a conversation, see `distill.chat.parse_template`.
        epochs: passes over the training rows; may be a fraction.
        batch_size: pairs, or labelled responses, of one step.
        max_length: tokens of a conversation; rows with a longer one are left out and counted.
        learning_rate: the peak, reached after `warmup_steps`; a cosine falls to a tenth of it.
        weight_decay, b1, b2: AdamW's. Norm scales and the head do not decay.
        clip: bound of the gradient's global norm.
        centre: factor on the mean of (r_chosen + r_rejected)²; pairwise only, 0 is off.
        eval_every: validation loss every so many steps and after the last; 0: only after the last.
        keep_best: keep the weights of the lowest validation loss seen, not the last ones.
        seed: of the order of the rows.
        dtype: "float32" or "bfloat16", of the backbone. The head is float32.
    """

    kind: Kind
    sees: Sees
    template: str = "gemma:r1"
    epochs: float = 1.0
    batch_size: int = 64
    max_length: int = 1024
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    clip: float = 1.0
    centre: float = 0.0
    eval_every: int = 0
    keep_best: bool = False
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        parse_template(self.template)
        for name, values in (
            ("kind", ("pairwise", "pointwise")),
            ("sees", ("summary", "response")),
            ("dtype", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in values:
                raise UserError(f"{name} must be {' or '.join(values)}, got {getattr(self, name)!r}")
        for name in ("epochs", "batch_size", "learning_rate", "clip"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise UserError(f"{name} must be above 0, got {value}")
        for name in ("warmup_steps", "weight_decay", "centre", "eval_every", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.max_length < 8:
            raise UserError(f"max_length must be at least 8 tokens, got {self.max_length}")
        if self.centre and self.kind == "pointwise":
            raise UserError("centre is for pairwise models; labels already fix where a pointwise score lies")

    def steps_for(self, rows: int) -> int:
        """Optimiser steps of a training over so many rows.

        Raises:
            UserError: the warm-up would not end before the training does.
        """
        steps = math.ceil(self.epochs * rows / self.batch_size)
        if self.warmup_steps and self.warmup_steps >= steps:
            raise UserError(
                f"warmup_steps {self.warmup_steps} must be less than the {steps} steps of the training"
            )
        return steps


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts for one question, one of them preferred.

    Attributes:
        question: what the user asked.
        chosen, rejected: as the model will see them (summaries or whole responses); may be empty.
        split: "train", "validation" or "test", the same for all rows of a question.
    """

    question: str
    chosen: str
    rejected: str
    split: str = "train"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text for a question, and whether it is good (safe, say). The rest as `Pair`."""

    question: str
    text: str
    good: bool
    split: str = "train"


def labelled(pairs: Iterable[Pair]) -> list[Labelled]:
    """Each pair's chosen text as a good one and its rejected as a bad one; what several pairs share, once."""
    rows: dict[Labelled, None] = {}
    for pair in pairs:
        rows[Labelled(pair.question, pair.chosen, True, pair.split)] = None
        rows[Labelled(pair.question, pair.rejected, False, pair.split)] = None
    return list(rows)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row in tokens.

    Attributes:
        texts: ids of the chosen and the rejected conversation, or of the one that is labelled.
        label: 1 or 0; of a pair always 1.
        question: identity of the question, see `question_key`.
    """

    texts: tuple[np.ndarray[Any, Any], ...]
    label: float
    question: str

    @property
    def length(self) -> int:
        """Tokens of the longest text."""
        return max(map(len, self.texts))


@dataclass(slots=True)
class PreferenceData:
    """Encoded rows of every split, with what was left out.

    Attributes:
        kind: "pairwise" or "pointwise".
        rows: split -> rows, in the order given.
        too_long: rows left out because a text exceeds the length; none is ever cut.
        longest_left_out: tokens of the longest of them.
        fingerprint: 32 hex digits over all rows in order.
    """

    kind: Kind
    rows: dict[str, list[Encoded]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    too_long: int = 0
    longest_left_out: int = 0
    fingerprint: str = ""

    @property
    def longest(self) -> int:
        """Tokens of the longest text kept."""
        return max((row.length for rows in self.rows.values() for row in rows), default=0)

    def summary(self) -> str:
        """One line for a person."""
        noun = "pairs" if self.kind == "pairwise" else "labelled responses"
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in self.rows.items())
        left_out = f"; {self.too_long} left out as too long (the longest has {self.longest_left_out} tokens)"
        return f"{noun}: {counts}" + (left_out if self.too_long else "")


def question_key(question: str) -> str:
    """Identity of a question, whatever its spacing, case and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", question).lower().split())


def encode_scored(question: str, text: str, template: Template, tokenizer: Tokenizer) -> list[int]:
    """Ids of the finished conversation, up to and with the stop token, where the score is read.

    An empty text is an answer too (an empty summary): the prompt, then the stop token at once.

    Raises:
        UserError: the tokenizer lacks what the template needs.
    """
    user = {"role": "user", "content": question}
    if text:
        return encode_example([user, {"role": "assistant", "content": text}], template, tokenizer)[0]
    ids = encode_prompt([user], template, tokenizer)
    stop = tokenizer.end_of_turn_id if template.turns == "gemma" else tokenizer.eos_id
    assert stop is not None  # encode_prompt has refused gemma turns without their tokens
    return [*ids, stop]


def encode_rows(
    rows: Sequence[Pair] | Sequence[Labelled],
    kind: Kind,
    template: Template,
    tokenizer: Tokenizer,
    max_length: int,
) -> PreferenceData:
    """Encode rows and divide them by split.

    Raises:
        UserError: rows of the other kind, an unknown split, a question in two splits, nothing to train on,
            or labels of one class only.
    """
    import numpy as np

    wanted = Pair if kind == "pairwise" else Labelled
    data, digest, split_of = PreferenceData(kind), hashlib.sha256(), dict[str, str]()
    for number, row in enumerate(rows, 1):
        if not isinstance(row, wanted):
            raise UserError(
                f"row {number}: a {kind} reward model is trained on {wanted.__name__} rows, "
                f"this is a {type(row).__name__}"
            )
        _check_split(row, number, split_of)
        digest.update(json.dumps(asdict(row), sort_keys=True).encode() + b"\n")
        texts = (row.chosen, row.rejected) if isinstance(row, Pair) else (row.text,)
        encoded = [encode_scored(row.question, text, template, tokenizer) for text in texts]
        label = 1.0 if isinstance(row, Pair) else float(row.good)
        ids = tuple(np.asarray(one, np.int32) for one in encoded)
        kept = Encoded(ids, label, question_key(row.question))
        if kept.length > max_length:
            data.too_long += 1
            data.longest_left_out = max(data.longest_left_out, kept.length)
            continue
        data.rows[row.split].append(kept)
    data.fingerprint = digest.digest()[:16].hex()
    _check_trainable(data)
    return data


def _check_split(row: Pair | Labelled, number: int, split_of: dict[str, str]) -> None:
    if row.split not in SPLITS:
        raise UserError(f"row {number}: split is {row.split!r}; it must be one of {', '.join(SPLITS)}")
    before = split_of.setdefault(question_key(row.question), row.split)
    if before != row.split:
        raise UserError(
            f"row {number}: the question {row.question[:60]!r} is in the splits {before} and {row.split}; "
            "a held-out measure of it would mean nothing. Split by question"
        )


def _check_trainable(data: PreferenceData) -> None:
    train = data.rows["train"]
    if not train:
        raise UserError(f"nothing to train a reward model on ({data.summary()})")
    if data.kind == "pointwise" and len({row.label for row in train}) < 2:
        word = "good" if train[0].label else "bad"
        raise UserError(f"every response to train on is labelled {word}; a classifier needs both classes")


def compiled_length(tokens: int, max_length: int) -> int:
    """Smallest of 32, 64, 128, … that holds so many tokens, at most `max_length`."""
    length = _SHORTEST
    while length < tokens:
        length *= 2
    return min(length, max_length)


def train_batches(rows: Sequence[Encoded], batch_size: int, steps: int, seed: int) -> Iterator[list[Encoded]]:
    """`steps` batches of rows of similar length, a function of (seed, step) alone.

    Rows come in the shuffled order of `distill.batches.Order`. Every eight batches of them are sorted by length,
    cut, and taken in a drawn order: most batches are then padded little, and no row is far from its place.
    """
    import numpy as np

    order = Order(len(rows), seed)
    for first in range(0, steps, _WINDOW):
        start = first * batch_size
        window = [rows[order[start + i]] for i in range(min(_WINDOW, steps - first) * batch_size)]
        window.sort(key=lambda row: row.length)
        cut = [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        bits = np.random.PCG64(np.random.SeedSequence([seed, first, 1])).random_raw(len(cut))
        yield from (cut[i] for i in np.argsort(bits, kind="stable"))


def pad_rows(
    texts: Sequence[np.ndarray[Any, Any]], rows: int, length: int, pad_id: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pad texts on the right to (rows, length); missing rows are padding throughout.

    Returns:
        tokens (rows, length) int32; present (rows, length) bool, False on padding.
    """
    import numpy as np

    tokens = np.full((rows, length), pad_id, np.int32)
    present = np.zeros((rows, length), np.bool_)
    for row, ids in enumerate(texts):
        tokens[row, : len(ids)] = ids
        present[row, : len(ids)] = True
    return tokens, present


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How well a reward model does on rows it was not trained on.

    Attributes:
        accuracy: share of rows it gets right, a mean over questions: the chosen text scores higher, or the
            label's side of 0 is the score's. A tie is wrong.
        low, high: its 95 % interval over questions (`filters.stats.mean_interval`).
        loss: mean loss over rows, without the centre penalty.
        rows, questions: behind it.
        baseline: accuracy over rows of an opinion that reads nothing: of pairs "the shorter is better" or "the longer
            is better", whichever is more often right here; of labels the more frequent one.
        by_label: accuracy over the rows labelled "0" and "1"; empty for pairs.
    """

    accuracy: float
    low: float
    high: float
    loss: float
    rows: int
    questions: int
    baseline: float
    by_label: dict[str, float]


def measure_held_out(raw: np.ndarray[Any, Any], rows: Sequence[Encoded]) -> HeldOut:
    """Compare raw scores (K, rows) with what was preferred or labelled; see `HeldOut`."""
    import numpy as np

    labels = np.asarray([row.label for row in rows])
    by_label: dict[str, float] = {}
    if len(raw) == 2:
        right, losses = raw[0] > raw[1], np.logaddexp(0.0, raw[1] - raw[0])
        longer = np.asarray([np.sign(len(row.texts[0]) - len(row.texts[1])) for row in rows])
        baseline = max(float((longer > 0).mean()), float((longer < 0).mean()))
    else:
        right = np.where(labels > 0, raw[0] > 0, raw[0] < 0)
        losses = np.logaddexp(0.0, raw[0]) - labels * raw[0]
        baseline = max(float(labels.mean()), 1 - float(labels.mean()))
        by_label = {str(y): float(right[labels == y].mean()) for y in (0, 1) if (labels == y).any()}
    questions: dict[str, list[float]] = {}
    for row, one in zip(rows, right, strict=True):
        questions.setdefault(row.question, []).append(float(one))
    values = [sum(own) / len(own) for own in questions.values()]
    low, high = mean_interval(values)
    return HeldOut(
        accuracy=sum(values) / len(values),
        low=low,
        high=high,
        loss=float(losses.mean()),
        rows=len(rows),
        questions=len(values),
        baseline=baseline,
        by_label=by_label,
    )
