"""pass@1, pass@k and maj@k of models on held-out questions, with intervals and the whole protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from distill.chat import parse_template
from factory.console import Reporter
from factory.engines import Completion, Engine, Failure, SampleRequest
from factory.judge import NO_GRADER
from factory.records import EVAL_CANDIDATES, content_id, sample_seed
from factory.store import Run, now
from filters.errors import UserError
from filters.stats import Metric, SampleScore, summarise
from filters.verdict import Verdict
from filters.verifiers import KINDS
from filters.workers import GradeTask, WorkerPool

if TYPE_CHECKING:
    from factory.recipe import Evaluation, Sampling

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
class Protocol:
    """How a suite is asked and graded: everything that a figure depends on beside the model.

    Attributes:
        suite: name of the set of questions; `prompts` are its rows, `split` where they come from.
        template, sampling: of the prompt and of the sampler.
        n: samples a prompt; ks: the k of pass@k and maj@k.
        seed: every sample's own seed is drawn from it, the model and the prompt.
    """

    suite: str
    split: str
    prompts: tuple[dict[str, Any], ...]
    template: str
    sampling: Sampling
    n: int
    ks: tuple[int, ...]
    seed: int

    @property
    def graders(self) -> dict[str, str]:
        return {kind: KINDS[kind].version for kind in sorted({p["verifier"] for p in self.prompts})}

    @property
    def id(self) -> str:
        return content_id(
            {
                "suite": self.suite,
                "prompts": [p["prompt_id"] for p in self.prompts],
                "template": parse_template(self.template).to_dict(),
                "sampling": self.sampling.model_dump(),
                "n": self.n,
                "seed": self.seed,
                "graders": self.graders,
            }
        )

    @property
    def text(self) -> str:
        s = self.sampling
        top_k = f", top-k {s.top_k}" if s.top_k else ""
        graders = ", ".join(f"{kind} {version}" for kind, version in self.graders.items())
        return (
            f"{len(self.prompts)} questions of the {self.split} split, {self.n} samples each; "
            f"template {self.template}; temperature {s.temperature:g}, top-p {s.top_p:g}{top_k}, at most "
            f"{s.max_new_tokens} tokens; answer taken by the tag style, graded by {graders}; "
            f"seed {self.seed}; 95 % bootstrap over questions"
        )


def evaluate_models(run: Run, spec: Evaluation, reporter: Reporter) -> tuple[list[Path], dict[str, Any]]:
    """Evaluate every model of a recipe on the run's held-out prompts.

    Raises:
        UserError: no held-out prompt, or too many samples that our own graders could not grade.
    """
    from factory.train import student_folder

    prompts = held_out_prompts(run, spec.split, spec.max_prompts)
    paths: list[Path] = []
    counts: dict[str, Any] = {"questions": len(prompts)}
    for entry in spec.models:
        kind, _, student = entry.model.partition(":")
        model = str(student_folder(run, student) / "model") if kind == "student" else entry.model
        protocol = Protocol(
            run.folder.name,
            spec.split,
            prompts,
            entry.template,
            spec.sampling,
            spec.n,
            tuple(spec.k),
            spec.seed,
        )
        engine = _engine(model, protocol, spec.prompt_length, spec.batch_size)
        path, metrics = evaluate_one(run, engine, protocol, entry.name, reporter)
        paths.append(path)
        _drop_predecessors(run, protocol.suite, entry.name, engine.model_hash)
        counts[f"{entry.name} pass@1"] = shown(metrics["all"][0])
    return [*paths, *run.shards("eval_candidates")], counts


def _drop_predecessors(run: Run, suite: str, label: str, model: str) -> None:
    """Figures of a model of the same name that was trained before are not this run's any more."""
    for path in run.shards("evals"):
        first = pq.read_table(path, columns=["suite", "label", "model"]).slice(0, 1).to_pylist()
        if first and (first[0]["suite"], first[0]["label"]) == (suite, label) and first[0]["model"] != model:
            path.unlink()


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
    rows = [row for row in table.to_pylist() if row["split"] == split and row["verifier"] != NO_GRADER]
    if not rows:
        raise UserError(
            f"{run.folder} has no question of the {split} split that can be graded; give the source a quota for it"
        )
    return tuple(sorted(rows, key=lambda row: (row["question_hash"], row["prompt_id"]))[:limit])


def _engine(model: str, protocol: Protocol, prompt_length: int, batch_size: int) -> Engine:
    from distill.gemma.folder import ModelFolder, resolve_model
    from factory.engines.gemma import GemmaEngine

    trained = Path(model) / "model"
    folder = ModelFolder.open(trained if (trained / "config.json").exists() else resolve_model(model))
    return GemmaEngine(
        folder,
        model_name=model,
        template=parse_template(protocol.template),
        prompt_length=prompt_length,
        batch_size=batch_size,
        **protocol.sampling.model_dump(),
    )


def evaluate_one(
    run: Run, engine: Engine, protocol: Protocol, label: str, reporter: Reporter
) -> tuple[Path, dict[str, list[Metric]]]:
    """Draw, grade and sum up one model; samples that are there already are not drawn again.

    Returns:
        the file of the metrics, and the metrics by slice ("all", "domain=…").

    Raises:
        UserError: above 1 % of the samples could not be graded by our own fault.
    """
    prompts = {prompt["prompt_id"]: prompt for prompt in protocol.prompts}
    head = (protocol.suite, engine.model_hash, protocol.id)
    with run.writer("eval_candidates") as writer, WorkerPool(2) as pool:
        wanted = [(p, i) for p in prompts for i in range(protocol.n) if (*head, p, i) not in writer.keys]
        total = len(prompts) * protocol.n
        results = engine.sample(_requests(wanted, prompts, protocol, engine.model_hash))
        done = total - len(wanted)
        for batch in _batches(results):
            writer.append(_graded_rows(batch, prompts, protocol, engine, pool))
            done += len(batch)
            reporter.update(f"eval: {label}: {done:,} of {total:,} samples")
    scores, fails = _stored_scores(run, head)
    missing = total - sum(len(samples) for samples in scores.values())
    if missing:
        raise UserError(
            f"eval of {label}: {missing} of {total} samples could not be drawn; raise prompt_length"
        )
    left_out = sum(sample.score is None for samples in scores.values() for sample in samples)
    if left_out > MAX_LEFT_OUT * total:
        raise UserError(
            f"eval of {label}: {left_out} of {total} samples could not be graded, more than 1 %; no figure is given. "
            f"The first: {fails[0]}"
        )
    metrics = _summaries(scores, prompts, protocol)
    rows = _metric_rows(metrics, protocol, engine, label)
    return run.replace("evals", f"{protocol.id[:12]}-{engine.model_hash[:12]}", rows), metrics


def _requests(
    wanted: Sequence[tuple[str, int]], prompts: Mapping[str, dict[str, Any]], protocol: Protocol, model: str
) -> Iterator[SampleRequest]:
    for prompt_id, index in wanted:
        seed = sample_seed(protocol.seed, f"{model}:{prompt_id}:{index}")
        yield SampleRequest(f"{prompt_id}:{index}", tuple(prompts[prompt_id]["messages"]), seed)


def _batches(results: Iterator[Completion | Failure]) -> Iterator[list[Completion]]:
    while drawn := list(islice(results, BATCH)):
        yield [result for result in drawn if isinstance(result, Completion)]


def _graded_rows(
    batch: list[Completion],
    prompts: Mapping[str, dict[str, Any]],
    protocol: Protocol,
    engine: Engine,
    pool: WorkerPool,
) -> list[dict[str, Any]]:
    style = parse_template(protocol.template).style
    keys = [completion.key.split(":") for completion in batch]
    tasks = (
        GradeTask(
            prompts[prompt_id]["verifier"],
            prompts[prompt_id]["question"],
            prompts[prompt_id]["reference"],
            completion.text,
            json.loads(prompts[prompt_id]["verifier_args"] or "{}"),
            style,
            truncated=completion.finish_reason == "length",
        )
        for (prompt_id, _), completion in zip(keys, batch, strict=True)
    )
    return [
        _row(protocol, engine, prompts[prompt_id], int(index), completion, verdict)
        for (prompt_id, index), completion, verdict in zip(keys, batch, pool.verify(tasks), strict=True)
    ]


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
        "outcome": str(verdict.outcome),
        "fault": None if verdict.fault is None else str(verdict.fault),
        "extracted_answer": verdict.extracted_answer,
        "explanation": verdict.explanation,
    }


def _stored_scores(run: Run, head: tuple[str, str, str]) -> tuple[dict[str, list[SampleScore]], list[str]]:
    """Scores by prompt of one (suite, model, protocol), and what our own graders said where they failed."""
    import pyarrow.compute as pc

    table = run.read("eval_candidates", EVAL_CANDIDATES.schema.names)
    mask = pc.and_(
        pc.and_(pc.equal(table["suite"], head[0]), pc.equal(table["model"], head[1])),
        pc.equal(table["protocol"], head[2]),
    )
    scores: dict[str, list[SampleScore]] = {}
    fails: list[str] = []
    for row in (
        table.filter(mask).sort_by([("prompt_id", "ascending"), ("sample_index", "ascending")]).to_pylist()
    ):
        verdict = Verdict.from_row(row)
        scores.setdefault(row["prompt_id"], []).append(SampleScore.of(verdict))
        if verdict.score is None:
            fails.append(f"{verdict.outcome} ({verdict.fault}): {verdict.explanation}")
    return scores, fails


def _summaries(
    scores: Mapping[str, list[SampleScore]], prompts: Mapping[str, dict[str, Any]], protocol: Protocol
) -> dict[str, list[Metric]]:
    slices: dict[str, dict[str, list[SampleScore]]] = {"all": dict(scores)}
    for prompt_id, samples in scores.items():
        slices.setdefault(f"domain={prompts[prompt_id]['domain']}", {})[prompt_id] = samples
    many = [k for k in protocol.ks if k > 1]
    return {
        name: summarise(part, protocol.ks, majority_ks=many, seed=protocol.seed)
        for name, part in sorted(slices.items())
    }


def _metric_rows(
    metrics: Mapping[str, list[Metric]], protocol: Protocol, engine: Engine, label: str
) -> list[dict[str, Any]]:
    return [
        {
            "suite": protocol.suite,
            "model": engine.model_hash,
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


def evaluate_suite(
    run_folder: Path,
    *,
    model: str,
    suite: str,
    n: int,
    ks: Sequence[int],
    split: str,
    prompt_count: int,
    template: str,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    prompt_length: int,
    batch_size: int,
    seed: int,
    label: str | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """`factory eval`: a model on a source of the catalogue, or on a file of questions.

    Raises:
        UserError: an unknown suite or model, or k above n.
    """
    from factory.recipe import Sampling

    if max(ks) > n:
        raise UserError(f"--k {max(ks)} needs at least as many samples a question, --n is {n}")
    prompts = suite_prompts(suite, split, prompt_count, seed)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    protocol = Protocol(Path(suite).stem, split, prompts, template, sampling, n, tuple(sorted(set(ks))), seed)
    engine = _engine(model, protocol, prompt_length, batch_size)
    run = Run.create(run_folder)
    with reporter.stage(f"eval of {model} on {suite}"):
        _, metrics = evaluate_one(run, engine, protocol, label or Path(model).name, reporter)
    return {
        "model": model,
        "model_hash": engine.model_hash,
        "suite": protocol.suite,
        "protocol": protocol.text,
        "metrics": _metric_rows(metrics, protocol, engine, label or Path(model).name),
    }


def suite_prompts(suite: str, split: str, count: int, seed: int) -> tuple[dict[str, Any], ...]:
    """Held-out questions of a catalogue source, or all questions of a file."""
    from factory.recipe import Splits
    from factory.sources import catalogue_sources, load_catalogue_source, load_prompts, parse_source

    if suite in catalogue_sources():
        value = load_catalogue_source(suite).model_dump(exclude_unset=True)
        value |= {"quotas": {split: count}} | ({"seed": seed} if value["kind"] == "reasoning_gym" else {})
    elif Path(suite).exists():
        value = {"kind": "files", "path": suite, "evaluation_only": True}
        split = "test"
    else:
        raise UserError(
            f"there is no suite {suite!r}: neither a file, nor a source ({', '.join(catalogue_sources())})"
        )
    rows = [
        row
        for row in load_prompts(parse_source(value, suite), splits=Splits())
        if row["split"] == split and row["verifier"] != NO_GRADER
    ]
    if not rows:
        raise UserError(f"{suite} has no question of the {split} split with a reference to grade against")
    return tuple(sorted(rows, key=lambda row: (row["question_hash"], row["prompt_id"]))[:count])


def print_evaluation(result: Mapping[str, Any]) -> None:
    """Print what `evaluate_suite` found, for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{result['model']}[/bold] on {result['suite']}: {result['protocol']}")
    table = Table("slice", "metric", "value", "95 % interval", "questions", "left out", show_edge=False)
    for row in result["metrics"]:
        value, low, high = row["value"], row["low"], row["high"]
        figures = ("-", "-") if value is None else (f"{value:.1%}", f"{low:.1%} to {high:.1%}")
        table.add_row(row["slice"], row["metric"], *figures, str(row["prompts"]), str(row["left_out"]))
    console.print(table)
