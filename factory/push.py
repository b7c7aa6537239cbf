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
from factory.recipe import Recipe, load_recipe
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
    """Everything the card says about how a mix was made.

    Raises:
        UserError: the run has no such mix.
    """
    recipe = load_recipe(run.folder / "recipe.yaml")
    manifest = run.manifest(f"mix:{mix}")
    if mix not in recipe.mixes or manifest is None:
        finished = [name for name in recipe.mixes if run.manifest(f"mix:{name}")]
        raise UserError(f"{run.folder} has no finished mix {mix!r}; it has {', '.join(finished) or 'none'}")
    run.check_outputs(manifest)
    with connect(run) as connection:
        counts = rows(connection, _COUNTS, [mix])[0]
        dropped = {row["reason"]: row["n"] for row in rows(connection, _DROPPED, [mix])}
        graders = [row["name"] for row in rows(connection, _GRADERS, [mix])]
    spec = recipe.generate
    generated = run.manifest("generate")
    return CardFacts(
        run=run.folder.name,
        mix=mix,
        recipe=recipe.name,
        recipe_text=yaml.safe_dump(
            _without_folders(recipe.model_dump(mode="json")), sort_keys=False, allow_unicode=True
        ),
        teacher=_without_folders(spec.model),
        teacher_hash=generated["config"]["model_hash"] if generated else "",
        teacher_licence="apache-2.0" if spec.model in TINY else "gemma",
        tag_style=recipe.mixes[mix].tag_style,
        prompts=counts["prompts"],
        candidates=counts["candidates"],
        accepted=counts["accepted"],
        generation={
            "samples a prompt": str(spec.n),
            "template": spec.template,
            **{key: f"{value:g}" for key, value in spec.sampling.model_dump().items()},
        },
        graders=graders,
        filters=_filters(recipe, mix),
        dropped=dropped,
        sources=_sources(recipe),
        code_version=version("r1-factory"),
    )


def _without_folders(value: Any) -> Any:
    """Paths of the publisher's machine say nothing to a reader: of an absolute one the name is enough."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _filters(recipe: Recipe, mix: str) -> dict[str, str]:
    """The thresholds that are on."""
    settings = recipe.mixes[mix].select.model_dump()
    return {key: str(value).lower() for key, value in settings.items() if value not in (None, False)}


def _sources(recipe: Recipe) -> list[SourceFacts]:
    facts = []
    for source in recipe.prompts.sources:
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
