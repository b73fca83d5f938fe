"""How two contents differ: cells of tables, elements of arrays, parts of plain values. No pickle is ever loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.contents import Recorded, read_content, read_recorded
from weft.lineage.errors import WeftError
from weft.lineage.pairs import Saved
from weft.lineage.serializers import is_pickle, load

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["Contrast", "Part", "contrast", "contrast_arrays", "contrast_plain", "contrast_tables"]

#: Contents larger than this are not read to be compared.
_BYTES_MAX = 256 << 20
_PARTS_MAX = 20
_DEPTH_MAX = 40
_TEXT_MAX = 60
_TABLE_PREFIX = "parquet-"


class Part(NamedTuple):
    """One place at which two contents differ: a column and row, an index, a way into a value."""

    place: str
    a: str | None
    b: str | None


class Contrast(NamedTuple):
    """What differs between two contents. `kind` is "table", "array", "value" or "opaque".

    `summary` is one sentence; `total` is how many cells, elements or parts differ, where that can be said;
    `parts` are the first of them.
    """

    kind: str
    summary: str
    total: int | None = None
    parts: tuple[Part, ...] = ()


def contrast(store: Answers, a: Saved, b: Saved) -> Contrast:
    """Compare two recorded values by what is in them, as far as that takes no pickle."""
    if is_pickle(a.serializer) or is_pickle(b.serializer):
        return _opaque(a, b, "pickles are not looked into")
    if max(a.size_bytes, b.size_bytes) > _BYTES_MAX:
        return _opaque(a, b, f"contents above {_BYTES_MAX >> 20} MiB are not read to be compared")
    are_tables = a.serializer.startswith(_TABLE_PREFIX) and b.serializer.startswith(_TABLE_PREFIX)
    if not are_tables and a.serializer != b.serializer:
        return Contrast("opaque", f"a {a.type} became a {b.type}")
    try:
        recorded = read_recorded(store, [a.digest, b.digest])
        values = [_load(store, saved, recorded[saved.digest], are_tables) for saved in (a, b)]
    except WeftError as error:
        return _opaque(a, b, str(error))
    except ImportError as error:
        return _opaque(a, b, f"looking inside takes {error.name}, which is not installed here")
    if are_tables:
        return contrast_tables(*values)
    if a.serializer.startswith("npy/"):
        return contrast_arrays(*values)
    return contrast_plain(*values)


def _load(store: Answers, saved: Saved, recorded: Recorded, is_table: bool) -> Any:
    data, path = read_content(store, recorded)
    # A frame is read as the Arrow table it lies in, whatever library made it.
    return load("parquet-arrow/1" if is_table else saved.serializer, data, path, trust=False)


def _opaque(a: Saved, b: Saved, reason: str) -> Contrast:
    return Contrast(
        "opaque", f"{a.type} of {a.size_bytes:,} bytes, {b.type} of {b.size_bytes:,} bytes; {reason}"
    )


# Tables


def contrast_tables(a: Any, b: Any) -> Contrast:
    """Compare two Arrow tables: columns by name, cells row by row as far as both go."""
    shared = [name for name in a.column_names if name in b.column_names]
    retyped = [name for name in shared if a.schema.field(name).type != b.schema.field(name).type]
    facts = [
        *_listed("without {}", [name for name in a.column_names if name not in b.column_names]),
        *_listed("with {} as well", [name for name in b.column_names if name not in a.column_names]),
        *(
            f"{name} is {b.schema.field(name).type} and was {a.schema.field(name).type}"
            for name in retyped[:_PARTS_MAX]
        ),
    ]
    rows = min(a.num_rows, b.num_rows)
    count, columns, parts = 0, [], list[Part]()
    for name in shared:
        if name in retyped:
            continue
        places = _unequal_rows(a[name].slice(0, rows), b[name].slice(0, rows))
        if places:
            count += len(places)
            columns.append(f"{name} ({len(places):,})")
            for row in places[: _PARTS_MAX // 4]:
                old, new = a[name][row].as_py(), b[name][row].as_py()
                parts.append(Part(f"{name}[{row}]", _text(old), _text(new)))
    if a.num_rows != b.num_rows:
        facts.insert(0, f"{a.num_rows:,} rows became {b.num_rows:,}")
    if count:
        cells = rows * (len(shared) - len(retyped))
        facts.append(f"{count:,} of {cells:,} cells differ, row by row: {', '.join(columns[:_PARTS_MAX])}")
    elif shared and rows:
        facts.append(f"the {rows:,} rows that both have are equal")
    return Contrast("table", "; ".join(facts), count, tuple(parts[:_PARTS_MAX]))


def _unequal_rows(a: Any, b: Any) -> list[int]:
    """The rows at which two columns of one type and length differ; NaN equals NaN and NULL equals NULL."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if a.equals(b):
        return []
    try:
        differs = pc.fill_null(pc.not_equal(a, b), True)
        if pa.types.is_floating(a.type):
            both_nan = pc.fill_null(pc.and_(pc.is_nan(a), pc.is_nan(b)), False)
            differs = pc.and_not(differs, both_nan)
        both_null = pc.and_(pc.is_null(a), pc.is_null(b))
        found: list[int] = pc.indices_nonzero(pc.and_not(differs, both_null)).to_pylist()
        return found
    except pa.ArrowNotImplementedError:
        # Nested cells have no comparison in Arrow.
        pairs = zip(a.to_pylist(), b.to_pylist(), strict=True)
        return [row for row, (old, new) in enumerate(pairs) if not _is_same(old, new)]


