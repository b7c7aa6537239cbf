"""A stage of reinforcement learning: what it asks, what it learns from, and that it can be killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tunix")
pytestmark = pytest.mark.train

from distill.gemma.folder import ModelFolder  # noqa: E402
from distill.gemma.tokenizer import Tokenizer  # noqa: E402
from factory.records import ROLLOUTS, equal_tables  # noqa: E402
from factory.store import Run  # noqa: E402
from factory.teacher.identity import another_stage  # noqa: E402
from filters.errors import UserError  # noqa: E402
from tests.factory.teacher.conftest import TINY_STUDENT, sums  # noqa: E402
from tests.factory.teacher.staging import (  # noqa: E402
    RIGHT,
    SMALL,
    asked_number,
    go,
    metrics,
    right_and_wrong,
    spec,
)

ROOT = Path(__file__).parents[3]


# ------------------------------------------------------------------------------------ asking and learning


def test_a_step_asks_every_prompt_n_times_and_no_two_steps_share_noise(run: Run) -> None:
    _, rollout = go(run, spec(steps=3), right_and_wrong)
    seeds = [request.seed for request in rollout.asked]
    assert len(seeds) == len(set(seeds)) == 3 * 16
    asked = Counter(request.prompt_ids for request in rollout.asked)
    assert (
        set(asked.values()) == {4} and len(asked) == 12
    )  # the stream shuffles, and repeats only behind an epoch
    assert rollout.synced == 3
    rows = run.read("rollouts").to_pylist()
    assert len(rows) == 48
    assert {row["outcome"] for row in rows} == {"correct", "incorrect"}
    for row in rows:
        right = row["outcome"] == "correct"
        assert row["advantage"] == pytest.approx(1.0 if right else -1.0)
        assert json.loads(row["rewards"])["accuracy"] == float(right)
        assert row["reward"] == 1.0 + float(right)  # the format is right in all of them


def test_stages_that_are_compared_may_share_their_noise(run: Run) -> None:
    def seeds(job: str, **changes: Any) -> list[int]:
        _, rollout = go(
            run,
            spec(steps=1, **changes),
            right_and_wrong,
            job=job,
        )
        return [request.seed for request in rollout.asked]

    alone, first, second = seeds("alone"), seeds("first", noise="both"), seeds("second", noise="both")
    assert first == second
    assert not set(alone) & set(first)


def test_groups_that_teach_nothing_are_dropped_and_refilled(run: Run) -> None:
    def script(prompt: str, n: int) -> str:
        number = asked_number(prompt)
        return RIGHT.format(number + 1 if number % 2 == 0 else number + n % 2)

    what = spec(steps=2, dynamic_sampling={"max_rounds": 8})
    result, rollout = go(run, what, script)
    found = metrics(run)
    for step in (1, 2):
        drawn = found[step, "groups/drawn"]
        assert found[step, "groups/learnt"] == 4 < drawn
        assert found[step, "zero_variance"] == pytest.approx((drawn - 4) / drawn)
        assert found[step, "groups/rounds"] > 1
    assert len(rollout.asked) == 4 * (found[1, "groups/drawn"] + found[2, "groups/drawn"])
    taught = [row for row in run.read("rollouts").to_pylist() if row["advantage"]]
    assert len(taught) == 2 * 16
    assert all(int(row["prompt_id"][5:]) % 2 for row in taught)
    state = json.loads(
        next((result.model.parent / "checkpoints" / "2").rglob("_CHECKPOINT_METADATA")).read_text()
    )
    assert state["custom_metadata"]["position"] == found[1, "groups/drawn"] + found[2, "groups/drawn"]


def test_a_part_of_a_group_may_be_learnt_from(run: Run) -> None:
    """One right answer in four: it is learnt from, and one of the wrong ones, as a group of their own."""
    go(run, spec(steps=1, learn_from=2), lambda prompt, n: RIGHT.format(asked_number(prompt) + (n % 4 == 1)))
    rows = run.read("rollouts").to_pylist()
    assert len(rows) == 16
    advantages = {row["sample_index"]: row["advantage"] for row in rows}
    assert advantages == {0: None, 1: pytest.approx(1.0), 2: None, 3: pytest.approx(-1.0)}
    found = metrics(run)
    learnt = sum(row["completion_tokens"] for row in rows if row["advantage"] is not None)
    assert found[1, "tokens/learnt"] == learnt < sum(row["completion_tokens"] for row in rows)
    assert found[1, "accuracy"] == 0.25  # of all that were drawn


def test_without_dynamic_sampling_such_groups_are_only_left_out(run: Run) -> None:
    go(run, spec(steps=1), lambda prompt, n: RIGHT.format(asked_number(prompt) + 1))
    found = metrics(run)
    assert found[1, "groups/drawn"] == 4 and found[1, "groups/learnt"] == 0
    assert found[1, "zero_variance"] == 1.0 and (1, "loss") not in found


def test_truncated_samples_leave_their_group(run: Run) -> None:
    def script(prompt: str, n: int) -> str:
        return RIGHT.format(asked_number(prompt) + n % 2) if n % 4 else "one plus one is " * 20

    go(run, spec(steps=1), script)
    rows = run.read("rollouts").to_pylist()
    cut = [row for row in rows if row["finish_reason"] == "length"]
    assert len(cut) == 4 and all(row["reward"] is None and row["advantage"] is None for row in cut)
    assert all("length" in row["masked_because"] or "cut" in row["masked_because"] for row in cut)
    lengths = sum(row["completion_tokens"] for row in rows if row not in cut)
    assert metrics(run)[1, "tokens/learnt"] == lengths


def test_a_fault_of_the_grader_leaves_the_group_and_never_pays(run: Run) -> None:
    prompts = sums(4)
    for row in prompts:
        row["reference"] = "\\frac{" if row["prompt_id"] == "train000" else row["reference"]
    go(run, spec(steps=1), right_and_wrong, prompts)
    broken = [row for row in run.read("rollouts").to_pylist() if row["prompt_id"] == "train000"]
    assert broken and all(row["reward"] is None and row["advantage"] is None for row in broken)
    assert metrics(run)[1, "groups/learnt"] == 3


def test_the_limit_rises_on_the_way(run: Run) -> None:
    what = spec(steps=3, max_new_tokens=16, longer=[{"from_step": 1, "max_new_tokens": 20}])
    _, rollout = go(run, what, right_and_wrong)
    assert [request.max_new_tokens for request in rollout.asked[::16]] == [16, 20, 20]


def test_prompts_too_long_are_counted_and_left_out(run: Run) -> None:
    said: list[str] = []
    prompts = sums(6)
    prompts[0]["messages"] = [{"role": "user", "content": "What is " + "1 + " * 30 + "1?"}]
    go(
        run,
        spec(steps=1),
        right_and_wrong,
        prompts,
        on_message=said.append,
    )
    assert any("1 of 6 prompts left out" in line for line in said)
    with pytest.raises(UserError, match="no prompt of at most"):
        go(Run.create(run.folder / "b"), spec(steps=1, prompt_length=8), lambda prompt, n: "", prompts)


def test_reflection_and_language_are_counted(run: Run) -> None:
    def script(prompt: str, n: int) -> str:
        answer = asked_number(prompt) + n % 2
        return f"<think> wait, that is wrong </think> <answer> {answer} </answer>"

    go(run, spec(steps=1), script)
    found = metrics(run)
    assert found[1, "reflection/wait"] == found[1, "reflection/wrong"] > 0
    assert found[1, "reflection"] == pytest.approx(found[1, "reflection/wait"] * 2)
    assert found[1, "language_consistency"] == 1.0
    assert found[1, "tokens/reasoning"] > 3
    assert {(1, "accuracy/even"), (1, "accuracy/odd")} <= set(found)


def test_a_loss_that_is_not_finite_stops_and_saves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that blow up may still give finite numbers for a while, so the second update's loss is made one."""
    from factory.teacher.trainer import GrpoTrainer

    real, updates = GrpoTrainer.update, []

    def update(self: Any, *arguments: Any) -> Any:
        updates.append(1)
        found = real(self, *arguments)
        return [part | {"loss": math.nan} for part in found] if len(updates) == 2 else found

    monkeypatch.setattr(GrpoTrainer, "update", update)
    with pytest.raises(UserError, match=r"step 2 of zero: the loss is nan"):
        go(
            run,
            spec(steps=4, checkpoint_every=2),
            right_and_wrong,
        )
    out = run.folder / "teacher" / "zero"
    assert not (out / "model").exists() and not [
        p for p in (out / "checkpoints").glob("*") if p.name.isdigit()
    ]


