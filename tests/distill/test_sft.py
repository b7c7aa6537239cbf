"""Fine-tuning: it learns, it counts right, and nothing that stops it changes a number."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from distill import training_log
from distill.batches import EvalBatches, RowShape
from distill.chat import parse_template
from distill.data import load_dataset
from distill.gemma.folder import ModelFolder
from distill.gemma.tokenizer import Tokenizer
from distill.sft import train
from distill.train_identity import another_run
from distill.train_result import Progress, TrainResult
from distill.train_settings import Layout, TrainConfig
from factory.records import METRICS, file_metadata
from filters.errors import UserError

pytestmark = pytest.mark.train

# Thirty samples in batches of 8: an epoch ends inside a step, and the run has several. Two packed rows at a time:
# a step takes several micro-batches, and not always as many.
CONFIG = TrainConfig(
    max_steps=40,
    batch_size=8,
    max_length=64,
    layout=Layout(rows=2),
    learning_rate=1e-2,
    warmup_steps=4,
    weight_decay=0.01,
    eval_every=10,
    checkpoint_every=8,
    seed=7,
)


def rows() -> list[dict[str, Any]]:
    out = []
    for a in range(6):
        for b in range(6):
            reply = f"<think>\n{a}+{b}\n</think>\n{a + b}"
            messages = [
                {"role": "user", "content": f"{a} plus {b}?"},
                {"role": "assistant", "content": reply},
            ]
            out.append(
                {"messages": messages, "split": "validation" if a == b else "train", "weight": 1 + a % 2}
            )
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return file


HEARD: list[str] = []


@pytest.fixture(scope="module")
def finished(data: Path, student: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One uninterrupted run: (folder, result, progress of every step, compilations seen at every step)."""
    import jax

    compiled: list[str] = []

    def listen(event: str, _seconds: float, **_: Any) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.monitoring.register_event_listener(lambda event, **_: HEARD.append(event))
    out = tmp_path_factory.mktemp("run") / "out"
    seen: list[Progress] = []
    counts: list[int] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        counts.append(len(compiled))

    result = train(CONFIG, data, student.path, out, on_progress=note)
    return out, result, seen, counts


def losses(out: Path) -> list[Any]:
    """The metrics without the clocks, in order."""
    rows = pq.read_table(out / "metrics.parquet").drop_columns(["at"]).to_pylist()
    return [row for row in rows if "speed/" not in row["name"]]


