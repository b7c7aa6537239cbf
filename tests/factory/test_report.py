"""The report of a run: what it says equals the tables, it loads nothing, and nothing a model wrote runs."""

from __future__ import annotations

import html
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from factory.query import connect, fetch, rows
from factory.records import candidate_id, prompt_id, question_hash
from factory.report import QUERIES, REASON_TEXTS, clip, write_report
from factory.report_charts import number, ticks
from factory.report_data import accepted_ids, bin_width, pass_rates, prepare, rejected_ids
from factory.store import Run, now, stage_manifest
from filters.errors import UserError
from filters.verdict import OUTCOME_REASONS, Outcome, Reason

ATTACK = "<script>alert('x')</script><img src=\"https://example.org/x.png\" onerror=alert(1)></textarea>"
CHINESE = "我们先算三加四，得到七，再乘以二。"
DOMAINS = {"arithmetic": 0.55, "number theory": 0.3, "counting": 0.4, "countdown": 0.15}
GENERATION = "generation-1"


def question(rng: Random, domain: str) -> tuple[str, str]:
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 9)
    if domain == "number theory":
        return f"What is the remainder of {a * b} divided by {c}?", str(a * b % c)
    return f"Calculate {a} + {b} - {c} ({domain}).", str(a + b - c)


def completion(rng: Random, gold: str, outcome: Outcome, style: str) -> str:
    answer = gold if outcome is Outcome.CORRECT else str(int(gold) + rng.randint(1, 9))
    steps = " ".join(f"Step {i}: take {rng.randint(1, 99)} and go on." for i in range(rng.randint(1, 12)))
    if style == "mixed":
        steps = f"{CHINESE} {steps}"
    if style == "bare":
        return answer
    if outcome is Outcome.TRUNCATED:
        return f"<think> {steps * 4}"
    return f"<think> {steps} </think> <answer> {answer} </answer>"


def add_candidates(run: Run, prompts: int, n: int, seed: int = 0) -> None:
    """Prompts, candidates, verdicts, signals and the decisions of two mixes."""
    rng = Random(seed)
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("prompts", "candidates", "verdicts", "signals", "decisions")
    }
    for index in range(prompts):
        domain = list(DOMAINS)[index % len(DOMAINS)]
        text, gold = question(rng, domain)
        text = f"{text} #{index}"
        messages = [{"role": "user", "content": text}]
        prompt = prompt_id(messages, gold, "math", {})
        split = "test" if index % 10 == 9 else "train"
        tables["prompts"].append(
            {"prompt_id": prompt, "question_hash": question_hash(text), "source": "synthetic", "split": split,
                 "domain": domain, "language": "en", "licence": "Apache-2.0", "question": text, "messages": messages,
                 "reference": gold, "verifier": "math", "verifier_args": "{}", "evaluation_only": False, "meta": "{}"}
        )  # fmt: skip
        if split == "train":
            skill = min(max(rng.gauss(DOMAINS[domain], 0.28), 0.0), 1.0)
            for sample in range(n):
                add_sample(tables, rng, prompt, gold, sample, skill)
    for name, table_rows in tables.items():
        if name == "candidates":
            with run.writer(name) as writer:
                writer.append(table_rows)
        else:
            run.replace(name, "main", table_rows)


