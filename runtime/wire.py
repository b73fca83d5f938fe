"""What scheduler and workers say to each other: length-prefixed msgpack messages over a stream socket. Pure
but for the socket it is handed.

    scheduler → worker   ["task", {…}]                          once, see `weft.runtime.worker.TaskOrder`
    worker → scheduler   ["started", pid]
                         ["finished", {"events": […], "items": […]}]   last; nothing of a task counts before it
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgpack

from weft.lineage.events import Event

if TYPE_CHECKING:
    import socket

__all__ = ["MessageReader", "event_of", "pack_message", "receive_message", "row_of"]

_LENGTH = struct.Struct("<I")
_COLUMNS_STAMPED = 2  # writer and seq are given at commit

_DEFAULTS = tuple(Event())


def pack_message(kind: str, body: Any) -> bytes:
    """One message, ready to be sent."""
    payload: bytes = msgpack.packb([kind, body], use_bin_type=True)
    return _LENGTH.pack(len(payload)) + payload


def receive_message(connection: socket.socket) -> tuple[str, Any]:
    """Wait for one whole message.

    Raises: EOFError when the other side is gone.
    """
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    kind, body = msgpack.unpackb(_receive_exactly(connection, length), raw=False, strict_map_key=False)
    return kind, body


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        chunk = connection.recv(min(count - len(received), 1 << 20))
        if not chunk:
            raise EOFError("the other side closed its socket")
        received += chunk
    return bytes(received)


class MessageReader:
    """Whole messages out of whatever has arrived so far."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[str, Any]]:
        """The messages that `chunk` completes, in order."""
        self._buffer += chunk
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            kind, body = msgpack.unpackb(payload, raw=False, strict_map_key=False)
            yield kind, body


def row_of(event: Event) -> list[Any]:
    """The columns of an uncommitted event, trailing defaults left out."""
    row = list(event[_COLUMNS_STAMPED:])
    while row and row[-1] == _DEFAULTS[len(row) + _COLUMNS_STAMPED - 1]:
        row.pop()
    return row


def event_of(row: list[Any]) -> Event:
    """The inverse of `row_of`."""
    return Event(b"", -1, *row)
