"""pass@k, maj@k and a suite's own measures of models on held-out questions, with intervals and the whole protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from distill.chat import parse_template
from factory.console import Reporter
from factory.engines import Completion, Engine, Failure, SampleRequest
from factory.judge import is_graded
from factory.judgements import LanguageJudge, language_judge
from factory.measures import MEASURES, Sample, macro_average, summarise_measures
from factory.protocol import Protocol, options
from factory.records import EVAL_CANDIDATES, content_id, sample_seed
from factory.store import Run, now
from factory.suite_judge import (
    NEED_A_JUDGE,
    JudgeFor,
    SuiteJudge,
    judged_rows,
    suite_judge,
    verdict_columns,
)
from filters.errors import UserError
from filters.groups import vote_key
from filters.stats import Metric, SampleScore, prompt_values, summarise
from filters.verdict import Fault, Outcome, Verdict
from filters.workers import GradeTask, WorkerPool

if TYPE_CHECKING:
    from factory.parts import JudgeEngine
    from factory.recipe import Evaluation
    from factory.suites import Suite

BATCH = 512
MAX_LEFT_OUT = 0.01
"""Share of samples that may stay without a grade by our own fault; above it a suite fails."""

_PROMPT_COLUMNS = [
    "prompt_id",
    "question",
    "messages",
    "reference",
    "verifier",
    "verifier_args",
    "domain",
    "split",
    "question_hash",
]


@dataclass(frozen=True)
class SuiteResult:
    """What became of one suite: rows of `evals`, or why there are none."""

    suite: str
    protocol: str = ""
    metrics: tuple[dict[str, Any], ...] = ()
    error: str = ""


# ------------------------------------------------------------------------------------ a recipe's models


def evaluate_models(
    run: Run, spec: Evaluation, reporter: Reporter, judge_for: JudgeFor = language_judge
) -> tuple[list[Path], dict[str, Any]]:
    """Evaluate every model of a recipe on the run's held-out prompts.

    Returns:
        files of the figures, the samples and the judge's replies; and counts.

    Raises:
        UserError: no held-out prompt, or too many samples that our own graders could not grade.
    """
    from factory.recipe import trained_stage
    from factory.train import trained_folder

    prompts = held_out_prompts(run, spec.split, spec.max_prompts)
    judge = suite_judge(spec.judge, prompts, False, judge_for)
    paths: list[Path] = []
    counts: dict[str, Any] = {"questions": len(prompts)}
    for entry in spec.models:
        trained = trained_stage(entry.model) is not None
        model = str(trained_folder(run, entry.model) / "model") if trained else entry.model
        protocol = Protocol(
            suite=run.folder.name,
            origin=f"the {spec.split} split",
            prompts=prompts,
            template=entry.template,
            sampling=spec.sampling,
            n=spec.n,
            ks=tuple(spec.k),
            seed=spec.seed,
            judge=judge,
        )
        # The engine is gone when the samples are drawn: the judge may need its memory.
        drawn = draw(
            run, _gemma(model, protocol, spec.prompt_length, spec.batch_size), protocol, entry.name, reporter
        )
        path, metrics = figures_of(run, drawn, protocol, entry.name, reporter)
        paths.append(path)
        drop_predecessors(run, path)
        counts[f"{entry.name} pass@1"] = shown(metrics["all"][0])
    return [*paths, *run.shards("eval_candidates"), *run.shards("judgements")], counts


def drop_predecessors(run: Run, path: Path) -> None:
    """Remove earlier figures of the same suite and label: of a model trained before, or of another protocol.

    Args:
        path: the shard of `evals` that stays.
    """

    def named(shard: Path) -> tuple[str, str] | None:
        first = pq.read_table(shard, columns=["suite", "label"]).slice(0, 1).to_pylist()
        return (first[0]["suite"], first[0]["label"]) if first else None

    own = named(path)
    for shard in run.shards("evals"):
        if shard != path and named(shard) == own:
            shard.unlink()


def shown(metric: Metric) -> str:
    """A metric as people read it: 41.2 % [38.9, 43.5]."""
    if metric.value is None or metric.low is None or metric.high is None:
        return "-"
    return f"{metric.value:.1%} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]".replace("%", " %")


def held_out_prompts(run: Run, split: str, limit: int | None) -> tuple[dict[str, Any], ...]:
    """Prompts of a held-out split that can be graded, in the order of their hashes.

    Raises:
        UserError: there is none.
    """
    table = run.read("prompts", _PROMPT_COLUMNS)
    rows = [row for row in table.to_pylist() if row["split"] == split and is_graded(row)]
    if not rows:
        raise UserError(
            f"{run.folder} has no question of the {split} split that can be graded; give the source a quota for it"
        )
    return tuple(sorted(rows, key=lambda row: (row["question_hash"], row["prompt_id"]))[:limit])


def _gemma(model: str, protocol: Protocol, prompt_length: int, batch_size: int) -> Engine:
    from factory.engines.gemma import GemmaEngine

    return GemmaEngine(
        _model_folder(model),
        model_name=model,
        template=parse_template(protocol.template),
        prompt_length=prompt_length,
        batch_size=batch_size,
        **protocol.sampling.model_dump(),
    )


def _model_folder(model: str) -> Any:
    from distill.gemma.folder import ModelFolder, resolve_model

    trained = Path(model) / "model"
    return ModelFolder.open(trained if (trained / "config.json").exists() else resolve_model(model))


# ----------------------------------------------------------------------------- one model, one protocol


@dataclass
class Drawn:
    """What drawing a protocol's samples from one model came to. The samples themselves are in `eval_candidates`.

    Attributes:
        model: hash of the model's content.
        failures: requests that the engine could not serve.
        unsettled: by prompt, verdicts on samples that our own graders failed on. These samples are not stored.
    """

    model: str
    failures: list[Failure] = field(default_factory=list)
    unsettled: dict[str, list[Verdict]] = field(default_factory=dict)


def draw(run: Run, engine: Engine, protocol: Protocol, label: str, reporter: Reporter) -> Drawn:
    """Draw a protocol's samples and grade them by rule; samples that are there already are not drawn again.

    Raises:
        UserError: programs would have to be run and cannot be.
    """
    protocol = protocol.drawn
    _refuse_without_sandbox(protocol)
    prompts = {prompt["prompt_id"]: prompt for prompt in protocol.prompts}
    head = (protocol.suite, engine.model_hash, protocol.id)
    drawn = Drawn(engine.model_hash)
    with run.writer("eval_candidates") as writer, WorkerPool(2) as pool:
        wanted = [(p, i) for p in prompts for i in range(protocol.n) if (*head, p, i) not in writer.keys]
        total = len(prompts) * protocol.n
        results = engine.sample(_requests(wanted, prompts, protocol, engine.model_hash))
        done = total - len(wanted)
        for batch in _batches(results, drawn.failures):
            graded = _graded(batch, prompts, protocol, pool)
            # A failure of ours says nothing for ever: such a sample is drawn and graded again by the next call.
            for (prompt_id, _), _, verdict in graded:
                if verdict.fault is Fault.SYSTEM:
                    drawn.unsettled.setdefault(prompt_id, []).append(verdict)
            writer.append(_rows(graded, prompts, protocol, engine))
            done += len(batch)
            reporter.update(f"eval: {label}: {done:,} of {total:,} samples")
    return drawn


def figures_of(
    run: Run, drawn: Drawn, protocol: Protocol, label: str, reporter: Reporter
) -> tuple[Path, dict[str, list[Metric]]]:
    """Put what rules leave open to the judge, where the protocol has one, and sum up.

    Returns:
        the file of the metrics, and the metrics by slice ("all", "domain=…").

    Raises:
        UserError: samples that could not be drawn, a judge that answers nothing, or above 1 % of the samples that
            could not be graded by our own fault.
    """
    prompts = {prompt["prompt_id"]: prompt for prompt in protocol.prompts}
    rows = _stored(run, (protocol.suite, drawn.model, protocol.drawn.id))
    _refuse_undrawn(len(rows), drawn, protocol, label)
    part = f"{protocol.id[:12]}-{drawn.model[:12]}"
    if protocol.judge is not None:
        rows = judged_rows(run, rows, prompts, protocol, reporter)
        run.replace("eval_candidates", f"judged-{part}", rows)
    verdicts: dict[str, list[Verdict]] = {}
    for row in rows:
        verdicts.setdefault(row["prompt_id"], []).append(Verdict.from_row(row))
    for prompt_id, more in drawn.unsettled.items():
        verdicts.setdefault(prompt_id, []).extend(more)
    _refuse_ungraded(verdicts, protocol, label)
    metrics = _summaries(verdicts, prompts, protocol)
    return run.replace("evals", part, _metric_rows(metrics, protocol, drawn.model, label)), metrics


def _refuse_without_sandbox(protocol: Protocol) -> None:
    """Better before the samples are drawn than after."""
    from filters.sandbox import Unavailable, local

    programs = [options(prompt) for prompt in protocol.prompts if prompt["verifier"] == "code"]
    try:
        for interpreter in {options.get("interpreter") for options in programs if not options.get("remote")}:
            local(interpreter)
    except Unavailable as error:
        raise UserError(
            f"{protocol.suite} asks for programs, and they cannot be run here: {error}"
        ) from error


def _refuse_undrawn(stored: int, drawn: Drawn, protocol: Protocol, label: str) -> None:
    """No figure, and no request to a judge, where samples are missing."""
    total = len(protocol.prompts) * protocol.n
    missing = total - stored - sum(map(len, drawn.unsettled.values()))
    if missing:
        why = f"; the first: {drawn.failures[0].message}" if drawn.failures else ""
        raise UserError(
            f"eval of {label}: {missing} of {total} samples could not be drawn{why}. Finished samples are kept: "
            "put it right (a longer --prompt-length, say) and run it again"
        )


def _refuse_ungraded(verdicts: Mapping[str, Sequence[Verdict]], protocol: Protocol, label: str) -> None:
    """No figure where more than 1 % have no grade by our own fault."""
    total = sum(map(len, verdicts.values()))
    fails = [v for samples in verdicts.values() for v in samples if v.score is None]
    if len(fails) <= MAX_LEFT_OUT * total:
        return
    first = fails[0]
    outcome = f"{first.outcome} ({first.fault})" if first.fault else first.outcome
    open_kinds = NEED_A_JUDGE & protocol.graders.keys() and first.outcome is Outcome.UNVERIFIABLE
    hint = (
        ". A judge can be asked: --judge MODEL, or `judge:` in a suite or in a recipe's evaluation"
        if protocol.judge is None and open_kinds
        else ""
    )
    raise UserError(
        f"eval of {label}: {len(fails)} of {total} samples could not be graded, more than 1 %; no figure is "
        f"given. The first: {outcome}: {first.explanation}{hint}"
    )


def _requests(
    wanted: Sequence[tuple[str, int]], prompts: Mapping[str, dict[str, Any]], protocol: Protocol, model: str
) -> Iterator[SampleRequest]:
    for prompt_id, index in wanted:
        seed = sample_seed(protocol.seed, f"{model}:{prompt_id}:{index}")
        yield SampleRequest(f"{prompt_id}:{index}", tuple(prompts[prompt_id]["messages"]), seed)


def _batches(results: Iterator[Completion | Failure], failures: list[Failure]) -> Iterator[list[Completion]]:
    """Completions in batches; what failed is put into `failures`."""
    while drawn := list(islice(results, BATCH)):
        failures += [result for result in drawn if isinstance(result, Failure)]
        yield [result for result in drawn if isinstance(result, Completion)]


_Graded = tuple[tuple[str, int], Completion, Verdict]
"""((prompt id, sample index), what was drawn, what it is worth)"""


def _graded(
    batch: list[Completion], prompts: Mapping[str, dict[str, Any]], protocol: Protocol, pool: WorkerPool
) -> list[_Graded]:
    style = parse_template(protocol.template).style
    keys = [(prompt_id, int(index)) for prompt_id, index in (c.key.split(":") for c in batch)]
    tasks = (
        GradeTask(
            prompts[prompt_id]["verifier"],
            prompts[prompt_id]["question"],
            prompts[prompt_id]["reference"],
            completion.text,
            options(prompts[prompt_id]),
            style,
            truncated=completion.finish_reason == "length",
        )
        for (prompt_id, _), completion in zip(keys, batch, strict=True)
    )
    return list(zip(keys, batch, pool.verify(tasks), strict=True))


def _rows(
    graded: Iterable[_Graded], prompts: Mapping[str, dict[str, Any]], protocol: Protocol, engine: Engine
) -> list[dict[str, Any]]:
    """What is stored of graded samples."""
    rows = [
        _row(protocol, engine, prompts[prompt_id], index, completion, verdict)
        for (prompt_id, index), completion, verdict in graded
        if verdict.fault is not Fault.SYSTEM
    ]
    return [_without_text(row) for row in rows] if protocol.sealed else rows


def _row(
    protocol: Protocol,
    engine: Engine,
    prompt: Mapping[str, Any],
    index: int,
    completion: Completion,
    verdict: Verdict,
) -> dict[str, Any]:
    return {
        "suite": protocol.suite,
        "model": engine.model_hash,
        "protocol": protocol.id,
        "prompt_id": prompt["prompt_id"],
        "sample_index": index,
        "question": prompt["question"],
        "reference": prompt["reference"],
        "domain": prompt["domain"],
        "seed": sample_seed(protocol.seed, f"{engine.model_hash}:{prompt['prompt_id']}:{index}"),
        "completion": completion.text,
        "finish_reason": completion.finish_reason,
        "completion_tokens": completion.completion_tokens,
        **verdict_columns(verdict),
    }


def _without_text(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a sealed suite: completions quote questions and choices, so of an answer only its hash is kept.

    Votes go on counting, since equal answers have equal hashes.
    """
    answer = row["extracted_answer"]
    return row | {
        "question": None,
        "completion": None,
        "extracted_answer": None if answer is None else f"sealed:{content_id(vote_key(answer))}",
        "explanation": "no text of this suite is kept",
        "detail": None,
    }


