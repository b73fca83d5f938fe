"""Frames: every kind comes back as it went in, and what is no frame is told apart."""

from __future__ import annotations

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.lineage.codec import (
    HEADER_BYTES,
    Flaw,
    Frame,
    decode,
    decode_frame,
    encode,
    kind_of,
    read_payloads,
    read_rows,
    row_of,
    scan,
)
from weft.lineage.events import journal_closed
from weft.lineage.schema import COLUMNS, KINDS, Event

WRITER = bytes(range(16))
TIME_US = 1_800_000_000_000_000

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
int64s = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | int64s | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
_BY_TYPE: dict[str, st.SearchStrategy[object]] = {
    "VARCHAR": texts,
    "BIGINT": int64s,
    "SMALLINT": st.integers(-(2**15), 2**15 - 1),
    "DOUBLE": st.floats(allow_nan=False),
    "BOOLEAN": st.booleans(),
    "BLOB": st.binary(max_size=40),
}
_SPECIAL: dict[str, st.SearchStrategy[object]] = {
    "kind": st.sampled_from([*KINDS, "kind_of_a_newer_weft"]),
    "version": st.integers(1, 9),
    "writer": st.just(b""),
    "seq": st.just(-1),
    "time_us": st.just(0),
    "run_uid": st.none() | st.binary(min_size=16, max_size=16),
    "digest": st.none() | st.binary(min_size=32, max_size=32),
    "payload": st.none() | st.dictionaries(texts, json_values, max_size=4),
    "epoch": st.integers(0, 9),
}


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Any event, as it is before it is committed."""
    columns = {
        column.name: draw(
            _SPECIAL[column.name] if column.name in _SPECIAL else st.none() | _BY_TYPE[column.sql_type]
        )
        for column in COLUMNS
    }
    return Event(**columns)  # type: ignore[arg-type]  # each strategy gives its column's type


@given(events(), st.integers(0, 2**48))
def test_event_comes_back_from_its_frame(event: Event, seq: int) -> None:
    committed = event._replace(writer=WRITER, seq=seq, time_us=TIME_US)
    assert decode_frame(WRITER, encode(event, seq, TIME_US)) == committed


@given(events(), st.integers(0, 40))
def test_kind_is_told_without_unpacking_or_not_at_all(event: Event, cut: int) -> None:
    payload = encode(event, 0, TIME_US)[HEADER_BYTES:]
    assert kind_of(payload) == event.kind
    assert kind_of(payload[:cut]) in (None, event.kind)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x91",
        b"\x91\xa3ru",
        b"\x92\x01\xa3run",
        b"\x90\xa3run",
        b"\x81\xa3run\x01",
        b"\xdc\x00\x10",
        b"\xdc\x00\x10\x01\xa3run",
        b"\x91\xd9\x03run",
        b"\xdd\x00\x00\x00\x01\xa3run",
    ],
)
def test_what_begins_otherwise_than_our_payloads_tells_no_kind(payload: bytes) -> None:
    assert kind_of(payload) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_and_defaults_at_the_end_take_no_room(kind: str) -> None:
    frame = encode(Event(kind=kind), 7, TIME_US)
    assert msgpack.unpackb(frame[HEADER_BYTES:]) == [kind, 1, TIME_US]
    assert decode_frame(WRITER, frame) == Event(WRITER, 7, kind, 1, TIME_US)


def test_columns_of_a_newer_weft_are_left_out() -> None:
    columns = [*Event(kind="tag_added", time_us=5)[2:], "a column", "and another"]
    assert decode(WRITER, 3, msgpack.packb(columns)) == Event(WRITER, 3, "tag_added", 1, 5)


@pytest.mark.parametrize("value", [None, {}, [], [1], "text"])
def test_payload_that_is_no_list_of_columns_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not a list of columns"):
        decode(WRITER, 0, msgpack.packb(value))


def test_text_that_is_no_unicode_is_stored_escaped() -> None:
    event = Event(kind="run_started", name="caf\udce9", payload={"command": ["a\udcff"]})
    stored = decode_frame(WRITER, encode(event, 0, TIME_US))
    assert (stored.name, stored.payload) == ("caf\\udce9", {"command": ["a\\udcff"]})


def test_row_holds_the_payload_as_json_without_nan() -> None:
    event = Event(kind="x", payload={"a": float("nan"), "b": [float("-inf"), (1.5, float("inf"))], "c": "é"})
    text = row_of(event)[Event._fields.index("payload")]
    assert json.loads(text) == {"a": "NaN", "b": ["-Infinity", [1.5, "Infinity"]], "c": "é"}
    assert row_of(Event(kind="x")) == Event(kind="x")


def _frames(count: int, first_seq: int = 0) -> list[bytes]:
    return [
        encode(Event(kind="tag_added", name=f"tag {n}" * 3), n, TIME_US)
        for n in range(first_seq, first_seq + count)
    ]


def _seqs(buffer: bytes) -> list[int]:
    return [found.event.seq for found in scan(WRITER, buffer) if isinstance(found, Frame)]


def _flaws(buffer: bytes) -> list[Flaw]:
    return [found for found in scan(WRITER, buffer) if isinstance(found, Flaw)]


def test_scan_tells_where_each_frame_lies() -> None:
    frames = _frames(3)
    found = list(scan(WRITER, b"".join(frames)))
    assert [(f.offset, f.length) for f in found] == [(0, 64), (64, 64), (128, 64)]
    assert _seqs(b"".join(frames)) == [0, 1, 2]
    assert list(scan(WRITER, b"")) == []


def test_frames_are_read_at_once_up_to_the_first_that_fails_a_check() -> None:
    frames = _frames(4, first_seq=3)
    buffer = b"".join(frames)
    size = len(frames[0])
    payloads = [frame[HEADER_BYTES:] for frame in frames]
    assert read_payloads(buffer, 3) == (payloads, len(buffer))
    assert read_payloads(buffer, 2) == ([], 0)
    for cut in range(len(buffer)):
        assert read_payloads(buffer[:cut], 3) == (payloads[: cut // size], cut - cut % size)
    for position in range(len(buffer)):
        flipped = bytearray(buffer)
        flipped[position] ^= 4
        assert read_payloads(bytes(flipped), 3) == (payloads[: position // size], position - position % size)


def test_nothing_is_read_behind_the_frame_that_closes_a_journal() -> None:
    """What is there is damage, which `scan` tells."""
    closing = encode(journal_closed(bytes(32)), 2, TIME_US)
    frames = [*_frames(2), closing]
    buffer = b"".join([*frames, *_frames(1, first_seq=3)])
    end = len(b"".join(frames))
    assert read_payloads(buffer, 0) == ([frame[HEADER_BYTES:] for frame in frames], end)
    rows = read_rows(buffer, 0)
    assert ([row[0] for row in rows.rows], rows.end, rows.is_closed()) == ([0, 1, 2], end, True)
    assert rows.last_offset == end - len(closing)


def test_cut_anywhere_is_torn_and_keeps_the_frames_before() -> None:
    frames = _frames(3)
    buffer = b"".join(frames)
    for cut in range(len(buffer)):
        whole = cut // len(frames[0])
        assert _seqs(buffer[:cut]) == list(range(whole))
        assert [flaw.is_torn for flaw in _flaws(buffer[:cut])] == [True] * (cut % len(frames[0]) > 0)


@pytest.mark.parametrize("zeros", [1, 19, 20, 21, 512, 5000])
def test_zeros_at_the_end_are_torn(zeros: int) -> None:
    buffer = b"".join(_frames(2))
    assert _seqs(buffer + bytes(zeros)) == [0, 1]
    assert _flaws(buffer + bytes(zeros)) == [Flaw(len(buffer), zeros, True, "the file ends inside a frame")]


def test_sectors_that_were_never_written_are_torn() -> None:
    """A crash may leave the file's new length on disk, but only some of its sectors."""
    event = Event(kind="console_written", blob=b"x" * 3000)
    buffer = encode(event, 0, TIME_US) + encode(event, 1, TIME_US)
    written = buffer[: 512 * 8] + bytes(len(buffer) - 512 * 8)
    assert _seqs(written) == [0]
    assert [flaw.is_torn for flaw in _flaws(written)] == [True]


