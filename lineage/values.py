"""What is said of a value for people and SQL: the name of its type, a JSON preview, its number."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["PREVIEW_BYTES_MAX", "number_of", "package_of", "preview_of", "type_name_of"]

PREVIEW_BYTES_MAX = 1024

#: Past this an int has more digits than a preview.
_PREVIEW_BITS_MAX = 3_300

#: Libraries whose public names are those of the package, wherever a class is defined.
_FLAT_PACKAGES = frozenset({"numpy", "pandas", "pathlib", "polars", "pyarrow"})

_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x20)}
_ESCAPES |= {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_ESCAPES |= {0x7F: "\\u007f"}


def type_name_of(value: object) -> str:
    """The name people know the type by.

    >>> type_name_of({}), type_name_of(NotImplementedError())
    ('dict', 'NotImplementedError')
    """
    kind = type(value)
    package = package_of(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{package if package in _FLAT_PACKAGES else kind.__module__}.{kind.__qualname__}"


def package_of(value: object) -> str:
    """The first part of the module that a value's type says it is of."""
    module: object = type(value).__module__
    # A class may put anything there.
    return module.partition(".")[0] if isinstance(module, str) else ""


def number_of(value: Any) -> float | None:
    """The number of a bool, int, float, Decimal, NumPy or Arrow scalar; None for others, NaN and what no double holds."""
    kind = type(value)
    if kind not in (int, float, bool):
        package = package_of(value)
        if package == "pyarrow" and hasattr(value, "as_py"):
            value = value.as_py()
        elif package == "numpy" and isinstance(value, sys.modules["numpy"].generic):
            value = value.item() if value.dtype.kind in "biuf" else None
        elif kind.__module__ != "decimal":
            return None
        if type(value) not in (int, float, bool) and type(value).__module__ != "decimal":
            return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return None if number != number else number  # noqa: PLR0124 - only NaN differs from itself


def preview_of(value: object) -> str | None:
    """The JSON of a plain value if it has at most 1,024 bytes of UTF-8; not of bytes or what holds some.

    NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity". Tuples and sets are arrays,
    times are ISO 8601, a timedelta is its seconds, paths are their texts.
    """
    writer = _JsonWriter()
    try:
        writer.write(value)
        text = "".join(writer.parts)
        return text if len(text.encode()) <= PREVIEW_BYTES_MAX else None
    except (_NotShown, UnicodeEncodeError):
        return None


class _NotShown(Exception):
    """There is no preview of this value."""


class _JsonWriter:
    """Writes JSON by itself: importing `json` costs more than most previews."""

    __slots__ = ("_room", "parts")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._room = PREVIEW_BYTES_MAX

    def write(self, value: Any) -> None:
        kind = type(value)
        if kind is list or kind is tuple:
            self._write_items("[", value, "]")
        elif kind is dict:
            self._write_pairs(value)
        elif kind is set or kind is frozenset:
            texts = sorted(_separate_json(item) for item in value)
            self._put("[" + ",".join(texts) + "]")
        else:
            self._put(_scalar_json(value, kind))

    def _put(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            raise _NotShown
        self.parts.append(text)

    def _write_items(self, opening: str, items: Any, closing: str) -> None:
        self._put(opening)
        for position, item in enumerate(items):
            if position:
                self._put(",")
            self.write(item)
        self._put(closing)

    def _write_pairs(self, pairs: dict[Any, Any]) -> None:
        self._put("{")
        names = set()
        for position, (key, item) in enumerate(pairs.items()):
            name = _key_json(key)
            if name in names:
                raise _NotShown
            names.add(name)
            self._put(f"{',' if position else ''}{name}:")
            self.write(item)
        self._put("}")


def _separate_json(value: object) -> str:
    writer = _JsonWriter()
    writer.write(value)
    return "".join(writer.parts)


def _scalar_json(value: Any, kind: type) -> str:
    if value is None:
        return "null"
    if kind is str:
        return _text_json(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        if value.bit_length() > _PREVIEW_BITS_MAX:
            raise _NotShown
        return str(value)
    if kind is float:
        return _float_json(value)
    if kind is complex:
        return f'"{value}"'
    module = kind.__module__
    if module == "datetime" and kind.__name__ == "timedelta":
        return _float_json(value.total_seconds())
    if module == "datetime":
        return _text_json(value.isoformat())
    if module == "decimal":
        return str(value) if value.is_finite() else _float_words(str(value))
    if module == "numpy":
        return _numpy_json(value)
    if module.partition(".")[0] == "pathlib":
        return _text_json(str(value))
    raise _NotShown


def _numpy_json(value: Any) -> str:
    letter = value.dtype.kind
    if letter in "biufcU":
        item = value.item()
        return _scalar_json(item, type(item))
    if letter in "Mm":
        return _text_json(str(value))
    raise _NotShown


def _float_json(value: float) -> str:
    return repr(value) if abs(value) < sys.float_info.max * 2 else _float_words(repr(value))


def _float_words(text: str) -> str:
    """The string for a number that JSON has no word for."""
    if "nan" in text.lower():
        return '"NaN"'
    return '"-Infinity"' if text.startswith("-") else '"Infinity"'


def _text_json(text: str) -> str:
    if len(text) > PREVIEW_BYTES_MAX:
        raise _NotShown
    return f'"{text.translate(_ESCAPES)}"'


def _key_json(key: object) -> str:
    if isinstance(key, str):
        return _text_json(key)
    if key is None or type(key) in (bool, int, float):
        text = _scalar_json(key, type(key))
        return text if text.startswith('"') else f'"{text}"'
    raise _NotShown
