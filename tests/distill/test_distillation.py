"""Learning from a teacher's distribution: the losses are what they are said to be, and a student comes nearer."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill import training_log as log
from distill.distillation import OnPolicy, TopK
from distill.gemma.folder import ModelFolder
from distill.gemma.tokenizer import Tokenizer
from distill.scores import ScoreConfig, score, with_scores
from distill.sft import train
from distill.train_settings import Layout, TrainConfig
from filters.errors import UserError

pytestmark = pytest.mark.train

CONFIG = TrainConfig(
    max_steps=30, batch_size=4, max_length=40, learning_rate=2e-2, checkpoint_every=10, keep=9, eval_every=10
)
SCORED = ScoreConfig(max_length=40, top_k=8, rows=2)


@pytest.fixture(scope="module")
def teacher(make_config: Callable[..., Any], make_folder: Callable[..., Any]) -> ModelFolder:
    made: ModelFolder = make_folder(
        make_config(hidden_size=48, head_dim=12, query_pre_attn_scalar=12), seed=9
    )
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "data.jsonl"
    words = ["the user", "is plus", "a b c", "model 12", "theis 7", "zzz"]
    rows = [
        {
            "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}],
            "split": "validation" if number % 5 == 0 else "train",
        }
        for number, (q, a) in enumerate((q, a) for q in words for a in words)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def scores(data: Path, teacher: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score(SCORED, data, teacher.path, tmp_path_factory.mktemp("scores") / "out")


def numbers(out: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (out / log.JOURNAL).read_text().splitlines()]
    return [line["value"] for line in lines if line["name"] == name]


def dataset(data: Path, folder: ModelFolder) -> Any:
    from distill.chat import parse_template
    from distill.data import load_dataset
    from distill.gemma.tokenizer import Tokenizer

    return load_dataset(str(data), parse_template("gemma:r1"), Tokenizer.load(folder.path), 40)


def whole_logprobs(folder: ModelFolder, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Log-softmax over the whole vocabulary behind every token of one text, from Tunix's own pass."""
    import jax
    import jax.numpy as jnp

    from distill.gemma.checkpoint import load_model

    length = len(ids)
    mask = jnp.tril(jnp.ones((1, length, length), bool))
    logits, _ = load_model(folder)(jnp.asarray(ids)[None], jnp.arange(length)[None], None, mask)
    return np.asarray(jax.nn.log_softmax(logits[0], axis=-1))


# ------------------------------------------------------------------------------------------------ scores


def test_scores_are_the_teachers_likeliest_tokens(data: Path, teacher: ModelFolder, scores: Path) -> None:
    from distill.gemma.tokenizer import Tokenizer

    found = dataset(data, teacher)
    with_scores(found, scores, "gemma:r1", Tokenizer.load(teacher.path))
    for example in (*found.train[:3], *found.validation[:2]):
        ids, logprobs = example.top
        expected = whole_logprobs(teacher, example.ids)[example.start - 1 : -1]
        best = np.sort(expected, axis=-1)[:, ::-1][:, :8]
        np.testing.assert_allclose(logprobs, best, atol=2e-5)
        np.testing.assert_allclose(np.take_along_axis(expected, ids, -1), logprobs, atol=2e-5)


def test_scoring_goes_on_behind_its_last_part(
    data: Path, teacher: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill import scores as module

    monkeypatch.setattr(module, "_PART", 8)
    whole = score(SCORED, data, teacher.path, tmp_path / "whole")
    parts = sorted(file.name for file in whole.glob("part-*"))
    assert len(parts) == 5
    seen: list[int] = []

    def stop(done: int, of: int) -> None:
        seen.append(done)
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(SCORED, data, teacher.path, tmp_path / "stopped", stop)
    first = (tmp_path / "stopped" / parts[0]).stat().st_mtime_ns
    score(SCORED, data, teacher.path, tmp_path / "stopped")
    assert (tmp_path / "stopped" / parts[0]).stat().st_mtime_ns == first
    for name in parts:
        assert (tmp_path / "stopped" / name).read_bytes() == (whole / name).read_bytes()


def test_scores_of_something_else_are_refused(
    data: Path, teacher: ModelFolder, student: ModelFolder, scores: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="other scores: top_k is 8 there and 4 now"):
        score(dataclasses.replace(SCORED, top_k=4), data, teacher.path, scores)
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text().replace("zzz", "zz"))
    config = dataclasses.replace(CONFIG, distillation=TopK(scores=str(scores)))
    with pytest.raises(UserError, match="have data .*, and the training"):
        train(config, other, student.path, tmp_path / "out")
    with pytest.raises(UserError, match="have template"):
        train(dataclasses.replace(config, template="gemma:tunix"), data, student.path, tmp_path / "out")
    with pytest.raises(UserError, match="holds no scores: make them with `distill score`"):
        elsewhere = dataclasses.replace(CONFIG, distillation=TopK(scores=str(tmp_path / "none")))
        train(elsewhere, data, student.path, tmp_path / "out")
    (scores / "part-00000.parquet").rename(tmp_path / "part")
    try:
        with pytest.raises(UserError, match=r"lacks part-00000\.parquet"):
            train(config, data, student.path, tmp_path / "out")
    finally:
        (tmp_path / "part").rename(scores / "part-00000.parquet")


