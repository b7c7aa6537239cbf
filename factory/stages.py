"""What each stage of a run does. Every one of them can be killed at any moment and started again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from factory.console import Reporter, duration
from factory.files import sha256_of
from factory.recipe import trained_stage
from factory.records import generation_id
from factory.store import Run
from factory.students import SftStage, Student
from factory.teacher.scorer_settings import FilePairs, RewardModelSpec
from filters.errors import UserError

if TYPE_CHECKING:
    from distill.gemma.folder import ModelFolder
    from factory.generate import Progress
    from factory.parts import JudgeEngine
    from factory.recipe import Generate, Mix, Recipe, Select
    from factory.sources.rows import BadRow


@dataclass(frozen=True)
class Context:
    """What a stage works with. `asked_for`: stages that a person asked to be done again."""

    run: Run
    recipe: Recipe
    reporter: Reporter
    asked_for: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StageResult:
    """Files a stage made (or completed), the counts that describe it, and the seconds of work that are in them.

    `seconds` is None where the clock of the stage knows as much.
    """

    outputs: list[Path] = field(default_factory=list)
    counts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None


_NO_DOWNLOADS: ContextVar[bool] = ContextVar("no_downloads", default=False)


@contextlib.contextmanager
def without_downloads() -> Iterator[None]:
    """Within it `model_hash` lets a name stand for a model that is not on this machine: for plans."""
    token = _NO_DOWNLOADS.set(True)
    try:
        yield
    finally:
        _NO_DOWNLOADS.reset(token)


def model_hash(name: str) -> str:
    """Content hash of a model folder. A model of the same run has none yet: its stage stands for it.

    Raises:
        UserError: there is no such model, or its folder is not whole.
    """
    if trained_stage(name) is not None:
        return name
    if _NO_DOWNLOADS.get():
        from distill.gemma.sizes import is_downloaded

        if not is_downloaded(name):
            return f"{name}, not downloaded yet"
    return _content_hash(name)


@functools.cache
def _content_hash(name: str) -> str:
    from distill.gemma.folder import ModelFolder, resolve_model

    return ModelFolder.open(resolve_model(name)).content_hash


def template_content(template: str) -> dict[str, Any]:
    """What of a template takes part in a candidate's id."""
    from distill.chat import parse_template

    content: dict[str, Any] = parse_template(template).to_dict()
    return content


def model_folder(run: Run, name: str) -> ModelFolder:
    """A model's folder: of this run's student or teacher, a path, a shipped model or a Hub id.

    Raises:
        UserError: there is no such model, or its folder is not whole.
    """
    from distill.gemma.folder import ModelFolder, resolve_model
    from factory.train import trained_folder

    if trained_stage(name) is not None:
        return ModelFolder.open(trained_folder(run, name) / "model")
    return ModelFolder.open(resolve_model(name))


def generation_of(run: Run, spec: Generate) -> str:
    """Id of the way of sampling that a generate stage asks for."""
    content = model_folder(run, spec.model).content_hash
    return generation_id(content, template_content(spec.template), spec.sampling.model_dump())


def samplings(recipe: Recipe) -> dict[str | None, Generate]:
    """Everything a recipe samples for mixes: under None what its `generate` asks for, where it has one."""
    found: dict[str | None, Generate] = {} if recipe.generate is None else {None: recipe.generate}
    found.update(recipe.samplings)
    return found


def prompt_files(recipe: Recipe) -> dict[str, Any]:
    """Checksums of the files that a recipe's questions come from: another content is another stage."""
    from factory.sources import FilesSource, HubSource
    from factory.sources.files import data_files

    paths: list[Path] = []
    for source in recipe.prompts.sources if recipe.prompts else ():
        if isinstance(source, HubSource) and source.local is not None and source.local.is_dir():
            paths += sorted(path for path in source.local.rglob("*") if path.is_file())
        elif isinstance(source, HubSource) and source.local is not None:
            paths += data_files(source.local, source.archive)
        elif isinstance(source, FilesSource):
            paths += data_files(source.path, source.archive)
    return {"files": {str(path): sha256_of(path) for path in paths}} if paths else {}


