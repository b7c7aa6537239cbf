"""Is an exported model the one that it was made of? Both are read from the disk, and asked the same."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from distill.chat import Template, apply_jinja, encode_prompt, lint, parse_template, stop_id, stop_ids
from distill.export import Step, export
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.gguf import from_gguf, weights_of_gguf
from distill.gemma.saving import chat_template_of
from distill.gemma.tokenizer import Tokenizer
from distill.training_log import read_manifest
from filters.errors import UserError

if TYPE_CHECKING:
    from tunix.models.gemma3.model import Gemma3

TEXTS = (
    "The three laws of motion say that a body at rest stays at rest unless a force",
    "Question: what is 17 plus 25? Answer:",
    "def fibonacci(n):\n    ",
    "Im Jahr 1905 veröffentlichte Albert Einstein",
    "人工智能是",
    "Once upon a time there was",
)
"""What both models read: English, sums, code, other languages and scripts."""

CONVERSATION = (
    {"role": "user", "content": "What is 17 plus 25?"},
    {"role": "assistant", "content": "It is 42."},
    {"role": "user", "content": "And 3 more?"},
)
"""What the chat template of an export renders."""

_TOKENS = 32
_EXACT, _AGREEING = 1e-3, 0.9


@dataclass(frozen=True, slots=True)
class Verification:
    """How an export compares with its source.

    Attributes:
        exact: nothing was rounded on the way, so the two must be the same to rounding of float32.
        largest: difference of a logit, over all tokens of `TEXTS`.
        agreeing: share of those tokens behind which both have the same likeliest token.
        same_texts, texts: of how many texts the greedy continuations are equal, of all.
    """

    exact: bool
    largest: float
    agreeing: float
    same_texts: int
    texts: int

    def summary(self) -> str:
        return (
            f"logits differ by at most {self.largest:.2g}, the likeliest token is the same at {self.agreeing:.1%} of "
            f"the places, the next {_TOKENS} tokens of {self.same_texts} of {self.texts} texts"
        )


def verify_export(source: str | os.PathLike[str], written: Path, step: Step = "final") -> Verification:
    """Compare what was written (an HF folder, adapters, or a GGUF) with its source.

    Raises:
        UserError: it is another model: a logit differs by more than 0.001 where nothing was rounded, or fewer
            than 90 % of the likeliest tokens are the same. Or others would ask it another way: its chat template
            renders a second <bos> or a turn that does not end, or another prompt than it was trained with; or its
            config does not stop where it was trained to.
    """
    with _whole(source, step) as original, _read_again(written) as (again, rounded):
        found = compare(original, again, exact=not (rounded or _quantised(source)))
        if not _is_adapter(written):  # those come with their base's
            check_template(again, _trained_with(source), written)
    if (found.exact and found.largest > _EXACT) or found.agreeing < _AGREEING:
        raise UserError(f"{written} is not the model that it was made of: {found.summary()}", exit_code=1)
    return found


def _settings(source: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Of the training that a source is; empty where it is a model."""
    manifest = read_manifest(Path(source)) if Path(source).is_dir() else None
    found: Mapping[str, Any] = {} if manifest is None else manifest["config"]
    return found


def _quantised(source: str | os.PathLike[str]) -> bool:
    """Were adapters trained beside matrices of few bits? Adapters alone then belong to others than the base's."""
    lora = _settings(source).get("lora")
    return lora is not None and lora["weights"] != "same"


def _trained_with(source: str | os.PathLike[str]) -> Template | None:
    name = _settings(source).get("template")
    return None if name is None else parse_template(name)


def check_template(folder: ModelFolder, template: Template | None, name: Path) -> None:
    """Render a conversation with the chat template of a model, where it has one.

    Args:
        template: that it was trained with; None where that is not known.
        name: of the model, for messages.

    Raises:
        UserError: see `verify_export`.
    """
    jinja = chat_template_of(folder.path)
    if jinja is None:
        return
    tokenizer = Tokenizer.load(folder.path)
    ids_of = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    tokens = {f"{kind}_token": tokenizer.piece(number) for kind, number in ids_of.items()}
    text = apply_jinja(jinja, CONVERSATION, tokens=tokens, add_generation_prompt=True)
    ids = tokenizer.encode_rendered(text)
    if wrong := lint(ids, tokenizer):
        raise UserError(f"{name}: what its chat template renders is wrong: {wrong[0]}", exit_code=1)
    if template is not None and stop_id(template, tokenizer) not in folder.config.eos_token_ids:
        raise UserError(
            f"{name} was trained to end with {tokenizer.piece(stop_id(template, tokenizer))}, and its config does not "
            "stop there",
            exit_code=1,
        )
    if template is not None and ids != encode_prompt(CONVERSATION, template, tokenizer):
        raise UserError(
            f"{name}: its chat template renders another prompt than {template.name}, with which it was "
            f"trained:\n{text}",
            exit_code=1,
        )


