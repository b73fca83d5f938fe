"""The log: all committed events, from proven segments and from the journals that are not sealed yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from weft.lineage import clock
from weft.lineage.codec import read_payloads
from weft.lineage.collector import CollectorPause
from weft.lineage.coverage import Coverage, Overlaps, uncovered_journals
from weft.lineage.description import read_description
from weft.lineage.errors import NotFound, StoreUnavailable
from weft.lineage.journal import is_closed, is_writer_dead, parse_journal, read_journal
from weft.lineage.journal_events import JournalEvents, Narrowed, Selection
from weft.lineage.manifest import (
    Piece,
    Segment,
    SegmentFile,
    damaged_segment,
    list_segment_files,
    pieces_of,
    segments_of,
)
from weft.lineage.paths import JOURNALS, SEGMENTS, JournalName, incoming_id, journal_name, journal_path
from weft.lineage.projections import is_from_elsewhere
from weft.lineage.proofs import Proofs
from weft.lineage.ranges import Ranges, Spans
from weft.lineage.schema import FAMILIES, Event
from weft.lineage.segments import read_piece
from weft.lineage.storage import Storage, StoredFile
from weft.lineage.upcast import upcast_all

if TYPE_CHECKING:
    from weft.lineage.compaction import CompactReport
    from weft.lineage.sealing import SealReport

__all__ = ["EventLog", "Snapshot", "TidyReport"]

T = TypeVar("T")

#: A journal or segment that is gone when it is read was sealed or compacted since: list again, this often.
_RELIST_MAX = 10


class Snapshot(NamedTuple):
    """All there was at one moment: pieces of segments, and the events of journals that none of them holds.

    The files of the pieces are not proven yet: see `EventLog.prove`.
    """

    pieces: list[Piece]
    tail: list[Event]


class _Open(NamedTuple):
    """A journal of the tail, and which of its writer's events segments hold."""

    path: str
    name: JournalName
    sealed: Spans
    events: JournalEvents


class TidyReport(NamedTuple):
    """What was sealed, what was compacted, and the temporary files that were removed."""

    sealed: SealReport
    compacted: CompactReport
    swept: list[str]


