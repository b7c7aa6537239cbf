"""Where the numbers of a training go beside its own record: TensorBoard, Weights & Biases, Trackio.

A service that fails on the way is given up with a warning: the record of a training is its journal.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from filters.errors import UserError

REPORTS = ("tensorboard", "wandb", "trackio")
_PROJECT = "r1-factory"
_PACKAGES = {"tensorboard": "tensorboardX"}
_EXTRAS = {"tensorboard": "train"}

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes the numbers of a step."""

    def add(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_reports(names: Sequence[str]) -> None:
    """Refuse what is unknown or not installed.

    Raises:
        UserError: an unknown name.
        ModuleNotFoundError: the package of one is not installed.
    """
    for name in names:
        if name not in REPORTS:
            raise UserError(f"numbers can be reported to {', '.join(REPORTS)}, not to {name!r}")
        package = _PACKAGES.get(name, name)
        if importlib.util.find_spec(package) is None:
            extra = _EXTRAS.get(name, name)
            raise ModuleNotFoundError(
                f"reporting to {name} needs {package}: pip install 'r1-factory[{extra}]'", name=package
            )


def open_sinks(
    names: Sequence[str], out: Path, job: str, settings: Mapping[str, Any], restored_step: int
) -> list[Sink]:
    """Open what numbers are reported to.

    Args:
        out: the training folder; TensorBoard's files are in `out/tensorboard`.
        settings: shown beside the numbers.
        restored_step: the step that the training goes on behind, 0 for a fresh one. What was reported of later
            steps is told to be void where a service can be told.

    Raises:
        UserError: a service does not begin.
    """
    known: dict[str, Callable[[], Sink]] = {
        "tensorboard": lambda: _TensorBoard(out / "tensorboard", restored_step),
        "wandb": lambda: _Wandb(out, job, settings),
        "trackio": lambda: _Trackio(out, job, settings),
    }
    return [_Guarded(name, _begin(name, known[name])) for name in names]


def _begin(name: str, begin: Callable[[], Sink]) -> Sink:
    try:
        return begin()
    except Exception as error:
        raise UserError(
            f"{name} does not begin: {error}. Set it up, or train without reporting to it"
        ) from error


class _Guarded:
    """A sink that is given up at its first failure."""

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink: Sink | None = sink

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._try(lambda sink: sink.add(step, values))

    def close(self) -> None:
        self._try(lambda sink: sink.close())

    def _try(self, act: Callable[[Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            act(self._sink)
        except Exception as error:  # noqa: BLE001 - whatever a service raises, the training goes on
            _log.warning("%s failed and gets no more numbers: %s", self._name, error)
            self._sink = None


class _TensorBoard:
    def __init__(self, folder: Path, restored_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(folder),
            purge_step=restored_step + 1 if restored_step else None,
            filename_suffix=f".{restored_step}",  # names have seconds alone
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run whose id is the training folder's, so that a training that goes on is the same run."""

    def __init__(self, out: Path, job: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=_PROJECT,
            name=out.name,
            id=_run_id(out, job),
            dir=out,
            resume="allow",
            config=dict(settings),
        )
        # Its own counter never goes back, and a training that goes on behind a checkpoint does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, out: Path, job: str, settings: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(
            project=_PROJECT,
            name=f"{out.name}-{_run_id(out, job)[:6]}",
            config=dict(settings),
            resume="allow",
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


def _run_id(out: Path, job: str) -> str:
    return hashlib.sha256(f"{out.resolve()}\0{job}".encode()).hexdigest()[:16]
