"""The log: all committed events, from proven segments and from the journals that are not sealed yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from weft.lineage.collector import CollectorPause
from weft.lineage.errors import NotFound, StoreUnavailable
from weft.lineage.events import FAMILIES, Event, family_of
from weft.lineage.journal import is_closed, is_writer_dead, parse_journal
from weft.lineage.manifest import (
    Piece,
    Segment,
    SegmentFile,
    damaged_segment,
    is_covered,
    list_segment_files,
    pieces_of,
    segments_of,
)
from weft.lineage.paths import JOURNALS, journal_name
from weft.lineage.sealing import SealReport, seal_journals
from weft.lineage.segments import check_segment_file, read_piece
from weft.lineage.storage import Storage
from weft.lineage.upcast import upcast_all

__all__ = ["EventLog", "Snapshot"]

#: A journal or segment that is gone when it is read was sealed or compacted since: list again, this often.
_RELIST_MAX = 10


class Snapshot(NamedTuple):
    """All there was at one moment: pieces of proven segments, and the events of journals that none of them holds."""

    pieces: list[Piece]
    tail: list[Event]


class EventLog:
    """The events of one store. Reading never blocks a writer and never writes."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._known: dict[str, SegmentFile] = {}
        self._proven: set[str] = set()

    def events(
        self,
        flow: str | None = None,
        run_id: str | None = None,
        run_uid: bytes | None = None,
        families: Sequence[str] = FAMILIES,
    ) -> list[Event]:
        """The events that match all that is given, by log time, then writer and seq.

        Raises: StoreDamaged when a segment fails its check. Damage in a journal hides only the frames it hit.
        """

        def read() -> list[Event]:
            snapshot = self._snapshot(flow, run_id, run_uid)
            found = [event for event in snapshot.tail if family_of(event.kind) in families]
            for piece in snapshot.pieces:
                found.extend(read_piece(self.storage, piece, flow, run_id, run_uid, families))
            found.sort(key=_log_order)
            return found

        for _ in range(_RELIST_MAX):
            try:
                with CollectorPause():
                    return read()
            except NotFound:
                continue
        raise self._never_still()

    def snapshot(
        self, flow: str | None = None, run_id: str | None = None, run_uid: bytes | None = None
    ) -> Snapshot:
        """What to read: proven pieces of segments, and the tail narrowed to what is given, by log time.

        Raises: StoreDamaged.
        """
        for _ in range(_RELIST_MAX):
            try:
                with CollectorPause():
                    return self._snapshot(flow, run_id, run_uid)
            except NotFound:
                continue
        raise self._never_still()

    def segments(self) -> list[Segment]:
        """The segments that are whole and not replaced by others."""
        return [s for s in segments_of(list_segment_files(self.storage, self._known)) if not s.missing]

    def open_journals(self) -> list[str]:
        """The journals that were not ended in good order: their writers are at work, or died."""
        found = []
        for path in self.storage.list(JOURNALS):
            try:
                if journal_name(path) is not None and not is_closed(self.storage, path):
                    found.append(path)
            except NotFound:
                continue
        return found

    def dead_writers(self) -> set[bytes]:
        """Writers that append no more: sealed, ended in good order, or proven gone. A run of theirs that has
        not ended was lost. Where files cannot grow nobody can be seen: a lease alone says who lives."""
        if not self.storage.can_append:
            return set()
        found = {r.writer for segment in self.segments() for r in segment.ranges}
        for path in self.storage.list(JOURNALS):
            name = journal_name(path)
            if name is not None:
                found.add(name.writer)
        return found - self.live_writers()

    def live_writers(self) -> set[bytes]:
        """Writers with a journal that is not ended and whose lock is held, or proves nothing here."""
        if not self.storage.can_append:
            return set()
        found = set()
        for path in self.open_journals():
            name = journal_name(path)
            if name is not None and not is_writer_dead(self.storage, path):
                found.add(name.writer)
        return found

    def seal(self, force: bool = False, grace_s: float | None = None) -> SealReport:
        """Seal closed journals and those of dead writers into segments, and remove what was sealed before.

        Without `force`, little is left until there is more. Of several processes one seals; the others
        return at once. Removal waits `grace_s` seconds, for readers that have listed the journals; it has a
        default of each kind of store.

        Raises: StoreUnavailable.
        """
        return seal_journals(self.storage, self._known, force, grace_s)

    def _snapshot(self, flow: str | None, run_id: str | None, run_uid: bytes | None) -> Snapshot:
        # Journals are listed first: one that is sealed and removed after that is found to be gone, and one
        # that was removed before is in the segments listed after.
        journals = self.storage.list(JOURNALS)
        segments = segments_of(list_segment_files(self.storage, self._known))
        self._check_none_missing(segments, journals)
        pieces = pieces_of(segments)
        for piece in pieces:
            for file in piece.segment.files.values():
                if file.path not in self._proven:
                    check_segment_file(self.storage, file.path, file.digest)
                    self._proven.add(file.path)
        whole = [segment for segment in segments if not segment.missing]
        tail = list(self._tail(journals, whole, flow, run_id, run_uid))
        tail.sort(key=_log_order)
        return Snapshot(pieces, tail)

    def _tail(
        self,
        journals: list[str],
        segments: list[Segment],
        flow: str | None,
        run_id: str | None,
        run_uid: bytes | None,
    ) -> Iterator[Event]:
        ranges = [r for segment in segments for r in segment.ranges]
        # A value is stored in a frame as its plain bytes: a file without them is of no interest.
        needles = [text.encode("utf-8", "backslashreplace") for text in (flow, run_id) if text is not None]
        needles += [] if run_uid is None else [run_uid]
        for path in journals:
            name = journal_name(path)
            if name is None:
                continue
            mine = [r for r in ranges if r.writer == name.writer]
            if mine and is_covered(mine, name.writer, name.first_seq, self.storage.size(path)):
                continue
            data = self.storage.get(path)
            if not all(needle in data for needle in needles):
                continue
            for event in upcast_all(parse_journal(path, data).events):
                if (
                    (run_uid is None or event.run_uid == run_uid)
                    and (run_id is None or event.run_id == run_id)
                    and (flow is None or event.flow == flow)
                    and not any(r.first_seq <= event.seq <= r.last_seq for r in mine)
                ):
                    yield event

    def _check_none_missing(self, segments: list[Segment], journals: list[str]) -> None:
        """A segment that lacks a file is being published, or was cut off so, as long as its journals are there."""
        ranges = [r for segment in segments if not segment.missing for r in segment.ranges]
        names = {journal_name(path) for path in journals}
        for segment in segments:
            for r in segment.ranges if segment.missing else ():
                is_elsewhere = is_covered(ranges, r.writer, r.first_seq, r.size_bytes)
                if not is_elsewhere and (r.writer, r.first_seq) not in names:
                    path = next(iter(segment.files.values())).path
                    families = ", ".join(segment.missing)
                    raise damaged_segment(
                        self.storage, path, f"the files of its segment for {families} are gone"
                    )

    def _never_still(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"The files of {self.storage.url} keep changing while they are read. Try again."
        )


def _log_order(event: Event) -> tuple[int, bytes, int]:
    return event.time_us, event.writer, event.seq
