"""Suites: what the catalogue says, and figures that come out exactly for an engine that knows a known share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from factory.console import Reporter
from factory.engines import Completion, Engine, Failure, SampleRequest
from factory.evaluate import SuiteResult, evaluate_suites
from factory.measures import Sample, summarise_measures
from factory.protocol import Protocol
from factory.report import write_report
from factory.store import Run
from factory.suites import (
    Overrides,
    Suite,
    adapted,
    catalogue_suites,
    find_suite,
    split_names,
    suite_prompts,
    with_local_copies,
)
from filters import sandbox
from filters.errors import UserError
from filters.stats import wilson
from filters.verdict import Fault, Outcome, Verdict
from filters.workers import GradeTask, WorkerPool
from tests.factory.benchmark_rows import HUB, write_rows
from tests.factory.test_sources_files import write_jsonl
from tests.shared_data import DATA

Answer = Callable[[dict[str, Any], int], str]
"""(prompt, sample index) -> what the model writes."""


@dataclass
class Scripted:
    """An engine that answers by a script.

    Attributes:
        dies_after: raise, as a killed process would stop, when so many samples are drawn.
    """

    prompts: dict[str, dict[str, Any]]
    answer: Answer
    finish_reason: str = "stop"
    dies_after: int | None = None
    drawn: list[str] = field(default_factory=list)
    name: str = "scripted"
    model_name: str = "scripted"
    model_hash: str = "0" * 32

    def sample(self, requests: Iterable[SampleRequest]) -> Iterator[Completion | Failure]:
        for request in requests:
            if self.dies_after is not None and len(self.drawn) >= self.dies_after:
                raise KeyboardInterrupt
            self.drawn.append(request.key)
            prompt_id, _, index = request.key.partition(":")
            prompt = self.prompts[prompt_id]
            assert list(request.messages) == prompt["messages"]
            text = self.answer(prompt, int(index))
            if text == "TOO LONG":
                yield Failure(
                    request.key, "PromptTooLong", "the prompt has 9 tokens, the shape holds 8", True
                )
            else:
                yield Completion(request.key, text, None, None, self.finish_reason, 5, 7, 0.1)


def local(name: str, tmp_path: Path, **overrides: Any) -> Suite:
    """A suite of the catalogue over local copies of its sources."""
    suite = adapted(find_suite(name), Overrides(**overrides))
    pairs = [f"{source.label}={write_rows(tmp_path, source.label)}" for source in suite.sources]
    return with_local_copies([suite], pairs)[0]


def evaluate(run: Run, suite: Suite, answer: Answer, **engine: Any) -> tuple[SuiteResult, Scripted]:
    prompts = {prompt["prompt_id"]: prompt for prompt in suite_prompts(suite, Reporter(quiet=True))}
    scripted = Scripted(prompts, answer, **engine)

    def engine_for(protocol: Protocol, prompt_length: int) -> Engine:
        return scripted

    (result,) = evaluate_suites(
        run, [suite], engine_for, template="gemma:r1", label="m", seed=0, reporter=Reporter(quiet=True)
    )
    return result, scripted


def figures(result: SuiteResult, part: str = "all") -> dict[str, float]:
    assert not result.error, result.error
    return {row["metric"]: row["value"] for row in result.metrics if row["slice"] == part}


def gold(prompt: dict[str, Any]) -> str:
    """An answer that is right."""
    if prompt["verifier"] == "choice":
        return f"The answer is {prompt['reference']}."
    if prompt["verifier"] == "code":
        return f"```python\n{PROGRAMS[json.loads(prompt['meta'])['columns']['task_id']]}\n```"
    if prompt["verifier"] == "instruction":
        return "Rain falls softly tonight."
    if prompt["verifier"] in ("span", "short_answer"):
        return f"Answer: {prompt['reference']}"
    return f"It is \\boxed{{{prompt['reference']}}}."


PROGRAMS = {row["task_id"]: row["prompt"] + row["canonical_solution"] for row in HUB["humaneval"]} | {
    row["task_id"]: row["code"] for row in HUB["mbpp"]
}


def wrong(prompt: dict[str, Any]) -> str:
    if prompt["verifier"] == "choice":
        return f"The answer is {'B' if prompt['reference'] == 'A' else 'A'}."
    if prompt["verifier"] == "code":
        return "```python\ndef add(a, b): return 7\ndouble = add\n```"
    if prompt["verifier"] == "instruction":
        return "Rain, rain."
    if prompt["verifier"] in ("span", "short_answer"):
        return "Answer: something else entirely"
    return "It is \\boxed{-12345}."


def needs_sandbox(name: str) -> None:
    if name in ("humaneval", "mbpp"):
        try:
            sandbox.local()
        except sandbox.Unavailable as error:
            pytest.skip(f"programs cannot be run here: {error}")


# ------------------------------------------------------------------------------------------- the catalogue


@pytest.mark.parametrize("name", catalogue_suites())
def test_every_suite_of_the_catalogue_asks_what_is_never_trained_on(name: str) -> None:
    suite = find_suite(name)
    assert suite.name == name and suite.description
    assert all(source.for_evaluation for source in suite.sources)
    assert (suite.sampling.temperature, suite.sampling.top_p, suite.sampling.max_new_tokens) == (
        0.6,
        0.95,
        32_768,
    )
    assert all(getattr(source, "revision", None) for source in suite.sources) or name == "drop"


def test_the_samples_a_question_are_those_of_r1() -> None:
    n = {name: find_suite(name).n for name in ("aime", "gpqa_diamond", "math500")}
    assert n == {"aime": 64, "gpqa_diamond": 64, "math500": 16}


@pytest.mark.parametrize("name", catalogue_suites())
def test_a_model_that_knows_three_of_four_samples_gets_exactly_that(name: str, tmp_path: Path) -> None:
    needs_sandbox(name)
    suite = local(name, tmp_path, n=4, k=(1,))
    result, engine = evaluate(Run.create(tmp_path / "run"), suite, lambda p, i: gold(p) if i else wrong(p))
    questions = sum(len(HUB[source.label]) for source in suite.sources)
    assert figures(result)["pass@1"] == pytest.approx(0.75)
    assert len(engine.drawn) == 4 * questions
    first = result.metrics[0]
    assert (first["metric"], first["n"], first["prompts"], first["left_out"]) == (
        "pass@1",
        4 * questions,
        questions,
        0,
    )
    for said in (
        f"{questions} questions",
        "4 samples each",
        "temperature 0.6",
        "top-p 0.95",
        "32768 tokens",
        "judge",
    ):
        assert said in result.protocol


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gsm8k", "gsm8k/test.jsonl"),
        ("math500", "math_benchmarks/math500.jsonl"),
        ("mmlu", "mmlu/test.jsonl"),
    ],
)
def test_the_golds_of_real_rows_are_right(name: str, path: str, tmp_path: Path) -> None:
    data = DATA / path
    if not data.is_file():
        pytest.skip(f"no {data}: set R1_SHARED_DATA")
    part = tmp_path / data.name
    with data.open(encoding="utf-8") as lines:
        part.write_text("".join(islice(lines, 400)), encoding="utf-8")
    suite = with_local_copies([adapted(find_suite(name), Overrides(n=1))], [f"{name}={part}"])[0]
    result, engine = evaluate(Run.create(tmp_path / "run"), suite, lambda p, i: gold(p))
    assert len(engine.drawn) > 300 and figures(result)["pass@1"] == 1.0


def test_the_protocol_says_what_every_question_asks_for(tmp_path: Path) -> None:
    rows = [
        {"question": "2 + 2?", "reference": 4},
        {"question": "Which?", "reference": "A", "choices": ["x", "y"]},
    ]
    suite = adapted(find_suite(str(write_jsonl(tmp_path / "q.jsonl", rows))), Overrides(n=1))
    result, _ = evaluate(Run.create(tmp_path / "run"), suite, lambda p, i: gold(p))
    for said in (
        "the letter of the correct choice",
        "\\boxed{}",
        "graded by choice",
        "math",
        "2 questions of q, all",
    ):
        assert said in result.protocol


def test_figures_over_questions_and_over_samples(tmp_path: Path) -> None:
    suite = local("aime", tmp_path, n=8, k=(1, 8))
    # 2024: all three known in 5 of 8 samples; 2025: one of three known in 2 of 8, where wrong answers win the vote.
    known = {"030": 5, "031": 5, "032": 5, "401": 2}
    run = Run.create(tmp_path / "run")
    result, _ = evaluate(run, suite, lambda p, i: gold(p) if i < known.get(p["reference"], 0) else wrong(p))
    assert figures(result) == pytest.approx({"pass@1": 17 / 48, "pass@8": 4 / 6, "maj@8": 3 / 6})
    assert figures(result, "domain=AIME 2024") == pytest.approx({"pass@1": 5 / 8, "pass@8": 1, "maj@8": 1})
    assert figures(result, "domain=AIME 2025") == pytest.approx(
        {"pass@1": 2 / 24, "pass@8": 1 / 3, "maj@8": 0}
    )
    stored = {(r["slice"], r["metric"]): r["value"] for r in run.read("evals").to_pylist()}
    assert stored[("all", "maj@8")] == 0.5 and len(stored) == 9
    assert all(row["low"] <= row["value"] <= row["high"] for row in result.metrics)
    assert result.metrics[0]["low"] < 0.25 < 0.5 < result.metrics[0]["high"]
    assert run.read("eval_candidates").num_rows == 48
    assert "pass@8" in write_report(run).read_text(encoding="utf-8")


def test_mmlu_is_averaged_over_questions_and_over_subjects(tmp_path: Path) -> None:
    suite = local("mmlu", tmp_path)
    result, _ = evaluate(
        Run.create(tmp_path / "run"), suite, lambda p, i: wrong(p) if p["domain"] == "physics" else gold(p)
    )
    assert figures(result) == pytest.approx({"pass@1": 3 / 4, "macro pass@1": 2 / 3})
    assert figures(result, "domain=abstract_algebra") == {"pass@1": 1.0}
    assert figures(result, "domain=physics") == {"pass@1": 0.0}


def test_a_macro_average_has_an_interval_around_it(tmp_path: Path) -> None:
    rows = [
        {**HUB["mmlu"][0], "question": f"{i} of {subject}?", "subject": subject}
        for subject in ("law", "art")
        for i in range(40)
    ]
    path = write_jsonl(tmp_path / "mmlu.jsonl", rows)
    suite = with_local_copies([find_suite("mmlu")], [f"mmlu={path}"])[0]
    answer: Answer = lambda p, i: (
        gold(p) if int(p["question"].split()[0]) < (30 if p["domain"] == "law" else 10) else wrong(p)
    )
    result, _ = evaluate(Run.create(tmp_path / "run"), suite, answer)
    (macro,) = [row for row in result.metrics if row["metric"] == "macro pass@1"]
    assert macro["value"] == pytest.approx(0.5)
    # Two subjects with 3/4 and 1/4 of 40: the standard error of the mean of means is 0.048.
    assert macro["low"] == pytest.approx(0.5 - 1.96 * 0.048, abs=0.02)
    assert macro["high"] == pytest.approx(0.5 + 1.96 * 0.048, abs=0.02)


def test_programs_have_pass_at_k_and_no_vote(tmp_path: Path) -> None:
    needs_sandbox("humaneval")
    suite = local("humaneval", tmp_path, n=4, k=(1, 2))
    result, _ = evaluate(Run.create(tmp_path / "run"), suite, lambda p, i: gold(p) if i == 0 else wrong(p))
    assert figures(result) == pytest.approx({"pass@1": 1 / 4, "pass@2": 1 / 2})


def test_simpleqa_grades_three_ways(tmp_path: Path) -> None:
    def answer(prompt: dict[str, Any], index: int) -> str:
        number = int(prompt["reference"].removeprefix("Town"))
        return gold(prompt) if number < 5 else wrong(prompt) if number < 7 else "I don't know."

    result, _ = evaluate(Run.create(tmp_path / "run"), local("simpleqa", tmp_path), answer)
    expected = {
        "correct": 5 / 10,
        "incorrect": 2 / 10,
        "not_attempted": 3 / 10,
        "correct_given_attempted": 5 / 7,
    }
    assert figures(result) == pytest.approx({"pass@1": 0.5, **expected})
    assert "lower bound" in result.protocol
    cut, _ = evaluate(
        Run.create(tmp_path / "cut"), local("simpleqa", tmp_path), answer, finish_reason="length"
    )
    assert figures(cut) == {
        "pass@1": 0.0, "correct": 0.0, "incorrect": 0.0, "not_attempted": 1.0, "correct_given_attempted": None,
    }  # fmt: skip
    (given,) = [
        row for row in result.metrics if row["slice"] == "all" and row["metric"] == "correct_given_attempted"
    ]
    assert 0 < given["low"] < 5 / 7 < given["high"] <= 1


def test_a_ratio_is_as_sure_as_the_questions_that_take_part_in_it() -> None:
    """Ten questions, two of them attempted and right: a share of two, not of ten."""
    said = [Outcome.CORRECT] * 2 + [Outcome.NOT_ATTEMPTED] * 8
    graded = {
        f"p{i}": [Sample(Verdict(outcome, None, None, None, "", "short_answer", "1"), {})]
        for i, outcome in enumerate(said)
    }
    [given] = summarise_measures(["correct_given_attempted"], graded, seed=0)
    assert given.value == 1.0 and (given.low, given.high) == pytest.approx(wilson(2, 2))


def test_drop_reports_f1_beside_exact_match(tmp_path: Path) -> None:
    # Half of the tokens of "Ann Roe; Bo Lee", the second annotator's "three", and a date that is wrong.
    said = {"3": "Answer: three", "Ann Roe; Bo Lee": "Answer: Ann Roe", "7 May 1999": "Answer: 8 June 2001"}
    result, _ = evaluate(
        Run.create(tmp_path / "run"), local("drop", tmp_path), lambda p, i: said[p["reference"]]
    )
    assert figures(result) == pytest.approx({"pass@1": 1 / 3, "f1": (1 + 0.5 + 0) / 3, "exact_match": 1 / 3})


def test_ifeval_counts_prompts_and_instructions_strict_and_loose(tmp_path: Path) -> None:
    # Of two instructions: both followed, both followed but for a first line with a comma, the comma alone, none.
    answers = ["Rain falls softly.", "Sure, here:\nRain falls softly.", "Wet wet", "Rain, rain"]
    suite = local("ifeval", tmp_path, n=4)
    result, _ = evaluate(Run.create(tmp_path / "run"), suite, lambda p, i: answers[i])
    assert figures(result) == pytest.approx(
        {
            "pass@1": 1 / 4,
            "prompt_strict": 1 / 4,
            "prompt_loose": 2 / 4,
            "instruction_strict": (2 + 1 + 1 + 0) / 8,
            "instruction_loose": (2 + 2 + 1 + 0) / 8,
        }
    )
    cut, _ = evaluate(Run.create(tmp_path / "cut"), suite, lambda p, i: answers[0], finish_reason="length")
    assert set(figures(cut).values()) == {0.0}


def test_truncated_samples_score_nothing(tmp_path: Path) -> None:
    suite = local("gsm8k", tmp_path, n=1)
    result, _ = evaluate(Run.create(tmp_path / "run"), suite, lambda p, i: gold(p), finish_reason="length")
    assert figures(result) == {"pass@1": 0.0}


# ---------------------------------------------------------------------------- resuming, failing, going on


def test_a_killed_evaluation_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.evaluate.BATCH", 4)
    suite = local("gsm8k", tmp_path, n=3)
    run = Run.create(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, suite, lambda p, i: gold(p), dies_after=18)
    kept = run.read("eval_candidates").num_rows
    assert 12 <= kept <= 18
    result, engine = evaluate(run, suite, lambda p, i: gold(p))
    assert len(engine.drawn) == 30 - kept and figures(result) == {"pass@1": 1.0}
    again, idle = evaluate(run, suite, lambda p, i: wrong(p))
    assert idle.drawn == [] and figures(again) == {"pass@1": 1.0}


def test_one_suite_that_fails_costs_the_others_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    good, broken = local("gsm8k", tmp_path), local("math500", tmp_path)
    (tmp_path / "math500.jsonl").write_text('{"problem": "unmapped"')
    prompts = {p["prompt_id"]: p for p in suite_prompts(good, Reporter(quiet=True))}
    engine = Scripted(prompts, lambda p, i: gold(p))
    results = evaluate_suites(
        run, [broken, good], lambda protocol, length: engine,
        template="gemma:r1", label="m", seed=0, reporter=Reporter(quiet=True),
    )  # fmt: skip
    assert "none of its 1 rows can be used" in results[0].error and results[0].metrics == ()
    assert figures(results[1]) == {"pass@1": 1.0}


def test_samples_that_cannot_be_drawn_are_no_wrong_answers(tmp_path: Path) -> None:
    suite = local("gsm8k", tmp_path, n=1)
    run = Run.create(tmp_path / "run")
    result, _ = evaluate(run, suite, lambda p, i: "TOO LONG" if p["reference"] == "1,002" else gold(p))
    assert "1 of 10 samples could not be drawn; the first: the prompt has 9 tokens" in result.error
    assert run.read("evals").num_rows == 0
    result, engine = evaluate(run, suite, lambda p, i: gold(p))
    assert len(engine.drawn) == 1 and figures(result) == {"pass@1": 1.0}


@pytest.mark.parametrize(("questions", "fails"), [(200, False), (20, True)])
def test_samples_without_a_grade_are_left_out_up_to_one_per_cent(
    questions: int, fails: bool, tmp_path: Path
) -> None:
    rows = [{"question": f"What is {i} + {i}?", "reference": str(2 * i)} for i in range(questions - 1)]
    path = write_jsonl(
        tmp_path / "q.jsonl", [*rows, {"question": "Open?", "reference": "x", "verifier": "judge"}]
    )
    suite = adapted(find_suite(str(path)), Overrides(n=1))
    result, _ = evaluate(Run.create(tmp_path / "run"), suite, lambda p, i: gold(p))
    if fails:
        assert "1 of 20 samples could not be graded, more than 1 %" in result.error
        assert "The first: unverifiable: " in result.error
    else:
        assert figures(result) == {"pass@1": 1.0} and result.metrics[0]["left_out"] == 1


def test_a_failure_of_ours_is_no_verdict_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"What is {i} + {i}?", "reference": str(2 * i)} for i in range(200)]
    suite = adapted(find_suite(str(write_jsonl(tmp_path / "q.jsonl", rows))), Overrides(n=1))
    run = Run.create(tmp_path / "run")
    verify = WorkerPool.verify

    def failing(pool: WorkerPool, tasks: Iterable[GradeTask]) -> Iterator[Verdict]:
        for verdict in verify(pool, tasks):
            broken = verdict.extracted_answer == "398"
            yield (
                Verdict(Outcome.ERROR, Fault.SYSTEM, None, None, "out of luck", "math", "1")
                if broken
                else verdict
            )

    monkeypatch.setattr(WorkerPool, "verify", failing)
    result, _ = evaluate(run, suite, lambda p, i: gold(p))
    assert (result.metrics[0]["n"], result.metrics[0]["left_out"]) == (199, 1)
    monkeypatch.setattr(WorkerPool, "verify", verify)
    result, engine = evaluate(run, suite, lambda p, i: gold(p))
    assert len(engine.drawn) == 1 and (result.metrics[0]["n"], result.metrics[0]["left_out"]) == (200, 0)


def test_without_a_sandbox_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(interpreter: str | None = None) -> None:
        raise sandbox.Unavailable("bubblewrap is not installed")

    monkeypatch.setattr(sandbox, "local", none)
    result, engine = evaluate(Run.create(tmp_path / "run"), local("mbpp", tmp_path), lambda p, i: gold(p))
    assert "cannot be run here: bubblewrap is not installed" in result.error and engine.drawn == []


# -------------------------------------------------------------------------------------------- sealed suites


def everything_stored(folder: Path) -> str:
    """All that lies in a run's folder, as text: Parquet opened, the rest as it is."""
    import pyarrow.parquet as pq

    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix == ".parquet":
            found.append(json.dumps(pq.read_table(path).to_pylist(), default=str))
        else:
            found.append(path.read_bytes().decode("utf-8", "replace"))
    return "\n".join(found)