def general_file(mix: Mix) -> dict[str, Any]:
    """Checksum of the file of a mix's general component.

    Raises:
        UserError: it is not there.
    """
    if mix.general is None or mix.general.source.kind != "file":
        return {}
    path = mix.general.source.path
    if not path.is_file():
        raise UserError(f"there is no file {path} for the general component of a mix")
    return {"general_sha256": sha256_of(path)}


def training_files(student: Student) -> dict[str, Any]:
    """Checksums of the local files that a student is trained on in place of a mix."""
    from distill.data import files_of

    if student.data is None or not Path(student.data).exists():
        return {}
    return {"data_files": {str(path): sha256_of(path) for path in files_of(Path(student.data))}}


def pairs_file(spec: RewardModelSpec) -> dict[str, Any]:
    """Checksum of the file that a reward model's pairs come from, where they come from one.

    Raises:
        UserError: it is not there.
    """
    if not isinstance(spec.labels, FilePairs):
        return {}
    if not spec.labels.path.is_file():
        raise UserError(f"there is no file of pairs {spec.labels.path}")
    return {"pairs_sha256": sha256_of(spec.labels.path)}


def grader_versions() -> dict[str, Any]:
    """Versions of graders and measures: a better one judges again."""
    from filters.signals import SIGNAL_VERSION
    from filters.verifiers import KINDS

    return {"graders": {kind.name: kind.version for kind in KINDS.values()}, "signals": SIGNAL_VERSION}


def prompts(context: Context) -> StageResult:
    """Read every source and write the prompts, each once."""
    from factory.sources import load_prompts
    from factory.sources.gym import without_held_out_problems

    bad: list[BadRow] = []
    rows: dict[str, dict[str, Any]] = {}
    twice = 0
    assert context.recipe.prompts is not None
    splits = context.recipe.prompts.splits
    for spec in context.recipe.prompts.sources:
        for row in load_prompts(spec, splits=splits, on_bad_row=bad.append):
            known = rows.setdefault(row["question_hash"], row)
            if known is not row:  # two sources hold the same question: what one holds out stays held out
                twice += 1
                if row["evaluation_only"] and not known["evaluation_only"]:
                    rows[row["question_hash"]] = row
            if len(rows) % 200 == 0:
                context.reporter.update(f"prompts: {len(rows):,}")
    for line in bad[:10]:
        context.reporter.say(f"  left out: {line}")
    if len(bad) > 10:
        context.reporter.say(f"  … and {len(bad) - 10} more rows")
    kept, again = without_held_out_problems(rows.values())
    path = context.run.replace("prompts", "main", kept)
    counts: dict[str, Any] = {"prompts": len(kept)}
    for row in kept:
        counts[row["split"]] = counts.get(row["split"], 0) + 1
    if bad:
        counts["bad rows"] = len(bad)
    if twice:
        counts["in two sources"] = twice
    if again:
        counts["left out: a held-out question in other words"] = again
    return StageResult([path], counts)


def training_prompts(
    run: Run, limit: int | None = None, which: Literal["all", "graded", "general"] = "all"
) -> list[dict[str, Any]]:
    """Prompts that may be trained on, in the order of their ids; the first `limit` by the hash of their questions.

    Args:
        which: "graded": those with a grader; "general": those without.
    """
    from factory.judge import is_graded

    rows = run.read("prompts").to_pylist()
    chosen = [row for row in rows if row["split"] == "train" and not row["evaluation_only"]]
    if which != "all":
        chosen = [row for row in chosen if is_graded(row) == (which == "graded")]
    chosen.sort(key=lambda row: (row["question_hash"], row["prompt_id"]))
    return sorted(chosen[:limit], key=lambda row: row["prompt_id"])


