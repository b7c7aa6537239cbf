"""Reward models: the losses are the formulas, a score depends on its text alone, and training learns preferences."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.chat import encode_example, encode_prompt, parse_template
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.tokenizer import Tokenizer
from distill.preference_data import (
    Encoded,
    Labelled,
    Pair,
    RewardConfig,
    compiled_length,
    encode_rows,
    encode_scored,
    labelled,
    measure_held_out,
    pad_rows,
    train_batches,
)
from filters.errors import UserError

pytestmark = pytest.mark.train

CONFIG = RewardConfig(
    kind="pairwise",
    sees="response",
    template="plain:r1-zero",
    epochs=4,
    batch_size=16,
    max_length=64,
    learning_rate=2e-3,
    warmup_steps=4,
    eval_every=8,
)
GOOD = ("<think> {a} plus {b} is {c}. </think> <answer> {c} </answer>", "<answer> {c} </answer>")
BAD = ("<think> this is hard. I am not sure. </think>", "<think> maybe it is {c}. </think>")


def pairs() -> list[Pair]:
    """Words against work. Neither length nor the number decides: both kinds come short and long."""
    out = []
    for a in range(12):
        for b in range(10):
            split = {0: "test", 1: "validation"}.get((a * 3 + b) % 5, "train")
            fill = {"a": a, "b": b, "c": a + b}
            good, bad = GOOD[(a + b) % 2].format(**fill), BAD[a % 2].format(**fill)
            out.append(Pair(f"{a} plus {b}?", good, bad, split))
    return out


@pytest.fixture(scope="module")
def tiny() -> ModelFolder:
    return ModelFolder.open(resolve_model("tiny-student"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pairwise training on the tiny student: (folder, result, losses)."""
    from distill.reward_model import train_reward_model

    losses: list[float] = []
    out = tmp_path_factory.mktemp("rewards") / "model"
    result = train_reward_model(CONFIG, pairs(), "tiny-student", out, lambda _s, _n, x: losses.append(x))
    return out, result, losses


# ---------------------------------------------------------------------------------------------- formulas


def test_bradley_terry_is_the_formula_by_hand() -> None:
    from distill.reward_model import bradley_terry_loss

    chosen, rejected = np.array([2.0, 0.0, -1.0]), np.array([1.0, 0.0, 1.0])
    # -log sigmoid(1) = 0.313262, ln 2 = 0.693147, -log sigmoid(-2) = 2.126928
    assert float(bradley_terry_loss(chosen, rejected, np.ones(3))) == pytest.approx(
        (0.313262 + 0.693147 + 2.126928) / 3, abs=1e-6
    )
    assert float(bradley_terry_loss(chosen, rejected, np.array([0.0, 0.0, 1.0]))) == pytest.approx(2.126928)
    assert math.isfinite(float(bradley_terry_loss(np.array([-500.0]), np.array([500.0]), np.ones(1))))


def test_bradley_terry_pushes_the_chosen_up_and_the_rejected_down() -> None:
    import jax

    from distill.reward_model import bradley_terry_loss

    up, down = jax.grad(bradley_terry_loss, (0, 1))(np.array([0.3]), np.array([1.1]), np.ones(1))
    # d/dr_chosen = -sigmoid(r_rejected - r_chosen) = -sigmoid(0.8)
    assert float(up[0]) == pytest.approx(-0.689974, abs=1e-6)
    assert float(down[0]) == pytest.approx(0.689974, abs=1e-6)


def test_logistic_is_the_formula_by_hand() -> None:
    from distill.reward_model import centre_penalty, logistic_loss

    one = np.ones(1)
    assert float(logistic_loss(np.array([2.0]), one, one)) == pytest.approx(0.126928, abs=1e-6)
    assert float(logistic_loss(np.array([2.0]), 0 * one, one)) == pytest.approx(2.126928, abs=1e-6)
    assert float(centre_penalty(np.array([2.0, 1.0]), np.array([1.0, -1.0]), np.ones(2))) == pytest.approx(
        4.5
    )


def test_the_score_is_read_at_the_stop_token_alone(tiny: ModelFolder) -> None:
    """A head that reads one coordinate gives that coordinate of the last present token's state."""
    from distill.gemma.checkpoint import load_model
    from distill.gemma.forward import hidden_states
    from distill.reward_model import RewardNet

    model = load_model(tiny)
    kernel = np.zeros(64, np.float32)
    kernel[7] = 1.0
    tokenizer = Tokenizer.load(tiny.path)
    ids = encode_scored("3 plus 4?", "<answer> 7 </answer>", parse_template("plain:r1-zero"), tokenizer)
    assert ids[-1] == tokenizer.eos_id
    tokens, present = pad_rows([np.asarray(ids, np.int32)], 1, 48, tokenizer.pad_id)
    group = present.astype(np.int32)
    positions = np.maximum(np.cumsum(present, axis=1) - 1, 0)
    hidden = hidden_states(model, tokens, positions, group, np.zeros_like(group))
    score = RewardNet(model, kernel, np.float32(0.25))(tokens, present)
    assert float(score[0]) == pytest.approx(float(hidden[0, len(ids) - 1, 7]) + 0.25, abs=1e-6)


