"""The scorers of a recipe: reward models trained in the run, rubrics with a judge, patterns."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.chat import parse_template
from factory.console import Reporter
from factory.files import sha256_of
from factory.query import connect
from factory.query import rows as query_rows
from factory.records import content_id, question_hash
from factory.store import Run
from factory.teacher.preference import (
    KIND,
    SEES,
    Label,
    ModelScorer,
    Response,
    make_pairs,
    pair_split,
    preferences,
    summary_of,
    training_rows,
)
from factory.teacher.reward_settings import Rewards, Rubric
from factory.teacher.rewards import RubricScorer, RuleScorer, Scorer
from factory.teacher.scorer_settings import (
    FilePairs,
    JudgeLabels,
    PatternSpec,
    RewardModelSpec,
    RubricSpec,
    ScorerSpec,
    TinyLabels,
)
from filters.errors import UserError

if TYPE_CHECKING:
    from factory.recipe import Generate, Recipe
    from filters.tags import TagStyle

_SAMPLES = """
select c.prompt_id, p.question, c.completion
from candidates c join prompts p using (prompt_id)
where c.generation_id = ? and c.sample_index < ? and c.finish_reason = 'stop'
order by c.candidate_id
"""


def reward_folder(run: Run, name: str) -> Path:
    """Folder of a reward model of a run."""
    return run.folder / "rewards" / name


def train_scorer(
    run: Run, name: str, spec: RewardModelSpec, sampling: Generate, reporter: Reporter
) -> tuple[list[Path], dict[str, Any]]:
    """Make the pairs of one reward model, train it in `RUN/rewards/NAME`, and measure it on held-out questions.

    Returns:
        the files that the stage answers for, and its counts.

    Raises:
        UserError: no two samples of a question were labelled differently, or a file of pairs cannot be read.
    """
    from distill.preference_data import RewardConfig
    from distill.reward_model import another_reward_model, train_reward_model
    from factory.stages import model_folder
    from factory.train import move_aside

    style = parse_template(sampling.template).style
    rows, questions = _pairs(run, spec, sampling, style)
    if not rows:
        raise UserError(
            f"scorers.{name}: no two samples of a question were labelled differently, so there is nothing to learn; "
            "draw more samples, or choose other labels"
        )
    written = run.replace("pairs", name, rows)
    shown_in = parse_template(spec.template).style
    data = training_rows(preferences(rows, questions, spec.purpose, style, shown_in=shown_in), spec.purpose)
    shared = {field.name for field in dataclasses.fields(RewardConfig)} & set(RewardModelSpec.model_fields)
    settings = {key: getattr(spec, key) for key in shared - {"kind"}}
    config = RewardConfig(kind=KIND[spec.purpose], sees=SEES[spec.purpose], **settings)
    base, out = model_folder(run, spec.base), reward_folder(run, name)

    if another_reward_model(config, data, base.path, out):
        move_aside(out, "its data or its settings changed", reporter)
    result = train_reward_model(
        config,
        data,
        base.path,
        out,
        on_step=lambda step, steps, loss: reporter.update(
            f"reward:{name}: step {step:,} of {steps:,}, loss {loss:.3f}"
        ),
        on_message=lambda text: reporter.say(f"  {text}"),
    )
    counts: dict[str, Any] = {"pairs": len(rows), "steps": result.steps}
    held_out = result.held_out.get("test") or result.held_out.get("validation")
    if held_out is not None:
        share = f"{held_out.accuracy:.1%} [{100 * held_out.low:.1f}, {100 * held_out.high:.1f}]"
        counts["held-out accuracy"] = share.replace("%", " %")
        counts["an opinion that reads nothing"] = f"{held_out.baseline:.1%}".replace("%", " %")
    return [written, *(path for path in out.iterdir() if path.is_file())], counts


def _pairs(
    run: Run, spec: RewardModelSpec, sampling: Generate, style: TagStyle
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of `pairs`, and the questions of their prompts."""
    if isinstance(spec.labels, FilePairs):
        return _read_pairs(spec.labels.path, spec)
    from factory.stages import generation_of

    with connect(run) as connection:
        found = query_rows(connection, _SAMPLES, [generation_of(run, sampling), sampling.n])
    responses = [Response(row["prompt_id"], row["question"], row["completion"]) for row in found]

    def seen(response: Response) -> str:
        return summary_of(response.text, style) if SEES[spec.purpose] == "summary" else response.text

    label, source = _label(spec, responses, seen)
    rows = make_pairs(
        responses, label, spec.purpose, source=source, seen=seen, per_question=spec.per_question
    )
    return rows, {response.prompt_id: response.question for response in responses}