def test_flip_of_any_byte_hides_one_frame_and_is_damage() -> None:
    frames = _frames(3)
    buffer = b"".join(frames)
    for position in range(len(buffer)):
        flipped = bytearray(buffer)
        flipped[position] ^= 0x41
        hit = position // len(frames[0])
        assert _seqs(bytes(flipped)) == [n for n in range(3) if n != hit]
        flaws = _flaws(bytes(flipped))
        assert [(flaw.offset, flaw.length, flaw.is_torn) for flaw in flaws] == [(hit * 64, 64, False)]


def test_frames_stored_inside_a_frame_do_not_come_up_after_damage() -> None:
    inner = b"".join(_frames(2, first_seq=50))
    buffer = bytearray(encode(Event(kind="artifact_saved", blob=inner), 0, TIME_US) + _frames(1, 1)[0])
    buffer[30] ^= 1
    assert _seqs(bytes(buffer)) == [1]


@given(st.binary(max_size=300), st.integers(0, 3))
def test_scan_covers_every_byte_of_anything(noise: bytes, count: int) -> None:
    buffer = b"".join(_frames(count)) + noise + b"".join(_frames(1, 9))
    offset = 0
    for found in scan(WRITER, buffer):
        assert found.offset == offset
        offset += found.length
    assert offset == len(buffer)
    assert _seqs(buffer)[:count] == list(range(count))


@pytest.mark.parametrize("frame", [b"", b"short", _frames(1)[0][:-1], _frames(1)[0] + b"x"])
def test_decode_frame_takes_exactly_one_frame(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|payload|more bytes"):
        decode_frame(WRITER, frame)
