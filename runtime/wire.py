"""What scheduler and workers say to each other: length-prefixed msgpack messages over a stream socket.

A worker reads and writes its socket as a bare descriptor: making a socket object costs a fresh fork a
tenth of a millisecond.

    scheduler → worker   ["task", {…}]                          once, see `weft.runtime.worker.TaskOrder`
    worker → scheduler   ["started", pid]
                         ["finished", {"events": […], "items": […]}]   last; nothing of a task counts before it
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from weft.lineage.schema import Event

__all__ = ["MessageReader", "event_of", "pack_message", "receive_message", "row_of", "send_message"]

_READ_BYTES = 1 << 20
_LENGTH = struct.Struct("<I")

# One for all messages of a process: a packer of its own would map and unmap a buffer for each. Only main threads
# speak. A text may hold what is no Unicode, such as the name of a file in a user's message.
_packer = msgpack.Packer(use_bin_type=True, unicode_errors="backslashreplace")
_COLUMNS_STAMPED = 2  # writer and seq are given at commit

_DEFAULTS = tuple(Event())


def pack_message(kind: str, body: Any) -> bytes:
    """One message, ready to be sent."""
    payload: bytes = _packer.pack([kind, body])
    return _LENGTH.pack(len(payload)) + payload


def receive_message(descriptor: int) -> tuple[str, Any]:
    """Wait for one whole message.

    Raises: EOFError when the other side is gone.
    """
    (length,) = _LENGTH.unpack(_read_exactly(descriptor, _LENGTH.size))
    kind, body = msgpack.unpackb(_read_exactly(descriptor, length), raw=False, strict_map_key=False)
    return kind, body


def send_message(descriptor: int, message: bytes) -> None:
    """Write one whole message. Raises: BrokenPipeError when the other side is gone."""
    rest = memoryview(message)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_exactly(descriptor: int, count: int) -> bytes:
    chunk = os.read(descriptor, count)
    if len(chunk) == count:
        return chunk
    received = bytearray(chunk)
    while chunk and len(received) < count:
        chunk = os.read(descriptor, min(count - len(received), _READ_BYTES))
        received += chunk
    if not chunk:
        raise EOFError("the other side closed its socket")
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
