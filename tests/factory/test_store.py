"""Nothing acknowledged is lost, nothing is there twice, nothing damaged is passed over."""

import errno
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from factory import files
from factory.journal import Journal, read_journal
from factory.locks import lock
from factory.store import Run, stage_manifest, write_parquet
from filters import UserError


def note(number: int, **more: Any) -> dict[str, Any]:
    return {"note_id": f"{number:04d}", "text": f"note {number}", **more}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


def ids(run: Run) -> list[str]:
    return run.read("notes").column("note_id").to_pylist()


def test_rows_are_folded_into_shards_and_read_back(run: Run) -> None:
    with run.writer("notes", shard_rows=10) as writer:
        for start in range(0, 25, 5):
            writer.append(note(i) for i in range(start, start + 5))
    assert ids(run) == [f"{i:04d}" for i in range(25)]
    assert [pq.read_metadata(path).num_rows for path in run.shards("notes")] == [10, 10, 5]


def test_a_writer_that_dies_leaves_its_rows_in_the_journal(run: Run) -> None:
    with pytest.raises(RuntimeError), run.writer("notes") as writer:
        writer.append([note(1), note(2)])
        raise RuntimeError
    assert run.shards("notes") == [] and ids(run) == ["0001", "0002"]
    with run.writer("notes") as writer:
        assert writer.append([note(2), note(3)]) == 1
    assert ids(run) == ["0001", "0002", "0003"]


def test_a_crash_between_shard_and_journal_leaves_no_row_twice(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Journal) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "clear", die)
        with pytest.raises(KeyboardInterrupt), run.writer("notes", shard_rows=2) as writer:
            writer.append([note(1), note(2)])
    assert len(run.shards("notes")) == 1 and read_journal(run.journals("notes")[0])[0]
    assert ids(run) == ["0001", "0002"]
    with run.writer("notes", shard_rows=2) as writer:
        writer.append([note(1), note(3)])
    assert sorted(ids(run)) == ["0001", "0002", "0003"]


def test_a_torn_last_line_is_dropped_with_a_warning_and_made_again(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError), run.writer("notes") as writer:
        writer.append([note(1), note(2)])
        raise RuntimeError
    path = run.journals("notes")[0]
    path.write_bytes(path.read_bytes()[:-7])
    assert ids(run) == ["0001"]
    with run.writer("notes") as writer:
        assert writer.append([note(1), note(2)]) == 1
    assert ids(run) == ["0001", "0002"] and "cut short" in caplog.text


def test_a_damaged_line_in_the_middle_is_named(run: Run) -> None:
    with pytest.raises(RuntimeError), run.writer("notes") as writer:
        writer.append([note(1), note(2), note(3)])
        raise RuntimeError
    path = run.journals("notes")[0]
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b"note 2", b"note 7")
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"main\.jsonl, line 2 is damaged"):
        ids(run)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_corrupt_shard_is_named_and_never_skipped(run: Run, damage: str) -> None:
    with run.writer("notes") as writer:
        writer.append(note(i, author="somebody" * 9) for i in range(200))
    path = run.shards("notes")[0]
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 3] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=path.name):
        run.read("notes")


def test_a_missing_or_changed_output_of_a_finished_stage_is_named(run: Run) -> None:
    target = run.replace("notes", "main", [note(1)])
    manifest = stage_manifest("notes", "f", {}, run.describe_outputs([target]), {}, 0.0)
    run.check_outputs(manifest, content=True)
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(bytes(data))
    run.check_outputs(manifest)
    with pytest.raises(UserError, match="corrupt"):
        run.check_outputs(manifest, content=True)
    target.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="torn or was changed"):
        run.check_outputs(manifest)
    target.unlink()
    with pytest.raises(UserError, match="is missing"):
        run.check_outputs(manifest)


def test_a_second_writer_is_told_who_writes(run: Run) -> None:
    with (
        run.writer("notes"),
        pytest.raises(UserError, match=f"process {os.getpid()} on this host, {socket.gethostname()}"),
    ):
        run.writer("notes").__enter__()
    with run.writer("notes", "other"), run.writer("notes", "main"):
        pass


def test_a_lock_of_a_killed_process_is_taken_over_and_of_another_host_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    code = (
        "import os, signal, sys; from pathlib import Path; from factory.locks import lock\n"
        "with lock(Path(sys.argv[1]), 'x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.exists()
    with lock(path, "x"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "then"}))
    with pytest.raises(UserError, match="process 7 on host elsewhere"), lock(path, "x"):
        pass


def test_a_reused_pid_is_not_taken_for_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": "1", "since": "then"})
    )
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    with lock(path, "x"):
        pass


def _take(path: Path, won: Any) -> None:
    try:
        with lock(path, "x"):
            won.put(os.getpid())
            multiprocessing.current_process()
            import time

            time.sleep(0.8)
    except UserError:
        pass


def test_of_many_takers_of_a_stale_lock_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1, "start": "1", "since": "then"})
    )
    context = multiprocessing.get_context("fork")
    won = context.Queue()
    takers = [context.Process(target=_take, args=(path, won)) for _ in range(6)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert won.qsize() == 1


def test_a_full_disk_says_so_and_keeps_what_was_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with run.writer("notes") as writer:
        writer.append([note(1)])
        real = os.fsync

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises((UserError, OSError), match="disk is full|No space"):
            writer.append([note(2)])
        monkeypatch.setattr(os, "fsync", real)
        assert writer.append([note(2)]) == 1
    assert ids(run) == ["0001", "0002"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=False
    ).returncode:
        pytest.skip("cannot mount here")
    try:
        run = Run.create(small / "run")
        written = 0
        with pytest.raises(UserError, match="the disk is full"), run.writer("notes") as writer:
            for i in range(10_000):
                writer.append([note(i, author="x" * 500)])
                written = i + 1
        assert written > 10 and ids(run) == [f"{i:04d}" for i in range(written)]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        Run.create(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty and is not a run"):
        Run.create(tmp_path / "full")
    with pytest.raises(UserError, match="Choose a folder you may write to"), files.disk_errors(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")


def test_a_run_of_a_newer_schema_is_refused(run: Run) -> None:
    marker = run.folder / "run.json"
    marker.write_text(marker.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UserError, match="newer version"):
        Run.open(run.folder)


def test_a_shard_of_a_newer_schema_is_refused_and_an_older_one_lacks_columns(run: Run) -> None:
    path = run.replace("notes", "main", [note(1)])
    table = pq.read_table(path)
    write_parquet(path, table.drop_columns(["author"]))
    assert run.read("notes").column("author").to_pylist() == [None]
    newer = table.replace_schema_metadata({"r1_factory.schema_version": "2"})
    write_parquet(path, newer)
    with pytest.raises(UserError, match="newer version"):
        run.read("notes")


def test_an_interrupted_write_leaves_the_old_file(run: Run) -> None:
    target = run.replace("notes", "main", [note(1)])
    with pytest.raises(KeyboardInterrupt), files.atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert ids(run) == ["0001"] and not list(target.parent.glob(".tmp-*"))
