"""The worker pool: limits, isolation, order, no leaks."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filters import Fault, Outcome
from filters.workers import Failure, GradeTask, WorkerError, WorkerPool

PLANT = """
import os, time
import filters.worker_process as process

def hang(kind, seconds=600.0, *rest, **more):
    if kind == "python":
        while True: pass
    if kind == "sleep": time.sleep(seconds)
    if kind == "c": (9 ** 9 ** 8) % 7
    if kind == "child":
        import subprocess
        subprocess.Popen(["sleep", "987"])
        time.sleep(seconds)
    if kind == "memory": bytearray(1 << 34)
    if kind == "die": os._exit(3)
    if kind == "segfault": os.kill(os.getpid(), 11)
    if kind == "raise": raise KeyError("planted")
    return kind

process.FUNCTIONS["planted"] = hang
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children get a function that misbehaves on demand."""
    (tmp_path / "plant.py").write_text(PLANT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("filters.workers.PRELUDE", "import plant; ")
    monkeypatch.setattr("filters.workers._function", lambda name: None)


def children() -> list[int]:
    """Processes that this process started and that still run."""
    done = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split() if "filters.worker_process" in _command(int(pid))]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def tasks(n: int) -> Iterator[GradeTask]:
    for i in range(n):
        yield GradeTask("math", "", str(i), f"<think>t</think>{i if i % 3 else -1}")


def test_verdicts_come_in_order_and_nothing_is_left_behind() -> None:
    with WorkerPool(2, 5.0) as pool:
        verdicts = list(pool.verify(tasks(300), batch=7))
        assert [v.is_correct for v in verdicts] == [bool(i % 3) for i in range(300)]
        assert 1 <= len(children()) <= 2
    assert children() == []
    with pytest.raises(RuntimeError, match="closed"):
        pool.call("verify", "math", "", "7", "7")
    pool.close()


def test_input_is_read_as_it_is_needed_and_the_consumer_may_stop() -> None:
    read = 0

    def endless() -> Iterator[GradeTask]:
        nonlocal read
        while True:
            read += 1
            yield GradeTask("math", "", "7", "7")

    with WorkerPool(1, 5.0) as pool:
        verdicts = pool.verify(endless(), batch=4)
        assert [next(verdicts).is_correct for _ in range(10)] == [True] * 10
        verdicts.close()
        assert read < 100
        assert pool.call("verify", "math", "", "7", "7").is_correct
    assert children() == []


@pytest.mark.parametrize(("kind", "failure"), [("python", "timeout"), ("sleep", "timeout"), ("c", "timeout"),
    ("memory", "memory"), ("die", "crash"), ("segfault", "crash"), ("raise", "exception")])  # fmt: skip
def test_only_the_offending_item_is_affected(planted: None, kind: str, failure: str) -> None:
    with WorkerPool(1, 1.5, memory_limit_mb=1024) as pool:
        calls = [((name,), {}) for name in ("a", "b", kind, "d", kind, "f")]
        results = list(pool.map("planted", calls, batch=6))
        assert [r for r in results if not isinstance(r, Failure)] == ["a", "b", "d", "f"]
        assert [results[2].kind, results[4].kind] == [failure, failure]
    assert children() == []


def test_a_child_is_killed_with_what_it_started(planted: None) -> None:
    with WorkerPool(1, 1.0) as pool, pytest.raises(WorkerError, match="timeout"):
        pool.call("planted", "child")
    time.sleep(0.2)
    assert subprocess.run(["pgrep", "-f", "^sleep 987"], capture_output=True).stdout == b""


def test_works_from_many_threads(planted: None) -> None:
    found: dict[int, list[object]] = {}
    with WorkerPool(2, 1.0) as pool:

        def use(place: int) -> None:
            calls = [((f"{place}-{i}",), {}) for i in range(20)] + [(("sleep",), {})]
            found[place] = list(pool.map("planted", calls, batch=5))

        threads = [threading.Thread(target=use, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for place in range(4):
        assert found[place][:-1] == [f"{place}-{i}" for i in range(20)]
        assert isinstance(found[place][-1], Failure)
    assert children() == []


def test_closing_ends_running_calls(planted: None) -> None:
    pool = WorkerPool(1, 60.0)
    assert pool.call("planted", "warm") == "warm"
    timer = threading.Timer(0.5, pool.close)
    timer.start()
    start = time.monotonic()
    with pytest.raises((WorkerError, RuntimeError)):
        pool.call("planted", "sleep")
    assert time.monotonic() - start < 30
    assert children() == []


def test_an_exception_in_the_parent_leaves_no_process() -> None:
    with pytest.raises(ZeroDivisionError), WorkerPool(2, 5.0) as pool:
        pool.call("verify", "math", "", "7", "7")
        raise ZeroDivisionError
    assert children() == []


@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), 9)", "raise SystemExit(3)"])
def test_children_end_with_their_parent(ending: str) -> None:
    """The script has no main guard, never closes its pool, and may be killed."""
    code = f"""
import os
from filters.workers import WorkerPool
pool = WorkerPool(1, 600.0)
pool.call("verify", "math", "", "7", "7")
print(*[child._process.pid for child in pool._alive], flush=True)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    [pid] = map(int, done.stdout.split())
    for _ in range(50):
        if "filters.worker_process" not in _command(pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"worker {pid} outlived its parent")


def test_whose_fault_a_timeout_is(planted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerPool(1, 1.0) as pool:
        slow = Failure("timeout", "no result within 1 s")
        fine = pool._verdict_of_failure(GradeTask("math", "", "7", "x"), slow)
        assert (fine.outcome, fine.fault, fine.reward) == (Outcome.TIMEOUT, Fault.PREDICTION, 0.0)
        bad = pool._verdict_of_failure(GradeTask("math", "", "seven", "x"), slow)
        assert (bad.outcome, bad.fault, bad.reward) == (Outcome.TIMEOUT, Fault.GOLD, None)
        big = pool._verdict_of_failure(GradeTask("math", "", "7", "x"), Failure("memory", "full"))
        assert (big.outcome, big.fault) == (Outcome.UNPARSABLE, Fault.PREDICTION)
        dead = pool._verdict_of_failure(GradeTask("math", "", "7", "x"), Failure("crash", "dead"))
        assert (dead.outcome, dead.fault, dead.reward) == (Outcome.ERROR, Fault.SYSTEM, None)


def test_wrong_use_is_refused_in_the_caller() -> None:
    with WorkerPool(1, 5.0) as pool:
        with pytest.raises(ValueError, match="did you mean 'math'"):
            list(pool.verify([GradeTask("maths", "", "7", "7")]))
        with pytest.raises(ValueError, match="no function 'verfy'"):
            list(pool.map("verfy", []))
        entry = {"answer": "a", "metadata": {"sorted_words": ["a"]}}
        with pytest.raises(ValueError, match="did you mean 'word_sorting'"):
            list(pool.verify([GradeTask("puzzle", "", None, "a", {"task": "word_sort", "entry": entry})]))
        [verdict] = pool.verify(
            [GradeTask("puzzle", "", None, "a", {"task": "word_sorting", "entry": entry})]
        )
        assert verdict.outcome in (Outcome.CORRECT, Outcome.UNPARSABLE)
    with pytest.raises(ValueError, match="n >= 1"):
        WorkerPool(0)
