"""Journals: what was acknowledged stays, whatever is done to the file after."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from weft.lineage import clock
from weft.lineage.errors import NotFound, StoreConflict, StoreDamaged, StoreUnavailable
from weft.lineage.journal import (
    Journal,
    is_closed,
    is_writer_dead,
    parse_journal,
    read_event_at,
    read_journal,
)
from weft.lineage.local import LocalStorage
from weft.lineage.memory import MemoryStorage
from weft.lineage.paths import JournalName, journal_path
from weft.lineage.schema import Event


def _tag(name: str) -> Event:
    return Event(kind="tag_added", name=name)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "store"))


def test_journal_stamps_writer_seq_and_time(storage: LocalStorage) -> None:
    before_us = clock.now_us()
    journal = Journal.create(storage)
    journal.append([_tag("a"), _tag("b")])
    journal.append([_tag("c")])
    journal.sync()
    assert journal.next_seq == 3
    content = read_journal(storage, journal.path)
    assert content.state == "open"
    assert [(e.writer, e.seq, e.name) for e in content.events] == [
        (journal.writer, seq, name) for seq, name in enumerate("abc")
    ]
    times = [e.time_us for e in content.events]
    assert times == sorted(times)
    assert before_us <= times[0] <= times[-1] <= clock.now_us()


def test_journal_time_follows_what_was_read_but_no_wild_clock(storage: LocalStorage) -> None:
    journal = Journal.create(storage)
    ahead_us = clock.now_us() + 60_000_000
    journal.observe(ahead_us)
    journal.observe(clock.now_us() + 7200 * 1_000_000)
    journal.observe(5)
    journal.append([_tag("a")])
    assert read_journal(storage, journal.path).events[0].time_us == ahead_us


def test_journal_places_lead_back_to_each_event(storage: LocalStorage) -> None:
    journal = Journal.create(storage, size_max_bytes=200)
    places = []
    for number in range(20):
        places += journal.append([_tag(f"tag {number}")])
    events = [read_event_at(*place, journal.writer) for place in places]
    assert [event.name for event in events] == [f"tag {number}" for number in range(20)]
    assert len({place.path for place in places}) > 1
    path, offset, length = places[3]
    with pytest.raises(StoreDamaged, match=f"at byte {offset + 1}"):
        read_event_at(path, offset + 1, length, journal.writer)
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        read_event_at(path + ".gone", offset, length, journal.writer)


def test_journal_that_is_closed_says_so_and_proves_its_bytes(storage: LocalStorage) -> None:
    journal = Journal.create(storage)
    journal.append([_tag("a")])
    assert not is_closed(storage, journal.path)
    journal.close()
    journal.close()
    content = read_journal(storage, journal.path)
    assert (content.state, content.problems) == ("closed", [])
    assert content.events[-1].kind == "journal_closed"
    assert content.events[-1].digest == content.running_hash
    assert is_closed(storage, journal.path)
    with pytest.raises(StoreUnavailable, match="is closed"):
        journal.append([_tag("b")])


def test_journal_without_events_can_be_closed(storage: LocalStorage) -> None:
    journal = Journal.create(storage)
    assert read_journal(storage, journal.path).state == "open"
    assert journal.append([]) == []
    journal.close()
    assert read_journal(storage, journal.path).state == "closed"


def test_bytes_after_the_closing_frame_are_damage(storage: LocalStorage) -> None:
    journal = Journal.create(storage)
    places = journal.append([_tag("a")])
    journal.close()
    data = storage.get(journal.path)
    assert parse_journal(journal.path, data + b"x").state == "damaged"
    assert parse_journal(journal.path, data + data[: places[0].length]).state == "damaged"


def test_frame_taken_out_is_damage_even_where_seq_is_mended(storage: LocalStorage) -> None:
    journal = Journal.create(storage)
    first, second = journal.append([_tag("a"), _tag("b")])
    journal.close()
    data = storage.get(journal.path)
    content = parse_journal(journal.path, data[: second.offset] + data[second.offset + second.length :])
    assert content.state == "damaged"
    assert "seq 2 where 1 belongs" in content.problems[0].reason
    tail = data[second.offset :]
    path = journal_path(JournalName(journal.writer, 1))
    content = parse_journal(path, tail)
    assert content.state == "damaged"
    assert "closing hash" in content.problems[0].reason
    assert first.offset == 0


def test_journal_rotates_and_closes_each_file(storage: LocalStorage) -> None:
    journal = Journal.create(storage, size_max_bytes=300)
    for number in range(30):
        journal.append([_tag(f"tag {number}"), _tag("more")])
    last_path = journal.path
    paths = storage.list("journal")
    assert len(paths) > 3
    states = [read_journal(storage, path).state for path in paths]
    assert states == ["closed"] * (len(paths) - 1) + ["open"]
    assert paths[-1] == last_path
    events = [event for path in paths for event in read_journal(storage, path).events]
    assert [event.seq for event in events] == list(range(journal.next_seq))
    assert [event.name for event in events if event.kind == "tag_added"][::2] == [
        f"tag {n}" for n in range(30)
    ]
    assert all(storage.size(path) < 800 for path in paths)
    journal.close()


def test_writer_has_one_journal_only(storage: LocalStorage) -> None:
    journal = Journal.create(storage, writer=bytes(16))
    with pytest.raises(StoreConflict, match="Take another writer"):
        Journal.create(storage, writer=bytes(16))
    journal.close()


def test_what_is_no_journal_is_not_found(storage: LocalStorage) -> None:
    with pytest.raises(NotFound, match="is no journal"):
        parse_journal("journal/README", b"")
    with pytest.raises(NotFound):
        read_journal(storage, journal_path(JournalName(bytes(16), 0)))


def test_writer_is_dead_only_once_its_lock_is_free(storage: LocalStorage) -> None:
    journal = Journal.create(storage)
    assert not is_writer_dead(storage, journal.path)
    journal.append([_tag("a")])
    assert not is_writer_dead(storage, journal.path)
    journal.close()
    assert is_writer_dead(storage, journal.path)
    assert not is_writer_dead(storage, journal_path(JournalName(bytes(16), 0)))


def test_killed_writer_is_dead_and_what_it_synced_is_there(storage: LocalStorage) -> None:
    program = textwrap.dedent(
        """
        import sys
        from weft.lineage.schema import Event
        from weft.lineage.journal import Journal
        from weft.lineage.local import LocalStorage
        journal = Journal.create(LocalStorage(sys.argv[1]))
        print(journal.path, flush=True)
        while True:
            journal.append([Event(kind="tag_added", name=str(journal.next_seq))])
            journal.sync()
            print(journal.next_seq, flush=True)
        """
    )
    command = [sys.executable, "-c", program, storage.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        acknowledged = 0
        for _ in range(50):
            acknowledged = int(process.stdout.readline())
        assert not is_writer_dead(storage, path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert is_writer_dead(storage, path)
    content = read_journal(storage, path)
    assert content.state in ("open", "torn")
    assert len(content.events) >= acknowledged


def test_full_disk_keeps_what_was_there_and_says_so(storage: LocalStorage) -> None:
    journal = Journal.create(storage)
    journal.append([_tag("kept")])
    journal.sync()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreUnavailable, match="The disk is full"):
            journal.append([_tag("lost" * 400)])
        assert storage.size(journal.path) < 1000
        assert journal.next_seq == 1
        with pytest.raises(StoreUnavailable, match="The disk is full"):
            storage.put("objects/big", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not os.listdir(f"{storage.root}/objects")
    journal.append([_tag("after")])
    journal.close()
    content = read_journal(storage, journal.path)
    assert content.state == "closed"
    assert [event.name for event in content.events[:2]] == ["kept", "after"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_file_system_keeps_what_was_there(tmp_path: Path) -> None:
    """A real ENOSPC, in the middle of a batch, and again when the journal wants to go on in a new file."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        storage = LocalStorage(str(folder / "store"))
        journal = Journal.create(storage, size_max_bytes=20_000)
        acknowledged, message = 0, ""
        try:
            while acknowledged < 100:
                journal.append([_tag(f"{acknowledged}:{'x' * 3000}")])
                journal.sync()
                acknowledged += 1
        except StoreUnavailable as error:
            message = str(error)
        assert "The disk is full" in message
        assert 10 < acknowledged < 100
        events = [e for path in storage.list("journal") for e in read_journal(storage, path).events]
        names = [event.name for event in events if event.kind == "tag_added"]
        assert [str(name).split(":")[0] for name in names] == [str(n) for n in range(acknowledged)]
        states = {read_journal(storage, path).state for path in storage.list("journal")}
        assert states <= {"open", "closed"}
        del journal
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_read_only_store_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        storage = LocalStorage(str(folder))
        with pytest.raises(StoreUnavailable, match="Make it writable, or name another one with --store"):
            Journal.create(storage)
        with pytest.raises(StoreUnavailable, match="does not allow this"):
            storage.put("objects/x", b"")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class JournalMachine(RuleBasedStateMachine):
    """A writer that appends, syncs, dies and is damaged, against the list of what it appended.

    A crash cuts the file at any byte after the last sync; a flip may hit any byte.
    """

    journals: Bundle[str] = Bundle("journals")

    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage()
        self.appended: list[str] = []
        self.ends: list[int] = []
        self.synced = 0
        self.synced_bytes = 0

    @initialize()
    def create(self) -> None:
        self.journal = Journal.create(self.storage)
        self.appended, self.ends, self.synced, self.synced_bytes = [], [], 0, 0

    @rule(names=st.lists(st.text(max_size=9), max_size=5))
    def append(self, names: list[str]) -> None:
        places = self.journal.append([_tag(name) for name in names])
        self.appended += names
        self.ends += [place.offset + place.length for place in places]

    @rule()
    def sync(self) -> None:
        self.journal.sync()
        self.synced = len(self.appended)
        self.synced_bytes = self.storage.size(self.journal.path)

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """What was synced is there, and nothing but a beginning of the rest; then a new process starts."""
        path = self.journal.path
        cut = data.draw(st.integers(self.synced_bytes, self.storage.size(path)))
        zeros = data.draw(st.sampled_from([0, 1, 30, 600])) if cut in (0, *self.ends) else 0
        content = parse_journal(path, self.storage.get(path)[:cut] + bytes(zeros))
        whole = sum(end <= cut for end in self.ends)
        assert [event.name for event in content.events] == self.appended[:whole]
        assert whole >= self.synced
        is_cut_clean = zeros == 0 and cut in (0, *self.ends)
        assert content.state == ("open" if is_cut_clean else "torn")
        self.create()

    @precondition(lambda self: self.ends)
    @rule(data=st.data(), mask=st.integers(1, 255))
    def flip(self, data: st.DataObject, mask: int) -> None:
        """One frame is lost and the damage is told; all others are still read."""
        path = self.journal.path
        buffer = bytearray(self.storage.get(path))
        position = data.draw(st.integers(0, len(buffer) - 1))
        buffer[position] ^= mask
        content = parse_journal(path, bytes(buffer))
        hit = sum(end <= position for end in self.ends)
        assert content.state == "damaged"
        assert [event.seq for event in content.events] == [n for n in range(len(self.ends)) if n != hit]

    @rule()
    def close(self) -> None:
        self.journal.close()
        content = read_journal(self.storage, self.journal.path)
        assert content.state == "closed"
        assert [event.name for event in content.events[:-1]] == self.appended
        self.create()

    @invariant()
    def file_holds_what_was_appended(self) -> None:
        content = read_journal(self.storage, self.journal.path)
        assert content.state == "open"
        assert [event.name for event in content.events] == self.appended


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
