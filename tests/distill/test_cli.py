"""The `distill` command: light, and one clear sentence for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distill import sft
from distill.cli import cli
from distill.gemma.folder import ModelFolder
from distill.lora_settings import LoraConfig
from distill.sampled import SampledAccuracy
from distill.train_result import Progress, TrainResult
from distill.train_settings import Layout, TrainConfig
from filters.errors import UserError

pytestmark = pytest.mark.train


def distill(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distill.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    messages = [{"role": "user", "content": "1 plus 1?"}, {"role": "assistant", "content": "2"}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    return tmp_path / "data.jsonl"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from distill.cli import cli\n"
        "for verb in ([], ['train'], ['export']):\n"
        "    assert CliRunner().invoke(cli, [*verb, '--help']).exit_code == 0\n"
        "heavy = {'jax', 'flax', 'tunix', 'datasets', 'duckdb', 'tokenizers', 'reasoning_gym', 'numpy', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_setting_reaches_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run(config: Any, *places: Any, on_progress: Any, on_message: Any) -> Any:
        seen.append((config, places))
        on_progress(Progress(3, 10, 0.5, 1e-3, 1234.0, 7.0, 0.6, 0.25))
        on_message("a line")
        model = tmp_path / "out" / "model"
        return TrainResult(model, tmp_path / "m", 10, 0.5, 0.6, 0.25, model, 10, 0, False, "1 sample", 1.0)

    monkeypatch.setattr(sft, "train", run)
    settings: dict[str, Any] = {
        "template": "plain:r1-zero",
        "epochs": 2.5,
        "batch_size": 3,
        "max_length": 99,
        "learning_rate": 0.5,
        "warmup_steps": 6,
        "weight_decay": 0.25,
        "b2": 0.9,
        "clip": 2.0,
        "seed": 8,
        "eval_every": 9,
        "checkpoint_every": 11,
        "keep": 12,
        "short_first": 4,
        "dtype": "bfloat16",
        "job": "mine",
    }
    layout: dict[str, Any] = {
        "rows": 4,
        "row_length": 128,
        "fsdp": 3,
        "tp": 2,
        "compute": "bfloat16",
        "remat": "layer",
        "attention_chunk": 64,
    }
    accuracy = {"questions": "Q", "count": 5, "max_new_tokens": 6}
    flags = ["--no-packing", "--no-keep-best", "--report-to", "wandb", "--report-to", "tensorboard"]
    flags += [
        "--lora-rank",
        "8",
        "--lora-alpha",
        "4",
        "--lora-targets",
        "q_proj,o_proj",
        "--lora-weights",
        "int8",
    ]
    for name, value in (settings | layout | {f"eval_{k}": v for k, v in accuracy.items()}).items():
        flags += [f"--{name.replace('_', '-')}", str(value)]
    done = CliRunner().invoke(
        cli, ["train", "DATA", "--student", "S", "--out", str(tmp_path / "o"), "--json", *flags]
    )
    assert done.exit_code == 0, done.output
    config = TrainConfig(
        **settings,
        layout=Layout(**layout, packing=False),
        accuracy=SampledAccuracy(**accuracy),
        keep_best=False,
        report=("wandb", "tensorboard"),
        lora=LoraConfig(rank=8, alpha=4.0, targets=("q_proj", "o_proj"), weights="int8"),
    )
    assert seen == [(config, ("DATA", "S", tmp_path / "o"))]
    result = json.loads(done.stdout)
    assert (result["model"], result["eval_loss"]) == (str(tmp_path / "out" / "model"), 0.6)
    assert (
        "step 3/10  loss 0.5000  validation 0.6000  lr 1.00e-03  accuracy 25.0%  1,234 tokens/s  0:07 to go"
        in done.stderr
    )
    assert "a line" in done.stderr


def test_defaults_of_the_command_are_those_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run(config: Any, *_: Any, **__: Any) -> Any:
        seen.append(config)
        return TrainResult(Path("m"), Path("m"), 1, None, None, None, None, None, 0, False, "", None)

    monkeypatch.setattr(sft, "train", run)
    CliRunner().invoke(cli, ["train", "DATA", "--student", "S", "--out", "o", "--max-steps", "1"])
    assert seen == [TrainConfig(max_steps=1)]


@pytest.mark.parametrize(
    "flags",
    [
        ["--teacher", "T", "--answers", "0"],
        ["--teacher", "T", "--max-new-tokens", "0"],
        ["--eval-questions", "Q", "--eval-count", "0"],
        ["--scores", "S", "--kl-share", "0"],
    ],
)
def test_a_zero_is_not_taken_for_nothing_said(flags: list[str]) -> None:
    command = ["train", "DATA", "--student", "S", "--out", "o", "--max-steps", "1", *flags]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, UserError)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["train", "DATA", "--student", "nowhere", "--out", "o", "--max-steps", "1"],
            2,
            "model folder nowhere does not",
        ),
        (["train", "DATA", "--student", "STUDENT", "--out", "o"], 2, "give max_steps or epochs"),
        (
            ["train", "no.jsonl", "--student", "STUDENT", "--out", "o", "--max-steps", "1"],
            2,
            "data no.jsonl does not exist",
        ),
        (
            ["train", "DATA", "--student", "STUDENT", "--out", "o", "--epochs", "1", "--max-length", "9"],
            2,
            "nothing to train",
        ),
        (["export", "o", "d"], 2, "model folder o does not exist"),
        (["export", "o", "d", "--step", "last"], 2, "neither a step nor 'final'"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], code: int, sentence: str, data: Path, student: ModelFolder
) -> None:
    places = {"DATA": str(data), "STUDENT": str(student.path)}
    done = distill(*[places.get(argument, argument) for argument in arguments])
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback() -> None:
    done = distill("--debug", "export", "nowhere", "d")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_without_the_extra_it_says_what_to_install(data: Path, student: ModelFolder, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tunix'] = None\n"
        f"sys.argv = ['distill', 'train', {str(data)!r}, '--student', {str(student.path)!r}, '--out', "
        f"{str(tmp_path / 'o')!r}, '--max-steps', '1']\n"
        "from distill.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'r1-factory[train]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()
