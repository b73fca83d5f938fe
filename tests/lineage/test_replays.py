"""Replay: running hashes come out of sealed events, however many are sorted at once."""

from __future__ import annotations

import pytest

from weft.lineage import events as ev
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.log import EventLog
from weft.lineage.manifest import Segment
from weft.lineage.memory import MemoryStorage
from weft.lineage.ranges import Ranges
from weft.lineage.replays import replay
from weft.lineage.sealed import SealedReader

RUN = RunRef(b"u" * 16, "Hello", "1")


def _sealed() -> tuple[MemoryStorage, Segment]:
    storage = MemoryStorage()
    for writer, count in ((b"a", 7), (b"b", 1), (b"c", 20)):
        journal = Journal.create(storage, writer * 16, size_max_bytes=400)
        for number in range(count):
            journal.append([ev.tag_added(RUN, f"tag {number}", "user")])
        journal.close()
    EventLog(storage).seal(force=True, grace_s=-1)
    return storage, EventLog(storage).segments()[0]


@pytest.mark.parametrize("sorted_events", [1, 2, 3, 5, 8, 100])
def test_every_range_comes_out_however_few_events_are_sorted_at_once(sorted_events: int) -> None:
    storage, segment = _sealed()
    assert len(segment.ranges) > 3
    with SealedReader.opened(storage) as reader:
        query = " union all ".join(reader.queries(segment).values())
        assert list(replay(reader.connection, query, segment.ranges, sorted_events)) == []
        forged = Ranges.of(r._replace(running_hash=bytes(32)) for r in segment.ranges)
        found = list(replay(reader.connection, query, forged, sorted_events))
        assert [replayed.range for replayed in found] == list(forged)
        longer = Ranges.of(r._replace(last_seq=r.last_seq + 50) for r in segment.ranges)
        assert len(list(replay(reader.connection, query, longer, sorted_events))) == len(longer)
