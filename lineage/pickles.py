"""The one place that pickles: values no typed serializer takes. Loading a pickle can run any code.

`pickle/5` is a pickle of protocol 5 as it is. `pickle-buffers/1` keeps large buffers out of the pickle:

    bytes 0…7   length of the directory, little-endian
    directory   msgpack [[offset, size, is_readonly], …]: the pickle first, then its buffers in order
    contents    each at its offset from the start of all, a multiple of 64

Source: PEP 574.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from weft.lineage.arrays import map_private

__all__ = ["PICKLE", "PICKLE_BUFFERS", "dump_pickle", "load_pickle", "plain_pickle"]

PICKLE = "pickle/5"
PICKLE_BUFFERS = "pickle-buffers/1"

_PROTOCOL = 5
_ALIGNMENT_BYTES = 64
#: Smaller buffers stay in the pickle: they cost less copied than listed.
_BUFFER_BYTES_MIN = 4096


def dump_pickle(value: object) -> tuple[str, list[bytes | memoryview]]:
    """The serializer and the parts of a value; raises whatever its pickling raises."""
    import pickle

    buffers: list[memoryview] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        if raw.nbytes < _BUFFER_BYTES_MIN:
            return True
        buffers.append(raw)
        return False

    pickled = pickle.dumps(value, protocol=_PROTOCOL, buffer_callback=keep_inside)
    if not buffers:
        return PICKLE, [pickled]
    return PICKLE_BUFFERS, _join([memoryview(pickled), *buffers])


def plain_pickle(value: object) -> bytes:
    """One pickle that any Python reads without weft; raises whatever its pickling raises."""
    import pickle

    return pickle.dumps(value, protocol=4)


def load_pickle(serializer: str, data: bytes | memoryview, path: str | None) -> Any:
    """The value; raises whatever its unpickling raises. With `path` its buffers are mapped, copied on write."""
    import pickle

    if serializer == PICKLE:
        return pickle.loads(data)
    view = memoryview(data)
    (size,) = struct.unpack_from("<Q", view)
    directory = msgpack.unpackb(view[8 : 8 + size])
    changeable = None if path is None else memoryview(map_private(path))
    buffers: list[Any] = []
    for offset, length, is_readonly in directory[1:]:
        if changeable is not None:
            part = changeable[offset : offset + length]
            buffers.append(part.toreadonly() if is_readonly else part)
        else:
            taken = view[offset : offset + length]
            buffers.append(bytes(taken) if is_readonly else bytearray(taken))
    offset, length, _ = directory[0]
    return pickle.loads(view[offset : offset + length], buffers=buffers)


def _join(contents: list[memoryview]) -> list[bytes | memoryview]:
    """The parts of an object that begins with its directory; ends are padded to the alignment."""
    # The directory's own length depends on the offsets it holds: integers of fixed width break the circle.
    entries = [(0, content.nbytes, content.readonly) for content in contents]
    start = _aligned(8 + len(_directory(entries)))
    placed, offset = [], start
    for content in contents:
        placed.append((offset, content.nbytes, content.readonly))
        offset = _aligned(offset + content.nbytes)
    directory = _directory(placed)
    head = struct.pack("<Q", len(directory)) + directory
    parts: list[bytes | memoryview] = [head + bytes(start - len(head))]
    for content in contents:
        parts.append(content)
        padding = _aligned(content.nbytes) - content.nbytes
        if padding:
            parts.append(bytes(padding))
    return parts


def _directory(entries: list[tuple[int, int, bool]]) -> bytes:
    """msgpack whose offsets and sizes always take nine bytes."""
    packer = msgpack.Packer()
    parts = [packer.pack_array_header(len(entries))]
    for offset, size, is_readonly in entries:
        parts += [b"\x93\xcf", struct.pack(">Q", offset), b"\xcf", struct.pack(">Q", size)]
        parts.append(b"\xc3" if is_readonly else b"\xc2")
    return b"".join(parts)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
