"""A pool of killable processes for grading and measuring.

Python cannot stop a call that hangs in C code, and a signal works in the main thread alone. So the work is done
in child processes that answer item by item over a socket: a child that is silent for longer than the limit is
killed with everything it started, its item is a timeout, and the rest of its batch goes to a fresh child. A
child that dies takes down no other item: the one it was at is tried once more, alone.

The pool can be used from any thread. Children do not import the parent's main module, ignore Ctrl-C, and end
when their parent does.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any

from filters.tags import TagStyle
from filters.verdict import Fault, Outcome, Verdict
from filters.verifiers import KINDS, OptionError, check_options, style_named

START_LIMIT_S = 60.0
"""How long a child may take to come up, or to load a package."""
LOADING, LOADED = "loading", "loaded"
PRELUDE = ""
"""Code that a child runs before it imports the graders, for tests that plant functions."""
_BOOT = "import json, sys; s = json.loads(sys.argv[1]); sys.path[:] = s['path']; "


@dataclass(frozen=True, slots=True)
class GradeTask:
    """Arguments of `filters.verify`."""

    kind: str
    question: str
    reference: str | None
    completion: str
    options: Mapping[str, Any] = field(default_factory=dict)
    style: str | TagStyle = "r1"
    truncated: bool = False
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that has no result.

    Attributes:
        kind: "timeout", "memory", "crash" (the child died twice on it) or "exception" (a defect of ours),
            "usage" (an option that only the child could check).
        detail: one line for a person.
    """

    kind: str
    detail: str