# Arrays


def contrast_arrays(a: Any, b: Any) -> Contrast:
    """Compare two NumPy arrays element by element."""
    import numpy as np

    if a.shape != b.shape or a.dtype != b.dtype:
        facts = f"{a.dtype} of shape {a.shape} became {b.dtype} of shape {b.shape}"
        return Contrast("array", facts)
    has_nan = a.dtype.kind in "fcmM"
    unequal = (a != b) & ~((a != a) & (b != b)) if has_nan else a != b  # noqa: PLR0124
    places = np.flatnonzero(unequal.reshape(-1))
    facts = f"{len(places):,} of {a.size:,} elements differ"
    if a.dtype.kind in "iuf" and len(places):
        old, new = (x.reshape(-1)[places].astype(np.float64) for x in (a, b))
        distances = np.abs(new - old)
        finite = distances[np.isfinite(distances)]
        facts += f", by {finite.max():.6g} at most" if len(finite) else ""
    parts = []
    for place in places[:_PARTS_MAX]:
        index = tuple(int(i) for i in np.unravel_index(int(place), a.shape)) if a.shape else ()
        parts.append(Part(f"[{', '.join(map(str, index))}]", _text(a[index].item()), _text(b[index].item())))
    if not len(places):
        facts += ": only the order in memory does, or the sign of a zero or a NaN's bits"
    return Contrast("array", facts, len(places), tuple(parts))


# Plain values


def contrast_plain(a: Any, b: Any) -> Contrast:
    """Compare two plain values part by part: by key, by index, else as a whole."""
    count = 0
    parts: list[Part] = []
    for part in _unequal_parts(a, b, "", 0):
        count += 1
        if len(parts) < _PARTS_MAX:
            parts.append(part)
    noun = "part differs" if count == 1 else "parts differ"
    if not parts:
        return Contrast("value", "equal but for the order of keys", 0)
    return Contrast("value", f"{count:,} {noun}", count, tuple(parts))


def _unequal_parts(a: Any, b: Any, place: str, depth: int) -> Iterator[Part]:
    if type(a) is not type(b) or depth > _DEPTH_MAX:
        if not _is_same(a, b):
            yield Part(place, _text(a), _text(b))
    elif isinstance(a, dict):
        for key in dict.fromkeys([*a, *b]):
            inner = f"{place}[{key!r}]"
            if key in a and key in b:
                yield from _unequal_parts(a[key], b[key], inner, depth + 1)
            else:
                yield Part(inner, _text(a[key]) if key in a else None, _text(b[key]) if key in b else None)
    elif isinstance(a, list | tuple):
        for index in range(max(len(a), len(b))):
            inner = f"{place}[{index}]"
            if index < len(a) and index < len(b):
                yield from _unequal_parts(a[index], b[index], inner, depth + 1)
            else:
                values = (_text(x[index]) if index < len(x) else None for x in (a, b))
                yield Part(inner, *values)
    elif isinstance(a, set | frozenset):
        yield from (Part(place, _text(item), None) for item in sorted(a - b, key=repr))
        yield from (Part(place, None, _text(item)) for item in sorted(b - a, key=repr))
    elif not _is_same(a, b):
        yield Part(place, _text(a), _text(b))


def _is_same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (repr(a) == repr(b) if a != b else True)


def _text(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 1] + "…"


def _listed(form: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _PARTS_MAX} more" if len(names) > _PARTS_MAX else ""
    return [form.format(", ".join(names[:_PARTS_MAX]) + more)]
