"""Which events a segment holds: one range for each journal in it, packed into bytes. Pure.

A store of 100,000 runs has as many ranges, so they are never that many objects: they are records of 72
bytes, big endian, sorted, and found by bisection.

    writer        16 bytes
    first seq     u64
    last seq      u64
    running hash  32 bytes, the sha256 of the journal's frames without the closing one
    size          u64, of the journal in bytes
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Range", "Ranges", "Span", "Spans", "settle"]

_RANGE = struct.Struct(">16sQQ32sQ")
_SPAN = struct.Struct(">16sQQ")
_WRITER_BYTES = 16


class Range(NamedTuple):
    """One journal within a segment: its events' first and last seq, the sha256 of its frames, its size."""

    writer: bytes
    first_seq: int
    last_seq: int
    running_hash: bytes
    size_bytes: int


class Span(NamedTuple):
    """Events of one writer that follow each other."""

    writer: bytes
    first_seq: int
    last_seq: int


class Ranges:
    """The ranges of one segment, sorted by writer and first seq.

    What was read from a footer knows its count and sha256, and fetches the rest when it is first needed.
    """

    __slots__ = ("_count", "_fetch", "_packed", "_sha256")

    def __init__(self, packed: bytes) -> None:
        assert len(packed) % _RANGE.size == 0, "ranges are whole records"
        self._packed: bytes | None = packed
        self._count = len(packed) // _RANGE.size
        self._sha256: bytes | None = None
        self._fetch: Callable[[], bytes] | None = None

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> Ranges:
        return cls(b"".join(sorted(_RANGE.pack(*r) for r in ranges)))

    @classmethod
    def stored(cls, count: int, sha256: bytes, fetch: Callable[[], bytes]) -> Ranges:
        """Ranges that lie elsewhere; `fetch` gives their bytes, checked."""
        found = cls(b"")
        found._packed, found._count, found._sha256, found._fetch = None, count, sha256, fetch
        return found

    @property
    def packed(self) -> bytes:
        """Raises: what fetching raises."""
        if self._packed is None:
            assert self._fetch is not None
            self._packed = self._fetch()
        return self._packed

    def let_go(self) -> None:
        """Keep nothing that can be fetched again."""
        if self._fetch is not None:
            self._packed = None

    @property
    def sha256(self) -> bytes:
        if self._sha256 is None:
            import hashlib

            self._sha256 = hashlib.sha256(self.packed).digest()
        return self._sha256

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Range]:
        return map(Range._make, _RANGE.iter_unpack(self.packed))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._count == other._count and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return f"<Ranges: {self._count}>"

    def writers(self) -> set[bytes]:
        packed = self.packed
        return {packed[at : at + _WRITER_BYTES] for at in range(0, len(packed), _RANGE.size)}

    def prefixes(self, first: int = 0, end: int = 256) -> list[int]:
        """The first half of each range's writer, as a number: far faster to compare than writers are. Only of
        writers whose first byte is at least `first` and below `end`."""
        packed = self.packed
        places = range(0, len(packed), _RANGE.size)
        begin, stop = (bisect_left(places, byte, key=lambda at: packed[at]) for byte in (first, end))
        words = memoryview(packed).cast("Q")
        step = _RANGE.size // words.itemsize
        return words[begin * step : stop * step : step].tolist()

    def of_writer(self, writer: bytes) -> list[Range]:
        packed = self.packed
        places = range(0, len(packed), _RANGE.size)
        index = bisect_left(places, writer, key=lambda at: packed[at : at + _WRITER_BYTES])
        found = []
        while index < len(places) and packed.startswith(writer, places[index]):
            found.append(Range._make(_RANGE.unpack_from(packed, places[index])))
            index += 1
        return found

    def of_writers(self, writers: Collection[bytes]) -> Iterator[Range]:
        """The ranges of some writers, in order."""
        # Few are looked up one by one, many are met on the way through all.
        if len(writers) * max(1, self._count.bit_length()) < self._count:
            for writer in sorted(writers):
                yield from self.of_writer(writer)
            return
        packed = self.packed
        for at in range(0, len(packed), _RANGE.size):
            if packed[at : at + _WRITER_BYTES] in writers:
                yield Range._make(_RANGE.unpack_from(packed, at))


