"""Values to bytes and back, by a stable tag that says how, never by the path of a class.

    plain/1            weft.lineage.plain     plain values, nested, by exact type
    plain/2            weft.lineage.plain     the same where paths are among them
    npy/1              weft.lineage.arrays    NumPy arrays without objects in them
    parquet-arrow/1    weft.lineage.tables    Arrow tables
    parquet-pandas/1   weft.lineage.tables    pandas frames
    parquet-polars/1   weft.lineage.tables    polars frames
    pickle/5, pickle-buffers/1   weft.lineage.pickles   everything else

The law: `load` of a `dump` has the type and the value of what was dumped at every level, and, pickles
apart, the bytes are the same in any process, whatever its hash seed.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from weft.lineage.errors import NotSerializable, StoreDamaged, StoreTooNew, UsageError, WeftError
from weft.lineage.plain import NotPlain, dump_plain, load_plain
from weft.lineage.values import number_of, package_of, preview_of, type_name_of

__all__ = ["Dumped", "dump", "is_pickle", "load"]

_PLAIN, _PLAIN_WITH_PATHS = "plain/1", "plain/2"
_TABLE_PACKAGES = frozenset({"pandas", "polars", "pyarrow"})


class Dumped(NamedTuple):
    """The bytes of a value and what an event says of it.

    `digest` is the sha256 of the concatenated `parts`, which may be views into the value: write them
    before it changes. `value` is a JSON preview of at most 1,024 bytes, `value_number` the number of a
    scalar. `is_immutable` says that no code can change the value in place.
    """

    serializer: str
    type: str
    digest: bytes
    size_bytes: int
    parts: list[bytes | memoryview]
    value: str | None = None
    value_number: float | None = None
    is_immutable: bool = False


def dump(value: object) -> Dumped:
    """Raises: NotSerializable when not even pickle takes the value."""
    try:
        packed, is_immutable, has_path = dump_plain(value)
    except NotPlain:
        serializer, parts, is_immutable = _dump_other(value)
        preview = None
    else:
        serializer, parts = _PLAIN_WITH_PATHS if has_path else _PLAIN, [packed]
        preview = preview_of(value)
    hasher = hashlib.sha256()
    size_bytes = 0
    for part in parts:
        hasher.update(part)
        size_bytes += part.nbytes if isinstance(part, memoryview) else len(part)
    return Dumped(
        serializer,
        type_name_of(value),
        hasher.digest(),
        size_bytes,
        parts,
        preview,
        number_of(value),
        is_immutable,
    )


def load(serializer: str, data: bytes | memoryview, path: str | None = None, trust: bool = True) -> Any:
    """The value whose bytes are `data`. With `path`, a local file of them, arrays are mapped, copied on write.

    Raises: UsageError for a pickle without `trust`, StoreTooNew for an unknown serializer, StoreDamaged
    for bytes it cannot read, WeftError for a pickle that fails here.
    """
    if is_pickle(serializer):
        return _load_pickle(serializer, data, path, trust)
    try:
        if serializer in (_PLAIN, _PLAIN_WITH_PATHS):
            return load_plain(data)
        if serializer == "npy/1":
            from weft.lineage.arrays import load_array

            return load_array(data, path)
        if serializer in ("parquet-arrow/1", "parquet-pandas/1", "parquet-polars/1"):
            from weft.lineage.tables import load_table

            return load_table(serializer, data, path)
    except ImportError as error:
        raise WeftError(
            f"A value written as {serializer} cannot be loaded without {error.name}. "
            f"Install {error.name} where you load it."
        ) from error
    except Exception as error:
        if type(error).__name__ == "ZoneInfoNotFoundError":
            raise WeftError(f"A time zone is not known here ({error}). Install tzdata.") from error
        raise StoreDamaged(
            f"A value of {len(data):,} bytes is not {serializer} ({type(error).__name__}: {error}). Run `weft verify`."
        ) from error
    raise StoreTooNew(
        f"A value was written as {serializer}, which this version of weft does not know. Upgrade weft to read it."
    )


def is_pickle(serializer: str) -> bool:
    """Whether loading such a value can run code."""
    return serializer.startswith("pickle")


def _dump_other(value: Any) -> tuple[str, list[bytes | memoryview], bool]:
    """Serializer, parts, and whether the value is immutable."""
    package = package_of(value)
    if package == "numpy":
        from weft.lineage.arrays import NPY, dump_array, is_plain_array

        if is_plain_array(value):
            return NPY, dump_array(value), False
    elif package in _TABLE_PACKAGES:
        from weft.lineage.tables import ARROW, dump_table

        dumped = dump_table(value)
        if dumped is not None:
            return *dumped, dumped[0] == ARROW
    serializer, parts = _dump_by_pickle(value)
    return serializer, parts, False


def _dump_by_pickle(value: object) -> tuple[str, list[bytes | memoryview]]:
    from weft.lineage.pickles import dump_pickle

    try:
        return dump_pickle(value)
    except MemoryError:
        raise
    except Exception as error:
        where, culprit = _culprit(value)
        name = type_name_of(culprit)
        inside = f" at {where} in a {type_name_of(value)}" if where else ""
        raise NotSerializable(
            f"A value of type {name}{inside} cannot be saved: {str(error) or type(error).__name__}. "
            "Keep it in a local variable, or save what it is made from.",
            name,
        ) from error


def _culprit(value: Any) -> tuple[str, Any]:
    """The innermost part of plain containers and attributes that does not pickle, and the way to it."""
    where = ""
    for _ in range(8):
        if isinstance(value, dict):
            parts = [(f"[{key!r}]", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            parts = [(f"[{position}]", item) for position, item in enumerate(value)]
        else:
            parts = [(f".{name}", item) for name, item in getattr(value, "__dict__", {}).items()]
        found = next(((step, item) for step, item in parts[:1000] if not _can_pickle(item)), None)
        if found is None or isinstance(value, type) or callable(value):
            break
        where, value = where + found[0], found[1]
    return where, value


def _can_pickle(value: object) -> bool:
    from weft.lineage.pickles import dump_pickle

    try:
        dump_pickle(value)
    except Exception:  # noqa: BLE001 - whatever a class raises, it does not pickle
        return False
    return True


def _load_pickle(serializer: str, data: bytes | memoryview, path: str | None, trust: bool) -> Any:
    from weft.lineage.pickles import PICKLE, PICKLE_BUFFERS, load_pickle

    if serializer not in (PICKLE, PICKLE_BUFFERS):
        raise StoreTooNew(
            f"A value was written as {serializer}, which this version of weft does not know. Upgrade weft to read it."
        )
    if not trust:
        raise UsageError(
            "The value is a pickle, and loading a pickle can run any code. Pass --trust if you trust who wrote it."
        )
    try:
        return load_pickle(serializer, data, path)
    except Exception as error:
        raise WeftError(
            f"A pickle cannot be loaded here ({type(error).__name__}: {error}). "
            "Load it where the classes it names can be imported, with the versions it was written with."
        ) from error
