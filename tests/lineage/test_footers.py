from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.lineage.footers import rebuilt


def written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def again(data: bytes) -> bytes:
    return b"".join(rebuilt(memoryview(data)))


WIDE = pa.table({f"column {n}": np.arange(100) * n for n in range(40)})
MIXED = pa.table(
    {"a": np.arange(1000) % 7, "s": [str(n) for n in range(1000)], "l": [[n] for n in range(1000)]}
)


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (MIXED, {}),
        (MIXED, {"row_group_size": 100}),
        (MIXED, {"row_group_size": 3}),
        (MIXED, {"use_dictionary": False, "compression": "zstd"}),
        (MIXED, {"data_page_version": "2.0", "write_page_index": True, "write_page_checksum": True}),
        (MIXED, {"data_page_size": 64, "write_batch_size": 8}),
        (MIXED.slice(0, 0), {}),
        (WIDE, {}),
        (MIXED.replace_schema_metadata({"long": "x" * 1000, "": "ä"}), {}),
    ],
)
def test_a_rebuilt_file_reads_as_before(table: pa.Table, options: dict[str, Any]) -> None:
    original = written(table, **options)
    data = again(original)
    before = pq.read_table(io.BytesIO(original))
    assert pq.read_table(io.BytesIO(data)).equals(before, check_metadata=True)
    assert pl.read_parquet(io.BytesIO(data)).height == table.num_rows
    assert again(data) == data


def test_a_rebuilt_file_says_nothing_of_its_writer() -> None:
    with_statistics = again(written(MIXED, write_page_index=True, sorting_columns=[pq.SortingColumn(0)]))
    metadata = pq.read_metadata(io.BytesIO(with_statistics))
    assert metadata.created_by == "weft"
    assert pa.__version__.encode() not in with_statistics
    column = metadata.row_group(0).column(0)
    assert not column.is_stats_set
    assert not column.has_offset_index
    assert not metadata.row_group(0).sorting_columns


def test_pages_are_not_copied() -> None:
    data = written(MIXED)
    pages = [part for part in rebuilt(memoryview(data)) if isinstance(part, memoryview)]
    assert len(pages) == 3
    assert all(page.obj is data for page in pages)


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1\x00\x00\x00\x00PAR1", b"PAR1\x15\x02\x01\x00\x00\x00PAR1"]
)
def test_what_is_no_parquet_file_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError, IndexError)):
        rebuilt(memoryview(data))


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.binary()), max_size=50
    ),
    group=st.integers(1, 20),
)
def test_any_table_reads_as_before(rows: list[tuple[Any, Any]], group: int) -> None:
    table = pa.table(
        {
            "a": pa.array([row[0] for row in rows], pa.int64()),
            "b": pa.array([row[1] for row in rows], pa.binary()),
        }
    )
    assert pq.read_table(io.BytesIO(again(written(table, row_group_size=group)))).equals(table)
