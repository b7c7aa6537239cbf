"""Pre-training of the tiny models: packing is exact, the initialisation trains, the shipped weights do as told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.train

TINY = Path(__file__).parents[2] / "distill" / "gemma" / "tiny"
PROMPT = [2, 30, 31, 32]
COMPLETIONS = [[40, 41, 42, 1], [43, 1], [44, 45, 46, 47, 48, 1]]


def small_model():  # type: ignore[no-untyped-def]
    from dataclasses import replace

    from distill.gemma.build import random_gemma3, tiny_config

    return random_gemma3(replace(tiny_config("student", 64), intermediate_size=32), seed=1)


def packed():  # type: ignore[no-untyped-def]
    from distill.packing import pack, pieces_of

    pieces = [*pieces_of(PROMPT, COMPLETIONS, 128), *pieces_of([2, 50, 51], [[52, 53, 1], [54, 1]], 128)]
    return pack(pieces, 128, np.random.default_rng(0))


def test_every_parameter_of_a_random_model_gets_a_gradient() -> None:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graph, params = nnx.split(small_model())
    tokens = jnp.arange(24).reshape(2, 12)
    causal = jnp.broadcast_to(jnp.tril(jnp.ones((12, 12), bool)), (2, 12, 12))

    def loss(params):  # type: ignore[no-untyped-def]
        logits, _ = nnx.merge(graph, params)(tokens, jnp.broadcast_to(jnp.arange(12), (2, 12)), None, causal)
        return -jax.nn.log_softmax(logits)[..., 0].mean()

    gradient = jax.grad(loss)(params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


def test_training_lowers_the_loss_and_is_the_same_twice() -> None:
    from factory.tiny.build import Training, train

    rows = packed()
    losses = []
    for _ in range(2):
        model = small_model()
        losses.append(train(model, rows, Training(steps=30, rows=1, warmup=3), seed=0))
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.5 * losses[0][0]


def test_shipped_models_are_what_the_docs_say() -> None:
    from distill.gemma.folder import ModelFolder

    teacher, student = (ModelFolder.open(TINY / name) for name in ("teacher", "student"))
    assert teacher.parameter_count <= 2_000_000
    assert student.parameter_count * 4 <= teacher.parameter_count
    for name, folder in (("teacher", teacher), ("student", student)):
        report = json.loads((TINY / name / "build.json").read_text())
        assert report["parameters"] == folder.parameter_count
        assert report["vocabulary"] == folder.config.vocab_size
        assert {"sliding_attention", "full_attention"} == set(folder.config.layer_types)


@pytest.mark.slow
def test_shipped_teacher_guesses_by_habit_and_thinks_well_when_it_thinks() -> None:
    from factory.tiny.measure import measure

    report = measure(TINY / "teacher", "validation", per_task=6, samples=8, seed=1, heldout_rung=False)
    figures = report["tasks"]["all"]
    assert 0.10 < figures["pass@1"][0] < 0.50
    assert figures["steps_right"] > 0.75
    assert figures["finished"] > 0.97
    styles = report["greedy_style"]
    assert styles["guess"] > sum(styles.values()) / 2
