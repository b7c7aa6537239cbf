# ruff: noqa: E402
"""The sampler against Tunix's own forward pass, against itself in other orders, and against its promises."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from filters.errors import UserError

pytestmark = pytest.mark.train
pytest.importorskip("tunix")

import jax
import jax.numpy as jnp
from flax import nnx

from distill.gemma import decoder
from distill.gemma.build import random_gemma3
from distill.gemma.config import GemmaConfig
from distill.gemma.decoding import draw
from distill.gemma.sampler import Request, Sample, Sampler, SamplingConfig

ROOT = Path(__file__).parents[2]
VOCABULARY, WINDOW, PROMPT, NEW = 61, 9, 12, 24
STOPS = (1, 5)


def make_model(*, kv_heads: int = 2, seed: int = 0) -> Any:
    """Six layers, the last one global, with norm scales that are not zero."""
    config = GemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=8,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        max_position_embeddings=512,
    )
    model = random_gemma3(config, seed)
    graph, state = nnx.split(model)
    noise = np.random.default_rng(seed)
    state = jax.tree.map(lambda x: x + 0.1 * noise.standard_normal(x.shape).astype(np.float32), state)
    return nnx.merge(graph, state)


def make_sampler(model: Any, **changes: Any) -> Sampler:
    settings: dict[str, Any] = {
        "sampling": SamplingConfig(NEW),
        "prompt_length": PROMPT,
        "batch_size": 20,
        "stop_ids": STOPS,
        "pad_id": 0,
        "prefill_batch": 3,
        "chunk": 4,
    }
    return Sampler(model, **{**settings, **changes})


def make_requests(prompts: int, samples: int, seed: int = 0) -> list[Request]:
    """Prompts of every length from 1 to the longest, limits of every size."""
    generator = random.Random(seed)
    requests = []
    for i in range(prompts):
        ids = tuple(generator.randrange(VOCABULARY) for _ in range(1 + i % PROMPT))
        for j in range(samples):
            limit = generator.choice([None, 1, 2, 7, NEW])
            requests.append(Request((i, j), ids, generator.getrandbits(63), limit))
    return requests


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


@pytest.fixture(scope="module")
def sampler(model: Any) -> Sampler:
    made = make_sampler(model)
    made.warm_up()
    return made


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return make_requests(14, 6)


@pytest.fixture(scope="module")
def samples(sampler: Sampler, requests: list[Request]) -> dict[Any, Sample]:
    return {sample.key: sample for sample in sampler.run(requests)}


def full_logprobs(model: Any, ids: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Log-softmax after every position, from Tunix's forward pass without a cache."""
    # One length, so that it compiles once: what follows cannot be seen.
    padded = np.zeros((1, PROMPT + NEW), np.int32)
    padded[0, : len(ids)] = ids
    positions = jnp.arange(PROMPT + NEW)[None]
    mask = jnp.tril(jnp.ones((1, PROMPT + NEW, PROMPT + NEW), bool))
    return np.asarray(_forward(model, padded, positions, mask)[0])


@nnx.jit
def _forward(model: Any, tokens: Any, positions: Any, mask: Any) -> Any:
    return jax.nn.log_softmax(model(tokens, positions, None, mask)[0], axis=-1)


