"""Plain values as tagged msgpack: None, bool, int, float, str, bytes, list and dict as they are, the rest as extensions.

Source: the msgpack specification, https://github.com/msgpack/msgpack/blob/master/spec.md. An extension's
data is msgpack again, its code is one of `_TUPLE` … `_PATH`. Types are exact: a subclass is not plain.
What is loaded has the type and value of what was dumped at every level, and equal values whose dicts
have one order are equal bytes in any process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

__all__ = ["NotPlain", "Plain", "dump_plain", "load_plain"]

_TUPLE, _SET, _FROZENSET, _INT, _COMPLEX, _DECIMAL = 1, 2, 3, 4, 5, 6
_DATETIME, _DATE, _TIME, _TIMEDELTA, _NUMPY, _PATH = 7, 8, 9, 10, 11, 12

_DEPTH_MAX = 100
#: How often nested tuples may be met again before a value counts as one of shared parts: written out,
#: `t = (t, t)` doubles with every level.
_REPEATS_MAX = 10_000

#: What a packer begins with; it grows.
_BUFFER_BYTES = 4096

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1

_NATIVE = frozenset({type(None), bool, int, float, str, bytes})
_ATOMS = {("datetime", "datetime"), ("datetime", "date"), ("datetime", "time"), ("datetime", "timedelta")}
_ATOMS |= {("decimal", "Decimal")}
_PATHS = frozenset({"PosixPath", "PurePosixPath", "PureWindowsPath"})

#: NumPy's scalars by name. Those whose size depends on the platform (longdouble) or whose type is lost
#: in a dtype's text (longlong) are not among them.
_NUMPY_SCALARS = frozenset(
    {
        "bool",
        "bool_",
        "bytes_",
        "complex128",
        "complex64",
        "datetime64",
        "float16",
        "float32",
        "float64",
        "int16",
        "int32",
        "int64",
        "int8",
        "str_",
        "timedelta64",
        "uint16",
        "uint32",
        "uint64",
        "uint8",
    }
)


class NotPlain(Exception):
    """The value is no plain value, or has shared parts; another serializer has to take it."""


class Plain(NamedTuple):
    """A plain value as bytes.

    `is_immutable`: neither it nor a part of it can be changed in place. `has_path`: a part is a path, which weft
    before 0.2 does not read.
    """

    data: bytes
    is_immutable: bool
    has_path: bool


def dump_plain(value: object) -> Plain:
    """The bytes of a plain value.

    Raises: NotPlain, also for mutable parts that are met twice, cycles and more than 100 levels.
    """
    try:
        walk = _Walk(checks_ints=False)
        try:
            packed = walk.pack(walk.convert(value, 0))
        except OverflowError:
            # Looking at every int first would cost more than packing them.
            walk = _Walk(checks_ints=True)
            packed = walk.pack(walk.convert(value, 0))
    except (ValueError, TypeError, OverflowError) as error:
        # Texts and bytes past 4 GiB, and dicts that were changed meanwhile.
        raise NotPlain(str(error)) from error
    return Plain(packed, not walk.has_mutable, walk.has_path)


def load_plain(data: bytes | memoryview) -> Any:
    """The value that was dumped. Raises: ValueError for other bytes."""
    return msgpack.unpackb(
        data,
        raw=False,
        use_list=True,
        strict_map_key=False,
        unicode_errors="surrogatepass",
        ext_hook=_load_extension,
    )


class _Walk:
    """One pass over a value, which makes what msgpack does not know into extensions."""

    __slots__ = ("_checks_ints", "_repeats", "_seen", "has_mutable", "has_path", "pack")

    def __init__(self, checks_ints: bool) -> None:
        self.has_mutable = False
        self.has_path = False
        # One packer for all parts: each has a buffer of its own, whose making costs more than packing.
        packer = msgpack.Packer(
            use_bin_type=True, strict_types=True, unicode_errors="surrogatepass", buf_size=_BUFFER_BYTES
        )
        self.pack: Callable[[object], bytes] = packer.pack
        self._checks_ints = checks_ints
        self._seen: set[int] = set()
        self._repeats = 0

    def convert(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _NATIVE:
            if kind is int and self._checks_ints and not _INT_MIN <= value <= _INT_MAX:
                return msgpack.ExtType(
                    _INT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                )
            return value
        if depth > _DEPTH_MAX:
            raise NotPlain("nested too deeply")
        if kind is list or kind is dict or kind is set:
            self._enter_mutable(value)
        if kind is list:
            return self._items(value, depth)
        if kind is dict:
            return self._pairs(value, depth)
        if kind is tuple:
            return self._tuple(value, depth)
        if kind is set or kind is frozenset:
            encoded = sorted(self.pack(self.convert(item, depth + 1)) for item in value)
            data = msgpack.Packer().pack_array_header(len(encoded)) + b"".join(encoded)
            return msgpack.ExtType(_SET if kind is set else _FROZENSET, data)
        if kind is complex:
            return msgpack.ExtType(_COMPLEX, self.pack([value.real, value.imag]))
        code, fields = _atom_fields(value, kind)
        self.has_path = self.has_path or code == _PATH
        return msgpack.ExtType(code, self.pack(fields))

    def _enter_mutable(self, value: object) -> None:
        if id(value) in self._seen:
            raise NotPlain("a mutable part is shared")
        self._seen.add(id(value))
        self.has_mutable = True

    def _items(self, items: list[Any], depth: int) -> list[Any]:
        if not self._checks_ints and _NATIVE.issuperset(map(type, items)):
            return items
        return [self.convert(item, depth + 1) for item in items]

    def _pairs(self, pairs: dict[Any, Any], depth: int) -> dict[Any, Any]:
        if not self._checks_ints and _NATIVE.issuperset(map(type, pairs)):
            if _NATIVE.issuperset(map(type, pairs.values())):
                return pairs
            return {key: self.convert(item, depth + 1) for key, item in pairs.items()}
        converted = {
            self.convert(key, depth + 1): self.convert(item, depth + 1) for key, item in pairs.items()
        }
        if len(converted) != len(pairs):
            # Keys such as (nan,) are told apart by identity only.
            raise NotPlain("two keys are one when written")
        return converted

    def _tuple(self, items: tuple[Any, ...], depth: int) -> Any:
        if not _NATIVE.issuperset(map(type, items)):
            if id(items) in self._seen:
                self._repeats += 1
                if self._repeats > _REPEATS_MAX:
                    raise NotPlain("nested tuples are shared")
            self._seen.add(id(items))
        elif not self._checks_ints:
            return msgpack.ExtType(_TUPLE, self.pack(list(items)))
        converted = [self.convert(item, depth + 1) for item in items]
        return msgpack.ExtType(_TUPLE, self.pack(converted))


def _atom_fields(value: Any, kind: type) -> tuple[int, list[Any]]:
    """The code and the fields of a value that is an extension without parts."""
    module, name = kind.__module__, kind.__qualname__
    if module == "numpy" and name in _NUMPY_SCALARS:
        if getattr(sys.modules["numpy"], name, None) is kind:
            return _NUMPY, _numpy_fields(value, name)
    elif (module, name) in _ATOMS and getattr(sys.modules[module], name) is kind:
        return _ATOM_FIELDS[name](value)
    # Where its classes are defined differs by version.
    elif name in _PATHS and getattr(sys.modules.get("pathlib"), name, None) is kind:
        return _PATH, [name, str(value)]
    raise NotPlain(f"{module}.{name} is no plain type")


def _datetime_fields(value: Any) -> tuple[int, list[Any]]:
    day = [value.year, value.month, value.day]
    return _DATETIME, day + _time_fields(value)[1]


def _date_fields(value: Any) -> tuple[int, list[Any]]:
    return _DATE, [value.year, value.month, value.day]


def _time_fields(value: Any) -> tuple[int, list[Any]]:
    clock = [value.hour, value.minute, value.second, value.microsecond, value.fold]
    return _TIME, [*clock, _zone_fields(value.tzinfo)]


def _timedelta_fields(value: Any) -> tuple[int, list[Any]]:
    return _TIMEDELTA, [value.days, value.seconds, value.microseconds]


def _decimal_fields(value: Any) -> tuple[int, list[Any]]:
    # The text of a Decimal depends on the context it is made in.
    sign, digits, exponent = value.as_tuple()
    return _DECIMAL, [sign, "".join(map(str, digits)), exponent]


_ATOM_FIELDS: dict[str, Callable[[Any], tuple[int, list[Any]]]] = {
    "datetime": _datetime_fields,
    "date": _date_fields,
    "time": _time_fields,
    "timedelta": _timedelta_fields,
    "Decimal": _decimal_fields,
}


def _zone_fields(zone: Any) -> list[Any] | None:
    """A time zone: None, [microseconds from UTC], [microseconds, name] or [None, name in the zone database]."""
    if zone is None:
        return None
    import datetime

    if type(zone) is datetime.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # how timezone itself pickles
        return [offset // datetime.timedelta(microseconds=1), *name]
    zoneinfo = sys.modules.get("zoneinfo")
    is_known = zoneinfo is not None and type(zone) is zoneinfo.ZoneInfo and zone.key is not None
    # A zone read from a file of its own has a key, too, but is not the one of that key.
    if zoneinfo is not None and is_known and zoneinfo.ZoneInfo(zone.key) is zone:
        return [None, zone.key]
    raise NotPlain(f"{type(zone).__qualname__} is no plain time zone")


def _numpy_fields(value: Any, name: str) -> list[Any]:
    if name in ("str_", "bytes_"):
        return [name, str(value) if name == "str_" else bytes(value)]
    dtype = value.dtype.newbyteorder("<")
    return [dtype.str, value.astype(dtype).tobytes()]


# Loading


def _load_extension(code: int, data: bytes) -> Any:
    if code == _INT:
        return int.from_bytes(data, "little", signed=True)
    fields: Any = load_plain(data)
    if code == _TUPLE:
        return tuple(fields)
    if code == _SET:
        return set(fields)
    if code == _FROZENSET:
        return frozenset(fields)
    if code == _COMPLEX:
        return complex(*fields)
    if code == _NUMPY:
        return _load_numpy(*fields)
    if code == _DECIMAL:
        import decimal

        sign, digits, exponent = fields
        return decimal.Decimal((sign, tuple(map(int, digits)), exponent))
    if code in (_DATETIME, _DATE, _TIME, _TIMEDELTA):
        return _load_time(code, fields)
    if code == _PATH and fields[0] in _PATHS:
        import pathlib

        return getattr(pathlib, fields[0])(fields[1])
    raise ValueError(f"unknown extension {code}")


def _load_time(code: int, fields: list[Any]) -> Any:
    import datetime

    if code == _DATE:
        return datetime.date(*fields)
    if code == _TIMEDELTA:
        return datetime.timedelta(*fields)
    *numbers, fold, zone = fields
    kind: Any = datetime.datetime if code == _DATETIME else datetime.time
    return kind(*numbers, tzinfo=_load_zone(zone), fold=fold)


def _load_zone(fields: list[Any] | None) -> Any:
    if fields is None:
        return None
    if fields[0] is None:
        import zoneinfo

        return zoneinfo.ZoneInfo(fields[1])
    import datetime

    return datetime.timezone(datetime.timedelta(microseconds=fields[0]), *fields[1:])


def _load_numpy(dtype: str, data: Any) -> Any:
    import numpy as np

    if dtype == "str_":
        return np.str_(data)
    if dtype == "bytes_":
        return np.bytes_(data)
    array = np.frombuffer(data, dtype=dtype)
    return array.astype(array.dtype.newbyteorder("="))[0]
