"""Proof that a store is sound: every frame, every segment and every object is read and checked."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from weft.lineage.collector import CollectorPause
from weft.lineage.coverage import Coverage
from weft.lineage.damage import damage_of
from weft.lineage.errors import NotFound, StoreDamaged, StoreError, StoreTooNew, StoreUnavailable
from weft.lineage.ids import digest_to_text
from weft.lineage.journal import JournalContent, is_writer_dead, read_journal
from weft.lineage.leftovers import leftovers
from weft.lineage.manifest import Piece, Segment, SegmentFile, pieces_of, read_segment_file, segments_of
from weft.lineage.needs import Needs
from weft.lineage.objects import sha256_of
from weft.lineage.paths import (
    JOURNALS,
    OBJECTS,
    SEGMENTS,
    JournalName,
    digest_of_object,
    incoming_id,
    journal_name,
    object_path,
    segment_name,
)
from weft.lineage.proofs import check_segment_file
from weft.lineage.ranges import Ranges, Spans
from weft.lineage.replays import replay
from weft.lineage.sealed import SealedReader, undecodable
from weft.lineage.storage import Storage, StoredFile

__all__ = ["Problem", "Report", "verify"]

_FILE_ADVICE = "Put the file back from a copy of the store."
_GAP_ADVICE = "Put the missing journal or segment back from a copy of the store."
_TWICE_ADVICE = "Keep the copy you trust and move the other out of the store."
_OBJECT_ADVICE = "Put the file back from a copy of the store, or run the task again."
_FRAME_ADVICE = "Put the file back from a copy of the store; the frames that are whole stay readable."
_INCOMING_ADVICE = "Repeat the push or pull that was broken off."
_COPIED_ADVICE = "If this store is a copy of a folder, copy once more over it; else nothing is to be done."
_UNREADABLE_ADVICE = "Make the file readable, then verify again."
_VALUE_ADVICE = (
    "Its bytes are what was recorded: load it with the versions that wrote it, or run the task again."
)
_TORN_ADVICE = "Nothing is to be done: this was never acknowledged."

#: Runs that are named of those that a damaged file belongs to.
_NAMED_MAX = 5

#: Objects that are hashed between two looks at the clock of progress: where reading is far, several at once.
_OBJECTS_AT_ONCE = 64

#: Working out the hashes of events takes so many times as long as reading them.
_DEEP_COST = 50

#: A range of one writer as it is compared with others: first seq, last seq, running hash, number of its place.
_CLAIM = struct.Struct(">16sQQ32sI")


class Problem(NamedTuple):
    """One finding: where it is (offset and length in bytes, None for the whole file), what it affects, what to do.

    A torn end is reported but the store is sound with it.
    """

    path: str
    offset: int | None
    length: int | None
    reason: str
    affected: str
    advice: str
    is_torn: bool = False


class Report(NamedTuple):
    """What was checked, and what was found. The store is sound when nothing but torn ends was found.

    `leftovers` are temporary files of writes that go on or were cut off: they harm nothing. `value_count` is
    how many values were decoded, which only a deep check does.
    """

    problems: list[Problem]
    journal_count: int
    segment_file_count: int
    object_count: int
    event_count: int
    leftovers: tuple[str, ...] = ()
    value_count: int = 0

    @property
    def is_sound(self) -> bool:
        return all(problem.is_torn for problem in self.problems)


class _Journal(NamedTuple):
    """What is kept of a journal once it was read."""

    path: str
    name: JournalName
    seqs: range | list[int]
    running_hash: bytes
    needs: Needs

    @property
    def last_seq(self) -> int:
        return self.seqs[-1] if self.seqs else self.name.first_seq - 1

    def spans(self) -> list[tuple[bytes, int, int]]:
        if isinstance(self.seqs, range) and self.seqs:
            return [(self.name.writer, self.seqs[0], self.seqs[-1])]
        return [(self.name.writer, seq, seq) for seq in self.seqs]


def verify(
    storage: Storage, *, is_deep: bool = False, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Read all of a store and check it; nothing is written.

    CRC of every frame, running hash of every closed journal, sha256 of every segment file and object,
    gaps and contradictions between ranges, and objects that events name but nobody has. With `is_deep`
    also the running hash of every sealed journal, from its events, and whether every value but pickles can
    be decoded. `progress` is told how much was done, of how much.

    Raises: StoreUnavailable; StoreTooNew when a segment is of a later format.
    """
    return _Verification(storage, is_deep, progress).run()