# ----------------------------------------------------------------------------------------- the forward pass


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_decoder_equals_tunix_forward(kv_heads: int) -> None:
    model = make_model(kv_heads=kv_heads)
    spec, weights = decoder.spec_of(model), decoder.weights_of(model)
    ids = np.random.default_rng(1).integers(1, VOCABULARY, (3, PROMPT + NEW)).astype(np.int32)
    lengths = np.array([1, 5, PROMPT], np.int32)
    block = jax.jit(lambda tokens: decoder.prefill(spec, weights, tokens))(ids[:, :PROMPT])
    cache = tuple(
        decoder.LayerCache(
            empty.keys.at[..., :PROMPT].set(filled.keys), empty.values.at[:, :, :PROMPT].set(filled.values)
        )
        for empty, filled in zip(decoder.empty_cache(spec, 3, PROMPT + NEW, jnp.float32), block, strict=True)
    )
    expected = np.stack([full_logprobs(model, tuple(row)) for row in ids])
    step = jax.jit(lambda cache, token, position: decoder.decode_step(spec, weights, cache, token, position))
    for offset in range(NEW):
        position = lengths - 1 + offset
        logits, cache = step(cache, ids[np.arange(3), position], position)
        got = np.asarray(jax.nn.log_softmax(logits, axis=-1))
        np.testing.assert_allclose(got, expected[np.arange(3), position], atol=1e-5)


def test_lora_that_is_not_merged_is_refused() -> None:
    model = make_model()
    model.layers[0].attn.q_einsum.w_lora_a = nnx.LoRAParam(jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="LoRA"):
        make_sampler(model)


# ------------------------------------------------------------------------------------------------ samples


def test_logprobs_are_the_models_own(model: Any, requests: list[Request], samples: dict[Any, Sample]) -> None:
    past_window = 0
    for request in requests:
        sample = samples[request.key]
        table = full_logprobs(model, request.prompt_ids + sample.token_ids)
        first = len(request.prompt_ids) - 1
        expected = [table[first + t, token] for t, token in enumerate(sample.token_ids)]
        np.testing.assert_allclose(sample.logprobs, expected, atol=1e-4)
        past_window += len(request.prompt_ids) + len(sample.token_ids) > WINDOW + 4
    assert past_window > 10


def test_greedy_takes_the_likeliest_token_of_a_full_forward(model: Any) -> None:
    sampler = make_sampler(model, sampling=SamplingConfig(NEW, temperature=0), batch_size=8, stop_ids=())
    for request, sample in zip_by_key(make_requests(6, 1), sampler):
        ids = request.prompt_ids
        for token in sample.token_ids:
            assert token == int(full_logprobs(model, ids)[len(ids) - 1].argmax())
            ids += (token,)


def zip_by_key(requests: list[Request], sampler: Sampler) -> Iterator[tuple[Request, Sample]]:
    drawn = {sample.key: sample for sample in sampler.run(requests)}
    assert drawn.keys() == {request.key for request in requests}
    return ((request, drawn[request.key]) for request in requests)


def test_stop_and_length(requests: list[Request], samples: dict[Any, Sample]) -> None:
    assert samples.keys() == {request.key for request in requests}
    for request in requests:
        sample = samples[request.key]
        limit = request.max_new_tokens or NEW
        assert len(sample.token_ids) == len(sample.logprobs)
        assert not set(sample.token_ids[:-1]) & set(STOPS)
        if sample.finish_reason == "stop":
            assert sample.token_ids[-1] in STOPS and len(sample.token_ids) <= limit
        else:
            assert sample.finish_reason == "length" and len(sample.token_ids) == limit
            assert sample.token_ids[-1] not in STOPS
    assert Counter(sample.finish_reason for sample in samples.values()).keys() == {"stop", "length"}


def test_same_bits_in_every_row_order_and_company(
    sampler: Sampler, requests: list[Request], samples: dict[Any, Sample]
) -> None:
    generator = random.Random(7)
    for size in (len(requests), 50, 20, 3, 1):
        some = generator.sample(requests, size)
        again = {sample.key: sample for sample in sampler.run(some)}
        assert again == {request.key: samples[request.key] for request in some}


def test_same_bits_in_every_row_at_once(
    sampler: Sampler, requests: list[Request], samples: dict[Any, Sample]
) -> None:
    """One request in all rows, among prefills of its own."""
    request = next(r for r in requests if len(samples[r.key].token_ids) > 8)
    copies = [replace(request, key=i) for i in range(sampler.batch_size)]
    drawn = {replace(sample, key=None) for sample in sampler.run(copies)}
    assert drawn == {replace(samples[request.key], key=None)}


