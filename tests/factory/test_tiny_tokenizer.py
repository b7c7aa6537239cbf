"""The shipped tiny tokenizer."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.tiny import tasks
from factory.tiny.tokenizer import prompt_text
from filters.tags import TAG_STYLES

pytestmark = pytest.mark.train

TINY = Path(__file__).parents[2] / "distill" / "gemma" / "tiny"


@pytest.fixture(scope="module")
def library():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(TINY / "teacher" / "tokenizer.json"))


def ids(library, text: str) -> list[int]:  # type: ignore[no-untyped-def]
    return library.encode(text, add_special_tokens=False).ids


def test_teacher_and_student_have_the_same_tokenizer() -> None:
    teacher, student = (TINY / name / "tokenizer.json" for name in ("teacher", "student"))
    assert teacher.read_bytes() == student.read_bytes()


def test_control_tokens_stand_where_gemma_has_them(library) -> None:  # type: ignore[no-untyped-def]
    names = ("<pad>", "<eos>", "<bos>", "<unk>")
    assert [library.token_to_id(name) for name in names] == [0, 1, 2, 3]
    special = {t.content for t in library.get_added_tokens_decoder().values() if t.special}
    assert special == {*names, "<start_of_turn>", "<end_of_turn>"}


def test_every_integer_below_a_hundred_is_one_token(library) -> None:  # type: ignore[no-untyped-def]
    assert all(len(ids(library, str(n))) == 1 for n in range(100))
    assert all(len(ids(library, str(n))) == 2 for n in (100, 123, 999))


def test_tags_are_one_ordinary_token_each(library) -> None:  # type: ignore[no-untyped-def]
    for style in TAG_STYLES.values():
        for tag in style.tags:
            assert len(ids(library, tag)) == 1
            assert library.decode(ids(library, tag), skip_special_tokens=True) == tag


def test_prompts_of_the_tasks_are_short(library) -> None:  # type: ignore[no-untyped-def]
    for rung in tasks.training_rungs():
        for problem in itertools.islice(tasks.problems(rung, 3, "train"), 20):
            text = prompt_text(problem.question)
            assert len(ids(library, text)) <= 22
            assert library.decode(ids(library, text)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text().filter(lambda text: "\u2581" not in text))
def test_any_text_comes_back(library, text: str) -> None:  # type: ignore[no-untyped-def]
    """All but U+2581, which stands for a space, as in Gemma's own tokenizer."""
    library.encode_special_tokens = True
    assert library.decode(ids(library, text), skip_special_tokens=False) == text


def test_building_twice_gives_the_same_tokenizer() -> None:
    from factory.tiny import corpus, tokenizer

    part = list(corpus.groups(1, dict.fromkeys(tasks.task_names(), 20), dict.fromkeys(tasks.task_names(), 4)))
    texts = [s.completion for g in part for s in g.samples]
    assert tokenizer.build(texts).to_str() == tokenizer.build(texts).to_str()
