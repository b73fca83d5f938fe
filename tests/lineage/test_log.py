"""The log: sealing changes where events lie, never what they are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest

from weft.lineage import events as ev
from weft.lineage.codec import HEADER_BYTES, Frame, encode, scan
from weft.lineage.errors import NotFound, StoreDamaged, StoreUnavailable
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.manifest import footer_of
from weft.lineage.memory import MemoryStorage
from weft.lineage.paths import JournalName, journal_name, journal_path, segment_name
from weft.lineage.schema import COLUMNS, Event, family_of
from weft.lineage.storage import Storage

PAST_GRACE_S = -1.0


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "store"))


def run_events(run_id: str, flow: str = "Hello", tasks: int = 3) -> list[Event]:
    run = RunRef(run_id.encode().rjust(16, b"0"), flow, run_id)
    found = [
        ev.run_started(run, None, {"user": "ann", "command": ["x", "é"]}),
        ev.tag_added(run, "best", "user"),
    ]
    for number in range(tasks):
        task = run.task("fit", str(number))
        content = ev.Content(bytes([number]) * 32, 4, "float", "plain", "1.5", 1.5, b"\x00\xff")
        found += [
            ev.task_created(task, (("start", "1"),), (), None),
            ev.attempt_started(task, 0, 1, "host"),
            ev.artifact_used(task, 0, "absent", None, None),
            ev.artifact_saved(task, 0, "score", content),
            ev.console_written(task, 0, "stdout", 1, 3, b"abc", None),
            ev.attempt_succeeded(task, 0, {"next": ["end"]}, {"cpu_s": 0.5}),
        ]
    return [
        *found,
        ev.run_ended(run, "succeeded", epoch=1),
        Event(kind="from_a_newer_weft", run_uid=run.run_uid),
    ]


def write_run(storage: Storage, run_id: str, flow: str = "Hello", tasks: int = 3) -> Journal:
    """A run's journal, still open."""
    journal = Journal.create(storage)
    journal.append(run_events(run_id, flow, tasks))
    journal.sync()
    return journal


@pytest.mark.parametrize("is_local", [True, False])
def test_sealing_changes_no_event(is_local: bool, storage: LocalStorage) -> None:
    store: Storage = storage if is_local else MemoryStorage()
    for run_id in ("1", "2", "3"):
        write_run(store, run_id).close()
    log = EventLog(store)
    before = log.events()
    assert len(before) == 3 * 23
    report = log.seal(force=True)
    assert (len(report.segments), report.event_count, len(report.sealed)) == (1, 69, 3)
    assert (report.removed, report.left) == ([], [])
    assert log.events() == EventLog(store).events() == before
    assert len(log.seal(force=True, grace_s=PAST_GRACE_S).removed) == 3
    assert store.list("journal") == []
    assert log.events() == EventLog(store).events() == before


def test_segment_has_one_file_for_each_family_with_events(storage: LocalStorage) -> None:
    journal = Journal.create(storage)
    journal.append([event for event in run_events("1") if family_of(event.kind) in ("run", "use")])
    journal.close()
    (segment,) = EventLog(storage).seal(force=True).segments
    assert segment.rows == {"run": 3, "use": 3, "other": 1}
    names = [segment_name(path) for path in storage.list("log")]
    assert [name.family for name in names if name is not None] == ["other", "run", "use"]
    for file in segment.files.values():
        assert footer_of(storage, file.path) == file.footer
        assert file.size_bytes == storage.size(file.path)


def test_events_are_narrowed_in_journals_and_segments_alike(storage: LocalStorage) -> None:
    write_run(storage, "1").close()
    write_run(storage, "2", flow="Other").close()
    log = EventLog(storage)
    everything = log.events()
    for _ in range(2):
        assert log.events(flow="Other") == [e for e in everything if e.flow == "Other"]
        assert log.events(flow="Hello", run_id="1") == [e for e in everything if e.run_id == "1"]
        assert log.events(flow="Hello", run_id="2") == []
        uid = b"2".rjust(16, b"0")
        assert log.events(run_uid=uid) == [e for e in everything if e.run_uid == uid]
        log.seal(force=True)


