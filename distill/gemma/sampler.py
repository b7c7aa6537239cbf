"""Sample many requests from a Gemma at fixed shapes, with continuous batching.

What it promises, for one compiled shape (`prompt_length`, `batch_size`, `max_new_tokens`, `prefill_batch`,
`chunk`, `lanes`) on one kind of machine:

- A request's token ids and log-probabilities are the same bits whatever row it lands in, whoever its
  neighbours are and whenever it is scheduled. Nothing of a row depends on another row: it has its own write
  index in the cache, its own seed, and its noise is a function of (seed, index of the token) alone.
- Nothing is compiled after `warm_up`.

How it goes: prompts are right-padded and prefilled `prefill_batch` at a time; samples of one prompt share its
prefill. Rows are decoded `chunk` tokens at a time, then finished rows are harvested and refilled. On a CPU two
lanes of rows run in two threads, because XLA there keeps a small model on about one core; their host work
overlaps too.

On a mesh (axes "fsdp" and "tp") rows are divided among "fsdp", and every device goes its own way through a chunk:
see `distill.gemma.row_parallel`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from distill.gemma import decoder
from distill.gemma.decoder import Cache, Weights
from distill.gemma.row_parallel import compiled_functions, placing
from filters.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh

_ROW_MULTIPLE = 8
"""Rows of a matrix product come in panels of 8; a row of a partial panel would get other bits."""


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How tokens are drawn.

    Attributes:
        max_new_tokens: the most tokens a request may ask for; part of the compiled shape.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: keep the smallest set of likeliest tokens whose probability (after `top_k`) reaches this; 1 is off.
        top_k: keep this many likeliest tokens; 0 is off.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}: ask for at least 1 token")
        if self.temperature < 0:
            raise UserError(f"temperature is {self.temperature}: it cannot be negative (0 is greedy)")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: it is a probability above 0 and at most 1 (1 is off)")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}: it counts tokens (0 is off)")


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to draw.

    Attributes:
        key: comes back with the sample.
        prompt_ids: the whole prompt, at least one id; it may hold the padding id.
        seed: 63 bits, 0 ≤ seed < 2^63.
        max_new_tokens: at most the config's; None takes that.
    """

    key: Hashable
    prompt_ids: tuple[int, ...]
    seed: int
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What was drawn.

    Attributes:
        key: the request's.
        token_ids: the drawn ids, the stop id included.
        logprobs: one a token, in nats: the model's own log-softmax at temperature 1 over its whole vocabulary,
            whatever temperature, top_p and top_k the token was drawn with.
        finish_reason: "stop" (the last id is a stop id) or "length".
        latency_s: seconds from entering a row to leaving it.
    """

    key: Hashable
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    latency_s: float = field(compare=False)


OnTokens = Callable[[Hashable, list[int]], None]
"""Told a request's key and all its tokens so far, whenever there are more."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request whose prompt stands, or will stand, in row `slot` of a prefilled block."""

    request: Request
    block: Future[Cache]
    slot: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What a chunk of K steps gave, on the host."""

    tokens: np.ndarray[Any, Any]  # (K, rows) int32
    logprobs: np.ndarray[Any, Any]  # (K, rows) float32


class _Lane:
    """Rows that are decoded together: the cache on the device, everything else on the host."""

    def __init__(self, rows: int, cache: Cache) -> None:
        self.cache = cache
        self.token = np.zeros(rows, np.int32)
        self.position = np.zeros(rows, np.int32)
        self.count = np.zeros(rows, np.int32)
        self.limit = np.zeros(rows, np.int32)
        self.key = np.zeros((rows, 2), np.uint32)
        self.active = np.zeros(rows, np.bool_)
        self.request: list[Request | None] = [None] * rows
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.logprobs: list[list[float]] = [[] for _ in range(rows)]
        self.started = np.zeros(rows)
        self.inserts: list[tuple[Future[Cache], np.ndarray[Any, Any], np.ndarray[Any, Any], Any]] = []

    def free_rows(self) -> list[int]:
        return [row for row, request in enumerate(self.request) if request is None]

    def seat(self, row: int, request: Request, limit: int) -> None:
        """Put a request into a row. The last prompt id is fed again, so that every token is drawn in one place."""
        self.request[row] = request
        self.tokens[row], self.logprobs[row] = [], []
        self.token[row] = request.prompt_ids[-1]
        self.position[row] = len(request.prompt_ids) - 1
        self.count[row], self.limit[row] = 0, limit
        self.key[row] = (request.seed >> 32, request.seed & 0xFFFFFFFF)
        self.active[row] = True
        self.started[row] = time.perf_counter()

    def harvest(
        self, chunk: _Chunk, stop_ids: frozenset[int], on_tokens: OnTokens | None = None
    ) -> list[Sample]:
        """Take a chunk's tokens into the rows; empty the rows that are done and return their samples."""
        samples = []
        for row, request in enumerate(self.request):
            if request is None:
                continue
            new = int(self.count[row]) - len(self.tokens[row])
            self.tokens[row].extend(chunk.tokens[:new, row].tolist())
            self.logprobs[row].extend(chunk.logprobs[:new, row].tolist())
            if on_tokens is not None:
                on_tokens(request.key, self.tokens[row])
            if not self.active[row]:
                reason = "stop" if self.tokens[row][-1] in stop_ids else "length"
                latency = time.perf_counter() - self.started[row]
                ids, logprobs = tuple(self.tokens[row]), tuple(self.logprobs[row])
                samples.append(Sample(request.key, ids, logprobs, reason, float(latency)))
                self.request[row] = None
        return samples


