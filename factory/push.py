"""`factory push`: the facts of a run's mix, put on a card and published."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from distill.gemma.folder import TINY
from factory.card import CardFacts, SourceFacts
from factory.publish import PushResult, push
from factory.query import connect, rows
from factory.recipe import load_recipe
from factory.sources import parse_source
from factory.store import Run
from filters.errors import UserError

_DROPPED = "select unnest(reasons) as reason, count(*) as n from decisions where mix = ? group by 1"
_COUNTS = """
select count(distinct prompt_id) as prompts, count(*) as candidates, count(*) filter (accepted) as accepted
from decisions where mix = ?
"""
_GRADERS = """
select distinct v.grader || ' ' || v.grader_version as name
from verdict v join decisions d using (candidate_id) where d.mix = ? order by 1
"""


def card_facts(run: Run, mix: str) -> CardFacts:
    """Everything the card says about how a mix was made, from the manifests of the stages that made it.

    Raises:
        UserError: the run has no such mix, or a file of it is damaged.
    """
    names = ("prompts", "generate", "judge", f"select:{mix}", f"mix:{mix}")
    manifests = {name.partition(":")[0]: run.manifest(name) for name in names}
    finished = {kind: manifest for kind, manifest in manifests.items() if manifest is not None}
    if len(finished) < len(names):
        there = sorted(
            path.stem.removeprefix("mix.") for path in run.manifests() if path.stem.startswith("mix.")
        )
        raise UserError(f"{run.folder} has no finished mix {mix!r}; it has {', '.join(there) or 'none'}")
    for manifest in (finished["select"], finished["mix"]):
        run.check_outputs(manifest, content=True)
    settings = {kind: manifest["config"] for kind, manifest in finished.items()}
    with connect(run) as connection:
        counts = rows(connection, _COUNTS, [mix])[0]
        dropped = {row["reason"]: row["n"] for row in rows(connection, _DROPPED, [mix])}
        graders = [row["name"] for row in rows(connection, _GRADERS, [mix])]
    drawn = settings["generate"]
    return CardFacts(
        run=run.folder.name,
        mix=mix,
        recipe=load_recipe(run.folder / "recipe.yaml").name,
        recipe_text=yaml.safe_dump(_without_folders(settings), sort_keys=False, allow_unicode=True),
        teacher=_without_folders(drawn["model"]),
        teacher_hash=drawn["model_hash"],
        teacher_licence="apache-2.0" if drawn["model"] in TINY else "gemma",
        tag_style=settings["mix"]["tag_style"],
        prompts=counts["prompts"],
        candidates=counts["candidates"],
        accepted=counts["accepted"],
        generation={
            "samples a prompt": str(drawn["n"]),
            "template": drawn["template"],
            **{key: f"{value:g}" for key, value in drawn["sampling"].items()},
        },
        graders=graders,
        filters=_filters(settings["select"]["select"]),
        dropped=dropped,
        sources=_sources(settings["prompts"]),
        code_version=version("r1-factory"),
    )


def _without_folders(value: Any) -> Any:
    """Paths of the publisher's machine say nothing to a reader: of an absolute one the name is enough."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _filters(select: dict[str, Any]) -> dict[str, str]:
    """The thresholds that are on."""
    return {
        key: str(value).lower() for key, value in select.items() if value is not None and value is not False
    }


def _sources(prompts: dict[str, Any]) -> list[SourceFacts]:
    facts = []
    for value in prompts["sources"]:
        source = parse_source({key: item for key, item in value.items() if key != "source"})
        url = f"https://huggingface.co/datasets/{source.repo}" if source.kind == "hub" else ""
        facts.append(SourceFacts(source.label, source.licence, source.description, url))
    return facts


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
