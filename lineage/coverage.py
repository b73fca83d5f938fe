"""Which journals need not be read, because segments hold all their events."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from weft.lineage.codec import decode_frame, encode
from weft.lineage.events import journal_closed
from weft.lineage.paths import JournalName
from weft.lineage.ranges import Ranges, Spans
from weft.lineage.schema import Event
from weft.lineage.storage import Storage, StoredFile

__all__ = ["Coverage", "Overlaps", "uncovered_journals"]


class Coverage:
    """What segments hold of some writers, those whose journals somebody looks at."""

    __slots__ = ("_exact", "_spans")

    def __init__(self, segments: Iterable[Ranges], writers: Collection[bytes]) -> None:
        #: The size of the largest journal with that start which a range stands for.
        self._exact: dict[tuple[bytes, int], int] = {}
        self._spans: dict[bytes, Spans] = {}
        found: dict[bytes, list[tuple[bytes, int, int]]] = {}
        for ranges in segments if writers else ():
            for r in ranges.of_writers(writers):
                key = (r.writer, r.first_seq)
                self._exact[key] = max(r.size_bytes, self._exact.get(key, 0))
                found.setdefault(r.writer, []).append(r[:3])
        for writer, spans in found.items():
            self._spans[writer] = Spans.of(spans)

    def knows(self, writer: bytes) -> bool:
        return writer in self._spans

    def spans(self, writer: bytes) -> Spans:
        return self._spans.get(writer) or Spans()

    def holds(self, writer: bytes, first_seq: int, last_seq: int) -> bool:
        return writer in self._spans and self._spans[writer].holds(writer, first_seq, last_seq)

    def holds_journal(self, writer: bytes, first_seq: int, size_bytes: int) -> bool:
        """Whether a range stands for just this journal, or for one that grew out of it."""
        return self._exact.get((writer, first_seq), -1) >= size_bytes


class Overlaps:
    """Takes each event of a writer once from files that come by writer and first seq.

    Files of one writer overlap where copies of a store that got a live journal at different moments were merged.
    """

    __slots__ = ("_first", "_seqs", "_writer")

    def __init__(self) -> None:
        self._writer = b""
        #: What the writer's first file holds; a set is made of it when there is a second.
        self._first: Sequence[int] = ()
        self._seqs: set[int] = set()

    def lacks(self, name: JournalName, seqs: Sequence[int]) -> Collection[int]:
        """Those of a file's seqs that came in no file before."""
        if name.writer != self._writer:
            self._writer, self._first, self._seqs = name.writer, seqs, set()
            return seqs
        if not self._seqs:
            self._seqs.update(self._first)
        new = set(seqs) - self._seqs
        self._seqs |= new
        return new

    def events_once(self, name: JournalName, events: Iterable[Event]) -> Iterable[Event]:
        told = list(events)
        new = self.lacks(name, [event.seq for event in told])
        return told if len(new) == len(told) else [event for event in told if event.seq in new]


def uncovered_journals(
    storage: Storage, journals: Sequence[tuple[StoredFile, JournalName]], coverage: Coverage
) -> Iterator[tuple[str, JournalName]]:
    """The journals of which segments do not hold every event, or may not; `journals` as they are listed."""
    for index, (file, name) in enumerate(journals):
        writer, first = name
        if not coverage.knows(writer):
            yield file.path, name
            continue
        if coverage.holds_journal(writer, first, file.size_bytes):
            continue
        # A journal may lie within a longer range, when a writer's chunks and its file were sealed apart.
        following = journals[index + 1][1] if index + 1 < len(journals) else None
        if following is not None and following.writer == writer:
            last: int | None = following.first_seq - 1
        else:
            last = _closing_seq(storage, file, name)
        if last is None or not coverage.holds(writer, first, last):
            yield file.path, name


def _closing_seq(storage: Storage, file: StoredFile, name: JournalName) -> int | None:
    """The seq of the frame that closes a journal; None when it is not closed. Raises: NotFound."""
    # The closing frame always has this length: its time is past 2**32.
    length = len(encode(journal_closed(bytes(32)), 0, 1 << 40))
    if file.size_bytes < length:
        return None
    try:
        event = decode_frame(name.writer, storage.read_range(file.path, file.size_bytes - length, length))
    except ValueError:
        return None
    return event.seq if event.kind == "journal_closed" else None
