"""A journal: the hot tail of the log, one file that one writer appends frames to.

A writer is 16 random bytes made at each process start. It holds an exclusive lock on its file for life:
whoever can take that lock has proof that the writer is gone. A journal that ends in good order ends with a
`journal_closed` frame, whose digest is the sha256 of all bytes before it.

Where files cannot grow the same frames lie in chunks, a file for each sync (see `weft.lineage.chunks`): a
chunk never changes, only the last one of a writer is closed, and a lease says whether the writer lives.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from weft.lineage import clock
from weft.lineage.codec import Flaw, decode_frame, encode, scan
from weft.lineage.errors import NotFound, StoreConflict, StoreDamaged, StoreError, StoreUnavailable
from weft.lineage.events import journal_closed
from weft.lineage.paths import JOURNALS, JournalName, journal_name, journal_path
from weft.lineage.schema import Event
from weft.lineage.storage import AppendFile, Storage

if TYPE_CHECKING:
    from weft.lineage.spool import Spool

__all__ = [
    "JOURNAL_MAX_BYTES",
    "Journal",
    "JournalContent",
    "JournalProblem",
    "OpenFile",
    "Place",
    "fence",
    "is_closed",
    "is_fence",
    "is_writer_dead",
    "parse_journal",
    "read_event_at",
    "read_journal",
]

#: A journal that has grown past this is closed, and its writer goes on in the next file.
JOURNAL_MAX_BYTES = 16 * 1024 * 1024

_WRITER_BYTES = 16

#: The frame that closes a journal always has this length: its time is past 2**32.
_CLOSING_BYTES = len(encode(journal_closed(bytes(32)), 0, 1 << 40))

#: A clock that is further ahead of ours than this is not followed.
_CLOCK_AHEAD_MAX_US = 3600 * 1_000_000

JournalState = Literal["open", "closed", "torn", "damaged"]


class Place(NamedTuple):
    """Where one frame lies: the file's absolute path, and the frame's offset and length in bytes."""

    path: str
    offset: int
    length: int


class Journal:
    """One writer's way into the log. Not for use by more than one thread at a time."""

    __slots__ = (
        "_current",
        "_is_appending",
        "_is_broken",
        "_last_time_us",
        "_now_us",
        "_size_max_bytes",
        "_storage",
        "next_seq",
        "writer",
    )

    def __init__(
        self,
        storage: Storage,
        writer: bytes,
        size_max_bytes: int,
        now_us: Callable[[], int],
        spool: Spool | None,
    ) -> None:
        self._storage = storage
        self._now_us = now_us
        self._size_max_bytes = size_max_bytes
        self._last_time_us = 0
        self._is_broken = False
        self._is_appending = False
        self.writer = writer
        self.next_seq = 0
        self._current = _open_file(storage, JournalName(writer, 0), spool)

    @classmethod
    def create(
        cls,
        storage: Storage,
        writer: bytes | None = None,
        size_max_bytes: int = JOURNAL_MAX_BYTES,
        now_us: Callable[[], int] = clock.now_us,
        spool: Spool | None = None,
    ) -> Journal:
        """Open a new journal and take its lock; `now_us` is the clock that stamps its events.

        Where files cannot grow nothing is written before the first sync, and `spool` keeps what places lead to.

        Raises: StoreUnavailable; StoreConflict when `writer` has a journal already.
        """
        made = clock.random_bytes(_WRITER_BYTES) if writer is None else writer
        return cls(storage, made, size_max_bytes, now_us, spool)

    @property
    def path(self) -> str:
        """Of the file that is being appended to, within the store."""
        return self._current.path

    @property
    def last_time_us(self) -> int:
        """The log time of the last append."""
        return self._last_time_us

    @property
    def is_full(self) -> bool:
        """Whether the next append goes on in another file, and closes this one."""
        return self._storage.can_append and self._current.size_bytes >= self._size_max_bytes

    @property
    def is_sync_costly(self) -> bool:
        """Whether a sync is a request to a server, so that fewer and larger ones are better."""
        return not self._storage.can_append

    @property
    def unsynced_bytes(self) -> int:
        """What was appended since the last sync, where a sync is costly; else 0."""
        return self._current.unsynced_bytes

    def append(self, events: Sequence[Event]) -> list[Place]:
        """Stamp events with writer, seq and time, and write them all at once, in order.

        They are seen by readers from then on, and durable after the next `sync`. In chunks they are seen, too,
        only after it.

        Raises: StoreUnavailable; then none of them is in the journal, and all before them still are.
        """
        if self.is_full:
            self._rotate()
        return self._append(events)

    def sync(self) -> None:
        """Make durable what was appended; another thread may append to the same file meanwhile.

        Raises: StoreUnavailable; then nothing can be said of what was appended since the last sync, and
        this journal takes no more events. StoreConflict when this writer was fenced off.
        """
        self._check_usable()
        try:
            self._current.sync()
        except StoreError:
            # The kernel may have dropped the pages it could not write: a second sync would lie.
            self._is_broken = True
            raise

    def observe(self, time_us: int) -> None:
        """Never stamp earlier than an event that was read, unless its clock is an hour ahead of ours."""
        if time_us <= self._now_us() + _CLOCK_AHEAD_MAX_US:
            self._last_time_us = max(self._last_time_us, time_us)

    def close(self) -> None:
        """End the journal in good order, durable, and let go of it. A second call does nothing."""
        if self._is_broken or self._is_appending:
            self._current.close()
            return
        try:
            self._close_file()
        finally:
            self._is_broken = True

    def _rotate(self) -> None:
        """Close the file and go on in the next; the new lock is taken before the old one is let go."""
        self._check_usable()
        # The frame that closes the old file takes the next seq.
        following = _open_file(self._storage, JournalName(self.writer, self.next_seq + 1), None)
        try:
            self._append([journal_closed(self._current.digest())])
            self.sync()
        except BaseException:
            following.close()
            self._storage.delete(following.path)
            raise
        self._current.close()
        self._current = following

    def _append(self, events: Sequence[Event]) -> list[Place]:
        self._check_usable()
        if self._is_appending:
            raise self._unusable()
        time_us = max(self._now_us(), self._last_time_us)
        seq = self.next_seq
        offset = self._current.size_bytes
        frames: list[bytes] = []
        places: list[Place] = []
        for event in events:
            frame = encode(event, seq, time_us)
            frames.append(frame)
            places.append(Place(self._current.place_path, offset, len(frame)))
            offset += len(frame)
            seq += 1
        data = b"".join(frames)
        # Usable again once file and state agree: an interrupt in between must not let a seq be given twice.
        self._is_appending = True
        try:
            self._current.append(data, self.next_seq)
        except BaseException:
            self._is_appending = self._current.is_dirty
            raise
        self._last_time_us = time_us
        self.next_seq = seq
        self._is_appending = False
        return places

    def _close_file(self) -> None:
        try:
            if self.next_seq or self._storage.can_append:
                self._append([journal_closed(self._current.digest())])
                self.sync()
        finally:
            self._current.close()

    def _check_usable(self) -> None:
        if self._is_broken:
            raise self._unusable()

    def _unusable(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"The journal {self._current.place_path} is closed or could not be written. Start the command again."
        )