def test_another_stage_in_the_same_folder_is_refused(run: Run) -> None:
    first, _ = go(run, spec(steps=1), right_and_wrong)
    again, rollout = go(run, spec(steps=1), right_and_wrong)
    assert rollout is None and again.model == first.model and again.resumed_from == 1
    with pytest.raises(UserError, match="samples is 4 there and 8 now"):
        go(run, spec(steps=1, samples=8), right_and_wrong)
    difference = another_stage(
        "zero", spec(steps=1), ModelFolder.open(TINY_STUDENT), sums(12), run.folder / "teacher" / "zero"
    )
    assert difference is not None and "fingerprint" in difference


@pytest.mark.parametrize(
    ("there", "now", "what"),
    [
        ({"clean": {"pattern": "a"}}, {"clean": {"pattern": "b"}}, "scorers.clean.pattern is 'a' there and 'b' now"),
        ({}, {"clean": {"pattern": "b"}}, "scorers.clean.pattern is None there and 'b' now"),
        ({"clean": {"pattern": "a"}}, {}, "scorers.clean.pattern is 'a' there and None now"),
    ],
)  # fmt: skip
def test_a_stage_with_another_scorer_is_another_stage(run: Run, there: Any, now: Any, what: str) -> None:
    def difference(identities: Any) -> str | None:
        base, out = ModelFolder.open(TINY_STUDENT), run.folder / "teacher" / "zero"
        return another_stage("zero", spec(steps=1), base, sums(16), out, identities=identities)

    go(run, spec(steps=1), right_and_wrong, identities=there)
    _, rollout = go(run, spec(steps=1), right_and_wrong, identities=there)
    assert rollout is None and difference(there) is None
    assert difference(now) == what
    with pytest.raises(UserError, match=what):
        go(run, spec(steps=1), right_and_wrong, identities=now)


