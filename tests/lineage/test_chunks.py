"""Journals where files cannot grow: a chunk for each sync, fenced off by whoever takes over."""

from __future__ import annotations

import pytest

from weft.lineage.errors import StoreConflict, StoreUnavailable
from weft.lineage.journal import Journal, fence, read_journal
from weft.lineage.log import EventLog
from weft.lineage.memory import MemoryStorage
from weft.lineage.paths import JOURNALS, JournalName, journal_path
from weft.lineage.schema import Event
from weft.lineage.storage import Data
from weft.lineage.verify import verify


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage(can_append=False)


def _names(storage: MemoryStorage) -> list[str | None]:
    return [event.name for event in EventLog(storage).events() if event.kind == "tag_added"]


def _tag(name: str) -> Event:
    return Event(kind="tag_added", name=name)


def test_each_sync_puts_one_chunk_of_what_was_appended(storage: MemoryStorage) -> None:
    journal = Journal.create(storage, b"w" * 16)
    assert storage.list("") == []
    journal.append([_tag("a"), _tag("b")])
    journal.append([_tag("c")])
    assert journal.unsynced_bytes > 0
    assert _names(storage) == []
    journal.sync()
    journal.sync()
    assert journal.unsynced_bytes == 0
    assert _names(storage) == ["a", "b", "c"]
    journal.append([_tag("d")])
    journal.close()
    paths = [journal_path(JournalName(b"w" * 16, seq)) for seq in (0, 3)]
    assert storage.list(JOURNALS) == paths
    assert [read_journal(storage, path).state for path in paths] == ["open", "closed"]
    assert verify(storage).problems == []


def test_journal_without_events_puts_nothing(storage: MemoryStorage) -> None:
    Journal.create(storage).close()
    assert storage.list("") == []


def test_places_go_on_from_chunk_to_chunk(storage: MemoryStorage) -> None:
    journal = Journal.create(storage)
    first = journal.append([_tag("a"), _tag("b")])
    journal.sync()
    second = journal.append([_tag("c")])
    assert [place.offset for place in (*first, *second)] == [
        0,
        first[0].length,
        first[0].length + first[1].length,
    ]


def test_what_is_appended_during_a_put_goes_into_the_next_chunk() -> None:
    class Busy(MemoryStorage):
        def create_exclusive(self, path: str, data: Data) -> None:
            if late:
                journal.append([late.pop()])
            super().create_exclusive(path, data)

    storage, late = Busy(can_append=False), [_tag("late")]
    journal = Journal.create(storage)
    journal.append([_tag("early")])
    journal.sync()
    assert _names(storage) == ["early"]
    journal.sync()
    assert _names(storage) == ["early", "late"]


def test_chunk_that_is_there_already_with_the_same_bytes_was_put() -> None:
    """The answer to a put may be lost, and a library below may try again unseen."""

    class Deaf(MemoryStorage):
        def create_exclusive(self, path: str, data: Data) -> None:
            super().create_exclusive(path, data)
            raise StoreConflict(f"{path} exists already. Read it.")

    storage = Deaf(can_append=False)
    journal = Journal.create(storage)
    journal.append([_tag("a")])
    journal.sync()
    assert _names(storage) == ["a"]


def test_failed_put_breaks_the_journal() -> None:
    class Gone(MemoryStorage):
        def create_exclusive(self, path: str, data: Data) -> None:
            raise StoreUnavailable("The store is out of reach. Try again.")

    journal = Journal.create(Gone(can_append=False))
    journal.append([_tag("a")])
    with pytest.raises(StoreUnavailable, match="out of reach"):
        journal.sync()
    with pytest.raises(StoreUnavailable, match="Start the command again"):
        journal.append([_tag("b")])
    journal.close()


def test_writer_that_was_fenced_off_commits_no_more(storage: MemoryStorage) -> None:
    journal = Journal.create(storage)
    journal.append([_tag("seen")])
    journal.sync()
    fence(storage, journal.writer, journal.next_seq)
    journal.append([_tag("late")])
    with pytest.raises(StoreConflict, match=r"Another process has taken over this run.*weft runs"):
        journal.sync()
    with pytest.raises(StoreUnavailable):
        journal.append([_tag("later")])
    journal.close()
    assert _names(storage) == ["seen"]
    assert verify(storage).problems == []


