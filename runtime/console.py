"""What a task prints, line by line: cut from a pipe's bytes, bounded, and packed into events."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple

import msgpack

from weft.lineage import clock, events
from weft.lineage.ids import TaskRef
from weft.lineage.objects import Objects
from weft.lineage.schema import Event

__all__ = ["ConsoleStream", "Line"]

#: A chunk becomes an event once it holds this much text, or once its oldest line is this old.
CHUNK_BYTES = 256 << 10
CHUNK_AGE_S = 1.0
#: Compressed chunks up to this size lie inside their event.
CHUNK_INLINE_BYTES_MAX = 64 << 10
LINE_BYTES_MAX = 64 << 10
#: How long a line may stay unfinished before it is shown and stored as it is.
PARTIAL_AGE_S = 0.5


class Line(NamedTuple):
    """One line of output without its end; `time_us` is when it was read."""

    time_us: int
    text: str


class ConsoleStream:
    """One stream of one attempt. `max_bytes` of text are kept, then a marker says that the rest was not.

    A carriage return starts a line over, as on a terminal: of a burst of progress only the last state
    is kept. Bytes that are no UTF-8 are replaced.
    """

    __slots__ = (
        "_attempt",
        "_kept_bytes",
        "_max_bytes",
        "_objects",
        "_on_line",
        "_partial",
        "_partial_since_s",
        "_pending",
        "_pending_bytes",
        "_pending_since_s",
        "_task",
        "name",
    )

    def __init__(
        self,
        name: str,
        task: TaskRef,
        attempt: int,
        max_bytes: int,
        objects: Objects,
        on_line: Callable[[str, Line], None],
    ) -> None:
        self.name = name
        self._task = task
        self._attempt = attempt
        self._max_bytes = max_bytes
        self._objects = objects
        self._on_line = on_line
        self._kept_bytes = 0
        self._partial = b""
        self._partial_since_s = 0.0
        self._pending: list[Line] = []
        self._pending_bytes = 0
        self._pending_since_s = 0.0

    def feed(self, data: bytes) -> None:
        """Take in what was read from the pipe."""
        time_us = clock.now_us()
        *whole, rest = (self._partial + data).split(b"\n") if self._partial else data.split(b"\n")
        for raw in whole:
            self._keep(raw, time_us)
        if rest and (not self._partial or whole):
            self._partial_since_s = clock.monotonic_s()
        while len(rest) > LINE_BYTES_MAX:
            end = _character_start(rest, LINE_BYTES_MAX)
            self._keep(rest[:end], time_us)
            rest = rest[end:]
        self._partial = rest

    def due_events(self) -> list[Event]:
        """The chunk, if it is large or old enough; an unfinished line that waits too long is part of it."""
        now_s = clock.monotonic_s()
        if self._partial and now_s - self._partial_since_s >= PARTIAL_AGE_S:
            self._flush_partial()
        if self._pending and (
            self._pending_bytes >= CHUNK_BYTES or now_s - self._pending_since_s >= CHUNK_AGE_S
        ):
            return self._chunk()
        return []

    def last_events(self) -> list[Event]:
        """Everything that is left, at the attempt's end."""
        if self._partial:
            self._flush_partial()
        return self._chunk() if self._pending else []

    @property
    def is_waiting(self) -> bool:
        """Whether something is held that becomes due as time passes."""
        return bool(self._partial or self._pending)

    def _flush_partial(self) -> None:
        partial, self._partial = self._partial, b""
        self._keep(partial, clock.now_us())

    def _keep(self, raw: bytes, time_us: int) -> None:
        if b"\r" in raw:
            raw = next((part for part in reversed(raw.split(b"\r")) if part), b"")
        text = raw.decode("utf-8", "replace")
        if self._kept_bytes > self._max_bytes:
            return
        self._kept_bytes += len(raw) + 1
        if self._kept_bytes > self._max_bytes:
            text = f"[output cut after {self._max_bytes:,} bytes; raise the limit with --max-log-size]"
        line = Line(time_us, text)
        if not self._pending:
            self._pending_since_s = clock.monotonic_s()
        self._pending.append(line)
        self._pending_bytes += len(raw) + 1
        self._on_line(self.name, line)

    def _chunk(self) -> list[Event]:
        lines, self._pending = self._pending, []
        size_bytes, self._pending_bytes = self._pending_bytes, 0
        packed = zlib.compress(msgpack.packb(lines), 1)
        digest = None
        if len(packed) > CHUNK_INLINE_BYTES_MAX:
            digest = self._objects.put([packed])
        return [
            events.console_written(
                self._task,
                self._attempt,
                self.name,
                len(lines),
                size_bytes,
                packed if digest is None else None,
                digest,
            )
        ]


def _character_start(data: bytes, place: int) -> int:
    """The last place up to `place` where a character of UTF-8 begins, if one does within the length of one."""
    for start in range(place, place - 4, -1):
        if data[start] & 0xC0 != 0x80:
            return start
    return place
