"""A conversation in the terminal: streamed, reasoning dimmed, and forgotten in later turns."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.chat import parse_template, without_reasoning
from distill.sft import train
from distill.talk import ReplyDisplay, open_conversation, trained_template
from distill.train_settings import TrainConfig
from filters.errors import UserError
from filters.tags import R1, R1_ZERO

pytestmark = pytest.mark.train

QUESTION = "What is 2 + 3?"


@pytest.fixture(scope="module")
def talk() -> Any:
    return open_conversation("tiny-teacher", "plain:r1-zero", max_new_tokens=64, temperature=1.0)


def test_a_reply_comes_in_pieces_and_is_a_function_of_its_seed(talk: Any) -> None:
    shown: list[str] = []
    for start in range(20):  # some are shorter than the stretch that is told at a time
        shown.clear()
        talk.forget()
        talk._replies = start
        reply = talk.say(QUESTION, shown.append)
        if len(shown) > 1:
            break
    assert len(shown) > 1 and all(later.startswith(earlier) for earlier, later in itertools.pairwise(shown))
    assert reply.text.startswith(shown[-1]) and reply.tokens <= 64
    assert [m["role"] for m in talk.messages] == ["user", "assistant"]
    talk.forget()
    talk._replies = start
    assert talk.say(QUESTION) == reply
    talk.forget()
    assert any(talk.say(QUESTION) != reply for _ in range(3))  # another seed each


def test_a_longer_conversation_takes_a_longer_prompt(talk: Any) -> None:
    talk.forget()
    for _ in range(6):
        talk.say("a " * 40)
    assert len(talk.messages) == 12 and max(talk._samplers) > 256


def test_an_empty_message_is_refused(talk: Any) -> None:
    with pytest.raises(UserError, match="the message is empty"):
        talk.say("  ")


def test_reasoning_of_earlier_turns_is_left_out() -> None:
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>one and one</think>\n2"},
        {"role": "user", "content": "<think>mine</think> stays"},
        {"role": "assistant", "content": "<think>never closed"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "plain"},
    ]
    assert [m["content"] for m in without_reasoning(messages, R1)] == [
        "1 + 1?",
        "2",
        "<think>mine</think> stays",
        "…",
        "and?",
        "plain",
    ]
    tagged = [{"role": "assistant", "content": "<think> a </think> <answer> 2 </answer>"}]
    assert without_reasoning(tagged, R1_ZERO)[0]["content"] == "<answer> 2 </answer>"


def test_the_reasoning_is_dimmed_and_nothing_else() -> None:
    text = "<think>one and one</think>\nIt is 2."
    for size in (1, 3, 7, len(text)):
        written: list[tuple[str, bool]] = []

        def write(piece: str, dim: bool, written: list[tuple[str, bool]] = written) -> None:
            written.append((piece, dim))

        display = ReplyDisplay(parse_template("gemma:r1"), write)
        for end in (*range(size, len(text), size), len(text)):
            display.update(text[:end])
        assert "".join(piece for piece, _ in written) == text
        dimmed = "".join(piece for piece, dim in written if dim)
        # The opening tag may have been shown before it was whole.
        assert dimmed.endswith("one and one</think>") and "It is" not in dimmed


def test_the_command_reads_lines(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distill.cli", "chat", "tiny-teacher", "--template", "plain:r1-zero"]
    done = subprocess.run(
        [*command, "--max-new-tokens", "32", "--temperature", "0"],
        input=f"{QUESTION}\n/new\n{QUESTION}\n/quit\nnever asked\n",
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.strip().split("\n")[:2]
    assert first == second != ""


def test_a_training_folder_talks_as_it_was_trained(student: Any, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "1 plus 1?"}, {"role": "assistant", "content": "2"}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    config = TrainConfig(template="gemma:tunix", max_steps=1, batch_size=1, max_length=64)
    train(config, tmp_path / "data.jsonl", student.path, tmp_path / "out")
    assert trained_template(tmp_path / "out") == "gemma:tunix"
    assert open_conversation(tmp_path / "out", max_new_tokens=8).template.name == "gemma:tunix"
    assert open_conversation(student.path, max_new_tokens=8).template.name == "gemma:r1"
    (tmp_path / "out" / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not finished"):
        open_conversation(tmp_path / "out")