def test_no_text_of_a_sealed_suite_is_ever_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.evaluate.BATCH", 8)
    suite = local("gpqa_diamond", tmp_path, n=4, k=(1, 4))
    folder = tmp_path / "run"
    run = Run.create(folder)

    def quoting(prompt: dict[str, Any], index: int) -> str:
        choices = json.loads(prompt["verifier_args"])["choices"]
        right = choices["ABCD".index(prompt["reference"])]
        if index == 3:
            return f"I cannot say, but I was asked: {prompt['question']}"
        return f"<think>{prompt['question']}</think>The answer is {right if index else 'E: ' + choices[0]}"

    with pytest.raises(KeyboardInterrupt):
        evaluate(run, suite, quoting, dies_after=30)
    journal = everything_stored(folder)
    result, _ = evaluate(run, suite, quoting)
    write_report(run)
    stored = everything_stored(folder)
    for raw in HUB["gpqa_diamond"]:
        for secret in (
            raw["Question"],
            raw["Correct Answer"].strip(),
            raw["Incorrect Answer 2"],
            "Secret reasons",
        ):
            assert secret not in journal and secret not in stored
    assert '"outcome": "correct"' in stored
    assert figures(result)["maj@4"] == 1.0  # votes are counted by the hashes of answers
    assert {row["reference"] for row in run.read("eval_candidates").to_pylist()} <= set("ABCD")


