"""Packed rows score and train completions as if each stood alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distill.packing import Rows, pack, pieces_of

PROMPT = [2, 30, 31, 32]
COMPLETIONS = [[40, 41, 42, 1], [43, 1], [44, 45, 46, 47, 48, 1]]
OTHER = [2, 50, 51]
OTHERS = [[52, 53, 1], [54, 1]]
LONE = [(PROMPT, c) for c in COMPLETIONS] + [(OTHER, c) for c in OTHERS]


def packed(row: int = 32, share: bool = True) -> Rows:
    pieces = [
        *pieces_of(PROMPT, COMPLETIONS, row, share=share),
        *pieces_of(OTHER, OTHERS, row, first_sample=3, share=share),
    ]
    return pack(pieces, row)


def test_every_completion_stands_once_whole_and_in_order() -> None:
    for rows in (packed(), packed(10), packed(12, share=False)):
        ids = rows.gather(rows.targets, [len(c) for _, c in LONE])
        assert [list(tokens) for tokens in ids] == [c for _, c in LONE]
        assert (rows.trained.sum(axis=1) > 0).all()


def test_values_come_back_from_their_cells() -> None:
    rows = packed(12, share=False)
    values = [np.arange(len(c), dtype=np.float32) + 10 * n for n, (_, c) in enumerate(LONE)]
    back = rows.gather(rows.spread(values), [len(c) for _, c in LONE])
    for value, again in zip(values, back, strict=True):
        np.testing.assert_array_equal(value, again)
    per_sample = rows.spread_samples([1.0, 2.0, 3.0, 4.0, 5.0])
    assert per_sample.sum() == sum((n + 1) * len(c) for n, (_, c) in enumerate(LONE))
    assert (per_sample[rows.sample < 0] == 0).all()


def test_a_completion_longer_than_a_row_is_left_out() -> None:
    room = 128 - (len(PROMPT) - 1)
    kept = [c for piece in pieces_of(PROMPT, [[9] * room, [9] * (room + 1)], 128) for c in piece.completions]
    assert [len(c) for c in kept] == [room]


def test_rows_are_filled_well() -> None:
    rng = np.random.default_rng(0)
    pieces = [
        piece
        for n in range(200)
        for piece in pieces_of([2, 3], [[5] * int(rng.integers(5, 60))], 128, first_sample=n)
    ]
    rows = pack(pieces, 128)
    assert rows.trained.sum() / rows.tokens.size > 0.9
    assert sorted(set(rows.sample[rows.sample >= 0].tolist())) == list(range(200))


# ------------------------------------------------------------------------------------- against the model


def small_model(window: int = 128):  # type: ignore[no-untyped-def]
    pytest.importorskip("tunix")
    from distill.gemma.build import random_gemma3, tiny_config

    return random_gemma3(
        replace(tiny_config("student", 64), intermediate_size=32, sliding_window=window), seed=1
    )


def target_logprobs(model, tokens, targets, positions, mask):  # type: ignore[no-untyped-def]
    import jax
    import jax.numpy as jnp

    logits, _ = model(jnp.asarray(tokens), jnp.asarray(positions), None, mask)
    return np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], -1)[..., 0]


def lone_logprobs(model) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    import jax.numpy as jnp

    alone = []
    for prompt, completion in LONE:
        whole = [*prompt, *completion]
        tokens, targets = np.array([whole[:-1]]), np.array([whole[1:]])
        length = tokens.shape[1]
        causal = jnp.tril(jnp.ones((1, length, length), bool))
        logprobs = target_logprobs(model, tokens, targets, np.arange(length)[None], causal)
        alone.append(logprobs[0, len(prompt) - 1 :])
    return alone


def packed_logprobs(model, rows: Rows) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    import jax.numpy as jnp

    from distill.packing import attention_mask

    mask = attention_mask(jnp.asarray(rows.group), jnp.asarray(rows.branch))
    cells = target_logprobs(model, rows.tokens, rows.targets, rows.positions, mask)
    return rows.gather(cells, [len(c) for _, c in LONE])


@pytest.mark.train
@pytest.mark.parametrize(
    "rows", [packed(), packed(12), packed(32, share=False)], ids=["one", "many", "lone prompts"]
)
def test_a_packed_row_scores_completions_as_if_each_stood_alone(rows: Rows) -> None:
    model = small_model()
    for together, alone in zip(packed_logprobs(model, rows), lone_logprobs(model), strict=True):
        np.testing.assert_allclose(together, alone, atol=2e-5)


@pytest.mark.train
def test_a_window_shorter_than_a_row_is_exact_only_with_lone_prompts() -> None:
    model = small_model(window=6)
    alone = lone_logprobs(model)
    for together, expected in zip(packed_logprobs(model, packed(32, share=False)), alone, strict=True):
        np.testing.assert_allclose(together, expected, atol=2e-5)
    shared = packed_logprobs(model, packed(32))
    assert max(np.abs(a - b).max() for a, b in zip(shared, alone, strict=True)) > 1e-3
