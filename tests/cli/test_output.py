from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.cli.entry import run_to_exit
from weft.cli.format import escape_controls, format_value, text_width, truncate
from weft.cli.output import Output, fit_widths, json_value, status_style
from weft.lineage.errors import NotFound, StoreTooNew


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _text(is_terminal: bool = False) -> tuple[Output, io.StringIO]:
    stream = _Terminal() if is_terminal else io.StringIO()
    return Output(stream), stream


def test_table_aligns_numbers_right_and_text_left() -> None:
    output, stream = _text()
    output.table(("step", "tasks"), [("start", 1), ("fit", 150)])
    assert stream.getvalue() == "step   tasks\nstart      1\nfit      150\n"


def test_table_says_so_when_it_is_empty() -> None:
    output, stream = _text()
    output.table(("step",), [], empty="no steps")
    assert stream.getvalue() == "no steps\n"


def test_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    output, stream = _text(is_terminal=True)
    output.table(("name", "value"), [("a" * 30, "b" * 30)])
    assert max(map(text_width, stream.getvalue().splitlines())) <= 40
    assert "…" in stream.getvalue()


def test_table_is_whole_when_it_goes_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output, stream = _text()
    output.table(("name",), [("a" * 300,)])
    assert "a" * 300 in stream.getvalue()


@pytest.mark.parametrize(
    ("is_terminal", "no_color", "is_colored"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colour_is_for_terminals_that_want_it(
    is_terminal: bool, no_color: str, is_colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    output, stream = _text(is_terminal)
    output.table(("status",), [("failed",)], style=status_style)
    assert ("\x1b[31m" in stream.getvalue()) == is_colored


@given(st.text())
def test_escaped_text_cannot_steer_a_terminal(text: str) -> None:
    escaped = escape_controls(text)
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in escaped)
    assert text_width(truncate(escaped, 10)) <= 10


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.integers(20, 200))
def test_fitted_widths_never_grow(widths: list[int], total: int) -> None:
    fitted = fit_widths(widths, total)
    assert all(new <= old for new, old in zip(fitted, widths, strict=True))
    assert sum(fitted) + 2 * (len(fitted) - 1) <= total or max(fitted) <= 8


def test_document_holds_every_kind_of_value() -> None:
    output, stream = _text()
    moment = datetime(2026, 1, 31, 18, 0, tzinfo=timezone(timedelta(hours=2)))
    output.document(
        {
            "at": moment,
            "utc": datetime(2026, 1, 1),
            "nan": float("nan"),
            "n": Decimal("1.5"),
            "b": b"\xff",
            "t": (1, None),
        }
    )
    assert json.loads(stream.getvalue()) == {
        "at": "2026-01-31T16:00:00Z",
        "utc": "2026-01-01T00:00:00Z",
        "nan": "NaN",
        "n": "1.5",
        "b": "ff",
        "t": [1, None],
    }


def test_json_value_names_infinities() -> None:
    assert json_value([float("inf"), float("-inf"), 1.5]) == ["Infinity", "-Infinity", 1.5]


def test_cells_show_null_as_nothing() -> None:
    assert [format_value(value) for value in (None, True, 0.1 + 0.2, datetime(2026, 1, 1, tzinfo=UTC))] == [
        "",
        "true",
        "0.3",
        "2026-01-01 00:00:00+00:00",
    ]


def test_output_shows_what_the_stream_cannot_encode() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Output(stream).line("Zürich \udc80")
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    assert stream.buffer.getvalue() == b"Z\\xfcrich \\udc80\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotFound("no\x1b[2J"), 2), (StoreTooNew("newer"), 3), (KeyboardInterrupt(), 1)],
)
def test_errors_end_with_their_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.group(invoke_without_command=True)
    def group() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_to_exit(group, [], "weft")
    assert ended.value.code == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "\x1b[2J" not in shown.err
