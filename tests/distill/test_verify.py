"""What `distill export --verify` finds in a chat template; what it finds in weights is beside each format's tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distill.chat import parse_template, to_jinja
from distill.gemma.folder import ModelFolder, resolve_model
from distill.verify import check_template
from filters.errors import UserError

GEMMA = to_jinja(parse_template("gemma:r1"))


def with_template(jinja: str | None, tmp_path: Path) -> ModelFolder:
    target = tmp_path / "model"
    shutil.copytree(resolve_model("tiny-student"), target)
    (target / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((target / "config.json").read_text())
    config["eos_token_id"] = [1, 5]  # as a training writes it
    (target / "config.json").write_text(json.dumps(config))
    if jinja is not None:
        (target / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    return ModelFolder.open(target)


@pytest.mark.parametrize("name", ["gemma:r1", "plain:r1-zero", "plain:r1"])
def test_a_model_is_asked_as_it_was_trained(name: str, tmp_path: Path) -> None:
    template = parse_template(name)
    check_template(with_template(to_jinja(template), tmp_path), template, tmp_path)


def test_what_transformers_gives_a_template_is_there(tmp_path: Path) -> None:
    more = (
        "{% if tools is not none %}{{ raise_exception('tools') }}{% endif %}"
        "{%- set said = {'a': '<b>'} | tojson + strftime_now('%Y') + eos_token -%}"
        "{%- generation -%}{%- endgeneration -%}"
    )
    check_template(with_template(more + GEMMA, tmp_path), parse_template("gemma:r1"), tmp_path)


def test_a_model_without_a_template_has_none_to_check(tmp_path: Path) -> None:
    check_template(with_template(None, tmp_path), parse_template("gemma:r1"), tmp_path)


@pytest.mark.parametrize(
    ("jinja", "said"),
    [
        ("{{ bos_token }}" + GEMMA, "<bos> again at token 1"),
        (GEMMA.replace("{{ bos_token }}", ""), "does not begin with <bos>"),
        (GEMMA.replace("+ '<end_of_turn>' }}", "+ '\\n' }}"), "has no <end_of_turn>"),
        (to_jinja(parse_template("plain:r1-zero")), "another prompt than gemma:r1"),
        (GEMMA.replace("content + '<end", "'Please: ' + content + '<end"), "another prompt than gemma:r1"),
        ("{% if %}", "cannot be applied"),
        ("{{ raise_exception('never') }}", "cannot be applied: never"),
        ("{{ 1 / 0 }}", "cannot be applied: division by zero"),
    ],
)
def test_what_would_ask_it_another_way_is_said(jinja: str, said: str, tmp_path: Path) -> None:
    folder = with_template(jinja, tmp_path)
    with pytest.raises(UserError, match=said):
        check_template(folder, parse_template("gemma:r1"), tmp_path)
