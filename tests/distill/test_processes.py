"""One training over two processes: the losses of one, stopped together and gone on with to the bit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distill.gemma.folder import ModelFolder

pytestmark = [pytest.mark.train, pytest.mark.slow]

SETTINGS: dict[str, Any] = {
    "max-steps": 12,
    "batch-size": 8,
    "rows": 4,
    "max-length": 64,
    "eval-every": 6,
    "checkpoint-every": 100,
    "learning-rate": 0.01,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{a} plus {b}?"},
                {"role": "assistant", "content": f"<think>\n{a}+{b}\n</think>\n{a + b}"},
            ],
            "split": "validation" if a == b else "train",
        }
        for a in range(6)
        for b in range(6)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def start(
    data: Path, student: ModelFolder, out: Path, processes: int, *more: str
) -> list[subprocess.Popen[str]]:
    """Processes of four devices in all, over one folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "distill.cli", "train", str(data), "--student", str(student.path)]
    command += ["--out", str(out), *(str(part) for k, v in SETTINGS.items() for part in (f"--{k}", v)), *more]
    flags = f"--xla_force_host_platform_device_count={4 // processes}"
    joined = ["--coordinator", f"localhost:{port}", "--processes", str(processes), "--process"]
    return [
        subprocess.Popen(
            command + ([*joined, str(number)] if processes > 1 else []),
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]


def ended(running: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and words of each; a process that waits for another for ever is a failure, not a wait."""
    found = []
    try:
        for process in running:
            said, _ = process.communicate(timeout=240)
            found.append((process.returncode, said))
    finally:
        for process in running:
            process.kill()
    return found


def losses(out: Path) -> dict[tuple[int, str], float]:
    file = out / "metrics.jsonl"
    rows = map(json.loads, file.read_text().splitlines()) if file.is_file() else ()
    return {(r["step"], r["name"]): r["value"] for r in rows if "speed/" not in r["name"]}


@pytest.mark.parametrize("more", [(), ("--lora-rank", "4")], ids=["full", "adapters"])
def test_two_processes_train_as_one_and_stop_together(
    data: Path, student: ModelFolder, tmp_path: Path, more: tuple[str, ...]
) -> None:
    one, two, whole = (tmp_path / name for name in ("one", "two", "whole"))
    assert [code for code, _ in ended(start(data, student, one, 1, *more))] == [0]
    expected = losses(one)

    running = start(data, student, two, 2, *more)
    deadline = time.monotonic() + 200
    while (3, "train/loss") not in losses(two) and time.monotonic() < deadline:
        time.sleep(0.01)
    running[1].send_signal(signal.SIGTERM)  # one of them is told, both stop
    stopped = ended(running)
    assert [code for code, _ in stopped] == [143, 143], stopped
    steps = {said[said.index("after step") :].split()[2] for _, said in stopped}
    assert len(steps) == 1 and (two / "checkpoints" / steps.pop()).is_dir()

    codes = ended(start(data, student, two, 2, *more))
    assert [code for code, _ in codes] == [0, 0], codes
    assert str(two / "model") in codes[0][1] and str(two / "model") not in codes[1][1]
    found = losses(two)
    assert found.keys() == expected.keys()
    assert all(abs(found[key] - value) <= 1e-5 * max(1.0, abs(value)) for key, value in expected.items())

    assert [code for code, _ in ended(start(data, student, whole, 2, *more))] == [0, 0]
    assert losses(whole) == found  # stopped and gone on with, or not: the same bits
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, two)]
    assert weights[0] == weights[1]


def test_what_needs_one_process_is_refused_in_all(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    found = ended(start(data, student, tmp_path / "out", 2, "--teacher", str(student.path)))
    assert [code for code, _ in found] == [2, 2]
    assert all("2 processes train together" in said for _, said in found)
    assert not (tmp_path / "out").exists()


def test_a_process_that_finds_nobody_says_so() -> None:
    command = [sys.executable, "-m", "distill.cli", "train", "d", "--student", "s", "--out", "o"]
    done = subprocess.run([*command, "--processes", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--processes and --process need --coordinator" in done.stderr
    done = subprocess.run([*command, "--distributed"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot join the others" in done.stderr