def test_events_of_some_families_only(storage: LocalStorage) -> None:
    write_run(storage, "1").close()
    log = EventLog(storage)
    wanted = [e for e in log.events() if family_of(e.kind) in ("run", "use")]
    for _ in range(2):
        assert log.events(families=("run", "use")) == wanted
        told = log.events(families=("run", "use"), kinds=("run_started", "artifact_used", "task_created"))
        assert told == [e for e in wanted if e.kind in ("run_started", "artifact_used")]
        assert told
        log.seal(force=True, grace_s=PAST_GRACE_S)
    assert log.events(families=("none",)) == []


@pytest.mark.parametrize("keeps_tail", [True, False])
def test_what_may_not_be_needed_is_read_with_the_rest_and_told_when_asked_for(
    storage: LocalStorage, keeps_tail: bool
) -> None:
    write_run(storage, "1").close()
    write_run(storage, "2").close()
    log = EventLog(storage, keeps_tail)
    everything = log.events(run_id="1", families=("run", "task", "use"))
    uses = [e for e in everything if family_of(e.kind) == "use"]
    told: list[list[Event]] = []
    for _ in range(2):
        found, later = log.events_and_later(("run", "task"), ("use",), "Hello", "1")
        assert found == [e for e in everything if e not in uses]
        # The call asks the store for nothing more.
        log.seal(force=True, grace_s=PAST_GRACE_S)
        told += [later(), later()]
    assert told == [uses] * 4
    assert uses
    assert storage.list("journal") == []


def test_checksum_that_is_right_over_what_is_no_event_hides_that_frame_alone(storage: LocalStorage) -> None:
    journal = write_run(storage, "1")
    journal.sync()
    frames = [f for f in scan(journal.writer, storage.get(journal.path)) if isinstance(f, Frame)]
    data = bytearray(storage.get(journal.path))
    broken = next(f for f in frames if f.event.kind == "artifact_used")
    payload = bytes([0xC1]) * (broken.length - HEADER_BYTES)  # msgpack never begins with this.
    kept_head = data[broken.offset + HEADER_BYTES :][:30]
    data[broken.offset + HEADER_BYTES : broken.offset + broken.length] = kept_head + payload[30:]
    checked = data[broken.offset + HEADER_BYTES : broken.offset + broken.length]
    data[broken.offset + 16 : broken.offset + HEADER_BYTES] = crc32(checked).to_bytes(4, "little")
    journal.close()
    storage.put(journal.path, bytes(data))
    others = [f.event for f in frames if f is not broken]

    log = EventLog(storage)
    assert log.events() == others
    assert list(log.damaged) == [journal.path]
    log = EventLog(storage, keeps_tail=True)
    assert log.events(families=("run",)) == [e for e in others if family_of(e.kind) == "run"]
    _, later = log.events_and_later(("run",), ("use",))
    assert later() == [e for e in others if family_of(e.kind) == "use"]
    assert list(log.damaged) == [journal.path]


def test_frames_behind_the_closing_one_are_read_and_said_to_be_damage(storage: LocalStorage) -> None:
    journal = write_run(storage, "1")
    journal.close()
    before = EventLog(storage).events()
    data = storage.get(journal.path)
    more = Event(kind="tag_added", flow="Hello", run_id="1", run_uid=before[0].run_uid, name="late")
    seq, time_us = before[-1].seq + 1, before[-1].time_us
    storage.put(journal.path, data + encode(more, seq, time_us))
    log = EventLog(storage)
    assert log.events() == [*before, more._replace(writer=journal.writer, seq=seq, time_us=time_us)]
    assert list(log.damaged) == [journal.path]


