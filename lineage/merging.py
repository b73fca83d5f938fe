"""The files of one family merged into one: rows move as columns, in stretches of one run and one writer."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from weft.lineage.errors import StoreDamaged
from weft.lineage.manifest import Footer
from weft.lineage.ranges import Spans
from weft.lineage.segments import ROW_GROUP_ROWS, encode_parts

__all__ = ["MergedFile", "Source"]

_FIELD_ID = b"PARQUET:field_id"


class Source(NamedTuple):
    """A proven segment file, and which of its events are kept: None is all."""

    path: str
    only: Spans | None


class _Stretch(NamedTuple):
    """Rows of one run and one writer in one of the tables; the order of these is that of the merged rows."""

    flow: str
    run_id: str
    writer: bytes
    first_seq: int
    table: int
    offset: int
    length: int


class MergedFile:
    """One family of a segment that is being made: the files it comes from, and the order of its rows.

    Only what the order depends on is read at first: `encode` holds one family in memory, and no more.
    `cuts` says where the ranges of a writer begin and end, if it has several: rows of other files may belong
    in between. Raises: StoreDamaged.
    """

    def __init__(self, sources: Sequence[Source], cuts: Mapping[bytes, Sequence[int]]) -> None:
        self._paths = [source.path for source in sources]
        self._stretches = sorted(
            stretch for index, source in enumerate(sources) for stretch in _stretches_of(source, index, cuts)
        )
        self.row_count = sum(stretch.length for stretch in self._stretches)

    def encode(self, footer: Footer) -> memoryview:
        """The bytes of the file. Raises: StoreDamaged."""
        schema, tables = _unified([_read(path) for path in self._paths], self._paths)

        def fill(file: Any) -> None:
            for group in _row_groups(tables, self._stretches):
                file.write_table(group, row_group_size=ROW_GROUP_ROWS)

        return encode_parts(schema, self.row_count, footer, fill)


def _read(path: str, columns: list[str] | None = None) -> Any:
    """A table with one chunk for each column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Threads would hold more of the file at once than is needed.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            return file.read(columns, use_threads=False).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise StoreDamaged(f"Segment {path} cannot be read: {error}. Run `weft verify`.") from error


def _unified(tables: list[Any], paths: Sequence[str]) -> tuple[Any, list[Any]]:
    """The tables with the columns of all of them."""
    import pyarrow as pa

    schema = _schema_of(tables, paths)
    found = []
    for table in tables:
        for field in schema:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        found.append(table.select(schema.names).cast(schema))
    return schema, found


def _row_groups(tables: Sequence[Any], stretches: Sequence[_Stretch]) -> Iterator[Any]:
    """Tables of as many rows as a row group has."""
    import pyarrow as pa

    waiting: list[Any] = []
    count = 0
    for table, start, length in _joined(stretches):
        offset, left = start, length
        while left:
            taken = min(left, ROW_GROUP_ROWS - count)
            waiting.append(tables[table].slice(offset, taken))
            offset, left, count = offset + taken, left - taken, count + taken
            if count == ROW_GROUP_ROWS:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, count = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _schema_of(tables: Sequence[Any], paths: Sequence[str]) -> Any:
    """All columns of all tables, by field id: also those that a newer weft has added."""
    import pyarrow as pa

    fields: dict[int, Any] = {}
    for table, path in zip(tables, paths, strict=True):
        for field in table.schema:
            field_id = int((field.metadata or {}).get(_FIELD_ID, b"0"))
            told = pa.field(field.name, field.type, metadata={_FIELD_ID: str(field_id).encode()})
            if fields.setdefault(field_id, told) != told or not field_id:
                raise StoreDamaged(
                    f"Column {field.name} of segment {path} is not what it is in other segments. Run `weft verify`."
                )
    return pa.schema([fields[field_id] for field_id in sorted(fields)])


def _runs_of(table: Any) -> Iterator[tuple[str, str, bytes, int, int]]:
    """(flow, run_id, writer, offset, length) of neighbouring rows that have these in common."""
    import pyarrow.compute as pc

    ends: set[int] = set()
    columns = {}
    for name in ("flow", "run_id", "writer"):
        if name not in table.column_names:
            columns[name] = ([table.num_rows], [None])
            continue
        encoded = pc.run_end_encode(table.column(name).combine_chunks())
        columns[name] = (encoded.run_ends.to_pylist(), encoded.values.to_pylist())
        ends.update(columns[name][0])
    places = dict.fromkeys(columns, 0)
    offset = 0
    for end in sorted(ends):
        told: dict[str, Any] = {}
        for name, (run_ends, values) in columns.items():
            while run_ends[places[name]] <= offset:
                places[name] += 1
            told[name] = values[places[name]]
        yield told["flow"] or "", told["run_id"] or "", told["writer"], offset, end - offset
        offset = end


def _stretches_of(source: Source, index: int, cuts: Mapping[bytes, Sequence[int]]) -> Iterator[_Stretch]:
    """The rows that are kept of one file, cut where rows of another may belong in between."""
    table = _read(source.path, ["flow", "run_id", "writer", "seq"])
    seqs = table.column("seq").combine_chunks()
    for flow, run_id, writer, offset, length in _runs_of(table):
        starts = cuts.get(writer, ())
        if source.only is None and not starts:
            yield _Stretch(flow, run_id, writer, seqs[offset].as_py(), index, offset, length)
            continue
        mine = seqs.slice(offset, length).to_pylist()
        spans = [(mine[0], mine[-1])] if source.only is None else source.only.of_writer(writer)
        for first, last in spans:
            begin, end = bisect_left(mine, first), bisect_right(mine, last)
            inner = [bisect_left(mine, cut, begin, end) for cut in starts if first < cut <= last]
            for low, high in zip([begin, *inner], [*inner, end], strict=True):
                if low < high:
                    yield _Stretch(flow, run_id, writer, mine[low], index, offset + low, high - low)


def _joined(stretches: Sequence[_Stretch]) -> Iterator[tuple[int, int, int]]:
    """(table, offset, length); stretches that lie behind each other become one."""
    table = offset = length = -1
    for stretch in stretches:
        if stretch.table == table and stretch.offset == offset + length:
            length += stretch.length
            continue
        if length > 0:
            yield table, offset, length
        table, offset, length = stretch.table, stretch.offset, stretch.length
    if length > 0:
        yield table, offset, length