class OpenFile(Protocol):
    """What a journal is written to.

    `size_bytes` is how much was appended to `place_path`, `unsynced_bytes` how much of it since the last
    sync, 0 where that does not matter. `is_dirty` says that an append was cut off, and not undone.
    """

    is_dirty: bool
    place_path: str
    size_bytes: int
    unsynced_bytes: int

    @property
    def path(self) -> str:
        """Within the store."""

    def append(self, data: bytes, first_seq: int) -> None:
        """Write all of `data`, or nothing and raise. Raises: StoreUnavailable."""

    def sync(self) -> None:
        """Make durable what was appended; another thread may append meanwhile. Raises: StoreError."""

    def digest(self) -> bytes:
        """The sha256 of what stands before the next frame in its file."""

    def close(self) -> None:
        """Let go of it."""


def _open_file(storage: Storage, name: JournalName, spool: Spool | None) -> OpenFile:
    if storage.can_append:
        return _GrowingFile(storage, name)
    # Local stores do without it.
    from weft.lineage.chunks import ChunkFile

    return ChunkFile(storage, name.writer, spool)


class _GrowingFile:
    """One file, locked for as long as it is open."""

    __slots__ = ("_file", "_hasher", "is_dirty", "path", "place_path", "size_bytes", "unsynced_bytes")

    def __init__(self, storage: Storage, name: JournalName) -> None:
        self.path = journal_path(name)
        self._file: AppendFile = storage.create_append(self.path)
        self.place_path = storage.local_path(self.path) or self.path
        self._hasher = hashlib.sha256()
        self.size_bytes = 0
        self.unsynced_bytes = 0
        self.is_dirty = False

    def append(self, data: bytes, first_seq: int) -> None:
        written = 0
        self.is_dirty = True
        try:
            written = self._file.write(data)
            while written < len(data):
                written += self._file.write(data[written:])
        except BaseException:
            # A part of the batch may be there: it was not acknowledged, and the next frame must not follow it.
            self._file.truncate(self.size_bytes)
            self.is_dirty = False
            raise
        self._hasher.update(data)
        self.size_bytes += len(data)
        self.is_dirty = False

    def sync(self) -> None:
        self._file.sync()

    def digest(self) -> bytes:
        return self._hasher.digest()

    def close(self) -> None:
        self._file.close()


