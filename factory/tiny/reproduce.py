"""R1 in miniature: run the recipe `reproduce` with one seed, evaluate every model, and write what the claims come to.

    python -m factory.tiny.reproduce --seed 0 [--run runs/reproduce-0]

writes RUN/reproduce.json and RUN/reproduce.html. It goes on where it stopped, like every run. The questions and
their splits are the same for all seeds; the seed draws everything else: samples, order, noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from distill.chat import parse_template
from distill.command import run_command
from factory.console import Reporter
from factory.files import write_text
from factory.parts import Sampling
from factory.pipeline import Selection, execute
from factory.recipe import Evaluated, Evaluation, Recipe, RlStage, find_recipe, load_recipe
from factory.records import prompt_id, question_hash
from factory.stages import model_folder
from factory.store import Run
from factory.tiny.claims import (
    GREEDY,
    HARDER,
    TEST,
    Answers,
    answers_of,
    correct,
    dump,
    gap,
    languages_of,
    learning_curve,
    mean_of,
    model_figures,
    pass_gap,
    preference_rates,
    seconds_of,
)

RECIPE = "reproduce"
EXTRA = ("base", "zero", "reasoning_rl", "align", "student", "student_rl", "distilled")
"""Models that are asked greedily and on the harder rung too."""
HARDER_PROMPTS, HARDER_SAMPLES = 32, 8


def seeded(name: str, seed: int) -> Recipe:
    """The recipe with one seed everywhere that a seed decides about training."""
    recipe = load_recipe(find_recipe(name), [f"seed={seed}"])
    overrides = [f"seed={seed}", f"name={recipe.name}-{seed}"]
    overrides += [f"students.{student}.seed={seed}" for student in recipe.students]
    overrides += [
        f"scorers.{scorer}.seed={seed}" for scorer, spec in recipe.scorers.items() if hasattr(spec, "seed")
    ]
    overrides += [f"mixes.{mix}.seed={seed}" for mix in recipe.mixes]
    overrides += [
        f"teacher.{stage}.seed={seed}" for stage, spec in recipe.teacher.items() if spec.kind == "sft"
    ]
    return load_recipe(find_recipe(name), overrides)


# ----------------------------------------------------------------------------------- further questions


def evaluate_further(run: Run, recipe: Recipe, reporter: Reporter) -> None:
    """Greedy answers to the test questions, and samples on the rung that no training uses."""
    from factory.evaluate import draw, drop_predecessors, figures_of, held_out_prompts
    from factory.protocol import Protocol

    spec = recipe.evaluation
    assert spec is not None
    test = held_out_prompts(run, spec.split, spec.max_prompts)
    greedy = spec.sampling.model_copy(update={"temperature": 0.0})
    wanted: list[tuple[str, tuple[dict[str, Any], ...], Sampling, int]] = [
        (GREEDY, test, greedy, 1),
        (HARDER, harder_prompts(), spec.sampling, HARDER_SAMPLES),
    ]
    for suite, prompts, sampling, n in wanted:
        for entry in spec.models:
            if entry.name not in EXTRA:
                continue
            protocol = Protocol(
                suite=suite,
                origin="the test split" if suite == GREEDY else "the rung that no training uses",
                prompts=prompts,
                template=entry.template,
                sampling=sampling,
                n=n,
                ks=(1,),
                seed=spec.seed,
            )
            engine = _engine(run, entry, spec, sampling)
            drawn = draw(run, engine, protocol, f"{entry.name}, {suite}", reporter)
            path, _ = figures_of(run, drawn, protocol, entry.name, reporter)
            drop_predecessors(run, path)


def _engine(run: Run, entry: Evaluated, spec: Evaluation, sampling: Sampling) -> Any:
    from factory.engines.gemma import GemmaEngine

    return GemmaEngine(
        model_folder(run, entry.model),
        model_name=entry.model,
        template=parse_template(entry.template),
        prompt_length=spec.prompt_length,
        batch_size=spec.batch_size,
        **sampling.model_dump(),
    )


def harder_prompts() -> tuple[dict[str, Any], ...]:
    """Rows of `prompts`: test questions one rung harder than any of training, the same number a task."""
    from factory.tiny.measure import held_out

    domains = {
        "chain_sum": "arithmetic",
        "gcd": "number-theory",
        "leg_counting": "counting",
        "countdown": "search",
    }
    rows = []
    for problem in held_out("test", HARDER_PROMPTS, seed=7, heldout_rung=True):
        messages = [{"role": "user", "content": problem.question}]
        arguments = {
            "task": problem.task,
            "entry": {"answer": problem.answer, "metadata": problem.metadata},
        }
        rows.append(
            {
                "prompt_id": prompt_id(messages, None, "puzzle", arguments),
                "question_hash": question_hash(problem.question),
                "question": problem.question,
                "messages": messages,
                "reference": None,
                "verifier": "puzzle",
                "verifier_args": json.dumps(arguments),
                "domain": domains[problem.task],
                "split": "test",
            }
        )
    return tuple(rows)


def distillation_curve(run: Run, recipe: Recipe, name: str) -> list[dict[str, float]]:
    """Validation accuracy of a student's checkpoints over its training: the curve that RL has from its telemetry.

    The same questions, the same number of samples and the same seeds as the RL of the student is validated with.
    """
    from distill import training_log as log
    from distill.gemma.checkpoint import load_model
    from distill.gemma.tokenizer import Tokenizer
    from distill.trainer import restore_model
    from factory.teacher.rollout import InProcessRollout
    from factory.train import trained_folder

    spec, rl = recipe.students[name], recipe.teacher["student_rl"]
    assert isinstance(rl, RlStage) and rl.validation is not None
    base = model_folder(run, spec.base)
    tokenizer, model = Tokenizer.load(base.path), load_model(base)
    rollout = InProcessRollout(
        model,
        tokenizer,
        temperature=1.0,
        prompt_length=rl.prompt_length,
        max_new_tokens=rl.last_limit,
        batch_size=rl.rollout_batch,
    )
    rows = [row for row in run.read("prompts").to_pylist() if row["split"] == "validation"]
    rows = sorted(rows, key=lambda row: (row["question_hash"], row["prompt_id"]))[: rl.validation.prompts]
    out = trained_folder(run, f"student:{name}")
    seconds = {int(p["step"]): p["seconds"] for p in learning_curve(run, f"train:{name}", ["train/loss"])}
    curve = []
    for step in sorted(int(path.name) for path in (out / log.CHECKPOINTS).iterdir() if path.name.isdigit()):
        restore_model(model, out / log.CHECKPOINTS, step)
        found = _accuracy(rollout, rows, spec.template, tokenizer, rl, rl.seed + recipe.seed)
        curve.append({"step": step, "seconds": seconds[step], "eval/accuracy": found})
    return curve


def _accuracy(
    rollout: Any, rows: list[dict[str, Any]], template: str, tokenizer: Any, rl: RlStage, seed: int
) -> float:
    """Share of correct samples, as `factory.teacher.grpo` validates."""
    from distill.chat import encode_prompt
    from factory.protocol import options
    from factory.teacher.rollout import Request, request_seed
    from filters.workers import GradeTask, WorkerPool

    assert rl.validation is not None
    laid_out, n = parse_template(template), rl.validation.samples
    requests = [
        Request(ids, request_seed(seed, "student_rl/validation", 0, number, i), rl.last_limit)
        for number, row in enumerate(rows)
        for ids in [tuple(encode_prompt(row["messages"], laid_out, tokenizer))]
        for i in range(n)
    ]
    drawn = rollout.draw(requests)
    tasks = (
        GradeTask(
            rows[k // n]["verifier"],
            rows[k // n]["question"],
            rows[k // n]["reference"],
            one.text,
            options(rows[k // n]),
            laid_out.style,
            truncated=one.truncated,
        )
        for k, one in enumerate(drawn)
    )
    with WorkerPool(2) as pool:
        scores = [verdict.score for verdict in pool.verify(tasks)]
    graded = [score for score in scores if score is not None]
    return sum(graded) / len(graded)


# ------------------------------------------------------------------------------------------- the tables


def tables(run: Run, recipe: Recipe, seed: int) -> dict[str, Any]:
    """All figures of one seed."""
    spec = recipe.evaluation
    assert spec is not None
    templates = {entry.name: entry.template for entry in spec.models}
    found = answers_of(run, templates)
    test = {label: found[run.folder.name, label] for label in templates}
    domains = sorted({own[0].domain for own in next(iter(test.values())).values()})
    models = {
        label: model_figures(answers, found.get((GREEDY, label)), found.get((HARDER, label)), domains, spec.n)
        for label, answers in test.items()
    }
    return {
        "seed": seed,
        "protocol": {
            TEST: f"{len(test['base'])} test questions, {spec.n} samples each, temperature 1, at most "
            f"{spec.sampling.max_new_tokens} tokens, no truncation of the distribution, graded by filters.verify",
            GREEDY: "the same questions, temperature 0",
            HARDER: f"{HARDER_PROMPTS} questions a task, {HARDER_SAMPLES} samples each, temperature 1",
            "templates": templates,
            "intervals": "95 % bootstrap over questions; differences paired by question",
        },
        "models": models,
        "claims": _claims(run, test, found, models, spec),
        "curves": _curves(run, recipe),
        "seconds": {stage.stem: json.loads(stage.read_text())["seconds"] for stage in run.manifests()},
        "rewards": {name: _held_out(run, name) for name in recipe.scorers},
        "new problems": _new_problems(run, test),
    }


def _new_problems(run: Run, test: dict[str, Answers]) -> dict[str, Any]:
    """Accuracy on test questions whose problem the corpus of the base asks in no order and in no wording either.

    No training question of the run does (`factory.sources.gym.without_held_out_problems`).
    """
    from factory.sources.gym import problem_of_prompt
    from factory.tiny.build import QUESTIONS
    from factory.tiny.corpus import corpus_problems
    from factory.tiny.novelty import problem_of

    corpus = {problem_of(problem) for problem in corpus_problems(0, QUESTIONS)}
    rows = [row for row in run.read("prompts").to_pylist() if row["split"] == "test"]
    new = {row["prompt_id"] for row in rows if problem_of_prompt(row) not in corpus}
    return {
        "questions": len(new),
        **{
            label: mean_of({p: own for p, own in answers.items() if p in new}, correct)
            for label, answers in test.items()
        },
    }


def _claims(
    run: Run, test: dict[str, Answers], found: Any, models: dict[str, Any], spec: Evaluation
) -> dict[str, Any]:
    k, styles = spec.n, {entry.name: parse_template(entry.template).style for entry in spec.models}
    greedy = {label: found[GREEDY, label] for label in EXTRA}
    harder = {label: found[HARDER, label] for label in EXTRA}

    def gain(left: str, right: str) -> dict[str, Any]:
        return {
            "pass@1": gap(test[left], test[right], correct),
            f"pass@{k}": pass_gap(test[left], test[right], k),
        }

    return {
        "reinforcement alone": gain("base", "zero")
        | {
            "greedy": gap(greedy["base"], greedy["zero"], correct),
            "one rung harder": gap(harder["base"], harder["zero"], correct),
        },
        "language": {
            "base by language": languages_of(test["base"]),
            "zero by language": languages_of(test["zero"]),
            "zero": models["zero"]["language_consistency"],
            "reasoning_rl": models["reasoning_rl"]["language_consistency"],
            "reasoning_rl format": models["reasoning_rl"]["readable_format"],
            "accuracy against zero": gain("zero", "reasoning_rl")["pass@1"],
            "align against zero": gain("zero", "align")["pass@1"],
        },
        "second stage": {
            "sft against reasoning_rl": gain("reasoning_rl", "sft")["pass@1"],
            "align against reasoning_rl": gain("reasoning_rl", "align")["pass@1"],
            "align against sft": gain("sft", "align")["pass@1"],
        },
        "distillation": gain("student_rl", "distilled")
        | {
            "student": models["student"]["pass@1"],
            "by reinforcement": models["student_rl"]["pass@1"],
            "distilled": models["distilled"]["pass@1"],
            "seconds": _costs(run),
        },
        "all scenarios": {
            label: preference_rates(test[label], styles[label])
            for label in ("base", "zero", "reasoning_rl", "sft", "align")
        },
    }


def _costs(run: Run) -> dict[str, float | None]:
    """What either road to a student took: with and without what made its teacher."""
    sampling = ("generate", "judge", "select:r1", "mix:r1")
    cold = ("generate:zero", "judge:zero", "select:cold_start", "mix:cold_start", "teach:cold_start")
    teacher = ("teach:zero", *cold, "teach:reasoning_rl")
    parts = {stage: seconds_of(run, stage) or 0.0 for stage in (*sampling, *teacher)}
    train = seconds_of(run, "train:distilled") or 0.0
    return {
        "student_rl": seconds_of(run, "teach:student_rl"),
        "distilled, training": train,
        "distilled, with sampling": train + sum(parts[stage] for stage in sampling),
        "distilled, with the teacher": train + sum(parts.values()),
    }


def _held_out(run: Run, name: str) -> Any:
    from factory.teacher.scorers import reward_folder

    path = reward_folder(run, name) / "reward_model.json"
    return json.loads(path.read_text())["held_out"] if path.exists() else None


def _curves(run: Run, recipe: Recipe) -> dict[str, Any]:
    names = (
        "eval/accuracy",
        "eval/language_consistency",
        "eval/tokens/reasoning",
        "eval/reflection",
        "accuracy",
    )
    curves = {
        job: learning_curve(run, f"teach:{job}", names)
        for job, spec in recipe.teacher.items()
        if spec.kind == "rl"
    }
    return curves | {"distilled": distillation_curve(run, recipe, "distilled")}


# ------------------------------------------------------------------------------------------ the command


def reproduce(seed: int, folder: Path, reporter: Reporter, name: str = RECIPE) -> Path:
    """Run, evaluate and write; returns the JSON."""
    recipe = seeded(name, seed)
    run = execute(recipe, folder, Selection(), reporter)
    with run.locked("pipeline"):
        evaluate_further(run, recipe, reporter)
        found = tables(run, recipe, seed)
    path = run.folder / "reproduce.json"
    write_text(path, dump(found))
    from factory.tiny.reproduce_page import page

    write_text(run.folder / "reproduce.html", page([found]))
    return path


@click.command()
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), help="The run's folder. [runs/reproduce-SEED]"
)
def main(seed: int, folder: Path | None) -> None:
    """R1 in miniature with one seed: train, evaluate, and write reproduce.json and reproduce.html."""
    path = reproduce(seed, folder or Path("runs") / f"{RECIPE}-{seed}", Reporter())
    click.echo(f"{path}\n{path.with_suffix('.html')}")


if __name__ == "__main__":
    run_command(main, "reproduce")
