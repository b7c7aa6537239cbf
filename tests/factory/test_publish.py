"""Publishing, with the real clients against a Hub on the loopback."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from factory.card import CardFacts, MixStats, SourceFacts, metadata, size_category
from factory.publish import PushResult, build_shards, push
from factory.records import MIX, content_id
from filters.errors import UserError
from tests.hub_server import Hub, Repository, running_hub

FACTS = CardFacts(
    run="demo",
    mix="filtered",
    recipe="tiny",
    recipe_text="name: tiny\nprompts: {}\n",
    teacher="tiny-teacher",
    teacher_hash="0123abcd",
    teacher_licence="apache-2.0",
    tag_style="r1",
    prompts=40,
    candidates=320,
    accepted=90,
    generation={"temperature": "1.0", "samples a prompt": "8"},
    graders=("puzzle 1",),
    filters={"require_correct": "true"},
    dropped={"incorrect": 200, "language_mix": 44},
    sources=(SourceFacts("tiny", "Apache-2.0", "small sums | and more"),),
)


def sample(index: int, **changes: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"What is {index} + 1?"},
        {"role": "assistant", "content": f"<think>加 one</think>\n{index + 1}"},
    ]
    return {
        "sample_id": content_id([messages, index]),
        "messages": messages,
        "question": f"What is {index} + 1?",
        "reasoning": "加 one",
        "answer": str(index + 1),
        "component": "general" if index % 4 == 0 else "reasoning",
        "split": "validation" if index % 10 == 0 else "train",
        "weight": 1.0,
        "domain": "arithmetic",
        "language": "en",
        "tokens": 12,
        "n_samples": 8,
        "n_judged": 8,
        "n_correct": index % 9,
        "source": "tiny",
        "licence": "Apache-2.0",
        "origin": {
            "kind": "generated",
            "repo": None,
            "revision": None,
            "file": None,
            "row": None,
            "candidate_id": "c",
        },
        **changes,
    }


def write_mix(folder: Path, rows: list[dict[str, Any]], parts: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        pq.write_table(MIX.rows_to_arrow(rows[part::parts]), folder / f"part-{part:06d}.parquet")
    return folder


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    return write_mix(tmp_path / "mix", [sample(index) for index in range(100)])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    import huggingface_hub.constants as constants

    with running_hub() as server:
        for key, value in server.environment().items():
            monkeypatch.setenv(key, value)
        # The client reads these two when it is imported.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield server


def load_in_a_fresh_process(hub: Hub, tmp_path: Path, code: str) -> Any:
    """Run code that prints JSON, in a process whose clients know this Hub alone."""
    environment = {
        **os.environ,
        **hub.environment(),
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_pushed_mix_is_read_back_row_by_row(hub: Hub, mix: Path, tmp_path: Path) -> None:
    result = push(mix, FACTS, repo="team/set")
    assert result.changed and result.private and hub.repositories["team/set"].private
    assert [path for path, _, _ in result.files] == [
        "README.md",
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
    ]
    code = (
        "import json, datasets; d = datasets.load_dataset('team/set'); "
        "s = datasets.load_dataset('team/set', split='train', streaming=True); "
        "print(json.dumps({**{k: d[k].to_list() for k in d}, 'streamed': list(s)}))"
    )
    back = load_in_a_fresh_process(hub, tmp_path, code)
    rows = {row["sample_id"]: row for row in (sample(index) for index in range(100))}
    for split in ("train", "validation"):
        wanted = {key for key, row in rows.items() if row["split"] == split}
        assert {row["sample_id"] for row in back[split]} == wanted
    for row in (*back["train"], *back["validation"]):
        assert row == rows[row["sample_id"]]
    assert back["streamed"] == back["train"]


def test_a_dry_run_sends_nothing(hub: Hub, mix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    result = push(mix, FACTS, repo="team/set", dry_run=True)
    assert hub.requests == []
    assert (result.dry_run, result.changed, result.commit) == (True, False, None)
    text = result.describe()
    assert "dry run, nothing was sent: team/set (private)" in text
    assert "data/train-00000-of-00001.parquet" in text and "90 rows" in text and "KiB" in text


def test_an_identical_push_makes_no_commit(hub: Hub, mix: Path) -> None:
    first = push(mix, FACTS, repo="team/set")
    second = push(mix, FACTS, repo="team/set")
    assert len(hub.repositories["team/set"].commits) == 2  # the initial one and the first push
    assert (second.changed, second.commit) == (False, first.commit)
    assert "no commit was made" in second.describe()


def test_a_changed_mix_replaces_its_shards_in_one_commit(hub: Hub, mix: Path, tmp_path: Path) -> None:
    push(mix, FACTS, repo="team/set")
    repository = hub.repositories["team/set"]
    noise = random.Random(0)
    long_rows = [sample(i, split="train", reasoning=noise.randbytes(20_000).hex()) for i in range(80)]
    result = push(write_mix(tmp_path / "long", long_rows), FACTS, repo="team/set", max_shard_bytes=2**20)
    shards = [path for path in repository.commits[-1].files if path.startswith("data/")]
    assert len(repository.commits) == 3
    assert len(shards) > 1 and all(f"-of-{len(shards):05d}." in path for path in shards)
    assert result.deleted == ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet")
    assert ".gitattributes" in repository.commits[-1].files


def test_shards_keep_their_limit_and_lose_no_row(tmp_path: Path) -> None:
    noise = random.Random(1)
    rows = [sample(i, reasoning=noise.randbytes(noise.randrange(40_000)).hex()) for i in range(150)]
    rows[7]["reasoning"] = noise.randbytes(500_000).hex()
    (tmp_path / "out").mkdir()
    shards, stats, _ = build_shards(write_mix(tmp_path / "mix", rows, parts=3), tmp_path / "out", 2**20)
    assert len(shards) > 3
    assert all(shard.local.stat().st_size == shard.size <= 2**20 for shard in shards)
    read = [row for shard in shards for row in pq.read_table(shard.local).to_pylist()]
    assert sorted(row["sample_id"] for row in read) == sorted(row["sample_id"] for row in rows)
    assert stats.rows == sum(shard.rows or 0 for shard in shards) == 150
    for shard in shards:
        assert {row["split"] for row in pq.read_table(shard.local).to_pylist()} == {
            shard.path[5:].split("-")[0]
        }


def test_the_card_tells_the_run(hub: Hub, mix: Path) -> None:
    card = push(mix, FACTS, repo="team/set").card
    assert hub.repositories["team/set"].commits[-1].files["README.md"].decode() == card
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "apache-2.0"
    assert head["language"] == ["en"]
    assert head["size_categories"] == ["n<1K"]
    assert [s["path"] for s in head["configs"][0]["data_files"]] == ["data/train-*", "data/validation-*"]
    assert {s["name"]: s["num_examples"] for s in head["dataset_info"]["splits"]} == {
        "train": 90,
        "validation": 10,
    }
    assert [f["name"] for f in head["dataset_info"]["features"]] == MIX.schema.names
    for text in (
        "100 samples", "| train | 90 | 1,080 |", "| reasoning | arithmetic | train | 70 |", "| incorrect | 200 |",
        "| language\\_mix | 44 |".replace("\\_", "_"), "tiny-teacher", "0123abcd", "Of 320 candidates, 90 were accepted",
        "| require_correct | true |", "| temperature | 1.0 |", "small sums \\| and more", 'load_dataset("team/set"',
        "```yaml\nname: tiny", "hf auth login",
    ):  # fmt: skip
        assert text in card, text
    assert "Gemma Terms" not in card


def test_a_gemma_teacher_brings_its_terms(mix: Path) -> None:
    card = push(mix, replace(FACTS, teacher_licence="gemma"), repo="team/set", dry_run=True).card
    assert "https://ai.google.dev/gemma/terms" in card and "derivative of Gemma" in card
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["license_name"]) == ("other", "mixed")


def test_the_card_says_of_the_set_what_is_so(tmp_path: Path) -> None:
    apart = [sample(index, component="reasoning") for index in range(20)]
    card = push(write_mix(tmp_path / "apart", apart), FACTS, repo="team/set", dry_run=True).card
    assert "No question stands in more than one split" in card and "plain" not in card
    shared = [sample(index, question=f"Same {index // 20}?") for index in range(40)]
    card = push(write_mix(tmp_path / "shared", shared), FACTS, repo="team/set", dry_run=True).card
    assert "2 questions stand in more than one split" in card and "beside plain" in card
    one = [sample(index, split="train") for index in range(5)]
    assert (
        "more than one split"
        not in push(write_mix(tmp_path / "one", one), FACTS, repo="team/set", dry_run=True).card
    )


def test_a_public_card_asks_for_no_login(mix: Path) -> None:
    assert "hf auth login" not in push(mix, FACTS, repo="team/set", private=False, dry_run=True).card


def test_text_of_the_run_cannot_break_the_card(mix: Path) -> None:
    odd = replace(FACTS, recipe_text="a: |\n  ```\n  b\n", teacher="x | y\n# heading", title="---")
    card = push(mix, odd, repo="team/set", dry_run=True).card
    assert "x \\| y # heading" in card and "\n# heading" not in card
    assert "````yaml\na: |" in card


def test_licences_and_sizes_speak_the_hubs_language() -> None:
    stats = MixStats()
    stats.sources.update({("a", "MIT"): 1, ("b", "MIT"): 2})
    assert metadata(FACTS, stats, {})["license"] == "mit"
    stats.sources.update({("c", "Our Own Terms!"): 1})
    assert metadata(FACTS, stats, {})["license_name"] == "mixed"
    named = metadata(replace(FACTS, licence="Our Own Terms!"), stats, {})
    assert (named["license"], named["license_name"]) == ("other", "our-own-terms")
    assert [size_category(n) for n in (999, 1000, 99_999, 800_000)] == [
        "n<1K",
        "1K<n<10K",
        "10K<n<100K",
        "100K<n<1M",
    ]


# -------------------------------------------------------------------------------- what can go wrong


def test_public_repositories_are_not_pushed_to_by_accident(hub: Hub, mix: Path) -> None:
    hub.create("team/open")
    with pytest.raises(UserError, match="is public"):
        push(mix, FACTS, repo="team/open")
    assert len(hub.repositories["team/open"].commits) == 1
    assert push(mix, FACTS, repo="team/open", private=False).changed


def test_a_private_repository_stays_private(hub: Hub, mix: Path) -> None:
    hub.create("team/closed", private=True)
    result = push(mix, FACTS, repo="team/closed", private=False)
    assert result.private and hub.repositories["team/closed"].private
    assert "stays so" in result.describe()


def test_a_rival_commit_is_not_overwritten(hub: Hub, mix: Path) -> None:
    def rival(repository: Repository) -> None:
        repository.commit("rival", {**repository.commits[-1].files, "notes.md": b"mine"})

    hub.before_commit = rival
    with pytest.raises(UserError, match=r"somebody else changed team/set.*Push again"):
        push(mix, FACTS, repo="team/set")
    assert hub.repositories["team/set"].commits[-1].message == "rival"
    assert push(mix, FACTS, repo="team/set").changed
    assert hub.repositories["team/set"].commits[-1].files["notes.md"] == b"mine"


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("team/set", "hf_unknown", "token is missing or not valid"),
        ("strangers/set", "hf_writer", "needs write access"),
        ("set", "hf_writer", "named ORG/NAME"),
    ],
)
def test_refusals_are_explained(hub: Hub, mix: Path, repo: str, token: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        push(mix, FACTS, repo=repo, token=token)
    assert not hub.repositories


def test_writing_where_one_may_only_read_is_explained(hub: Hub, mix: Path) -> None:
    hub.create("strangers/set")
    with pytest.raises(UserError, match="needs write access"):
        push(mix, FACTS, repo="strangers/set", private=False)


def test_no_token_is_said_before_anything_is_sent(
    hub: Hub, mix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no access token"):
        push(mix, FACTS, repo="team/set")
    assert hub.requests == []


@pytest.mark.parametrize(("status", "message"), [(500, "status 500"), (429, "slow down")])
def test_a_failing_hub_is_explained(hub: Hub, mix: Path, status: int, message: str) -> None:
    hub.broken = status
    with pytest.raises(UserError, match=message):
        push(mix, FACTS, repo="team/set")


def test_no_network_is_explained(hub: Hub, mix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with httpx.Client() as client, pytest.raises(httpx.ConnectError):  # nobody listens there
        client.get("http://127.0.0.1:9/")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot reach the Hub for team/set"):
        push(mix, FACTS, repo="team/set")


def test_a_folder_that_is_no_mix_is_refused(tmp_path: Path) -> None:
    def attempt(folder: Path) -> PushResult:
        return push(folder, FACTS, repo="team/set", dry_run=True)

    with pytest.raises(UserError, match="there is no mix in"):
        attempt(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no samples"):
        attempt(write_mix(tmp_path / "empty", [], parts=1))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "part.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="torn"):
        attempt(tmp_path / "torn")
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other" / "part.parquet")
    with pytest.raises(UserError, match="no column 'sample_id'"):
        attempt(tmp_path / "other")
    table = MIX.rows_to_arrow([sample(1)]).replace_schema_metadata({"r1_factory.schema_version": "99"})
    (tmp_path / "newer").mkdir()
    pq.write_table(table, tmp_path / "newer" / "part.parquet")
    with pytest.raises(UserError, match="newer r1-factory"):
        attempt(tmp_path / "newer")