def add_sample(tables: Any, rng: Random, prompt: str, gold: str, sample: int, skill: float) -> None:
    key = candidate_id(prompt, GENERATION, sample)
    outcome = Outcome.CORRECT if rng.random() < skill else rng.choices(
        [Outcome.INCORRECT, Outcome.NOT_ATTEMPTED, Outcome.TRUNCATED, Outcome.ERROR], [30, 2, 3, 1]
    )[0]  # fmt: skip
    style = rng.choices(["plain", "mixed", "bare"], [8, 1, 1])[0]
    text = completion(rng, gold, outcome, style)
    tokens = 160 if outcome is Outcome.TRUNCATED else len(text) // 4 + 2
    tables["candidates"].append(
        {"candidate_id": key, "prompt_id": prompt, "generation_id": GENERATION, "sample_index": sample, "stage": "sample",
             "segment": 0, "engine": "gemma", "model": "tiny-teacher", "template": "r1-zero", "seed": sample, "completion": text,
             "finish_reason": "length" if outcome is Outcome.TRUNCATED else "stop", "prompt_tokens": 30,
             "completion_tokens": tokens, "logprob_mean": -0.4, "latency_s": 0.1, "created_at": now()}
    )  # fmt: skip
    fault = "system" if outcome is Outcome.ERROR else None
    wrong = f"expected {gold}" if outcome is Outcome.INCORRECT else str(outcome)
    tables["verdicts"].append(
        {"candidate_id": key, "grader": "math", "grader_version": "1", "outcome": str(outcome), "fault": fault,
             "extracted_answer": None if outcome is Outcome.TRUNCATED else text.split()[-2:][0],
             "explanation": wrong if outcome is not Outcome.CORRECT else "equal", "elapsed_ms": 0.5}
    )  # fmt: skip
    consistency = rng.uniform(0.3, 0.88) if style == "mixed" else 1.0
    tables["signals"].append(
        {"candidate_id": key, "signal_version": "1", "well_formed": style != "bare" and outcome is not Outcome.TRUNCATED,
             "language": "zh" if consistency < 0.5 else "en", "language_consistency": consistency, "readability": 1.0,
             "repetition": 0.0, "reasoning_tokens": 0 if style == "bare" else tokens - 6}
    )  # fmt: skip
    reasons = [] if outcome is Outcome.CORRECT else [OUTCOME_REASONS[outcome]]
    reasons += [Reason.LANGUAGE_MIX] if consistency < 0.9 else []
    reasons += [Reason.FORMAT, Reason.NO_REASONING] if style == "bare" else []
    if not reasons and sample >= 6:
        reasons.append(Reason.PROMPT_QUOTA)
    loose = [Reason.SIZE_QUOTA] if rng.random() < 0.6 else []
    for mix, why in (("filtered", reasons), ("unfiltered", loose)):
        tables["decisions"].append(
            {
                "mix": mix,
                "candidate_id": key,
                "prompt_id": prompt,
                "accepted": not why,
                "reasons": [str(r) for r in why],
            }
        )


