"""A stream's bytes become lines and chunks."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.lineage.description import create_store
from weft.lineage.events import RunRef
from weft.lineage.local import LocalStorage
from weft.lineage.objects import Objects
from weft.runtime.console import LINE_BYTES_MAX, ConsoleStream

TASK = RunRef(b"\x07" * 16, "F", "1").task("start", "1")
Make = Callable[..., tuple[ConsoleStream, list[str]]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    storage = LocalStorage(str(tmp_path / ".weft"))
    create_store(storage)

    def stream(max_bytes: int = 1 << 20) -> tuple[ConsoleStream, list[str]]:
        shown: list[str] = []
        made = ConsoleStream(
            "stdout", TASK, 0, max_bytes, Objects(storage), lambda name, line: shown.append(line.text)
        )
        return made, shown

    return stream


def _lines(stream: ConsoleStream) -> list[str]:
    found = []
    for event in stream.last_events():
        assert event.blob is not None
        found += [text for _, text in msgpack.unpackb(zlib.decompress(event.blob))]
    return found


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)),
    st.data(),
)
def test_lines_do_not_depend_on_how_their_bytes_arrive(lines: list[str], data: st.DataObject) -> None:
    stream = ConsoleStream(
        "stdout", TASK, 0, 1 << 20, Objects(LocalStorage("/nowhere")), lambda name, line: None
    )
    rest = "".join(line + "\n" for line in lines).encode()
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        stream.feed(rest[:count])
        rest = rest[count:]
    assert _lines(stream) == lines


def test_line_is_shown_as_soon_as_it_is_whole(make: Make) -> None:
    stream, shown = make()
    stream.feed(b"one\ntw")
    assert shown == ["one"]
    stream.feed(b"o\n")
    assert shown == ["one", "two"]
    assert stream.is_waiting
    assert _lines(stream) == ["one", "two"]
    assert not stream.is_waiting


def test_endless_line_is_cut_between_characters(make: Make) -> None:
    stream, shown = make()
    text = "a" + "é" * (LINE_BYTES_MAX * 2)
    stream.feed(text.encode())
    assert len(shown) == 4
    assert "".join(_lines(stream)) == text
    assert not any("�" in line for line in shown)


def test_bytes_that_are_no_text_are_cut_all_the_same(make: Make) -> None:
    stream, _ = make()
    stream.feed(b"\x80" * (LINE_BYTES_MAX * 3))
    assert sum(len(line) for line in _lines(stream)) == LINE_BYTES_MAX * 3


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        (b"a\rb\rc\n", "c"),
        (b"progress\r\n", "progress"),
        (b"\r\r\n", ""),
        (b"100%\r", "100%"),
        (b"\xff\xfe\n", "��"),
    ],
)
def test_line_is_what_a_terminal_shows_in_the_end(make: Make, printed: bytes, line: str) -> None:
    stream, _ = make()
    stream.feed(printed)
    assert _lines(stream) == [line]


def test_chunk_that_does_not_compress_is_an_object(make: Make) -> None:
    import random

    stream, _ = make()
    draw = random.Random(0)
    for _ in range(3000):
        stream.feed(bytes(draw.choices(range(32, 127), k=60)) + b"\n")
    (event,) = stream.last_events()
    assert event.blob is None
    assert event.digest is not None
    assert event.size_bytes == 3000 * 61


def test_what_is_kept_ends_at_the_limit_with_one_marker(make: Make) -> None:
    stream, shown = make(100)
    for _ in range(50):
        stream.feed(b"123456789\n")
    lines = _lines(stream)
    assert lines[:10] == ["123456789"] * 10
    assert len(lines) == 11
    assert "output cut after 100 bytes" in lines[10]
    assert shown == lines