# -------------------------------------------------------------------------------------------------- data


def test_an_empty_text_is_a_prompt_and_a_stop(tiny: ModelFolder) -> None:
    tokenizer, user = Tokenizer.load(tiny.path), {"role": "user", "content": "3 plus 4?"}
    for name in ("plain:r1-zero", "gemma:r1"):
        template = parse_template(name)
        whole, _ = encode_example([user, {"role": "assistant", "content": "7"}], template, tokenizer)
        empty = encode_scored("3 plus 4?", "", template, tokenizer)
        assert empty == [*encode_prompt([user], template, tokenizer), whole[-1]]
        assert encode_scored("3 plus 4?", "7", template, tokenizer) == whole


def test_pairs_become_labels_once() -> None:
    rows = labelled([Pair("q", "a", "b"), Pair("q", "a", "c"), Pair("r", "a", "b", "test")])
    assert rows == [
        Labelled("q", "a", True),
        Labelled("q", "b", False),
        Labelled("q", "c", False),
        Labelled("r", "a", True, "test"),
        Labelled("r", "b", False, "test"),
    ]


@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        ([Labelled("q", "a", True)], "pairwise", "trained on Pair rows, this is a Labelled"),
        ([Pair("q", "a", "b")], "pointwise", "trained on Labelled rows, this is a Pair"),
        ([Pair("q", "a", "b"), Pair(" Q ", "c", "d", "test")], "pairwise", "in the splits train and test"),
        ([Pair("q", "a", "b", "dev")], "pairwise", "split is 'dev'"),
        ([Pair("q", "a", "b", "test")], "pairwise", "nothing to train"),
        ([Pair("q", "a" * 99, "b")], "pairwise", "1 left out as too long"),
        ([Labelled("q", "a", False)], "pointwise", "labelled bad"),
    ],
)
def test_rows_that_cannot_train_are_named(rows: Any, kind: Any, words: str, tiny: ModelFolder) -> None:
    with pytest.raises(UserError, match=words):
        encode_rows(rows, kind, parse_template("plain:r1-zero"), Tokenizer.load(tiny.path), 40)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "listwise"}, "kind must be pairwise or pointwise"),
        ({"sees": "reasoning"}, "sees must be summary or response"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0"),
        ({"kind": "pointwise", "centre": 0.1}, "centre is for pairwise"),
        ({"template": "gemma:nothing here now"}, "unknown template"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(CONFIG, **change)


def test_batches_hold_every_row_of_an_epoch_and_depend_on_the_seed_alone() -> None:
    rows = [Encoded((np.zeros(1 + i % 40, np.int32),), 1.0, str(i)) for i in range(100)]
    taken = [row.question for batch in train_batches(rows, 10, 10, 3) for row in batch]
    assert sorted(taken) == sorted(row.question for row in rows)
    again = [row.question for batch in train_batches(rows, 10, 10, 3) for row in batch]
    other = [row.question for batch in train_batches(rows, 10, 10, 4) for row in batch]
    assert taken == again != other
    spreads = [max(r.length for r in b) - min(r.length for r in b) for b in train_batches(rows, 10, 8, 3)]
    assert max(spreads) < 12  # of 40 lengths, a batch holds neighbours


def test_held_out_figures_by_hand() -> None:
    def pair(question: str, chosen: int, rejected: int) -> Encoded:
        return Encoded((np.zeros(chosen, np.int32), np.zeros(rejected, np.int32)), 1.0, question)

    rows = [pair("q", 2, 5), pair("q", 2, 5), pair("r", 6, 5)]
    figures = measure_held_out(np.array([[1.0, 0.0, 3.0], [0.0, 0.0, 1.0]]), rows)
    assert figures.accuracy == pytest.approx(0.75)  # q: 1 of 2, a tie is wrong; r: 1 of 1
    assert figures.loss == pytest.approx((0.313262 + 0.693147 + 0.126928) / 3, abs=1e-6)
    assert (figures.rows, figures.questions, figures.baseline) == (3, 2, pytest.approx(2 / 3))
    one = np.zeros(3, np.int32)
    labels = [Encoded((one,), 1.0, "q"), Encoded((one,), 0.0, "q"), Encoded((one,), 0.0, "r")]
    figures = measure_held_out(np.array([[2.0, 2.0, -1.0]]), labels)
    assert figures.by_label == {"0": 0.5, "1": 1.0}
    assert (figures.accuracy, figures.baseline) == (pytest.approx(0.75), pytest.approx(2 / 3))


# ---------------------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_training_learns_a_separable_preference(finished: Any) -> None:
    _, result, losses = finished
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)  # a head of zeros has no opinion
    held_out = result.held_out["test"]
    assert held_out.accuracy >= 0.95
    assert held_out.low <= held_out.accuracy <= held_out.high
    assert held_out.rows == 24 == held_out.questions
    assert held_out.baseline < 0.8
    assert len(losses) == result.steps == 18


@pytest.mark.slow
def test_pointwise_training_learns_both_classes_and_keeps_the_best(tmp_path: Path) -> None:
    from distill.reward_model import load_reward_model, train_reward_model

    heard: list[str] = []
    config = replace(CONFIG, kind="pointwise", keep_best=True, epochs=3)
    out = tmp_path / "safety"
    result = train_reward_model(config, labelled(pairs()), "tiny-student", out, on_message=heard.append)
    assert result.held_out["test"].accuracy >= 0.95
    assert min(result.held_out["test"].by_label.values()) >= 0.9
    seen = {int(m.split()[1][:-1]): float(m.split()[4][:-1]) for m in heard if m.startswith("step ")}
    assert result.kept_step == min(seen, key=seen.__getitem__)
    assert result.held_out["validation"].loss == pytest.approx(seen[result.kept_step], abs=1e-4)
    model = load_reward_model(out, kind="pointwise")
    good, bad = model.score([("3 plus 4?", "<answer> 7 </answer>"), ("3 plus 4?", BAD[0])])
    assert 0 <= bad < 0.5 < good <= 1
    assert model.centre == 0.0


@pytest.mark.slow
def test_the_folder_gives_the_scores_back_bit_by_bit(
    finished: Any, tmp_path: Path, tiny: ModelFolder
) -> None:
    from distill.reward_model import load_reward_model

    out, result, _ = finished
    tokenizer, test = Tokenizer.load(tiny.path), [row for row in pairs() if row.split == "test"]
    data = encode_rows(
        [replace(row, split="train") for row in test],
        "pairwise",
        parse_template("plain:r1-zero"),
        tokenizer,
        64,
    )
    model = load_reward_model(out, kind="pairwise", sees="response")
    raw = [model.raw_scores([row.texts[k] for row in data.rows["train"]]) for k in (0, 1)]
    assert measure_held_out(np.asarray(raw), data.rows["train"]).loss == pytest.approx(
        result.held_out["test"].loss, rel=1e-5
    )
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    items = [(row.question, row.chosen) for row in test]
    assert load_reward_model(copy).score(items) == model.score(items)


@pytest.mark.slow
def test_a_score_knows_neither_its_bucket_nor_its_neighbours(finished: Any) -> None:
    from distill.reward_model import load_reward_model

    items = [(row.question, text) for row in pairs()[:20] for text in (row.chosen, row.rejected, "")]
    alone, many = load_reward_model(finished[0], rows=1), load_reward_model(finished[0], rows=8)
    scores = np.asarray([one.raw for one in many.assess(items)])
    np.testing.assert_allclose(scores[::-1], [one.raw for one in many.assess(items[::-1])], atol=1e-5)
    np.testing.assert_allclose(scores[:9], [many.assess([item])[0].raw for item in items[:9]], atol=1e-5)
    np.testing.assert_allclose(scores[:9], [alone.assess([item])[0].raw for item in items[:9]], atol=1e-5)
    ids = np.asarray(encode_scored(*items[0], many.template, many._tokenizer), np.int32)
    assert compiled_length(len(ids), 64) == 32
    wide = [
        float(many._forward(many._params, *pad_rows([ids], 8, length, pad))[0])
        for length in (32, 48, 64, 128)
        for pad in (0, 9)
    ]
    np.testing.assert_allclose(wide, scores[0], atol=1e-5)


@pytest.mark.slow
def test_scores_are_bounded_centred_and_ordered(finished: Any) -> None:
    from distill.reward_model import load_reward_model

    model = load_reward_model(finished[0])
    items = [
        (row.question, text) for row in pairs() if row.split == "train" for text in (row.chosen, row.rejected)
    ]
    assessed = model.assess(items)
    assert model.centre == pytest.approx(np.mean([one.raw for one in assessed]), abs=1e-4)
    for one in assessed[:6]:
        assert one.score == pytest.approx(1 / (1 + math.exp(model.centre - one.raw)), abs=1e-6)
    assert all(0 <= one.score <= 1 for one in assessed)


@pytest.mark.slow
def test_what_is_too_long_is_named_and_never_cut(finished: Any) -> None:
    from distill.reward_model import load_reward_model

    model = load_reward_model(finished[0])
    items = [("3 plus 4?", "<answer> 7 </answer>"), ("3 plus 4?", "7 " * 200), ("3 plus 4?", "8 " * 200)]
    with pytest.raises(UserError, match=r"text 1 cannot be scored: it has \d+ tokens.*takes 64 \(2 of 3"):
        model.score(items)
    fits, refused, _ = model.assess(items)
    assert fits.reason is None and fits.score == model.score(items[:1])[0]
    assert refused.score is None and refused.raw is None and "takes 64" in str(refused.reason)


@pytest.mark.slow
def test_another_kind_or_a_mixed_up_folder_is_refused(finished: Any, tmp_path: Path) -> None:
    from distill.reward_model import HEAD, MANIFEST, load_reward_model

    out = finished[0]
    with pytest.raises(UserError, match="kind is pairwise, pointwise is needed"):
        load_reward_model(out, kind="pointwise")
    with pytest.raises(UserError, match="sees is response, summary is needed"):
        load_reward_model(out, sees="summary")
    with pytest.raises(UserError, match="holds no reward model"):
        load_reward_model(resolve_model("tiny-student"))
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    shutil.copyfile(resolve_model("tiny-student") / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(UserError, match="not those that the head was trained with"):
        load_reward_model(copy)
    shutil.copyfile(out / "model.safetensors", copy / "model.safetensors")
    (copy / HEAD).write_bytes((out / HEAD).read_bytes()[:-8])
    with pytest.raises(UserError, match="torn"):
        load_reward_model(copy)
    shutil.copyfile(out / HEAD, copy / HEAD)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["template"]["style"]["preamble"] = "Another one."
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"the template plain:r1-zero has changed"):
        load_reward_model(copy)
    (copy / MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(UserError, match="newer version"):
        load_reward_model(copy)


@pytest.mark.slow
def test_a_finished_folder_is_left_alone_and_a_stopped_training_begins_again(
    finished: Any, tmp_path: Path
) -> None:
    from distill.reward_model import HEAD, MANIFEST, another_reward_model, train_reward_model

    out, result, losses = finished
    assert not another_reward_model(CONFIG, pairs(), "tiny-student", out)
    assert another_reward_model(replace(CONFIG, seed=1), pairs(), "tiny-student", out)
    assert not another_reward_model(CONFIG, pairs(), "tiny-student", tmp_path)
    before = (out / MANIFEST).stat().st_mtime_ns
    done = train_reward_model(CONFIG, pairs(), "tiny-student", out)
    assert done == replace(result, already_done=True)
    assert (out / MANIFEST).stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another config, data or base"):
        train_reward_model(replace(CONFIG, seed=1), pairs(), "tiny-student", out)
    with pytest.raises(UserError, match="another config, data or base"):
        train_reward_model(CONFIG, pairs()[:-1], "tiny-student", out)

    class Killed(Exception):
        pass

    def kill(step: int, _steps: int, _loss: float) -> None:
        if step == 3:
            raise Killed

    there = tmp_path / "there"
    with pytest.raises(Killed):
        train_reward_model(CONFIG, pairs(), "tiny-student", there, kill)
    assert not there.exists()
    leftover = tmp_path / ".there.reward-1"  # of a process that was killed while it wrote
    leftover.mkdir()
    again: list[float] = []
    train_reward_model(CONFIG, pairs(), "tiny-student", there, lambda _s, _n, x: again.append(x))
    assert again == losses
    for name in (HEAD, "model.safetensors", MANIFEST):
        assert (out / name).read_bytes() == (there / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_loss_that_is_not_finite_names_its_step(tmp_path: Path) -> None:
    from distill.reward_model import train_reward_model

    config = replace(CONFIG, learning_rate=1e38, warmup_steps=0)
    with pytest.raises(UserError, match=r"step \d+: the loss is .* nothing is saved"):
        train_reward_model(config, pairs(), "tiny-student", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_said_before_training(tmp_path: Path) -> None:
    from distill.reward_model import train_reward_model

    (tmp_path / "file").write_text("")
    steps: list[int] = []
    for out, words in (
        (tmp_path / "file" / "deep" / "out", "cannot be written"),
        (tmp_path, "holds no reward model"),
    ):
        with pytest.raises(UserError, match=words):
            train_reward_model(CONFIG, pairs(), "tiny-student", out, lambda step, *_: steps.append(step))
    assert steps == []
