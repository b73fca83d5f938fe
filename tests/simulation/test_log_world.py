"""Several stores with writers, sealers, compactors and readers in one world, held against a model.

Clocks run wrong, files are copied twice, old segments come back, stores are merged in any order, and caches
are thrown away. After each step every store gives exactly what was told to it or to what was merged into it,
and a reader that was open all the while says the same as one that starts from nothing.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults import FaultyStorage
from weft.lineage import clock, events
from weft.lineage.description import create_store
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.log import EventLog
from weft.lineage.paths import CACHE, JOURNALS, SEGMENTS
from weft.lineage.projections import fold
from weft.lineage.schema import Event
from weft.lineage.store import Store
from weft.lineage.verify import verify

_DAY_US = 24 * 3600 * 1_000_000
_JOURNAL_BYTES = 600
_STORES = 2

Told = dict[tuple[bytes, int], tuple[str, str | None, str | None]]


class _Writer:
    """A scheduler with one run, whose clock is wrong by `skew_us`."""

    def __init__(self, place: _Place, number: int, skew_us: int) -> None:
        self.run = RunRef(bytes([number]) * 16, "World", str(number))
        self.journal = Journal.create(
            place.storage,
            bytes([number]) * 16,
            size_max_bytes=_JOURNAL_BYTES,
            now_us=lambda: clock.now_us() + skew_us,
        )
        self.place = place
        self.tasks = 0
        self.tell(events.run_started(self.run, None, {"user": "me"}))

    def tell(self, *told: Event) -> None:
        self.journal.append(told)
        self.journal.sync()
        first = self.journal.next_seq - len(told)
        for offset, event in enumerate(told):
            self.place.told[self.journal.writer, first + offset] = (event.kind, event.run_id, event.name)

    def work(self) -> None:
        task = self.run.task("step", str(self.tasks))
        self.tasks += 1
        self.tell(
            events.task_created(task, (), (), None),
            events.attempt_started(task, 0, 1, "box"),
            events.attempt_succeeded(task, 0, {"next": []}, {"cpu_s": 0.1, "max_rss_bytes": 1}),
        )

    def end(self) -> None:
        self.tell(events.run_ended(self.run, "succeeded"))
        self.journal.close()


class _Place:
    """One store, what was told to it, and a reader that has been open from the start."""

    def __init__(self) -> None:
        self.storage = FaultyStorage()
        create_store(self.storage)
        self.told: Told = {}
        self.log = EventLog(self.storage)
        self.reader = Store(self.storage)

    def close(self) -> None:
        self.reader.close()


class LogWorld(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # That a writer lives is believed for a second. Here it may die in that second, and nothing else change.
        self.patched = mock.patch("weft.lineage.store._LIVENESS_S", 0.0)
        self.patched.start()
        self.places = [_Place() for _ in range(_STORES)]
        self.live: list[_Writer] = []
        self.count = 0
        self.kept: list[tuple[int, str, bytes]] = []

    @precondition(lambda self: self.count < 12)
    @rule(at=st.integers(0, _STORES - 1), skew_us=st.sampled_from([0, -_DAY_US, 1_800_000_000, -5]))
    def start(self, at: int, skew_us: int) -> None:
        self.count += 1
        self.live.append(_Writer(self.places[at], self.count, skew_us))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), tasks=st.integers(1, 4))
    def work(self, data: st.DataObject, tasks: int) -> None:
        writer = data.draw(st.sampled_from(self.live))
        for _ in range(tasks):
            writer.work()

    @precondition(lambda self: self.live)
    @rule(data=st.data(), is_killed=st.booleans())
    def end(self, data: st.DataObject, is_killed: bool) -> None:
        writer = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        if is_killed:
            writer.place.storage.kill_writer(writer.journal.path)
        else:
            writer.end()

    @rule(at=st.integers(0, _STORES - 1), is_old=st.booleans())
    def tidy(self, at: int, is_old: bool) -> None:
        self.places[at].log.tidy(is_whole=True, grace_s=-1 if is_old else 60)

    @rule(at=st.integers(0, _STORES - 1))
    def keep_a_segment(self, at: int) -> None:
        """Somebody makes a copy of what is there, for later."""
        storage = self.places[at].storage
        self.kept = [(at, path, storage.get(path)) for path in storage.list(SEGMENTS)]

    @precondition(lambda self: self.kept)
    @rule()
    def bring_back(self) -> None:
        """Files that were compacted away come again, from that copy."""
        for at, path, data in self.kept:
            self.places[at].storage.put(path, data)

    @rule(source=st.integers(0, _STORES - 1), is_twice=st.booleans())
    def merge(self, source: int, is_twice: bool) -> None:
        """Copy one store's segments and finished journals into the other; a copy under way leaves no half file."""
        here, there = self.places[source], self.places[1 - source]
        here.log.tidy(is_whole=True)
        for path in here.storage.list(SEGMENTS) * (2 if is_twice else 1):
            there.storage.put(path, here.storage.get(path))
        found = EventLog(here.storage)
        sealed = {span for segment in found.segments() for span in segment.ranges}
        for r in sealed:
            for seq in range(r.first_seq, r.last_seq + 1):
                if (r.writer, seq) in here.told:
                    there.told[r.writer, seq] = here.told[r.writer, seq]

    @rule(at=st.integers(0, _STORES - 1))
    def forget_caches(self, at: int) -> None:
        storage = self.places[at].storage
        for path in storage.list(CACHE):
            if PurePosixPath(path).suffix != ".lock":
                storage.delete(path)

    @rule(at=st.integers(0, _STORES - 1))
    def ask_the_open_reader(self, at: int) -> None:
        """What it has taken in piece by piece is what a fold of everything gives."""
        place = self.places[at]
        asked = _answers(place.reader)
        with Store(place.storage) as fresh:
            assert asked == _answers(fresh)
        log = EventLog(place.storage)
        states = fold(log.events(), log.dead_writers(), clock.now_us(), log.live_writers())
        assert {run: row[0] for run, row in asked.items()} == {s.run_id: s.status for s in states.values()}
        assert {run: row[1] for run, row in asked.items()} == {
            s.run_id: len(s.tasks) for s in states.values()
        }

    @invariant()
    def every_store_gives_what_was_told(self) -> None:
        for place in self.places:
            found = [event for event in place.log.events() if event.kind != "journal_closed"]
            assert len(found) == len(place.told)
            assert {(e.writer, e.seq): (e.kind, e.run_id, e.name) for e in found} == place.told

    @invariant()
    def log_time_never_falls_within_a_writer(self) -> None:
        last: dict[bytes, int] = {}
        for place in self.places:
            for event in sorted(place.log.events(), key=lambda event: (event.writer, event.seq)):
                assert event.time_us >= last.get(event.writer, 0) or event.seq == 0
                last[event.writer] = event.time_us

    def teardown(self) -> None:
        self.patched.stop()
        for place in self.places:
            assert verify(place.storage).problems == []
            place.close()
        # Merged in either order, by files alone, both know the same.
        both = [self._merged(order) for order in ((0, 1), (1, 0))]
        assert both[0] == both[1]

    def _merged(self, order: tuple[int, int]) -> list[Event]:
        merged = FaultyStorage()
        for at in order:
            storage = self.places[at].storage
            for path in [*storage.list(JOURNALS), *storage.list(SEGMENTS)]:
                if not merged.exists(path) or merged.size(path) < storage.size(path):
                    merged.put(path, storage.get(path))
            EventLog(merged).tidy(is_whole=True, grace_s=-1)
        assert verify(merged).is_sound
        return [event for event in EventLog(merged).events() if event.kind != "journal_closed"]


def _answers(store: Store) -> dict[str, tuple[str, int]]:
    return {row[0]: (row[1], row[2]) for row in store.rows("select run_id, status, tasks from runs")}


TestLogWorld = LogWorld.TestCase
TestLogWorld.settings = settings(max_examples=5, stateful_step_count=15, deadline=None)


@pytest.mark.slow
def test_the_world_for_long() -> None:
    run_state_machine_as_test(
        LogWorld, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )
