"""Scheduling, resume and failures, with an engine that follows a script."""

import dataclasses
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from factory.engines import Completion, Failure, SampleRequest
from factory.generate import Plan, Progress, generate
from factory.records import equal_tables
from factory.store import Run
from filters import UserError


class ScriptedEngine:
    """Answers each request from its seed, out of order; may die or fail on the way."""

    name = "scripted"
    model_name = "script"
    model_hash = "h" * 32

    def __init__(
        self, *, die_after: int | None = None, fail: dict[str, int] | None = None, permanent: bool = False
    ):
        self.die_after, self.fail, self.permanent = die_after, dict(fail or {}), permanent
        self.asked: list[str] = []

    def sample(self, requests: Iterable[SampleRequest]) -> Iterator[Completion | Failure]:
        window: list[SampleRequest] = []
        order = random.Random(len(self.asked))
        for request in requests:
            window.append(request)
            if len(window) == 5:
                yield self._answer(window.pop(order.randrange(5)))
        while window:
            yield self._answer(window.pop(order.randrange(len(window))))

    def _answer(self, request: SampleRequest) -> Completion | Failure:
        self.asked.append(request.key)
        if self.die_after is not None and len(self.asked) > self.die_after:
            raise KeyboardInterrupt
        if self.fail.get(request.key, 0) > 0:
            self.fail[request.key] -= 1
            return Failure(request.key, "ServerGone", "the server went away", permanent=self.permanent)
        text = f"{request.messages[-1]['content']} {request.seed % 1000}"
        return Completion(request.key, text, (1, 2), (-0.5, -0.25), "stop", 3, 2, random.random())


def make_plan(prompts: int = 20, n: int = 4) -> Plan:
    rows = [
        {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": f"q{i}"}]} for i in range(prompts)
    ]
    return Plan(rows, "g" * 32, n, run_seed=3)


def draw(folder: Path, engine: ScriptedEngine, plan: Plan | None = None) -> tuple[Run, Progress]:
    run = Run.create(folder)
    return run, generate(run, plan or make_plan(), engine, template="r1-zero")


def test_every_candidate_once_with_its_own_seed(tmp_path: Path) -> None:
    run, progress = draw(tmp_path / "run", ScriptedEngine())
    table = run.read("candidates")
    assert table.num_rows == progress.done == progress.total == 80
    assert len(set(table.column("candidate_id").to_pylist())) == 80
    assert len(set(table.column("seed").to_pylist())) == 80
    row = table.to_pylist()[0]
    assert row["logprob_mean"] == pytest.approx(-0.375) and row["token_ids"] == [1, 2]


def test_killed_anywhere_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, _ = draw(tmp_path / "whole", ScriptedEngine())
    asked: list[str] = []
    for die_after in (0, 1, 17, 40, 79):
        engine = ScriptedEngine(die_after=die_after)
        with pytest.raises(KeyboardInterrupt):
            draw(tmp_path / "parts", engine)
        asked += engine.asked
    parts, progress = draw(tmp_path / "parts", ScriptedEngine())
    assert equal_tables("candidates", whole.read("candidates"), parts.read("candidates"))
    assert progress.done == 80


def test_another_seed_is_refused_where_samples_are_kept(tmp_path: Path) -> None:
    plan = make_plan()
    draw(tmp_path / "run", ScriptedEngine(), plan)
    with pytest.raises(UserError, match="another seed"):
        draw(tmp_path / "run", ScriptedEngine(), dataclasses.replace(plan, run_seed=4))


def test_more_samples_later_keep_the_first(tmp_path: Path) -> None:
    draw(tmp_path / "run", ScriptedEngine(), make_plan(n=2))
    engine = ScriptedEngine()
    run, progress = draw(tmp_path / "run", engine, make_plan(n=4))
    assert progress.resumed == 40 and len(engine.asked) == 40
    whole, _ = draw(tmp_path / "whole", ScriptedEngine(), make_plan(n=4))
    assert equal_tables("candidates", whole.read("candidates"), run.read("candidates"))


def test_a_failure_heals_and_leaves_a_trace_but_no_sample(tmp_path: Path) -> None:
    plan = make_plan()
    keys = [key for key, _, _ in plan.ids()]
    run, progress = draw(tmp_path / "run", ScriptedEngine(fail={keys[0]: 1, keys[5]: 2}), plan)
    assert run.read("candidates").num_rows == 80 and progress.failed == 0
    attempts = {(row["candidate_id"], row["attempt"]) for row in run.read("attempts").to_pylist()}
    assert attempts == {(keys[0], 1), (keys[5], 1), (keys[5], 2)}


def test_a_request_that_keeps_failing_is_counted_and_asked_again_next_time(tmp_path: Path) -> None:
    plan = make_plan()
    key = next(plan.ids())[0]
    run, progress = draw(tmp_path / "run", ScriptedEngine(fail={key: 99}), plan)
    assert progress.failed == 1 and run.read("candidates").num_rows == 79
    run, progress = draw(tmp_path / "run", ScriptedEngine(fail={key: 1}), plan)
    assert progress.failed == 0 and run.read("candidates").num_rows == 80
    assert sorted(row["attempt"] for row in run.read("attempts").to_pylist()) == [1, 2, 3, 4]


def test_a_permanent_failure_is_left_out_and_not_asked_again(tmp_path: Path) -> None:
    plan = make_plan()
    key = next(plan.ids())[0]
    engine = ScriptedEngine(fail={key: 99}, permanent=True)
    run, progress = draw(tmp_path / "run", engine, plan)
    assert progress.left_out == 1 and engine.asked.count(key) == 1
    assert run.read("candidates").num_rows == 79
