"""Verify: every change to a store is found, and named with what it affects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.lineage import events as ev
from weft.lineage import needs
from weft.lineage.columns import Columns
from weft.lineage.errors import StoreDamaged
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.memory import MemoryStorage
from weft.lineage.objects import Objects
from weft.lineage.paths import object_path
from weft.lineage.ranges import Range, Ranges
from weft.lineage.segments import write_segment
from weft.lineage.serializers import dump
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
    """Only every 173rd byte of each file: a segment is checked as a whole."""
    storage = sealed_store()
    for path in storage.list("log"):
        data = storage.get(path)
        for position in range(0, len(data), 173):
            storage.put(path, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            report = verify(storage)
            assert not report.is_sound
            assert [problem.path for problem in report.problems] == [path]
        storage.put(path, data)
    assert verify(storage).problems == []


def test_damage_of_a_segment_is_named_with_its_place_and_its_runs() -> None:
    """A flip in a page names the bytes of that page, in the footer the footer; and which runs are affected."""
    storage = sealed_store()
    found = set()
    for path in storage.list("log"):
        data = storage.get(path)
        for position in range(4, len(data), 151):
            storage.put(path, data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
            (problem,) = verify(storage).problems
            assert "another sha256" in problem.reason
            if problem.offset is not None:
                assert problem.length is not None
                if "a page of column" in problem.reason:
                    assert problem.offset <= position < problem.offset + problem.length
                found.add(problem.reason.partition("fails first is ")[2].split()[1])
            if "events, of" in problem.affected:
                assert problem.affected.endswith("of Hello/1")
        storage.put(path, data)
    assert {"page", "footer"} <= found


@pytest.mark.parametrize("is_compacted", [False, True])
def test_deep_works_out_the_hash_of_each_sealed_journal(is_compacted: bool) -> None:
    storage = MemoryStorage()
    for number in range(3):
        journal = Journal.create(storage, bytes([number]) * 16, size_max_bytes=100)
        for tag in ("a", "é", "NaN"):
            event = ev.tag_added(RUN, tag, "user")
            journal.append(
                [event._replace(payload={"x": [1, 2.5, float("inf"), None, True], tag: {"y": -(2**40)}})]
            )
        journal.append([ev.attempt_failed(RUN.task("fit", "1"), 0, "E", {"message": "NaN"})])
        journal.close()
        EventLog(storage).seal(force=True, grace_s=-1)
    if is_compacted:
        for _ in range(2):
            EventLog(storage).compact(is_whole=True, grace_s=-1)
    report = verify(storage, is_deep=True)
    assert report.problems == []
    segment = EventLog(storage).segments()[0]
    forged = Ranges.of(r._replace(running_hash=bytes(32)) for r in segment.ranges)
    tables = {f: pq.read_table(pa.BufferReader(storage.get(file.path))) for f, file in segment.files.items()}
    for path in storage.list("log"):
        storage.delete(path)
    write_segment(storage, tables, forged, "seal")
    assert verify(storage).is_sound
    report = verify(storage, is_deep=True)
    assert len(report.problems) == len(forged)
    assert all("running hash" in problem.reason for problem in report.problems)


def test_deep_misses_no_event_that_is_gone_or_twice() -> None:
    storage = MemoryStorage()
    writer = bytes(16)
    rows = [[seq, "tag_added", 1, 5, None, "F", "1"] for seq in (0, 1, 1, 3)]
    columns = Columns()
    columns.add(writer, rows)
    write_segment(storage, columns.tables(), Ranges.of([Range(writer, 0, 3, bytes(32), 9)]), "seal")
    assert verify(storage).is_sound
    assert "seq 1 is there twice" in reasons(verify(storage, is_deep=True))


@pytest.mark.parametrize("is_inline", [True, False])
def test_deep_decodes_values(is_inline: bool) -> None:
    storage = MemoryStorage()
    journal = Journal.create(storage)
    for number, joined in enumerate((b"".join(map(bytes, dump([1, 2]).parts)), b"\xc1 is no msgpack")):
        digest = Objects(storage).put([joined])
        value = ev.Content(digest, len(joined), "list", "plain/1", blob=joined if is_inline else None)
        journal.append([ev.artifact_saved(RUN.task("fit", str(number)), 0, "x", value)])
    pickled = ev.Content(Objects(storage).put([b"no pickle"]), 9, "object", "pickle/5")
    journal.append([ev.artifact_saved(RUN.task("fit", "9"), 0, "y", pickled)])
    journal.close()
    EventLog(storage).seal(force=True)
    assert verify(storage).is_sound
    report = verify(storage, is_deep=True)
    (problem,) = report.problems
    assert problem.affected == "Hello/1/fit/1/x"
    assert "is not plain/1" in problem.reason
    assert report.value_count == 3


def test_whatever_else_lies_in_the_folder_is_passed_over(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path / "store"))
    write_run(storage).close()
    EventLog(storage).seal(force=True)
    before = verify(storage)
    assert before.is_sound
    root = tmp_path / "store"
    for path in (
        "journal/notes.txt",
        "log/run/x.parquet",
        "objects/ab/short",
        "log/run/.a.12.tmp",
        "a",
        "log/b",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"\0\xff" * 100)
    (root / "objects" / "cd").symlink_to("nowhere")
    (root / "journal" / f"{'0' * 32}-000000000000.wj").mkdir()
    after = verify(storage, is_deep=True)
    assert after.problems == []
    assert after.leftovers == ("log/run/.a.12.tmp",)
    assert EventLog(storage).events()


def test_gaps_and_contradictions_among_many_ranges_are_found() -> None:
    storage = MemoryStorage()
    writers = [number.to_bytes(16) for number in range(1000)]
    columns = Columns()
    for writer in writers:
        columns.add(writer, [[5, "tag_added", 1, 5]])
    write_segment(storage, columns.tables(), Ranges.of(Range(w, 5, 5, w * 2, 9) for w in writers), "seal")
    other = Ranges.of(Range(w, 5, 5, bytes(32), 9) for w in writers[:10])
    columns = Columns()
    for writer in writers[:10]:
        columns.add(writer, [[5, "tag_added", 1, 5]])
    write_segment(storage, columns.tables(), other, "seal")
    found = [problem.reason for problem in verify(storage).problems]
    assert sum("seq 0 to 4" in reason for reason in found) == 1000
    assert sum("with different content" in reason for reason in found) == 9, "the first has zeros in both"


def test_missing_segment_file_is_damage() -> None:
    storage = sealed_store()
    for path in storage.list("log"):
        data = storage.get(path)
        storage.delete(path)
        report = verify(storage)
        assert not report.is_sound
        assert "are gone" in reasons(report)
        storage.put(path, data)


def test_segment_copied_while_it_was_published_is_no_damage_while_its_journal_is_there() -> None:
    storage = MemoryStorage()
    write_run(storage).close()
    count = len(list(EventLog(storage).events()))
    EventLog(storage).seal(force=True)
    # A copy goes through the folders in any order: it was at that of the last file when all were published.
    for path in storage.list("log")[:-1]:
        storage.delete(path)
    report = verify(storage)
    assert report.is_sound
    assert "are not here" in reasons(report)
    assert len(list(EventLog(storage).events())) == count
    for path in storage.list("journal"):
        storage.delete(path)
    with pytest.raises(StoreDamaged, match="are gone"):
        list(EventLog(storage).events())
    report = verify(storage)
    assert not report.is_sound
    assert "are gone" in reasons(report)


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


def test_of_very_many_missing_objects_some_are_named_and_all_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(needs, "_MISSING_MAX", 3)
    storage = MemoryStorage()
    journal = Journal.create(storage)
    for number in range(10):
        value = content(bytes([number]) * 32)
        journal.append([ev.artifact_saved(RUN.task("fit", str(number)), 0, "x", value)] * 7)
    journal.close()
    EventLog(storage).seal(force=True)
    EventLog(storage).seal(force=True, grace_s=-1)
    found = verify(storage).problems
    assert [problem.reason[-10:] for problem in found[:3]] == ["is missing"] * 3
    assert found[0].affected == "Hello/1/fit/0/x and 6 more"
    assert found[3].reason == "7 more objects are missing"
    assert len(found) == 4


@pytest.mark.parametrize("is_deep", [False, True])
def test_progress_goes_on_while_events_are_checked(is_deep: bool) -> None:
    storage = sealed_store()
    told: list[tuple[int, int]] = []
    verify(storage, is_deep=is_deep, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    size_bytes = sum(file.size_bytes for file in storage.scan(""))
    assert size_bytes < told[-1][0] <= told[-1][1]