def test_fence_comes_too_late_for_a_writer_that_has_gone_on(storage: MemoryStorage) -> None:
    journal = Journal.create(storage)
    journal.append([_tag("seen")])
    journal.sync()
    next_seq = journal.next_seq
    journal.append([_tag("unseen")])
    journal.sync()
    with pytest.raises(StoreConflict, match="has gone on"):
        fence(storage, journal.writer, next_seq)
    fence(storage, journal.writer, journal.next_seq)


def test_fence_is_not_needed_where_locks_are() -> None:
    storage = MemoryStorage()
    fence(storage, b"w" * 16, 0)
    assert storage.list("") == []


def test_chunks_of_a_live_writer_are_sealed_and_removed_but_for_a_fence(storage: MemoryStorage) -> None:
    journal = Journal.create(storage)
    for name in "abc":
        journal.append([_tag(name)])
        journal.sync()
    fence(storage, b"z" * 16, 0)
    log = EventLog(storage)
    assert log.live_writers() == log.dead_writers() == set()
    assert len(log.seal(force=True).sealed) == 4
    assert len(log.seal(force=True, grace_s=-1).removed) == 3
    assert storage.list(JOURNALS) == [journal_path(JournalName(b"z" * 16, 0))]
    journal.append([_tag("d")])
    journal.close()
    assert _names(storage) == ["a", "b", "c", "d"]
    assert verify(storage).problems == []


class _Noting(MemoryStorage):
    """Notes which files are read as a whole."""

    def __init__(self) -> None:
        super().__init__(can_append=False)
        self.read: list[str] = []

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if offset == 0 and length > len(self.files[path]):
            self.read.append(path)
        return super().read_range(path, offset, length)


def test_what_was_removed_long_ago_is_not_proven_again_for_a_writer_that_goes_on() -> None:
    storage = _Noting()
    journal = Journal.create(storage, b"w" * 16)
    log = EventLog(storage)
    proven = []
    for number in range(4):
        journal.append([_tag(str(number))])
        journal.sync()
        log.seal(force=True, grace_s=3600)
        # So that their footers are known, for which small files are read as a whole.
        log.segments()
        storage.read.clear()
        log.seal(force=True, grace_s=-1)
        proven.append({path for path in storage.read if path.startswith("log/")})
        assert storage.list(JOURNALS) == []
    assert [len(paths) for paths in proven] == [1, 1, 1, 1]
    assert len(set().union(*proven)) == 4
    assert _names(storage) == ["0", "1", "2", "3"]


def test_chunks_stay_longer_than_files_that_grow(storage: MemoryStorage) -> None:
    journal = Journal.create(storage)
    journal.append([_tag("a")])
    journal.close()
    log = EventLog(storage)
    log.seal(force=True)
    assert log.seal(force=True).removed == []
    assert len(log.seal(force=True, grace_s=-1).removed) == 1


@pytest.mark.parametrize("step", [0, 1, 3, 6])
def test_two_that_tidy_at_once_do_no_harm(step: int) -> None:
    """There is no lock: the second does all its work within one change of the first."""

    class Crossed(MemoryStorage):
        changes_left = 0

        def put(self, path: str, data: Data) -> None:
            self._cross()
            super().put(path, data)

        def delete(self, path: str) -> None:
            self._cross()
            super().delete(path)

        def _cross(self) -> None:
            self.changes_left -= 1
            if self.changes_left == 0:
                writers[0].append([_tag("crossed")])
                writers[0].sync()
                EventLog(self).tidy(is_whole=True, grace_s=-1)

    storage = Crossed(can_append=False)
    writers = [Journal.create(storage) for _ in range(3)]
    for name in "abc":
        for journal in writers:
            journal.append([_tag(name), Event(kind="run_started", run_id=name)])
            journal.sync()
        EventLog(storage).seal(force=True, grace_s=-1)
    before = EventLog(storage).events()
    storage.changes_left = step + 1
    EventLog(storage).tidy(is_whole=True, grace_s=-1)
    is_crossed = storage.changes_left <= 0
    for _ in range(2):
        EventLog(storage).tidy(is_whole=True, grace_s=-1)
    after = EventLog(storage).events()
    assert [event for event in after if event.name != "crossed"] == before
    assert len(after) == len(before) + is_crossed
    assert verify(storage).problems == []