def teach_rl(name: str) -> Callable[[Context], StageResult]:
    """One stage of the teacher that learns by reinforcement."""

    def work(context: Context) -> StageResult:
        from factory.teacher.stages import reinforce

        return StageResult(*reinforce(context.run, name, context.recipe, context.reporter))

    return work


def teach_sft(name: str) -> Callable[[Context], StageResult]:
    """One stage of the teacher that is fine-tuned on a mix."""

    def work(context: Context) -> StageResult:
        from factory.train import fine_tune

        spec = context.recipe.teacher[name]
        assert isinstance(spec, SftStage)
        return StageResult(
            *fine_tune(context.run, f"teacher:{name}", spec, context.reporter, context.recipe.mesh)
        )

    return work


def reward_model(name: str) -> Callable[[Context], StageResult]:
    """Pairs, and a reward model trained on them."""

    def work(context: Context) -> StageResult:
        from factory.teacher.scorers import train_scorer

        spec = context.recipe.scorers[name]
        assert isinstance(spec, RewardModelSpec)
        sampling = samplings(context.recipe)[spec.of]
        return StageResult(*train_scorer(context.run, name, spec, sampling, context.reporter))

    return work


def generate(name: str | None) -> Callable[[Context], StageResult]:
    """The teacher answers every training prompt n times, for one of the recipe's samplings."""

    def work(context: Context) -> StageResult:
        return _generate(context, samplings(context.recipe)[name])

    return work


def _generate(context: Context, spec: Generate) -> StageResult:
    from distill.chat import parse_template
    from distill.gemma.mesh import make_mesh
    from factory.engines.gemma import GemmaEngine
    from factory.generate import Plan
    from factory.generate import generate as draw

    chosen = training_prompts(context.run, spec.max_prompts, spec.prompts)
    if not chosen:
        why = "every prompt of this run is held out for evaluation"
        if spec.prompts != "all":
            why = f"this run has no training prompt of the kind that prompts: {spec.prompts} asks for"
        raise UserError(f"there is no prompt to sample from: {why}")
    plan = Plan(chosen, generation_of(context.run, spec), spec.n, context.recipe.seed)
    where = context.recipe.mesh
    engine = GemmaEngine(
        model_folder(context.run, spec.model),
        model_name=spec.model,
        template=parse_template(spec.template),
        prompt_length=spec.prompt_length,
        batch_size=spec.batch_size,
        dtype=spec.dtype or "float32",
        mesh=None if where is None else make_mesh(where.fsdp, where.tp),
        **spec.sampling.model_dump(),
    )
    progress = draw(
        context.run,
        plan,
        engine,
        template=spec.template,
        on_progress=lambda p: context.reporter.update(_generation_line(p)),
    )
    if progress.left_out:
        context.reporter.say(
            f"  {progress.left_out} samples left out: prompt longer than prompt_length ({spec.prompt_length}); "
            "see the table `attempts`"
        )
    counts = {
        "candidates": progress.done,
        "kept from before": progress.resumed,
        "tokens drawn": progress.tokens,
        "tokens/s": round(progress.tokens_per_second or 0),
        "truncated": progress.truncated,
        "left out": progress.left_out,
        "failed": progress.failed,
    }
    return StageResult(
        context.run.shards("candidates"), {k: v for k, v in counts.items() if v or k == "candidates"}
    )


def _generation_line(progress: Progress) -> str:
    speed, left = progress.tokens_per_second, progress.seconds_left
    rate = "" if speed is None else f", {speed:,.0f} tokens/s"
    eta = "" if left is None else f", about {duration(left)} to go"
    return f"generate: {progress.done:,} of {progress.total:,} samples{rate}{eta}"


