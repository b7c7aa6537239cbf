"""The `distill` command: thin, one function a verb. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import click

from distill.command import run_command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="r1-factory")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Fine-tune a small Gemma on curated reasoning, and export it."""


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
@click.option("--learning-rate", default=1e-4, help="Peak; a cosine falls to a tenth of it.")
@click.option("--warmup-steps", default=0, help="Steps in which the learning rate rises.")
@click.option("--weight-decay", default=0.0, help="AdamW's; norm scales do not decay.")
@click.option("--b2", default=0.95, help="AdamW's second moment decay.")
@click.option("--clip", default=1.0, help="Bound of the gradient's global norm.")
@click.option("--seed", default=0, help="Order of the samples.")
@click.option("--eval-every", default=0, help="Steps between validation losses; 0: first and last only.")
@click.option("--checkpoint-every", default=100, help="Steps between checkpoints.")
@click.option("--keep", default=2, help="Checkpoints that stay.")
@click.option("--dtype", default="float32", type=click.Choice(["float32", "bfloat16"]))
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
    **settings: Any,
) -> None:
    """Fine-tune a student on DATA: a run's RUN/mix/NAME, a Parquet or JSONL folder or file, or a Hub id.

    The finished model is OUT/model. A run that was stopped goes on when the same command is given again.
    """
    from distill.progress import TrainingDisplay
    from distill.sft import Layout, TrainConfig
    from distill.sft import train as run

    config = TrainConfig(**settings, layout=Layout(rows=rows, row_length=row_length, packing=packing))
    with TrainingDisplay() as display:
        result = run(config, data, student, out, on_progress=display.update, on_message=display.say)
    if as_json:
        values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(result).items()}
        click.echo(json.dumps(values))
    else:
        click.echo(str(result.model))


def _step(ctx: click.Context, param: click.Parameter, value: str) -> int | Literal["final"]:
    if value == "final":
        return "final"
    if not value.isdigit():
        raise click.BadParameter(f"{value!r} is neither a step nor 'final'", ctx, param)
    return int(value)


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--step", default="final", metavar="N|final", callback=_step, help="A checkpoint's step.")
def export(out: Path, directory: Path, step: int | Literal["final"]) -> None:
    """Write a model of the training folder OUT as an HF folder DIR."""
    from distill.export import export as run

    click.echo(str(run(out, directory, step).path))


def main() -> None:
    """Entry point of the console script."""
    run_command(cli, "distill")


if __name__ == "__main__":
    main()