# ------------------------------------------------------------------------------------------------ losses


def objective_value(objective: Any, shared: Any, student: ModelFolder, examples: Any, **settings: Any) -> Any:
    import jax.numpy as jnp

    from distill.batches import RowShape, make_batch
    from distill.gemma.checkpoint import load_model
    from distill.loss import PassConfig

    batch = make_batch(examples, RowShape(len(examples), 4, 48))
    rows = batch.rows
    weights = batch.weights / batch.total
    columns = (rows.tokens, rows.targets, rows.positions, rows.group, rows.branch, weights, *batch.further)
    micro = objective.micro([jnp.asarray(column) for column in columns])
    return objective.loss(load_model(student), micro, shared, PassConfig(**settings))


@pytest.mark.parametrize("settings", [{}, {"logit_chunk": 7}])
def test_the_divergence_of_the_likeliest_tokens_by_hand(
    data: Path, student: ModelFolder, teacher: ModelFolder, scores: Path, settings: dict[str, Any]
) -> None:
    from distill.gemma.tokenizer import Tokenizer
    from distill.loss import TopKDivergence

    found = dataset(data, student)
    with_scores(found, scores, "gemma:r1", Tokenizer.load(student.path))
    examples = found.train[:5]
    kl, nll, count = 0.0, 0.0, 0
    for example in examples:
        own = whole_logprobs(student, example.ids)[example.start - 1 : -1]
        for row, ids, logprobs, target in zip(own, *example.top, example.ids[example.start :], strict=True):
            q = np.exp(logprobs)
            p = np.exp(row[ids])
            rest, left = 1 - q.sum(), 1 - p.sum()
            kl += float((q * (logprobs - row[ids])).sum() + rest * np.log(rest / left))
            nll -= float(row[target])
            count += 1
    loss, sums = objective_value(TopKDivergence(0.25), None, student, examples, **settings)
    assert float(sums["kl"]) == pytest.approx(kl / count, rel=1e-4)
    assert float(sums["nll"]) == pytest.approx(nll / count, rel=1e-4)
    assert float(loss) == pytest.approx(0.75 * nll / count + 0.25 * kl / count, rel=1e-4)


@pytest.mark.parametrize("settings", [{}, {"logit_chunk": 7, "remat": "layer"}])
def test_the_reverse_divergence_by_hand(
    data: Path, student: ModelFolder, teacher: ModelFolder, settings: dict[str, Any]
) -> None:
    from distill.gemma.checkpoint import load_model
    from distill.loss import ReverseDivergence

    examples = dataset(data, student).train[:5]
    kl, entropy, count = 0.0, 0.0, 0
    for example in examples:
        own, wanted = (
            whole_logprobs(folder, example.ids)[example.start - 1 : -1] for folder in (student, teacher)
        )
        kl += float((np.exp(own) * (own - wanted)).sum())
        entropy -= float((np.exp(own) * own).sum())
        count += len(own)
    objective, shared = ReverseDivergence.from_teacher(load_model(teacher))
    loss, sums = objective_value(objective, shared, student, examples, **settings)
    assert float(loss) == float(sums["kl"]) == pytest.approx(kl / count, rel=1e-4)
    assert float(sums["entropy"]) == pytest.approx(entropy / count, rel=1e-4)


def test_a_model_has_no_distance_from_itself(data: Path, student: ModelFolder) -> None:
    from distill.gemma.checkpoint import load_model
    from distill.loss import ReverseDivergence

    objective, shared = ReverseDivergence.from_teacher(load_model(student))
    loss, _ = objective_value(objective, shared, student, dataset(data, student).train[:3])
    assert abs(float(loss)) < 1e-6


# ---------------------------------------------------------------------------------------------- training


def test_a_student_comes_nearer_to_stored_scores(
    data: Path, student: ModelFolder, scores: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, distillation=TopK(scores=str(scores), share=1.0))
    train(config, data, student.path, tmp_path / "out")
    kl, held_out = numbers(tmp_path / "out", "train/kl"), numbers(tmp_path / "out", "eval/loss")
    assert kl[-1] < 0.5 * kl[0] and held_out[-1] < 0.7 * held_out[0]
    assert numbers(tmp_path / "out", "train/loss") == kl  # all of the loss


def test_a_student_comes_nearer_on_its_own_answers(
    data: Path, student: ModelFolder, teacher: ModelFolder, tmp_path: Path
) -> None:
    own = OnPolicy(teacher=str(teacher.path), samples=2, max_new_tokens=12, rollout_rows=8)
    config = dataclasses.replace(CONFIG, distillation=own, learning_rate=1e-2)
    train(config, data, student.path, tmp_path / "out")
    kl, held_out = numbers(tmp_path / "out", "train/kl"), numbers(tmp_path / "out", "eval/loss")
    assert np.mean(kl[-3:]) < 0.6 * np.mean(kl[:3]) and held_out[-1] < held_out[0]


