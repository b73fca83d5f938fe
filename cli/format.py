"""Values as people read them: times, durations, sizes, and text that cannot steer a terminal. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = [
    "escape_controls",
    "format_ago",
    "format_bytes",
    "format_count",
    "format_duration",
    "format_instant",
    "format_number",
    "format_value",
    "short_digest",
    "text_width",
    "truncate",
]

_SIZE_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_SHORT_DIGEST_DIGITS = 12

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", 0x1B: "\\e"}
#: Characters that reorder or hide the text around them.
_ESCAPES |= {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F)
}


def escape_controls(text: str) -> str:
    r"""The text with every control character spelled out, so that a name cannot move the cursor.

    >>> print(escape_controls("a\x1b[2Jb\n"))
    a\e[2Jb\n
    """
    return text.translate(_ESCAPES)


def format_duration(seconds: float | None) -> str:
    """Seconds in at most two units.

    >>> [format_duration(s) for s in (0.0042, 3.14159, 75, 7384, 200000, None)]
    ['4 ms', '3.1 s', '1 m 15 s', '2 h 03 m', '2 d 7 h', '-']
    """
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def format_bytes(size_bytes: int | None) -> str:
    """A size in decimal units.

    >>> [format_bytes(n) for n in (0, 999, 1000, 1782725, None)]
    ['0 B', '999 B', '1.0 KB', '1.8 MB', '-']
    """
    if size_bytes is None:
        return "-"
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size = float(size_bytes)
    unit = 0
    while size >= 999.95 and unit < len(_SIZE_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.1f} {_SIZE_UNITS[unit]}"


def format_instant(instant: datetime | None) -> str:
    """A time of the views (UTC, with or without its zone) in the reader's zone, to the second."""
    if instant is None:
        return "-"
    return _aware(instant).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_ago(instant: datetime | None, now: datetime) -> str:
    """How long before `now`, in one unit; days and older as the date itself.

    >>> now = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
    >>> [format_ago(datetime(2026, 1, 2, 11, m, s), now) for m, s in ((59, 58), (59, 0), (15, 0))]
    ['2 s ago', '1 m ago', '45 m ago']
    """
    if instant is None:
        return "-"
    seconds = int((now - _aware(instant)).total_seconds())
    if seconds < 0 or seconds >= 86400:
        return format_instant(instant)
    if seconds < 60:
        return f"{seconds} s ago"
    return f"{seconds // 60} m ago" if seconds < 3600 else f"{seconds // 3600} h ago"


def _aware(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


def format_count(count: int, noun: str) -> str:
    """A number of things.

    >>> [format_count(1, "journal"), format_count(1200, "journal")]
    ['1 journal', '1,200 journals']
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_number(number: float) -> str:
    """A float without noise: at most six significant digits.

    >>> [format_number(x) for x in (0.1 + 0.2, 1e-9, 123456789.0, 5.0, float("nan"))]
    ['0.3', '1e-09', '123456789', '5.0', 'nan']
    """
    if abs(number) >= 1e6 and number.is_integer():
        return f"{number:.0f}"
    text = f"{number:.6g}"
    return f"{text}.0" if text.lstrip("-").isdecimal() else text


def format_value(value: object) -> str:
    """One cell of a table: nothing for NULL, times in UTC as the views have them, text escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, datetime):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return escape_controls(str(value))


def short_digest(digest: str | bytes | None) -> str:
    """Enough of a digest to name it by."""
    if digest is None:
        return "-"
    text = digest.hex() if isinstance(digest, bytes) else digest.removeprefix("sha256:")
    return text[:_SHORT_DIGEST_DIGITS]


def text_width(text: str) -> int:
    """How many columns of a terminal the text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    width = 0
    for char in text:
        if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Me", "Mn"):
            continue
        width += 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
    return width


def truncate(text: str, width_max: int) -> str:
    """The text in at most `width_max` columns; what is cut is shown as an ellipsis.

    >>> truncate("arrival_delay", 8)
    'arrival…'
    """
    if text_width(text) <= width_max:
        return text
    kept, width = [], 0
    for char in text:
        width += text_width(char)
        if width > width_max - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"
