"""Sealing: journals that nobody writes any more become segments, and are removed once that is safe.

An open journal of a writer that lives is sealed by nobody, however idle. A journal is removed when a whole
segment has held all of it for the time of grace, and when its writer has no other journal in use: worker
processes of a long run may still read their inputs from the files it has closed.

Chunks never change, so each may be sealed though its writer lives. There are no locks where they are: two
processes that seal at once make the same segments, or such that overlap, which is settled by range. A chunk
that is a fence is never removed, because a writer that comes back after days must still find it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from weft.lineage import clock
from weft.lineage.codec import Frame, read_rows, scan
from weft.lineage.collector import CollectorPause
from weft.lineage.columns import Columns
from weft.lineage.coverage import Coverage, Overlaps, uncovered_journals
from weft.lineage.errors import NotFound, StoreConflict, StoreDamaged
from weft.lineage.journal import is_closed, is_fence, is_writer_dead, parse_journal, read_journal
from weft.lineage.manifest import Segment, SegmentFile, list_segment_files, segments_of
from weft.lineage.paths import CACHE, JOURNALS, JournalName, journal_name
from weft.lineage.proofs import check_segment_file
from weft.lineage.ranges import Range, Ranges
from weft.lineage.schema import Event
from weft.lineage.segments import write_segment
from weft.lineage.storage import Lock, Storage, StoredFile

__all__ = ["CHUNK_GRACE_S", "GRACE_S", "SealReport", "grace_of", "seal_journals", "take_lock"]

#: How long a sealed journal stays, for readers that listed it before it was sealed.
GRACE_S = 60.0

#: The same where files cannot grow: longer than any put is tried again, and than clocks may differ.
CHUNK_GRACE_S = 900.0

#: Less than this is left until there is more, unless sealing is forced: tiny segments cost more than they save.
_WORTHWHILE_BYTES = 1024 * 1024
_WORTHWHILE_JOURNALS = 32

#: Journals of one segment, in bytes: about 400,000 events, which is also what is held in memory.
_BATCH_BYTES = 64 * 1024 * 1024

#: What is read of a journal to see whether anything is in it.
_HEAD_BYTES = 4096

_LOCK_PATH = f"{CACHE}/seal.lock"

_DIGEST = Event._fields.index("digest") - 1


class SealReport(NamedTuple):
    """What a call of seal did. `left` are journals that could not be sealed, with the reason."""

    segments: list[Segment]
    sealed: list[str]
    removed: list[str]
    left: list[tuple[str, str]]

    @property
    def event_count(self) -> int:
        return sum(segment.event_count for segment in self.segments)


class _Finished(NamedTuple):
    """A journal that nobody appends to any more: its rows as `read_rows` gives them, and its range."""

    path: str
    range: Range
    rows: list[list[Any]]


def seal_journals(
    storage: Storage, known: dict[str, SegmentFile], is_forced: bool, grace_s: float | None
) -> SealReport:
    """Seal what may be sealed, then remove what was sealed long enough ago.

    One process seals at a time; any other returns at once and reports nothing.
    """
    report = SealReport([], [], [], [])
    if not storage.list(JOURNALS):
        return report
    lock = take_lock(storage)
    if lock is None:
        return report
    try:
        with CollectorPause():
            for batch in _batches(storage, known, is_forced):
                _seal_batch(storage, batch, report)
        try:
            _remove_sealed(storage, known, grace_of(storage, grace_s), report)
        except NotFound:
            # Where there are no locks another process may be removing the same.
            if storage.can_append:
                raise
    finally:
        lock.release()
    return report


def grace_of(storage: Storage, asked_s: float | None) -> float:
    """How long what was sealed or compacted stays, in seconds: what was asked for, else that of the kind of store."""
    if asked_s is not None:
        return asked_s
    return GRACE_S if storage.can_append else CHUNK_GRACE_S


class _NoLock:
    """Where files cannot grow there are no locks, and two who seal do no harm."""

    def release(self) -> None:
        """There is nothing to let go of."""


def take_lock(storage: Storage) -> Lock | None:
    """The lock of those who seal and compact; None when another process has it."""
    if not storage.can_append:
        return _NoLock()
    if not storage.exists(_LOCK_PATH):
        try:
            storage.create_exclusive(_LOCK_PATH, b"")
        except StoreConflict:
            # Another process made it since: all that counts is that it is there.
            return None
    return storage.try_lock(_LOCK_PATH)


def _batches(
    storage: Storage, known: dict[str, SegmentFile], is_forced: bool
) -> Iterator[list[tuple[str, JournalName]]]:
    """The journals to seal into one segment, of those that are not sealed."""
    journals = _list_journals(storage)
    whole = [segment.ranges for segment in _whole_segments(storage, known)]
    coverage = Coverage(whole, {name.writer for _, name in journals})
    sizes = {file.path: file.size_bytes for file, _ in journals}
    waiting = [(path, name) for path, name in uncovered_journals(storage, journals, coverage) if sizes[path]]
    waiting_bytes = sum(sizes[path] for path, _ in waiting)
    if not (is_forced or len(waiting) >= _WORTHWHILE_JOURNALS or waiting_bytes >= _WORTHWHILE_BYTES):
        return
    batch: list[tuple[str, JournalName]] = []
    batch_bytes = 0
    for path, name in waiting:
        batch.append((path, name))
        batch_bytes += sizes[path]
        if batch_bytes >= _BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


def _seal_batch(storage: Storage, batch: list[tuple[str, JournalName]], report: SealReport) -> None:
    """Seal journals into one segment; where one of them does not fit the columns, each by itself."""
    columns = Columns()
    ranges = []
    paths = []
    left_before = len(report.left)
    overlaps = Overlaps()
    try:
        for path, name in batch:
            finished = _finished(storage, path, name, report)
            if finished is not None:
                new = overlaps.lacks(name, [row[0] for row in finished.rows])
                is_new = len(new) == len(finished.rows)
                columns.add(
                    name.writer, finished.rows if is_new else [r for r in finished.rows if r[0] in new]
                )
                ranges.append(finished.range)
                paths.append(path)
        if not paths:
            return
        tables = columns.tables()
        for path in paths:
            # A writer that was killed may have left what is not on the disk yet. The segment must not
            # name, after a power loss, events that its journal has lost.
            storage.sync_file(path)
    except NotFound:
        # Another process sealed and removed one of them.
        return
    except (ValueError, TypeError, OverflowError) as error:
        if len(batch) == 1:
            report.left.append((batch[0][0], f"an event does not fit its columns: {error}"))
            return
        del report.left[left_before:]
        for alone in batch:
            _seal_batch(storage, [alone], report)
        return
    report.segments.append(
        write_segment(storage, tables, Ranges.of(ranges), "seal", versions=columns.versions)
    )
    report.sealed.extend(paths)


def _finished(storage: Storage, path: str, name: JournalName, report: SealReport) -> _Finished | None:
    """The journal's content if nobody will ever append to it, else None."""
    # Asked before it is read: what a writer appends in between must not be missed. A chunk never changes.
    is_final = not storage.can_append or is_writer_dead(storage, path)
    try:
        data = storage.get(path)
    except NotFound:
        return None
    found = read_rows(data, name.first_seq)
    if found.end == len(data) and found.rows:
        is_closed = found.is_closed()
        frames_end = found.last_offset if is_closed else found.end
        running_hash = hashlib.sha256(memoryview(data)[:frames_end]).digest()
        if not is_closed or found.rows[-1][_DIGEST:] == [running_hash]:
            if not (is_closed or is_final):
                return None
            r = Range(name.writer, name.first_seq, found.rows[-1][0], running_hash, len(data))
            return _Finished(path, r, found.rows)
    content = parse_journal(path, data)
    if content.state == "damaged":
        report.left.append((path, "it is damaged; its bytes are kept as they are"))
        return None
    if not content.events or not (content.state == "closed" or is_final):
        return None
    r = Range(*name, content.last_seq, content.running_hash, content.size_bytes)
    return _Finished(path, r, [list(event[1:]) for event in content.events])