def compare(one: ModelFolder, other: ModelFolder, *, exact: bool) -> Verification:
    """Ask two models the same; both are computed in float32."""
    from distill.gemma.checkpoint import load_model

    tokenizer = Tokenizer.load(one.path)
    texts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in TEXTS]
    logits, greedy = [], []
    for folder in (one, other):
        model = load_model(folder)
        width = tokenizer.vocab_size  # rows of padding may be there in one and not in the other
        logits.append([row[:, :width] for row in _logits(model, texts, tokenizer.pad_id)])
        greedy.append(_continued(model, texts, tokenizer))
    largest = max(float(np.abs(a - b).max()) for a, b in zip(*logits, strict=True))
    same = np.concatenate([a.argmax(-1) == b.argmax(-1) for a, b in zip(*logits, strict=True)])
    return Verification(exact, largest, float(same.mean()), sum(map(tuple.__eq__, *greedy)), len(texts))


def _logits(
    model: Gemma3, texts: Sequence[Sequence[int]], pad: int
) -> list[Float[np.ndarray[Any, Any], "T V"]]:
    """Of every token of every text."""
    import jax.numpy as jnp

    from distill.gemma.forward import hidden_states, logits_of

    length = max(map(len, texts))
    tokens = np.full((len(texts), length), pad, np.int32)
    group = np.zeros_like(tokens)
    for row, ids in enumerate(texts):
        tokens[row, : len(ids)], group[row, : len(ids)] = ids, 1
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    hidden = hidden_states(model, *(jnp.asarray(x) for x in (tokens, positions, group, np.zeros_like(group))))
    return [np.asarray(logits_of(model, hidden[row, : len(ids)])) for row, ids in enumerate(texts)]


def _continued(model: Gemma3, texts: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The likeliest next tokens of every text."""
    from distill.gemma.sampler import Request, Sampler, SamplingConfig

    sampler = Sampler(
        model,
        sampling=SamplingConfig(_TOKENS, 0.0),
        prompt_length=max(map(len, texts)),
        batch_size=len(texts),
        stop_ids=stop_ids(tokenizer),
        pad_id=tokenizer.pad_id,
    )
    found = sampler.run(Request(number, tuple(ids), 0) for number, ids in enumerate(texts))
    return [sample.token_ids for sample in sorted(found, key=lambda sample: int(str(sample.key)))]


@contextmanager
def _whole(source: str | os.PathLike[str], step: Step) -> Iterator[ModelFolder]:
    """The source as a folder that is read once and thrown away."""
    with tempfile.TemporaryDirectory() as temporary:
        yield export(source, Path(temporary) / "whole", step)


@contextmanager
def _read_again(written: Path) -> Iterator[tuple[ModelFolder, bool]]:
    """What was written as a folder, and whether its numbers were rounded on the way there."""
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary) / "again"
        if written.is_file():
            yield from_gguf(written, again), weights_of_gguf(written) != {"F32"}
        elif _is_adapter(written):
            yield _with_adapter(written, again), False
        else:
            yield ModelFolder.open(written), False


def _is_adapter(written: Path) -> bool:
    return (written / "adapter_config.json").is_file()


def _with_adapter(adapter: Path, target: Path) -> ModelFolder:
    """PEFT's sum, from its files alone: W + alpha / r · B A."""
    from safetensors.numpy import load_file

    from distill.gemma.checkpoint import read_tensor, text_tensors
    from distill.gemma.saving import copy_tokenizer, write_folder
    from distill.lora import peft_stem

    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    name, revision = settings["base_model_name_or_path"], settings.get("revision")
    base = ModelFolder.open(resolve_model(f"{name}@{revision}" if revision else name))
    parts = load_file(adapter / "adapter_model.safetensors")
    scale = settings["lora_alpha"] / settings["r"]

    def added(name: str, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        stem = peft_stem(name, base)
        if f"{stem}.lora_A.weight" not in parts:
            return weight
        delta = parts[f"{stem}.lora_B.weight"] @ parts[f"{stem}.lora_A.weight"]
        whole: np.ndarray[Any, Any] = np.asarray(weight, np.float32) + scale * delta
        return whole.astype(weight.dtype)

    tensors = ((name, added(name, read_tensor(info))) for name, info in text_tensors(base).items())
    return write_folder(target, base.config, tensors, copy_tokenizer(base.path))
