"""Arrow tables, pandas and polars frames as Parquet, so that SQL can look inside; only of tested types.

The bytes depend on the table alone: one chunk, fixed options, no compression (its output differs
between versions of its library) and a footer of our own (`weft.lineage.footers`). They have been seen
to be equal from pyarrow 17 to 26.
"""

from __future__ import annotations

import sys
from typing import Any

from weft.lineage.footers import rebuilt
from weft.lineage.frames import METADATA_KEY, from_arrow, to_arrow

__all__ = ["ARROW", "PANDAS", "POLARS", "dump_table", "load_table"]

ARROW = "parquet-arrow/1"
PANDAS = "parquet-pandas/1"
POLARS = "parquet-polars/1"

_ROWS_PER_GROUP = 1 << 20
_PAGE_BYTES = 1 << 20


def dump_table(value: Any) -> tuple[str, list[bytes | memoryview]] | None:
    """Serializer and parts; None for what is no table or is outside the tested types."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    if package == "pandas" and kind is getattr(sys.modules["pandas"], "DataFrame", None):
        table = to_arrow(value)
        return None if table is None else _dump(PANDAS, table)
    if package == "polars" and kind is getattr(sys.modules["polars"], "DataFrame", None):
        table = _polars_to_arrow(value)
        return None if table is None else _dump(POLARS, table)
    if package == "pyarrow" and kind is getattr(sys.modules["pyarrow"], "Table", None):
        return _dump(ARROW, value) if _is_tested_table(value) else None
    return None


def load_table(serializer: str, data: bytes | memoryview, path: str | None) -> Any:
    """The table or frame. Raises: ValueError (pyarrow's) for other bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.BufferReader(data) if path is None else path
    # Threads would outlive this call, in a process that may be forked.
    with pq.ParquetFile(source, pre_buffer=False) as file:
        table = file.read(use_threads=False)
    if serializer == PANDAS:
        return from_arrow(table)
    if serializer == POLARS:
        import polars as pl

        return pl.from_arrow(table)
    return table


def _dump(serializer: str, table: Any) -> tuple[str, list[bytes | memoryview]] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    try:
        pq.write_table(
            table.combine_chunks(),
            sink,
            row_group_size=_ROWS_PER_GROUP,
            version="2.6",
            data_page_version="1.0",
            data_page_size=_PAGE_BYTES,
            dictionary_pagesize_limit=_PAGE_BYTES,
            write_batch_size=1024,
            use_dictionary=True,
            compression="none",
            # What is said of a page has changed with versions; the pages have not.
            write_statistics=False,
            store_schema=True,
            # Else the items of lists come back under another name.
            use_compliant_nested_type=False,
        )
    except (pa.ArrowException, OverflowError):
        # Values past the range of what Parquet has for their type, such as timestamps in seconds.
        return None
    return serializer, rebuilt(memoryview(sink.getvalue()))


def _is_tested_table(table: Any) -> bool:
    schema = table.schema
    names = schema.names
    metadata = schema.metadata or {}
    return (
        bool(names)
        and len(set(names)) == len(names)
        and METADATA_KEY not in metadata
        and b"ARROW:schema" not in metadata
        and all(field.metadata is None and _is_tested_type(field.type) for field in schema)
    )


def _is_tested_type(kind: Any) -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return kind.value_field.metadata is None and _is_tested_type(kind.value_type)
    if types.is_struct(kind):
        fields = [kind.field(position) for position in range(kind.num_fields)]
        return bool(fields) and all(f.metadata is None and _is_tested_type(f.type) for f in fields)
    if types.is_timestamp(kind):
        return bool(kind.unit != "s")
    tests = (
        types.is_boolean,
        types.is_integer,
        types.is_float32,
        types.is_float64,
        types.is_string,
        types.is_large_string,
        types.is_binary,
        types.is_large_binary,
        types.is_date32,
        types.is_time64,
        types.is_duration,
        types.is_decimal128,
    )
    return any(test(kind) for test in tests)


def _polars_to_arrow(frame: Any) -> Any | None:
    import polars as pl

    if frame.width == 0 or not all(_is_tested_polars(dtype) for dtype in frame.dtypes):
        return None
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _is_tested_polars(dtype: Any) -> bool:
    import polars as pl

    if isinstance(dtype, pl.List):
        return _is_tested_polars(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return bool(dtype.fields) and all(_is_tested_polars(field.dtype) for field in dtype.fields)
    tested = (pl.Boolean, pl.Float32, pl.Float64, pl.String, pl.Binary, pl.Date, pl.Time, pl.Datetime)
    integers = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
    return isinstance(dtype, (*tested, *integers, pl.Duration, pl.Decimal))