class JournalProblem(NamedTuple):
    """Bytes of a journal that are no whole frame, or frames that are not where they belong."""

    offset: int
    length: int
    is_torn: bool
    reason: str


class JournalContent(NamedTuple):
    """What a journal's file holds.

    `events` are all that check, in order, the closing one included. `running_hash` is the sha256 of the
    bytes of all frames up to the last whole one, that of the closing frame excepted.
    """

    path: str
    name: JournalName
    state: JournalState
    events: list[Event]
    problems: list[JournalProblem]
    running_hash: bytes
    size_bytes: int

    @property
    def last_seq(self) -> int:
        """Of the last event; one below the first seq when there is none."""
        return self.events[-1].seq if self.events else self.name.first_seq - 1


def read_journal(storage: Storage, path: str) -> JournalContent:
    """Read and check a journal.

    Its state: "closed" ended in good order, "open" did not but each frame is whole, "torn" ends in
    something cut off, and "damaged" holds bytes that fail a check.

    Raises: NotFound when it is gone (sealed, then removed: list again).
    """
    return parse_journal(path, storage.get(path))


def parse_journal(path: str, data: bytes) -> JournalContent:
    """What the bytes of the journal `path` hold; see `read_journal`."""
    name = journal_name(path)
    if name is None:
        raise NotFound(f"{path} is no journal. Journals are named journal/<writer>-<first seq>.wj.")
    events: list[Event] = []
    problems: list[JournalProblem] = []
    hasher = hashlib.sha256()
    # Frames from `hashed` to `end` follow each other and are still to be hashed: one update for all of them.
    hashed = end = 0
    expected = name.first_seq
    is_closed = False
    for found in scan(name.writer, data):
        if isinstance(found, Flaw):
            problems.append(JournalProblem(*found))
            continue
        event = found.event
        if found.offset != end:
            hasher.update(data[hashed:end])
            hashed = found.offset
        frame = (found.offset, found.length)
        if is_closed:
            problems.append(JournalProblem(*frame, False, "a frame follows the one that closes the journal"))
        if event.seq != expected and not (problems and event.seq > expected):
            reason = f"a frame has seq {event.seq} where {expected} belongs"
            problems.append(JournalProblem(*frame, False, reason))
        expected = event.seq + 1
        if event.kind == "journal_closed":
            is_closed = True
            hasher.update(data[hashed : found.offset])
            hashed = found.offset + found.length
            if event.digest != hasher.digest() and not problems:
                problems.append(
                    JournalProblem(0, found.offset, False, "the closing hash is not that of the bytes before")
                )
        end = found.offset + found.length
        events.append(event)
    hasher.update(data[hashed:end])
    if is_closed and problems and problems[-1].is_torn:
        problems[-1] = problems[-1]._replace(
            is_torn=False, reason="bytes follow the frame that closes the journal"
        )
    return JournalContent(
        path, name, _state(is_closed, problems), events, problems, hasher.digest(), len(data)
    )