def _label(spec: RewardModelSpec, responses: Iterable[Response], seen: Any) -> tuple[Label, str]:
    """The annotator, and what it is called in the pairs."""
    if isinstance(spec.labels, TinyLabels):
        from factory.tiny.preferences import SOURCE, harmless, helpfulness

        if spec.purpose == "helpfulness":
            return (lambda r: float(helpfulness(r.question, seen(r)))), SOURCE
        return (lambda r: float(harmless(r.text))), SOURCE
    assert isinstance(spec.labels, JudgeLabels)
    from factory.judgements import language_judge

    judge = language_judge(spec.labels)
    rubric = Rubric(
        weight=1.0,
        sees=SEES[spec.purpose],
        criteria=list(spec.labels.criteria),
        guidance=spec.labels.guidance,
    )
    asked = sorted({(response.question, seen(response)) for response in responses})
    scores = dict(zip(asked, RubricScorer(judge, rubric).score(asked), strict=True))
    return (lambda r: scores[r.question, seen(r)]), f"judge:{judge.name}"


def _read_pairs(path: Path, spec: RewardModelSpec) -> tuple[list[dict[str, Any]], dict[str, str]]:
    if not path.is_file():
        raise UserError(f"there is no file of pairs {path}")
    rows, questions = [], {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            question, chosen, rejected = (value[key] for key in ("question", "chosen", "rejected"))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: expected question, chosen and rejected ({error})"
            ) from error
        if not all(isinstance(text, str) for text in (question, chosen, rejected)):
            raise UserError(f"{path}, line {number}: question, chosen and rejected must be texts")
        what = {
            "prompt_id": question_hash(question),
            "purpose": spec.purpose,
            "chosen": chosen,
            "rejected": rejected,
            "source": f"file:{path.name}",
        }
        questions[what["prompt_id"]] = question
        rows.append({"pair_id": content_id(what), **what, "split": pair_split(question)})
    unique = {row["pair_id"]: row for row in rows}
    return list(unique.values()), questions


def scorers_of(run: Run, recipe: Recipe, rewards: Rewards) -> dict[str, Scorer]:
    """The scorers that a stage's rewards name, ready to be asked."""
    return {name: _scorer(run, name, recipe, rewards) for name in rewards.scorers()}


def identities_of(run: Run, recipe: Recipe, rewards: Rewards) -> dict[str, dict[str, Any]]:
    """By name, what decides about the scores of the scorers that a stage's rewards name: content, never a path.

    Raises:
        UserError: the folder of a reward model or of a judge is not whole.
    """
    return {name: _identity(run, name, recipe.scorers[name]) for name in rewards.scorers()}


def _identity(run: Run, name: str, spec: ScorerSpec) -> dict[str, Any]:
    if isinstance(spec, PatternSpec):
        return spec.model_dump(mode="json")
    if isinstance(spec, RubricSpec):  # its criteria are settings of the reward
        from factory.judgements import language_judge

        return {
            "kind": spec.kind,
            "judge": language_judge(spec).identity,
            "prompt_length": spec.prompt_length,
        }
    from distill.reward_model import HEAD, read_manifest

    folder = reward_folder(run, name)
    manifest = read_manifest(folder)
    if not (folder / HEAD).is_file():
        raise UserError(f"{folder} has no {HEAD}")
    content = {key: manifest[key] for key in ("fingerprint", "backbone", "centre")}
    return {"kind": spec.kind, **content, "head": sha256_of(folder / HEAD)}


def _scorer(run: Run, name: str, recipe: Recipe, rewards: Rewards) -> Scorer:
    spec = recipe.scorers[name]
    if isinstance(spec, RewardModelSpec):
        return ModelScorer(reward_folder(run, name), spec.purpose, name=name)
    if isinstance(spec, PatternSpec):
        return RuleScorer.of_pattern(name, spec.sees, spec.pattern, wanted=spec.wanted)
    assert isinstance(spec, RubricSpec)
    from factory.judgements import language_judge

    if rewards.rubric is None or rewards.rubric.scorer != name:
        raise UserError(f"scorer {name!r} is a rubric's judge, and no rubric of this stage asks it")
    return RubricScorer(language_judge(spec), rewards.rubric)