def test_snapshot_splits_what_is_sealed_from_what_is_not(storage: LocalStorage) -> None:
    write_run(storage, "1").close()
    log = EventLog(storage)
    log.seal(force=True)
    write_run(storage, "2").close()
    snapshot = log.snapshot()
    assert [piece.only for piece in snapshot.pieces] == [None]
    assert {event.run_id for event in snapshot.tail} == {"2", None}
    assert log.snapshot(run_id="1").tail == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_read_only_store_is_read_and_refuses_to_be_sealed(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=False).returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        storage = LocalStorage(str(folder / "store"))
        write_run(storage, "1").close()
        before = EventLog(storage).events()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        log = EventLog(storage)
        assert log.events() == before
        assert len(log.dead_writers()) == 1
        with pytest.raises(StoreUnavailable, match="Make it writable"):
            log.seal(force=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_run_path_loads_no_heavy_module() -> None:
    heavy = "pyarrow duckdb _duckdb numpy pandas fsspec tempfile pathlib dataclasses json inspect subprocess"
    program = (
        "import sys\n"
        "known = set(sys.modules)\n"
        "import weft.lineage.journal, weft.lineage.objects, weft.lineage.description, weft.lineage.log\n"
        f"print(sorted((set(sys.modules) - known) & set({heavy.split()!r})))\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_tag_of_another_writer_is_found_with_its_run(storage: LocalStorage) -> None:
    write_run(storage, "1").close()
    other = Journal.create(storage)
    other.append([ev.tag_added(RunRef(b"1".rjust(16, b"0"), "Hello", "1"), "late", "user")])
    assert [e.name for e in EventLog(storage).events(run_id="1") if e.writer == other.writer] == ["late"]


def test_open_journal_of_a_live_writer_is_never_sealed(storage: LocalStorage) -> None:
    journal = write_run(storage, "1")
    log = EventLog(storage)
    assert log.open_journals() == [journal.path]
    assert log.live_writers() == {journal.writer}
    assert log.dead_writers() == set()
    report = log.seal(force=True, grace_s=PAST_GRACE_S)
    assert report == ([], [], [], [])
    assert storage.exists(journal.path)
    journal.close()
    assert log.open_journals() == []
    assert log.dead_writers() == {journal.writer}
    assert len(log.seal(force=True, grace_s=PAST_GRACE_S).sealed) == 1
    assert log.dead_writers() == {journal.writer}


def test_closed_files_of_a_live_writer_are_sealed_but_stay(storage: LocalStorage) -> None:
    """Worker processes still read the inputs of their tasks from them."""
    journal = Journal.create(storage, size_max_bytes=500)
    for run_id in ("1", "2", "3"):
        journal.append(run_events(run_id))
    log = EventLog(storage)
    before = log.events()
    assert len(storage.list("journal")) == 3
    report = log.seal(force=True, grace_s=PAST_GRACE_S)
    assert len(report.sealed) == 2
    assert report.removed == []
    assert log.events() == before
    journal.close()
    report = log.seal(force=True, grace_s=PAST_GRACE_S)
    assert len(report.sealed) == 1
    assert len(report.removed) == 3


def test_journal_of_a_killed_writer_is_sealed_without_its_torn_end(storage: LocalStorage) -> None:
    program = (
        "import os, sys\n"
        "from weft.lineage.events import Event\n"
        "from weft.lineage.journal import Journal\n"
        "from weft.lineage.local import LocalStorage\n"
        "journal = Journal.create(LocalStorage(sys.argv[1]))\n"
        "journal.append([Event(kind='tag_added', name=str(n)) for n in range(100)])\n"
        "journal.sync()\n"
        "print(journal.path, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, storage.root]
    log = EventLog(storage)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        assert log.seal(force=True, grace_s=PAST_GRACE_S).sealed == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    name = journal_name(path)
    assert name is not None
    assert log.dead_writers() == {name.writer}
    with open(f"{storage.root}/{path}", "ab") as file:
        file.write(encode(Event(kind="tag_added"), 100, 5)[:-3])
    before = log.events()
    assert len(before) == 100
    report = log.seal(force=True, grace_s=PAST_GRACE_S)
    assert report.sealed == report.removed == [path]
    assert log.events() == before


def test_damaged_journal_is_read_but_never_sealed(storage: LocalStorage) -> None:
    journal = write_run(storage, "1")
    journal.close()
    data = bytearray(storage.get(journal.path))
    data[300] ^= 1
    storage.put(journal.path, bytes(data))
    log = EventLog(storage)
    assert len(log.events()) == 22
    report = log.seal(force=True, grace_s=PAST_GRACE_S)
    assert report.sealed == report.removed == []
    assert [path for path, _ in report.left] == [journal.path]
    assert "damaged" in report.left[0][1]


def test_journal_whose_events_fit_no_column_does_not_hold_up_the_others(storage: LocalStorage) -> None:
    good, bad = write_run(storage, "1"), Journal.create(storage)
    bad.append([Event(kind="tag_added", digest=b"short")])
    good.close()
    bad.close()
    report = EventLog(storage).seal(force=True)
    assert report.sealed == [good.path]
    assert [path for path, _ in report.left] == [bad.path]


def test_empty_journal_of_a_dead_writer_is_swept_away(storage: LocalStorage) -> None:
    path = journal_path(JournalName(bytes(16), 0))
    storage.put(path, b"")
    log = EventLog(storage)
    assert log.seal(force=True).removed == []
    assert log.seal(force=True, grace_s=PAST_GRACE_S).removed == [path]


def test_little_is_left_unsealed_until_there_is_more(storage: LocalStorage) -> None:
    for number in range(32):
        assert EventLog(storage).seal().segments == []
        write_run(storage, str(number), tasks=0).close()
    assert len(EventLog(storage).seal().sealed) == 32


def test_changed_segment_is_refused_and_its_journals_are_kept(storage: LocalStorage) -> None:
    write_run(storage, "1").close()
    (segment,) = EventLog(storage).seal(force=True).segments
    path = segment.files["task"].path
    data = bytearray(storage.get(path))
    data[60] ^= 1
    storage.put(path, bytes(data))
    with pytest.raises(StoreDamaged, match=path):
        EventLog(storage).events()
    report = EventLog(storage).seal(force=True, grace_s=PAST_GRACE_S)
    assert report.removed == []
    assert "damaged" in report.left[0][1]


def test_segment_cut_off_while_it_was_published_is_ignored_until_its_journals_are_gone(
    storage: LocalStorage,
) -> None:
    journal = write_run(storage, "1")
    journal.close()
    log = EventLog(storage)
    before = log.events()
    (segment,) = log.seal(force=True).segments
    storage.delete(segment.files["artifact"].path)
    assert EventLog(storage).events() == before
    assert EventLog(storage).segments() == []
    assert len(EventLog(storage).seal(force=True).segments) == 1
    assert EventLog(storage).events() == before
    storage.delete(segment.files["artifact"].path)
    storage.delete(journal.path)
    with pytest.raises(StoreDamaged, match="for artifact are gone"):
        EventLog(storage).events()


def test_reader_lists_again_when_journals_are_gone() -> None:
    class Sealing(MemoryStorage):
        """Seals and removes the journals just after they were listed."""

        is_armed = False

        def list(self, prefix: str) -> list[str]:
            found = super().list(prefix)
            if self.is_armed and prefix == "log":
                self.is_armed = False
                EventLog(self).seal(force=True, grace_s=PAST_GRACE_S)
                EventLog(self).seal(force=True, grace_s=PAST_GRACE_S)
            return found

    storage = Sealing()
    write_run(storage, "1").close()
    before = EventLog(storage).events()
    storage.is_armed = True
    assert EventLog(storage).events() == before
    assert storage.list("journal") == []


def test_copies_sealed_apart_and_merged_give_each_event_once(storage: LocalStorage, tmp_path: Path) -> None:
    """One copy was taken in the middle of a run: there the run looks cut off."""
    write_run(storage, "1").close()
    live = write_run(storage, "2")
    shutil.copytree(storage.root, tmp_path / "copy")
    copy = LocalStorage(str(tmp_path / "copy"))
    live.append(run_events("3"))
    live.close()
    for store in (storage, copy):
        EventLog(store).seal(force=True, grace_s=PAST_GRACE_S)
        EventLog(store).seal(force=True, grace_s=PAST_GRACE_S)
    before = EventLog(storage).events()
    for path in copy.list("log"):
        storage.put(path, copy.get(path))
    assert len(EventLog(storage).segments()) == 2
    assert EventLog(storage).events() == before
    assert EventLog(storage).events(run_id="2") == [e for e in before if e.run_id == "2"]


def test_one_of_two_processes_seals_and_both_are_right(storage: LocalStorage) -> None:
    for number in range(20):
        write_run(storage, str(number), tasks=20).close()
    before = EventLog(storage).events()
    program = (
        "import sys\n"
        "from weft.lineage.log import EventLog\n"
        "from weft.lineage.local import LocalStorage\n"
        "import pyarrow.parquet\n"
        "log = EventLog(LocalStorage(sys.argv[1]))\n"
        "sys.stdin.read()\n"
        "print(log.seal(force=True, grace_s=-1).event_count)\n"
    )
    command = [sys.executable, "-c", program, storage.root]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    counts = sorted(int(process.communicate()[0]) for process in processes)
    assert counts == [0, len(before)]
    assert EventLog(storage).events() == before


def test_loser_of_the_seal_lock_returns_at_once(storage: LocalStorage) -> None:
    write_run(storage, "1").close()
    storage.put("cache/seal.lock", b"")
    lock = storage.try_lock("cache/seal.lock")
    assert lock is not None
    assert EventLog(storage).seal(force=True) == ([], [], [], [])
    lock.release()
    assert len(EventLog(storage).seal(force=True).sealed) == 1


def test_empty_store_has_no_events_and_nothing_to_seal(storage: LocalStorage) -> None:
    log = EventLog(storage)
    assert log.events() == []
    assert log.seal(force=True) == ([], [], [], [])
    assert not os.path.exists(storage.root)


def test_reader_of_a_store_that_never_rests_gives_up() -> None:
    class Restless(MemoryStorage):
        def get(self, path: str) -> bytes:
            raise NotFound(path)

    storage = Restless()
    write_run(storage, "1").close()
    with pytest.raises(Exception, match="Try again"):
        EventLog(storage).events()


def test_every_column_comes_back_from_a_segment(storage: LocalStorage) -> None:
    """A wrong field id would give another column's values without an error."""
    values: dict[str, object] = {
        "VARCHAR": "text",
        "BIGINT": 2**40,
        "SMALLINT": 7,
        "DOUBLE": 2.5,
        "BOOLEAN": True,
        "BLOB": b"\x00\x01",
    }
    columns = {
        column.name: values[column.sql_type] if column.sql_type != "VARCHAR" else f"text of {column.name}"
        for column in COLUMNS
    }
    columns.update(
        run_uid=b"u" * 16, digest=b"d" * 32, payload={"a": [1, {"b": None}]}, kind="artifact_saved"
    )
    journal = Journal.create(storage)
    journal.append([Event(**columns), Event(kind="artifact_saved")])  # type: ignore[arg-type]  # see COLUMNS
    journal.close()
    log = EventLog(storage)
    before = log.events()
    log.seal(force=True, grace_s=PAST_GRACE_S)
    log.seal(force=True, grace_s=PAST_GRACE_S)
    assert storage.list("journal") == []
    assert log.events() == before