def _remove_sealed(
    storage: Storage, known: dict[str, SegmentFile], grace_s: float, report: SealReport
) -> None:
    newest_us = clock.now_us() - int(grace_s * 1_000_000)
    journals = _list_journals(storage)
    if not storage.can_append:
        journals = [(file, name) for file, name in journals if not is_fence(storage, *file[:2])]
    oldest: dict[bytes, int] = {}
    for _, name in journals:
        oldest[name.writer] = min(name.first_seq, oldest.get(name.writer, name.first_seq))
    if not oldest:
        return
    writers = oldest.keys()
    ranges = [
        segment.ranges
        for segment in _whole_segments(storage, known)
        # Of a writer that goes on for days most is sealed and removed: those segments are not proven again each time.
        if any(r.last_seq >= oldest[r.writer] for r in segment.ranges.of_writers(writers))
        and _may_replace_journals(storage, segment, newest_us, report)
    ]
    uncovered = {path for path, _ in uncovered_journals(storage, journals, Coverage(ranges, writers))}
    removable: list[tuple[str, bytes]] = []
    in_use: set[bytes] = set()
    for (path, _, _), name in journals:
        # A segment can hold all of a journal whose writer lives: a copy of the store was sealed and merged back.
        is_over = path not in uncovered
        if storage.can_append:
            is_over = is_over and (is_closed(storage, path) or is_writer_dead(storage, path))
        if is_over or (storage.can_append and _is_remnant(storage, path, name, newest_us)):
            removable.append((path, name.writer))
        else:
            in_use.add(name.writer)
    for path, writer in removable:
        # Workers of a run that writes chunks read its frames elsewhere.
        if writer not in in_use or not storage.can_append:
            storage.delete(path)
            report.removed.append(path)


def _may_replace_journals(storage: Storage, segment: Segment, newest_us: int, report: SealReport) -> bool:
    """Whether a segment is older than the time of grace and its files are, byte for byte, what was sealed.

    All of a distant segment is fetched for that, once: footers would not tell a byte that changed on its way there.
    """
    files = list(segment.files.values())
    if max(storage.modified_us(file.path) for file in files) > newest_us:
        return False
    try:
        # Proven anew, whatever was proven before: this is the last moment that the journals are there.
        for file in files:
            check_segment_file(storage, file.path, file.digest)
    except StoreDamaged as error:
        report.left.append((files[0].path, str(error)))
        return False
    return True


def _is_remnant(storage: Storage, path: str, name: JournalName, newest_us: int) -> bool:
    """Whether a writer died before it committed anything to this file."""
    if storage.modified_us(path) > newest_us or not is_writer_dead(storage, path):
        return False
    # Journals that were sealed just now are many, and their first frame tells enough.
    head = storage.read_range(path, 0, _HEAD_BYTES)
    if isinstance(next(scan(name.writer, head), None), Frame):
        return False
    content = read_journal(storage, path)
    return not content.events and content.state != "damaged"


def _list_journals(storage: Storage) -> list[tuple[StoredFile, JournalName]]:
    return [(file, name) for file in storage.scan(JOURNALS) if (name := journal_name(file.path))]


def _whole_segments(storage: Storage, known: dict[str, SegmentFile]) -> list[Segment]:
    return [s for s in segments_of(list_segment_files(storage, known)) if not s.missing]
