"""Proof that a store is sound: every frame, every segment and every object is read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from weft.lineage.coverage import Coverage
from weft.lineage.errors import NotFound, StoreError, StoreTooNew
from weft.lineage.events import Event
from weft.lineage.ids import digest_to_text
from weft.lineage.journal import JournalContent, is_writer_dead, read_journal
from weft.lineage.manifest import Segment, SegmentFile, pieces_of, read_segment_file, segments_of
from weft.lineage.objects import sha256_of
from weft.lineage.paths import (
    JOURNALS,
    OBJECTS,
    SEGMENTS,
    digest_of_object,
    incoming_id,
    journal_name,
    object_path,
    segment_name,
)
from weft.lineage.proofs import Proofs, check_segment_file
from weft.lineage.ranges import Ranges
from weft.lineage.references import code_files, named_objects, pathspec_of
from weft.lineage.segments import read_piece
from weft.lineage.storage import Storage

__all__ = ["Problem", "Report", "verify"]

_FILE_ADVICE = "Put the file back from a copy of the store."
_GAP_ADVICE = "Put the missing journal or segment back from a copy of the store."
_TWICE_ADVICE = "Keep the copy you trust and move the other out of the store."
_OBJECT_ADVICE = "Put the file back from a copy of the store, or run the task again."
_FRAME_ADVICE = "Put the file back from a copy of the store; the frames that are whole stay readable."
_INCOMING_ADVICE = "Repeat the push or pull that was broken off."
_TORN_ADVICE = "Nothing is to be done: this was never acknowledged."

#: Pathspecs that are named of those that need one missing object.
_NAMED_MAX = 5


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
    """What was checked, and what was found. The store is sound when nothing but torn ends was found."""

    problems: list[Problem]
    journal_count: int
    segment_file_count: int
    object_count: int
    event_count: int

    @property
    def is_sound(self) -> bool:
        return all(problem.is_torn for problem in self.problems)


def verify(storage: Storage) -> Report:
    """Read all of a store and check it; nothing is written.

    CRC of every frame, running hash of every closed journal, sha256 of every segment file and object,
    gaps and contradictions between ranges, and objects that events name but nobody has.

    Raises: StoreUnavailable; StoreTooNew when a segment is of a later format.
    """
    problems: list[Problem] = []
    journals = [path for path in storage.list(JOURNALS) if journal_name(path) is not None]
    contents = _check_journals(storage, journals, problems)
    files, damaged = _check_segment_files(storage, problems)
    segments = segments_of(files)
    _check_missing_files(storage, segments, contents, damaged, problems)
    _check_ranges(segments, contents, problems)
    objects = _check_objects(storage, problems)
    coverage = Coverage(
        [segment.ranges for segment in segments if not segment.missing], {c.name.writer for c in contents}
    )
    hot = [c for c in contents if not coverage.holds(c.name.writer, c.name.first_seq, c.last_seq)]
    tail = (event for content in hot for event in content.events)
    events = chain(tail, _segment_events(storage, segments, problems))
    event_count = _check_references(storage, events, objects, problems)
    return Report(problems, len(contents), len(files), len(objects), event_count)


def _check_journals(storage: Storage, paths: Iterable[str], problems: list[Problem]) -> list[JournalContent]:
    contents = []
    for path in paths:
        try:
            content = read_journal(storage, path)
        except NotFound:
            # Sealed and removed since it was listed.
            continue
        contents.append(content)
        is_at_work = storage.locks_prove_death and not is_writer_dead(storage, path)
        for flaw in content.problems:
            if flaw.is_torn and is_at_work:
                # Its writer is in the middle of a write.
                continue
            advice = _TORN_ADVICE if flaw.is_torn else _FRAME_ADVICE
            affected = "nothing that was acknowledged" if flaw.is_torn else _affected(content, flaw.offset)
            problems.append(
                Problem(path, flaw.offset, flaw.length, flaw.reason, affected, advice, flaw.is_torn)
            )
    return contents


def _affected(content: JournalContent, offset: int) -> str:
    runs = sorted({f"{e.flow}/{e.run_id}" for e in content.events if e.run_id is not None})
    of_runs = f" of {', '.join(runs)}" if runs else ""
    return f"events{of_runs} from byte {offset} on"


def _check_segment_files(storage: Storage, problems: list[Problem]) -> tuple[list[SegmentFile], set[str]]:
    """The files that are what their names say, and the families of those that are not."""
    proven = []
    damaged = set()
    for path in storage.list(SEGMENTS):
        name = segment_name(path)
        if name is None:
            continue
        try:
            # The name says what the bytes are: proven before a byte of the footer is believed.
            check_segment_file(storage, path, name.digest)
            proven.append(read_segment_file(storage, path, name))
        except NotFound:
            # Compacted since it was listed.
            continue
        except StoreTooNew:
            # Its bytes are right, and what they hold is not for this version to say.
            raise
        except StoreError as error:
            damaged.add(name.family)
            affected = f"the {name.family} events in it"
            problems.append(Problem(path, None, None, str(error), affected, _FILE_ADVICE))
    return proven, damaged


def _check_missing_files(
    storage: Storage,
    segments: list[Segment],
    contents: list[JournalContent],
    damaged: set[str],
    problems: list[Problem],
) -> None:
    """A segment that lacks a file is damaged, unless its events are elsewhere: its publisher was cut off."""
    names = {(content.name.writer, content.name.first_seq) for content in contents}
    whole = [segment.ranges for segment in segments if not segment.missing]
    incoming = {incoming_id(path) for path in storage.list(SEGMENTS)}
    for segment in segments:
        families = [family for family in segment.missing if family not in damaged]
        if families and segment.segment_id in incoming:
            reason = f"the files of its segment for {', '.join(families)} were not brought here yet"
            path = next(iter(segment.files.values())).path
            problems.append(
                Problem(path, None, None, reason, "no event that was here", _INCOMING_ADVICE, True)
            )
        elif families and (not segment.has_ranges or _has_lost(segment, names, whole)):
            path = next(iter(segment.files.values())).path
            reason = f"the files of its segment for {', '.join(families)} are gone"
            affected = f"the {', '.join(families)} events of the segment"
            problems.append(Problem(path, None, None, reason, affected, _FILE_ADVICE))


def _has_lost(segment: Segment, names: set[tuple[bytes, int]], whole: list[Ranges]) -> bool:
    """Whether events of a segment lie neither in their journals nor in whole segments."""
    coverage = Coverage(whole, segment.ranges.writers())
    return any((r.writer, r.first_seq) not in names and not coverage.holds(*r[:3]) for r in segment.ranges)


def _check_ranges(segments: list[Segment], contents: list[JournalContent], problems: list[Problem]) -> None:
    """Each writer's events are all there from the first on, and nowhere twice with different content."""
    by_writer: dict[bytes, list[tuple[int, int, bytes, str]]] = {}
    for segment in segments:
        path = next(iter(segment.files.values())).path
        for r in segment.ranges if segment.has_ranges else ():
            by_writer.setdefault(r.writer, []).append((r.first_seq, r.last_seq, r.running_hash, path))
    for content in contents:
        if content.events:
            claim = (content.name.first_seq, content.last_seq, content.running_hash, content.path)
            by_writer.setdefault(content.name.writer, []).append(claim)
    for writer, claims in sorted(by_writer.items()):
        expected = 0
        hashes: dict[tuple[int, int], bytes] = {}
        for first, last, running_hash, path in sorted(claims):
            if first > expected:
                reason = f"seq {expected} to {first - 1} of writer {writer.hex()} are nowhere"
                affected = f"{first - expected} events"
                problems.append(Problem(path, None, None, reason, affected, _GAP_ADVICE))
            if hashes.setdefault((first, last), running_hash) != running_hash:
                reason = (
                    f"seq {first} to {last} of writer {writer.hex()} are there twice, with different content"
                )
                problems.append(
                    Problem(path, None, None, reason, f"{last - first + 1} events", _TWICE_ADVICE)
                )
            expected = max(expected, last + 1)


