"""Reward models: a Gemma with one number for an output, trained on preferences. Importing it loads JAX.

The score is a linear function of the final-norm hidden state at the conversation's last token, its stop
token (InstructGPT, arXiv 2203.02155, section 3.5, replaces the unembedding the same way). Two kinds:

| kind      | rows                  | loss                                              | `score`              |
|-----------|-----------------------|---------------------------------------------------|----------------------|
| pairwise  | (chosen, rejected)    | Bradley-Terry: -log sigmoid(r_chosen - r_rejected) | sigmoid(r - centre)  |
| pointwise | labelled 1 or 0       | logistic: softplus(r) - y·r                       | sigmoid(r)           |

`centre` is the mean raw score of the training texts. Bradley-Terry knows only differences, so shifting the
scores changes no preference; sigmoid(r - centre) is then the modelled probability of being preferred to a text
of average score. A pointwise score is the modelled probability of the label 1. Both lie in [0, 1].

Shapes: B rows, L tokens, D width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from distill import training_log as log
from distill.chat import Template, parse_template
from distill.gemma.checkpoint import load_model, save_model
from distill.gemma.folder import ModelFolder, read_header, resolve_model
from distill.gemma.forward import hidden_states
from distill.gemma.saving import publish
from distill.gemma.tokenizer import Tokenizer
from distill.preference_data import (
    Encoded,
    HeldOut,
    Kind,
    Labelled,
    Pair,
    PreferenceData,
    RewardConfig,
    Sees,
    compiled_length,
    encode_rows,
    encode_scored,
    measure_held_out,
    pad_rows,
    train_batches,
)
from distill.trainer import adamw, cosine_schedule
from filters.errors import UserError

if TYPE_CHECKING:
    from tunix.models.gemma3.model import Gemma3

HEAD = "reward_head.safetensors"
MANIFEST = "reward_model.json"
FORMAT = 1
"""Version of the manifest; a newer one is refused."""
_AGAIN = "the training begins again: nothing is saved"


# ------------------------------------------------------------------------------------------- the network


class RewardNet(nnx.Module):  # type: ignore[misc]
    """A Gemma and a scalar head of float32. The head begins at zero, so training begins without an opinion.

    Args:
        backbone: a Tunix Gemma 3.
        kernel, bias: the head's, zeros where left out. Bradley-Terry gives the bias no gradient.
    """

    def __init__(
        self,
        backbone: Gemma3,
        kernel: Float[Array, " D"] | None = None,
        bias: Float[Array, ""] | None = None,
    ) -> None:
        self.backbone = backbone
        self.kernel = nnx.Param(jnp.zeros(backbone.embed_dim) if kernel is None else jnp.asarray(kernel))
        self.bias = nnx.Param(jnp.zeros(()) if bias is None else jnp.asarray(bias))

    def __call__(self, tokens: Int[Array, "B L"], present: Bool[Array, "B L"]) -> Float[Array, " B"]:
        """Raw scores of right-padded conversations; a row without any token gets a number that means nothing."""
        positions, own = jnp.maximum(jnp.cumsum(present, axis=1) - 1, 0), present.astype(jnp.int32)
        hidden = hidden_states(self.backbone, tokens, positions, own, jnp.zeros_like(own))
        last = jnp.maximum(jnp.sum(present, axis=1) - 1, 0)
        read = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0].astype(jnp.float32)
        return read @ self.kernel[...] + self.bias[...]


# ------------------------------------------------------------------------------------------------ losses


def bradley_terry_loss(
    chosen: Float[Array, " B"], rejected: Float[Array, " B"], weights: Float[Array, " B"]
) -> Float[Array, ""]:
    """Mean of -log sigmoid(r_chosen - r_rejected) = softplus(r_rejected - r_chosen).

    Bradley and Terry 1952; as a reward model's loss InstructGPT, arXiv 2203.02155, equation 1.
    """
    return _mean(jax.nn.softplus(rejected - chosen), weights)


def logistic_loss(
    scores: Float[Array, " B"], labels: Float[Array, " B"], weights: Float[Array, " B"]
) -> Float[Array, ""]:
    """Mean binary cross-entropy: -y log sigmoid(r) - (1 - y) log sigmoid(-r) = softplus(r) - y·r."""
    return _mean(jax.nn.softplus(scores) - labels * scores, weights)


def centre_penalty(
    chosen: Float[Array, " B"], rejected: Float[Array, " B"], weights: Float[Array, " B"]
) -> Float[Array, ""]:
    """Mean of (r_chosen + r_rejected)², which keeps scores around zero without touching their differences.

    Eisenstein et al. 2023, "Helping or Herding?", arXiv 2312.09244.
    """
    return _mean(jnp.square(chosen + rejected), weights)


def _mean(values: Float[Array, " B"], weights: Float[Array, " B"]) -> Float[Array, ""]:
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1e-8)


# ---------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What a finished training leaves.

    Attributes:
        folder: the reward model.
        steps: optimiser steps.
        kept_step: the step whose weights were kept, the last one unless `keep_best`.
        train_loss: mean of the last ten steps.
        held_out: split -> figures, for "validation" and "test" where they have rows.
        already_done: nothing had to be done.
        data: the line that counts the rows.
    """

    folder: Path
    steps: int
    kept_step: int
    train_loss: float
    held_out: dict[str, HeldOut]
    already_done: bool
    data: str