# ---------------------------------------------------------------------------------------- the command line


def test_names_are_separated_by_commas_unless_a_file_is_called_so(tmp_path: Path) -> None:
    assert split_names("gsm8k, math500,,gsm8k") == ["gsm8k", "math500"]
    odd = tmp_path / "a,b.jsonl"
    odd.write_text("")
    assert split_names(str(odd)) == [str(odd)]
    with pytest.raises(UserError, match="names no suite"):
        split_names(",")


def test_a_suite_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'gsm8k'"):
        find_suite("gsm8")
    assert find_suite("tiny").sources[0].kind == "reasoning_gym"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sources: [{source: gsm8k, split: test}]\nmeasure: []",
            "unknown key 'measure'; did you mean 'measures'",
        ),
        ("sources: [{source: gsm8k, split: test}]\nmeasures: [corect]", "did you mean 'correct'"),
        ("sources: [{source: gsm8k, split: test}]\nn: 2\nk: [4]", "k goes up to 4"),
        ("sources: []", "sources: Tuple should have at least 1 item"),
        ("sources: [", "not valid YAML"),
    ],
)
def test_a_faulty_suite_of_ones_own_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\n{text}\n")
    with pytest.raises(UserError, match=message):
        find_suite(str(path))


def test_a_suite_of_ones_own_may_ask_files(tmp_path: Path) -> None:
    rows = write_jsonl(
        tmp_path / "q.jsonl", [{"question": f"{i} + 1?", "reference": i + 1} for i in range(5)]
    )
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"name: mine\nsources: [{{kind: files, path: {rows}, evaluation_only: true}}]\nmeasures: [not_attempted]\n"
    )
    result, _ = evaluate(Run.create(tmp_path / "run"), find_suite(str(path)), lambda p, i: gold(p))
    assert figures(result) == {"pass@1": 1.0, "not_attempted": 0.0}


