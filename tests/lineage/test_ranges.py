"""Ranges: which events a segment holds, packed; and what is read where segments hold the same."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.lineage.columns import Columns
from weft.lineage.coverage import Coverage, uncovered_journals
from weft.lineage.errors import StoreDamaged
from weft.lineage.journal import Journal
from weft.lineage.log import EventLog
from weft.lineage.manifest import FOOTER_KEY, RANGES_KEY, footer_of, pieces_of
from weft.lineage.memory import MemoryStorage
from weft.lineage.paths import journal_name
from weft.lineage.ranges import Range, Ranges, Spans, settle
from weft.lineage.schema import Event
from weft.lineage.segments import write_segment

WRITERS = [bytes([60 * number]) * 16 for number in range(4)]

#: (writer, first seq, events after it), and segments of them.
CLAIMS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 6)), max_size=6)


def ranges_of(claims: list[tuple[int, int, int]]) -> Ranges:
    return Ranges.of(Range(WRITERS[w], first, first + more, bytes(32), 10) for w, first, more in claims)


def ids_of(spans: object) -> list[tuple[bytes, int]]:
    return [(span[0], seq) for span in spans for seq in range(span[1], span[2] + 1)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("compared_max", [0, 10_000])
@settings(max_examples=200)
@given(segments=st.lists(CLAIMS, max_size=5))
def test_each_event_is_read_once_however_segments_overlap(
    compared_max: int, segments: list[list[tuple[int, int, int]]]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("weft.lineage.ranges._COMPARED_MAX", compared_max)
        check_each_event_is_read_once(segments)


def check_each_event_is_read_once(segments: list[list[tuple[int, int, int]]]) -> None:
    named = [(f"{index:064x}", ranges_of(claims)) for index, claims in enumerate(segments)]
    held = {index: set(ids_of(ranges)) for index, (_, ranges) in enumerate(named)}
    read: list[tuple[bytes, int]] = []
    for index, only in enumerate(settle(named)):
        mine = sorted(held[index]) if only is None else ids_of(only)
        assert set(mine) <= held[index]
        assert only is None or set(mine) != held[index]
        read += mine
    assert sorted(read) == sorted(set().union(*held.values()))


def test_of_equal_ranges_that_of_the_segment_with_more_of_them_is_read() -> None:
    one, more = ranges_of([(0, 0, 5)]), ranges_of([(0, 0, 5), (1, 0, 5)])
    assert settle([("a", one), ("b", more)]) == [Spans(), None]
    assert settle([("a", one), ("b", one)]) == [None, Spans()]


def test_writers_that_begin_alike_are_not_one() -> None:
    one, other = (Ranges.of([Range(b"8 bytes." + bytes([n]) * 8, 0, 5, bytes(32), 10)]) for n in (1, 2))
    assert settle([("a", one), ("b", other)]) == [None, None]
    assert settle([("a", one), ("b", other), ("c", one)]) == [None, None, Spans()]


@given(CLAIMS)
def test_spans_hold_what_they_were_made_of(claims: list[tuple[int, int, int]]) -> None:
    spans = Spans.of((WRITERS[w], first, first + more) for w, first, more in claims)
    held = set(ids_of(spans))
    assert held == set(ids_of(ranges_of(claims)))
    assert spans.event_count == len(held)
    for writer in WRITERS:
        for first in range(20):
            for last in range(first, 20):
                wanted = {(writer, seq) for seq in range(first, last + 1)}
                assert spans.holds(writer, first, last) == (wanted <= held)


def test_ranges_are_found_by_writer() -> None:
    made = sorted(
        Range(os.urandom(16), first, first + 9, os.urandom(32), 100) for _ in range(50) for first in (0, 10)
    )
    ranges = Ranges.of(reversed(made))
    assert list(ranges) == made
    assert len(ranges) == 100
    assert ranges == Ranges(ranges.packed)
    assert ranges.writers() == {r.writer for r in made}
    for r in made[::7]:
        assert ranges.of_writer(r.writer) == [found for found in made if found.writer == r.writer]
    assert ranges.of_writer(bytes(16)) == ranges.of_writer(b"\xff" * 16) == []
    for count in (0, 1, 100):
        wanted = {r.writer for r in made[:count]} | {bytes(16)}
        assert list(ranges.of_writers(wanted)) == [r for r in made if r.writer in wanted]


def _segment(storage: MemoryStorage, ranges: list[Range], seqs: set[int]) -> None:
    columns = Columns()
    columns.add(WRITERS[0], [[seq, "tag_added", 1, 5 + seq] for seq in sorted(seqs)])
    write_segment(storage, columns.tables(), Ranges.of(ranges), "compact")


def test_overlapping_segments_give_each_event_once() -> None:
    storage = MemoryStorage()
    _segment(storage, [Range(WRITERS[0], 0, 10, bytes(32), 1)], set(range(11)))
    _segment(storage, [Range(WRITERS[0], 5, 20, bytes(32), 1)], set(range(5, 21)))
    _segment(storage, [Range(WRITERS[0], 8, 9, bytes(32), 1)], {8, 9})
    log = EventLog(storage)
    assert [event.seq for event in log.events()] == list(range(21))
    assert len(pieces_of(log.segments())) == 2


def test_journal_within_a_longer_range_is_not_read() -> None:
    """A chunk that was pushed, and the whole journal that was sealed elsewhere."""
    storage = MemoryStorage()
    journal = Journal.create(storage, WRITERS[0], size_max_bytes=1)
    for _ in range(3):
        journal.append([Event(kind="tag_added")])
    journal.close()
    files = [(file, name) for file in storage.scan("journal") if (name := journal_name(file.path))]
    assert [name.first_seq for _, name in files] == [0, 2, 4]
    for last, left in ((5, []), (4, [4]), (3, [4]), (2, [2, 4]), (0, [0, 2, 4])):
        held = Ranges.of([Range(WRITERS[0], 0, last, bytes(32), 1)])
        coverage = Coverage([held], {WRITERS[0]})
        found = [name.first_seq for _, name in uncovered_journals(storage, files, coverage)]
        assert found == left, last


@pytest.fixture
def sealed() -> MemoryStorage:
    storage = MemoryStorage()
    for number in range(30):
        journal = Journal.create(storage, bytes([number]) * 16)
        journal.append([Event(kind="run_started", run_id="1"), Event(kind="task_created", run_id="1")])
        journal.close()
    EventLog(storage).seal(force=True)
    return storage


def test_ranges_lie_in_the_first_file_of_a_segment_alone(sealed: MemoryStorage) -> None:
    (segment,) = EventLog(sealed).segments()
    assert len(segment.ranges) == 30
    assert {r.last_seq for r in segment.ranges} == {2}
    for family, file in segment.files.items():
        data = sealed.get(file.path)
        assert (RANGES_KEY.encode() in data) == (family == "run")
        assert FOOTER_KEY.encode() in data
        assert footer_of(sealed, file.path).has_ranges == (family == "run")


def test_flip_of_any_byte_of_a_footer_entry_or_of_the_ranges_is_seen_before_a_row_is_read(
    sealed: MemoryStorage,
) -> None:
    """The footer is believed before its file is proven, so it has checksums of its own."""
    (segment,) = EventLog(sealed).segments()
    told = (segment.rows, segment.why, segment.replaces, list(segment.ranges))
    path = segment.files["run"].path
    data = sealed.get(path)
    ranges_at = data.index(b"weft.ranges")
    entry_at = data.index(b"weft-segment:")
    for position in [*range(ranges_at, len(data), 61), *range(entry_at, len(data))]:
        sealed.put(path, data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        try:
            (found,) = EventLog(sealed).segments()
            seen = (found.rows, found.why, found.replaces, list(found.ranges))
        except StoreDamaged:
            continue
        assert seen == told
    sealed.put(path, data)