def judge(name: str | None) -> Callable[[Context], StageResult]:
    """Verdicts and signals for every candidate of one sampling."""

    def work(context: Context) -> StageResult:
        return _judge(context, samplings(context.recipe)[name], "judge" if name is None else f"judge:{name}")

    return work


def _judge(context: Context, spec: Generate, stage: str) -> StageResult:
    from factory.judge import judge_candidates

    counts = judge_candidates(
        context.run,
        context.recipe.judge,
        generation=generation_of(context.run, spec),
        n=spec.n,
        afresh=stage in context.asked_for,
        on_progress=lambda done, total: context.reporter.update(f"{stage}: {done:,} of {total:,} candidates"),
        on_asked=lambda done, total: context.reporter.update(f"{stage}: {done:,} of {total:,} replies"),
    )
    if failed := counts.get("requests failed"):
        context.reporter.say(
            f"  {failed:,} requests to the judge failed, and what needs them is unverifiable: see the table "
            f"`judgement_attempts`; --from {stage} asks them again and keeps every other reply"
        )
    outputs = [path for table in ("verdicts", "signals", "judgements") for path in context.run.shards(table)]
    return StageResult(outputs, counts)


def judge_model(spec: JudgeEngine | None) -> dict[str, Any]:
    """Content hash of the model that judges, where there is one."""
    return {} if spec is None else {"llm_hash": model_hash(spec.model)}


def select(name: str) -> Callable[[Context], StageResult]:
    """The select stage of one mix."""

    def work(context: Context) -> StageResult:
        from factory.query import connect, set_policy
        from factory.select import candidate_facts, decide

        mix = context.recipe.mixes[name]
        spec = samplings(context.recipe)[mix.of]
        set_policy(context.run, context.recipe.judge.policy)
        with connect(context.run) as connection:
            facts = candidate_facts(connection, generation_of(context.run, spec), spec.n)
            size = _size_of_other(context.run, mix.select)
        decisions = decide(name, mix.select, facts, seed=mix.seed, size=size)
        path = context.run.replace("decisions", f"mix={name}", decisions)
        accepted = sum(row["accepted"] for row in decisions)
        return StageResult([path], {"candidates": len(decisions), "accepted": accepted})

    return work


def _size_of_other(run: Run, spec: Select) -> int | None:
    if spec.same_size_as is None:
        return None
    manifest = run.manifest(f"select:{spec.same_size_as}")
    assert manifest is not None, "the walker runs the other mix first"
    return int(manifest["counts"]["accepted"])


def mix(name: str) -> Callable[[Context], StageResult]:
    """The mix stage of one mix."""

    def work(context: Context) -> StageResult:
        from factory.mix import build_mix
        from factory.query import connect

        with connect(context.run) as connection:
            paths, counts = build_mix(context.run, name, context.recipe.mixes[name], connection)
        return StageResult(paths, counts)

    return work


def train(name: str) -> Callable[[Context], StageResult]:
    """Distillation of one student."""

    def work(context: Context) -> StageResult:
        from factory.train import fine_tune

        spec = context.recipe.students[name]
        return StageResult(
            *fine_tune(context.run, f"student:{name}", spec, context.reporter, context.recipe.mesh)
        )

    return work


def score(model: str, spec: Student) -> Callable[[Context], StageResult]:
    """A teacher's likeliest tokens for what a model will be trained on."""

    def work(context: Context) -> StageResult:
        from factory.train import score_samples

        return StageResult(*score_samples(context.run, model, spec, context.reporter))

    return work


def evaluate(context: Context) -> StageResult:
    """pass@k of every model on the held-out prompts."""
    from factory.evaluate import evaluate_models

    assert context.recipe.evaluation is not None
    return StageResult(*evaluate_models(context.run, context.recipe.evaluation, context.reporter))


def report(context: Context) -> StageResult:
    """The page a person reads at the end."""
    from factory.report import write_report

    write_report(context.run)  # may be written again at any time (`factory report`), so no output to check
    return StageResult()
