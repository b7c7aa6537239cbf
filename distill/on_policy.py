"""A student's own answers as training batches: on-policy distillation's data (arXiv 2306.13649)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.batches import Batch, Order, RowShape, TrainStream, make_batch
from distill.chat import stop_ids
from distill.data import Example
from distill.distillation import OnPolicy
from distill.gemma.tokenizer import Tokenizer


class OnPolicyStream(TrainStream):
    """Batches of what a model answers, as it is when the batch is asked for.

    The noise of an answer is a function of seed, step and number alone, so a run that goes on draws what it would
    have drawn.

    Args:
        examples: their prompts are asked; what they answer is not looked at.
        model: the student; its weights are read anew for every batch.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        shape: RowShape,
        *,
        steps: int,
        seed: int,
        stop: Callable[[int], bool],
        settings: OnPolicy,
        model: Any,
        tokenizer: Tokenizer,
        mesh: Any = None,
        dtype: str | None = None,
    ) -> None:
        from distill.gemma.sampler import Sampler, SamplingConfig

        super().__init__(examples, shape, steps=steps, seed=seed, stop=stop)
        self._settings, self._seed = settings, seed
        self._prompts = [tuple(int(i) for i in example.ids[: example.start]) for example in examples]
        self._questions = Order(len(examples), seed)
        self._sampler = Sampler(
            model,
            sampling=SamplingConfig(settings.max_new_tokens, settings.temperature),
            prompt_length=max(map(len, self._prompts)),
            batch_size=settings.rollout_rows,
            stop_ids=stop_ids(tokenizer),
            pad_id=tokenizer.pad_id,
            mesh=mesh,
            dtype=dtype,
        )

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0, drawn from the model as it is now."""
        from distill.gemma.sampler import Request

        asked = [self._prompts[number] for number in self._asked(step)]
        requests = (
            Request(number, ids, answer_seed(self._seed, step, number)) for number, ids in enumerate(asked)
        )
        found = sorted(self._sampler.run(requests), key=lambda sample: int(str(sample.key)))
        return make_batch(
            [_example(ids, sample.token_ids) for ids, sample in zip(asked, found, strict=True)], self._shape
        )

    def samples(self, step: int) -> list[Example]:
        """Whose questions a step asks."""
        return [self._examples[number] for number in self._asked(step)]

    def _asked(self, step: int) -> list[int]:
        count, samples = self._shape.samples, self._settings.samples
        return [self._questions[step * (count // samples) + number // samples] for number in range(count)]


def answer_seed(seed: int, step: int, number: int) -> int:
    """63 bits for one answer."""
    digest = hashlib.sha256(f"on-policy\0{seed}\0{step}\0{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _example(prompt: Sequence[int], answer: Sequence[int]) -> Example:
    ids = np.asarray([*prompt, *answer], np.int32)
    return Example(ids, np.arange(len(ids)) >= len(prompt), 1.0)