def test_on_policy_answers_come_from_the_student_as_it_is(
    data: Path, student: ModelFolder, teacher: ModelFolder
) -> None:
    import jax
    from flax import nnx

    from distill.batches import RowShape
    from distill.gemma.checkpoint import load_model
    from distill.gemma.tokenizer import Tokenizer
    from distill.on_policy import OnPolicyStream

    model = load_model(student)
    found = dataset(data, student)
    stream = OnPolicyStream(
        found.train,
        RowShape(4, 4, 64),
        steps=5,
        seed=3,
        stop=lambda _: False,
        settings=OnPolicy(teacher=str(teacher.path), samples=2, max_new_tokens=12, rollout_rows=8),
        model=model,
        tokenizer=Tokenizer.load(student.path),
    )
    first = stream.batch(0)
    assert np.array_equal(stream.batch(0).rows.tokens, first.rows.tokens)  # a function of the step
    assert not np.array_equal(stream.batch(1).rows.tokens, first.rows.tokens)
    assert first.trained == int(first.weights.sum()) <= 4 * 12
    nnx.update(model, jax.tree.map(lambda x: -x, nnx.state(model, nnx.Param)))
    assert not np.array_equal(stream.batch(0).rows.tokens, first.rows.tokens)


@pytest.mark.parametrize("kind", ["top_k", "on_policy"])
def test_going_on_is_never_having_stopped(
    data: Path, student: ModelFolder, teacher: ModelFolder, scores: Path, tmp_path: Path, kind: str
) -> None:
    own: Any = (
        TopK(scores=str(scores))
        if kind == "top_k"
        else OnPolicy(teacher=str(teacher.path), max_new_tokens=8, rollout_rows=8)
    )
    config = dataclasses.replace(CONFIG, max_steps=6, checkpoint_every=2, eval_every=0, distillation=own)
    train(config, data, student.path, tmp_path / "whole")

    class Killed(Exception): ...

    def kill(progress: Any) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(config, data, student.path, tmp_path / "out", on_progress=kill)
    assert train(config, data, student.path, tmp_path / "out").resumed_from == 4
    assert numbers(tmp_path / "out", "train/loss") == numbers(tmp_path / "whole", "train/loss")
    other = dataclasses.replace(config, distillation=None)
    with pytest.raises(UserError, match="holds another run"):
        train(other, data, student.path, tmp_path / "out")


def test_adapters_learn_on_policy_too(
    data: Path, student: ModelFolder, teacher: ModelFolder, tmp_path: Path
) -> None:
    from distill.lora_settings import LoraConfig

    own = OnPolicy(teacher=str(teacher.path), max_new_tokens=12, rollout_rows=8)
    config = dataclasses.replace(
        CONFIG,
        distillation=own,
        lora=LoraConfig(rank=8, alpha=16.0, weights="int8", tile=8),
        layout=Layout(rows=2),
    )
    train(config, data, student.path, tmp_path / "out")
    kl = numbers(tmp_path / "out", "train/kl")
    assert np.mean(kl[-3:]) < 0.8 * np.mean(kl[:3])


def test_a_teacher_of_other_tokens_is_refused(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, distillation=OnPolicy(teacher="tiny-teacher"))
    with pytest.raises(UserError, match="has another tokenizer than the student"):
        train(config, data, student.path, tmp_path / "out")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"must lie in \(0, 1\]"):
        TopK(scores="x", share=0.0)
    with pytest.raises(UserError, match="max_new_tokens must be at least 1"):
        OnPolicy(teacher="x", max_new_tokens=0)
    with pytest.raises(UserError, match="batch_size 4 is no multiple of the 3 answers"):
        dataclasses.replace(CONFIG, distillation=OnPolicy(teacher="x", samples=3))


def test_an_epoch_asks_every_question() -> None:
    own = OnPolicy(teacher="t", samples=4)
    config = TrainConfig(epochs=1.0, batch_size=32, distillation=own)
    assert config.steps_for(3200) == 400
    assert TrainConfig(epochs=1.0, batch_size=32).steps_for(3200) == 100


def test_rows_too_short_for_an_answer_are_refused(
    data: Path, student: ModelFolder, teacher: ModelFolder, tmp_path: Path
) -> None:
    own = OnPolicy(teacher=str(teacher.path), max_new_tokens=100)
    config = dataclasses.replace(CONFIG, distillation=own, layout=Layout(row_length=64))
    with pytest.raises(UserError, match=r"row_length 64 does not hold the longest prompt .* 1\d\d tokens"):
        train(config, data, student.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_part_is_named(data: Path, scores: Path, student: ModelFolder, tmp_path: Path) -> None:
    copy = tmp_path / "scores"
    shutil.copytree(scores, copy)
    part = copy / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"part-00000.parquet is damaged; remove it"):
        with_scores(dataset(data, student), str(copy), SCORED.template, Tokenizer.load(student.path))