class WorkerError(RuntimeError):
    """A single call that has no result; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.detail}")
        self.failure = failure


class WorkerPool:
    """Killable processes.

    Args:
        n: number of processes; they start at the first call and stay warm.
        time_limit_s: wall time that one item may take.
        memory_limit_mb: address space of a child beyond what it has when it is ready; None for no limit.

    Use it as a context manager, or call `close`.
    """

    def __init__(self, n: int = 1, time_limit_s: float = 10.0, memory_limit_mb: int | None = 2048) -> None:
        if n < 1 or time_limit_s <= 0:
            raise ValueError(
                f"a pool needs n >= 1 and time_limit_s > 0, got n={n}, time_limit_s={time_limit_s}"
            )
        self.n = n
        self.time_limit_s = time_limit_s
        self._memory_limit_mb = memory_limit_mb
        self._idle: queue.SimpleQueue[_Child | None] = queue.SimpleQueue()
        self._alive: set[_Child] = set()
        self._end = weakref.finalize(self, _kill_all, self._alive)  # also at the interpreter's exit
        self._lock = threading.Lock()
        self._closed = threading.Event()
        for _ in range(n):
            self._idle.put(None)

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """One call of a function in `FUNCTIONS`.

        Raises:
            WorkerError: it hung, ran out of memory, or took its process down.
        """
        [result] = self._run(name, [(args, kwargs)])
        if isinstance(result, Failure):
            raise WorkerError(result)
        return result

    def map(
        self, name: str, calls: Iterable[tuple[tuple[Any, ...], Mapping[str, Any]]], batch: int = 32
    ) -> Iterator[Any]:
        """Results of many calls (args, kwargs), in order; a `Failure` where there is none.

        `calls` is read ahead by at most four batches a process, so it may be endless.
        """
        _function(name)
        source = iter(calls)
        waiting: deque[Future[list[Any]]] = deque()
        with ThreadPoolExecutor(self.n) as threads:
            try:
                while True:
                    while len(waiting) < 4 * self.n and (items := list(islice(source, batch))):
                        waiting.append(threads.submit(self._run, name, items))
                    if not waiting:
                        return
                    yield from waiting.popleft().result()
            finally:  # the consumer may stop early
                for future in waiting:
                    future.cancel()

    def verify(self, tasks: Iterable[GradeTask], batch: int = 32) -> Iterator[Verdict]:
        """Verdicts of many tasks, in order: `filters.verify` within limits.

        Out of time or memory: the gold answer is graded as if it were a prediction. If that goes well the
        prediction is at fault, otherwise the gold. A crash or an exception is the system's fault.

        Raises:
            OptionError: a kind, style or option of a task is unknown or does not fit.
        """
        pending: deque[GradeTask] = deque()

        def calls() -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
            for task in tasks:
                check_options(task.kind, task.options)
                style_named(task.style)
                pending.append(task)
                yield _arguments(task)

        for result in self.map("verify", calls(), batch):
            task = pending.popleft()
            yield self._verdict_of_failure(task, result) if isinstance(result, Failure) else result

    def close(self) -> None:
        """End every process. Calls that are running give failures. Closing twice is fine."""
        with self._lock:
            self._closed.set()
            self._end()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, name: str, items: Sequence[Any]) -> list[Any]:
        """One batch on one child, with fresh children after failures."""
        if self._closed.is_set():
            raise RuntimeError("the worker pool is closed")
        results: list[Any] = []
        tried_again = False
        child = self._idle.get()  # waits for a free place; None is a place without a process
        try:
            while len(results) < len(items):
                child = child or self._start()
                rest = items[len(results) : len(results) + 1] if tried_again else items[len(results) :]
                failure = child.work(name, rest, self.time_limit_s, results)
                if failure is None:
                    tried_again = False
                    continue
                self._drop(child)
                child = None
                if self._closed.is_set():
                    results += [failure] * (len(items) - len(results))
                elif failure.kind == "crash" and not tried_again:
                    tried_again = True
                else:
                    results.append(failure)
                    tried_again = False
        finally:
            self._idle.put(child)
        return results

    def _start(self) -> _Child:
        with self._lock:
            if self._closed.is_set():
                raise RuntimeError("the worker pool is closed")
            child = _Child(self._memory_limit_mb, self.time_limit_s)
            self._alive.add(child)
            return child

    def _drop(self, child: _Child) -> None:
        child.kill()
        child.socket.close()
        with self._lock:
            self._alive.discard(child)

    def _verdict_of_failure(self, task: GradeTask, failure: Failure) -> Verdict:
        if failure.kind == "usage":
            raise OptionError(failure.detail)
        fault = Fault.SYSTEM
        if failure.kind in ("timeout", "memory"):
            fault = self._whose_fault(task)
        outcome = Outcome.TIMEOUT if failure.kind == "timeout" else Outcome.ERROR
        if failure.kind == "memory" and fault is Fault.PREDICTION:
            outcome = Outcome.UNPARSABLE
        explanation = f"{failure.detail} (fault: {fault})"
        kind = KINDS[task.kind]
        elapsed_ms = self.time_limit_s * 1e3 if failure.kind == "timeout" else 0.0
        return Verdict(outcome, fault, None, None, explanation, kind.name, kind.version, elapsed_ms)

    def _whose_fault(self, task: GradeTask) -> Fault:
        """Grade the gold as a prediction: fine means that this prediction was the trouble."""
        gold = task.reference
        if gold is None:
            own = task.options.get("entry", {}).get("answer")
            gold = own if isinstance(own, str) else ""
        try:
            verdict = self.call("verify_answer", task.kind, task.question, task.reference, gold, task.options)
        except WorkerError:
            return Fault.GOLD
        return Fault.GOLD if verdict.ours else Fault.PREDICTION


class _Child:
    """One process and our end of its socket."""

    def __init__(self, memory_limit_mb: int | None, time_limit_s: float) -> None:
        ours, theirs = Pipe()
        settings = {"fd": theirs.fileno(), "path": sys.path, "mb": memory_limit_mb, "cpu_s": time_limit_s}
        code = f"{_BOOT}{PRELUDE}from filters.worker_process import serve; serve(s)"
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::SyntaxWarning", "-c", code, json.dumps(settings)],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the parent's; and one kill ends all that a child started
            env={**os.environ, **one_thread},
        )
        theirs.close()
        self.socket: Connection[Any, Any] = ours
        self._ready = False

    def work(self, name: str, items: Sequence[Any], limit_s: float, results: list[Any]) -> Failure | None:
        """Append a result for each item; stop and return a failure at the first item without one."""
        try:
            if not self._ready:
                if not self.socket.poll(START_LIMIT_S):
                    return Failure("crash", f"a worker did not start within {START_LIMIT_S:g} s")
                self.socket.recv()
                self._ready = True
            self.socket.send((name, list(items)))
            for _ in items:
                ok, result = self._next(limit_s)
                if not ok and result.kind == "memory":  # what is left of that heap is not to be trusted
                    return Failure(result.kind, result.detail)
                results.append(result)
        except TimeoutError:
            return Failure("timeout", f"no result within {limit_s:g} s")
        except (EOFError, OSError):
            return Failure("crash", f"the worker died ({self._how_it_ended()})")
        return None

    def _next(self, limit_s: float) -> tuple[bool, Any]:
        """The next answer. Loading a package that an item needs is not charged to the item.

        Raises:
            TimeoutError: nothing came in time.
        """
        limit = limit_s
        while self.socket.poll(limit):
            answer: tuple[bool, Any] = self.socket.recv()
            if answer[1] not in (LOADING, LOADED):
                return answer
            limit = START_LIMIT_S if answer[1] == LOADING else limit_s
        raise TimeoutError

    def kill(self) -> None:
        """End the process and everything in its session, and wait for it."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "its socket closed"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _arguments(task: GradeTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positional = (task.kind, task.question, task.reference, task.completion, dict(task.options))
    return positional, {"style": task.style, "truncated": task.truncated, "opened": task.opened}


def _kill_all(children: set[_Child]) -> None:
    for child in children:
        child.kill()


def _function(name: str) -> None:
    from filters.worker_process import FUNCTIONS

    if name not in FUNCTIONS:
        raise ValueError(f"workers have no function {name!r}; there is {', '.join(sorted(FUNCTIONS))}")