def train_reward_model(
    config: RewardConfig,
    data: Sequence[Pair] | Sequence[Labelled],
    base: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    on_step: Callable[[int, int, float], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> RewardResult:
    """Train a reward model on one device; the finished folder appears at `out_dir` in one rename.

    A training that was stopped leaves nothing there and begins again, with the same losses; a folder that
    holds the same training finished is left as it is.

    Args:
        data: `Pair`s for the pairwise kind, `Labelled` for the pointwise; splits by question.
        base: see `distill.gemma.folder.resolve_model`.
        on_step: called with (step, steps, loss).
        on_message: gets a line for a person now and then.

    Raises:
        UserError: bad rows, a folder that holds something else, a loss that is not finite, a full disk.
    """
    say = on_message or (lambda _: None)
    out, opened = Path(out_dir), ModelFolder.open(resolve_model(base))
    tokenizer, template = Tokenizer.load(opened.path), parse_template(config.template)
    rows = encode_rows(data, config.kind, template, tokenizer, config.max_length)
    say(rows.summary())
    fingerprint = _fingerprint(config, rows, opened, template)
    if (done := _finished(out, fingerprint, rows)) is not None:
        say(f"{out} is finished already")
        return done
    with log.disk_faults(out, _AGAIN):  # before the hours of training, not behind them
        out.parent.mkdir(parents=True, exist_ok=True)
    steps = config.steps_for(len(rows.rows["train"]))
    trainer = _Trainer(
        config, rows, RewardNet(load_model(opened, dtype=config.dtype)), tokenizer.pad_id, steps
    )
    kept_step, losses = trainer.run(on_step or (lambda *_: None), say)
    result = RewardResult(
        folder=out,
        steps=steps,
        kept_step=kept_step,
        train_loss=float(np.mean(losses[-10:])),
        held_out={
            split: trainer.held_out(rows.rows[split]) for split in ("validation", "test") if rows.rows[split]
        },
        already_done=False,
        data=rows.summary(),
    )
    manifest = {
        "kind": config.kind,
        "sees": config.sees,
        "template": template.to_dict(),
        "centre": trainer.centre(),
        "config": dataclasses.asdict(config),
        "base": {"name": os.fspath(base), "content_hash": opened.content_hash},
        "fingerprint": fingerprint,
        "data": {"fingerprint": rows.fingerprint, "summary": rows.summary()},
        "steps": steps,
        "kept_step": kept_step,
        "train_loss": result.train_loss,
        "held_out": {split: dataclasses.asdict(one) for split, one in result.held_out.items()},
    }
    with log.disk_faults(out, _AGAIN):
        _save(trainer.net(), opened, out, manifest)
    return result


def another_reward_model(
    config: RewardConfig,
    data: Sequence[Pair] | Sequence[Labelled],
    base: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
) -> bool:
    """Does `out_dir` hold a finished reward model of another config, data or base than these?

    Raises:
        UserError: as `train_reward_model` does for bad input.
    """
    out, opened = Path(out_dir), ModelFolder.open(resolve_model(base))
    if not (out / MANIFEST).is_file():
        return False
    template = parse_template(config.template)
    rows = encode_rows(data, config.kind, template, Tokenizer.load(opened.path), config.max_length)
    found: str = read_manifest(out)["fingerprint"]
    return found != _fingerprint(config, rows, opened, template)


class _Trainer:
    """The loop over one device; parameters live here, the network's graph is compiled once a length."""

    def __init__(
        self, config: RewardConfig, data: PreferenceData, net: RewardNet, pad_id: int, steps: int
    ) -> None:
        self._config, self._data, self._pad_id, self._steps = config, data, pad_id, steps
        self._texts = 2 if config.kind == "pairwise" else 1
        graph, self._params = nnx.split(net)
        self._graph = graph
        schedule = cosine_schedule(
            config.learning_rate, steps=steps, warmup=config.warmup_steps, final_fraction=0.1
        )
        optimizer = adamw(
            schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, clip=config.clip
        )
        self._state = optimizer.init(self._params)

        def scores(params: Any, tokens: Any, present: Any) -> Float[Array, "K B"]:
            return nnx.merge(graph, params)(tokens, present).reshape(self._texts, -1)

        def step(params: Any, state: Any, tokens: Any, present: Any, labels: Any) -> tuple[Any, Any, Any]:
            def loss_of(params: Any) -> Any:
                return self._loss(scores(params, tokens, present), labels)

            loss, gradient = jax.value_and_grad(loss_of)(params)
            updates, state = optimizer.update(gradient, state, params)
            return jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates), state, loss

        self._scores, self._step = jax.jit(scores), jax.jit(step, donate_argnums=(0, 1))

    def _loss(self, scores: Float[Array, "K B"], labels: Float[Array, " B"]) -> Float[Array, ""]:
        weights = jnp.ones_like(labels)  # every row of a training batch is real
        if self._config.kind == "pointwise":
            return logistic_loss(scores[0], labels, weights)
        loss = bradley_terry_loss(scores[0], scores[1], weights)
        if self._config.centre:
            loss += self._config.centre * centre_penalty(scores[0], scores[1], weights)
        return loss

    def _batch(self, rows: Sequence[Encoded]) -> tuple[Any, Any]:
        """(tokens, present), (K·B, L): of pairs the chosen texts first, then the rejected."""
        length = compiled_length(max(row.length for row in rows), self._config.max_length)
        parts = [
            pad_rows([row.texts[k] for row in rows], self._config.batch_size, length, self._pad_id)
            for k in range(self._texts)
        ]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def run(
        self, on_step: Callable[[int, int, float], None], say: Callable[[str], None]
    ) -> tuple[int, list[float]]:
        """Train; returns the step whose weights are kept, and the loss of every step."""
        config, losses = self._config, list[float]()
        best: tuple[float, int, Any] | None = None
        batches = train_batches(self._data.rows["train"], config.batch_size, self._steps, config.seed)
        for number, rows in enumerate(batches, 1):
            labels = np.asarray([row.label for row in rows], np.float32)
            self._params, self._state, loss = self._step(
                self._params, self._state, *self._batch(rows), labels
            )
            losses.append(float(loss))
            self._refuse_infinite(number, losses[-1])
            on_step(number, self._steps, losses[-1])
            due = number == self._steps or (config.eval_every and number % config.eval_every == 0)
            if due and self._data.rows["validation"]:
                held_out = self.held_out(self._data.rows["validation"])
                say(f"step {number}: validation loss {held_out.loss:.4f}, accuracy {held_out.accuracy:.3f}")
                if config.keep_best and (best is None or held_out.loss < best[0]):
                    best = (held_out.loss, number, jax.device_get(self._params))
        if best is None:
            return self._steps, losses
        self._params = jax.tree.map(jnp.asarray, best[2])
        return best[1], losses

    def _refuse_infinite(self, step: int, loss: float) -> None:
        """Stop at a loss that is not finite; no loss sees the last step's update, so look at the weights then."""
        finite = math.isfinite(loss)
        if finite and step == self._steps:
            finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(self._params))
        if not finite:
            raise UserError(
                f"step {step}: the loss is {loss} and the weights are no longer finite; nothing is saved. Try a lower "
                "learning rate or more warm-up steps",
                exit_code=1,
            )

    def raw(self, rows: Sequence[Encoded]) -> np.ndarray[Any, Any]:
        """Raw scores (K, rows)."""
        raw, size = np.zeros((self._texts, len(rows))), self._config.batch_size
        by_length = sorted(range(len(rows)), key=lambda i: rows[i].length)
        for start in range(0, len(rows), size):
            part = by_length[start : start + size]
            scores = self._scores(self._params, *self._batch([rows[i] for i in part]))
            raw[:, part] = np.asarray(scores)[:, : len(part)]
        return raw

    def centre(self) -> float:
        """Mean raw score of the training texts; 0 for the pointwise kind, whose scores have a zero of their own."""
        return float(self.raw(self._data.rows["train"]).mean()) if self._texts == 2 else 0.0

    def held_out(self, rows: Sequence[Encoded]) -> HeldOut:
        return measure_held_out(self.raw(rows), rows)

    def net(self) -> RewardNet:
        net: RewardNet = nnx.merge(self._graph, self._params)
        return net


