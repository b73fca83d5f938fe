"""One event as one frame of a journal, and a journal's bytes as frames again. Pure.

A frame is a header of 20 bytes, then the payload. The header, little endian:

    length       u32   of the payload in bytes
    seq          u64   position of the event within its writer
    header crc   u32   crc32 of the 12 bytes before
    payload crc  u32   crc32 of the payload

The payload is a msgpack list: the event's columns in the order of `schema.COLUMNS`, from `kind` on.
Columns at the end that hold their default are left out. `writer` is not repeated: the file's name says it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from math import isfinite, isnan
from typing import Any, NamedTuple
from zlib import crc32

import msgpack

from weft.lineage.schema import Event

__all__ = [
    "HEADER_BYTES",
    "Flaw",
    "Frame",
    "Payloads",
    "Rows",
    "decode",
    "decode_frame",
    "encode",
    "json_text",
    "kind_of",
    "read_payloads",
    "read_rows",
    "row_of",
    "scan",
]

_HEADER = struct.Struct("<IQII")
_CHECKED = struct.Struct("<IQ")

HEADER_BYTES = _HEADER.size

_KIND = Event._fields.index("kind")
_TIME = Event._fields.index("time_us")
_PAYLOAD = Event._fields.index("payload")
_EPOCH = Event._fields.index("epoch")
_DEFAULTS = tuple(Event())
_STORED_COLUMNS = len(_DEFAULTS) - _KIND

_CLOSING = "journal_closed"

#: The payload of a frame that closes a journal is no longer than this: only such ones are looked at.
_CLOSING_MAX_BYTES = 68

#: How msgpack begins a list of up to 15 values, and one of more; and, in its three low bits, a text of up to 31 bytes.
_SHORT_LISTS = range(0x91, 0xA0)
_LONG_LIST, _LONG_LIST_BYTES = 0xDC, 3
_SHORT_TEXTS = range(0xA0, 0xC0)

#: A crash may leave a file that is longer than what was written; the part that was not is zeros from a
#: sector boundary on.
_SECTOR_BYTES = 512


class Frame(NamedTuple):
    """One whole frame: where it lies, header included, and the event in it."""

    offset: int
    length: int
    event: Event


class Flaw(NamedTuple):
    """Bytes that are no whole frame. Torn: the writer was cut off and nothing here was acknowledged."""

    offset: int
    length: int
    is_torn: bool
    reason: str


class Rows(NamedTuple):
    """The whole frames at the beginning of a journal's bytes, as lists: seq, then the columns from kind on.

    Columns that hold their default may be missing at the end. `last_offset` is where the last frame starts,
    `end` where it ends: the frame that closes the journal, or what comes before the first flaw.
    """

    rows: list[list[Any]]
    last_offset: int
    end: int

    def is_closed(self) -> bool:
        return bool(self.rows) and self.rows[-1][1] == _CLOSING


class Payloads(NamedTuple):
    """The payloads of the whole frames at the beginning of a journal's bytes, by seq, and where the last one ends.

    Their checksums were found right; whether they are lists of columns, `decode` says.
    """

    payloads: list[bytes]
    end: int


def encode(event: Event, seq: int, time_us: int) -> bytes:
    """The frame of an event that is committed as number `seq` at `time_us`.

    Text that is no valid Unicode (a file name of other bytes) is stored with backslash escapes.
    """
    last = len(event)
    if event.epoch == 0:
        last = _EPOCH
        while event[last - 1] is None:
            last -= 1
    columns = (event.kind, event.version, time_us, *event[_TIME + 1 : last])
    try:
        payload: bytes = msgpack.packb(columns)
    except UnicodeEncodeError:
        payload = msgpack.packb(columns, unicode_errors="backslashreplace")
    checked = _CHECKED.pack(len(payload), seq)
    return checked + crc32(checked).to_bytes(4, "little") + crc32(payload).to_bytes(4, "little") + payload


def decode(writer: bytes, seq: int, payload: bytes | memoryview) -> Event:
    """The event of a payload whose checksum was found right.

    Columns that are missing at the end have their defaults; those of a newer weft are left out.

    Raises: ValueError when it is not a list of columns.
    """
    columns = msgpack.unpackb(payload, strict_map_key=False)
    if type(columns) is not list or not columns or type(columns[0]) is not str:
        raise ValueError("the payload is not a list of columns")
    if len(columns) > _STORED_COLUMNS:
        del columns[_STORED_COLUMNS:]
    return Event(writer, seq, *columns)


def decode_frame(writer: bytes, frame: bytes) -> Event:
    """The event of exactly one frame.

    Raises: ValueError when it is not whole or fails a check.
    """
    found = _frame_at(writer, frame, 0)
    if isinstance(found, str):
        raise ValueError(found)  # noqa: TRY004 - the bytes are wrong, not their type
    if found.length != len(frame):
        raise ValueError("more bytes than one frame")
    return found.event


def scan(writer: bytes, buffer: bytes) -> Iterator[Frame | Flaw]:
    """Every frame of a journal's bytes, in order, and a `Flaw` for each stretch between that is none.

    After damage, frames are found again where header and payload check and seq is higher than before.
    A buffer that ends inside a frame, or in zeros, ends with a torn `Flaw`.
    """
    offset = 0
    last_seq = -1
    size = len(buffer)
    while offset < size:
        found = _frame_at(writer, buffer, offset)
        if isinstance(found, Frame):
            yield found
            last_seq = found.event.seq
            offset += found.length
            continue
        if _is_torn(buffer, offset):
            yield Flaw(offset, size - offset, True, "the file ends inside a frame")
            return
        resumed = _resync(writer, buffer, offset, last_seq)
        yield Flaw(offset, resumed - offset, False, found)
        offset = resumed


def read_payloads(buffer: bytes, first_seq: int) -> Payloads:
    """The frames that follow each other from the first byte on, up to the closing one or the first that fails a check.

    This is `scan` without its patience, several times as fast: where it stops early, `scan` tells why.
    """
    unpack, check = _HEADER.unpack_from, crc32
    checked = _CHECKED.size
    payloads: list[bytes] = []
    add = payloads.append
    seq = first_seq
    end = 0
    size = len(buffer) - HEADER_BYTES
    while end <= size:
        length, found_seq, header_crc, payload_crc = unpack(buffer, end)
        start = end + HEADER_BYTES
        payload = buffer[start : start + length]
        if (
            found_seq != seq
            or check(payload) != payload_crc
            or check(buffer[end : end + checked]) != header_crc
            or len(payload) != length
        ):
            break
        add(payload)
        seq += 1
        end = start + length
        if length <= _CLOSING_MAX_BYTES and kind_of(payload) == _CLOSING:
            break
    return Payloads(payloads, end)


def read_rows(buffer: bytes, first_seq: int) -> Rows:
    """As `read_payloads`, unpacked."""
    unpackb = msgpack.unpackb
    rows: list[list[Any]] = []
    last_offset = end = 0
    for seq, payload in enumerate(read_payloads(buffer, first_seq).payloads, first_seq):
        try:
            columns = unpackb(payload, strict_map_key=False)
        except (ValueError, TypeError):
            break
        if type(columns) is not list or not columns or type(columns[0]) is not str:
            break
        kind = columns[0]
        columns.insert(0, seq)
        if len(columns) > _STORED_COLUMNS + 1:
            del columns[_STORED_COLUMNS + 1 :]
        rows.append(columns)
        last_offset, end = end, end + HEADER_BYTES + len(payload)
        if kind == _CLOSING:
            break
    return Rows(rows, last_offset, end)


def kind_of(payload: bytes) -> str | None:
    """The kind of a payload's event, or of its first bytes, without unpacking it; None where that does not tell it."""
    if len(payload) < _LONG_LIST_BYTES + 1:
        return None
    if payload[0] == _LONG_LIST:
        start = _LONG_LIST_BYTES
    elif payload[0] in _SHORT_LISTS:
        start = 1
    else:
        return None
    mark = payload[start]
    kind = payload[start + 1 : start + 1 + mark - _SHORT_TEXTS.start]
    if mark not in _SHORT_TEXTS or len(kind) < mark - _SHORT_TEXTS.start:
        return None
    return kind.decode("utf-8", "replace")


