"""Measure a tiny model: pass@1, pass@k and greedy by task, steps right, accuracy by language and style.

    python -m factory.tiny.measure DIR [--split validation] [--prompts 64] [--samples 32] [--json FILE]

Protocol: the base prompt of `factory.tiny.tokenizer.prompt_text`, temperature 1, no truncation of the
distribution, at most 160 new tokens, graded by `filters.verify` through the R1-Zero tags; prompts are spread
evenly over the training rungs of each task and have the hash of the wanted split.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from factory.tiny.solutions import PHRASES, find_steps
from factory.tiny.tasks import Problem, Rung, problems, rungs, task_names, training_rungs
from factory.tiny.tokenizer import prompt_text
from filters.errors import UserError
from filters.tags import R1_ZERO

RESPONSE_TOKENS = 160
SampleFn = Callable[[Sequence[str], int, float], list[list["Completion"]]]
"""(prompts, samples a prompt, temperature) -> completions of every prompt."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A sampled text, its length in tokens with the end token, and whether it ended by itself."""

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One graded completion.

    Attributes:
        style: "guess", "thought", "thought with a second look", "untagged" or "broken format".
        language: "none", "en", "zh" or "mixed", by the reasoning's letters.
        steps, steps_right: arithmetic steps written, and those that hold.
    """

    task: str
    rung: int
    prompt: int
    correct: bool
    style: str
    language: str
    tokens: int
    finished: bool
    steps: int
    steps_right: int


def held_out(split: str, per_task: int, seed: int, heldout_rung: bool = False) -> list[Problem]:
    """Held-out problems: `per_task` for each task, spread over its rungs as evenly as the rungs allow."""
    chosen: list[Problem] = []
    ladder: Iterable[Rung] = [r for r in rungs() if r.heldout_rung] if heldout_rung else training_rungs()
    for _, steps in itertools.groupby(
        sorted(ladder, key=lambda r: task_names().index(r.task)), lambda r: r.task
    ):
        own = list(steps)
        seen: set[str] = set()
        for position, rung in enumerate(own):
            wanted = per_task // len(own) + (position < per_task % len(own))
            fresh = (p for p in problems(rung, seed, split) if p.question not in seen)
            for problem in itertools.islice(fresh, wanted):
                seen.add(problem.question)
                chosen.append(problem)
    return chosen


def classify(text: str) -> tuple[str, str]:
    """Style and language of a completion, from its text alone."""
    parsed = R1_ZERO.parse(text)
    thought = parsed.reasoning
    if thought is None:
        style = "guess" if text.startswith(R1_ZERO.answer_open) else "untagged"
        thought = "" if style == "guess" else text
    elif not parsed.well_formed:
        style = "broken format"
    else:
        again = any(phrase in thought for phrase in PHRASES["wait"])
        style = "thought with a second look" if again else "thought"
    latin = bool(re.search(r"[A-Za-z]", thought))
    chinese = bool(re.search(r"[\u4e00-\u9fff]", thought))
    language = {(False, False): "none", (True, False): "en", (False, True): "zh", (True, True): "mixed"}
    return style, language[latin, chinese]


def grade(problem: Problem, completion: Completion) -> bool:
    """Whether a completion is correct, by the project's one grader."""
    from filters import verify

    options = {"task": problem.task, "entry": {"answer": problem.answer, "metadata": problem.metadata}}
    truncated = not completion.finished
    verdict = verify(
        "puzzle", problem.question, None, completion.text, options, style=R1_ZERO, truncated=truncated
    )
    return verdict.is_correct


def rows_of(chosen: Sequence[Problem], sampled: Sequence[Sequence[Completion]]) -> list[Row]:
    """Grade and classify everything that was sampled."""
    rows = []
    for number, (problem, completions) in enumerate(zip(chosen, sampled, strict=True)):
        for c in completions:
            style, language = classify(c.text)
            steps = find_steps(c.text)
            right = sum(step.right for step in steps)
            correct = grade(problem, c)
            rows.append(
                Row(
                    problem.task,
                    problem.rung,
                    number,
                    correct,
                    style,
                    language,
                    c.tokens,
                    c.finished,
                    len(steps),
                    right,
                )
            )
    return rows


def pass_at(k: int, rows: Sequence[Row]) -> list[float]:
    """Unbiased pass@k of every prompt: 1 - C(n - c, k) / C(n, k), n samples of which c are correct."""
    correct: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        correct[row.prompt].append(row.correct)
    return [1 - math.comb(len(r) - sum(r), k) / math.comb(len(r), k) for r in correct.values()]


