"""Segment files: events written as Parquet, and read back once their sha256 was found right.

Writing needs pyarrow, reading needs DuckDB; both are imported where they are used. Schema and reader map
come from `schema.COLUMNS`, because a wrong field id gives another column's values without an error.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from weft.lineage.errors import NotFound, StoreDamaged
from weft.lineage.manifest import (
    FOOTER_KEY,
    RANGES_KEY,
    Footer,
    Piece,
    Segment,
    SegmentFile,
    footer_text,
    new_footer,
    ranges_text,
)
from weft.lineage.paths import SegmentName, segment_path
from weft.lineage.proofs import Proofs
from weft.lineage.ranges import Ranges
from weft.lineage.schema import COLUMNS, FAMILIES, Event
from weft.lineage.storage import Storage
from weft.lineage.upcast import upcast

__all__ = [
    "ROW_GROUP_ROWS",
    "SegmentWriter",
    "encode_parts",
    "encode_table",
    "load_duckdb",
    "raise_if_gone",
    "read_piece",
    "schema_map_sql",
    "write_segment",
]

ROW_GROUP_ROWS = 32_768
_ZSTD_LEVEL = 1
#: DuckDB passes over pages without a row that is asked for: of one run it then unpacks a few pages, not row groups.
_PAGE_ROWS = 4_096
_BLOOM_FALSE_POSITIVES = 0.01

#: Every value is its own: a dictionary would only cost.
_PLAIN = frozenset(("seq", "time_us", "digest", "value", "value_number", "blob", "payload", "size_bytes"))
_DELTA = ("seq", "time_us")


def write_segment(
    storage: Storage,
    tables: Mapping[str, Any],
    ranges: Ranges,
    why: str,
    replaces: Sequence[str] = (),
    versions: Mapping[str, int] | None = None,
) -> Segment:
    """Publish a table of each family as one segment, durable; its files appear one by one, that with the ranges
    first, and it counts when all are there.

    Raises: StoreUnavailable.
    """
    rows = {family: tables[family].num_rows for family in FAMILIES if family in tables}
    writer = SegmentWriter(storage, rows, ranges, why, replaces, versions)
    for family in rows:
        writer.publish(family, encode_table(tables[family], writer.footer(family)))
    return writer.segment()


class SegmentWriter:
    """Publishes the files of one segment in the order of `FAMILIES`."""

    def __init__(
        self,
        storage: Storage,
        rows: dict[str, int],
        ranges: Ranges,
        why: str,
        replaces: Sequence[str] = (),
        versions: Mapping[str, int] | None = None,
    ) -> None:
        self._storage = storage
        self._footers = {family: new_footer(family, rows, ranges, why, replaces, versions) for family in rows}
        self._files: dict[str, SegmentFile] = {}

    def footer(self, family: str) -> Footer:
        return self._footers[family]

    def publish(self, family: str, data: bytes | memoryview) -> None:
        digest = hashlib.sha256(data).digest()
        path = segment_path(SegmentName(family, digest))
        if self._storage.exists(path):
            # Whoever put it there may have been killed before its name was durable.
            self._storage.sync_folder(path.rpartition("/")[0])
        else:
            self._storage.put(path, data)
        self._files[family] = SegmentFile(path, digest, len(data), self._footers[family])

    def segment(self) -> Segment:
        footer = next(iter(self._footers.values()))
        return Segment(
            footer.segment_id,
            self._files,
            footer.rows,
            footer.ranges,
            footer.why,
            footer.replaces,
            footer.versions,
        )


def schema_map_sql() -> str:
    """The map by which DuckDB's `read_parquet(…, schema => MAP {…})` binds our columns."""
    entries = (
        f"{column.field_id}: {{name: '{column.name}', type: '{column.sql_type}', default_value: NULL}}"
        for column in COLUMNS
    )
    return f"MAP {{{', '.join(entries)}}}"


def read_piece(
    proofs: Proofs,
    piece: Piece,
    flow: str | None = None,
    run_id: str | None = None,
    run_uid: bytes | None = None,
    families: Sequence[str] = FAMILIES,
    kinds: Sequence[str] | None = None,
) -> Iterator[Event]:
    """The events of a piece of a segment, which is proven first; narrowed where asked; in no order.

    Raises: StoreDamaged, NotFound.
    """
    wanted = {"flow": flow, "run_id": run_id, "run_uid": run_uid}
    files = [file for family, file in piece.segment.files.items() if family in families]
    if files:
        yield from _read_files(proofs.prove(files), piece, wanted, kinds)