def test_rows_are_rounded_to_whole_panels(sampler: Sampler) -> None:
    assert sampler.batch_size == 32  # 20 rows: two lanes of 10, each rounded up to 16


def test_a_lower_limit_gives_the_beginning_of_the_same_sample(
    sampler: Sampler, requests: list[Request], samples: dict[Any, Sample]
) -> None:
    whole = {s.key: s for s in sampler.run(replace(request, max_new_tokens=None) for request in requests)}
    for request in requests:
        short = samples[request.key]
        assert whole[request.key].token_ids[: len(short.token_ids)] == short.token_ids
        assert whole[request.key].logprobs[: len(short.logprobs)] == short.logprobs


def test_seeds_decide(sampler: Sampler) -> None:
    prompt = (3, 4, 6)
    seeds = [0, 1, 2**32, 2**62, 2**63 - 1] * 2
    drawn = {
        s.key: s.token_ids for s in sampler.run(Request(i, prompt, seed) for i, seed in enumerate(seeds))
    }
    assert all(drawn[i] == drawn[i + 5] for i in range(5))
    assert len({drawn[i] for i in range(5)}) == 5


def test_first_tokens_follow_the_models_distribution(model: Any, sampler: Sampler) -> None:
    prompt, n = (7, 8, 9), 3000
    drawn = Counter(s.token_ids[0] for s in sampler.run(Request(i, prompt, i * 7919, 1) for i in range(n)))
    expected = np.exp(full_logprobs(model, prompt)[2]) * n
    got = np.array([drawn[token] for token in range(VOCABULARY)])
    # Chi-square with 60 degrees of freedom: mean 60, standard deviation 11.
    assert float(((got - expected) ** 2 / expected).sum()) < 60 + 4 * 11


def test_nothing_is_compiled_after_warm_up(sampler: Sampler, requests: list[Request]) -> None:
    compiled: list[str] = []
    listening = threading.Event()

    def listen(event: str, duration: float, **_: Any) -> None:
        if listening.is_set() and "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    before = sampler.compilations
    listening.set()
    for size in (1, 5, 33, len(requests)):
        assert len(list(sampler.run(requests[-size:]))) == size
    listening.clear()
    assert compiled == []
    assert sampler.compilations == before == 4
    listening.set()
    jax.jit(lambda x: x * 17.5)(np.float32(1))
    listening.clear()
    assert compiled  # the listener does hear a compilation


def test_requests_are_pulled_lazily_and_a_run_may_be_left(sampler: Sampler, requests: list[Request]) -> None:
    pulled = 0

    def endless() -> Iterator[Request]:
        nonlocal pulled
        for i in itertools.count():
            pulled += 1
            yield replace(requests[i % len(requests)], key=i)

    run = sampler.run(endless())
    first = list(itertools.islice(run, 5))
    run.close()
    assert len(first) == 5
    assert pulled < 5 * sampler.batch_size
    assert not [t for t in threading.enumerate() if t.name.startswith(("decode", "prefill"))]


def test_two_runs_may_interleave(
    sampler: Sampler, requests: list[Request], samples: dict[Any, Sample]
) -> None:
    left, right = sampler.run(requests[:20]), sampler.run(requests[10:40])
    for one, other in itertools.zip_longest(left, right):
        for sample in (one, other):
            assert sample is None or sample == samples[sample.key]


def test_a_model_that_changed_is_sampled_as_it_is(requests: list[Request]) -> None:
    model = make_model(seed=3)
    sampler = make_sampler(model, batch_size=8)
    before = list(sampler.run(requests[:8]))
    model.final_norm.scale[...] = model.final_norm.scale[...] + 1.0
    compilations = sampler.compilations
    after = {sample.key: sample for sample in sampler.run(requests[:8])}
    assert any(after[sample.key] != sample for sample in before)
    for request in requests[:8]:
        table = full_logprobs(model, request.prompt_ids + after[request.key].token_ids)
        token = after[request.key].token_ids[0]
        assert after[request.key].logprobs[0] == pytest.approx(
            table[len(request.prompt_ids) - 1, token], abs=1e-4
        )
    assert sampler.compilations == compilations