def test_a_better_grader_is_another_stage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from filters.verifiers import KINDS

    def difference() -> str | None:
        base, out = ModelFolder.open(TINY_STUDENT), run.folder / "teacher" / "zero"
        return another_stage("zero", spec(steps=1), base, sums(16), out)

    go(run, spec(steps=1), right_and_wrong)
    assert difference() is None
    before = KINDS["math"].version
    monkeypatch.setitem(KINDS, "math", replace(KINDS["math"], version="4000"))
    assert difference() == f"graders.math is {before!r} there and '4000' now"
    manifest = run.folder / "teacher" / "zero" / "train.json"
    without = json.loads(manifest.read_text())
    del without["scorers"], without["graders"]
    manifest.write_text(json.dumps(without))
    assert difference() == "it does not say which graders it had"


# --------------------------------------------------------------------------------- updates and their rates


class Recorder:
    """Notes what the trainer is given to learn, and where in its schedule the optimiser took each update."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from factory.teacher.trainer import GrpoTrainer

        self.batches: list[list[Any]] = []
        self.places: list[int] = []
        self.compilations = 0
        real = GrpoTrainer.update

        def update(trainer: Any, batches: Any, counts: Any, old: Any, reference: Any) -> Any:
            self.batches.append(list(batches))
            found = []
            for n, batch in enumerate(batches):
                others = ([values[n]] if values else None for values in (old, reference))
                found += real(trainer, [batch], [counts[n]], *others)
                self.places.append(self.count(trainer) - 1)  # it counts on behind an update
            self.compilations = trainer.compilations
            return found

        monkeypatch.setattr(GrpoTrainer, "update", update)

    @staticmethod
    def count(trainer: Any) -> int:
        import jax
        import optax

        is_schedule = lambda state: isinstance(state, optax.ScaleByScheduleState)
        states = jax.tree.leaves(trainer.optimizer.opt_state, is_leaf=is_schedule)
        (count,) = (int(state.count[...]) for state in states if is_schedule(state))
        return count


def teaching(*groups: int) -> Any:
    """A script in which so many of the four groups of each step teach something: rewards differ in them."""
    order: list[int] = []

    def script(prompt: str, n: int) -> str:
        number = asked_number(prompt)
        if n % 4 == 0:
            order.append(number)
        step, group = divmod(len(order) - 1, 4)
        return RIGHT.format(number + (n % 2 if group < groups[step] else 1))

    return script


COSINE = {"learning_rate": 1e-3, "warmup_steps": 3, "schedule": "cosine"}


def test_the_rate_is_of_the_step_however_many_groups_taught(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factory.teacher.assembly import schedule_of

    made = Recorder(monkeypatch)
    what = spec(steps=4, prompts=4, minibatches=4, epochs=2, optimiser=COSINE)
    go(run, what, teaching(4, 0, 3, 1))
    found = metrics(run)
    assert [len(batches) for batches in made.batches] == [4, 4, 3, 3, 1, 1]
    places = [*range(8), 16, 17, 18, 20, 21, 22, 24, 28]
    assert made.places == places
    schedule = schedule_of(what)
    for step, own in ((1, places[:8]), (3, places[8:14]), (4, places[14:])):
        mean = sum(float(schedule(place)) for place in own) / len(own)
        assert found[step, "learning_rate"] == pytest.approx(mean, rel=1e-6)
    assert (2, "learning_rate") not in found
    assert made.compilations == 1


def test_the_rate_that_is_logged_is_the_one_that_was_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without decay a first step of Adam is the rate itself, wherever a gradient is well above its epsilon."""
    import jax
    import numpy as np
    from flax import nnx

    from factory.teacher.trainer import GrpoTrainer

    real, steps = GrpoTrainer.update, []

    def update(trainer: Any, *arguments: Any) -> Any:
        before = [np.asarray(x) for x in jax.tree.leaves(nnx.state(trainer.model, nnx.Param))]
        found = real(trainer, *arguments)
        after = [np.asarray(x) for x in jax.tree.leaves(nnx.state(trainer.model, nnx.Param))]
        steps.append(max(float(np.abs(a - b).max()) for a, b in zip(after, before, strict=True)))
        return found

    monkeypatch.setattr(GrpoTrainer, "update", update)
    what = spec(steps=2, optimiser={"learning_rate": 4e-3, "warmup_steps": 1, "schedule": "cosine"})
    go(run, what, teaching(0, 4))
    assert len(steps) == 1  # the first step's groups taught nothing
    assert steps[0] == pytest.approx(metrics(run)[2, "learning_rate"], rel=1e-3)