def test_the_command_line_overrides_a_suite() -> None:
    suite = adapted(find_suite("aime"), Overrides(n=8, temperature=0.0, max_new_tokens=99, max_prompts=5))
    assert (suite.n, suite.k, suite.max_prompts) == (8, (1, 8), 5)
    assert (suite.sampling.temperature, suite.sampling.top_p, suite.sampling.max_new_tokens) == (
        0.0,
        0.95,
        99,
    )
    assert adapted(find_suite("tiny"), Overrides(split="validation")).split == "validation"
    for overrides, message in (
        (Overrides(n=2, k=(4,)), "k goes up to 4, but there are only n = 2"),
        (Overrides(split="test"), "asks its own split"),
    ):
        with pytest.raises(UserError, match=message):
            adapted(find_suite("gsm8k"), overrides)


def test_local_copies_are_for_what_is_asked(tmp_path: Path) -> None:
    path = write_rows(tmp_path, "gsm8k")
    for pair, message in (
        ("gsm8k", "wants NAME=PATH"),
        (f"gsm8k={tmp_path}/none.jsonl", "there is no file or folder"),
        (f"math500={path}", "which no suite asks; their sources are gsm8k, aime_2024, aime_2025"),
        (f"aime={path}", "which no suite asks"),
    ):
        with pytest.raises(UserError, match=message):
            with_local_copies([find_suite("gsm8k"), find_suite("aime")], [pair])