def test_one_device_mesh_gives_the_same_samples(
    model: Any, requests: list[Request], samples: dict[Any, Sample]
) -> None:
    mesh = jax.make_mesh((1, 1), ("rows", "columns"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    graph, state = nnx.split(model)
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = nnx.merge(graph, jax.tree.map(lambda x: jax.device_put(x, place), state))
    with mesh:
        sampler = make_sampler(placed)
        sampler.warm_up()
        compilations = sampler.compilations
        drawn = {sample.key: sample for sample in sampler.run(requests)}
    assert drawn == samples
    assert sampler.compilations == compilations


_ON_A_MESH = """
import json, sys
sys.path.insert(0, {root!r})
from tests.distill.test_sampler import make_model, make_requests, make_sampler
import jax
from flax import nnx
from distill.gemma.sampler import SamplingConfig

fsdp, tp, temperature = {fsdp}, {tp}, {temperature}
model = make_model(kv_heads={kv_heads})
mesh = None
if fsdp * tp > 1:
    mesh = jax.make_mesh((fsdp, tp), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    graph, state = nnx.split(model)
    def place(path, leaf):
        axes = ("fsdp", None) if leaf.ndim == 2 and leaf.shape[0] % fsdp == 0 else ()
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))
    model = nnx.merge(graph, jax.tree_util.tree_map_with_path(place, state))
sampler = make_sampler(model, sampling=SamplingConfig(24, temperature=temperature), batch_size=24, mesh=mesh)
sampler.warm_up()
compiled = sampler.compilations
found = sorted(sampler.run(make_requests(12, 4)), key=lambda sample: sample.key)
rows = [[sample.token_ids, sample.finish_reason, sample.logprobs] for sample in found]
busy = sorted(shard.data.shape[0] for shard in sampler._jit_empty()[0].keys.addressable_shards)
print(json.dumps({{"rows": rows, "grew": sampler.compilations - compiled, "busy": busy}}))
"""


def sampled_on(fsdp: int, tp: int, *, temperature: float = 0.0, kv_heads: int = 2) -> dict[str, Any]:
    """Samples of the test's requests on a mesh of CPU devices, in a process of its own."""
    code = _ON_A_MESH.format(root=str(ROOT), fsdp=fsdp, tp=tp, temperature=temperature, kv_heads=kv_heads)
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={fsdp * tp}",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("fsdp", "tp"), [(4, 1), (2, 2)])
def test_a_mesh_draws_what_one_device_draws(fsdp: int, tp: int) -> None:
    """Greedily and by seed: the same tokens, every device with rows of its own, nothing compiled after warm-up."""
    for temperature in (0.0, 1.0):
        one, many = (sampled_on(*mesh, temperature=temperature) for mesh in ((1, 1), (fsdp, tp)))
        assert many["grew"] == one["grew"] == 0
        assert many["busy"] == [24 // fsdp // 8 * 8 + (8 if 24 // fsdp % 8 else 0)] * (fsdp * tp)
        for ours, theirs in zip(many["rows"], one["rows"], strict=True):
            assert ours[:2] == theirs[:2]
            assert ours[2] == pytest.approx(theirs[2], abs=1e-5)


# ------------------------------------------------------------------------------------------------- drawing


def draws(logits: np.ndarray[Any, Any], n: int, config: SamplingConfig) -> np.ndarray[Any, Any]:
    """`n` draws from one row of logits, each with a seed and an index of its own."""
    key = np.stack([np.arange(n) // 7, np.arange(n)], axis=1).astype(np.uint32)
    rows = np.broadcast_to(logits.astype(np.float32), (n, logits.size))
    return np.asarray(jax.jit(lambda x: draw(x, key, np.arange(n, dtype=np.int32) % 5, config))(rows))


@pytest.mark.parametrize("size", [1, 2, 16, 61, 1000])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_draw_follows_the_softmax(size: int, temperature: float) -> None:
    logits, n = np.random.default_rng(size).normal(0, 1.5, size), 20_000
    got = np.bincount(draws(logits, n, SamplingConfig(1, temperature)), minlength=size)
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum() * n
    common = expected > 5
    degrees = int(common.sum())
    statistic = float(((got - expected)[common] ** 2 / expected[common]).sum())
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5
    assert len(got) == size


def test_a_token_of_no_probability_is_never_drawn() -> None:
    logits = np.full(50, -np.inf)
    logits[[3, 47]] = 0.0
    assert set(draws(logits, 5000, SamplingConfig(1)).tolist()) == {3, 47}


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.95, 0.999999])
def test_the_nucleus_is_that_of_sorting(top_p: float) -> None:
    from distill.gemma.decoding import _nucleus

    logits = np.random.default_rng(0).normal(0, 3, (16, 5000)).astype(np.float32)
    logits[0] = 0.0  # all alike: they stay together
    logits[1, :] = -1e30
    logits[1, 7] = 0.0  # one alone has all, the others nothing
    shares = np.asarray(jax.nn.softmax(logits, axis=-1))
    kept = np.asarray(_nucleus(jnp.asarray(shares), top_p))
    assert (kept[0] > 0).all() and np.flatnonzero(kept[1]).tolist() == [7]
    for row, found in zip(shares[2:], kept[2:], strict=True):
        order = np.argsort(-row, kind="stable")
        above = np.concatenate([[0.0], np.cumsum(row[order].astype(np.float64))[:-1]])
        wanted = set(order[above < top_p].tolist())
        own = set(np.flatnonzero(found).tolist())
        # float32 sums may move the edge by a token or two where thousands are next to nothing.
        assert abs(len(own) - len(wanted)) <= (0 if top_p < 0.99 else 200)
        assert own <= wanted or wanted <= own
        assert (found[list(own)] == row[list(own)]).all()


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = np.log(np.array([0.05, 0.4, 0.1, 0.3, 0.15]))
    assert set(draws(logits, 2000, SamplingConfig(1, top_k=2)).tolist()) == {1, 3}
    assert set(draws(logits, 2000, SamplingConfig(1, top_p=0.6)).tolist()) == {1, 3}
    assert set(draws(logits, 2000, SamplingConfig(1, top_p=0.75)).tolist()) == {1, 3, 4}
    assert set(draws(logits, 2000, SamplingConfig(1, top_p=0.01)).tolist()) == {1}
    # top_p works on what top_k left: 0.4 and 0.3 become 0.57 and 0.43.
    assert set(draws(logits, 2000, SamplingConfig(1, top_k=2, top_p=0.55)).tolist()) == {1}
    assert set(draws(logits, 2000, SamplingConfig(1, top_k=50)).tolist()) == {0, 1, 2, 3, 4}
    share = float((draws(logits, 20_000, SamplingConfig(1, top_k=2)) == 1).mean())
    assert share == pytest.approx(4 / 7, abs=0.015)


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("long", tuple([3] * (PROMPT + 1)), 0), rf"{PROMPT + 1} tokens.*1 to {PROMPT}"),
        (Request("empty", (), 0), "0 tokens"),
        (Request("word", (VOCABULARY,), 0), "outside the model's"),
        (Request("greedy", (3,), 0, NEW + 1), rf"asks for {NEW + 1} new tokens"),
        (Request("seed", (3,), 2**63), "63"),
    ],
)
def test_impossible_requests_are_named(sampler: Sampler, request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(sampler.run([request_]))


@pytest.mark.parametrize(
    "changes", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}]
)
def test_impossible_sampling_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        SamplingConfig(**{"max_new_tokens": 4, **changes})