def _segment_events(storage: Storage, segments: list[Segment], problems: list[Problem]) -> Iterator[Event]:
    proofs = Proofs(storage)
    for piece in pieces_of(segments):
        count = 0
        path = next(iter(piece.segment.files.values())).path
        try:
            for event in read_piece(proofs, piece):
                count += 1
                yield event
        except StoreError as error:
            problems.append(Problem(path, None, None, str(error), "the events of the segment", _FILE_ADVICE))
            continue
        expected = sum(piece.segment.rows.values())
        if piece.only is None and count != expected:
            reason = f"the segment has {count} events where its footer says {expected}"
            problems.append(Problem(path, None, None, reason, "the events of the segment", _FILE_ADVICE))


def _check_objects(storage: Storage, problems: list[Problem]) -> dict[bytes, int]:
    """Digest and size of every object that is there, sound or not."""
    found = {}
    for path in storage.list(OBJECTS):
        digest = digest_of_object(path)
        if digest is None:
            continue
        try:
            found[digest] = storage.size(path)
            actual = sha256_of(storage, path)
        except NotFound:
            continue
        if actual != digest:
            reason = f"its bytes have sha256 {actual.hex()}"
            affected = f"every value with digest {digest_to_text(digest)}"
            problems.append(Problem(path, 0, found[digest], reason, affected, _OBJECT_ADVICE))
    return found


def _check_references(
    storage: Storage, events: Iterable[Event], objects: dict[bytes, int], problems: list[Problem]
) -> int:
    """Every object that an event names is there. Gives the number of events."""
    missing: dict[bytes, list[str]] = {}
    manifests: dict[bytes, str] = {}
    count = 0
    for event in events:
        count += 1
        for digest, size_bytes in named_objects(event):
            if objects.get(digest, -1) < size_bytes:
                missing.setdefault(digest, []).append(pathspec_of(event))
        if event.kind == "code_saved" and event.digest is not None:
            manifests.setdefault(event.digest, pathspec_of(event))
    for digest, pathspec in manifests.items():
        for file, file_digest in code_files(storage, digest, objects):
            if file_digest not in objects:
                missing.setdefault(file_digest, []).append(f"{pathspec} ({file})")
    for digest, pathspecs in sorted(missing.items()):
        shown = ", ".join(dict.fromkeys(pathspecs[:_NAMED_MAX]))
        more = len(pathspecs) - _NAMED_MAX
        affected = f"{shown} and {more} more" if more > 0 else shown
        what = "is too short" if digest in objects else "is missing"
        reason = f"object {digest_to_text(digest)} {what}"
        problems.append(Problem(object_path(digest), None, None, reason, affected, _OBJECT_ADVICE))
    return count
