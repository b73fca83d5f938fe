"""Compaction: small segments become few that are large, and what is not needed any more is removed.

Which segments are merged is decided by `plan`, which is pure. A merge keeps every range as it is, running hash
included, and copies rows as columns, never one by one. The new segment is published whole before anything that
it stands for is removed, which waits for the time of grace and for a proof of every byte that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from weft.lineage import clock
from weft.lineage.collector import CollectorPause
from weft.lineage.columns import lowest_versions
from weft.lineage.coverage import Coverage
from weft.lineage.errors import NotFound, StoreDamaged
from weft.lineage.manifest import (
    Piece,
    Segment,
    SegmentFile,
    first_family,
    list_segment_files,
    pieces_of,
    segments_of,
)
from weft.lineage.merging import MergedFile, Source
from weft.lineage.paths import SEGMENTS, incoming_id
from weft.lineage.proofs import Proofs, check_segment_file
from weft.lineage.ranges import Ranges, Spans, settle
from weft.lineage.schema import FAMILIES
from weft.lineage.segments import SegmentWriter
from weft.lineage.storage import Storage

__all__ = ["Candidate", "CompactReport", "compact_segments", "plan"]

#: A segment is merged with others until it has half as many events as this, or this part of all there are:
#: so at most about 100 segments remain, whatever the history.
_EVENTS_MAX = 1_000_000
_PART_OF_ALL = 40

#: Segments of about one size are merged by themselves once there are so many: each event is then written
#: anew once for each such step in size.
_TIER_SEGMENTS = 8
_TIER_EVENTS_MIN = 4_096


#: A segment that lacks files may still be on its way here, from another store: it is a remnant only after a day.
_REMNANT_US = 24 * 3600 * 1_000_000


class Candidate(NamedTuple):
    """A segment that may be merged: how many of its events are read, whether that is all, and when it was made."""

    segment_id: str
    event_count: int
    is_whole: bool
    modified_us: int


class CompactReport(NamedTuple):
    """What compaction did. `left` are files that could not be merged or removed, with the reason."""

    segments_before: int
    segments_after: int
    merged: list[Segment]
    removed: list[str]
    left: list[tuple[str, str]]

    @property
    def event_count(self) -> int:
        return sum(segment.event_count for segment in self.merged)


#: Told as merging goes on: events written so far, and all that are to be written.
Progress = Callable[[int, int], None]


def plan(candidates: Iterable[Candidate], *, is_whole: bool) -> list[list[str]]:
    """The segments to merge, by id: one list for each new segment, oldest first.

    With `is_whole` all that is small is merged, else what has become many of about one size.
    """
    ordered = sorted(candidates, key=lambda candidate: (candidate.modified_us, candidate.segment_id))
    most = max(_EVENTS_MAX, sum(candidate.event_count for candidate in ordered) // _PART_OF_ALL)
    # What is read only in part is written anew in any case, once: what is elsewhere goes.
    small = [c for c in ordered if c.event_count < most // 2 or not c.is_whole]
    if is_whole:
        return _bins(small, most)
    tiers: dict[int, list[Candidate]] = {}
    for candidate in small:
        tier, least = 0, _TIER_EVENTS_MIN
        while candidate.event_count >= least:
            tier, least = tier + 1, least * _TIER_SEGMENTS
        tiers.setdefault(tier, []).append(candidate)
    found = []
    for tier in sorted(tiers):
        if len(tiers[tier]) >= _TIER_SEGMENTS:
            found += _bins(tiers[tier], most)
    return found


def _bins(candidates: Sequence[Candidate], most: int) -> list[list[str]]:
    """Neighbours in age together, up to `most` events; a segment by itself only if it is read in part."""
    bins: list[list[Candidate]] = []
    count = 0
    for candidate in candidates:
        if not bins or count + candidate.event_count > most:
            bins.append([])
            count = 0
        bins[-1].append(candidate)
        count += candidate.event_count
    return [[c.segment_id for c in found] for found in bins if len(found) > 1 or not found[0].is_whole]


def compact_segments(
    storage: Storage,
    known: dict[str, SegmentFile],
    *,
    is_whole: bool,
    grace_s: float,
    progress: Progress | None = None,
) -> CompactReport:
    """Merge what `plan` says, then remove what is not read any more and was not made within the time of grace.

    The caller holds the lock of those who seal and compact. Without `is_whole` at most one new segment is made.
    """
    segments = segments_of(list_segment_files(storage, known))
    pieces = pieces_of(segments)
    report = CompactReport(len(pieces), len(pieces), [], [], [])
    by_id = {piece.segment.segment_id: piece for piece in pieces}
    candidates = storage.at_once(lambda piece: _candidate(storage, piece), pieces)
    groups = plan(candidates, is_whole=is_whole)
    chosen = groups if is_whole else groups[:1]
    total = sum(_kept_count(by_id[segment_id]) for group in chosen for segment_id in group)
    proofs = Proofs(storage)
    for group in chosen:
        try:
            with CollectorPause():
                report.merged.append(_merge(storage, proofs, [by_id[segment_id] for segment_id in group]))
        except StoreDamaged as error:
            report.left.append((_path_of(by_id[group[0]].segment), str(error)))
        except NotFound:
            # Where there are no locks another process may have merged and removed them.
            continue
        if progress is not None:
            progress(report.event_count, total)
    _remove_unread(storage, known, clock.now_us() - int(grace_s * 1_000_000), report)
    after = pieces_of(segments_of(list_segment_files(storage, known)))
    return report._replace(segments_after=len(after))


def _candidate(storage: Storage, piece: Piece) -> Candidate:
    segment = piece.segment
    modified_us = storage.modified_us(_path_of(segment))
    return Candidate(segment.segment_id, _kept_count(piece), piece.only is None, modified_us)


def _kept_count(piece: Piece) -> int:
    return piece.segment.event_count if piece.only is None else piece.only.event_count


def _path_of(segment: Segment) -> str:
    """The file of a segment that is named in messages: that with its ranges, if it is there."""
    first = segment.files.get(first_family(segment.rows))
    return (first or next(iter(segment.files.values()))).path


def _merge(storage: Storage, proofs: Proofs, pieces: Sequence[Piece]) -> Segment:
    """Publish one segment that stands for all of `pieces`. Raises: StoreDamaged, NotFound, StoreUnavailable."""
    segments = [piece.segment for piece in pieces]
    kept = [_kept_ranges(piece) for piece in pieces]
    ranges = Ranges.of({r for found in kept for r in found})
    only: list[Spans | None] = []
    named = [(segment.segment_id, found) for segment, found in zip(segments, kept, strict=True)]
    for segment, found, spans in zip(segments, kept, settle(named), strict=True):
        is_all = spans is None and len(found) == len(segment.ranges)
        only.append(None if is_all else Spans.of(r[:3] for r in found) if spans is None else spans)
    names = {family for segment in segments for family in segment.rows}
    ordered = [*(f for f in FAMILIES if f in names), *sorted(names - set(FAMILIES))]
    sources = {
        family: [
            Source(proofs.prove([segment.files[family]])[0], spans)
            for segment, spans in zip(segments, only, strict=True)
            if family in segment.files
        ]
        for family in ordered
    }
    cuts = _cuts(ranges)
    files = {family: MergedFile(found, cuts) for family, found in sources.items()}
    rows = {family: file.row_count for family, file in files.items() if file.row_count}
    expected = Spans.of(r[:3] for r in ranges).event_count
    if sum(rows.values()) != expected:
        raise StoreDamaged(
            f"The segments {', '.join(_path_of(segment) for segment in segments)} hold {sum(rows.values())} "
            f"events where their ranges say {expected}. Run `weft verify`."
        )
    versions = lowest_versions(segment.versions for segment in segments)
    replaces = sorted(segment.segment_id for segment in segments)
    writer = SegmentWriter(storage, rows, ranges, "compact", replaces, versions)
    for family in rows:
        writer.publish(family, files[family].encode(writer.footer(family)))
    return writer.segment()


def _cuts(ranges: Ranges) -> dict[bytes, list[int]]:
    """Where the ranges of each writer that has several begin and end."""
    found: dict[bytes, list[int]] = {}
    for r in ranges:
        found.setdefault(r.writer, []).extend((r.first_seq, r.last_seq + 1))
    return {writer: sorted(set(cuts)) for writer, cuts in found.items() if len(cuts) > 2}


def _kept_ranges(piece: Piece) -> Ranges:
    """The ranges of which something is read, each of them whole: all its events are here."""
    if piece.only is None:
        return piece.segment.ranges
    return Ranges.of(r for r in piece.segment.ranges if piece.only.meets(*r[:3]))


def _remove_unread(
    storage: Storage, known: dict[str, SegmentFile], newest_us: int, report: CompactReport
) -> None:
    """Remove segments that others stand for, once these are old enough and were proven again."""
    everything = segments_of(list_segment_files(storage, known), with_replaced=True)
    staying = [piece.segment for piece in pieces_of(segments_of(_files_of(everything)))]
    kept_ids = {segment.segment_id for segment in staying}
    replaced = {gone for segment in everything if not segment.missing for gone in segment.replaces}
    incoming = {incoming_id(path) for path in storage.list(SEGMENTS)}
    unread = [
        s
        for s in everything
        if s.segment_id not in kept_ids
        and s.segment_id not in incoming
        and s.has_ranges
        and (not s.missing or s.segment_id in replaced or _newest_us(storage, s) < newest_us - _REMNANT_US)
    ]
    if not unread:
        return
    writers = {writer for segment in unread for writer in segment.ranges.writers()}
    sound = [
        segment.ranges
        for segment in staying
        if not writers.isdisjoint(segment.ranges.writers())
        and _is_old_and_sound(storage, segment, newest_us, report)
    ]
    coverage = Coverage(sound, writers)
    told: dict[tuple[bytes, int, int], bytes] = {
        r[:3]: r.running_hash for ranges in sound for r in ranges.of_writers(writers)
    }
    doomed: list[SegmentFile] = []
    for segment in unread:
        if not all(coverage.holds(*r[:3]) for r in segment.ranges):
            continue
        if any(told.get(r[:3], r.running_hash) != r.running_hash for r in segment.ranges):
            report.left.append((_path_of(segment), "its events are elsewhere with other content"))
            continue
        doomed += segment.files.values()
    # The file with the ranges goes last: as long as any is there, it is known what they were. After a power
    # loss, too: so the others are gone for good before it goes.
    others = [file for file in doomed if not file.footer.has_ranges]
    for file in [*others, *(file for file in doomed if file.footer.has_ranges)]:
        if others and file.footer.has_ranges:
            for folder in sorted({other.path.rpartition("/")[0] for other in others}):
                storage.sync_folder(folder)
            others = []
        storage.delete(file.path)
        known.pop(file.path, None)
        report.removed.append(file.path)


def _files_of(segments: Iterable[Segment]) -> list[SegmentFile]:
    return [file for segment in segments for file in segment.files.values()]


def _newest_us(storage: Storage, segment: Segment) -> int:
    return max(storage.modified_us(file.path) for file in segment.files.values())


def _is_old_and_sound(storage: Storage, segment: Segment, newest_us: int, report: CompactReport) -> bool:
    files = list(segment.files.values())
    try:
        if _newest_us(storage, segment) > newest_us:
            return False
        # Proven anew, whatever was proven before: this is the last moment that the others are there.
        for file in files:
            check_segment_file(storage, file.path, file.digest)
    except NotFound:
        return False
    except StoreDamaged as error:
        report.left.append((_path_of(segment), str(error)))
        return False
    return True