def test_groups_are_divided_evenly() -> None:
    from factory.teacher.grpo import evenly

    for groups in range(1, 40):
        for parts in range(1, 40):
            found = evenly(range(groups), parts)
            sizes = [len(part) for part in found]
            assert len(found) == min(parts, groups) and [n for part in found for n in part] == list(
                range(groups)
            )
            assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert evenly([], 3) == []


def test_the_constant_is_no_matter_of_what_survived(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Recorder(monkeypatch)
    what = spec(steps=1, aggregation="constant")
    go(run, what, teaching(3))
    (batch,) = made.batches[0]
    assert sum(batch.copies) == 3 * 4
    once = [weight / copies for weight, copies in zip(batch.weights, batch.copies, strict=True)]
    assert once == pytest.approx([1.0 / (4 * 4 * 24)] * len(once))


def test_what_was_drawn_often_is_computed_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of each four answers are equal."""

    def script(prompt: str, n: int) -> str:
        number = asked_number(prompt)
        return [RIGHT, RIGHT, "no: " + RIGHT, RIGHT][n % 4].format(number + (1, 1, 0, 0)[n % 4])

    made = Recorder(monkeypatch)
    go(run, spec(steps=1), script)
    (batch,) = made.batches[0]
    groups = len(batch.copies) // 3
    assert sorted(batch.copies) == [1] * 2 * groups + [2] * groups
    counted = sum(a * k for a, k in zip(batch.advantages, batch.copies, strict=True))
    assert counted == pytest.approx(0.0, abs=1e-6)  # of all that were drawn


# ---------------------------------------------------------------------------------------------- accuracy


def test_what_was_cut_off_counts_as_wrong(run: Run) -> None:
    """A quarter of the answers is right and a quarter is cut off: cutting more off makes no stage look better."""

    def script(prompt: str, n: int) -> str:
        number = asked_number(prompt)
        return "one plus one is " * 20 if number and n % 4 == 0 else RIGHT.format(number + (n % 4 == 1))

    prompts = sums(4)
    prompts[0]["reference"] = "\\frac{"  # nothing is known about its answers
    for mode in ("zero", "mask"):
        here = Run.create(run.folder / mode)
        go(here, spec(steps=1, rewards={"overlong": {"mode": mode}}), script, prompts)
        found = metrics(here)
        assert found[1, "accuracy"] == found[1, "accuracy/odd"] == pytest.approx(0.25)


# ------------------------------------------------------------------------------------------ the real sampler


def test_the_rollout_keeps_the_stop_token_and_draws_by_seed() -> None:
    from distill.gemma.checkpoint import load_model
    from factory.teacher.rollout import InProcessRollout, Request

    folder = ModelFolder.open(TINY_STUDENT)
    tokenizer = Tokenizer.load(folder.path)
    rollout = InProcessRollout(
        load_model(folder), tokenizer, temperature=1.0, prompt_length=24, max_new_tokens=40, batch_size=16
    )
    ids = (tokenizer.bos_id, *tokenizer.encode("What is 1 + 1?"))
    drawn = rollout.draw([Request(ids, seed, 40) for seed in range(24)])
    stopped = [one for one in drawn if not one.truncated]
    assert stopped and all(one.token_ids[-1] == tokenizer.eos_id for one in stopped)
    assert all(tokenizer.eos_id not in one.token_ids[:-1] for one in drawn)
    assert all("<eos>" not in one.text for one in drawn)
    assert len({one.token_ids for one in drawn}) > 12
    before = rollout.sampler.compilations
    again = rollout.draw([Request(ids, seed, 12) for seed in range(24)])
    assert [one.token_ids for one in again] == [one.token_ids[:12] for one in drawn]
    assert rollout.sampler.compilations == before  # another limit is no other shape


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_old_log_probabilities_are_those_of_the_distribution_that_was_sampled(
    tmp_path: Path, temperature: float
) -> None:
    import optax

    from distill.gemma.checkpoint import load_model
    from factory.teacher.loss import LossConfig, token_weights
    from factory.teacher.rollout import InProcessRollout, Request
    from factory.teacher.trainer import Batch, GrpoTrainer, Shape, pack_samples

    folder = ModelFolder.open(TINY_STUDENT)
    tokenizer = Tokenizer.load(folder.path)
    model = load_model(folder)
    rollout = InProcessRollout(
        model, tokenizer, temperature=temperature, prompt_length=24, max_new_tokens=24, batch_size=16
    )
    ids = (tokenizer.bos_id, *tokenizer.encode("What is 1 + 1?"))
    drawn = [one.token_ids for one in rollout.draw([Request(ids, seed, 24) for seed in range(8)])]
    shape = Shape.for_groups(1, 8, longest=48, length=48, rows=2, window=folder.config.sliding_window)
    trainer = GrpoTrainer(
        model,
        optax.sgd(0.05),
        loss=LossConfig(temperature=temperature, on_policy=False),
        shape=shape,
        checkpoints=tmp_path,
    )
    rows = pack_samples([ids] * 8, drawn, shape)
    lengths = [len(one) for one in drawn]
    weights = token_weights(lengths, [True] * 8, "token-mean", max_tokens=24)
    batch = Batch(rows, lengths, weights, [1.0, -1.0] * 4)
    old = trainer.logprobs(rows)
    first, second = trainer.update([batch, batch], [0, 1], [old, old])
    trainer.close()
    assert first["ratio_gap"] < 1e-5 and first["clip_fraction"] == 0.0
    assert second["ratio_gap"] > 1e-4
    assert trainer.compilations == 1


# ------------------------------------------------------------------------------- kill, resume, and devices

_JOB = """
    import json, os, signal, sys
    from pathlib import Path
    from distill.gemma.folder import ModelFolder
    from factory.store import Run
    from factory.teacher.grpo import train_rl
    from factory.teacher.settings import Rl
    from tests.factory.teacher.conftest import TINY_STUDENT
    from factory.tiny.tasks import problems, training_rungs

    folder, spec, kill_at, number = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    run = Run.create(Path(folder))
    rows = []
    for rung in training_rungs()[:4]:
        for problem, _ in zip(problems(rung, 3, "train"), range(6)):
            rows.append({
                "prompt_id": f"{problem.task}{problem.rung}{len(rows)}", "question": problem.question,
                "messages": [{"role": "user", "content": problem.question}], "reference": problem.answer,
                "verifier": "puzzle", "domain": problem.task, "language": "en",
                "verifier_args": json.dumps({"task": problem.task,
                                             "entry": {"answer": problem.answer, "metadata": problem.metadata}}),
            })

    def progress(p):
        if p.step == kill_at:
            os.kill(os.getpid(), getattr(signal, number))

    train_rl("zero", Rl.model_validate(spec), ModelFolder.open(TINY_STUDENT), rows, run.folder / "teacher" / "zero",
             run, validation=rows[:4], on_progress=progress)
"""

ROAD: dict[str, Any] = {
    **SMALL,
    "steps": 7,
    "samples": 8,
    "minibatches": 2,
    "kl": 0.05,
    "reference_every": 3,
    "dynamic_sampling": {"max_rounds": 2},
    "checkpoint_every": 2,
    "rewards": {"format": {"weight": 0.5}, "overlong": {"mode": "zero"}},
    "validation": {"every": 3, "prompts": 4, "samples": 2},
}


def job(
    folder: Path, what: dict[str, Any], kill_at: int = -1, number: str = "SIGKILL", devices: int = 1
) -> subprocess.CompletedProcess[str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_JOB), str(folder), json.dumps(what), str(kill_at), number],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = job(folder, ROAD)
    assert done.returncode == 0, done.stderr
    return Run.open(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kill_at"), [("SIGKILL", 5), ("SIGTERM", 3)])
def test_a_killed_run_goes_on_with_the_numbers_of_one_that_was_not(
    uninterrupted: Run, tmp_path: Path, number: str, kill_at: int
) -> None:
    killed = job(tmp_path / "run", ROAD, kill_at, number)
    assert killed.returncode == (-signal.SIGKILL if number == "SIGKILL" else 1), killed.stderr
    if number == "SIGTERM":
        assert "stopped by SIGTERM after step 3 of 7" in killed.stderr
    assert not (tmp_path / "run" / "teacher" / "zero" / "model").exists()
    done = job(tmp_path / "run", ROAD)
    assert done.returncode == 0, done.stderr
    here = Run.open(tmp_path / "run")
    assert metrics(here) == metrics(uninterrupted)
    assert equal_tables("rollouts", here.read("rollouts"), uninterrupted.read("rollouts"))
    hashes = {
        ModelFolder.open(r.folder / "teacher" / "zero" / "model").content_hash for r in (here, uninterrupted)
    }
    assert len(hashes) == 1


@pytest.mark.slow
def test_the_uninterrupted_run_did_what_it_was_told(uninterrupted: Run) -> None:
    found = metrics(uninterrupted)
    assert all(math.isfinite(value) for value in found.values())
    assert 0.0 < found[1, "kl"] < found[3, "kl"]  # the first minibatch of step 1 has none
    assert found[4, "kl"] < found[3, "kl"]  # the reference was refreshed behind step 3
    assert {step for step, name in found if name == "eval/accuracy"} == {0, 3, 6, 7}
    assert len(uninterrupted.read("rollouts")) >= 7 * 4 * 8
    assert uninterrupted.read("rollouts").schema.names == ROLLOUTS.schema.names


@pytest.mark.slow
def test_four_devices_learn_what_one_does(tmp_path: Path) -> None:
    """Rounding differs between layouts of devices, so a first step is compared: same samples, same numbers."""
    once = {**ROAD, "steps": 1, "validation": None, "dynamic_sampling": None, "samples": 4}
    found = []
    for name, mesh, devices in (("one", {"fsdp": 1, "tp": 1}, 1), ("four", {"fsdp": 2, "tp": 2}, 4)):
        done = job(tmp_path / name, {**once, "mesh": mesh}, devices=devices)
        assert done.returncode == 0, done.stderr
        found.append((metrics(Run.open(tmp_path / name)), Run.open(tmp_path / name)))
    (one, run_one), (four, run_four) = found
    assert run_one.read("rollouts")["completion"] == run_four.read("rollouts")["completion"]
    assert one.keys() == four.keys()
    for key, value in one.items():
        assert four[key] == pytest.approx(value, rel=2e-4, abs=2e-6), key


def test_more_devices_than_there_are(run: Run) -> None:
    with pytest.raises(UserError, match=r"fsdp 64 × tp 1 wants 64 devices"):
        go(run, spec(steps=1, mesh={"fsdp": 64}), lambda prompt, n: "")
