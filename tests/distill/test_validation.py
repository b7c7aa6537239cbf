"""What a training says of itself on the way: sampled accuracy, the best model, the samples of a step that failed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill import training_log as log
from distill.batches import Order, RowShape, TrainStream, length_stages
from distill.chat import parse_template
from distill.data import Example
from distill.export import export
from distill.gemma.folder import ModelFolder
from distill.gemma.tokenizer import Tokenizer
from distill.sampled import AccuracyProbe, SampledAccuracy, load_questions
from distill.sft import train
from distill.train_settings import Layout, TrainConfig
from filters.errors import UserError

pytestmark = pytest.mark.train

CONFIG = TrainConfig(
    max_steps=24,
    batch_size=8,
    max_length=64,
    layout=Layout(rows=4),
    learning_rate=2e-2,
    eval_every=4,
    checkpoint_every=24,
    report=(),
)
SUM = "<think>\nsmall\n</think>\n{}"


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every question has the answer 7, which is soon learnt."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{a} the {b}"},
                {"role": "assistant", "content": SUM.format(7)},
            ],
            "split": "validation" if (a + b) % 4 == 0 else "train",
        }
        for a in range(5)
        for b in range(5)
    ]
    return write(tmp_path_factory.mktemp("data") / "data.jsonl", rows)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a run's table of prompts: three of four have the answer that is learnt, a tenth cannot be graded."""
    rows: list[dict[str, Any]] = [
        {"question": f"{n} is", "reference": "7" if n % 4 else "8", "verifier": "math", "split": "validation"}
        for n in range(12)
    ]
    rows.append({"question": "not asked", "reference": "7", "verifier": "math", "split": "test"})
    return write(tmp_path_factory.mktemp("questions") / "prompts.jsonl", rows)