class Sampler:
    """Draws samples from a Tunix `Gemma3`; see the module's text for what it promises.

    Args:
        model: a Tunix `Gemma3`. Its parameters are read anew by every `run`, so a model that is being trained
            is sampled as it is at that moment.
        sampling: how tokens are drawn; one compiled shape each.
        prompt_length: longest prompt, in tokens.
        batch_size: rows over all lanes, rounded up to a multiple of 8 a lane.
        stop_ids: ids that end a sample.
        pad_id: fills prompts on the right; any id of the vocabulary.
        prefill_batch: prompts prefilled together; None takes an eighth of a lane's rows.
        chunk: tokens decoded between two harvests.
        lanes: threads of decoding; None takes 2 on a CPU when there are rows for both, else 1.
        mesh: devices with the axes "fsdp" and "tp", on which the model lies; None for one device. `batch_size` is
            then rounded up to a multiple of 8 a device of "fsdp", and `prefill_batch` to one of those devices.
        dtype: of weights and cache while sampling; None for the model's own.

    Raises:
        UserError: for sizes that cannot be.
        ValueError: where the model carries LoRA adapters that are not merged.
    """

    def __init__(
        self,
        model: Any,
        *,
        sampling: SamplingConfig,
        prompt_length: int,
        batch_size: int,
        stop_ids: Iterable[int],
        pad_id: int,
        prefill_batch: int | None = None,
        chunk: int = 8,
        lanes: int | None = None,
        mesh: Mesh | None = None,
        dtype: str | None = None,
    ) -> None:
        if min(prompt_length, batch_size, chunk) < 1:
            raise UserError(
                f"prompt_length {prompt_length}, batch_size {batch_size} and chunk {chunk} must each be at least 1"
            )
        self.sampling = sampling
        self.prompt_length = prompt_length
        self._model = model
        self._spec = decoder.spec_of(model)
        self._stop_ids = frozenset(stop_ids)
        self._pad_id = pad_id
        if mesh is not None:
            lanes = 1  # every device is busy with its own rows already
        if lanes is None:
            lanes = 2 if jax.default_backend() == "cpu" and batch_size >= 2 * _ROW_MULTIPLE else 1
        self._lanes = lanes
        shards = 1 if mesh is None else mesh.shape["fsdp"]
        self._mesh = mesh
        self._local_rows = round_up(-(-batch_size // (lanes * shards)))
        self._rows = self._local_rows * shards
        prefill_rows = prefill_batch if prefill_batch is not None else max(1, self._rows // 8)
        self._prefill_rows = -(-prefill_rows // shards) * shards
        self._slots = round_up(prompt_length) + sampling.max_new_tokens
        self._build(chunk, mesh, dtype)

    def _build(self, chunk: int, mesh: Mesh | None, dtype: str | None) -> None:
        kind = dtype or self._model.embedder.input_embedding[...].dtype
        functions = compiled_functions(
            self._spec,
            self.sampling,
            tuple(sorted(self._stop_ids)),
            chunk=chunk,
            rows=self._local_rows,
            slots=self._slots,
            prompts=(self._prefill_rows, round_up(self.prompt_length)),
            dtype=kind,
            mesh=mesh,
        )
        self._jit_empty, self._jit_prefill, self._jit_insert, self._jit_decode = functions
        cast = dtype is not None or mesh is not None
        self._jit_weights = placing(self._spec, mesh, dtype) if cast else None

    def _weights(self) -> Weights:
        """The model's parameters as they are now, where and in the dtype in which they are sampled from."""
        weights = decoder.weights_of(self._model)
        if self._jit_weights is None:
            return weights
        placed: Weights = self._jit_weights(weights)
        return placed

    @property
    def batch_size(self) -> int:
        """Rows over all lanes, as compiled."""
        return self._rows * self._lanes

    @property
    def compilations(self) -> int:
        """How many executables this sampler uses; constant after `warm_up`."""
        jitted = (self._jit_empty, self._jit_prefill, self._jit_insert, self._jit_decode, self._jit_weights)
        return sum(function._cache_size() for function in jitted if function is not None)

    def warm_up(self) -> None:
        """Compile everything, in the order and in the kinds of threads in which `run` uses it."""
        request = Request(None, (self._pad_id,), 0, 1)
        for _ in self.run(request for _ in range(2 * self.batch_size)):
            pass

    def run(self, requests: Iterable[Request], on_tokens: OnTokens | None = None) -> Iterator[Sample]:
        """Draw every request; samples come as they finish, requests are pulled as rows become free.

        `on_tokens` is told of unfinished samples after every chunk, in the caller's thread.

        Closing the iterator early waits for the chunk under way and drops the unfinished rows.

        Raises:
            UserError: for an empty or over-long prompt, an id outside the vocabulary, a token limit above the
                compiled one, or a seed outside 63 bits. Filter by length first: what is under way is lost.
        """
        run = _Run(self, iter(requests), on_tokens)
        try:
            yield from run.samples()
        finally:
            run.close()

    # Called by `_Run`, in worker threads.

    def _prefill(self, weights: Weights, prompts: list[tuple[int, ...]]) -> Cache:
        tokens = np.full((self._prefill_rows, round_up(self.prompt_length)), self._pad_id, np.int32)
        for slot, prompt in enumerate(prompts):
            tokens[slot, : len(prompt)] = prompt
        cache: Cache = self._jit_prefill(weights, tokens)
        return cache

    def _advance(self, weights: Weights, lane: _Lane) -> _Chunk:
        for block, source, target, count in lane.inserts:
            lane.cache = self._jit_insert(lane.cache, block.result(), source, target, count)
        lane.inserts.clear()
        state = (lane.token, lane.position, lane.count, lane.active)
        lane.cache, state, tokens, logprobs = self._jit_decode(
            weights, lane.cache, state, lane.limit, lane.key
        )
        # Copies: a NumPy view of a device buffer is read-only.
        lane.token, lane.position, lane.count, lane.active = (np.array(array) for array in state)
        return _Chunk(np.asarray(tokens), np.asarray(logprobs))

    def _placed_rows(self, sources: list[int], targets: list[int]) -> tuple[Any, Any, Any]:
        """Sources, targets and their number, for each device's rows on their own: what `_insert` copies there."""
        local, shards = self._local_rows, self._rows // self._local_rows
        source, target = np.zeros((2, shards, local), np.int32)
        count = np.zeros(shards, np.int32)
        for slot, row in zip(sources, targets, strict=True):
            shard, own = divmod(row, local)
            source[shard, count[shard]], target[shard, count[shard]] = slot, own
            count[shard] += 1
        return source.reshape(-1), target.reshape(-1), count[0] if self._mesh is None else count

    def _check(self, request: Request) -> int:
        """The request's token limit, once the request is known to be possible."""
        ids, cap = request.prompt_ids, self.sampling.max_new_tokens
        if not 1 <= len(ids) <= self.prompt_length:
            raise UserError(
                f"the prompt of {request.key!r} has {len(ids)} tokens, this sampler takes 1 to"
                f" {self.prompt_length}: filter by length first, or raise prompt_length"
            )
        if min(ids) < 0 or max(ids) >= self._spec.num_embed:
            raise UserError(
                f"the prompt of {request.key!r} has a token id outside the model's 0 to {self._spec.num_embed - 1}:"
                " use the model's own tokenizer"
            )
        limit = cap if request.max_new_tokens is None else request.max_new_tokens
        if not 1 <= limit <= cap:
            raise UserError(
                f"{request.key!r} asks for {limit} new tokens, this sampler was built for 1 to {cap}:"
                " raise max_new_tokens"
            )
        if not 0 <= request.seed < 2**63:
            raise UserError(f"the seed of {request.key!r} is {request.seed}: it must be in 0 to 2^63 - 1")
        return limit


class _Run:
    """One pass over requests. It owns its lanes, so that runs of one sampler do not meet."""

    def __init__(self, sampler: Sampler, requests: Iterator[Request], on_tokens: OnTokens | None) -> None:
        self._sampler = sampler
        self._on_tokens = on_tokens
        self._requests = requests
        self._next: Request | None = None
        self._weights = sampler._weights()
        self._waiting: deque[_Waiting] = deque()
        self._prefiller = ThreadPoolExecutor(1, thread_name_prefix="prefill")
        self._decoders = ThreadPoolExecutor(sampler._lanes, thread_name_prefix="decode")

    def close(self) -> None:
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._prefiller.shutdown(wait=True, cancel_futures=True)

    def samples(self) -> Iterator[Sample]:
        """Lanes take turns: while one is harvested and refilled, the others decode."""
        running: deque[tuple[_Lane, Future[_Chunk]]] = deque()
        for _ in range(self._sampler._lanes):
            lane = _Lane(self._sampler._rows, self._sampler._jit_empty())
            if self._refill(lane):
                running.append((lane, self._start(lane)))
        while running:
            lane, future = running.popleft()
            finished = lane.harvest(future.result(), self._sampler._stop_ids, self._on_tokens)
            if self._refill(lane):
                running.append((lane, self._start(lane)))
            yield from finished

    def _start(self, lane: _Lane) -> Future[_Chunk]:
        return self._decoders.submit(self._sampler._advance, self._weights, lane)

    def _refill(self, lane: _Lane) -> bool:
        """Seat waiting requests in free rows; False where the lane has nothing left to do."""
        free = lane.free_rows()
        seats: dict[int, tuple[Future[Cache], list[int], list[int]]] = {}
        for row in free:
            if not self._waiting:
                self._pull()
            if not self._waiting:
                break
            entry = self._waiting.popleft()
            lane.seat(row, entry.request, self._sampler._check(entry.request))
            _, sources, targets = seats.setdefault(id(entry.block), (entry.block, [], []))
            sources.append(entry.slot)
            targets.append(row)
        for block, sources, targets in seats.values():
            lane.inserts.append((block, *self._sampler._placed_rows(sources, targets)))
        return any(request is not None for request in lane.request)

    def _pull(self) -> None:
        """Take requests until a block of distinct prompts, or as many as a lane has rows, and prefill them."""
        slots: dict[tuple[int, ...], int] = {}
        pulled: list[Request] = []
        while len(pulled) < self._sampler._rows:
            request = self._next if self._next is not None else next(self._requests, None)
            self._next = None
            if request is None:
                break
            self._sampler._check(request)
            if request.prompt_ids not in slots:
                if len(slots) == self._sampler._prefill_rows:
                    self._next = request
                    break
                slots[request.prompt_ids] = len(slots)
            pulled.append(request)
        if pulled:
            block = self._prefiller.submit(self._sampler._prefill, self._weights, list(slots))
            self._waiting.extend(_Waiting(request, block, slots[request.prompt_ids]) for request in pulled)


def round_up(size: int) -> int:
    """Rows, or cells of a prompt, as they are compiled."""
    return -(-size // _ROW_MULTIPLE) * _ROW_MULTIPLE
