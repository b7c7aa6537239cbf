"""Numbers beside the record: TensorBoard reads them, and a service that fails stops nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill import reporting
from distill.training_log import Journal
from filters.errors import UserError

pytestmark = pytest.mark.train


def events(folder: Path) -> list[tuple[int, str, float]]:
    """What TensorBoard's files say, in the order of their writing; a restart as (step, "restart", 0)."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            if event.HasField("session_log"):
                found.append((event.step, "restart", 0.0))
    return found


def test_tensorboard_gets_every_number_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "sft")
    journal.open(0)
    journal.sinks = reporting.open_sinks(["tensorboard"], tmp_path, "sft", {}, 0)
    journal.add(1, {"train/loss": 0.5, "train/grad_norm": 2.0})
    journal.add(2, {"train/loss": 0.25})
    journal.add(2, {"train/loss": 9.0, "eval/loss": 1.0})  # a row is never written twice
    journal.close()
    assert events(tmp_path / "tensorboard") == [
        (1, "train/loss", 0.5),
        (1, "train/grad_norm", 2.0),
        (2, "train/loss", 0.25),
        (2, "eval/loss", 1.0),
    ]


def test_a_training_that_goes_on_voids_what_came_later(tmp_path: Path) -> None:
    for restored, steps in ((0, (1, 2, 3)), (1, (2,))):
        journal = Journal(tmp_path, "sft")
        journal.open(restored)
        journal.sinks = reporting.open_sinks(["tensorboard"], tmp_path, "sft", {}, restored)
        for step in steps:
            journal.add(step, {"loss": float(step)})
        journal.close()
    said = events(tmp_path / "tensorboard")
    assert [(step, name) for step, name, _ in said][3:] == [(2, "restart"), (2, "loss")]


class Service:
    """Stands in for wandb, whose real run needs an account: the calls it gets are recorded."""

    def __init__(self, fails: bool = False) -> None:
        self.calls: list[Any] = []
        self.fails = fails

    def init(self, **settings: Any) -> Service:
        self.calls.append(("init", settings))
        return self

    def define_metric(self, *names: str, **settings: Any) -> None:
        self.calls.append(("define", names, settings))

    def log(self, values: Mapping[str, Any]) -> None:
        if self.fails:
            raise ConnectionError("no network")
        self.calls.append(("log", values))

    def finish(self) -> None:
        self.calls.append(("finish",))


def test_a_run_that_goes_on_is_the_same_run_at_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=service.init))
    for restored in (0, 3):
        (sink,) = reporting.open_sinks(["wandb"], tmp_path, "sft", {"seed": 1}, restored)
        sink.add(restored + 1, {"loss": 0.5})
        sink.close()
    first, second = (settings for name, *rest in service.calls if name == "init" for settings in rest)
    assert first == second and first["resume"] == "allow" and first["config"] == {"seed": 1}
    assert [call[1] for call in service.calls if call[0] == "log"] == [
        {"step": 1, "loss": 0.5},
        {"step": 4, "loss": 0.5},
    ]
    assert ("define", ("*",), {"step_metric": "step"}) in service.calls and service.calls[-1] == ("finish",)


def test_a_service_that_fails_is_given_up_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(fails=True)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=service.init))
    journal = Journal(tmp_path, "sft")
    journal.open(0)
    journal.sinks = reporting.open_sinks(["wandb", "tensorboard"], tmp_path, "sft", {}, 0)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            journal.add(step, {"loss": 1.0})
        journal.close()
    assert [record.getMessage() for record in caplog.records] == [
        "wandb failed and gets no more numbers: no network"
    ]
    assert [step for step, *_ in events(tmp_path / "tensorboard")] == [1, 2]
    assert journal.column("loss") == {1: 1.0, 2: 1.0}


def test_a_service_that_does_not_begin_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("api_key not configured")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with pytest.raises(UserError, match="wandb does not begin: api_key not configured"):
        reporting.open_sinks(["wandb"], tmp_path, "sft", {}, 0)


def test_what_is_not_installed_or_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'r1-factory\[trackio\]'"):
        reporting.check_reports(["trackio"])
    with pytest.raises(UserError, match="not to 'mlflow'"):
        reporting.check_reports(["mlflow"])