class _Verification:
    """One pass over a store. Journals are read first: what is sealed meanwhile is found in segments then."""

    def __init__(self, storage: Storage, is_deep: bool, progress: Callable[[int, int], None] | None) -> None:
        self._storage = storage
        self._is_deep = is_deep
        self._progress = progress
        self._problems: list[Problem] = []
        self._damaged: set[str] = set()
        self._objects: dict[bytes, int] = {}
        self._proven: dict[str, list[SegmentFile]] = {}
        self._read_bytes = self._all_bytes = 0
        self._events_cost = _DEEP_COST if is_deep else 1
        self._value_count = 0

    def run(self) -> Report:
        places = (JOURNALS, SEGMENTS, OBJECTS)
        sizes = {place: sum(file.size_bytes for file in self._storage.scan(place)) for place in places}
        self._all_bytes = sum(sizes.values()) + sizes[SEGMENTS] * self._events_cost
        journals = list(self._check_journals())
        files = self._check_segment_files()
        segments = segments_of(files)
        self._check_missing_files(segments, journals)
        self._check_ranges(segments, journals)
        # Objects come after the events that name them: those were there before.
        self._check_objects()
        event_count = self._check_events(segments, journals)
        temporary = tuple(file.path for file in leftovers(self._storage))
        return Report(
            self._problems,
            len(journals),
            len(files),
            len(self._objects),
            event_count,
            temporary,
            self._value_count,
        )

    def _files(self, folder: str, named: Callable[[str], object]) -> Iterator[StoredFile]:
        """The files of a folder that bear one of our names; one that cannot be read is a finding."""
        for file in self._storage.scan(folder):
            if self._progress is not None:
                self._progress(self._read_bytes, self._all_bytes)
            self._read_bytes += file.size_bytes
            if named(file.path) is not None:
                yield file

    def _advance(self, size_bytes: int) -> None:
        self._read_bytes += size_bytes
        if self._progress is not None:
            self._progress(self._read_bytes, self._all_bytes)

    def _unreadable(self, path: str, error: StoreError) -> None:
        self._add(path, None, None, f"it cannot be read: {error}", "what it holds", _UNREADABLE_ADVICE)

    def _add(
        self, path: str, offset: int | None, length: int | None, reason: str, affected: str, advice: str
    ) -> None:
        self._problems.append(Problem(path, offset, length, reason, affected, advice))

    # Journals

    def _check_journals(self) -> Iterator[_Journal]:
        for path, _, _ in self._files(JOURNALS, journal_name):
            try:
                with CollectorPause():
                    yield self._check_journal(read_journal(self._storage, path))
            except NotFound:
                # Sealed and removed since it was listed.
                continue
            except StoreError as error:
                self._unreadable(path, error)

    def _check_journal(self, content: JournalContent) -> _Journal:
        path = content.path
        is_at_work = self._storage.locks_prove_death and not is_writer_dead(self._storage, path)
        for flaw in content.problems:
            if flaw.is_torn:
                # A writer at work is in the middle of a write.
                if not is_at_work:
                    affected = "nothing that was acknowledged"
                    self._problems.append(
                        Problem(path, flaw.offset, flaw.length, flaw.reason, affected, _TORN_ADVICE, True)
                    )
                continue
            affected = f"events{_of_runs(content)} from byte {flaw.offset} on"
            self._add(path, flaw.offset, flaw.length, flaw.reason, affected, _FRAME_ADVICE)
        first, last = content.name.first_seq, content.last_seq
        seqs: range | list[int] = range(first, last + 1)
        if len(seqs) != len(content.events):
            seqs = [event.seq for event in content.events]
        needs = Needs()
        needs.take(content.events)
        return _Journal(path, content.name, seqs, content.running_hash, needs)

    # Segments

    def _check_segment_files(self) -> list[SegmentFile]:
        """The files that are what their names say."""
        found = []
        failed = []
        for path, size, _ in self._files(SEGMENTS, segment_name):
            name = segment_name(path)
            assert name is not None, "only files of such names are looked at"
            try:
                # The name says what the bytes are: proven before a byte of the footer is believed.
                check_segment_file(self._storage, path, name.digest)
                file = read_segment_file(self._storage, path, name, size)
                found.append(file)
                self._proven.setdefault(file.footer.segment_id, []).append(file)
            except NotFound:
                # Compacted since it was listed.
                continue
            except StoreTooNew:
                # Its bytes are right, and what they hold is not for this version to say.
                raise
            except StoreDamaged:
                failed.append((path, name.family))
            except StoreError as error:
                self._unreadable(path, error)
        for path, family in failed:
            self._add_damage(path, family)
        return found

    def _add_damage(self, path: str, family: str) -> None:
        self._damaged.add(family)
        try:
            damage, footer = damage_of(self._storage, path)
        except NotFound:
            return
        affected = f"the {family} events in it"
        if footer is not None:
            affected = f"its {footer.rows.get(family, 0)} {family} events"
            runs = self._runs_of(footer.segment_id)
            affected += f", of {', '.join(runs)}" if runs else ""
        reason = f"its bytes have another sha256 than its name says; what fails first is {damage.what}"
        self._add(path, damage.offset, damage.length, reason, affected, _FILE_ADVICE)

    def _runs_of(self, segment_id: str) -> list[str]:
        """Some of the runs in a segment, as its sound files tell."""
        found: list[str] = []
        files = {file.footer.family: file for file in self._proven.get(segment_id, ())}
        if files:
            footer = next(iter(files.values())).footer
            segment = Segment(segment_id, files, footer.rows, footer.ranges, footer.why, (), {})
            with SealedReader.opened(self._storage) as reader:
                for query in reader.queries(segment).values():
                    found += [run for run in reader.runs(query, _NAMED_MAX) if run not in found]
        return [*found[:_NAMED_MAX], *(["and more"] if len(found) >= _NAMED_MAX else [])]

    def _check_missing_files(self, segments: list[Segment], journals: list[_Journal]) -> None:
        """A segment that lacks a file is damaged, unless its events are elsewhere: its publisher was cut off."""
        partial = [segment for segment in segments if segment.missing]
        if not partial:
            return
        names = {journal.name for journal in journals}
        whole = [segment.ranges for segment in segments if not segment.missing]
        cut = [segment for segment in partial if not segment.has_ranges]
        copied = self._held_elsewhere(cut, journals, whole) if cut else set()
        incoming = {incoming_id(path) for path in self._storage.list(SEGMENTS)}
        for segment in partial:
            families = [family for family in segment.missing if family not in self._damaged]
            path = next(iter(segment.files.values())).path
            if families and segment.segment_id in incoming:
                reason = f"the files of its segment for {', '.join(families)} were not brought here yet"
                affected = "no event that was here"
                self._problems.append(Problem(path, None, None, reason, affected, _INCOMING_ADVICE, True))
            elif families and segment.segment_id in copied:
                reason = f"the files of its segment for {', '.join(families)} are not here"
                affected = "nothing that is known: each event in its other files is elsewhere too"
                self._problems.append(Problem(path, None, None, reason, affected, _COPIED_ADVICE, True))
            elif families and (not segment.has_ranges or _has_lost(segment, names, whole)):
                reason = f"the files of its segment for {', '.join(families)} are gone"
                affected = f"the {', '.join(families)} events of the segment"
                self._add(path, None, None, reason, affected, _FILE_ADVICE)

    def _held_elsewhere(
        self, segments: list[Segment], journals: list[_Journal], whole: list[Ranges]
    ) -> set[str]:
        """Of segments without the file that says their ranges, those of which all that is left lies elsewhere too.

        That file is published first and removed last: it lacks where a folder was copied while a segment was
        published, or where it was lost.
        """
        found = set()
        with SealedReader.opened(self._storage) as reader:
            for segment in segments:
                try:
                    spans = reader.spans(reader.queries(segment))
                except (NotFound, reader.error):
                    continue
                writers = {writer for writer, _, _ in spans}
                hot = [span for j in journals if j.name.writer in writers for span in j.spans()]
                sealed = [r[:3] for ranges in whole for r in ranges.of_writers(writers)]
                held = Spans.of([*hot, *sealed])
                if all(held.holds(*span) for span in spans):
                    found.add(segment.segment_id)
        return found

    def _check_ranges(self, segments: list[Segment], journals: list[_Journal]) -> None:
        """Each writer's events are all there from the first on, and nowhere twice with different content."""
        paths: list[str] = []
        claims: list[bytes] = []
        for segment in segments:
            if segment.has_ranges:
                claims += [_CLAIM.pack(*r[:4], len(paths)) for r in segment.ranges]
                paths.append(next(iter(segment.files.values())).path)
        for journal in journals:
            if journal.seqs:
                claim = (*journal.name, journal.last_seq, journal.running_hash, len(paths))
                claims.append(_CLAIM.pack(*claim))
                paths.append(journal.path)
        claims.sort()
        writer, expected, before = b"", 0, (-1, -1, b"")
        for found, first, last, running_hash, place in map(_CLAIM.unpack, claims):
            if found != writer:
                writer, expected, before = found, 0, (-1, -1, b"")
            if first > expected:
                reason = f"seq {expected} to {first - 1} of writer {writer.hex()} are nowhere"
                self._add(paths[place], None, None, reason, f"{first - expected} events", _GAP_ADVICE)
            if before[:2] == (first, last) and before[2] != running_hash:
                reason = (
                    f"seq {first} to {last} of writer {writer.hex()} are there twice, with different content"
                )
                self._add(paths[place], None, None, reason, f"{last - first + 1} events", _TWICE_ADVICE)
            before = (first, last, running_hash)
            expected = max(expected, last + 1)

    # Objects

    def _check_objects(self) -> None:
        files = self._files(OBJECTS, digest_of_object)
        while batch := list(islice(files, _OBJECTS_AT_ONCE)):
            for (path, size, _), actual in zip(batch, self._storage.at_once(self._hash, batch), strict=True):
                digest = digest_of_object(path)
                assert digest is not None, "only files of such names are looked at"
                if actual is None:
                    continue
                if isinstance(actual, StoreError):
                    self._unreadable(path, actual)
                    continue
                self._objects[digest] = size
                if actual != digest:
                    reason = f"its bytes have sha256 {actual.hex()}"
                    affected = f"every value with digest {digest_to_text(digest)}"
                    self._add(path, 0, size, reason, affected, _OBJECT_ADVICE)

    def _hash(self, file: StoredFile) -> bytes | StoreError | None:
        """The sha256 of a file; None when it is gone."""
        try:
            return sha256_of(self._storage, file.path)
        except NotFound:
            return None
        except StoreError as error:
            return error

    # Events

    def _check_events(self, segments: list[Segment], journals: list[_Journal]) -> int:
        """What events name is there, and segments have as many as they say. Gives the number of events."""
        pieces = pieces_of(segments)
        writers = {journal.name.writer for journal in journals}
        coverage = Coverage([piece.segment.ranges for piece in pieces], writers)
        needs = Needs()
        count = 0
        for journal in journals:
            mine = [seq for seq in _not_in(journal, coverage.spans(journal.name.writer))]
            count += len(mine)
            if mine:
                needs.update(journal.needs)
        if pieces:
            with SealedReader.opened(self._storage) as reader:
                for piece in pieces:
                    count += self._check_piece(reader, piece, needs)
        for missing in needs.missing(self._storage, self._objects):
            more = missing.needed_by - len(missing.pathspecs)
            affected = ", ".join(missing.pathspecs) + (f" and {more} more" if more > 0 else "")
            what = "is too short" if missing.digest in self._objects else "is missing"
            reason = f"object {digest_to_text(missing.digest)} {what}"
            self._add(object_path(missing.digest), None, None, reason, affected, _OBJECT_ADVICE)
        if needs.unnamed_count:
            reason = f"{needs.unnamed_count} more objects are missing"
            self._add(OBJECTS, None, None, reason, "the values in them", _OBJECT_ADVICE)
        return count

    def _check_piece(self, reader: SealedReader, piece: Piece, needs: Needs) -> int:
        segment = piece.segment
        path = next(iter(segment.files.values())).path
        try:
            whole = reader.queries(segment)
            counts = reader.counts(whole)
            self._check_counts(segment, counts)
            read = whole if piece.only is None else reader.queries(segment, piece.only)
            needs.take_sealed(reader.connection, read, self._objects)
            if self._is_deep:
                self._check_deep(reader, segment, whole)
            else:
                self._advance(segment.size_bytes)
            return sum(counts.values() if piece.only is None else reader.counts(read).values())
        except NotFound:
            # Compacted since it was listed: what stands for it was proven before it went.
            return 0
        except reader.error as error:
            if any(not self._storage.exists(file.path) for file in segment.files.values()):
                return 0
            if type(error).__name__ == "OutOfMemoryException":
                # That is nothing about the store.
                raise StoreUnavailable(
                    f"{path} cannot be checked in the memory that there is. Verify on a larger machine."
                ) from error
            self._add(path, None, None, str(error), "the events of the segment", _FILE_ADVICE)
            return 0

    def _check_counts(self, segment: Segment, counts: Mapping[str, int]) -> None:
        for family, found in counts.items():
            if found != segment.rows[family]:
                reason = f"it has {found} events where its footer says {segment.rows[family]}"
                affected = f"the {family} events in it"
                self._add(segment.files[family].path, None, None, reason, affected, _FILE_ADVICE)
        expected = Spans.of(r[:3] for r in segment.ranges).event_count
        if sum(segment.rows.values()) != expected:
            path = next(iter(segment.files.values())).path
            reason = f"the segment has {sum(segment.rows.values())} events where its ranges say {expected}"
            self._add(path, None, None, reason, "the events of the segment", _FILE_ADVICE)

    def _check_deep(self, reader: SealedReader, segment: Segment, queries: Mapping[str, str]) -> None:
        path = next(iter(segment.files.values())).path
        cost = segment.size_bytes * self._events_cost / max(1, segment.event_count)
        found = replay(
            reader.connection,
            " union all ".join(queries.values()),
            segment.ranges,
            progress=lambda count: self._advance(int(cost * count)),
        )
        for r, reason in found:
            reason = f"seq {r.first_seq} to {r.last_seq} of writer {r.writer.hex()}: {reason}"
            self._add(path, None, None, reason, f"{r.last_seq - r.first_seq + 1} events", _FILE_ADVICE)
        for value in reader.values(list(queries.values())):
            trouble = undecodable(self._storage, value)
            self._value_count += 1
            if trouble is not None:
                self._add(path, None, None, trouble, value.pathspec, _VALUE_ADVICE)


def _of_runs(content: JournalContent) -> str:
    runs = sorted({f"{event.flow}/{event.run_id}" for event in content.events if event.run_id is not None})
    return f" of {', '.join(runs)}" if runs else ""


def _not_in(journal: _Journal, spans: Spans) -> Iterator[int]:
    writer = journal.name.writer
    return (seq for seq in journal.seqs if not (spans and spans.holds(writer, seq, seq)))


def _has_lost(segment: Segment, names: set[JournalName], whole: list[Ranges]) -> bool:
    """Whether events of a segment lie neither in their journals nor in whole segments."""
    coverage = Coverage(whole, segment.ranges.writers())
    return any((r.writer, r.first_seq) not in names and not coverage.holds(*r[:3]) for r in segment.ranges)
