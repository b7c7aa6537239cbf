"""The recipe behind `factory generate`: any file of questions, one model, one mix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.recipe import Recipe, validate_recipe
from filters.errors import UserError

READABLE: dict[str, Any] = {
    "require_format": True,
    "min_language_consistency": 0.9,
    "max_ngram_repeats": 20,
    "drop_duplicates": True,
    "max_per_prompt": 4,
}
"""What R1's filter asks beside correctness: readable, one language, no loops (arXiv 2501.12948, 2.3.3)."""


def recipe_for_file(
    *,
    prompts: Path,
    model: str,
    n: int,
    columns: Sequence[str],
    verifier: str | None,
    answer_instruction: str | None,
    template: str,
    temperature: float,
    top_p: float,
    top_k: int,
    max_new_tokens: int,
    prompt_length: int,
    batch_size: int,
    seed: int,
    keep: str,
    mix_name: str,
) -> Recipe:
    """Build a recipe from the options of the command line. No question is held out.

    Raises:
        UserError: a missing file, or an option that does not fit.
    """
    if not prompts.exists():
        raise UserError(
            f"there is no file or folder {prompts}; --prompts wants questions as JSONL, CSV, Parquet or text"
        )
    mapping = dict(_pair(column) for column in columns)
    source: dict[str, Any] = {"columns": mapping} if mapping else {}
    if verifier is not None:
        source["verifier"] = verifier
    if answer_instruction is not None:
        source["answer_instruction"] = answer_instruction
    if prompts.is_dir():
        source |= {"kind": "hub", "repo": str(prompts)}
    else:
        source |= {"kind": "files", "path": str(prompts)}
    return validate_recipe(
        {
            "name": "generate",
            "seed": seed,
            "prompts": {"sources": [source], "splits": {"validation": 0.0, "test": 0.0}},
            "generate": {
                "model": model,
                "template": template,
                "n": n,
                "sampling": {
                    "temperature": temperature,
                    "top_p": top_p,
                    "top_k": top_k,
                    "max_new_tokens": max_new_tokens,
                },
                "prompt_length": prompt_length,
                "batch_size": batch_size,
            },
            "mixes": {mix_name: {"select": {"require_correct": keep == "correct", **READABLE}}},
        },
        "the command line",
    )


def _pair(text: str) -> tuple[str, str]:
    field, equals, column = text.partition("=")
    if not equals or not field or not column:
        raise UserError(f"--column wants FIELD=COLUMN such as question=problem, got {text!r}")
    return field, column
