"""Samples of the policy as it is at this moment, behind one Protocol.

The in-process rollout keeps the stop token (what ends an answer must get a gradient), draws every sample from a
seed of its own (no two steps share noise), gives log-probabilities of the distribution at temperature 1, and
compiles one shape for all steps, whatever the length limit of a step. A served one has to do the same: take a
policy's new weights (`sync`), and answer in the order of the requests.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distill.chat import stop_ids
from distill.gemma.tokenizer import Tokenizer
from factory.records import sample_seed


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to draw: prompt ids, a seed of 63 bits, and how long it may become."""

    prompt_ids: tuple[int, ...]
    seed: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One sample.

    Attributes:
        token_ids: as drawn, the stop token included.
        text: without the stop token.
        truncated: it was cut off at its limit.
        logprobs: one a token, of the policy at temperature 1; None where the rollout does not tell.
    """

    token_ids: tuple[int, ...]
    text: str
    truncated: bool
    logprobs: tuple[float, ...] | None


class Rollout(Protocol):
    """Where samples come from.

    Attributes:
        seconds, tokens: spent and drawn since the last `reset_clock`.
    """

    seconds: float
    tokens: int

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        """Draw every request from the policy as it is now, in the order of the requests."""
        ...

    def sync(self) -> None:
        """The policy's weights have changed."""
        ...

    def reset_clock(self) -> None: ...


def request_seed(run_seed: int, job: str, step: int, position: int, sample: int) -> int:
    """Seed of one sample: of the run, the job, the step, the prompt's position in the stream, and its number."""
    return sample_seed(run_seed, f"{job}:{step}:{position}:{sample}")


class InProcessRollout:
    """Samples from the model that is being trained, in the same process and on the same devices.

    Args:
        model: a Tunix Gemma 3; it is read anew by every `draw`.
        tokenizer: the model's.
        temperature: of sampling; the whole distribution, without top-p or top-k, for a truncated one is not the
            policy whose gradient is taken.
        prompt_length, max_new_tokens: the compiled shape; a request may ask for less.
        batch_size: rows that are decoded together.
        mesh: the devices of the model, None for one; rows are divided among its axis "fsdp".
        dtype: of weights and cache while sampling, None for the model's own.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        temperature: float,
        prompt_length: int,
        max_new_tokens: int,
        batch_size: int,
        mesh: Any = None,
        dtype: str | None = None,
    ) -> None:
        from distill.gemma.sampler import Sampler, SamplingConfig

        self._tokenizer = tokenizer
        self._stops = frozenset(stop_ids(tokenizer))
        self.sampler = Sampler(
            model,
            sampling=SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature),
            prompt_length=prompt_length,
            batch_size=batch_size,
            stop_ids=self._stops,
            pad_id=tokenizer.pad_id,
            mesh=mesh,
            dtype=dtype,
        )
        self.seconds, self.tokens = 0.0, 0

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        from distill.gemma import sampler

        started = time.perf_counter()
        asked = (
            sampler.Request(number, r.prompt_ids, r.seed, r.max_new_tokens)
            for number, r in enumerate(requests)
        )
        found = sorted(self.sampler.run(asked), key=lambda sample: int(str(sample.key)))
        self.seconds += time.perf_counter() - started
        self.tokens += sum(len(sample.token_ids) for sample in found)
        return [self._drawn(sample) for sample in found]

    def sync(self) -> None:
        """Nothing to do: the sampler reads the model itself."""

    def reset_clock(self) -> None:
        self.seconds, self.tokens = 0.0, 0

    def _drawn(self, sample: Any) -> Drawn:
        ids = sample.token_ids
        stopped = sample.finish_reason == "stop"
        text = self._tokenizer.decode(list(ids[:-1] if stopped else ids))
        return Drawn(ids, text, not stopped, sample.logprobs)
