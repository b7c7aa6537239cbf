"""The `distill` command: thin, one function a verb. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from distill.command import run_command

if TYPE_CHECKING:
    from distill.distillation import Distillation
    from distill.lora_settings import LoraConfig
    from distill.sampled import SampledAccuracy


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="r1-factory")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Fine-tune a small Gemma on curated reasoning, talk to it, and export it."""


@cli.command()
@click.argument("data")
@click.option("--student", required=True, help="Model folder, Hub id, or tiny-student.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Training folder; goes on if it is there."
)
@click.option("--template", default="gemma:r1", help="TURNS:STYLE, e.g. plain:r1-zero.")
@click.option("--max-steps", type=int, help="Optimiser steps; or give --epochs.")
@click.option("--epochs", type=float, help="Passes over the data, fractions allowed; or give --max-steps.")
@click.option("--batch-size", default=32, help="Samples of an optimiser step.")
@click.option("--max-length", default=1024, help="Tokens; longer samples are left out and counted.")
@click.option("--rows", default=8, help="Rows computed at a time; fewer take less memory.")
@click.option("--row-length", type=int, help="Tokens of a row; the longest sample's where left out.")
@click.option("--packing/--no-packing", default=True, help="Several samples in a row, each as if alone.")
@click.option(
    "--fsdp", type=int, help="Devices among which weights and rows are divided.  [all that are there]"
)
@click.option("--tp", default=1, help="Devices among which matrix products are divided.")
@click.option(
    "--compute", type=click.Choice(["float32", "bfloat16"]), help="Dtype of a pass.  [the weights']"
)
@click.option("--remat", default="none", type=click.Choice(["none", "layer"]), help="What is computed twice.")
@click.option("--attention-chunk", type=int, help="Cells of attention at a time, for long rows.  [all]")
@click.option("--learning-rate", default=1e-4, help="Peak; a cosine falls to a tenth of it.")
@click.option("--warmup-steps", default=0, help="Steps in which the learning rate rises.")
@click.option("--weight-decay", default=0.0, help="AdamW's; norm scales do not decay.")
@click.option("--b2", default=0.95, help="AdamW's second moment decay.")
@click.option("--clip", default=1.0, help="Bound of the gradient's global norm.")
@click.option("--seed", default=0, help="Order of the samples.")
@click.option(
    "--short-first", type=int, help="Stages by length in the first epoch, the shortest samples first."
)
@click.option("--eval-every", default=0, help="Steps between validations; 0: first and last only.")
@click.option("--eval-questions", help="Prompts to answer and grade at validations, e.g. RUN/tables/prompts.")
@click.option("--eval-count", type=int, help="How many of them.  [64]")
@click.option("--eval-max-new-tokens", type=int, help="The most tokens of such an answer.  [256]")
@click.option("--keep-best/--no-keep-best", default=True, help="Keep the model of the best validation.")
@click.option(
    "--report-to",
    "report",
    multiple=True,
    default=("tensorboard",),
    type=click.Choice(["tensorboard", "wandb", "trackio", "none"]),
    help="Where numbers go beside metrics.parquet; may be given again.",
)
@click.option("--checkpoint-every", default=100, help="Steps between checkpoints.")
@click.option("--keep", default=2, help="Checkpoints that stay.")
@click.option("--dtype", default="float32", type=click.Choice(["float32", "bfloat16"]))
@click.option("--lora-rank", type=int, help="Train adapters of this rank in place of every weight.")
@click.option("--lora-alpha", type=float, help="Adapters count alpha / rank.  [twice the rank]")
@click.option("--lora-targets", help="Matrices that get adapters, with commas.  [all: q_proj,…,down_proj]")
@click.option(
    "--lora-weights",
    default="same",
    type=click.Choice(["same", "nf4", "int8"]),
    help="How the matrices beside them are kept.",
)
@click.option("--scores", help="Learn from a teacher's distribution too: what `distill score` wrote.")
@click.option("--kl-share", type=float, help="Of the distance from it in the loss.  [0.5]")
@click.option("--teacher", help="On-policy: the student answers, this model corrects every token.")
@click.option("--answers", type=int, help="On-policy: answers a question.  [1]")
@click.option("--max-new-tokens", type=int, help="On-policy: the most tokens of an answer.  [256]")
@click.option(
    "--distributed", is_flag=True, help="One of several processes, as the cluster says (TPU pod, Slurm)."
)
@click.option("--coordinator", help="The same without a cluster: HOST:PORT of the first process.")
@click.option("--processes", type=int, help="How many processes there are.")
@click.option("--process", type=int, help="Which of them this is, from 0.")
@click.option("--job", default="sft", help="Name of the job in the metrics.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    data: str,
    student: str,
    out: Path,
    as_json: bool,
    rows: int,
    row_length: int | None,
    packing: bool,
    fsdp: int | None,
    tp: int,
    compute: str | None,
    remat: Literal["none", "layer"],
    attention_chunk: int | None,
    eval_questions: str | None,
    eval_count: int | None,
    eval_max_new_tokens: int | None,
    report: tuple[str, ...],
    distributed: bool,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    lora_rank: int | None,
    lora_alpha: float | None,
    lora_targets: str | None,
    lora_weights: Literal["same", "nf4", "int8"],
    scores: str | None,
    kl_share: float | None,
    teacher: str | None,
    answers: int | None,
    max_new_tokens: int | None,
    **settings: Any,
) -> None:
    """Fine-tune a student on DATA: a run's RUN/mix/NAME, a Parquet or JSONL folder or file, or a Hub id.

    The finished model is OUT/model. A run that was stopped goes on when the same command is given again.
    """
    from distill.gemma.mesh import all_devices, join
    from distill.progress import TrainingDisplay
    from distill.sft import train as run
    from distill.train_settings import Layout, TrainConfig

    settings["lora"] = _lora(lora_rank, lora_alpha, lora_targets, lora_weights)
    settings["distillation"] = _distillation(scores, kl_share, teacher, answers, max_new_tokens)
    settings["accuracy"] = _accuracy(eval_questions, eval_count, eval_max_new_tokens)
    settings["report"] = tuple(name for name in dict.fromkeys(report) if name != "none")
    if distributed or coordinator is not None:
        join(coordinator, processes, process)
    elif processes is not None or process is not None:
        raise click.UsageError("--processes and --process need --coordinator")
    layout = Layout(
        rows=rows,
        row_length=row_length,
        packing=packing,
        fsdp=all_devices(tp) if fsdp is None else fsdp,
        tp=tp,
        compute=compute,
        remat=remat,
        attention_chunk=attention_chunk,
    )
    config = TrainConfig(**settings, layout=layout)
    with TrainingDisplay() as display:
        result = run(config, data, student, out, on_progress=display.update, on_message=display.say)
    if coordinator is not None or distributed:
        from distill.gemma.mesh import is_first

        if not is_first():
            return
    if as_json:
        values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(result).items()}
        click.echo(json.dumps(values))
    else:
        click.echo(str(result.model))