def _stored(run: Run, head: tuple[str, str, str]) -> list[dict[str, Any]]:
    """Rows of `eval_candidates` of one (suite, model, protocol), by prompt and sample."""
    import pyarrow.compute as pc

    table = run.read("eval_candidates", EVAL_CANDIDATES.schema.names)
    mask = pc.and_(
        pc.and_(pc.equal(table["suite"], head[0]), pc.equal(table["model"], head[1])),
        pc.equal(table["protocol"], head[2]),
    )
    ordered = table.filter(mask).sort_by([("prompt_id", "ascending"), ("sample_index", "ascending")])
    rows: list[dict[str, Any]] = ordered.to_pylist()
    return rows


def _summaries(
    verdicts: Mapping[str, Sequence[Verdict]], prompts: Mapping[str, dict[str, Any]], protocol: Protocol
) -> dict[str, list[Metric]]:
    slices: dict[str, dict[str, Sequence[Verdict]]] = {"all": dict(verdicts)}
    for prompt_id, samples in verdicts.items():
        slices.setdefault(f"domain={prompts[prompt_id]['domain']}", {})[prompt_id] = samples
    many = [k for k in protocol.ks if k > 1] if protocol.majority else []
    metrics: dict[str, list[Metric]] = {}
    for name, part in sorted(slices.items()):
        scores = {prompt: [SampleScore.of(v) for v in samples] for prompt, samples in part.items()}
        metrics[name] = summarise(scores, protocol.ks, majority_ks=many, seed=protocol.seed)
        if protocol.measures:
            graded = {p: [Sample(v, options(prompts[p])) for v in found] for p, found in part.items()}
            metrics[name] += summarise_measures(protocol.measures, graded, seed=protocol.seed)
    if protocol.macro:
        metrics["all"].append(_macro(slices, metrics["all"][0].left_out, protocol.seed))
    return metrics


