"""Segment files: events written as Parquet, and read back once their sha256 was found right.

Writing needs pyarrow, reading needs DuckDB; both are imported where they are used. Schema and reader map
come from `events.COLUMNS`, because a wrong field id gives another column's values without an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weft.lineage.codec import row_of
from weft.lineage.errors import StoreDamaged
from weft.lineage.events import COLUMNS, FAMILIES, Event, family_of
from weft.lineage.manifest import (
    FOOTER_KEY,
    Footer,
    Piece,
    Range,
    Segment,
    SegmentFile,
    damaged_segment,
    footer_text,
    segment_id_of,
)
from weft.lineage.objects import sha256_of
from weft.lineage.paths import SegmentName, segment_path
from weft.lineage.storage import Storage
from weft.lineage.upcast import upcast

__all__ = ["check_segment_file", "encode_segment", "read_piece", "schema_map_sql", "write_segment"]

_ROW_GROUP_ROWS = 32_768
_ZSTD_LEVEL = 1
_BLOOM_FALSE_POSITIVES = 0.01

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

#: Every value is its own: a dictionary would only cost.
_PLAIN = frozenset(("seq", "time_us", "digest", "value", "value_number", "blob", "payload", "size_bytes"))
_DELTA = ("seq", "time_us")


def write_segment(
    storage: Storage, events: Sequence[Event], ranges: Sequence[Range], why: str, replaces: Sequence[str] = ()
) -> Segment:
    """Publish events as one segment, durable; its files appear one by one, and it counts when all are there.

    Raises: StoreUnavailable; ValueError, TypeError or OverflowError when an event does not fit its columns.
    """
    files: dict[str, SegmentFile] = {}
    encoded = encode_segment(events, ranges, why, replaces)
    for footer, data in encoded:
        digest = hashlib.sha256(data).digest()
        path = segment_path(SegmentName(footer.family, digest))
        if not storage.exists(path):
            storage.put(path, data)
        files[footer.family] = SegmentFile(path, digest, len(data), footer)
    footer = encoded[0][0]
    return Segment(footer.segment_id, files, footer.rows, footer.ranges, why, footer.replaces)


def encode_segment(
    events: Sequence[Event], ranges: Sequence[Range], why: str, replaces: Sequence[str] = ()
) -> list[tuple[Footer, bytes]]:
    """The files of a segment as bytes, in the order of `FAMILIES`, none for a family without events."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for event in events:
        rows.setdefault(family_of(event.kind), []).append(row_of(event))
    counts = {family: len(rows[family]) for family in FAMILIES if family in rows}
    segment_id = segment_id_of(ranges, why, replaces)
    encoded = []
    for family in counts:
        footer = Footer(segment_id, family, counts, tuple(ranges), why, tuple(replaces))
        encoded.append((footer, _encode_file(rows[family], footer)))
    return encoded


def check_segment_file(storage: Storage, path: str, digest: bytes) -> None:
    """Prove a segment file by its sha256. Raises: StoreDamaged, NotFound."""
    if sha256_of(storage, path) != digest:
        raise damaged_segment(storage, path, "its bytes are others than its name says")


def schema_map_sql() -> str:
    """The map by which DuckDB's `read_parquet(…, schema => MAP {…})` binds our columns."""
    entries = (
        f"{column.field_id}: {{name: '{column.name}', type: '{column.sql_type}', default_value: NULL}}"
        for column in COLUMNS
    )
    return f"MAP {{{', '.join(entries)}}}"


def read_piece(
    storage: Storage,
    piece: Piece,
    flow: str | None = None,
    run_id: str | None = None,
    run_uid: bytes | None = None,
    families: Sequence[str] = FAMILIES,
) -> Iterator[Event]:
    """The events of a piece of a segment that was proven before, narrowed where asked; in no order."""
    wanted = {"flow": flow, "run_id": run_id, "run_uid": run_uid}
    files = [file.path for family, file in piece.segment.files.items() if family in families]
    if files:
        yield from _read_files(storage.localize(files), piece, wanted)


def _read_files(paths: list[str], piece: Piece, wanted: Mapping[str, str | bytes | None]) -> Iterator[Event]:
    import json

    conditions: list[str] = []
    parameters: list[str | bytes | int] = []
    for name, value in wanted.items():
        if value is not None:
            conditions.append(f"{name} = ?")
            parameters.append(value)
    if piece.only is not None:
        conditions.append(f"({' or '.join(['(writer = ? and seq between ? and ?)'] * len(piece.only))})")
        parameters += [part for claim in piece.only for part in claim]
    names = ", ".join(column.name for column in COLUMNS)
    query = f"select {names} from read_parquet(?, schema => {schema_map_sql()})"
    if conditions:
        query += f" where {' and '.join(conditions)}"
    duckdb = _duckdb()
    with duckdb.connect() as connection:
        try:
            rows = connection.execute(query, [paths, *parameters]).fetchall()
        except duckdb.Error as error:
            raise StoreDamaged(
                f"DuckDB cannot read {', '.join(paths)}: {error}. Run `weft verify`."
            ) from error
    at = Event._fields.index("payload")
    epoch = Event._fields.index("epoch")
    for row in rows:
        payload = None if row[at] is None else json.loads(row[at])
        yield upcast(Event._make((*row[:at], payload, *row[at + 1 : epoch], row[epoch] or 0)))


def _duckdb() -> Any:
    from importlib import import_module

    try:
        # The compiled part alone starts in a third of the time.
        return import_module("_duckdb")
    except ImportError:
        return import_module("duckdb")


def _encode_file(rows: list[tuple[Any, ...]], footer: Footer) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    at = {column.name: index for index, column in enumerate(COLUMNS)}
    flow, run_id, writer, seq = at["flow"], at["run_id"], at["writer"], at["seq"]
    rows.sort(key=lambda row: (row[flow] or "", row[run_id] or "", row[writer], row[seq]))
    arrays, fields = [], []
    for column, values in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        if column.name not in _ALWAYS and values.count(None) == len(values):
            continue
        arrow_type = _arrow_type(column.name, column.sql_type)
        arrays.append(pa.array(values, arrow_type))
        metadata = {b"PARQUET:field_id": str(column.field_id).encode()}
        fields.append(pa.field(column.name, arrow_type, metadata=metadata))
    schema = pa.schema(fields)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **_writer_options(schema.names, len(rows))) as file:
        file.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=_ROW_GROUP_ROWS)
        file.add_key_value_metadata({FOOTER_KEY: footer_text(footer)})
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _arrow_type(name: str, sql_type: str) -> Any:
    import pyarrow as pa

    if name in _FIXED_WIDTHS:
        return pa.binary(_FIXED_WIDTHS[name])
    return getattr(pa, _ARROW_TYPES[sql_type])()


def _writer_options(names: list[str], row_count: int) -> dict[str, Any]:
    import inspect

    import pyarrow.parquet as pq

    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": _ZSTD_LEVEL,
        "store_schema": False,
        "use_dictionary": [name for name in names if name not in _PLAIN],
        "column_encoding": {name: "DELTA_BINARY_PACKED" for name in _DELTA},
    }
    # Bloom filters came to pyarrow late; without them only the search for a digest is slower.
    if (
        "digest" in names
        and "bloom_filter_options" in inspect.signature(pq.ParquetWriter.__init__).parameters
    ):
        distinct = min(row_count, _ROW_GROUP_ROWS)
        options["bloom_filter_options"] = {"digest": {"ndv": distinct, "fpp": _BLOOM_FALSE_POSITIVES}}
    return options
