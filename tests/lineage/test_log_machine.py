"""The log as a whole against a model: writers come, append, end, die; somebody seals; a copy is merged back."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft.lineage import clock, sealing
from weft.lineage.journal import Journal
from weft.lineage.log import EventLog
from weft.lineage.memory import MemoryStorage
from weft.lineage.paths import JOURNALS, SEGMENTS
from weft.lineage.schema import Event
from weft.lineage.verify import verify

_KINDS = ("run_started", "task_created", "artifact_saved", "artifact_used", "kind_of_a_newer_weft")
_SMALL_JOURNAL_BYTES = 400


class MortalStorage(MemoryStorage):
    """Memory whose writers can be killed: their locks are free, their files as they were.

    A copy is a folder: files can grow there, whatever the original is.
    """

    def kill(self, journal: Journal) -> None:
        self._writers.discard(journal.path)

    def copy(self) -> MortalStorage:
        twin = MortalStorage()
        for path, data in self.files.items():
            twin.put(path, bytes(data))
        return twin


class LogMachine(RuleBasedStateMachine):
    """The model: (writer, seq) of every event that was committed, with its content."""

    can_append = True

    def __init__(self) -> None:
        super().__init__()
        self.storage = MortalStorage(self.can_append)
        self.log = EventLog(self.storage)
        self.live: list[Journal] = []
        self.model: dict[tuple[bytes, int], tuple[str, str | None]] = {}
        self.writers: set[bytes] = set()
        self.copies: list[MortalStorage] = []

    @rule()
    def start(self) -> None:
        self.live.append(Journal.create(self.storage, size_max_bytes=_SMALL_JOURNAL_BYTES))

    @precondition(lambda self: self.live)
    @rule(
        data=st.data(),
        kinds=st.lists(st.sampled_from(_KINDS), min_size=1, max_size=6),
        run_id=st.sampled_from("12"),
    )
    def append(self, data: st.DataObject, kinds: list[str], run_id: str) -> None:
        journal = data.draw(st.sampled_from(self.live))
        journal.append([Event(kind=kind, run_id=run_id) for kind in kinds])
        journal.sync()
        first = journal.next_seq - len(kinds)
        for offset, kind in enumerate(kinds):
            self.model[journal.writer, first + offset] = (kind, run_id)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), is_killed=st.booleans())
    def end(self, data: st.DataObject, is_killed: bool) -> None:
        journal = data.draw(st.sampled_from(self.live))
        self.live.remove(journal)
        if is_killed:
            self.storage.kill(journal)
        else:
            journal.close()

    @rule(is_old=st.booleans())
    def seal(self, is_old: bool) -> None:
        self.log.seal(force=True, grace_s=-1 if is_old else 60)

    @rule(is_whole=st.booleans(), is_old=st.booleans())
    def compact(self, is_whole: bool, is_old: bool) -> None:
        self.log.compact(is_whole=is_whole, grace_s=-1 if is_old else 60)

    @precondition(lambda self: len(self.copies) < 2)
    @rule(is_compacted=st.booleans())
    def copy(self, is_compacted: bool) -> None:
        """Where the copy is, no writer lives; it is sealed there on its own."""
        twin = self.storage.copy()
        EventLog(twin).seal(force=True, grace_s=-1)
        if is_compacted:
            EventLog(twin).compact(is_whole=True, grace_s=-1)
        self.copies.append(twin)

    @precondition(lambda self: self.copies)
    @rule()
    def merge(self) -> None:
        twin = self.copies.pop()
        for path in twin.list(SEGMENTS):
            self.storage.put(path, twin.get(path))

    @rule()
    def reopen(self) -> None:
        self.log = EventLog(self.storage)

    @invariant()
    def events_are_those_that_were_appended(self) -> None:
        events = [event for event in self.log.events() if event.kind != "journal_closed"]
        assert len(events) == len(self.model)
        assert {(e.writer, e.seq): (e.kind, e.run_id) for e in events} == self.model
        times = [event.time_us for event in events]
        assert times == sorted(times)
        assert not times or times[-1] <= clock.now_us()

    @invariant()
    def live_writers_keep_their_journals(self) -> None:
        if not self.can_append:
            return
        journals = self.storage.list(JOURNALS)
        assert all(journal.path in journals for journal in self.live)
        assert {journal.writer for journal in self.live} == self.log.live_writers()

    def teardown(self) -> None:
        assert verify(self.storage).problems == []


class ChunkMachine(LogMachine):
    """The same where journals are chunks: each may be sealed, whether its writer lives or not."""

    can_append = False


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestChunkMachine = ChunkMachine.TestCase
TestChunkMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_a_merged_copy_does_not_take_the_journal_of_a_writer_that_lives() -> None:
    storage = MortalStorage()
    journal = Journal.create(storage)
    journal.append([Event(kind="tag_added", name="before")])
    twin = storage.copy()
    EventLog(twin).seal(force=True, grace_s=-1)
    for path in twin.list(SEGMENTS):
        storage.put(path, twin.get(path))
    log = EventLog(storage)
    log.seal(force=True, grace_s=-1)
    journal.append([Event(kind="tag_added", name="after")])
    journal.close()
    assert [event.name for event in log.events() if event.kind == "tag_added"] == ["before", "after"]


def test_journals_are_sealed_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_BATCH_BYTES", 1000)
    storage = MemoryStorage()
    for _ in range(20):
        journal = Journal.create(storage)
        journal.append([Event(kind="tag_added", name="x" * 100)])
        journal.close()
    before = EventLog(storage).events()
    report = EventLog(storage).seal(force=True)
    assert len(report.segments) > 2
    assert report.event_count == len(before)
    assert EventLog(storage).events() == before
