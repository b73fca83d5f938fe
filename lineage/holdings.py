"""What a store holds at one moment, file by file, and which events are in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import groupby
from typing import NamedTuple

from weft.lineage.coverage import Coverage, uncovered_journals
from weft.lineage.errors import NotFound, StoreDamaged
from weft.lineage.journal import parse_journal
from weft.lineage.manifest import Segment, read_segment_file, segments_of
from weft.lineage.paths import (
    JOURNALS,
    OBJECTS,
    SEGMENTS,
    JournalName,
    digest_of_object,
    incoming_id,
    journal_name,
    segment_name,
)
from weft.lineage.ranges import Range, Ranges
from weft.lineage.schema import Event
from weft.lineage.storage import Storage, StoredFile, get_many

__all__ = ["Holdings", "coverage_of", "holdings_of", "spans_of"]


class Holdings(NamedTuple):
    """The files of a store.

    `segments` are whole, `partial` lack files, both without those that are replaced; `incoming` are the ids of
    segments that are announced. `damaged` are segment files that do not say what they are, with the reason.
    `objects` have their size in bytes.
    """

    segments: list[Segment]
    partial: list[Segment]
    incoming: list[str]
    journals: list[tuple[StoredFile, JournalName]]
    damaged: list[tuple[str, str]]
    objects: dict[bytes, int]


def holdings_of(storage: Storage) -> Holdings:
    """List a store. Journals first: what is sealed meanwhile is then found gone, never passed over.

    Raises: StoreTooNew.
    """
    journals = [(file, name) for file in storage.scan(JOURNALS) if (name := journal_name(file.path))]
    files = []
    damaged = []
    incoming = []
    for path, size, _ in storage.scan(SEGMENTS):
        announced = incoming_id(path)
        if announced is not None:
            incoming.append(announced)
        sealed = segment_name(path)
        if sealed is None:
            continue
        try:
            files.append(read_segment_file(storage, path, sealed, size))
        except StoreDamaged as error:
            damaged.append((path, str(error)))
        except NotFound:
            # Compacted since it was listed.
            continue
    objects = {
        digest: file.size_bytes
        for file in storage.scan(OBJECTS)
        if (digest := digest_of_object(file.path)) is not None
    }
    segments = segments_of(files)
    whole = [segment for segment in segments if not segment.missing]
    partial = [segment for segment in segments if segment.missing]
    return Holdings(whole, partial, incoming, journals, damaged, objects)


def coverage_of(storage: Storage, holdings: Holdings, writers: Collection[bytes]) -> Coverage:
    """The events of some writers that a store has, in segments or in journals. Raises: NotFound."""
    sealed = [segment.ranges for segment in holdings.segments]
    mine = [(file, name) for file, name in holdings.journals if name.writer in writers]
    paths = [path for path, _ in uncovered_journals(storage, mine, Coverage(sealed, writers))]
    hot: list[Range] = []
    for path, data in zip(paths, get_many(storage, paths), strict=True):
        if data is not None:
            # Of ranges that only say what is there nobody asks the hash.
            hot += (Range(*span, bytes(32), 0) for span in spans_of(parse_journal(path, data).events))
    return Coverage([*sealed, Ranges.of(hot)], writers)


def spans_of(events: Iterable[Event]) -> list[tuple[bytes, int, int]]:
    """Writer, first and last seq of the events of one writer that follow each other."""
    found = []
    for _, group in groupby(enumerate(events), key=lambda place: place[1].seq - place[0]):
        run = [event for _, event in group]
        found.append((run[0].writer, run[0].seq, run[-1].seq))
    return found
