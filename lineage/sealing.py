"""Sealing: journals that nobody writes any more become segments, and are removed once that is safe.

An open journal of a writer that lives is sealed by nobody, however idle. A journal is removed when a whole
segment has held all of it for the time of grace, and when its writer has no other journal in use: worker
processes of a long run may still read their inputs from the files it has closed.

Chunks never change, so each may be sealed though its writer lives. There are no locks where they are: two
processes that seal at once make the same segments, or such that overlap, which is settled by range. A chunk
that is a fence is never removed, because a writer that comes back after days must still find it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from weft.lineage import clock
from weft.lineage.collector import CollectorPause
from weft.lineage.errors import NotFound, StoreConflict, StoreDamaged
from weft.lineage.events import Event
from weft.lineage.journal import JournalContent, is_closed, is_fence, is_writer_dead, read_journal
from weft.lineage.manifest import (
    Range,
    Segment,
    SegmentFile,
    is_covered,
    list_segment_files,
    segments_of,
)
from weft.lineage.paths import CACHE, JOURNALS, journal_name
from weft.lineage.segments import check_segment_file, write_segment
from weft.lineage.storage import Storage

__all__ = ["CHUNK_GRACE_S", "GRACE_S", "SealReport", "seal_journals"]

#: How long a sealed journal stays, for readers that listed it before it was sealed.
GRACE_S = 60.0

#: The same where files cannot grow: longer than any put is tried again, and than clocks may differ.
CHUNK_GRACE_S = 900.0

#: Less than this is left until there is more, unless sealing is forced: tiny segments cost more than they save.
_WORTHWHILE_BYTES = 1024 * 1024
_WORTHWHILE_JOURNALS = 32

#: Journals of one segment, in bytes: about 400,000 events, which is also what is held in memory.
_BATCH_BYTES = 64 * 1024 * 1024

_LOCK_PATH = f"{CACHE}/seal.lock"


class SealReport(NamedTuple):
    """What a call of seal did. `left` are journals that could not be sealed, with the reason."""

    segments: list[Segment]
    sealed: list[str]
    removed: list[str]
    left: list[tuple[str, str]]

    @property
    def event_count(self) -> int:
        return sum(sum(segment.rows.values()) for segment in self.segments)


def seal_journals(
    storage: Storage, known: dict[str, SegmentFile], is_forced: bool, grace_s: float | None
) -> SealReport:
    """Seal what may be sealed, then remove what was sealed long enough ago.

    One process seals at a time; any other returns at once and reports nothing.
    """
    report = SealReport([], [], [], [])
    if not storage.list(JOURNALS):
        return report
    if not storage.can_append:
        _seal_and_remove(storage, known, is_forced, _grace_s(storage, grace_s), report)
        return report
    if not storage.exists(_LOCK_PATH):
        try:
            storage.create_exclusive(_LOCK_PATH, b"")
        except StoreConflict:
            # Another process made it since: all that counts is that it is there.
            return report
    lock = storage.try_lock(_LOCK_PATH)
    if lock is None:
        return report
    try:
        _seal_and_remove(storage, known, is_forced, _grace_s(storage, grace_s), report)
    finally:
        lock.release()
    return report


def _grace_s(storage: Storage, asked_s: float | None) -> float:
    if asked_s is not None:
        return asked_s
    return GRACE_S if storage.can_append else CHUNK_GRACE_S


def _seal_and_remove(
    storage: Storage, known: dict[str, SegmentFile], is_forced: bool, grace_s: float, report: SealReport
) -> None:
    with CollectorPause():
        for batch in _batches(storage, known, is_forced, report):
            _seal_batch(storage, batch, report)
    _remove_sealed(storage, known, grace_s, report)


def _batches(
    storage: Storage, known: dict[str, SegmentFile], is_forced: bool, report: SealReport
) -> Iterator[list[JournalContent]]:
    ranges = [r for segment in _whole_segments(storage, known) for r in segment.ranges]
    waiting: list[tuple[str, int]] = []
    for path in storage.list(JOURNALS):
        name = journal_name(path)
        try:
            size = storage.size(path)
        except NotFound:
            continue
        if name is not None and size and not is_covered(ranges, name.writer, name.first_seq, size):
            waiting.append((path, size))
    is_worthwhile = len(waiting) >= _WORTHWHILE_JOURNALS or sum(s for _, s in waiting) >= _WORTHWHILE_BYTES
    if not (is_forced or is_worthwhile):
        return
    batch: list[JournalContent] = []
    batch_bytes = 0
    for path, size in waiting:
        content = _sealable(storage, path, report)
        if content is None:
            continue
        batch.append(content)
        batch_bytes += size
        if batch_bytes >= _BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


def _sealable(storage: Storage, path: str, report: SealReport) -> JournalContent | None:
    """The journal's content if nobody will ever append to it, else None."""
    # Asked before it is read: what a writer appends in between must not be missed.
    is_dead = is_writer_dead(storage, path)
    try:
        content = read_journal(storage, path)
    except NotFound:
        return None
    if content.state == "damaged":
        report.left.append((path, "it is damaged; its bytes are kept as they are"))
        return None
    is_over = content.state == "closed" or is_dead or not storage.can_append
    return content if content.events and is_over else None