# -------------------------------------------------------------------------------------------- the folder


def _fingerprint(config: RewardConfig, data: PreferenceData, base: ModelFolder, template: Template) -> str:
    """32 hex digits over everything that decides about the weights."""
    decides = [dataclasses.asdict(config), template.to_dict(), data.fingerprint, base.content_hash]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).digest()[:16].hex()


def _finished(out: Path, fingerprint: str, data: PreferenceData) -> RewardResult | None:
    """The result of this very training where it is finished already.

    Raises:
        UserError: something else is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out} is there already and holds no reward model; choose another folder")
    manifest = read_manifest(out)
    if manifest["fingerprint"] != fingerprint:
        raise UserError(f"{out} holds a reward model of another config, data or base; choose another folder")
    load_reward_model(out)  # is it whole?
    return RewardResult(
        folder=out,
        steps=manifest["steps"],
        kept_step=manifest["kept_step"],
        train_loss=manifest["train_loss"],
        held_out={split: HeldOut(**one) for split, one in manifest["held_out"].items()},
        already_done=True,
        data=data.summary(),
    )


def _save(net: RewardNet, base: ModelFolder, out: Path, manifest: dict[str, Any]) -> None:
    """Write backbone, head and manifest beside their place, flush them, and rename the folder into it."""
    from safetensors.numpy import save_file

    for leftover in out.parent.glob(f".{out.name}.reward-*"):
        shutil.rmtree(leftover)  # of a process that was killed
    building = out.parent / f".{out.name}.reward-{os.getpid()}"
    try:
        saved = save_model(net.backbone, base.config, building, tokenizer_from=base.path)
        head = {"kernel": np.asarray(net.kernel[...]), "bias": np.asarray(net.bias[...]).reshape(1)}
        save_file(head, building / HEAD)
        whole = {"format": FORMAT, **manifest, "backbone": saved.content_hash}
        log.write_atomically(building / MANIFEST, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        publish(building, out)  # what is there is empty, `_finished` saw to that
    finally:
        shutil.rmtree(building, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a reward model's folder says about itself.

    Raises:
        UserError: no reward model, a damaged manifest or one of a newer version.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"{folder} holds no reward model: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = int(manifest["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not the manifest of a reward model: {error}") from error
    if version > FORMAT:
        raise UserError(f"{file} was written by a newer version (format {version}, this one knows {FORMAT})")
    return manifest


def _read_head(folder: Path, width: int) -> tuple[Any, Any]:
    """The head's kernel (D,) and bias ().

    Raises:
        UserError: missing, torn, or of another width.
    """
    from safetensors.numpy import load_file

    file = folder / HEAD
    if not file.is_file():
        raise UserError(f"{folder} has no {HEAD}")
    shapes = {name: info.shape for name, info in read_header(file).items()}
    if shapes != {"kernel": (width,), "bias": (1,)}:
        raise UserError(f"{file} must hold kernel ({width},) and bias (1,), it has {shapes}")
    head = load_file(file)
    return head["kernel"], head["bias"][0]


def _template_of(folder: Path, manifest: dict[str, Any]) -> Template:
    template = parse_template(manifest["config"]["template"])
    if template.to_dict() != manifest["template"]:
        raise UserError(
            f"{folder}: the text of the template {template.name} has changed since this reward model was trained"
        )
    return template


# --------------------------------------------------------------------------------------- a trained model


@dataclass(frozen=True, slots=True)
class Assessment:
    """What became of one text.

    Attributes:
        raw: the network's number, None where it was left out.
        score: in [0, 1], see the module's text; None where it was left out.
        reason: why it was left out, else None.
    """

    raw: float | None
    score: float | None
    reason: str | None = None


class RewardModel:
    """A trained reward model that scores texts in a few compiled shapes.

    A text's score depends on the text alone: padding and neighbours are invisible to it, up to the rounding
    of float32 sums.

    Attributes:
        kind: "pairwise" or "pointwise".
        sees: "summary" (what follows the reasoning) or "response" (all of it): what `text` has to be.
        template: how question and text become a conversation.
        max_length: tokens of the longest conversation it scores.
        centre: taken off a raw score of the pairwise kind; 0 for the pointwise.
    """

    def __init__(
        self,
        net: RewardNet,
        tokenizer: Tokenizer,
        *,
        kind: Kind,
        sees: Sees,
        template: Template,
        max_length: int,
        centre: float,
        rows: int = 32,
    ) -> None:
        self.kind, self.sees, self.template = kind, sees, template
        self.max_length, self.centre = max_length, centre
        self._tokenizer, self._rows = tokenizer, rows
        graph, self._params = nnx.split(net)
        self._forward = jax.jit(lambda params, tokens, present: nnx.merge(graph, params)(tokens, present))

    def score(self, items: Sequence[tuple[str, str]]) -> list[float]:
        """Scores in [0, 1] of (question, text).

        Raises:
            UserError: a text is too long to be scored (names the first and counts them).
        """
        assessed = self.assess(items)
        refused = [(i, one.reason) for i, one in enumerate(assessed) if one.reason is not None]
        if refused:
            number, reason = refused[0]
            more = f" ({len(refused)} of {len(items)} are)" if len(refused) > 1 else ""
            raise UserError(f"text {number} cannot be scored: {reason}{more}; no text is ever cut")
        return [one.score for one in assessed if one.score is not None]

    def assess(self, items: Sequence[tuple[str, str]]) -> list[Assessment]:
        """As `score`, but what is too long is left out, with the reason."""
        encoded = [
            np.asarray(encode_scored(question, text, self.template, self._tokenizer), np.int32)
            for question, text in items
        ]
        fitting = [i for i, ids in enumerate(encoded) if len(ids) <= self.max_length]
        raw = dict(zip(fitting, self.raw_scores([encoded[i] for i in fitting]), strict=True))
        return [self._assessment(raw.get(i), len(ids)) for i, ids in enumerate(encoded)]

    def _assessment(self, raw: float | None, tokens: int) -> Assessment:
        if raw is None:
            reason = f"it has {tokens} tokens with its question, the reward model takes {self.max_length}"
            return Assessment(None, None, reason)
        return Assessment(raw, float(1 / (1 + np.exp(-np.clip(raw - self.centre, -60.0, 60.0)))))

    def raw_scores(self, encoded: Sequence[np.ndarray[Any, Any]]) -> list[float]:
        """The network's numbers for encoded conversations, in their order; each compiled length is run apart."""
        raw = np.zeros(len(encoded))
        lengths = [compiled_length(len(ids), self.max_length) for ids in encoded]
        for length in sorted(set(lengths)):
            own = [i for i, other in enumerate(lengths) if other == length]
            for start in range(0, len(own), self._rows):
                part = own[start : start + self._rows]
                tokens, present = pad_rows(
                    [encoded[i] for i in part], self._rows, length, self._tokenizer.pad_id
                )
                raw[part] = np.asarray(self._forward(self._params, tokens, present))[: len(part)]
        return [float(value) for value in raw]


def load_reward_model(
    folder: str | os.PathLike[str], *, kind: Kind | None = None, sees: Sees | None = None, rows: int = 32
) -> RewardModel:
    """Load a folder that `train_reward_model` made.

    Args:
        kind, sees: what it must be, where that matters.
        rows: conversations scored together; part of the compiled shapes. Long texts want few.

    Raises:
        UserError: no reward model, of another kind, or its parts do not belong together.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    for name, wanted in (("kind", kind), ("sees", sees)):
        if wanted is not None and manifest[name] != wanted:
            raise UserError(f"{path}: the reward model's {name} is {manifest[name]}, {wanted} is needed")
    opened = ModelFolder.open(path)
    if opened.content_hash != manifest["backbone"]:
        raise UserError(f"{path}: the weights are not those that the head was trained with")
    kernel, bias = _read_head(path, opened.config.hidden_size)
    net = RewardNet(load_model(opened, dtype=manifest["config"]["dtype"]), kernel, bias)
    return RewardModel(
        net,
        Tokenizer.load(path),
        kind=manifest["kind"],
        sees=manifest["sees"],
        template=_template_of(path, manifest),
        max_length=int(manifest["config"]["max_length"]),
        centre=float(manifest["centre"]),
        rows=rows,
    )
