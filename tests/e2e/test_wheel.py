"""The base install, as a wheel, outside the checkout: curation and grading work, training says what is missing."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel and its base dependencies."""
    home = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", str(wheel)], check=True)
    return home / "bin"


def call(binaries: Path, name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(binaries / name), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


def test_the_wheel_holds_the_catalogue_and_the_models_and_no_datasets_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "factory/catalogue/recipes/tiny.yaml" in names and "factory/catalogue/sources/tiny.yaml" in names
    assert "distill/gemma/tiny/teacher/model.safetensors" in names
    assert not [name for name in names if name.startswith(("datasets/", "tests/", "benchmarks/"))]


def test_base_install(binaries: Path, tmp_path: Path) -> None:
    assert call(binaries, "python", "-c", "import jax", cwd=tmp_path).returncode != 0
    assert "tiny" in call(binaries, "factory", "recipes", "ls", cwd=tmp_path).stdout
    plan = call(binaries, "factory", "run", "tiny", "--dry-run", cwd=tmp_path)
    assert plan.returncode == 0 and "8,000 samples" in plan.stdout, plan.stderr
    code = (
        "import datasets, filters; assert datasets.load_dataset\n"
        "print(filters.verify('math', 'What is 1 + 1?', '2', 'It is \\\\boxed{2}.').outcome)"
    )
    assert call(binaries, "python", "-c", code, cwd=tmp_path).stdout.strip() == "correct"


def test_training_says_which_extra_to_install(binaries: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    data.write_text(json.dumps({"messages": turns}) + "\n")
    arguments = ["train", str(data), "--student", "tiny-student", "--out", "out", "--max-steps", "1"]
    trained = call(binaries, "distill", *arguments, cwd=tmp_path)
    sampled = call(binaries, "factory", "run", "tiny", "--run", "t", "--set", "prompts.sources=[{source: tiny, size: 4}]", cwd=tmp_path)  # fmt: skip
    measured = call(binaries, "factory", "eval", "tiny-teacher", "--suite", "gsm8k", cwd=tmp_path)
    for result in (trained, sampled, measured):
        assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
        assert "pip install 'r1-factory[train]'" in result.stderr