class Spans:
    """Spans of events, sorted, none of which touch: records of 32 bytes (writer, first seq, last seq)."""

    __slots__ = ("packed",)

    def __init__(self, packed: bytes = b"") -> None:
        self.packed = packed

    @classmethod
    def of(cls, spans: Iterable[tuple[bytes, int, int]]) -> Spans:
        """Spans that touch or overlap become one."""
        merged: list[list[bytes | int]] = []
        writer, last = b"", -2
        for span in sorted(spans):
            if merged and span[0] == writer and span[1] <= last + 1:
                last = max(last, span[2])
                merged[-1][2] = last
            else:
                writer, _, last = span
                merged.append(list(span))
        return cls(b"".join(_SPAN.pack(*span) for span in merged))

    def __len__(self) -> int:
        return len(self.packed) // _SPAN.size

    def __iter__(self) -> Iterator[Span]:
        return map(Span._make, _SPAN.iter_unpack(self.packed))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and self.packed == other.packed

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        return f"<Spans: {len(self)}>"

    @property
    def event_count(self) -> int:
        return sum(last - first + 1 for _, first, last in _SPAN.iter_unpack(self.packed))

    def of_writer(self, writer: bytes) -> list[tuple[int, int]]:
        """The first and last seq of each span of that writer."""
        packed = self.packed
        places = range(0, len(packed), _SPAN.size)
        index = bisect_left(places, writer, key=lambda at: packed[at : at + _WRITER_BYTES])
        found = []
        while index < len(places) and packed.startswith(writer, places[index]):
            found.append(_SPAN.unpack_from(packed, places[index])[1:])
            index += 1
        return found

    def sql(self) -> str:
        """A SELECT of these as `writer`, `first_seq` and `last_seq`, for a join with events.

        A filter of many spans would be tried span by span for each event; a join looks the writer up.
        """
        size = _SPAN.size
        digits = " ".join(self.packed[at : at + size].hex() for at in range(0, len(self.packed), size))
        return (
            "select unhex(s[1:32]) as writer, ('0x' || s[33:48])::BIGINT as first_seq, "
            f"('0x' || s[49:64])::BIGINT as last_seq from (select unnest(string_split('{digits}', ' ')) as s)"
        )

    def holds(self, writer: bytes, first_seq: int, last_seq: int) -> bool:
        """Whether all events of that writer from `first_seq` to `last_seq` are among these."""
        found, first, last = self._starting_until(writer, first_seq)
        return found == writer and first <= first_seq and last >= last_seq

    def meets(self, writer: bytes, first_seq: int, last_seq: int) -> bool:
        """Whether any event of that writer from `first_seq` to `last_seq` is among these."""
        found, _, last = self._starting_until(writer, last_seq)
        return found == writer and last >= first_seq

    def _starting_until(self, writer: bytes, seq: int) -> Span:
        """The last span that starts at `seq` or earlier; one of another writer when there is none."""
        packed = self.packed
        key = _SPAN.pack(writer, seq, 2**64 - 1)
        places = range(0, len(packed), _SPAN.size)
        index = bisect_left(places, key, key=lambda at: packed[at : at + _SPAN.size])
        return Span._make(_SPAN.unpack_from(packed, places[index - 1])) if index else Span(b"", 0, -1)


def settle(segments: Sequence[tuple[str, Ranges]]) -> list[Spans | None]:
    """What to read of each of these segments (id and ranges) so that every event is read once.

    None is all of it. Two segments may hold the same events (two copies of a store were sealed or
    compacted apart, then merged): of ranges that start together the longest is read, on a tie that of
    the segment with more ranges, then of the lower id; what follows starts where that ends.
    """
    shared = _shared_writers([ranges for _, ranges in segments])
    if not shared:
        return [None] * len(segments)
    claims: list[tuple[bytes, int, int, int, str, int]] = []
    held: list[list[Span]] = [[] for _ in segments]
    for index, (segment_id, ranges) in enumerate(segments):
        for r in ranges.of_writers(shared):
            claims.append((r.writer, r.first_seq, -r.last_seq, -len(ranges), segment_id, index))
            held[index].append(Span(*r[:3]))
    kept: list[list[Span]] = [[] for _ in segments]
    writer, next_free = b"", 0
    for claim in sorted(claims):
        if claim[0] != writer:
            writer, next_free = claim[0], 0
        start = max(claim[1], next_free)
        if start <= -claim[2]:
            kept[claim[5]].append(Span(writer, start, -claim[2]))
            next_free = -claim[2] + 1
    found: list[Spans | None] = []
    for index, (_, ranges) in enumerate(segments):
        if not held[index] or Spans.of(held[index]) == (spans := Spans.of(kept[index])):
            found.append(None)
        else:
            others = [Span(*r[:3]) for r in ranges if r.writer not in shared]
            found.append(Spans.of([*others, *spans]) if others else spans)
    return found


#: Up to so many writers are compared at once.
_COMPARED_MAX = 10_000


def _shared_writers(segments: Sequence[Ranges]) -> set[bytes]:
    """The writers that more than one segment has events of."""
    # A part of them at a time: as sets all together would take 12 MB for 100,000.
    step = 256 if sum(map(len, segments)) < _COMPARED_MAX else 16
    for first in range(0, 256, step) if len(segments) > 1 else ():
        told: set[int] = set()
        count = 0
        for ranges in segments:
            prefixes = set(ranges.prefixes(first, first + step))
            count += len(prefixes)
            told |= prefixes
        if len(told) != count:
            break
    else:
        return set()
    shared: set[bytes] = set()
    seen: set[bytes] = set()
    for ranges in segments:
        writers = ranges.writers()
        shared |= seen & writers
        seen |= writers
    return shared
