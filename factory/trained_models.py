"""Names and contents of the models that a run trained itself.

A recipe calls them `teacher:NAME` and `student:NAME`. Tables hold what they are: the hash of their content.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.training_log import read_manifest
from factory.files import read_json
from factory.recipe import trained_stage
from factory.store import Run
from factory.train import trained_folder


def trained_hash(run: Run, model: str) -> str | None:
    """Content hash of a model `teacher:NAME` or `student:NAME` of a run; None where it is not trained yet."""
    manifest = read_manifest(trained_folder(run, model))
    return None if manifest is None else manifest.get("model")


def content_hash(run: Run, config: Mapping[str, Any]) -> str | None:
    """Content hash of the teacher of a generate stage, from the stage's settings.

    They name a model of the same run by its name: it had no content yet when the stage was planned.
    """
    found = config.get("model_hash")
    return trained_hash(run, found) if found and trained_stage(found) is not None else found


def model_names(run: Run) -> dict[str, str]:
    """Content hash -> name in the recipe, of every teacher whose samples are drawn."""
    names = {}
    for path in run.manifests():
        manifest = read_json(path)
        config = manifest["config"]
        if manifest["stage"].partition(":")[0] == "generate" and "model" in config:
            found = content_hash(run, config)
            if found:
                names[found] = config["model"]
    return names


def chain(recipe: Mapping[str, Any], model: str) -> list[str]:
    """A model and what it was trained from, one after the other, as far as the recipe (plain values) tells.

    The last is a model that the recipe does not train, unless models are trained from each other in a circle.
    """
    found = [model]
    while trained_stage(found[-1]) is not None:
        kind, _, name = found[-1].partition(":")
        stage = (recipe.get("students" if kind == "student" else "teacher") or {}).get(name) or {}
        base = stage.get("base")
        if base is None or base in found:
            break
        found.append(str(base))
    return found
