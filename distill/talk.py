"""A conversation with a model in a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill import training_log as log
from distill.chat import Template, encode_prompt, parse_template, stop_ids, without_reasoning
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.tokenizer import Tokenizer
from filters.errors import UserError

_SHORTEST_PROMPT = 128
_INCOMPLETE = "\ufffd"  # what a decoder writes for bytes of a character whose rest has not come


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said.

    Attributes:
        text: the whole completion.
        tokens: drawn, the stop token included.
        finished: it stopped by itself, not at its limit.
    """

    text: str
    tokens: int
    finished: bool


def trained_template(path: str | os.PathLike[str]) -> str | None:
    """The template that the model of a training folder was trained with; None for any other folder."""
    folder = Path(path)
    manifest = log.read_manifest(folder) if folder.is_dir() else None
    if manifest is None:
        return None
    found: str = manifest["config"]["template"]
    return found


def find_model(path: str | os.PathLike[str]) -> ModelFolder:
    """A model, or the finished one of a training folder."""
    folder = Path(path)
    trained = trained_template(folder) is not None
    if trained and not (folder / log.MODEL).is_dir():
        raise UserError(
            f"{folder} is not finished: it has no {log.MODEL} yet; train on, or export a checkpoint"
        )
    return ModelFolder.open(folder / log.MODEL if trained else resolve_model(path))


@dataclass
class Conversation:
    """Turns with a model. What it thought in earlier turns is not shown to it again.

    Args:
        model: a Tunix Gemma 3, on one device.
        template: how turns are written.
        max_new_tokens: the most tokens of a reply.
        temperature, top_p: of sampling; 0 takes the likeliest token.
        seed: of the first reply; the n-th has seed + n.
    """

    model: Any
    tokenizer: Tokenizer
    template: Template
    max_new_tokens: int = 512
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)
    _samplers: dict[int, Any] = field(default_factory=dict)
    _replies: int = 0

    def say(self, text: str, on_text: Callable[[str], None] = lambda _: None) -> Reply:
        """The model's reply to a text.

        Args:
            on_text: told the whole reply so far, whenever there is more of it.

        Raises:
            UserError: the text is empty, or the model's tokenizer has no turns for this template.
        """
        from distill.gemma.sampler import Request

        if not text.strip():
            raise UserError("say something: the message is empty")
        asked = [*self.messages, {"role": "user", "content": text}]
        prompt = tuple(
            encode_prompt(without_reasoning(asked, self.template.style), self.template, self.tokenizer)
        )
        stops = frozenset(stop_ids(self.tokenizer))

        def tell(_: Hashable, ids: list[int]) -> None:
            shown = self._text(ids, stops)
            if not shown.endswith(_INCOMPLETE):
                on_text(shown)

        request = Request(0, prompt, self.seed + self._replies)
        (sample,) = self._sampler(len(prompt), stops).run(iter([request]), tell)
        reply = Reply(
            self._text(list(sample.token_ids), stops), len(sample.token_ids), sample.finish_reason == "stop"
        )
        self.messages = [*asked, {"role": "assistant", "content": reply.text or "…"}]
        self._replies += 1
        return reply

    def forget(self) -> None:
        """Begin anew."""
        self.messages = []

    def _text(self, ids: list[int], stops: frozenset[int]) -> str:
        return self.tokenizer.decode(ids[:-1] if ids and ids[-1] in stops else ids)

    def _sampler(self, length: int, stops: frozenset[int]) -> Any:
        """One compiled shape for all prompts up to a power of two."""
        from distill.gemma.sampler import Sampler, SamplingConfig

        bucket = max(_SHORTEST_PROMPT, 1 << (length - 1).bit_length())
        if bucket not in self._samplers:
            self._samplers[bucket] = Sampler(
                self.model,
                sampling=SamplingConfig(self.max_new_tokens, self.temperature, self.top_p),
                prompt_length=bucket,
                batch_size=1,
                stop_ids=stops,
                pad_id=self.tokenizer.pad_id,
            )
        return self._samplers[bucket]


def open_conversation(
    path: str | os.PathLike[str], template: str | None = None, **settings: Any
) -> Conversation:
    """A conversation with a model, or with the finished one of a training folder.

    Args:
        template: see `distill.chat.parse_template`; None for the one it was trained with, else gemma:r1 where the
            tokenizer has turns and plain:r1 where it has none.
        settings: of `Conversation`.
    """
    from distill.gemma.checkpoint import load_model

    folder = find_model(path)
    tokenizer = Tokenizer.load(folder.path)
    turns = "plain" if tokenizer.end_of_turn_id is None else "gemma"
    chosen = parse_template(template or trained_template(path) or f"{turns}:r1")
    return Conversation(load_model(folder), tokenizer, chosen, **settings)


class ReplyDisplay:
    """Writes a reply as it grows: the reasoning dimmed, the answer plain.

    Args:
        write: takes a piece of text and whether it is reasoning.
    """

    def __init__(self, template: Template, write: Callable[[str, bool], None]) -> None:
        self._style, self._write = template.style, write
        self._shown = 0

    def update(self, text: str) -> None:
        """Write what is new of the whole reply so far."""
        if len(text) <= self._shown:
            return
        end = self._reasoning_end(text)
        if self._shown < end:
            self._write(text[self._shown : end], True)
            self._shown = end
        if len(text) > self._shown:
            self._write(text[self._shown :], False)
        self._shown = len(text)

    def _reasoning_end(self, text: str) -> int:
        """How far the reasoning goes, its closing tag included; 0 where there is none so far."""
        parsed = self._style.parse(text)
        if not parsed.closed:
            return len(text)
        if parsed.reasoning is None:
            return 0
        return text.rfind(self._style.think_close) + len(self._style.think_close)
