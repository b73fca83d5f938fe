"""Events and their objects from one store to another: what `weft push` and `weft pull` do.

The target gets the union of both sets of events. Nothing there is replaced or appended to, every file is
checked before it is put, and objects go before the events that name them: so a transfer may be broken off
anywhere and repeated, and several may go on at once.

Segments travel as they are. So do journals that are closed; of an open one the whole frames it has so far are
put as a file of their own, named by the first seq that the target lacks. Where that name is taken, or a part
of a closed journal is there already, what is missing is sealed into a segment on the way.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from weft.lineage.collector import CollectorPause
from weft.lineage.columns import Columns
from weft.lineage.coverage import Coverage, uncovered_journals
from weft.lineage.description import create_store, read_description
from weft.lineage.errors import NotFound, StoreConflict, StoreDamaged, StoreUnavailable, UsageError
from weft.lineage.holdings import Holdings, coverage_of, holdings_of, spans_of
from weft.lineage.ids import digest_to_text
from weft.lineage.journal import JournalContent, parse_journal
from weft.lineage.manifest import Piece, Segment, pieces_of
from weft.lineage.memory import MemoryStorage
from weft.lineage.paths import OBJECTS, JournalName, incoming_path, journal_path, object_path
from weft.lineage.proofs import Proofs
from weft.lineage.ranges import Range, Ranges
from weft.lineage.schema import Event
from weft.lineage.sealed import SealedReader
from weft.lineage.segments import raise_if_gone, write_segment
from weft.lineage.storage import Storage, get_many
from weft.lineage.wanted import Wanted

__all__ = ["Left", "TransferReport", "Watch", "transfer"]

#: Files that are gone when they are read were sealed or compacted since: the pass begins anew, this often.
_PASSES_MAX = 10

#: Objects that travel at once, where each has to wait for a distant store.
_THREADS = 8

_FILE_ADVICE = "Put the file back from a copy of the store, then repeat this."
_OBJECT_ADVICE = "Put the object back from a copy of the store or run the task again, then repeat this."


class Left(NamedTuple):
    """What did not travel: a file of the source, why, and what to do about it."""

    path: str
    reason: str
    advice: str


class TransferReport(NamedTuple):
    """What was put at the target, and what could not be. A journal counts once, however many files it became."""

    events: int
    segments: int
    journals: int
    objects: int
    size_bytes: int
    left: list[Left]

    @property
    def is_complete(self) -> bool:
        return not self.left


class Watch(Protocol):
    """Somebody who watches long work."""

    def begin(self, what: str, size_bytes: int) -> None:
        """So many bytes of "objects", "segments" or "journals" are going to be sent."""

    def advance(self, size_bytes: int) -> None: ...


class _Nobody:
    def begin(self, what: str, size_bytes: int) -> None:
        """Nobody looks."""

    def advance(self, size_bytes: int) -> None:
        """Nobody looks."""


def transfer(source: Storage, target: Storage, watch: Watch | None = None) -> TransferReport:
    """Bring all events of `source` that `target` lacks there, with the objects they need.

    A target without a store becomes one. What is damaged stays where it is and is reported; the rest travels.

    Raises: NotFound when there is no store at `source`; UsageError when both are the same; StoreError.
    """
    read_description(source)
    if _is_same(source, target):
        raise UsageError(f"{target.url} is this store itself. Name another one.")
    create_store(target)
    moving = _Transfer(source, target, watch or _Nobody())
    for _ in range(_PASSES_MAX):
        try:
            with CollectorPause():
                return moving.run()
        except (NotFound, StoreConflict):
            # Sealed or compacted meanwhile, or another transfer put the same: look again.
            continue
    raise StoreUnavailable(f"The files of {source.url} keep changing while they are read. Try again.")


def _is_same(source: Storage, target: Storage) -> bool:
    here, there = source.local_path(""), target.local_path("")
    if here is not None and there is not None:
        return os.path.realpath(here) == os.path.realpath(there)
    # The name of a store in memory is no place.
    return source is target or (source.url == target.url and not source.can_append)


class _Hot(NamedTuple):
    """A journal with events that the target lacks, as long as it was when it was looked at."""

    path: str
    name: JournalName
    size_bytes: int


class _Transfer:
    """One transfer; `run` is repeated until nothing came in its way, and counts go on."""

    def __init__(self, source: Storage, target: Storage, watch: Watch) -> None:
        self._source = source
        self._target = target
        self._watch = watch
        self._left: dict[str, Left] = {}
        self._late: list[tuple[str, Range, list[Event]]] = []
        self._events = self._segments = self._journals = self._objects = self._size_bytes = 0

    def run(self) -> TransferReport:
        """Send what the target lacks now. Raises: NotFound, StoreConflict: run it again."""
        self._left.clear()
        self._late.clear()
        own, there = holdings_of(self._source), holdings_of(self._target)
        self._end_announcements(there)
        segments = self._travelling(own, there)
        wanted = Wanted(self._source, own.objects, there.objects)
        with SealedReader.opened(self._source) as reader:
            sound = [segment for segment in segments if self._is_sound(reader, segment, wanted)]
        self._note_unreadable(own)
        writers = {name.writer for _, name in own.journals}
        held = coverage_of(self._target, there._replace(segments=[*there.segments, *sound]), writers)
        damaged = {segment.segment_id for segment in segments} - {segment.segment_id for segment in sound}
        kept = [segment.ranges for segment in own.segments if segment.segment_id not in damaged]
        hot = self._hot(own, Coverage(kept, writers), held, wanted)
        if own.objects.keys() - there.objects.keys() - wanted.digests:
            self._look_for_earlier_needs(own, damaged, wanted)
        self._send_objects(own, there, wanted)
        self._send_segments(sound, {path for path, _ in there.damaged})
        self._send_journals(hot, held)
        left = [self._left[path] for path in sorted(self._left)]
        return TransferReport(
            self._events, self._segments, self._journals, self._objects, self._size_bytes, left
        )

    # What is to travel

    def _end_announcements(self, there: Holdings) -> None:
        """A transfer that was broken off at its very end leaves a segment announced that is whole."""
        whole = {segment.segment_id for segment in there.segments}
        for segment_id in there.incoming:
            if segment_id in whole:
                self._target.delete(incoming_path(segment_id))

    def _travelling(self, own: Holdings, there: Holdings) -> list[Segment]:
        held_ids = {segment.segment_id for segment in there.segments}
        candidates = [p.segment for p in pieces_of(own.segments) if p.segment.segment_id not in held_ids]
        writers = {writer for segment in candidates for writer in segment.ranges.writers()}
        held = coverage_of(self._target, there, writers)
        return [s for s in candidates if not all(held.holds(*r[:3]) for r in s.ranges)]

    def _is_sound(self, reader: SealedReader, segment: Segment, wanted: Wanted) -> bool:
        """Prove a segment, and note what objects its events need."""
        try:
            self._ask(reader, Piece(segment, None), wanted, is_known=False)
        except StoreDamaged as error:
            path = next(iter(segment.files.values())).path
            self._leave(path, _first_sentence(error), _FILE_ADVICE)
            return False
        return True

    def _ask(self, reader: SealedReader, piece: Piece, wanted: Wanted, *, is_known: bool) -> None:
        """Note what the events of a segment need, once it is proven. Raises: StoreDamaged, NotFound."""
        files = piece.segment.files.values()
        paths = Proofs(self._source).prove(files)
        try:
            queries = reader.queries(piece.segment, piece.only)
            wanted.add_sealed(reader.connection, queries, is_known=is_known)
        except reader.error as error:
            raise_if_gone(paths, error)
            path = next(iter(files)).path
            raise StoreDamaged(f"DuckDB cannot read {path}: {error}. Run `weft verify`.") from error

    def _note_unreadable(self, own: Holdings) -> None:
        for path, reason in own.damaged:
            self._leave(path, _first_sentence(reason), _FILE_ADVICE)
        for segment in own.partial:
            if segment.segment_id in own.incoming or self._is_elsewhere(segment, own):
                continue
            path = next(iter(segment.files.values())).path
            reason = f"The files of its segment for {', '.join(segment.missing)} are gone"
            self._leave(path, reason, _FILE_ADVICE)

    def _is_elsewhere(self, segment: Segment, own: Holdings) -> bool:
        """Whether a segment that lacks files is being published, or was cut off so."""
        if not segment.has_ranges:
            return False
        coverage = Coverage([whole.ranges for whole in own.segments], segment.ranges.writers())
        names = {name for _, name in own.journals}
        return all((r.writer, r.first_seq) in names or coverage.holds(*r[:3]) for r in segment.ranges)

    def _hot(self, own: Holdings, sealed: Coverage, held: Coverage, wanted: Wanted) -> list[_Hot]:
        found = []
        for path, name in uncovered_journals(self._source, own.journals, sealed):
            data = self._source.get(path)
            content = parse_journal(path, data)
            if content.state == "damaged":
                problem = next(problem for problem in content.problems if not problem.is_torn)
                self._leave(path, f"It is damaged at byte {problem.offset:,}: {problem.reason}", _FILE_ADVICE)
            elif not all(held.holds(*span) for span in spans_of(content.events)):
                wanted.add(content.events, is_known=False)
                found.append(_Hot(path, name, len(data)))
        return found

    def _look_for_earlier_needs(self, own: Holdings, damaged: set[str], wanted: Wanted) -> None:
        """An object may have come back to the source after the events that need it had travelled."""
        with SealedReader.opened(self._source) as reader:
            for piece in pieces_of(own.segments):
                if piece.segment.segment_id not in damaged:
                    try:
                        self._ask(reader, piece, wanted, is_known=True)
                    except StoreDamaged as error:
                        path = next(iter(piece.segment.files.values())).path
                        self._leave(path, _first_sentence(error), _FILE_ADVICE)
        for file, _ in own.journals:
            wanted.add(parse_journal(file.path, self._source.get(file.path)).events, is_known=True)

    # Sending

    def _send_objects(self, own: Holdings, there: Holdings, wanted: Wanted) -> None:
        for missing in wanted.missing():
            others = missing.needed_by - len(missing.pathspecs)
            shown = ", ".join(missing.pathspecs) + (f" and {others} more" if others > 0 else "")
            reason = f"Object {digest_to_text(missing.digest)} is missing, which {shown} need"
            self._leave(object_path(missing.digest), reason, _OBJECT_ADVICE)
        if wanted.unnamed_count:
            self._leave(OBJECTS, f"{wanted.unnamed_count:,} more objects are missing", _OBJECT_ADVICE)
        lacking = sorted(wanted.digests - there.objects.keys())
        for digest in wanted.digests & there.objects.keys():
            # A collector there leaves it alone from now on; one that was quicker has it sent.
            if not self._target.refresh(object_path(digest)):
                lacking.append(digest)
        self._watch.begin("objects", sum(own.objects[digest] for digest in lacking))
        is_near = self._source.can_append and self._target.can_append
        for digest, size_bytes in zip(lacking, _each(self._send_object, lacking, is_near), strict=True):
            self._watch.advance(own.objects[digest])
            if size_bytes is None:
                reason = "Its bytes are others than its name says"
                self._leave(object_path(digest), reason, _OBJECT_ADVICE)
            else:
                self._objects += 1
                self._size_bytes += size_bytes

    def _send_object(self, digest: bytes) -> int | None:
        """Its size in bytes; None when it is damaged."""
        path = object_path(digest)
        with _Content(self._source, path) as data:
            if hashlib.sha256(data).digest() != digest:
                return None
            self._target.put(path, data)
            return len(data)

    def _send_segments(self, segments: list[Segment], damaged: set[str]) -> None:
        self._watch.begin("segments", sum(segment.size_bytes for segment in segments))
        for segment in segments:
            if self._send_segment(self._source, segment, damaged):
                self._segments += 1
                self._events += segment.event_count
            self._watch.advance(segment.size_bytes)

    def _send_segment(self, source: Storage, segment: Segment, damaged: set[str]) -> bool:
        """Put the files of a segment, announced as long as some are lacking: readers pass it over till then."""
        files = list(segment.files.values())
        contents = get_many(source, [file.path for file in files])
        for file, data in zip(files, contents, strict=True):
            if data is None:
                raise NotFound(f"{file.path} is gone. Look again.")
            if hashlib.sha256(data).digest() != file.digest:
                self._leave(file.path, "Its bytes are others than its name says", _FILE_ADVICE)
                return False
        announcement = incoming_path(segment.segment_id)
        self._target.put(announcement, b"")
        for file, data in zip(files, contents, strict=True):
            assert data is not None
            if file.path in damaged or not self._target.exists(file.path):
                self._target.put(file.path, data)
                self._size_bytes += len(data)
        self._target.delete(announcement)
        return True

    def _send_journals(self, hot: list[_Hot], held: Coverage) -> None:
        self._watch.begin("journals", sum(journal.size_bytes for journal in hot))
        sent: set[tuple[bytes, int]] = set()
        for journal in hot:
            data = self._source.read_range(journal.path, 0, journal.size_bytes)
            content = parse_journal(journal.path, data)
            lacking = [
                event
                for event in content.events
                if not held.holds(event.writer, event.seq, event.seq)
                and (event.writer, event.seq) not in sent
            ]
            self._send_journal(journal, content, data, lacking)
            sent.update((event.writer, event.seq) for event in lacking)
            self._journals += 1
            self._events += len(lacking)
            self._watch.advance(journal.size_bytes)
        if self._late:
            self._send_late()

    def _send_journal(
        self, journal: _Hot, content: JournalContent, data: bytes, lacking: list[Event]
    ) -> None:
        """Put the frames of events that follow each other as one file; what cannot be a file becomes late."""
        ends = _ends_of(data, content)
        for _, first, last in spans_of(lacking):
            is_cut = content.state == "closed" and (first, last) != (journal.name.first_seq, content.last_seq)
            path = journal_path(JournalName(journal.name.writer, first))
            if is_cut or self._target.exists(path):
                # The closing frame has the hash of a whole file; and a file that is there is not replaced.
                self._note_late(journal, content, data, (first, last))
                continue
            part = data[ends[first - 1] : ends[last]]
            self._target.create_exclusive(path, part)
            self._size_bytes += len(part)

    def _note_late(self, journal: _Hot, content: JournalContent, data: bytes, span: tuple[int, int]) -> None:
        if content.state == "closed":
            r = Range(*journal.name, content.last_seq, content.running_hash, len(data))
            if all(path != journal.path for path, _, _ in self._late):
                self._late.append((journal.path, r, content.events))
            return
        first, last = span
        ends = _ends_of(data, content)
        part = data[ends[first - 1] : ends[last]]
        r = Range(journal.name.writer, first, last, hashlib.sha256(part).digest(), len(part))
        self._late.append((journal.path, r, [e for e in content.events if first <= e.seq <= last]))

    def _send_late(self) -> None:
        """Seal what is late, here, and send it as a segment."""
        columns = Columns()
        try:
            for _, r, told in self._late:
                columns.add(r.writer, [list(event[1:]) for event in told])
            tables = columns.tables()
        except (ValueError, TypeError, OverflowError) as error:
            for path, _, _ in self._late:
                self._leave(path, f"An event does not fit its columns: {error}", _FILE_ADVICE)
            return
        ranges = Ranges.of(r for _, r, _ in self._late)
        workshop = MemoryStorage()
        segment = write_segment(workshop, tables, ranges, "seal", versions=columns.versions)
        self._send_segment(workshop, segment, set())

    def _leave(self, path: str, reason: str, advice: str) -> None:
        self._left.setdefault(path, Left(path, reason, advice))


class _Content:
    """The bytes of a file, mapped where it is local: an object may be larger than memory."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._map: mmap.mmap | None = None

    def __enter__(self) -> Any:
        local = self._storage.local_path(self._path)
        if local is None or self._storage.size(self._path) == 0:
            return self._storage.get(self._path)
        try:
            with open(local, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:
            return self._storage.get(self._path)
        return memoryview(self._map)

    def __exit__(self, *_: object) -> None:
        """The map goes with the last view of it."""
        self._map = None


def _each(function: Callable[[bytes], int | None], items: list[bytes], is_near: bool) -> Iterator[int | None]:
    """The results of a function, in order; several at once where each has to wait for a distant store."""
    if is_near or len(items) < 2:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_THREADS, "weft-transfer") as pool:
        try:
            yield from pool.map(function, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ends_of(data: bytes, content: JournalContent) -> dict[int, int]:
    """Where the frame of each seq ends; and, for what comes before the first, where that begins."""
    from weft.lineage.codec import HEADER_BYTES

    ends = {content.name.first_seq - 1: 0}
    end = 0
    for event in content.events:
        end += HEADER_BYTES + int.from_bytes(data[end : end + 4], "little")
        ends[event.seq] = end
    return ends


def _first_sentence(error: object) -> str:
    return str(error).partition(". ")[0]
