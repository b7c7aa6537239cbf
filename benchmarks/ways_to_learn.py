"""What each way of fine-tuning gains on the tiny student: held-out loss and accuracy, beside its start.

Data: worked solutions in English without slips, of questions of the training split of the tiny tasks, first three
rungs; held out: as many of the validation split as asked for. The teacher is the tiny teacher after the same
samples. Every way begins with the tiny student as shipped, and takes as many steps of 32 samples.

Loss is in nats per token of the held-out solutions, with an interval of 95 % from 10,000 bootstraps over samples; its
change is paired by sample. Accuracy is pass@1 on the held-out questions, one answer each (temperature 0.6, top-p 0.95,
at most 104 tokens, graded as training grades), with its interval over questions.

    python benchmarks/ways_to_learn.py [--steps 150] [--held-out 300] [--out runs/bench/ways]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
from heldout_loss import interval, scored

TEMPLATE = "plain:r1-zero"
LENGTH = 128
STUDENT, TEACHER = "tiny-student", "tiny-teacher"
COMMON = ("--batch-size", "32", "--warmup-steps", "10", "--report-to", "none", "--max-length", str(LENGTH))
RATE = ("--learning-rate", "2e-3")
ADAPTERS = ("--lora-rank", "16", "--learning-rate", "5e-3")


def ways(scores: Path, teacher: Path) -> dict[str, tuple[str, ...]]:
    """Options of each way."""
    return {
        "all weights": RATE,
        "adapters (LoRA, rank 16)": ADAPTERS,
        "adapters on 4 bits (QLoRA, nf4)": (*ADAPTERS, "--lora-weights", "nf4"),
        "stored scores, the likeliest 16": (*RATE, "--scores", str(scores)),
        "on-policy": (*RATE, "--teacher", str(teacher), "--max-new-tokens", "104"),
    }


def solved(split: str, count: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Samples and questions, the rungs of all tasks in turn."""
    from factory.tiny.solutions import Slips, render, solve
    from factory.tiny.tasks import problems, training_rungs
    from filters.tags import R1_ZERO

    rng, made = Random(0), 0
    drawn = {rung: problems(rung, 11, split) for rung in training_rungs()}
    while drawn and made < count:
        for rung in list(drawn):
            problem = next(drawn[rung], None)
            if problem is None:
                del drawn[rung]
                continue
            try:
                solution = solve(problem.task, problem.metadata, rng, Slips(wrong=0.0, noticed=0.0))
            except ValueError:  # countdown that needs a negative number on the way
                continue
            reply = R1_ZERO.format(render(solution.clauses, "en", rng), solution.answer)
            turns = [("user", problem.question), ("assistant", reply)]
            entry = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
            question = {
                "question": problem.question,
                "reference": problem.answer,
                "verifier": "puzzle",
                "verifier_args": {"task": problem.task, "entry": entry, "config": rung.config},
            }
            messages = [{"role": role, "content": content} for role, content in turns]
            yield {"messages": messages, "split": split}, question
            made += 1
            if made == count:
                return


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def distill(*arguments: str) -> None:
    """Run the command; what it says goes to the standard error."""
    command = [sys.executable, "-m", "distill.cli", *arguments]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        sys.exit(f"distill {' '.join(arguments)}: exit code {done.returncode}")


def accuracies(metrics: Path) -> tuple[str, str]:
    """Before the first step and behind the last, with intervals."""
    table = pq.read_table(metrics).to_pylist()

    def at(step: int) -> str:
        row = {r["name"]: r["value"] for r in table if r["step"] == step}
        return "{:.1%} [{:.1%}, {:.1%}]".format(
            *(row[f"eval/accuracy{part}"] for part in ("", "_low", "_high"))
        )

    steps = [r["step"] for r in table if r["name"] == "eval/accuracy"]
    return at(min(steps)), at(max(steps))


def main(argv: Sequence[str] | None = None) -> None:
    """Train each way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--train", type=int, default=3000, help="training samples")
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/ways"))
    asked = parser.parse_args(argv)
    out: Path = asked.out
    out.mkdir(parents=True, exist_ok=True)
    data, questions = out / "data.jsonl", out / "questions.jsonl"
    held = list(solved("validation", asked.held_out))
    write(data, [sample for sample, _ in (*solved("train", asked.train), *held)])
    write(questions, [question for _, question in held])

    template, steps = ("--template", TEMPLATE), ("--max-steps", str(asked.steps))
    teacher = out / "teacher"
    distill(
        "train", str(data), "--student", TEACHER, *template, *steps, *COMMON, *RATE, "--out", str(teacher)
    )
    scores = out / "scores"
    score = ("score", str(data), "--teacher", str(teacher / "model"), "--max-length", str(LENGTH))
    distill(*score, *template, "--top-k", "16", "--out", str(scores))

    asking = (
        "--eval-questions",
        str(questions),
        "--eval-count",
        str(len(held)),
        "--eval-max-new-tokens",
        "104",
    )
    base, counts = scored(str(data), STUDENT, TEMPLATE, LENGTH, 32)
    teacher_loss, _ = scored(str(data), str(teacher / "model"), TEMPLATE, LENGTH, 32)
    print(f"{len(held)} held-out samples, {counts.sum():,} tokens; {asked.steps} steps\n")
    print(f"{'':34}{'loss':26}{'change':30}accuracy")
    shown = "{:.4f} [{:.4f}, {:.4f}]".format
    print(f"{'teacher':34}{shown(*interval(teacher_loss, counts))}")
    for number, (name, options) in enumerate(ways(scores, teacher / "model").items()):
        run = out / name.partition(" (")[0].replace(" ", "-").replace(",", "")
        distill(
            *("train", str(data), "--student", STUDENT, "--out", str(run)),
            *(*template, *steps, *COMMON, *options, *asking),
        )
        before, after = accuracies(run / "metrics.parquet")
        if number == 0:
            print(f"{'start':34}{shown(*interval(base, counts)):56}{before}")
        sums, _ = scored(str(data), str(run / "model"), TEMPLATE, LENGTH, 32)
        change = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*interval(sums - base, counts))
        print(f"{name:34}{shown(*interval(sums, counts)):26}{change:30}{after}", flush=True)


if __name__ == "__main__":
    main()