def _state(is_closed: bool, problems: list[JournalProblem]) -> JournalState:
    if any(not problem.is_torn for problem in problems):
        return "damaged"
    if problems:
        return "torn"
    return "closed" if is_closed else "open"


def read_event_at(place_path: str, offset: int, length: int, writer: bytes) -> Event:
    """Fetch one event from the file it was appended to.

    Raises: StoreUnavailable, StoreDamaged.
    """
    try:
        descriptor = os.open(place_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            frame = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreUnavailable(
            f"The journal {place_path} cannot be read ({error.strerror}). Check the store, then run again."
        ) from error
    try:
        return decode_frame(writer, frame)
    except ValueError as error:
        raise StoreDamaged(
            f"The journal {place_path} is damaged at byte {offset}: {error}. Run `weft verify`."
        ) from error


def is_closed(storage: Storage, path: str) -> bool:
    """Whether a journal ends with the frame that closes it; reads no more than that frame. Raises: NotFound."""
    name = journal_name(path)
    size = storage.size(path)
    if name is None or size < _CLOSING_BYTES:
        return False
    try:
        event = decode_frame(name.writer, storage.read_range(path, size - _CLOSING_BYTES, _CLOSING_BYTES))
    except ValueError:
        return False
    return event.kind == "journal_closed"


def is_writer_dead(storage: Storage, path: str) -> bool:
    """Whether it is proven that the writer of this journal is gone. Never disturbs a writer that lives."""
    if not storage.locks_prove_death:
        return False
    lock = storage.try_lock(path, shared=True)
    if lock is None:
        return False
    lock.release()
    return True


def is_fence(storage: Storage, path: str, size_bytes: int) -> bool:
    """Whether a journal file of that size holds nothing but the frame that closes it. Raises: NotFound."""
    return size_bytes == _CLOSING_BYTES and is_closed(storage, path)


def fence(storage: Storage, writer: bytes, next_seq: int) -> None:
    """Let `writer`, whose events below `next_seq` were all read, put no more chunks.

    A closed chunk is put under the name of its next one, unless it has ended or was fenced off before. Does
    nothing where files can grow: there a lock is the proof that a writer is gone.

    Raises: StoreConflict when it has put another chunk since: read again what it says, then try again.
    """
    if storage.can_append:
        return
    names = [name for path in storage.list(JOURNALS) if (name := journal_name(path)) is not None]
    before = [name for name in names if name.writer == writer and name.first_seq < next_seq]
    if before and is_closed(storage, journal_path(max(before))):
        return
    path = journal_path(JournalName(writer, next_seq))
    frame = encode(journal_closed(hashlib.sha256().digest()), next_seq, clock.now_us())
    try:
        storage.create_exclusive(path, frame)
    except StoreConflict as error:
        if not is_fence(storage, path, storage.size(path)):
            raise StoreConflict(
                f"The writer {writer.hex()} has gone on in {storage.url} in the meantime. Try again."
            ) from error
