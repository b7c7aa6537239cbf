"""Bad input on the command line: one clear sentence, an exit code, no traceback, nothing lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from factory.store import Run

HEAVY = ("jax", "tunix", "flax", "datasets", "duckdb", "reasoning_gym", "sympy", "torch", "transformers")


def factory(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "factory.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **more)  # type: ignore[call-overload, no-any-return]


def refused(result: subprocess.CompletedProcess[str], *words: str) -> str:
    """The message of a refused command: it says what, it is short, it is no traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, (word, result.stderr)
    return result.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import filters",
        "import distill",
        "import distill.chat",
        "import distill.gemma.folder",
        "import factory",
        "import sys; sys.argv = ['factory', '--help']\nimport factory.cli\ntry: factory.cli.main()\nexcept SystemExit: pass",
        "import sys; sys.argv = ['distill', '--help']\nimport distill.cli\ntry: distill.cli.main()\nexcept SystemExit: pass",
    ],
)
def test_light_imports_stay_light(code: str) -> None:
    check = f"{code}\nimport sys\nprint([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"


def test_the_hugging_face_library_is_not_shadowed() -> None:
    root = Path(__file__).parents[2]
    code = "import datasets; print(datasets.__file__, hasattr(datasets, 'load_dataset'))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert "site-packages" in result.stdout and result.stdout.strip().endswith("True")


def questions(tmp_path: Path, count: int = 3) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text(
        "".join(
            json.dumps({"question": f"What is {i} + 1?", "reference": str(i + 1)}) + "\n"
            for i in range(count)
        )
    )
    return path


def recipe(tmp_path: Path, text: str = "") -> Path:
    path = tmp_path / "recipe.yaml"
    source = f"[{{kind: files, path: {questions(tmp_path)}}}]"
    path.write_text(text or f"name: r\nprompts: {{sources: {source}}}\ngenerate: {{model: tiny-teacher}}\n")
    return path


def test_missing_model_folder(tmp_path: Path) -> None:
    result = factory(
        "generate",
        "--prompts",
        str(questions(tmp_path)),
        "--model",
        str(tmp_path / "none"),
        "--run",
        str(tmp_path / "run"),
    )
    refused(result, str(tmp_path / "none"), "does not exist")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_does_not_fit(tmp_path: Path) -> None:
    from distill.gemma.folder import resolve_model

    model = tmp_path / "model"
    model.mkdir()
    for path in Path(resolve_model("tiny-student")).iterdir():
        if path.is_file():
            (model / path.name).write_bytes(path.read_bytes())
    config = json.loads((model / "config.json").read_text())
    config["vocab_size"] = 7
    (model / "config.json").write_text(json.dumps(config))
    result = factory(
        "generate",
        "--prompts",
        str(questions(tmp_path)),
        "--model",
        str(model),
        "--run",
        str(tmp_path / "run"),
    )
    refused(result, "token")


def test_unknown_task_names_the_nearest(tmp_path: Path) -> None:
    text = "name: r\nprompts:\n  sources:\n    - {kind: reasoning_gym, task: countdwon, size: 5}\ngenerate: {model: tiny-teacher}\n"
    result = factory("run", str(recipe(tmp_path, text)), "--run", str(tmp_path / "run"))
    refused(result, "countdwon", "countdown")


def test_empty_prompt_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    result = factory(
        "generate", "--prompts", str(empty), "--model", "tiny-teacher", "--run", str(tmp_path / "run")
    )
    refused(result, "empty.jsonl")


def test_malformed_recipe(tmp_path: Path) -> None:
    path = recipe(tmp_path, "name: r\nprompts: {sources: []}\ngenerate: {model: tiny-teacher, nn: 3}\n")
    refused(factory("run", str(path)), "line 3", "'n'")


def test_missing_recipe_and_missing_run(tmp_path: Path) -> None:
    refused(factory("run", "tinny"), "did you mean 'tiny'?")
    refused(factory("query", str(tmp_path), "select 1"), "is not a run")
    refused(factory("status", str(tmp_path)), "is not a run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; see test_read_only_mount")
def test_read_only_run_folder(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    refused(factory("run", str(recipe(tmp_path)), "--run", str(folder / "run")), "cannot write")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root; see test_read_only_run_folder")
def test_read_only_mount(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)], check=False
    ).returncode:
        pytest.skip("cannot mount here")
    try:
        refused(
            factory("run", str(recipe(tmp_path)), "--run", str(folder / "run")), "cannot write", str(folder)
        )
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_run_of_a_newer_schema(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    marker = run.folder / "run.json"
    marker.write_text(marker.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    for arguments in (
        ["query", str(run.folder), "select 1"],
        ["run", str(recipe(tmp_path)), "--run", str(run.folder)],
    ):
        refused(factory(*arguments), "newer version", "pip install -U")


def test_sql_that_does_not_work(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    refused(factory("query", str(run.folder), "select colour from prompts"), "colour")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = factory("--debug", "query", str(tmp_path), "select 1")
    assert result.returncode == 2 and "Traceback" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.train
def test_a_stopped_run_says_so_and_goes_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    arguments = [
        "generate",
        "--prompts",
        str(questions(tmp_path, 400)),
        "--model",
        "tiny-student",
        "--n",
        "64",
    ]
    arguments += ["--run", str(tmp_path / "run"), "--template", "r1-zero", "--max-new-tokens", "64", "--raw"]
    process = subprocess.Popen(
        [sys.executable, "-m", "factory.cli", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    journal = tmp_path / "run" / "journal" / "candidates" / "main.jsonl"
    while time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "goes on from there" in stderr and "Traceback" not in stderr
    kept = Run.open(tmp_path / "run").read("candidates").num_rows
    assert kept > 0 and not list((tmp_path / "run" / "locks").glob("*.json"))


def test_query_formats(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    run.replace("notes", "main", [{"note_id": "1", "text": 'a, "b" [red]'}])
    as_json = factory("query", str(run.folder), "select note_id, text from notes", "--format", "json")
    assert json.loads(as_json.stdout) == {"note_id": "1", "text": 'a, "b" [red]'}
    as_csv = factory("query", str(run.folder), "select note_id, text from notes", "--format", "csv")
    assert as_csv.stdout.split() == ["note_id,text", '1,"a,', '""b""', '[red]"']
    assert "[red]" in factory("query", str(run.folder), "select text from notes").stdout


def test_recipes_ls_show_cp(tmp_path: Path) -> None:
    assert "tiny" in factory("recipes", "ls").stdout
    shown = factory("recipes", "show", "tiny").stdout
    target = tmp_path / "mine.yaml"
    assert factory("recipes", "cp", "tiny", str(target)).returncode == 0
    assert target.read_text() == shown
    refused(factory("recipes", "cp", "tiny", str(target)), "there already")


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    result = factory("run", "tiny", "--run", str(tmp_path / "run"), "--dry-run")
    assert result.returncode == 0, result.stderr
    for word in ("2,360 prompts", "8,000 samples", "teach:zero", "train:distilled", "MiB", "to do"):
        assert word in result.stdout
    assert not (tmp_path / "run").exists()