@pytest.fixture(scope="module")
def asked(data: Path, questions: Path, student: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("asked") / "out"
    accuracy = SampledAccuracy(questions=str(questions), max_new_tokens=32, temperature=0.0)
    said: list[str] = []
    config = replace(CONFIG, max_steps=96, eval_every=24, accuracy=accuracy)
    result = train(config, data, student.path, out, on_message=said.append)
    return out, result, said


def column(out: Path, name: str) -> dict[int, float]:
    rows = [json.loads(line) for line in (out / log.JOURNAL).read_text().splitlines()]
    return {row["step"]: row["value"] for row in rows if row["name"] == name}


def measured(model: Path, questions: Path) -> dict[str, float]:
    from distill.gemma.checkpoint import load_model

    settings = SampledAccuracy(questions=str(questions), max_new_tokens=32, temperature=0.0)
    folder = ModelFolder.open(model)
    tokenizer = Tokenizer.load(folder.path)
    probe = AccuracyProbe(settings, load_model(folder), parse_template("gemma:r1"), tokenizer, seed=0)
    found = probe.measure()
    probe.close()
    return found


def test_accuracy_is_sampled_and_graded_on_the_way(asked: Any, questions: Path) -> None:
    out, result, said = asked
    accuracy = column(out, "eval/accuracy")
    assert list(accuracy) == [0, 24, 48, 72, 96]
    assert accuracy[0] == 0.0 and accuracy[96] == pytest.approx(9 / 12) == result.accuracy
    low, high = column(out, "eval/accuracy_low")[96], column(out, "eval/accuracy_high")[96]
    assert 0.4 < low < 0.75 < high < 1.0
    again = measured(result.model, questions)
    assert {name: column(out, f"eval/{name}")[96] for name in again} == again
    assert again["format"] > 0.0 and again["truncated"] == 0.0
    assert column(out, "eval/format")[0] == 0.0 and column(out, "eval/truncated")[0] > 0.5
    assert any("accuracy 75.0% [" in line and "% well-formed" in line for line in said)


def test_asking_changes_no_loss(asked: Any, data: Path, student: ModelFolder, tmp_path: Path) -> None:
    out, *_ = asked
    train(replace(CONFIG, max_steps=96, eval_every=0), data, student.path, tmp_path / "out")
    assert column(out, "train/loss") == column(tmp_path / "out", "train/loss")


def test_what_is_asked_does_not_depend_on_the_order_of_a_file(questions: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(questions.read_text().splitlines(keepends=True))))
    found = [load_questions(SampledAccuracy(questions=str(f), count=5)) for f in (questions, turned)]
    assert found[0] == found[1] and len(found[0]) == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "1?", "reference": "1"}, "line 1: no verifier"),
        ({"reference": "1", "verifier": "math"}, "line 1: a question needs messages"),
        ({"question": "1?", "verifier": "math", "split": "train"}, "no question to ask"),
        ({"question": "1?", "verifier": "math", "verifier_args": "{"}, "verifier_args is not JSON"),
    ],
)
def test_questions_that_cannot_be_asked(
    row: dict[str, Any], message: str, data: Path, student: ModelFolder, tmp_path: Path
) -> None:
    config = replace(CONFIG, accuracy=SampledAccuracy(questions=str(write(tmp_path / "q.jsonl", [row]))))
    with pytest.raises(UserError, match=message):
        train(config, data, student.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_question_that_nobody_can_grade_is_no_wrong_answer(
    asked: Any, questions: Path, tmp_path: Path
) -> None:
    _, result, _ = asked
    right = json.loads(questions.read_text().splitlines()[1])
    rows = [right, {"question": "the", "reference": None, "verifier": "judge"}]
    found = measured(result.model, write(tmp_path / "q.jsonl", rows))
    assert found["ungraded"] == 0.5 and found["accuracy"] == 1.0


# ------------------------------------------------------------------------------------------------- the best


def test_the_model_of_the_best_validation_is_kept(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    """Validation asks for another answer, so that being sure of the one costs: the best is a model on the way."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows:
        if row["split"] == "validation":
            row["messages"][1]["content"] = SUM.format(8)
    file = write(tmp_path / "other.jsonl", rows)
    config = replace(CONFIG, max_steps=40, checkpoint_every=4, keep=99)
    said = train(config, file, student.path, tmp_path / "out")
    losses = {step: loss for step, loss in column(tmp_path / "out", "eval/loss").items() if step}
    best = min(losses, key=lambda step: losses[step])
    assert said.best_step == best < 40, "the test wants a run whose last model is not its best"
    assert said.best == tmp_path / "out" / log.BEST
    export(tmp_path / "out", tmp_path / "of-step", best)
    export(tmp_path / "out", tmp_path / "of-best", "best")
    kept, there = (ModelFolder.open(tmp_path / name).content_hash for name in ("of-best", "of-step"))
    assert kept == there != ModelFolder.open(said.model).content_hash


def test_the_last_model_is_not_kept_twice(asked: Any, tmp_path: Path) -> None:
    out, result, _ = asked
    accuracy = column(out, "eval/accuracy")
    first = min(step for step in accuracy if accuracy[step] == max(accuracy.values()))
    assert result.best_step == first  # by accuracy; a tie keeps the earlier
    assert (out / log.BEST).is_dir() == (first < 96)
    if first < 96:
        assert result.best == out / log.BEST


def test_the_best_is_not_kept_where_nobody_wants_it(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    result = train(replace(CONFIG, max_steps=8, keep_best=False), data, student.path, tmp_path / "out")
    assert not (tmp_path / "out" / log.BEST).exists()
    assert result.best == (result.model if result.best_step == 8 else None)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a", "reference": "7", "verifier": "maths"}, "no verifier kind 'maths'"),
        ({"question": "a", "reference": 2, "verifier": "math"}, "reference must be a text"),
        ({"messages": "hello", "reference": "7", "verifier": "math"}, "messages of role and content"),
        (
            {"messages": [{"role": "user"}], "reference": "7", "verifier": "math"},
            "messages of role and content",
        ),
        ({"question": "a", "reference": "7", "verifier": "math", "verifier_args": {"x": 1}}, "no option 'x'"),
        ({"question": "a", "reference": "7", "verifier": "math", "verifier_args": "3"}, "must be an object"),
        ({"question": "a \ud83d", "reference": "7", "verifier": "math"}, "half a character"),
    ],
)
def test_a_question_that_cannot_be_graded_is_named(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = write(tmp_path / "questions.jsonl", [row])
    with pytest.raises(UserError, match=f"questions.jsonl, line 1: .*{said}"):
        load_questions(SampledAccuracy(questions=str(file)))


def test_a_best_model_of_a_step_that_is_made_again_is_forgotten(
    data: Path, student: ModelFolder, tmp_path: Path
) -> None:
    """It was saved behind the last checkpoint, and the training that goes on does not validate there."""
    out = tmp_path / "out"
    config = replace(CONFIG, max_steps=12, checkpoint_every=4, warmup_steps=11, learning_rate=1.0)
    first = train(config, data, student.path, out)
    assert first.best_step == 8 and first.best == out / log.BEST, "the test wants a model that gets worse"
    shutil.rmtree(out / log.CHECKPOINTS / "12")
    manifest = json.loads((out / log.MANIFEST).read_text())
    (out / log.MANIFEST).write_text(json.dumps(manifest | {"status": "running"}))
    log.write_best_step(out, 10)
    again = train(replace(config, eval_every=0), data, student.path, out)
    assert (again.best_step, again.best) == (8, None)
    assert not (out / log.BEST).exists()


def test_a_best_model_that_was_not_kept_is_not_another(
    data: Path, student: ModelFolder, tmp_path: Path
) -> None:
    # The rate rises until the model gets worse.
    config = replace(CONFIG, max_steps=12, keep_best=False, warmup_steps=11, learning_rate=1.0)
    result = train(config, data, student.path, tmp_path / "out")
    assert result.best is None and result.best_step is not None and result.best_step < 12
    with pytest.raises(
        UserError, match=f"validation of step {result.best_step} was the best .* was not kept"
    ):
        export(tmp_path / "out", tmp_path / "best", "best")


# --------------------------------------------------------------------------------- a step that is not finite


def test_a_step_that_is_not_finite_changes_nothing(student: ModelFolder) -> None:
    import jax
    import optax
    from flax import nnx

    from distill.batches import make_batch
    from distill.gemma.checkpoint import load_model
    from distill.loss import PassConfig, SftMicro, train_step
    from distill.updates import stacked

    example = Example(np.asarray([2, 5, 6, 7, 1], np.int32), np.asarray([False] * 2 + [True] * 3), 1.0)
    batch = make_batch([example], RowShape(1, 1, 8))
    model = load_model(student)
    optimizer = nnx.Optimizer(model, optax.adamw(1e-2, weight_decay=0.1), wrt=nnx.Param)
    step = nnx.jit(lambda model, optimizer, inputs: train_step(model, optimizer, inputs, config=PassConfig()))

    def take(weights: Any) -> float:
        rows = batch.rows
        columns = (rows.tokens, rows.targets, rows.positions, rows.group, rows.branch, weights)
        stack, used = stacked(columns, 1, 1)
        return float(step(model, optimizer, {"micros": SftMicro(*stack), "used": np.int32(used)})[2])

    def held() -> list[Any]:
        return [np.asarray(x) for module in (model, optimizer) for x in jax.tree.leaves(nnx.state(module))]

    start = held()
    for _ in range(2):  # moments that a step with a gradient of 0 would go on with
        take(batch.weights / batch.total)
    before = held()
    assert not all(np.array_equal(a, b) for a, b in zip(start, before, strict=True))
    assert not np.isfinite(take(batch.weights * np.float32(np.inf)))
    assert all(np.array_equal(a, b) for a, b in zip(before, held(), strict=True))
    assert np.isfinite(take(batch.weights / batch.total))


def test_the_samples_of_a_failing_step_are_named(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[5]["weight"] = 1e39  # no float32
    file = write(tmp_path / "data.jsonl", rows)
    with pytest.raises(UserError, match=r"step \d: the loss is nan") as caught:
        train(replace(CONFIG, eval_every=0), file, student.path, tmp_path / "out")
    assert f"1 of its 8 samples have such a loss alone: {file}, line 6" in str(caught.value)


def test_weights_that_are_at_fault_are_said_to_be(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    from distill.gemma.checkpoint import read_tensor, text_tensors
    from distill.gemma.saving import copy_tokenizer, write_folder

    tensors = ((name, np.array(read_tensor(info))) for name, info in text_tensors(student).items())
    broken = ((name, np.full_like(x, np.nan) if name == "model.norm.weight" else x) for name, x in tensors)
    write_folder(tmp_path / "broken", student.config, broken, copy_tokenizer(student.path))
    with pytest.raises(UserError, match="All of its 8 samples have such a loss: the weights are at fault"):
        train(replace(CONFIG, eval_every=0), data, tmp_path / "broken", tmp_path / "out")


# ------------------------------------------------------------------------------------------ short ones first


def test_the_first_epoch_goes_from_short_to_long() -> None:
    lengths = [9, 3, 7, 3, 8, 5, 4, 6, 2, 10]
    examples = [Example(np.zeros(n, np.int32), np.ones(n, np.bool_), 1.0) for n in lengths]
    stages = length_stages(examples, 3)
    assert sorted(stages.tolist()) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(lengths[i] <= lengths[j] for i in range(10) for j in range(10) if stages[i] < stages[j])
    stream = TrainStream(examples, RowShape(5, 5, 16), steps=4, seed=1, stop=lambda _: False, short_first=3)
    shown = [[len(example.ids) for example in stream.samples(step)] for step in range(4)]
    first, second = shown[0] + shown[1], shown[2] + shown[3]
    assert sorted(first) == sorted(second) == sorted(lengths)
    assert sorted(first[:4]) == [2, 3, 3, 4] and sorted(first[7:]) == [8, 9, 10]
    assert second == [lengths[Order(10, 1)[10 + i]] for i in range(10)]  # later epochs are shuffled as ever
    plain = [lengths[Order(10, 1)[i]] for i in range(10)]
    assert [n for n in first if n <= 4] == [n for n in plain if n <= 4]  # within a stage, the shuffled order