def interval(values: Sequence[float], seed: int = 0, draws: int = 1000) -> tuple[float, float, float]:
    """Mean of per-prompt values with a 95 % bootstrap interval over prompts."""
    rng = Random(seed)
    mean = sum(values) / len(values)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return mean, means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def summarise(rows: Sequence[Row], greedy: Sequence[Row], samples: int) -> dict[str, Any]:
    """All figures, as a JSON-able mapping. Tasks weigh the same, because each has as many prompts."""
    tasks = {"all": list(rows)} | {
        t: [r for r in rows if r.task == t] for t in dict.fromkeys(r.task for r in rows)
    }
    by_task = {}
    for name, own in tasks.items():
        ends = sorted(r.tokens for r in own)
        steps = sum(r.steps for r in own)
        by_task[name] = {
            "prompts": len({r.prompt for r in own}),
            "pass@1": interval(pass_at(1, own)),
            f"pass@{samples}": interval(pass_at(samples, own)),
            "greedy": interval([float(r.correct) for r in greedy if name in ("all", r.task)]),
            "steps_right": sum(r.steps_right for r in own) / steps if steps else None,
            "finished": sum(r.finished for r in own) / len(own),
            "tokens_median": ends[len(ends) // 2],
            "tokens_p95": ends[int(len(ends) * 0.95)],
            "correct_when_thinking": _share([r for r in own if r.style.startswith("thought")]),
        }
    return {
        "tasks": by_task,
        "rungs": {
            f"{t} {n}": _share([r for r in rows if (r.task, r.rung) == (t, n)]) for t, n in _rungs(rows)
        },
        "language": _split(rows, lambda r: r.language),
        "style": _split(rows, lambda r: r.style),
        "greedy_style": dict(Counter(r.style for r in greedy)),
    }


def _rungs(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((r.task, r.rung) for r in rows))


def _share(rows: Sequence[Row]) -> float | None:
    return sum(r.correct for r in rows) / len(rows) if rows else None


def _split(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, dict[str, float | None]]:
    """Share of all completions, and accuracy, of every value of `key`."""
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        parts[key(row)].append(row)
    return {
        name: {"share": len(own) / len(rows), "accuracy": _share(own), "steps_right": _steps(own)}
        for name, own in sorted(parts.items())
    }


def _steps(rows: Sequence[Row]) -> float | None:
    steps = sum(r.steps for r in rows)
    return sum(r.steps_right for r in rows) / steps if steps else None


# ---------------------------------------------------------------------------------------- a model folder


def sampler_of(folder: Path, seed: int, batch: int = 256) -> SampleFn:
    """Sample from a model folder with the project's own sampler, 160 new tokens at most."""
    from distill.gemma.checkpoint import load_model
    from distill.gemma.folder import ModelFolder
    from distill.gemma.sampler import Request, Sampler, SamplingConfig
    from distill.gemma.tokenizer import Tokenizer
    from factory.records import sample_seed

    model, tokenizer = load_model(ModelFolder.open(folder)), Tokenizer.load(folder)

    def sample(prompts: Sequence[str], n: int, temperature: float) -> list[list[Completion]]:
        ids = [(tokenizer.bos_id, *tokenizer.encode(prompt)) for prompt in prompts]
        sampler = Sampler(
            model,
            sampling=SamplingConfig(RESPONSE_TOKENS, temperature=temperature),
            prompt_length=max(map(len, ids)),
            batch_size=batch,
            stop_ids=(tokenizer.eos_id,),
            pad_id=tokenizer.pad_id,
        )
        requests = (
            Request((p, i), ids[p], sample_seed(seed, f"{p}:{i}")) for p in range(len(ids)) for i in range(n)
        )
        drawn = {s.key: s for s in sampler.run(requests)}
        return [[_completion(drawn[p, i], tokenizer) for i in range(n)] for p in range(len(ids))]

    return sample


def _completion(sample: Any, tokenizer: Any) -> Completion:
    finished = sample.finish_reason == "stop"
    return Completion(tokenizer.decode(sample.token_ids), len(sample.token_ids), finished)


def measure(
    folder: Path, split: str, per_task: int, samples: int, seed: int, heldout_rung: bool
) -> dict[str, Any]:
    """Sample, grade and summarise a model folder."""
    chosen = held_out(split, per_task, seed, heldout_rung)
    prompts = [prompt_text(problem.question) for problem in chosen]
    sample = sampler_of(folder, seed)
    rows = rows_of(chosen, sample(prompts, samples, 1.0))
    greedy = rows_of(chosen, sample(prompts, 1, 0.0))
    protocol = {
        "split": split,
        "heldout_rung": heldout_rung,
        "prompts_a_task": per_task,
        "samples": samples,
        "temperature": 1.0,
        "max_new_tokens": RESPONSE_TOKENS,
        "seed": seed,
    }
    return {"protocol": protocol, **summarise(rows, greedy, samples)}


def table(report: dict[str, Any]) -> str:
    """The report as Markdown tables; shares in percent, intervals of 95 % in brackets."""
    names = [name for name in next(iter(report["tasks"].values())) if name != "prompts"]
    lines = ["| task | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for task, figures in report["tasks"].items():
        lines.append(f"| {task} | " + " | ".join(_cell(name, figures[name]) for name in names) + " |")
    for title in ("language", "style"):
        lines += ["", f"| {title} | share | accuracy | steps right |", "|---|---|---|---|"]
        for name, part in report[title].items():
            lines.append(f"| {name} | " + " | ".join(_cell("share", value) for value in part.values()) + " |")
    rungs_line = ", ".join(f"{name}: {_cell('share', value)}" for name, value in report["rungs"].items())
    return "\n".join(
        [*lines, "", f"pass@1 by rung: {rungs_line}", f"greedy styles: {report['greedy_style']}"]
    )


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        mean, low, high = (100 * v for v in value)
        return f"{mean:.1f} [{low:.1f}, {high:.1f}]"
    return f"{value}" if name.startswith("tokens") else f"{100 * value:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m factory.tiny.measure", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="an HF folder of a tiny model")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--prompts", type=int, default=64, help="prompts a task")
    parser.add_argument("--samples", type=int, default=32, help="samples a prompt")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--heldout-rung", action="store_true", help="the harder rung that no training uses")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args(arguments)
    try:
        report = measure(
            options.folder,
            options.split,
            options.prompts,
            options.samples,
            options.seed,
            options.heldout_rung,
        )
    except UserError as error:
        parser.error(str(error))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table(report) + "\n")


if __name__ == "__main__":
    main()
