"""`factory push`: the facts of a run's mix, put on a card and published."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distill.gemma.folder import TINY
from factory.card import CardFacts, SourceFacts, TraceFacts
from factory.publish import PushResult, push
from factory.query import connect, rows
from factory.recipe import load_recipe, trained_stage
from factory.sources import AnySource, parse_source
from factory.sources.layouts import FIELDS
from factory.sources.traces import ENGINE
from factory.store import Run
from factory.trained_models import chain, content_hash
from filters.errors import UserError

if TYPE_CHECKING:
    import duckdb

_DROPPED = "select unnest(reasons) as reason, count(*) as n from decisions where mix = ? group by 1"
_COUNTS = """
select count(distinct prompt_id) as prompts, count(*) as candidates, count(*) filter (accepted) as accepted
from decisions where mix = ?
"""
_GRADERS = """
select distinct v.grader || ' ' || v.grader_version as name
from verdict v join decisions d using (candidate_id) where d.mix = ? order by 1
"""
_MODELS = f"""
select nullif(c.model, '{ENGINE}') as model, count(*) as candidates, count(*) filter (d.accepted) as accepted
from decisions d join candidates c using (candidate_id) where d.mix = ? group by 1 order by 2 desc, 1
"""

_TEACHERS = """
select distinct c.model from decisions d join candidates c using (candidate_id) where d.mix = ? order by 1
"""

_OPENED = {"*": "all models", ENGINE: "models without a name"}

Manifests = Mapping[str, Mapping[str, Any]]
"""Manifests of the stages that made a mix, by the stage's kind."""


def card_facts(run: Run, mix: str) -> CardFacts:
    """Everything the card says about how a mix was made, from the manifests of the stages that made it.

    Raises:
        UserError: the run has no such mix, or a file of it is damaged.
    """
    finished = _finished(run, mix)
    settings = {kind: manifest["config"] for kind, manifest in finished.items()}
    with connect(run) as connection:
        counts = rows(connection, _COUNTS, [mix])[0]
        dropped = {row["reason"]: row["n"] for row in rows(connection, _DROPPED, [mix])}
        graders = [row["name"] for row in rows(connection, _GRADERS, [mix])]
        origin = (
            _imported(connection, mix, finished["import"])
            if "import" in finished
            else _sampled(run, settings, _teacher_hash(run, connection, mix, settings["generate"]))
        )
    return CardFacts(
        run=run.folder.name,
        mix=mix,
        recipe_text=yaml.safe_dump(
            _without_folders(settings | _teaching(run, settings)), sort_keys=False, allow_unicode=True
        ),
        tag_style=settings["mix"]["tag_style"],
        prompts=counts["prompts"],
        candidates=counts["candidates"],
        accepted=counts["accepted"],
        graders=graders,
        filters=_filters(settings["select"]["select"]),
        dropped=dropped,
        code_version=version("r1-factory"),
        **origin,
    )


def _finished(run: Run, mix: str) -> Manifests:
    """The manifests of all stages of a mix, its own files checked.

    Raises:
        UserError: a stage is not done, or a file of it is damaged.
    """
    first = ("import",) if run.manifest("import") is not None else ("prompts", "generate")
    names = (*first, "judge", f"select:{mix}", f"mix:{mix}")
    # A mix of another sampling than the main one is made by the stages of that name.
    of = ((run.manifest(f"mix:{mix}") or {}).get("config") or {}).get("of")
    if of is not None:
        names = tuple(f"{name}:{of}" if name in ("generate", "judge") else name for name in names)
    found = {name.partition(":")[0]: run.manifest(name) for name in names}
    finished = {kind: manifest for kind, manifest in found.items() if manifest is not None}
    if len(finished) < len(names):
        there = sorted(
            path.stem.removeprefix("mix.") for path in run.manifests() if path.stem.startswith("mix.")
        )
        raise UserError(f"{run.folder} has no finished mix {mix!r}; it has {', '.join(there) or 'none'}")
    for kind in ("select", "mix"):
        run.check_outputs(finished[kind], content=True)
    return finished