def _lora(
    rank: int | None, alpha: float | None, targets: str | None, weights: Literal["same", "nf4", "int8"]
) -> LoraConfig | None:
    from distill.lora_settings import TARGETS, LoraConfig

    if rank is None:
        if alpha is not None or targets is not None or weights != "same":
            raise click.UsageError("--lora-alpha, --lora-targets and --lora-weights need --lora-rank")
        return None
    chosen = tuple(part.strip() for part in targets.split(",")) if targets else tuple(TARGETS)
    return LoraConfig(
        rank=rank, alpha=2.0 * rank if alpha is None else alpha, targets=chosen, weights=weights
    )


def _distillation(
    scores: str | None,
    kl_share: float | None,
    teacher: str | None,
    answers: int | None,
    max_new_tokens: int | None,
) -> Distillation | None:
    from distill.distillation import OnPolicy, TopK

    if scores is not None and teacher is not None:
        raise click.UsageError("--scores and --teacher are two ways to learn from a teacher; give one")
    if scores is None and kl_share is not None:
        raise click.UsageError("--kl-share needs --scores")
    if teacher is None and (answers is not None or max_new_tokens is not None):
        raise click.UsageError("--answers and --max-new-tokens need --teacher")
    if scores is not None:
        return TopK(scores=scores, **_given(share=kl_share))
    if teacher is not None:
        return OnPolicy(teacher=teacher, **_given(samples=answers, max_new_tokens=max_new_tokens))
    return None


def _given(**settings: Any) -> dict[str, Any]:
    """What a person said; the rest has its default where it is defined."""
    return {name: value for name, value in settings.items() if value is not None}


def _accuracy(questions: str | None, count: int | None, max_new_tokens: int | None) -> SampledAccuracy | None:
    from distill.sampled import SampledAccuracy

    if questions is None:
        if count is not None or max_new_tokens is not None:
            raise click.UsageError("--eval-count and --eval-max-new-tokens need --eval-questions")
        return None
    return SampledAccuracy(questions=questions, **_given(count=count, max_new_tokens=max_new_tokens))


