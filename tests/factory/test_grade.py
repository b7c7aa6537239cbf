"""`factory grade`: traces in, verdicts, confusion, disagreements and a mix out."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from factory import second_opinions
from factory.confusion import Confusion, Rate
from factory.console import Reporter
from factory.grade import GradeOptions, grade_file
from factory.grade_command import grade
from factory.grade_report import print_grading
from factory.graded import truth
from factory.query import connect, rows
from factory.recipe import Judge
from factory.sources.traces import TraceSpec
from factory.store import Run
from filters import Fault, Outcome, UserError, Verdict
from filters.second_opinion import GRADER, grader_version, second_opinion
from filters.workers import Failure
from tests.factory.judging import one_pool
from tests.shared_data import DATA

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    with one_pool():
        yield


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(count: int) -> list[dict[str, Any]]:
    """Every third answer is wrong; the label says so. Every fifth label is turned around."""
    return [
        {
            "id": i,
            "question": f"What is {i} + 3?",
            "gold": str(i + 3),
            "output": f"<think>{i} and 3</think>\nIt is {i + 3 + (i % 3 == 0)}.",
            "right": (i % 3 != 0) != (i % 5 == 0),
        }
        for i in range(count)
    ]


def graded(tmp_path: Path, file: Path, **more: Any) -> dict[str, Any]:
    spec = more.pop("traces", {})
    options = GradeOptions(TraceSpec(file, **spec), tmp_path / "run", Judge(workers=1), **more)
    return grade_file(options, QUIET)


def test_everything_that_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = jsonl(tmp_path / "t.jsonl", sums(30))
    result = graded(tmp_path, path, label="right", mix="good")
    assert {row["outcome"]: row["completions"] for row in result["outcomes"]} == {
        "correct": 20,
        "incorrect": 10,
    }
    [pair] = result["compare"]["pairs"]
    assert (pair["both_yes"], pair["false_accepts"], pair["false_rejects"], pair["both_no"]) == (16, 4, 2, 8)
    assert pair["false_accept_rate"]["value"] == pytest.approx(4 / 12)

    table = pq.read_table(result["verdicts"]).to_pylist()
    assert [row["id"] for row in table] == list(range(30))
    assert [row["verdict_score"] == 1.0 for row in table] == [i % 3 != 0 for i in range(30)]
    assert table[1]["output"] == sums(2)[1]["output"] and "trace_completion" not in table[1]

    queue = [json.loads(line) for line in Path(result["disagreements_file"]).read_text().splitlines()]
    assert [entry["line"] for entry in queue] == [1 + i for i in (0, 5, 10, 15, 20, 25)]
    first = queue[0]
    assert first["verdicts"]["ours"]["right"] is False and first["verdicts"]["right"] == {"right": True}
    assert "4" in first["verdicts"]["ours"]["explanation"] and first["truth"] is None
    assert (first["question"], first["gold"]) == ("What is 0 + 3?", "3")
    assert first["completion_tail"].endswith("It is 4.")

    with connect(Run.open(tmp_path / "run")) as connection:
        kept = rows(connection, "select origin.kind as kind, reasoning from mix where mix = 'good'")
        asked = rows(connection, "select engine, stage, seed, model from candidates limit 1")
    assert len(kept) == 20 and {row["kind"] for row in kept} == {"imported"} and kept[0]["reasoning"]
    assert asked == [{"engine": "imported", "stage": "import", "seed": None, "model": "imported"}]
    assert result["mix"]["reasoning"] == 20

    print_grading(result)
    printed = capsys.readouterr().out
    assert "4 of 12: 33.33% [13.81%, 60.94%]" in printed and "right: yes" in printed


def test_completions_that_no_column_holds_are_added(tmp_path: Path) -> None:
    line = {"problem": "2 + 3?", "answer": "5", "generations": ["5", "6"], "uuid": "u"}
    result = graded(tmp_path, jsonl(tmp_path / "t.jsonl", [line]))
    table = pq.read_table(result["verdicts"])
    assert table.column_names[:6] == [
        "trace_file",
        "trace_line",
        "trace_sample",
        "candidate_id",
        "prompt_id",
        "problem",
    ]
    assert table.select(["uuid", "trace_sample", "trace_completion", "verdict_score"]).to_pylist() == [
        {"uuid": "u", "trace_sample": 0, "trace_completion": "5", "verdict_score": 1.0},
        {"uuid": "u", "trace_sample": 1, "trace_completion": "6", "verdict_score": 0.0},
    ]
    assert "generations" not in table.column_names


def test_a_second_run_does_nothing_twice_and_a_longer_limit_adds(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", sums(30))
    few = graded(tmp_path, path, traces={"limit": 12})
    assert few["traces"] == 12 and sum(row["completions"] for row in few["outcomes"]) == 12
    graded(tmp_path, path)
    run = Run.open(tmp_path / "run")
    before = {name: run.read(name) for name in ("prompts", "candidates", "verdicts", "signals")}
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "tables").rglob("*.parquet")}
    again = graded(tmp_path, path, label="right")
    assert again["traces"] == 30
    assert shards == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "tables").rglob("*.parquet")
    }
    assert before == {name: run.read(name) for name in before} and before["verdicts"].num_rows == 30
    lost = run.shards("candidates")[0]
    lost.unlink()
    assert graded(tmp_path, path)["traces"] == 30 and run.read("candidates").num_rows == 30
    few = graded(tmp_path, path, traces={"limit": 6})
    assert sum(row["completions"] for row in few["outcomes"]) == 6  # of the rows that were asked for


def test_other_settings_or_another_file_are_refused_or_begun_anew(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", sums(6))
    graded(tmp_path, path)
    with pytest.raises(UserError, match="style changed.*--afresh"):
        graded(tmp_path, path, traces={"style": "r1-zero"})
    jsonl(path, sums(7))
    with pytest.raises(UserError, match="files changed.*--afresh"):
        graded(tmp_path, path)
    assert graded(tmp_path, path, afresh=True)["traces"] == 7
    assert Run.open(tmp_path / "run").read("candidates").num_rows == 7
    other = Run.create(tmp_path / "other" / "run")
    other.replace("prompts", "main", [{"prompt_id": "p"}])
    with pytest.raises(UserError, match="prompts of a recipe"):
        graded(tmp_path / "other", path)


def test_failures_of_ours_are_left_out_of_the_rates(tmp_path: Path) -> None:
    lines = sums(8)
    lines[1]["gold"] = "\\frac{1}{0}"
    lines[2]["gold"] = None
    lines[4]["finish_reason"] = "max_tokens"
    lines[5]["right"] = None
    lines[6]["right"] = "who knows"
    result = graded(tmp_path, jsonl(tmp_path / "t.jsonl", lines), label="right")
    [pair] = result["compare"]["pairs"]
    assert (pair["left_out"], pair["unlabelled"]) == (2, 2)
    counted = pair["both_yes"] + pair["false_accepts"] + pair["false_rejects"] + pair["both_no"]
    assert counted == 4 and result["compare"]["strange_labels"] == {"who knows": 1}
    found = {(row["outcome"], row["fault"]): row["completions"] for row in result["outcomes"]}
    assert (
        found["unparsable", "gold"] == 1
        and found["unverifiable", None] == 1
        and found["truncated", None] == 1
    )


def test_labels_that_say_nothing_are_an_error(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", sums(3))
    with pytest.raises(UserError, match="'What is 0 .*correct and incorrect"):
        graded(tmp_path, path, label="question")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (0, False), (1.0, True), ("Correct", True), ("incorrect", False), ("0", False), (0.5, None), ("", None)],
)  # fmt: skip
def test_truth(value: Any, expected: bool | None) -> None:
    assert truth(value) is expected


# --------------------------------------------------------------------------------------- second opinion


def say(outcome: Outcome, fault: Fault | None = None) -> Verdict:
    return Verdict(outcome, fault, "x", None, f"it is {outcome}", GRADER, grader_version())


class Scripted:
    """A pool whose second grader says what the script says, by the number in the question."""

    script: ClassVar[dict[int, Verdict | Failure]] = {}
    asked: ClassVar[list[str]] = []

    def __init__(self, *args: Any) -> None: ...

    def __enter__(self) -> "Scripted":
        return self

    def __exit__(self, *args: object) -> None: ...

    def map(self, name: str, calls: Iterator[Any], *, modules: Any) -> Iterator[Verdict | Failure]:
        assert (name, modules) == ("second_opinion", ("math_verify",))
        for ([gold], completion), _ in calls:
            self.asked.append(completion)
            right = f"It is {gold}." in completion
            yield self.script.get(int(gold) - 3, say(Outcome.CORRECT if right else Outcome.INCORRECT))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    Scripted.script, Scripted.asked = {}, []
    monkeypatch.setattr(second_opinions, "WorkerPool", Scripted)
    return Scripted


def test_planted_errors_of_the_second_grader_are_queued(tmp_path: Path, scripted: type[Scripted]) -> None:
    scripted.script = {
        1: say(Outcome.INCORRECT),  # rejects a right answer
        3: say(Outcome.CORRECT),  # accepts a wrong one
        4: Failure("timeout", "no result within 10 s"),
        7: Failure("crash", "the worker died"),
        8: say(Outcome.UNPARSABLE, Fault.PREDICTION),  # finds no answer in a right one
    }
    path = jsonl(tmp_path / "t.jsonl", sums(12))
    result = graded(tmp_path, path, label="right", second_opinion=True)
    pairs = {(pair["judge"], pair["against"]): pair for pair in result["compare"]["pairs"]}
    pair = pairs["ours", GRADER]
    assert (pair["both_yes"], pair["false_accepts"], pair["false_rejects"], pair["both_no"]) == (4, 2, 1, 3)
    assert (pair["left_out"], pair["unlabelled"]) == (0, 2)  # its failures are no "wrong"
    assert pairs[GRADER, "right"]["left_out"] == 2
    found = {(r["outcome"], r["fault"]): r["completions"] for r in result["second_opinion"]["outcomes"]}
    assert found["timeout", "system"] == 1 and found["error", "system"] == 1

    queue = [json.loads(line) for line in Path(result["disagreements_file"]).read_text().splitlines()]
    between = [e["line"] - 1 for e in queue if e["verdicts"]["ours"]["right"] is (not e["verdicts"][GRADER]["right"]) and e["verdicts"][GRADER]["right"] is not None]  # fmt: skip
    assert between == [1, 3, 8]
    assert queue[1]["verdicts"][GRADER]["explanation"] == "it is incorrect"
    three = {(v["ours"], v[GRADER], v["right"]): v["completions"] for v in result["compare"]["votes"]}
    assert sum(three.values()) == 12 and three[True, None, True] == 2

    table = {row["id"]: row for row in pq.read_table(result["verdicts"]).to_pylist()}
    assert table[4]["second_score"] is None and table[1]["second_score"] == 0.0
    with connect(Run.open(tmp_path / "run")) as connection:
        graders = rows(
            connection, "select grader, grader_version, count(*) n from verdicts group by all order by 1"
        )
        ours = rows(connection, "select distinct grader from verdict")
    assert [(g["grader"], g["n"]) for g in graders] == [("math", 12), (GRADER, 12)]
    assert graders[1]["grader_version"] == grader_version()
    assert ours == [{"grader": "math"}]  # a second opinion replaces no verdict

    assert len(scripted.asked) == 12
    graded(tmp_path, path, second_opinion=True)
    assert len(scripted.asked) == 12


def test_other_kinds_are_not_asked_about(tmp_path: Path, scripted: type[Scripted]) -> None:
    choice = {"question": "Which?", "choices": ["x", "y"], "gold": "B", "output": "B"}
    result = graded(tmp_path, jsonl(tmp_path / "t.jsonl", [choice, sums(2)[1]]), second_opinion=True)
    assert len(scripted.asked) == 1
    [pair] = result["compare"]["pairs"]
    assert (pair["both_yes"], pair["unlabelled"]) == (1, 1)


@pytest.mark.parametrize(
    ("gold", "completion", "outcome", "fault"),
    [
        ("18", "A: 18", "correct", None),
        ("\\frac{1}{2}", "<think>0.7</think>\\boxed{0.5}", "correct", None),
        ("18", "so 26", "incorrect", None),
        ("18", "<think>18", "unparsable", "prediction"),
        ("18", "nothing", "unparsable", "prediction"),
        ("", "18", "unparsable", "gold"),
    ],
)
def test_stock_math_verify(gold: str, completion: str, outcome: str, fault: str | None) -> None:
    verdict = second_opinion(gold, completion)
    assert (verdict.outcome, verdict.fault, verdict.grader) == (outcome, fault, "math-verify")
    assert verdict.explanation


def test_stock_math_verify_with_several_gold_answers() -> None:
    assert second_opinion(["2", "-2"], "it is $-2$").is_correct
    assert second_opinion(["}{", "-2"], "it is $3$").outcome is Outcome.INCORRECT


def test_stock_math_verify_that_fails_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    import math_verify.grader

    def broken(*args: Any, **kwargs: Any) -> bool:
        raise RecursionError("too deep")

    monkeypatch.setattr(math_verify.grader, "sympy_expr_eq", broken)
    verdict = second_opinion("x + 1", "$x + 2$")
    assert (verdict.outcome, verdict.fault) == (Outcome.ERROR, Fault.SYSTEM)
    assert "too deep" in verdict.explanation


def test_a_real_pool_asks_stock_math_verify_and_stops_it_where_it_hangs(tmp_path: Path) -> None:
    lines = sums(3)
    lines[1]["output"] = "It is $5^{5^{5^{5^{5}}}}$."
    lines.append({"question": "A root of x^2 = 4?", "gold": ["2", "-2"], "output": "\\boxed{-2}"})
    file = jsonl(tmp_path / "t.jsonl", lines)
    options = GradeOptions(
        TraceSpec(file), tmp_path / "run", Judge(workers=1, time_limit_s=1.0), second_opinion=True
    )
    result = grade_file(options, QUIET)
    table = pq.read_table(result["verdicts"]).to_pylist()
    assert table[1]["second_score"] is None and table[1]["second_fault"] == "system"
    assert [table[i]["second_score"] for i in (0, 2, 3)] == [0.0, 1.0, 1.0]


# -------------------------------------------------------------------------------------------- confusion


def test_confusion_counts_and_rates() -> None:
    votes = {
        (True, True): 90,
        (True, False): 5,
        (False, True): 10,
        (False, False): 95,
        (None, True): 3,
        (False, None): 2,
    }
    confusion = Confusion.count("a", "b", votes)
    assert confusion.false_accept_rate == Rate.share(5, 100) and confusion.false_reject_rate == Rate.share(
        10, 100
    )
    assert (confusion.left_out, confusion.unlabelled) == (3, 2)
    assert str(Rate.share(5, 100)) == "5 of 100: 5.00% [2.15%, 11.18%]"
    assert str(Rate.share(0, 0)) == "0 of 0"


def test_the_solutions_published_with_gsm8k(tmp_path: Path) -> None:
    """The table of docs/grading-files.md."""
    path = DATA / "gsm8k" / "example_model_solutions.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there: set R1_SHARED_DATA to the data's folder")
    spec = {"source": "gsm8k", "split": "test", "gold_pattern": r"A:\s*(\S.*)"}
    result = graded(tmp_path, path, traces=spec, label="is_correct")
    [pair] = result["compare"]["pairs"]
    assert (pair["both_yes"], pair["false_accepts"], pair["false_rejects"], pair["both_no"]) == (
        1500,
        0,
        0,
        2492,
    )
    assert result["layout"] == "named" and result["bad_rows"] == result["disagreements"] == 0


# ------------------------------------------------------------------------------------------ command line


def test_the_command_prints_json_and_reports_bad_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", sums(4))
    path.write_text(path.read_text() + "{torn\n" * 12)
    arguments = [
        str(path),
        "--run",
        str(tmp_path / "run"),
        "--compare",
        "right",
        "--json",
        "--out",
        str(tmp_path / "o.parquet"),
    ]
    command = [sys.executable, "-m", "factory.cli", "grade", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bad_rows"] == 12 and result["traces"] == 4 and (tmp_path / "o.parquet").exists()
    assert "layout flat: question = question, gold = gold, completion = output" in done.stderr
    assert done.stderr.count("t.jsonl, line") == 10 and "and 2 more" in done.stderr
    again = CliRunner().invoke(grade, arguments, catch_exceptions=False)
    assert again.stderr.count("t.jsonl, line") == 10  # the second time too
    assert json.loads(again.stdout)["outcomes"] == result["outcomes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--option", "strict"], "--option wants KEY=VALUE"),
        (["--option", "strict={"], "not valid YAML"),
        (["--option", "colour=1"], "'colour'"),
        (["--select", "require_format=true"], "--mix"),
        (["--mix", "../x"], "--mix '../x'"),
        (["--mix", "m", "--select", "require_fromat=true"], "require_fromat"),
        (["--language", "xx"], "unknown language 'xx'"),
        (["--compare", "rigth"], "--compare rigth"),
        (["--mix", "m", "--select", "min_reasoning_tokens=1000"], "too_short"),
    ],
)
def test_what_a_person_may_get_wrong(arguments: list[str], words: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", sums(3))
    result = CliRunner().invoke(grade, [str(path), "--run", str(tmp_path / "run"), *arguments])
    assert isinstance(result.exception, UserError) and words in str(result.exception), result.exception


def test_no_row_at_all_can_be_used(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"question": "q", "gold": {"a": 1}, "output": "5"}])
    with pytest.raises(UserError, match=r"none of the rows .* line 1"):
        graded(tmp_path, path)


def test_columns_of_odd_names_and_values_come_through(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {
            **sums(3)[1],
            "Note": "a",
            "note": 1,
            "mixed": 1,
            "verdict_score": 7,
            "share": 1,
            "nested": {"a": [1]},
        },
        {**sums(3)[2], "Note": None, "note": 2, "mixed": "b", "late": True, "share": 0.5, "big": 2**70},
    ]
    result = graded(tmp_path, jsonl(tmp_path / "t.jsonl", lines))
    one, two = pq.read_table(result["verdicts"]).to_pylist()
    assert (one["Note"], one["note"], one["mixed"], one["late"], one["share"]) == ("a", 1, "1", None, 1.0)
    assert (two["Note"], two["note"], two["mixed"], two["late"], two["share"]) == (None, 2, "b", True, 0.5)
    assert (
        one["verdict_score"] == 1.0 and json.loads(one["nested"]) == {"a": [1]} and two["big"] == str(2**70)
    )