def test_the_learning_rate_rises_and_falls_to_a_tenth() -> None:
    from distill.trainer import cosine_schedule

    schedule = cosine_schedule(1.0, steps=101, warmup=10, final_fraction=0.1)
    values = [float(schedule(i)) for i in range(101)]
    assert values[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert values[10] == pytest.approx(1.0)
    assert values[55] == pytest.approx(0.55, abs=0.01)
    assert values[-1] == pytest.approx(0.1)
    assert values[10:] == sorted(values[10:], reverse=True)
    assert float(cosine_schedule(1.0, steps=1, warmup=0, final_fraction=0.1)(0)) == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------- whole runs


def test_it_learns_and_every_weight_moves(finished: Any, student: ModelFolder) -> None:
    from safetensors.numpy import load_file

    out, result, seen, _ = finished
    assert [p.step for p in seen] == list(range(1, 41))
    assert seen[-1].loss < 0.3 * seen[0].loss
    assert result.model == out / "model"
    before, after = (
        load_file(student.path / "model.safetensors"),
        load_file(out / "model" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert [name for name in before if np.array_equal(before[name], after[name])] == []
    stops = (*student.config.eos_token_ids, Tokenizer.load(student.path).end_of_turn_id)
    assert ModelFolder.open(out / "model").config == replace(student.config, eos_token_ids=stops)


def test_nothing_is_compiled_after_the_second_step(finished: Any) -> None:
    *_, counts = finished
    assert counts[0] > 0
    # The validation step compiles before the first training step; the schedule's few operators at step 1.
    assert counts[-1] == counts[1]


def test_what_a_finished_folder_holds(finished: Any, data: Path, student: ModelFolder) -> None:
    out, result, seen, _ = finished
    table = pq.read_table(out / "metrics.parquet")
    assert table.schema.equals(METRICS.schema)
    assert table.schema.metadata == {k.encode(): v.encode() for k, v in file_metadata("metrics").items()}
    by_name: dict[str, dict[int, float]] = {}
    for row in table.to_pylist():
        by_name.setdefault(row["name"], {})[row["step"]] = row["value"]
    assert set(by_name) == {
        "train/loss",
        "train/grad_norm",
        "train/learning_rate",
        "train/tokens",
        "eval/loss",
        "speed/elapsed",
        "eval/speed/elapsed",
    }
    assert list(by_name["train/loss"]) == list(range(1, 41))
    assert list(by_name["eval/loss"]) == [0, 10, 20, 30, 40]
    assert by_name["train/learning_rate"][40] == pytest.approx(1e-3)
    assert by_name["train/loss"][40] == seen[-1].loss == result.train_loss
    manifest = json.loads((out / "train.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["student"]["content_hash"] == student.content_hash
    assert manifest["model"] == ModelFolder.open(out / "model").content_hash
    assert manifest["data"]["train"] == 30
    names = {p.name for p in out.iterdir()} - {".lock", "best"}
    assert names == {
        "train.json",
        "metrics.jsonl",
        "metrics.parquet",
        "tensorboard",
        "base",
        "checkpoints",
        "model",
    }
    losses = by_name["eval/loss"]
    assert result.best_step == min((step for step in losses if step), key=lambda step: losses[step])
    assert (out / "best").is_dir() == (result.best_step != 40)


def test_the_validation_loss_is_a_mean_over_tokens(finished: Any, data: Path) -> None:
    from functools import partial

    from flax import nnx

    from distill.gemma.checkpoint import load_model
    from distill.loss import PassConfig, SftMicro, evaluation_step
    from distill.updates import stacked

    out, result, *_ = finished
    folder = ModelFolder.open(out / "model")
    dataset = load_dataset(str(data), parse_template("gemma:r1"), Tokenizer.load(folder.path), 64)
    (batch,) = EvalBatches(dataset.validation, RowShape(6, rows=6, length=64, packed=False))
    rows = batch.rows
    columns = (rows.tokens, rows.targets, rows.positions, rows.group, rows.branch, batch.weights)
    stack, used = stacked(columns, 6, 1)
    inputs = {"micros": SftMicro(*stack), "used": used}
    nll, _ = nnx.jit(partial(evaluation_step, config=PassConfig()))(load_model(folder), inputs)
    assert result.eval_loss == pytest.approx(float(nll) / batch.total, abs=1e-5)


def test_listeners_of_the_process_survive(finished: Any) -> None:
    import jax

    jax.monitoring.record_event("/distill/test")
    assert "/distill/test" in HEARD  # its listener was registered before the training


# ------------------------------------------------------------------------------------- stop and go on


def start(data: Path, student: ModelFolder, out: Path) -> subprocess.Popen[bytes]:
    flags = {
        "max-steps": CONFIG.max_steps,
        "batch-size": CONFIG.batch_size,
        "rows": CONFIG.layout.rows,
        "max-length": CONFIG.max_length,
        "learning-rate": CONFIG.learning_rate,
        "warmup-steps": CONFIG.warmup_steps,
        "weight-decay": CONFIG.weight_decay,
        "eval-every": CONFIG.eval_every,
        "checkpoint-every": CONFIG.checkpoint_every,
        "seed": CONFIG.seed,
    }
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    command = [
        sys.executable,
        "-m",
        "distill.cli",
        "train",
        str(data),
        "--student",
        str(student.path),
        "--out",
    ]
    return subprocess.Popen(
        [*command, str(out), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        if process.poll() is not None:
            assert process.stdout is not None
            pytest.fail(f"ended too early: {process.stdout.read().decode()}")
        time.sleep(0.0005)


def journal_step(out: Path) -> int:
    file = out / "metrics.jsonl"
    if not file.is_file():
        return 0
    complete = file.read_text().split("\n")[:-1]
    return max((json.loads(line)["step"] for line in complete), default=0)


@pytest.mark.slow
def test_kills_change_nothing(finished: Any, data: Path, student: ModelFolder, tmp_path: Path) -> None:
    """SIGKILL at a drawn step, SIGKILL in a checkpoint write, SIGTERM; then the rest, equal to the last bit."""
    reference, *_ = finished
    out = tmp_path / "killed"
    draw = random.Random(os.getpid())
    first = draw.randrange(1, 16)
    process = start(data, student, out)
    wait_for(lambda: journal_step(out) >= first, process)
    process.kill()
    process.wait()

    process = start(data, student, out)
    wait_for(lambda: any((out / "checkpoints").glob("*tmp*")), process)
    process.kill()
    process.wait()
    resumed = max((int(p.name) for p in (out / "checkpoints").iterdir() if p.name.isdigit()), default=0)

    before, target = (out / "metrics.jsonl").stat().st_ino, resumed + draw.randrange(1, 8)
    process = start(data, student, out)
    wait_for(lambda: (out / "metrics.jsonl").stat().st_ino != before and journal_step(out) >= target, process)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    said = process.stdout.read().decode()
    assert process.wait() == 143, said
    assert "stopped by SIGTERM after step" in said
    assert "Traceback" not in said
    stopped_at = journal_step(out)
    assert (out / "checkpoints" / str(stopped_at)).is_dir()

    result = train(CONFIG, data, student.path, out)
    assert result.resumed_from == stopped_at, f"first kill at step {first}"
    assert losses(out) == losses(reference), f"first kill at step {first}"
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (out, reference)]
    assert weights[0] == weights[1]


def test_a_finished_run_is_not_made_again(finished: Any, data: Path, student: ModelFolder) -> None:
    out, result, *_ = finished
    before = (out / "metrics.jsonl").stat().st_mtime_ns
    said: list[str] = []
    again = train(CONFIG, data, student.path, out, on_message=said.append)
    assert again == replace(result, already_done=True, resumed_from=40)
    assert any("finished already" in line for line in said)
    assert result.seconds is not None and result.seconds > 0
    assert (out / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_run_is_refused(
    finished: Any, data: Path, student: ModelFolder, make_config: Any, make_folder: Any, tmp_path: Path
) -> None:
    out, *_ = finished
    with pytest.raises(UserError, match=r"learning_rate is 0\.01 there and 0\.02 now"):
        train(replace(CONFIG, learning_rate=0.02), data, student.path, out)
    half = replace(CONFIG, max_steps=1, warmup_steps=0, layout=replace(CONFIG.layout, compute="bfloat16"))
    train(half, data, student.path, tmp_path / "half")
    with pytest.raises(UserError, match="compute is 'bfloat16' there and None now"):
        train(replace(half, layout=CONFIG.layout), data, student.path, tmp_path / "half")
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text().replace("1 plus 2?", "2 plus 1?"))
    with pytest.raises(UserError, match="data has fingerprint"):
        train(CONFIG, other, student.path, out)
    with pytest.raises(UserError, match="student has content_hash"):
        train(CONFIG, data, make_folder(make_config(), seed=9).path, out)
    stray = tmp_path / "stray"
    (stray / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds checkpoints and no train\.json"):
        train(CONFIG, data, student.path, stray)
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "train.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="written by a newer version"):
        train(CONFIG, data, student.path, newer)


def test_a_diverging_run_stops_with_its_step(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    wild = replace(CONFIG, learning_rate=1e30, warmup_steps=0, checkpoint_every=1)
    with pytest.raises(UserError, match=r"step \d+: the loss is") as caught:
        train(wild, data, student.path, tmp_path / "out")
    assert caught.value.exit_code == 1
    step = int(str(caught.value).split(":")[0].removeprefix("step "))
    kept = [int(p.name) for p in (tmp_path / "out" / "checkpoints").iterdir() if p.name.isdigit()]
    assert max(kept, default=0) < step
    assert json.loads((tmp_path / "out" / "train.json").read_text())["status"] == "running"


def test_two_processes_never_train_in_one_folder(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as held:
        held.write("host elsewhere, pid 42\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process .host elsewhere, pid 42."):
            train(CONFIG, data, student.path, out)


def test_a_full_disk_and_a_file_in_the_way(
    data: Path, student: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written"):
        train(CONFIG, data, student.path, tmp_path / "file")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training_log, "write_atomically", full)
    with pytest.raises(UserError, match="the disk of .* is full"):
        train(CONFIG, data, student.path, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("place/out/model/x", "place/out cannot be written .* choose another folder"),
        ("place", "place/out cannot be written"),
        ("place/.out.tmp-7/x", "place/out cannot be written"),
        (
            "models/base/model.safetensors",
            "models/base/model.safetensors cannot be read or written .Permission denied",
        ),
    ],
)
def test_a_fault_of_the_disk_names_what_it_is_about(file: str, said: str, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=said),
        training_log.disk_faults(tmp_path / "place" / "out"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / file))


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [1, 2, 3])
def test_a_disk_that_is_full_is_said_to_be(data: Path, megabytes: int, tmp_path: Path) -> None:
    """A real one, too small for the model or its checkpoint, whichever library finds out."""
    commands = " ".join(
        (
            f"mount -t tmpfs -o size={megabytes}m tmpfs {tmp_path} && exec {sys.executable} -m distill.cli train {data}",
            f"--student tiny-student --out {tmp_path}/out --template plain:r1-zero --max-steps 2 --max-length 64",
            "--report-to none --rows 1 --batch-size 1",
        )
    )
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*alone, f"mount -t tmpfs tmpfs {tmp_path}"], check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    done = subprocess.run([*alone, commands], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        f"distill: error: the disk of {tmp_path}/out is full; free some space, and the same command goes on from the "
        "last checkpoint"
    )
    assert "Traceback" not in done.stderr


def test_what_is_measured_and_kept_may_change_on_the_way(
    data: Path, student: ModelFolder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train(CONFIG, data, student.path, out)
    manifest = json.loads((out / "train.json").read_text())
    changed = replace(CONFIG, keep=1, checkpoint_every=3, eval_every=5, job="other", keep_best=False)
    assert another_run(changed, data, student.path, out) is None
    old = manifest | {
        "config": manifest["config"] | {"keep": 7, "eval_every": 9}
    }  # as older versions wrote it
    (out / "train.json").write_text(json.dumps(old))
    assert another_run(changed, data, student.path, out) is None
    found = another_run(replace(changed, seed=5), data, student.path, out)
    assert found is not None and found.startswith("seed is")


def test_seconds_are_of_work_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(training_log.time, "monotonic", lambda: clock[0])
    journal = training_log.Journal(tmp_path, "sft")
    journal.open(0)
    for step in (1, 2, 3):  # a checkpoint behind the second, and dead behind the third
        clock[0] += 10
        journal.add(step, {"train/loss": 1.0, training_log.ELAPSED: journal.elapsed})
    journal.close()
    clock[0] += 5000
    again = training_log.Journal(tmp_path, "sft")
    clock[0] += 3  # loading
    again.open(2)
    assert again.elapsed == 23.0
    again.close()


def test_a_torn_line_is_dropped_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    journal = training_log.Journal(tmp_path, "sft")
    journal.open(0)
    for step in (1, 2, 3):
        journal.add(step, {"train/loss": 1.0 / step})
    journal.close()
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 4, "na')
    again = training_log.Journal(tmp_path, "sft")
    again.open(2)
    assert (again.has(2, "train/loss"), again.has(3, "train/loss")) == (True, False)
    assert again.last("train/loss") == 0.5
    again.close()
    assert len(file.read_text().splitlines()) == 2
    file.write_text("rubbish\n" + file.read_text())
    with pytest.raises(UserError, match="line 1 is damaged"):
        training_log.Journal(tmp_path, "sft").open(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.0}, "one of the two"),
        ({"max_steps": None}, "one of the two"),
        ({"max_steps": 0}, "max_steps must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"batch_size": -1}, "batch_size must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"b2": 1.0}, r"b2 must lie in \[0, 1\)"),
        ({"max_length": 4}, "max_length must be at least 8"),
        ({"dtype": "int8"}, "dtype must be"),
        ({"template": "nothing"}, "unknown template"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **changes)


def test_epochs_count_steps() -> None:
    config = TrainConfig(epochs=1.5, batch_size=8)
    assert config.steps_for(30) == 6  # ceil(45 / 8)
    with pytest.raises(UserError, match="warmup_steps 6 must be less than the 6 steps"):
        replace(config, warmup_steps=6).steps_for(30)


def test_results_are_plain(finished: Any) -> None:
    _, result, *_ = finished
    assert isinstance(result, TrainResult)
    assert (result.steps, result.resumed_from, result.already_done) == (40, 0, False)
    assert result.dataset.startswith("30 samples to train on, 6 for validation")


_LAID_OUT = """
import json, sys
from distill.sft import train
from distill.train_settings import Layout, TrainConfig
data, student, out, layout = sys.argv[1:]
layout = json.loads(layout)
config = TrainConfig(
    max_steps=4, batch_size=8, max_length=64, learning_rate=1e-3, seed=7, layout=Layout(**layout),
)
train(config, data, student, out)
"""


@pytest.mark.slow
def test_a_layout_changes_no_loss(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    """Four devices, packed rows, layers computed twice, chunks of queries: the losses of one device and lone samples."""
    found = []
    for name, layout in (
        ("plain", {"packing": False}),
        ("rows", {"fsdp": 4, "rows": 3, "remat": "layer"}),
        ("both", {"fsdp": 2, "tp": 2, "rows": 2, "row_length": 96, "remat": "layer", "attention_chunk": 16}),
    ):
        arguments = [str(data), str(student.path), str(tmp_path / name), json.dumps(layout)]
        done = subprocess.run(
            [sys.executable, "-c", _LAID_OUT, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            },
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 0, done.stderr[-3000:]
        table = pq.read_table(tmp_path / name / training_log.METRICS).to_pylist()
        found.append([row["value"] for row in table if row["name"] in ("train/loss", "eval/loss")])
    assert len(found[0]) >= 5
    for losses in found[1:]:
        assert losses == pytest.approx(found[0], rel=1e-4)