@cli.command("score")
@click.argument("data")
@click.option("--teacher", required=True, help="Model whose distribution is stored.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; goes on if it is there.")
@click.option("--template", default="gemma:r1", help="TURNS:STYLE, as the student will be trained.")
@click.option("--max-length", default=1024, help="Tokens; longer samples are left out, as in training.")
@click.option("--top-k", default=16, help="Most probable tokens kept for every token of an answer.")
@click.option("--rows", default=8, help="Rows computed at a time; fewer take less memory.")
def score_data(data: str, teacher: str, out: Path, **settings: Any) -> None:
    """Store what a teacher thinks of every token of DATA, for `distill train --scores`."""
    from rich.console import Console
    from rich.progress import Progress

    from distill.scores import ScoreConfig, score

    config = ScoreConfig(**settings)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("samples", total=None)
        written = score(
            config, data, teacher, out, lambda done, of: bar.update(task, completed=done, total=of)
        )
    click.echo(str(written))


def _step(ctx: click.Context, param: click.Parameter, value: str) -> int | Literal["final", "best"]:
    if value == "best":
        return "best"
    if value == "final":
        return "final"
    if not value.isdigit():
        raise click.BadParameter(f"{value!r} is neither a step nor 'final' nor 'best'", ctx, param)
    return int(value)


@cli.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--step",
    default="final",
    metavar="N|final|best",
    callback=_step,
    help="A checkpoint's step, or the best validation's model.",
)
@click.option(
    "--to",
    "kind",
    default="hf",
    type=click.Choice(["hf", "peft", "gguf"]),
    help="A Hugging Face folder, the adapters alone, or one file for llama.cpp.",
)
@click.option(
    "--weights", type=click.Choice(["f32", "f16", "q8_0"]), help="Of the matrices in a GGUF.  [f16]"
)
@click.option("--verify", is_flag=True, help="Read it again and compare it with its source.")
def export(
    source: str,
    target: Path,
    step: int | Literal["final", "best"],
    kind: str,
    weights: Literal["f32", "f16", "q8_0"] | None,
    verify: bool,
) -> None:
    """Write a model as TARGET: SOURCE is a training folder, or any model that --student takes.

    Adapters are added to their base's weights, but for `--to peft`.
    """
    from distill import export as exporting
    from distill.training_log import disk_faults

    if weights is not None and kind != "gguf":
        raise click.UsageError("--weights is of the matrices in a GGUF; it goes with --to gguf")
    with disk_faults(target, "export again"):
        if kind == "hf":
            written = exporting.export(source, target, step).path
        elif kind == "peft":
            written = exporting.export_adapter(source, target, step)
        else:
            written = exporting.export_gguf(source, target, step, weights=weights or "f16")
    if verify:
        from distill.verify import verify_export

        click.echo(verify_export(source, written, step).summary(), err=True)
    click.echo(str(written))


@cli.command()
@click.argument("model")
@click.option("--template", help="TURNS:STYLE; the one that MODEL was trained with where left out.")
@click.option("--temperature", default=0.6, help="0 takes the likeliest token.")
@click.option("--top-p", default=0.95)
@click.option("--max-new-tokens", default=512, help="The most tokens of a reply.")
@click.option("--seed", default=0)
def chat(model: str, template: str | None, **settings: Any) -> None:
    """Talk to MODEL, a training folder or a model; /new forgets the conversation, /quit or Ctrl-D ends it."""
    from distill.talk import ReplyDisplay, open_conversation

    conversation = open_conversation(model, template, **settings)
    interactive = sys.stdin.isatty()

    def write(text: str, reasoning: bool) -> None:
        click.echo(click.style(text, dim=True) if reasoning else text, nl=False)

    while True:
        if interactive:
            click.echo("> ", nl=False)
        line = sys.stdin.readline()
        if not line or line.strip() == "/quit":
            return
        if line.strip() == "/new":
            conversation.forget()
        elif line.strip():
            display = ReplyDisplay(conversation.template, write)
            reply = conversation.say(line.strip(), display.update)
            display.update(reply.text)
            click.echo("" if reply.finished else click.style(" … (cut off at --max-new-tokens)", dim=True))


def main() -> None:
    """Entry point of the console script."""
    run_command(cli, "distill")


if __name__ == "__main__":
    main()
