"""Teachers to sample from, behind one Protocol: requests in, completions out in any order.

An engine that fails on a request says so with a `Failure`; it never invents a completion. Failures go to the
`attempts` table and the request is asked again, so an engine's fault is never counted as a bad sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to draw.

    Attributes:
        key: identity of the sample, e.g. its candidate id.
        messages: the conversation so far, as {"role", "content"} dicts.
        seed: 63 bits; the same seed gives the same sample from the same engine at the same shape.
    """

    key: str
    messages: tuple[dict[str, str], ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample drawn.

    Attributes:
        text: the completion without stop tokens.
        token_ids: tokens as drawn, the stop token included; None where the engine does not tell.
        logprobs: natural log-probability of each token under the model at temperature 1.
        finish_reason: "stop" or "length".
        latency_s: from the request's start to its end, in seconds.
    """

    key: str
    text: str
    token_ids: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that could not be served. `permanent`: asking again cannot help (a prompt too long)."""

    key: str
    error_class: str
    message: str
    permanent: bool


class Engine(Protocol):
    """A teacher."""

    name: str
    model_name: str
    model_hash: str

    def sample(self, requests: Iterable[SampleRequest]) -> Iterator[Completion | Failure]:
        """Draw samples. Requests are pulled lazily; results come as they finish, in any order."""
        ...