def row_of(event: Event) -> tuple[Any, ...]:
    """The event as a row of a segment: its columns, with the payload as JSON text."""
    if event.payload is None:
        return event
    return (*event[:_PAYLOAD], json_text(event.payload), *event[_PAYLOAD + 1 :])


def _frame_at(writer: bytes, buffer: bytes, offset: int) -> Frame | str:
    """The frame that starts at `offset`, or what is wrong with it."""
    start = offset + HEADER_BYTES
    if start > len(buffer):
        return "a header is cut short"
    length, seq, header_crc, payload_crc = _HEADER.unpack_from(buffer, offset)
    if crc32(buffer[offset : offset + _CHECKED.size]) != header_crc:
        return "a frame's header fails its checksum"
    payload = buffer[start : start + length]
    if len(payload) < length:
        return "a payload is cut short"
    if crc32(payload) != payload_crc:
        return "a frame's payload fails its checksum"
    try:
        return Frame(offset, HEADER_BYTES + length, decode(writer, seq, payload))
    except (ValueError, TypeError) as error:
        return f"a frame's payload cannot be read ({error})"


def _declared_end(buffer: bytes, offset: int) -> int | None:
    """Where the frame at `offset` says it ends; None when its header is cut or fails its checksum."""
    if offset + HEADER_BYTES > len(buffer):
        return None
    length, _, header_crc, _ = _HEADER.unpack_from(buffer, offset)
    if crc32(buffer[offset : offset + _CHECKED.size]) != header_crc:
        return None
    return offset + HEADER_BYTES + int(length)


def _is_torn(buffer: bytes, offset: int) -> bool:
    """Whether the frame that fails at `offset` was cut off, rather than changed later."""
    size = len(buffer)
    if size - offset < HEADER_BYTES:
        return True
    end = _declared_end(buffer, offset)
    if end is not None and end > size:
        return True
    zeros_from = offset + len(buffer[offset:].rstrip(b"\0"))
    if zeros_from == offset:
        return True
    # Zeros that begin at a sector of this frame and go on to the end: the rest was never written.
    sector = -(-zeros_from // _SECTOR_BYTES) * _SECTOR_BYTES
    return sector < min(size, offset + HEADER_BYTES if end is None else end)


def _resync(writer: bytes, buffer: bytes, offset: int, last_seq: int) -> int:
    """Where the next whole frame starts after the one that fails at `offset`; the buffer's end if none does."""
    end = _declared_end(buffer, offset)
    if end is not None and (end == len(buffer) or _is_later_frame(writer, buffer, end, last_seq)):
        return end
    # The two high bytes of a seq are zero: looking for them skips most places at the speed of `find`.
    high_bytes = _CHECKED.size - 2
    position = offset + 1
    while (zeros := buffer.find(b"\0\0", position + high_bytes)) >= 0:
        position = zeros - high_bytes
        if _is_later_frame(writer, buffer, position, last_seq):
            return position
        position += 1
    return len(buffer)


def _is_later_frame(writer: bytes, buffer: bytes, offset: int, last_seq: int) -> bool:
    if _declared_end(buffer, offset) is None:
        return False
    found = _frame_at(writer, buffer, offset)
    return isinstance(found, Frame) and found.event.seq > last_seq


def json_text(payload: Any) -> str:
    """A payload as segments hold it; NaN and infinities become texts, which JSON has not."""
    encode_json = _json_encoder()
    try:
        return encode_json(payload)
    except ValueError:
        return encode_json(_without_nan(payload))


@cache
def _json_encoder() -> Callable[[Any], str]:
    from json import encoder

    # `json.dumps` makes an encoder for each call, and `JSONEncoder.encode` one of those that are compiled:
    # both take longer than the encoding.
    slow = encoder.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    make = getattr(encoder, "c_make_encoder", None)
    quote = getattr(encoder, "encode_basestring", None)
    if make is None or quote is None:
        return slow

    def refuse(value: object) -> None:
        raise TypeError(f"a payload holds {type(value).__name__}, which is no plain value")

    fast = make(None, refuse, quote, None, ":", ",", False, False, False)
    return lambda payload: "".join(fast(payload, 0))


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinities: they become the texts "NaN", "Infinity" and "-Infinity"."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