def _seal_batch(storage: Storage, batch: list[JournalContent], report: SealReport) -> None:
    """Seal journals into one segment; where one of them does not fit the columns, each by itself."""
    events: list[Event] = []
    ranges = []
    for content in batch:
        events += content.events
        ranges.append(
            Range(
                content.name.writer,
                content.name.first_seq,
                content.last_seq,
                content.running_hash,
                content.size_bytes,
            )
        )
    try:
        segment = write_segment(storage, events, sorted(ranges), "seal")
    except (ValueError, TypeError, OverflowError) as error:
        if len(batch) == 1:
            report.left.append((batch[0].path, f"an event does not fit its columns: {error}"))
            return
        for content in batch:
            _seal_batch(storage, [content], report)
        return
    report.segments.append(segment)
    report.sealed.extend(content.path for content in batch)


def _remove_sealed(
    storage: Storage, known: dict[str, SegmentFile], grace_s: float, report: SealReport
) -> None:
    newest_us = clock.now_us() - int(grace_s * 1_000_000)
    journals = [(path, name) for path in storage.list(JOURNALS) if (name := journal_name(path)) is not None]
    writers = {name.writer for _, name in journals}
    segments = [s for s in _whole_segments(storage, known) if any(r.writer in writers for r in s.ranges)]
    ranges = [r for s in segments if _may_replace_journals(storage, s, newest_us, report) for r in s.ranges]
    removable: list[tuple[str, bytes]] = []
    in_use: set[bytes] = set()
    for path, name in journals:
        is_sealed = is_covered(ranges, name.writer, name.first_seq, storage.size(path))
        # A segment can hold all of a journal whose writer lives: a copy of the store was sealed and merged back.
        if storage.can_append:
            is_over = is_sealed and (is_closed(storage, path) or is_writer_dead(storage, path))
        else:
            is_over = is_sealed and not is_fence(storage, path)
        if is_over or _is_remnant(storage, path, newest_us):
            removable.append((path, name.writer))
        else:
            in_use.add(name.writer)
    for path, writer in removable:
        # Workers of a run that writes chunks read its frames elsewhere.
        if writer not in in_use or not storage.can_append:
            storage.delete(path)
            report.removed.append(path)


def _may_replace_journals(storage: Storage, segment: Segment, newest_us: int, report: SealReport) -> bool:
    """Whether a segment is older than the time of grace and its files are, byte for byte, what was sealed."""
    files = segment.files.values()
    if max(storage.modified_us(file.path) for file in files) > newest_us:
        return False
    try:
        for file in files:
            check_segment_file(storage, file.path, file.digest)
    except StoreDamaged as error:
        report.left.append((next(iter(files)).path, str(error)))
        return False
    return True


def _is_remnant(storage: Storage, path: str, newest_us: int) -> bool:
    """Whether a writer died before it committed anything to this file."""
    if storage.modified_us(path) > newest_us or not is_writer_dead(storage, path):
        return False
    content = read_journal(storage, path)
    return not content.events and content.state != "damaged"


def _whole_segments(storage: Storage, known: dict[str, SegmentFile]) -> list[Segment]:
    return [s for s in segments_of(list_segment_files(storage, known)) if not s.missing]
