"""Sealed events written once more as the frames they came from: the running hash of each range must come out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from math import inf, nan
from typing import Any, NamedTuple

from weft.lineage.codec import encode
from weft.lineage.ranges import Range, Ranges
from weft.lineage.schema import COLUMNS, Event

__all__ = ["Replay", "replay"]

_FETCHED_ROWS = 10_000

#: Events that are sorted at once: with all their columns more would not fit into the memory of the reader.
_SORTED_EVENTS = 100_000

_PAYLOAD = Event._fields.index("payload")
_EPOCH = Event._fields.index("epoch")

#: JSON has none of these. Their texts stand for the numbers, or for themselves: both are tried, for a range as a whole.
_NUMBERS = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}


class Replay(NamedTuple):
    """A range whose events are not those its hash is of, and what is wrong with them."""

    range: Range
    reason: str


def replay(
    connection: Any,
    query: str,
    ranges: Ranges,
    sorted_events: int = _SORTED_EVENTS,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Replay]:
    """Check the ranges of one segment, whose events `query` selects.

    `progress` is told of each few thousand events. Raises: DuckDB's errors.
    """
    waiting = iter(ranges)
    upcoming = next(waiting, None)
    active: list[_Running] = []
    for row in _in_order(connection, query, _cuts(ranges, sorted_events), progress):
        place = (row[0], row[1])
        while upcoming is not None and (upcoming.writer, upcoming.first_seq) <= place:
            active.append(_Running(upcoming))
            upcoming = next(waiting, None)
        for running in [r for r in active if (r.range.writer, r.range.last_seq) < place]:
            active.remove(running)
            yield from running.findings()
        if not active:
            continue
        plain, guessed = _frames(row)
        for running in active:
            running.take(row[1], plain, guessed, row[2] == "journal_closed")
    for running in active:
        yield from running.findings()
    while upcoming is not None:
        yield from _Running(upcoming).findings()
        upcoming = next(waiting, None)


def _cuts(ranges: Ranges, sorted_events: int) -> list[tuple[bytes, int]]:
    """Places (writer, seq) between which there are about so many events."""
    found = set()
    count = 0
    for r in ranges:
        first = r.first_seq
        while count + r.last_seq + 1 - first > sorted_events:
            first += sorted_events - count
            found.add((r.writer, first))
            count = 0
        count += r.last_seq + 1 - first
    return sorted(found)


def _in_order(
    connection: Any, query: str, cuts: list[tuple[bytes, int]], progress: Callable[[int], None] | None
) -> Iterator[tuple[Any, ...]]:
    """The events by writer and seq, from one cut to the next."""
    names = ", ".join(column.name for column in COLUMNS)
    for low, high in zip([None, *cuts], [*cuts, None], strict=True):
        conditions: list[str] = []
        parameters: list[bytes | int] = []
        for cut, within, at in ((low, ">", ">="), (high, "<", "<")):
            if cut is not None:
                conditions.append(f"writer {within}= ? and (writer {within} ? or seq {at} ?)")
                parameters += (cut[0], *cut)
        where = f"where {' and '.join(conditions)}" if conditions else ""
        cursor = connection.execute(f"select {names} from ({query}) {where} order by writer, seq", parameters)
        while rows := cursor.fetchmany(_FETCHED_ROWS):
            yield from rows
            if progress is not None:
                progress(len(rows))


class _Running:
    """The hash of one range as far as its events have come."""

    def __init__(self, r: Range) -> None:
        self.range = r
        self._plain = hashlib.sha256()
        self._guessed = hashlib.sha256()
        self._next_seq = r.first_seq
        self._trouble: str | None = None

    def take(self, seq: int, plain: bytes, guessed: bytes, is_closing: bool) -> None:
        if seq != self._next_seq and self._trouble is None:
            what = "is there twice" if seq < self._next_seq else f"follows seq {self._next_seq - 1}"
            self._trouble = f"seq {seq} {what}"
        self._next_seq = seq + 1
        if not is_closing:
            self._plain.update(plain)
            self._guessed.update(guessed)

    def findings(self) -> Iterator[Replay]:
        if self._trouble is None and self._next_seq != self.range.last_seq + 1:
            self._trouble = f"seq {self._next_seq} is not there"
        if self._trouble is not None:
            yield Replay(self.range, self._trouble)
        elif self.range.running_hash not in (self._plain.digest(), self._guessed.digest()):
            yield Replay(self.range, "the running hash of its journal does not come out")


def _frames(row: tuple[Any, ...]) -> tuple[bytes, bytes]:
    """The frame of a row, and the same with the texts of `_NUMBERS` as numbers."""
    import json

    text = row[_PAYLOAD]
    payload = None if text is None else json.loads(text)
    event = Event._make((*row[:_PAYLOAD], payload, *row[_PAYLOAD + 1 : _EPOCH], row[_EPOCH] or 0))
    plain = encode(event, event.seq, event.time_us)
    if text is None or ('NaN"' not in text and 'Infinity"' not in text):
        return plain, plain
    return plain, encode(event._replace(payload=_with_numbers(payload)), event.seq, event.time_us)


def _with_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    return _NUMBERS.get(value, value) if isinstance(value, str) else value