def _macro(slices: Mapping[str, Mapping[str, Sequence[Verdict]]], left_out: int, seed: int) -> Metric:
    groups = {
        name: list(
            prompt_values({p: [SampleScore.of(v) for v in found] for p, found in part.items()}).values()
        )
        for name, part in slices.items()
        if name != "all"
    }
    return macro_average("macro pass@1", groups, left_out=left_out, seed=seed)


def _metric_rows(
    metrics: Mapping[str, list[Metric]], protocol: Protocol, model: str, label: str
) -> list[dict[str, Any]]:
    return [
        {
            "suite": protocol.suite,
            "model": model,
            "protocol": protocol.id,
            "slice": name,
            "metric": metric.name,
            "label": label,
            "value": metric.value,
            "low": metric.low,
            "high": metric.high,
            "k": metric.k,
            "n": metric.n,
            "prompts": metric.prompts,
            "left_out": metric.left_out,
            "seed": protocol.seed,
            "protocol_text": protocol.text,
            "created_at": now(),
        }
        for name, part in metrics.items()
        for metric in part
    ]


# ------------------------------------------------------------------------------------- `factory eval`

EngineFor = Callable[[Protocol, int], Engine]
"""(protocol, longest prompt in tokens) -> an engine that samples as the protocol says."""