def _read_files(
    paths: list[str],
    piece: Piece,
    wanted: Mapping[str, str | bytes | None],
    kinds: Sequence[str] | None,
) -> Iterator[Event]:
    import json

    conditions: list[str] = []
    parameters: list[str | bytes | list[str]] = []
    for name, value in wanted.items():
        if value is not None:
            conditions.append(f"e.{name} = ?")
            parameters.append(value)
    if kinds is not None:
        conditions.append("list_contains(?::VARCHAR[], e.kind)")
        parameters.append(list(kinds))
    names = ", ".join(f"e.{column.name}" for column in COLUMNS)
    query = f"select {names} from read_parquet(?, schema => {schema_map_sql()}) e"
    if piece.only is not None:
        query += (
            f" semi join ({piece.only.sql()}) k on e.writer = k.writer "
            "and e.seq between k.first_seq and k.last_seq"
        )
    if conditions:
        query += f" where {' and '.join(conditions)}"
    duckdb = load_duckdb()
    with duckdb.connect() as connection:
        try:
            rows = connection.execute(query, [paths, *parameters]).fetchall()
        except duckdb.Error as error:
            raise_if_gone(paths, error)
            raise StoreDamaged(
                f"DuckDB cannot read {', '.join(paths)}: {error}. Run `weft verify`."
            ) from error
    at = Event._fields.index("payload")
    epoch = Event._fields.index("epoch")
    for row in rows:
        payload = None if row[at] is None else json.loads(row[at])
        yield upcast(Event._make((*row[:at], payload, *row[at + 1 : epoch], row[epoch] or 0)))


def raise_if_gone(paths: Iterable[str], error: Exception) -> None:
    """Tell a failure to read files that were compacted away since they were proven from damage. Raises: NotFound."""
    for path in paths:
        if not os.path.exists(path):
            raise NotFound(f"{path} is gone. Look again.") from error


def load_duckdb() -> Any:
    """DuckDB's module, without its Python wrappers where that can be."""
    from importlib import import_module

    try:
        # The compiled part alone starts in a third of the time.
        return import_module("_duckdb")
    except ImportError:
        return import_module("duckdb")


def encode_table(table: Any, footer: Footer) -> memoryview:
    """The file of one family; `table` is sorted."""

    def fill(file: Any) -> None:
        file.write_table(table, row_group_size=ROW_GROUP_ROWS)

    return encode_parts(table.schema, table.num_rows, footer, fill)


def encode_parts(schema: Any, row_count: int, footer: Footer, fill: Callable[[Any], None]) -> memoryview:
    """The file of one family, whose row groups `fill` writes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **_writer_options(schema.names, row_count)) as file:
        fill(file)
        # The entry comes last: it is found without reading the ranges.
        if footer.has_ranges:
            file.add_key_value_metadata({RANGES_KEY: ranges_text(footer.ranges)})
        file.add_key_value_metadata({FOOTER_KEY: footer_text(footer)})
    return memoryview(sink.getvalue())


def _writer_options(names: list[str], row_count: int) -> dict[str, Any]:
    import inspect

    import pyarrow.parquet as pq

    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": _ZSTD_LEVEL,
        "store_schema": False,
        "use_dictionary": [name for name in names if name not in _PLAIN],
        "column_encoding": {name: "DELTA_BINARY_PACKED" for name in _DELTA},
        # Our readers prove whole files; page checksums let `weft verify` name the place of damage.
        "write_page_checksum": True,
    }
    # Both came to pyarrow late; without them only questions about a run, or a digest, take longer.
    known = inspect.signature(pq.ParquetWriter.__init__).parameters
    if "max_rows_per_page" in known:
        options["max_rows_per_page"] = options["write_batch_size"] = _PAGE_ROWS
    if "digest" in names and "bloom_filter_options" in known:
        distinct = min(row_count, ROW_GROUP_ROWS)
        options["bloom_filter_options"] = {"digest": {"ndv": distinct, "fpp": _BLOOM_FALSE_POSITIVES}}
    return options
