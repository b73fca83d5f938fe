"""Events as columns: rows of journals become Arrow tables, one for each family, in the order of a segment.

That order is flow, run, writer, seq. A journal mostly holds one run, in order: so it is the stretches of one
run in one journal that are sorted, and never rows. pyarrow is imported where it is used.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from weft.lineage.codec import json_text
from weft.lineage.schema import COLUMNS, FAMILIES, family_of

__all__ = ["Columns", "arrow_field", "lowest_versions"]

#: Rows wait as Python objects, about 1 KB each, until there are so many: few enough that those a processor read
#: last are near when they are turned into columns.
_WAITING_MAX = 4_096

_ARROW_TYPES = {
    "VARCHAR": "string",
    "BIGINT": "int64",
    "SMALLINT": "int16",
    "DOUBLE": "float64",
    "BOOLEAN": "bool_",
    "BLOB": "binary",
}
_FIXED_WIDTHS = {"writer": 16, "run_uid": 16, "digest": 32}

#: Written even where every value is the default, so that no file is without columns.
_ALWAYS = ("writer", "seq", "kind", "version", "time_us", "epoch")

_NAMES = [column.name for column in COLUMNS]
_FLOW = _NAMES.index("flow") - 1
_RUN_ID = _NAMES.index("run_id") - 1

#: flow, run_id, writer, first seq: what a segment is sorted by.
Place = tuple[str, str, bytes, int]


class _Stretch(NamedTuple):
    """The events of one family, one run and one journal, as a part of a table."""

    place: Place
    table: Any
    offset: int
    length: int


class Columns:
    """The events of one segment, taken in journal by journal."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[Place, list[list[Any]]]]] = {}
        self._waiting_count = 0
        self._stretches: dict[str, list[_Stretch]] = {}
        #: The lowest version of each kind.
        self.versions: dict[str, int] = {}

    def add(self, writer: bytes, rows: Sequence[list[Any]]) -> None:
        """Take in one writer's rows, each seq and then the columns from kind on, in order of seq.

        Raises: ValueError, TypeError or OverflowError when an event does not fit its columns.
        """
        appends: dict[tuple[Any, ...], Callable[[list[Any]], None]] = {}
        of_run: dict[tuple[Any, ...], list[list[Any]]] = {}
        for row in rows:
            key = (row[1], *row[_FLOW : _RUN_ID + 1])
            try:
                appends[key](row)
            except KeyError:
                family = family_of(row[1])
                flow_run = (*key[1:], None, None)[:2]
                found = of_run.get((family, *flow_run))
                if found is None:
                    found = of_run[(family, *flow_run)] = []
                    place = (flow_run[0] or "", flow_run[1] or "", writer, row[0])
                    self._waiting.setdefault(family, []).append((place, found))
                appends[key] = found.append
                found.append(row)
        self._waiting_count += len(rows)
        if self._waiting_count >= _WAITING_MAX:
            self._convert()

    def tables(self) -> dict[str, Any]:
        """A table for each family that has events, in the order of `FAMILIES`; sorted."""
        self._convert()
        return {f: _joined(self._stretches[f]) for f in FAMILIES if f in self._stretches}

    def _convert(self) -> None:
        for family, waiting in self._waiting.items():
            waiting.sort(key=_place_of)
            table = _table(waiting)
            kinds, versions = table.column("kind"), table.column("version")
            _note_versions(self.versions, zip(kinds.to_pylist(), versions.to_pylist(), strict=True))
            offset = 0
            stretches = self._stretches.setdefault(family, [])
            for place, rows in waiting:
                stretches.append(_Stretch(place, table, offset, len(rows)))
                offset += len(rows)
        self._waiting.clear()
        self._waiting_count = 0


def arrow_field(name: str, sql_type: str, field_id: int) -> Any:
    """The field of a column in the files of segments."""
    import pyarrow as pa

    width = _FIXED_WIDTHS.get(name)
    kind = getattr(pa, _ARROW_TYPES[sql_type])() if width is None else pa.binary(width)
    return pa.field(name, kind, metadata={b"PARQUET:field_id": str(field_id).encode()})


def lowest_versions(told: Iterable[dict[str, int]]) -> dict[str, int]:
    """What several segments say of their versions, as one says it."""
    found: dict[str, int] = {}
    for versions in told:
        for kind, version in versions.items():
            found[kind] = min(version, found.get(kind, version))
    return dict(sorted(found.items()))


def _note_versions(versions: dict[str, int], pairs: Iterable[tuple[str, int]]) -> None:
    for kind, version in set(pairs):
        versions[kind] = min(version, versions.get(kind, version))


def _place_of(waiting: tuple[Place, list[list[Any]]]) -> Place:
    return waiting[0]


def _table(waiting: Sequence[tuple[Place, list[list[Any]]]]) -> Any:
    """One table of the rows of many stretches; a column that is NULL in all of them is left out."""
    import pyarrow as pa

    values = list(zip_longest(*chain.from_iterable(rows for _, rows in waiting)))
    count = len(values[0])
    writers = [place[2] for place, rows in waiting for _ in range(len(rows))]
    arrays, fields = [], []
    for column, found in zip(COLUMNS, chain([writers], values), strict=False):
        if column.name not in _ALWAYS and found[0] is None and found.count(None) == count:
            continue
        field = arrow_field(*column)
        if column.name == "payload":
            found = [None if payload is None else json_text(payload) for payload in found]
        elif column.name == "epoch":
            found = [epoch or 0 for epoch in found]
        arrays.append(pa.array(found, field.type))
        fields.append(field)
    if fields[-1].name != "epoch":
        fields.append(arrow_field(*COLUMNS[-1]))
        arrays.append(pa.repeat(pa.scalar(0, fields[-1].type), count))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _joined(stretches: list[_Stretch]) -> Any:
    """One sorted table of all stretches."""
    import pyarrow as pa

    stretches.sort(key=lambda stretch: stretch.place)
    # Each table stands as a whole behind the others, and then its rows are taken in their order: slices of
    # one run each would be too many.
    tables: dict[int, Any] = {}
    starts: dict[int, int] = {}
    count = 0
    for _, table, _, _ in stretches:
        if id(table) not in tables:
            tables[id(table)] = table
            starts[id(table)] = count
            count += table.num_rows
    joined = pa.concat_tables(tables.values(), promote_options="default").combine_chunks()
    names = [column.name for column in COLUMNS if column.name in joined.column_names]
    places = array("q")
    for _, table, offset, length in stretches:
        first = starts[id(table)] + offset
        places.extend(range(first, first + length))
    if any(place != index for index, place in enumerate(places)):
        indices = pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places)])
        joined = joined.take(indices)
    return joined.select(names)