class GemmaEngines:
    """Engines over one model folder; suites that are sampled alike share one.

    Raises:
        UserError: at once, where there is no such model or its folder is not whole.
        ModuleNotFoundError: at once, where JAX is not installed, before any question is fetched.
    """

    def __init__(self, model: str, batch_size: int) -> None:
        _model_folder(model)
        if find_spec("jax") is None:
            raise ModuleNotFoundError("No module named 'jax'", name="jax")
        self.model, self.batch_size = model, batch_size
        self._made: dict[str, Engine] = {}

    def __call__(self, protocol: Protocol, prompt_length: int) -> Engine:
        key = content_id([protocol.template, protocol.sampling.model_dump(), prompt_length])
        if key not in self._made:
            self.release()
            self._made[key] = _gemma(self.model, protocol, prompt_length, self.batch_size)
        return self._made[key]

    def release(self) -> None:
        """Let go of the engine: one compiled model at a time."""
        self._made.clear()

    def judge(self, spec: JudgeEngine) -> LanguageJudge:
        """The judge of a suite. Its engine is opened when the model's own is gone."""
        judge = language_judge(spec)

        def open_engine() -> Engine:
            self.release()
            return judge.open()

        return replace(judge, open=open_engine)


def evaluate_suites(
    run: Run,
    suites: Iterable[Suite],
    engine_for: EngineFor,
    *,
    template: str,
    label: str,
    seed: int,
    reporter: Reporter,
    judge_for: JudgeFor = language_judge,
) -> list[SuiteResult]:
    """Evaluate a model on several suites. One that fails costs the others nothing: its result says why."""
    from factory.suites import suite_prompts

    parse_template(template)
    results: list[SuiteResult] = []
    for suite in suites:
        with reporter.stage(f"eval of {label} on {suite.name}"):
            try:
                prompts = suite_prompts(suite, reporter)
                judge = suite_judge(suite.judge, prompts, suite.sealed, judge_for)
                protocol = _protocol(suite, prompts, template, seed, judge)
                reporter.say(f"  {suite.name}: {protocol.text}")
                drawn = draw(run, engine_for(protocol, suite.prompt_length), protocol, label, reporter)
                _, metrics = figures_of(run, drawn, protocol, label, reporter)
                figures = tuple(_metric_rows(metrics, protocol, drawn.model, label))
                results.append(SuiteResult(suite.name, protocol.text, figures))
            except UserError as error:
                reporter.say(f"  {suite.name} failed: {error}")
                results.append(SuiteResult(suite.name, error=str(error)))
    return results


