"""What is taken once where files of a writer overlap."""

from __future__ import annotations

from weft.lineage.coverage import Overlaps
from weft.lineage.paths import JournalName

A, B = b"a" * 16, b"b" * 16


def test_events_of_overlapping_files_are_taken_once() -> None:
    overlaps = Overlaps()
    assert list(overlaps.lacks(JournalName(A, 0), [0, 1, 2])) == [0, 1, 2]
    assert sorted(overlaps.lacks(JournalName(A, 1), [1, 2, 3, 4])) == [3, 4]
    assert sorted(overlaps.lacks(JournalName(A, 2), [2, 4, 5])) == [5]
    assert list(overlaps.lacks(JournalName(B, 0), [0, 1])) == [0, 1]
    assert list(overlaps.lacks(JournalName(B, 5), [5, 6])) == [5, 6]


def test_a_first_file_without_events_hides_none_of_the_next() -> None:
    overlaps = Overlaps()
    assert list(overlaps.lacks(JournalName(A, 0), [])) == []
    assert sorted(overlaps.lacks(JournalName(A, 0), [0, 1])) == [0, 1]
    assert sorted(overlaps.lacks(JournalName(A, 1), [1, 2])) == [2]
