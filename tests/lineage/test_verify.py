"""Verify: every change to a store is found, and named with what it affects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from weft.lineage import events as ev
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.memory import MemoryStorage
from weft.lineage.objects import Objects
from weft.lineage.paths import object_path
from weft.lineage.storage import Storage
from weft.lineage.verify import Report, verify

RUN = RunRef(b"u" * 16, "Hello", "1")


def content(digest: bytes, blob: bytes | None = None, pack: bytes | None = None) -> ev.Content:
    return ev.Content(digest, 4, "bytes", "plain", blob=blob, pack=pack, pack_offset=2)


def write_run(storage: Storage) -> Journal:
    """A run with an object, a pack and a code snapshot, still open."""
    objects = Objects(storage)
    source = objects.put([b"print(1)"])
    manifest = objects.put([json.dumps({"entry": "flow.py", "files": {"flow.py": source.hex()}}).encode()])
    value = objects.put([b"a value"])
    pack = objects.put([b"..packed"])
    journal = Journal.create(storage)
    task = RUN.task("fit", "3")
    journal.append(
        [
            ev.run_started(RUN, manifest, {}),
            ev.code_saved(RUN, manifest, 10, {"entry": "flow.py", "files": 1}),
            ev.artifact_saved(task, 0, "model", content(value)),
            ev.artifact_saved(task, 0, "small", content(bytes(32), blob=b"tiny")),
            ev.artifact_saved(task, 0, "packed", content(bytes(32), pack=pack)),
            ev.artifact_used(task, 0, "item", bytes(32), None, 3),
            ev.console_written(task, 0, "stdout", 1, 4, b"text", None),
            ev.run_ended(RUN, "succeeded"),
        ]
    )
    journal.sync()
    return journal


def sealed_store() -> MemoryStorage:
    storage = MemoryStorage()
    write_run(storage).close()
    EventLog(storage).seal(force=True)
    EventLog(storage).seal(force=True, grace_s=-1)
    assert storage.list("journal") == []
    return storage


def reasons(report: Report) -> str:
    return "\n".join(f"{problem.path}: {problem.reason} ({problem.affected})" for problem in report.problems)


@pytest.mark.parametrize("is_local", [True, False])
def test_sound_store_is_sound_before_and_after_sealing(is_local: bool, tmp_path: Path) -> None:
    storage: Storage = LocalStorage(str(tmp_path / "store")) if is_local else MemoryStorage()
    assert verify(storage) == Report([], 0, 0, 0, 0)
    journal = write_run(storage)
    assert verify(storage) == Report([], 1, 0, 4, 8)
    journal.close()
    EventLog(storage).seal(force=True)
    assert verify(storage) == Report([], 1, 5, 4, 9)
    EventLog(storage).seal(force=True, grace_s=-1)
    assert verify(storage) == Report([], 0, 5, 4, 9)


def test_torn_end_of_a_dead_writer_is_reported_but_sound() -> None:
    storage = MemoryStorage()
    write_run(storage).close()
    (path,) = storage.list("journal")
    storage.put(path, storage.get(path)[:-3])
    report = verify(storage)
    assert report.is_sound
    (problem,) = report.problems
    assert problem.is_torn
    assert (problem.path, problem.affected) == (path, "nothing that was acknowledged")
    assert problem.offset is not None
    assert problem.length is not None
    assert problem.offset + problem.length == storage.size(path)


def test_write_under_way_is_no_finding() -> None:
    storage = MemoryStorage()
    journal = write_run(storage)
    storage.files[journal.path] += b"half a frame"
    assert verify(storage).problems == []


def test_flip_of_any_byte_of_a_journal_is_damage() -> None:
    storage = MemoryStorage()
    write_run(storage).close()
    (path,) = storage.list("journal")
    data = storage.get(path)
    for position in range(len(data)):
        storage.put(path, data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        report = verify(storage)
        assert not report.is_sound
        problem = report.problems[0]
        assert problem.path == path
        assert problem.offset is not None
        assert problem.length is not None
        assert problem.offset <= position < problem.offset + problem.length
        assert "Hello/1" in problem.affected


def test_flip_of_any_byte_of_an_object_is_damage() -> None:
    storage = MemoryStorage()
    write_run(storage)
    path = object_path(hashlib.sha256(b"a value").digest())
    data = storage.get(path)
    for position in range(len(data)):
        storage.put(path, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        report = verify(storage)
        assert [problem.path for problem in report.problems] == [path]
        assert not report.is_sound


def test_flip_of_any_byte_of_a_segment_is_damage() -> None:
    """Only every 37th byte of each file: a segment is checked as a whole."""
    storage = sealed_store()
    for path in storage.list("log"):
        data = storage.get(path)
        for position in range(0, len(data), 37):
            storage.put(path, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            report = verify(storage)
            assert not report.is_sound
            assert [problem.path for problem in report.problems] == [path]
        storage.put(path, data)
    assert verify(storage).problems == []


def test_missing_segment_file_is_damage() -> None:
    storage = sealed_store()
    for path in storage.list("log"):
        data = storage.get(path)
        storage.delete(path)
        report = verify(storage)
        assert not report.is_sound
        assert "are gone" in reasons(report)
        storage.put(path, data)


def test_missing_journal_shows_as_a_gap() -> None:
    storage = MemoryStorage()
    journal = Journal.create(storage, size_max_bytes=100)
    for number in range(9):
        journal.append([ev.tag_added(RUN, f"tag {number}", "user")])
    paths = storage.list("journal")
    assert len(paths) > 3
    storage.delete(paths[1])
    report = verify(storage)
    assert not report.is_sound
    assert "are nowhere" in reasons(report)
    storage.delete(paths[0])
    assert "seq 0 to" in reasons(verify(storage))


def test_same_events_with_other_content_are_damage() -> None:
    storage = MemoryStorage()
    other = MemoryStorage()
    for store, tag in ((storage, "a"), (other, "b")):
        journal = Journal.create(store, writer=bytes(16))
        journal.append([ev.tag_added(RUN, tag, "user")])
        journal.close()
        EventLog(store).seal(force=True)
    assert verify(storage).is_sound
    for path in other.list("log"):
        storage.put(path, other.get(path))
    report = verify(storage)
    assert not report.is_sound
    assert "there twice, with different content" in reasons(report)


@pytest.mark.parametrize(
    ("data", "affected"),
    [
        (b"a value", "Hello/1/fit/3/model"),
        (b"..packed", "Hello/1/fit/3/packed"),
        (b"print(1)", "Hello/1 (flow.py)"),
    ],
)
@pytest.mark.parametrize("is_sealed", [True, False])
def test_missing_object_is_named_with_its_pathspec(data: bytes, affected: str, is_sealed: bool) -> None:
    if is_sealed:
        storage = sealed_store()
    else:
        storage = MemoryStorage()
        write_run(storage)
    digest = hashlib.sha256(data).digest()
    storage.delete(object_path(digest))
    (problem,) = verify(storage).problems
    assert (problem.path, problem.affected) == (object_path(digest), affected)
    assert problem.reason == f"object sha256:{digest.hex()} is missing"
    assert not problem.is_torn


def test_pack_that_is_too_short_is_named() -> None:
    storage = MemoryStorage()
    journal = write_run(storage)
    short = Objects(storage).put([b"..pac"])
    journal.append([ev.artifact_saved(RUN.task("fit", "4"), 0, "cut", content(bytes(32), pack=short))])
    (problem,) = verify(storage).problems
    assert "is too short" in problem.reason
    assert problem.affected == "Hello/1/fit/4/cut"


def test_object_that_many_need_names_a_few_of_them() -> None:
    storage = MemoryStorage()
    journal = Journal.create(storage)
    value = content(b"x" * 32)
    journal.append([ev.artifact_saved(RUN.task("fit", str(n)), 0, "x", value) for n in range(100)])
    (problem,) = verify(storage).problems
    assert problem.affected.startswith("Hello/1/fit/0/x, Hello/1/fit/1/x,")
    assert problem.affected.endswith(" and 95 more")