def _protocol(
    suite: Suite, prompts: tuple[dict[str, Any], ...], template: str, seed: int, judge: SuiteJudge | None
) -> Protocol:
    from factory.suites import suite_notes, suite_origin

    return Protocol(
        suite=suite.name,
        origin=suite_origin(suite),
        prompts=prompts,
        template=template,
        sampling=suite.sampling,
        n=suite.n,
        ks=tuple(sorted(set(suite.k))),
        seed=seed,
        measures=suite.measures,
        macro=suite.macro,
        majority=suite.majority,
        notes=suite_notes(suite, prompts),
        sealed=suite.sealed,
        judge=judge,
    )


def print_results(model: str, results: Sequence[SuiteResult]) -> None:
    """Print what `evaluate_suites` found, for people: a table a suite, then the first figure of each."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, emoji=False)
    for result in results:
        console.print(f"\n[bold]{result.suite}[/bold]")
        said = f"failed: {result.error}" if result.error else result.protocol
        console.print(f"{model}: {said}", markup=False)
        if not result.error:
            console.print(_table(result))
    if len(results) > 1:
        summary = Table(
            "suite", "measure", "value", "95 % interval", "questions", "left out", show_edge=False
        )
        for result in results:
            row = _headline(result)
            summary.add_row(result.suite, *(("failed", "", "", "", "") if row is None else _cells(row)))
        console.print("\n[bold]in short[/bold]", summary, sep="\n")


def _table(result: SuiteResult) -> Any:
    from rich.table import Table

    table = Table("slice", "measure", "value", "95 % interval", "questions", "left out", show_edge=False)
    for column in table.columns[:2]:
        column.overflow = "fold"
    domains = {row["slice"] for row in result.metrics} - {"all"}
    for row in result.metrics:
        if row["slice"] == "all" or len(domains) > 1:
            table.add_row(row["slice"].removeprefix("domain="), *_cells(row))
    return table


def _headline(result: SuiteResult) -> Mapping[str, Any] | None:
    """The suite's own first measure, else its first metric, which is pass@ the smallest k."""
    whole = [row for row in result.metrics if row["slice"] == "all"]
    own = [row for row in whole if row["metric"] in MEASURES]
    return next(iter(own or whole), None)


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    value, low, high = row["value"], row["low"], row["high"]
    figures = ("-", "-") if value is None else (f"{value:.1%}", f"{low:.1%} to {high:.1%}")
    return (row["metric"], *figures, f"{row['prompts']:,}", f"{row['left_out']:,}")