class EventLog:
    """The events of one store. Reading never blocks a writer and never writes.

    With `keeps_tail` journals are read once, for whoever asks several questions in a row.
    """

    def __init__(self, storage: Storage, keeps_tail: bool = False) -> None:
        self.storage = storage
        #: Journals that were found damaged, and where: their events that fail a check are in no answer.
        self.damaged: dict[str, str] = {}
        self._kept: dict[tuple[str, int], JournalEvents] | None = {} if keeps_tail else None
        self._known: dict[str, SegmentFile] = {}
        self.proofs = Proofs(storage)
        self._chunks: dict[str, bytes] = {}

    def events(
        self,
        flow: str | None = None,
        run_id: str | None = None,
        run_uid: bytes | None = None,
        families: Sequence[str] = FAMILIES,
        kinds: Sequence[str] | None = None,
    ) -> list[Event]:
        """The events that match all that is given, by log time, then writer and seq.

        With `kinds` only those of the families' kinds; segments are read for nothing else.

        Raises: StoreDamaged when a segment fails its check. Damage in a journal hides only the frames it hit.
        """

        narrowed = Narrowed(flow, run_id, run_uid)

        def read() -> list[Event]:
            pieces, opened = self._at_hand(narrowed)
            found = self._told(opened, narrowed, Selection(families, kinds))
            for piece in pieces:
                found.extend(read_piece(self.proofs, piece, *narrowed, families, kinds))
            if pieces:  # The tail is in order.
                found.sort(key=_log_order)
            return found

        return self.at_rest(read)

    def events_and_later(
        self,
        families: Sequence[str],
        later: Sequence[str],
        flow: str | None = None,
        run_id: str | None = None,
        run_uid: bytes | None = None,
    ) -> tuple[list[Event], Callable[[], list[Event]]]:
        """As `events`, and a call that gives those of the families `later`, for whom they may turn out not to matter.

        All of them are read and proven now; what lies in journals is made into events by the call, most of the work.
        """
        narrowed = Narrowed(flow, run_id, run_uid)
        are_later = Selection(later)

        def read() -> tuple[list[Event], Callable[[], list[Event]]]:
            pieces, told = self._at_hand(narrowed)
            opened = list(told)
            found = self._told(opened, narrowed, Selection(families))
            sealed: list[Event] = []
            for piece in pieces:
                for event in read_piece(self.proofs, piece, *narrowed, (*families, *later)):
                    (sealed if are_later.has(event.kind) else found).append(event)
            if pieces:
                found.sort(key=_log_order)

            def rest() -> list[Event]:
                with CollectorPause():
                    return sorted(sealed + self._told(opened, narrowed, are_later), key=_log_order)

            return found, rest

        return self.at_rest(read)

    def snapshot(
        self, flow: str | None = None, run_id: str | None = None, run_uid: bytes | None = None
    ) -> Snapshot:
        """What to read: pieces of segments, and the tail narrowed to what is given, by log time.

        Raises: StoreDamaged.
        """

        def read() -> Snapshot:
            narrowed = Narrowed(flow, run_id, run_uid)
            pieces, opened = self._at_hand(narrowed)
            return Snapshot(pieces, self._told(opened, narrowed, Selection(FAMILIES)))

        return self.at_rest(read)

    def unsealed(self, journals: list[tuple[StoredFile, JournalName]]) -> list[Event]:
        """The events of journals whose writers no segment knows, by log time. Raises: NotFound."""
        with CollectorPause():
            return self._told(
                self._opened(journals, Coverage((), ()), Narrowed()), Narrowed(), Selection(FAMILIES)
            )

    def prove(self, files: Iterable[SegmentFile]) -> list[str]:
        """Check segment files before their rows are believed, each once in a process; gives their local paths.

        Raises: StoreDamaged; NotFound when one was compacted away: take another snapshot.
        """
        return self.proofs.prove(files)

    def at_rest(self, read: Callable[[], T]) -> T:
        """What `read` gives, called again as long as files that it wants were sealed or compacted away meanwhile.

        Raises: what `read` raises; StoreUnavailable when that has no end.
        """
        for _ in range(_RELIST_MAX):
            try:
                with CollectorPause():
                    return read()
            except NotFound:
                continue
        raise StoreUnavailable(
            f"The files of {self.storage.url} keep changing while they are read. Try again."
        )

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

        def sealed() -> set[bytes]:
            return {writer for segment in self.segments() for writer in segment.ranges.writers()}

        found = self.at_rest(sealed)
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

    def writers_from_elsewhere(self, writers: Collection[bytes]) -> set[bytes]:
        """Those of `writers` whose run was made in another store and came here since: no lock here tells of them."""
        here = read_description(self.storage).store_id

        def read() -> set[bytes]:
            told: list[Event] = []
            for path in self.storage.list(JOURNALS):
                name = journal_name(path)
                if name is not None and name.writer in writers:
                    told += read_journal(self.storage, path).events
            for piece in pieces_of(self.segments()):
                spans = Spans.of(r[:3] for r in piece.segment.ranges.of_writers(writers))
                if spans:
                    mine = Piece(piece.segment, spans)
                    told += read_piece(self.proofs, mine, families=("run",), kinds=("run_started",))
            return {e.writer for e in told if e.kind == "run_started" and is_from_elsewhere(e, here)}

        return self.at_rest(read)

    def last_seq(self, writer: bytes) -> int:
        """The last seq of a writer that is in the log; -1 when none is."""

        def read() -> int:
            found = [r.last_seq for segment in self.segments() for r in segment.ranges.of_writer(writer)]
            for path in self.storage.list(JOURNALS):
                name = journal_name(path)
                if name is not None and name.writer == writer:
                    found.append(read_journal(self.storage, path).last_seq)
            return max(found, default=-1)

        return self.at_rest(read)

    def seal(self, force: bool = False, grace_s: float | None = None) -> SealReport:
        """Seal closed journals and those of dead writers into segments, and remove what was sealed before.

        Without `force`, little is left until there is more. Of several processes one seals; the others
        return at once. Removal waits `grace_s` seconds, for readers that have listed the journals; it has a
        default of each kind of store.

        Raises: StoreUnavailable.
        """
        # Who only reads needs nothing of this.
        from weft.lineage.sealing import seal_journals

        return seal_journals(self.storage, self._known, force, grace_s)

    def compact(
        self,
        *,
        is_whole: bool = False,
        grace_s: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CompactReport:
        """Merge small segments into large ones, and remove what was merged before.

        With `is_whole` all that is small is merged, else at most one segment is made, of many of about one
        size. Of several processes one compacts; the others return at once. `progress` is told how many events
        were written, of how many.

        Raises: StoreUnavailable.
        """
        from weft.lineage.compaction import CompactReport, compact_segments
        from weft.lineage.sealing import grace_of, take_lock

        lock = take_lock(self.storage) if self.storage.list(SEGMENTS) else None
        if lock is None:
            return CompactReport(0, 0, [], [], [])
        try:
            return compact_segments(
                self.storage,
                self._known,
                is_whole=is_whole,
                grace_s=grace_of(self.storage, grace_s),
                progress=progress,
            )
        except NotFound:
            # Where there are no locks another process may be at the same.
            if self.storage.can_append:
                raise
            return CompactReport(0, 0, [], [], [])
        finally:
            lock.release()

    def tidy(
        self,
        *,
        is_whole: bool = False,
        grace_s: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TidyReport:
        """Seal, compact and sweep: with `is_whole` all there is to do, else what is worth the while of a caller
        who waits for something else.

        Raises: StoreUnavailable.
        """
        from weft.lineage.leftovers import LEFTOVER_S, remove_leftovers

        sealed = self.seal(force=is_whole, grace_s=grace_s)
        compacted = self.compact(is_whole=is_whole, grace_s=grace_s, progress=progress)
        swept = remove_leftovers(self.storage, clock.now_us() - int(LEFTOVER_S * 1_000_000))
        return TidyReport(sealed, compacted, swept)

    def _at_hand(self, narrowed: Narrowed) -> tuple[list[Piece], Iterator[_Open]]:
        """Pieces of segments, and the journals of the tail that may hold what is asked for, read one by one."""
        # Journals are listed first: one that is sealed and removed after that is found to be gone, and one
        # that was removed before is in the segments listed after.
        journals = [(file, name) for file in self.storage.scan(JOURNALS) if (name := journal_name(file.path))]
        names = {name for _, name in journals}
        segments = self._listed()
        if self._unexplained(segments, names):
            # The file with the ranges is published first and removed last: the listing was overtaken. So it
            # was where the last file of a segment came from another store, which is then no longer announced.
            segments = self._listed()
            for path, reason in self._unexplained(segments, names):
                raise damaged_segment(self.storage, path, reason)
        pieces = pieces_of(segments)
        whole = [segment.ranges for segment in segments if not segment.missing]
        coverage = Coverage(whole, {name.writer for _, name in journals})
        if not journals:
            # Nothing is looked up in them before there are others: at 100,000 journals that were sealed they take 9 MB.
            for segment in segments:
                segment.ranges.let_go()
        return pieces, self._opened(journals, coverage, narrowed)

    def _opened(
        self, journals: list[tuple[StoredFile, JournalName]], coverage: Coverage, narrowed: Narrowed
    ) -> Iterator[_Open]:
        uncovered = list(uncovered_journals(self.storage, journals, coverage))
        self._fetch_chunks([path for path, _ in uncovered])
        for path, name in uncovered:
            data = self._chunks[path] if path in self._chunks else self.storage.get(path)
            if narrowed.may_be_in(data):
                yield _Open(path, name, coverage.spans(name.writer), self._journal(path, name, data))

    def _told(self, opened: Iterable[_Open], narrowed: Narrowed, wanted: Selection) -> list[Event]:
        """The wanted events of journals, by log time."""
        overlaps = Overlaps()
        found: list[Event] = []
        for journal in opened:
            told = narrowed.of(overlaps.events_once(journal.name, self._wanted_of(journal, wanted)))
            if journal.sealed:
                told = [event for event in told if not _holds(journal.sealed, event)]
            found += upcast_all(told)
        found.sort(key=_log_order)
        return found

    def _wanted_of(self, journal: _Open, wanted: Selection) -> list[Event]:
        try:
            return journal.events.of(wanted)
        except (ValueError, TypeError):
            # A checksum that is right over what is no event: `scan` says what there is besides.
            path = journal.path
            data = self._chunks[path] if path in self._chunks else self.storage.get(path)
            return JournalEvents(journal.name, self._searched(path, data)).of(wanted)

    def _fetch_chunks(self, paths: Sequence[str]) -> None:
        """Where files cannot grow they never change: keep those of the tail, and fetch the new ones at once."""
        if not self.storage.can_append:
            fresh = [path for path in paths if path not in self._chunks]
            fetched = dict(zip(fresh, self.storage.at_once(self.storage.get, fresh), strict=True))
            self._chunks = {p: fetched[p] if p in fetched else self._chunks[p] for p in paths}

    def _journal(self, path: str, name: JournalName, data: bytes) -> JournalEvents:
        """What a journal's bytes hold that check; where others do not, that is kept in `damaged`."""
        key = (path, len(data))
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        payloads, end = read_payloads(data, name.first_seq)
        found = JournalEvents(name, payloads if end == len(data) else self._searched(path, data))
        if self._kept is not None:
            self._kept[key] = found
        return found

    def _searched(self, path: str, data: bytes) -> list[Event]:
        """The events of a journal that is not whole."""
        content = parse_journal(path, data)
        if content.state == "damaged":
            first = next(problem for problem in content.problems if not problem.is_torn)
            self.damaged[path] = f"at byte {first.offset:,}: {first.reason}"
        return content.events

    def _listed(self) -> list[Segment]:
        return segments_of(list_segment_files(self.storage, self._known))

    def _unexplained(self, segments: list[Segment], journals: set[JournalName]) -> list[tuple[str, str]]:
        """Segments that lack a file, by a path of theirs, and what they lack.

        One is being published or removed, or was cut off so, as long as all of it is elsewhere; and one that
        comes from another store counts when all of it is here.
        """
        partial = [segment for segment in segments if segment.missing]
        if not partial:
            return []
        whole = [segment.ranges for segment in segments if not segment.missing]
        incoming = {incoming_id(path) for path in self.storage.list(SEGMENTS)}
        found = []
        for segment in partial:
            if segment.segment_id in incoming:
                continue
            is_elsewhere = False
            if segment.has_ranges:
                coverage = Coverage(whole, segment.ranges.writers())
                is_elsewhere = all(
                    (r.writer, r.first_seq) in journals or coverage.holds(*r[:3]) for r in segment.ranges
                )
            else:
                is_elsewhere = self._is_copied(segment, journals, whole)
            if not is_elsewhere:
                path = next(iter(segment.files.values())).path
                found.append((path, f"the files of its segment for {', '.join(segment.missing)} are gone"))
        return found

    def _is_copied(self, segment: Segment, journals: set[JournalName], whole: list[Ranges]) -> bool:
        """Whether all that is left of a segment without ranges lies elsewhere.

        They are published first and removed last: a folder that is copied meanwhile may lack them.
        """
        from weft.lineage.sealed import SealedReader

        with SealedReader.opened(self.storage) as reader:
            try:
                spans = list(reader.spans(reader.queries(segment)))
            except (NotFound, reader.error):
                return False
        writers = {writer for writer, _, _ in spans}
        held = [r[:3] for ranges in whole for r in ranges.of_writers(writers)]
        for name in journals:
            if name.writer in writers:
                path = journal_path(name)
                try:
                    found = self._journal(path, name, self.storage.get(path))
                    told = self._wanted_of(_Open(path, name, Spans(), found), Selection(FAMILIES))
                    seqs = [event.seq for event in told]
                except NotFound:
                    continue
                held += [(name.writer, min(seqs), max(seqs))] if seqs else []
        covered = Spans.of(held)
        return all(covered.holds(*span) for span in spans)


def _holds(spans: Spans, event: Event) -> bool:
    return spans.holds(event.writer, event.seq, event.seq)


def _log_order(event: Event) -> tuple[int, bytes, int]:
    return event.time_us, event.writer, event.seq