def add_mixes(run: Run) -> None:
    """`RUN/mix/NAME` from the decisions, with a few general samples."""
    from factory.records import MIX
    from factory.store import write_parquet

    for mix in ("filtered", "unfiltered"):
        accepted = [r for r in run.read("decisions").to_pylist() if r["mix"] == mix and r["accepted"]]
        samples = [
            {"sample_id": f"{r['candidate_id']}", "component": "reasoning", "split": "train" if i % 20 else "validation",
                 "question": "q", "answer": "a", "tokens": 40}
            for i, r in enumerate(accepted)
        ] + [{"sample_id": f"general-{i}", "component": "general", "split": "train"} for i in range(len(accepted) // 4)]  # fmt: skip
        target = run.folder / "mix" / mix / "part-000000.parquet"
        target.parent.mkdir(parents=True)
        write_parquet(target, MIX.rows_to_arrow(samples))


def add_training(run: Run, steps: int = 400) -> None:
    rng = Random(1)
    metrics = []
    for job, floor in (("filtered", 0.42), ("unfiltered", 0.66)):
        for step in range(1, steps + 1):
            loss = floor + 2.3 * 0.985**step + rng.gauss(0, 0.02)
            metrics.append({"job": job, "step": step, "name": "train/loss", "value": loss})
            rate = min(step / 20, 1) * 1e-3 * (0.1 + 0.9 * (1 - step / steps))
            metrics.append({"job": job, "step": step, "name": "train/learning_rate", "value": rate})
            if step % 25 == 0:
                metrics.append({"job": job, "step": step, "name": "eval/loss", "value": loss + 0.05})
                metrics.append(
                    {"job": job, "step": step, "name": "train/grad_norm", "value": rng.uniform(0.2, 1)}
                )
    run.replace("metrics", "main", metrics)


def add_evaluation(run: Run) -> None:
    scores = {"base": (0.07, 0.012), "unfiltered": (0.23, 0.02), "filtered": (0.412, 0.023)}
    found = []
    for label, (value, half) in scores.items():
        protocol = "p-zero" if label == "base" else "p-gemma"
        template = "r1-zero" if label == "base" else "gemma:r1"
        text = f"template {template}; sampler temperature 1.0, 160 new tokens; extractor: tags {template}"
        common = {"suite": "held-out", "model": f"model-{label}", "protocol": protocol, "label": label, "n": 16, "prompts": 240,
                      "left_out": 3, "seed": 0, "protocol_text": text, "created_at": now()}  # fmt: skip
        for metric, k, factor in (
            ("pass@1", 1, 1.0),
            ("pass@4", 4, 1.5),
            ("pass@16", 16, 2.0),
            ("maj@16", 16, 1.2),
        ):
            found.append(
                dict(common, slice="all", metric=metric, k=k, value=value * factor, low=(value - half) * factor,
                     high=(value + half) * factor)
            )  # fmt: skip
        for shift, domain in enumerate(DOMAINS):
            share = value * (0.6 + 0.25 * shift)
            found.append(
                dict(common, slice=f"domain={domain}", metric="pass@1", k=1, value=share, low=share - 2 * half / 3,
                     high=share + half)
            )  # fmt: skip
    run.replace("evals", "main", found)


RECIPE: dict[str, Any] = {
    "name": "tiny",
    "description": "R1's data half in miniature: a tiny teacher answers, its right and readable answers are kept, "
    "two students learn from filtered and from unfiltered samples, and both are measured.",
    "mixes": {
        "filtered": {
            "select": {"require_correct": True, "min_language_consistency": 0.9, "max_per_prompt": 6}
        },
        "unfiltered": {"select": {"same_size_as": "filtered"}},
    },
    "students": {"filtered": {"mix": "filtered"}, "unfiltered": {"mix": "unfiltered"}},
    "evaluation": {
        "models": [
            {"name": "base", "model": "tiny-student"},
            {"name": "unfiltered", "model": "student:unfiltered"},
            {"name": "filtered", "model": "student:filtered"},
        ]
    },
}


def full_run(folder: Path, *, prompts: int = 60, n: int = 8) -> Run:
    run = Run.create(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    add_candidates(run, prompts, n)
    add_mixes(run)
    add_training(run)
    add_evaluation(run)
    for stage in (
        "prompts",
        "generate",
        "judge",
        "select:filtered",
        "mix:filtered",
        "train:filtered",
        "eval",
    ):
        outputs = run.describe_outputs(run.shards("candidates"))
        manifest = stage_manifest(
            stage, f"{len(stage):032x}", {}, outputs, {"rows": 1234}, now().timestamp() - 70.2
        )
        run.finish_stage(stage, manifest)
    return run


class Page(HTMLParser):
    """Tags, attributes and text as a browser's parser sees them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self._inside: list[str] = []
        self.feed(source)
        self.text = " ".join(" ".join(self.raw).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.raw.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return full_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def source(run: Run) -> str:
    path = write_report(run)
    assert path == run.folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_it_is_one_file_that_loads_nothing(source: str) -> None:
    page = Page(source)
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "use", "image")
        for name in ("src", "srcset", "data", "action", "xlink:href"):
            assert name not in attributes, (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?://|@import|url\(", source)
    assert len(source.encode()) < 2_000_000


def test_counts_equal_the_tables(run: Run, source: str) -> None:
    text = Page(source).text
    with connect(run) as connection:
        count = lambda sql: rows(connection, f"select count(*) as n from {sql}")[0]["n"]
        candidates, correct = count("candidates"), count("verdict where outcome = 'correct'")
        asked = rows(connection, "select count(distinct prompt_id) as n from candidates")[0]["n"]
        assert f"{number(asked)} of {number(count('prompts'))} prompts were asked" in text
        for label, value in (("candidates", candidates), ("judged", count("verdict")), ("correct", correct)):
            assert f"{label}: {number(value)}" in text  # the tooltip of the funnel's bar
        for mix in ("filtered", "unfiltered"):
            accepted = count(f"decisions where mix = '{mix}' and accepted")
            assert f"20 of {number(accepted)}" in text
            general = count(f"mix where mix = '{mix}' and component = 'general'")
            reasoning = count(f"mix where mix = '{mix}' and component = 'reasoning'")
            assert f"reasoning samples: {number(reasoning)}" in text
            assert f"general samples: {number(general)}" in text
        for row in rows(connection, "select outcome, count(*) as n from verdict group by outcome"):
            assert re.search(rf"\b{row['outcome']} (–|system) {number(row['n'])} ", text)


def test_every_reason_appears_with_both_counts(run: Run, source: str) -> None:
    text = Page(source).text
    decisions = [r for r in run.read("decisions").to_pylist() if r["mix"] == "filtered"]
    struck = {reason for r in decisions for reason in r["reasons"]}
    assert len(struck) >= 6
    for reason in struck:
        has = sum(reason in r["reasons"] for r in decisions)
        only = sum(r["reasons"] == [reason] for r in decisions)
        assert re.search(
            rf"{reason} {re.escape(REASON_TEXTS[Reason(reason)])} {number(has)} \S+ % {number(only)} ", text
        ), reason
    for reason in Reason:
        assert f"<code>{reason}</code>" in source
    assert set(REASON_TEXTS) == set(Reason)


def test_the_sentence_that_matters_is_computed(run: Run, source: str, tmp_path: Path) -> None:
    text = Page(source).text.replace("\u202f", " ")
    assert (
        "The student trained on the mix filtered solves 41.2 % [38.9, 43.5] of held-out problems, the one trained "
        "on the mix unfiltered 23.0 % [21.0, 25.0], the model base 7.0 % [5.8, 8.2]. "
        "The intervals of the best two do not overlap."
    ) in text
    close = full_run(tmp_path / "run", prompts=10, n=2)
    table = close.read("evals").to_pylist()
    for row in table:
        if row["label"] == "unfiltered":
            row["high"] = 0.40
    close.replace("evals", "main", table)
    assert "overlap: the difference between them may be chance" in write_report(close).read_text("utf-8")


def test_the_evaluation_shows_protocol_metrics_and_slices(source: str) -> None:
    text = Page(source).text.replace("\u202f", " ")
    assert "template gemma:r1; sampler temperature 1.0, 160 new tokens" in text
    assert re.search(r"model protocol pass@1 pass@4 pass@16 maj@16", text)
    assert "base 16 240 3 0" in text  # samples a prompt, prompts, left out, seed
    for domain in DOMAINS:
        assert domain in text


def test_nothing_that_was_written_by_others_becomes_markup(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run", prompts=12, n=4)
    for table in ("prompts", "candidates", "verdicts", "evals", "metrics"):
        changed = run.read(table).to_pylist()
        for row in changed:
            for column in ("question", "domain", "completion", "extracted_answer", "explanation", "reference", "label",
                           "protocol_text", "job", "model", "suite", "finish_reason"):  # fmt: skip
                if row.get(column) is not None and column in row:
                    row[column] = f"{row[column][:200]} {ATTACK} {CHINESE} \x00\x07"
        for path in run.shards(table):
            path.unlink()
        run.replace(table, "main", changed)
    recipe = RECIPE | {"description": ATTACK, "name": ATTACK}
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    source = write_report(run).read_text(encoding="utf-8")
    page = Page(source)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [tag for tag, _ in page.tags if tag in ("img", "think", "answer")]
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert ATTACK in page.text and CHINESE in page.text
    assert "\x00" not in source and "␀" in source
    assert html.escape("<script>alert(") in source


def test_the_script_is_the_only_one_the_policy_allows(source: str) -> None:
    import base64
    import hashlib

    script = source.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for tag, a in Page(source).tags if "http-equiv" in a)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_the_same_run_gives_the_same_page(run: Run, source: str) -> None:
    assert write_report(run).read_text(encoding="utf-8") == source


def test_an_empty_run_gives_sentences(tmp_path: Path) -> None:
    text = Page(write_report(Run.create(tmp_path / "run")).read_text(encoding="utf-8")).text
    assert "This run holds no samples yet." in text
    for sentence in ("No model of this run has been evaluated", "No candidate has been drawn yet", "Nothing has been "
                     "selected", "No sample has been graded", "No student has been trained", "There is no mix",
                     "No stage of this run is finished"):  # fmt: skip
        assert sentence in text


def test_a_run_that_is_not_judged_yet(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    add_candidates(run, 10, 2)
    for table in ("verdicts", "signals", "decisions"):
        for path in run.shards(table):
            path.unlink()
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "18 samples are drawn. None of them has been judged yet." in text
    assert "not judged yet" in text


def test_a_mix_that_accepted_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    add_candidates(run, 10, 2)
    none = [r | {"accepted": False, "reasons": ["too_long"]} for r in run.read("decisions").to_pylist()]
    run.replace("decisions", "main", none)
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "No candidate was accepted into this mix." in text
    assert "Nothing was accepted." in text
    assert "of 18 graded" in text or "graded samples are correct" in text


def test_candidates_of_other_settings_are_left_out_and_said(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    add_candidates(run, 10, 3)
    old = run.read("candidates").to_pylist()[:5]
    for row in old:
        row["candidate_id"], row["generation_id"] = f"old-{row['candidate_id']}", "generation-0"
    with run.writer("candidates", "other") as writer:
        writer.append(old)
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "holds 5 candidates of other settings" in text
    assert "candidates: 27" in text


def test_rejected_samples_are_drawn_over_all_reasons(run: Run) -> None:
    with connect(run) as connection:
        chosen = rejected_ids(connection, "filtered", 20)
        accepted = accepted_ids(connection, "filtered", 20)
    decisions = {r["candidate_id"]: r for r in run.read("decisions").to_pylist() if r["mix"] == "filtered"}
    assert len(set(chosen)) == 20 and not any(decisions[key]["accepted"] for key in chosen)
    assert len(set(accepted)) == 20 and all(decisions[key]["accepted"] for key in accepted)
    seen = {reason for key in chosen for reason in decisions[key]["reasons"]}
    assert seen == {reason for r in decisions.values() for reason in r["reasons"]}


def test_failures_of_ours_are_no_wrong_answers(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    add_candidates(run, 2, 4)
    verdicts = run.read("verdicts").to_pylist()
    for index, row in enumerate(verdicts):
        row["outcome"], row["fault"] = ("correct", None) if index % 4 < 2 else ("error", "system")
    run.replace("verdicts", "main", verdicts)
    with connect(run) as connection:
        prepare(connection)
        bins = {entry.label: entry.prompts for entry in pass_rates(connection)}
    assert bins == {"0": 0, "1": 0, "2": 2}  # both prompts: 2 of 2 graded samples are correct


@pytest.mark.parametrize(
    ("n", "right_of_graded", "expected"),
    [
        # Few samples: fractions of the usual number; 1 of 3 stands nearest to 2 of 6.
        (6, [(0, 6), (1, 6), (6, 6), (1, 3)], {"0": 1, "1": 1, "6": 1, "2": 1}),
        # Nearly all is not all, and nearly none is not none.
        (6, [(4, 5), (1, 5), (5, 6), (3, 3)], {"5": 2, "1": 1, "6": 1}),
        (
            40,
            [(0, 40), (4, 40), (5, 40), (39, 40), (40, 40)],
            {"0": 1, "–10": 1, "–20": 1, "–100": 1, "100": 1},
        ),
    ],
)
def test_pass_rate_bins(
    tmp_path: Path, n: int, right_of_graded: list[tuple[int, int]], expected: dict[str, int]
) -> None:
    run = Run.create(tmp_path / "run")
    add_candidates(run, len(right_of_graded), n)
    candidates = run.read("candidates").to_pylist()
    order = list(dict.fromkeys(row["prompt_id"] for row in candidates))
    verdicts = {row["candidate_id"]: row for row in run.read("verdicts").to_pylist()}
    kept = []
    for row in candidates:
        right, graded = right_of_graded[order.index(row["prompt_id"])]
        outcome = "correct" if row["sample_index"] < right else "incorrect"
        if row["sample_index"] < graded:
            kept.append(verdicts[row["candidate_id"]] | {"outcome": outcome, "fault": None})
    run.replace("verdicts", "main", kept)
    with connect(run) as connection:
        prepare(connection)
        assert {b.label: b.prompts for b in pass_rates(connection) if b.prompts} == expected


def test_the_query_examples_work(run: Run, source: str) -> None:
    commands = re.findall(r"<pre>(factory query .*?)</pre>", source, flags=re.S)
    assert len(commands) == len(QUERIES)
    with connect(run) as connection:
        for command in commands:
            words = shlex.split(html.unescape(command))
            assert words[:3] == ["factory", "query", str(run.folder)]
            assert fetch(connection, words[3]).num_rows > 0, words[3]


def test_curves_of_every_job_and_last_values(run: Run, source: str) -> None:
    assert source.count("<polyline") == 3 * 2  # train/loss, eval/loss, train/learning_rate of two students
    assert "train/grad_norm" in source
    assert "train/grad_norm over steps" not in source


def test_values_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    values = [2.0, float("nan"), float("inf"), 1.0]
    run.replace(
        "metrics",
        "main",
        [{"job": "j", "step": i, "name": "train/loss", "value": v} for i, v in enumerate(values)],
    )
    source = write_report(run).read_text(encoding="utf-8")
    assert "2 values are not finite" in source
    assert not re.search(r"\b(nan|inf)\b", source.partition("<main>")[2])


def test_long_texts_are_clipped_and_the_page_stays_small(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    add_candidates(run, 60, 4)
    long = run.read("candidates").to_pylist()
    for row in long:
        row["completion"] = f"<think>{'思<考 ' * 40_000}the end</think> <answer>7</answer>"
    for path in run.shards("candidates"):
        path.unlink()
    run.replace("candidates", "main", long)
    source = write_report(run).read_text(encoding="utf-8")
    assert "characters left out" in source and "the end" in source
    assert len(source.encode()) < 2_000_000


def test_clip_keeps_beginning_and_end() -> None:
    assert clip("short", 100) == "short"
    clipped = clip("a" * 900 + "z" * 100, 300)
    assert (
        clipped.startswith("a" * 200) and clipped.endswith("z" * 100) and "700 characters left out" in clipped
    )


def test_a_damaged_recipe_is_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    (run.folder / "recipe.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UserError, match="recipe.yaml is damaged"):
        write_report(run)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-30, 70, [-20, 0, 20, 40, 60]), (3, 3, [3]), (0, 0.0011, None)],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float] | None) -> None:
    found = ticks(low, high)
    assert all(low <= value <= high for value in found)
    assert expected is None or found == pytest.approx(expected)


def test_bin_width() -> None:
    assert [bin_width(span, 48) for span in (10, 48, 49, 161, 3000, 32_769)] == [1, 1, 2, 4, 80, 800]
