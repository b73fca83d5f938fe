"""`Output`: the one place from which commands print.

Text for people is coloured only on a terminal (and not when `NO_COLOR` is set), is fitted to its
width, and shows control characters escaped. With `--json` one document (or one object a line) is all
that stdout gets. Errors are one sentence on stderr.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from weft.cli.format import escape_controls, format_value, text_width, truncate

__all__ = ["Output", "Style", "fit_widths", "json_value", "print_error", "status_style"]

_CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}
_STATUS_STYLES = {
    "succeeded": "green",
    "done": "green",
    "failed": "red",
    "lost": "red",
    "running": "blue",
    "retrying": "yellow",
    "caught": "yellow",
    "cancelled": "yellow",
    "pending": "dim",
    "reused": "cyan",
}
_COLUMN_GAP = "  "
_COLUMN_WIDTH_MIN = 8
_WIDTH_DEFAULT = 120

Style = str | None
#: What colours a cell: its column's title and its text give a style.
CellStyle = Callable[[str, str], Style]


def status_style(title: str, text: str) -> Style:
    """The style of a cell in a table with a status column."""
    return _STATUS_STYLES.get(text) if title == "status" else None


class Output:
    """Where a command's answer goes: text or JSON, to one stream."""

    def __init__(self, stream: TextIO | None = None, is_json: bool = False) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.is_json = is_json
        if isinstance(self.stream, io.TextIOWrapper):
            # A terminal without UTF-8, or a name that is not Unicode, is shown escaped instead of failing.
            self.stream.reconfigure(errors="backslashreplace")
        is_terminal = self.stream.isatty()
        self.is_colored = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        #: None: as wide as it comes, for files and pipes.
        self.width = _terminal_width(self.stream) if is_terminal else None

    def styled(self, text: str, style: Style) -> str:
        if style is None or not self.is_colored:
            return text
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m"

    def line(self, text: str = "", style: Style = None) -> None:
        """One line of text; the caller has escaped what is not its own."""
        self.stream.write(self.styled(text, style) + "\n")

    def flush(self) -> None:
        self.stream.flush()

    def document(self, value: object) -> None:
        """The whole answer as one JSON document."""
        self._dump(value, indent=2)

    def record(self, value: object) -> None:
        """One JSON object on one line."""
        self._dump(value, indent=None)

    def _dump(self, value: object, indent: int | None) -> None:
        import json

        text = json.dumps(json_value(value), indent=indent, ensure_ascii=False, allow_nan=False)
        self.stream.write(text + "\n")

    def fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values below each other, values aligned; pairs without a value are left out."""
        shown = [(name, format_value(value)) for name, value in pairs if value not in (None, "")]
        width = max((len(name) for name, _ in shown), default=0)
        for name, text in shown:
            self.line(f"{self.styled(name.ljust(width), 'dim')}  {text}")

    def table(
        self,
        titles: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        right: Iterable[str] = (),
        style: CellStyle = status_style,
        empty: str = "nothing recorded",
    ) -> None:
        """Rows below their titles. Numbers and the columns named in `right` are aligned to the right."""
        if not rows:
            self.line(empty, "dim")
            return
        cells = [[format_value(value) for value in row] for row in rows]
        is_right = [
            title in right or all(_is_number(row[i]) for row in rows if row[i] is not None)
            for i, title in enumerate(titles)
        ]
        widths = [
            max(text_width(title), *(text_width(row[i]) for row in cells)) for i, title in enumerate(titles)
        ]
        widths = fit_widths(widths, self.width)
        self._row(titles, widths, is_right, ["dim"] * len(titles))
        for row in cells:
            styles = [style(title, text) for title, text in zip(titles, row, strict=True)]
            self._row(row, widths, is_right, styles)

    def _row(
        self, cells: Sequence[str], widths: list[int], is_right: list[bool], styles: Sequence[Style]
    ) -> None:
        parts = []
        last = len(cells) - 1
        for i, cell in enumerate(cells):
            text = truncate(cell, widths[i])
            gap = " " * (widths[i] - text_width(text))
            colored = self.styled(text, styles[i])
            if is_right[i]:
                parts.append(gap + colored)
            else:
                parts.append(colored if i == last else colored + gap)
        self.line(_COLUMN_GAP.join(parts).rstrip())


def fit_widths(widths: list[int], total_width: int | None) -> list[int]:
    """Narrow the widest columns until the table fits, each to no less than eight characters.

    >>> fit_widths([5, 40, 30], 60)
    [5, 25, 26]
    """
    fitted = list(widths)
    if total_width is None:
        return fitted
    excess = sum(fitted) + len(_COLUMN_GAP) * (len(fitted) - 1) - total_width
    while excess > 0:
        widest = max(range(len(fitted)), key=lambda i: fitted[i])
        if fitted[widest] <= _COLUMN_WIDTH_MIN:
            break
        fitted[widest] -= 1
        excess -= 1
    return fitted


def json_value(value: Any) -> Any:
    """The value in what JSON has: times as ISO 8601 in UTC, bytes as hex, NaN and infinities as text."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else _NOT_FINITE.get(value, "NaN")
    if isinstance(value, Mapping):
        return {str(key): item if type(item) in _PLAIN else json_value(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return json_value(value._asdict())
    if isinstance(value, list | tuple | set | frozenset):
        return [item if type(item) in _PLAIN else json_value(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if hasattr(value, "isoformat"):
        return _iso(value)
    return str(value)


#: What is the same in JSON, looked up before anything is called for it.
_PLAIN = frozenset((str, int, bool, type(None)))

_NOT_FINITE = {float("inf"): "Infinity", float("-inf"): "-Infinity"}


def _iso(value: Any) -> str:
    from datetime import UTC, datetime

    if not isinstance(value, datetime):
        return str(value.isoformat())
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return aware.isoformat().replace("+00:00", "Z")


def _is_number(value: object) -> bool:
    from decimal import Decimal

    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _terminal_width(stream: TextIO) -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH_DEFAULT
    except (OSError, ValueError):
        return _WIDTH_DEFAULT


def print_error(message: str) -> None:
    """One sentence on stderr; what a name in it would do to a terminal is escaped."""
    lines = [escape_controls(line) for line in message.strip().split("\n")]
    text = "\n".join(lines)
    is_colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = "\x1b[31merror:\x1b[0m" if is_colored else "error:"
    print(f"{label} {text}", file=sys.stderr, flush=True)