@pytest.mark.train
def test_the_shipped_teacher_goes_through_the_whole_command(tmp_path: Path) -> None:
    """Two suites by one engine; the answers to the second go to a judge whose shape holds no request, so it fails."""
    from tests.factory.test_cli import factory

    sums = [{"question": f"What is {i} + 3?", "reference": str(i + 3), "verifier": "judge"} for i in range(4)]
    source = {"kind": "files", "path": str(write_jsonl(tmp_path / "q.jsonl", sums)), "evaluation_only": True}
    mine = {"name": "sums", "sources": [source], "judge": {"model": "tiny-student", "prompt_length": 8}}
    (tmp_path / "sums.yaml").write_text(json.dumps(mine))
    command = [
        "eval",
        "tiny-teacher",
        "--suite",
        f"gsm8k,{tmp_path}/sums.yaml",
        "--judge",
        "tiny-teacher",
        "--json",
    ]
    command += ["--local", f"gsm8k={write_rows(tmp_path, 'gsm8k')}"]
    sizes = {
        "prompts": 4,
        "n": 1,
        "max-new-tokens": 160,
        "prompt-length": 128,
        "batch-size": 4,
        "temperature": 0,
    }
    command += [f"--{name}={value}" for name, value in sizes.items()]
    quick = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compiling is most of the work
    done = factory(*command, "--run", str(tmp_path / "run"), env=quick)
    assert done.returncode == 2 and "1 of 2 suites failed: sums" in done.stderr, done.stderr
    gsm8k, failed = json.loads(done.stdout)["suites"]
    assert gsm8k["metrics"][0]["prompts"] == 4 and "template gemma:r1; temperature 0" in gsm8k["protocol"]
    assert "could not be graded" in failed["error"] and "the compiled shape holds 8" in failed["error"]
    (first, *_) = Run.open(tmp_path / "run").read("judgement_attempts").to_pylist()
    assert first["error_class"] == "PromptTooLong"