def _teacher_hash(run: Run, connection: duckdb.DuckDBPyConnection, mix: str, drawn: Mapping[str, Any]) -> str:
    """Content hash of the model that answered: as its candidates say, where they agree.

    The settings of the stage are no witness for a model of this run: it had no content when they were written.
    """
    found = [row["model"] for row in rows(connection, _TEACHERS, [mix]) if row["model"]]
    return str(found[0]) if len(found) == 1 else content_hash(run, drawn) or ""


def _teaching(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the stages that trained the teacher, the first one first; empty where it was not trained here."""
    model = (settings.get("generate") or {}).get("model", "")
    stages = []
    while (stage := trained_stage(model)) is not None and stage not in stages:
        stages.append(stage)
        model = ((run.manifest(stage) or {}).get("config") or {}).get("base", "")
    found = {stage: (run.manifest(stage) or {}).get("config") for stage in reversed(stages)}
    return {stage: config for stage, config in found.items() if config}


def _sampled(run: Run, settings: Mapping[str, Any], teacher_hash: str) -> dict[str, Any]:
    """What the card says of a teacher's samples."""
    drawn = settings["generate"]
    values = (
        {key: item for key, item in value.items() if key != "source"}
        for value in settings["prompts"]["sources"]
    )
    recipe = load_recipe(run.folder / "recipe.yaml")
    road = chain(recipe.model_dump(mode="json"), drawn["model"])
    return {
        "recipe": recipe.name,
        "teacher": ", trained by this run from ".join(_without_folders(road)),
        "teacher_hash": teacher_hash,
        # What was trained from other weights goes under the terms of those.
        "teacher_licence": "apache-2.0" if road[-1] in TINY else "gemma",
        "generation": {
            "samples a prompt": str(drawn["n"]),
            "template": drawn["template"],
            **{key: f"{value:g}" for key, value in drawn["sampling"].items()},
        },
        "sources": [_source(parse_source(value)) for value in values],
    }


def _imported(connection: duckdb.DuckDBPyConnection, mix: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says of traces that existed already."""
    config, origin = manifest["config"], manifest.get("origin") or {}
    models = [tuple(row.values()) for row in rows(connection, _MODELS, [mix])]
    columns = [(name.replace("_", " "), config[name]) for name in FIELDS if isinstance(config.get(name), str)]
    if config["layout"] == "named":
        columns.append(("model", "the name of the object that holds the completion"))
    held = rows(connection, "select count(*) as n from candidates")[0]["n"]
    # What an earlier import of more rows left in the run belongs to the mix as well.
    limit = manifest["limit"] if held == manifest["counts"]["candidates"] else None
    name = config["source"]["name"]
    return {
        "traces": TraceFacts(
            files=sorted(config["files"].items()),
            columns=columns,
            models=models,
            repo=origin.get("repo", ""),
            revision=origin.get("revision", ""),
            opened=sorted(_OPENED.get(key, key) for key in config["opened"]),
            left_out=manifest["counts"]["bad rows"],
            limit=limit,
        ),
        "teacher_licence": "gemma" if any("gemma" in (row[0] or "").lower() for row in models) else "",
        "sources": [] if name is None else [_source(parse_source({"source": name}))],
    }


def _without_folders(value: Any) -> Any:
    """Paths of the publisher's machine say nothing to a reader: of an absolute one the name is enough."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _filters(select: Mapping[str, Any]) -> dict[str, str]:
    """The thresholds that are on."""
    return {
        key: str(value).lower() for key, value in select.items() if value is not None and value is not False
    }


def _source(source: AnySource) -> SourceFacts:
    url = f"https://huggingface.co/datasets/{source.repo}" if source.kind == "hub" else ""
    return SourceFacts(source.label, source.licence, source.description, url)


def push_mix(
    run: Run, mix: str, *, repo: str, private: bool, dry_run: bool, message: str | None
) -> PushResult:
    """Publish a finished mix of a run. See `factory.publish.push` for what can be refused."""
    return push(
        run.folder / "mix" / mix,
        card_facts(run, mix),
        repo=repo,
        private=private,
        dry_run=dry_run,
        message=message,
    )
