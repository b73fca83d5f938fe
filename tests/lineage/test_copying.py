"""Rows of files come into a table by the names of their columns, else by field ids, and failures come out."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.lineage.copying import Copy, Wanted, copy_together, fetch_together, insert_rows

TYPES = {"a": "BIGINT", "b": "VARCHAR"}
BY_IDS = (
    "select a, b from read_parquet(['{}'], schema => MAP {{"
    "1: {{name: 'a', type: 'BIGINT', default_value: NULL}}, 2: {{name: 'b', type: 'VARCHAR', default_value: NULL}}}})"
)


def written(path: Path, **columns: tuple[int, list[object]]) -> str:
    """A file of these columns, each with its field id."""
    fields = [
        pa.field(name, pa.array(values).type, metadata={b"PARQUET:field_id": str(field_id)})
        for name, (field_id, values) in columns.items()
    ]
    arrays = [pa.array(values) for _, values in columns.values()]
    pq.write_table(pa.table(arrays, schema=pa.schema(fields)), path, store_schema=False)
    return str(path)


def copied(table: str, path: str, condition: str = "true") -> Copy:
    return Copy(table, [path], BY_IDS.format(path), condition)


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    made = duckdb.connect()
    made.execute(
        "create schema raw; create table raw.x (a BIGINT, b VARCHAR); create table raw.y (a BIGINT, b VARCHAR)"
    )
    return made


def test_what_a_file_lacks_is_null_and_what_only_it_has_is_left_out(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    few = written(tmp_path / "few.parquet", b=(2, ["one", "two"]))
    more = written(tmp_path / "more.parquet", z=(9, [0]), b=(2, ["three"]), a=(1, [3]))
    copy_together(connection, [copied("raw.x", few, "b <> 'two'"), copied("raw.y", more)])
    assert connection.execute("from raw.x").fetchall() == [(None, "one")]
    assert connection.execute("from raw.y").fetchall() == [(3, "three")]


def test_a_file_without_a_column_of_the_condition_has_null_there(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    few = written(tmp_path / "few.parquet", b=(2, ["one", "two"]))
    assert copy_together(connection, [copied("raw.x", few, "a = 1")]) == 0
    assert copy_together(connection, [copied("raw.y", few, "a is null and b = 'two'")]) == 1
    assert connection.execute("from raw.x union all from raw.y").fetchall() == [(None, "two")]


def test_field_ids_bind_what_has_another_name(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    renamed = written(tmp_path / "renamed.parquet", was_a=(1, [5]), b=(2, ["x"]))
    assert copy_together(connection, [copied("raw.x", renamed)]) == 1
    assert copy_together(connection, [copied("raw.x", renamed, "a = 5")]) == 1
    assert connection.execute("from raw.x").fetchall() == [(5, "x")] * 2


def test_rows_are_fetched_by_names_and_where_a_name_is_another_by_field_ids(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    plain = written(tmp_path / "plain.parquet", b=(2, ["x", "y"]), a=(1, [1, 2]))
    few = written(tmp_path / "few.parquet", b=(2, ["x"]))
    renamed = written(tmp_path / "renamed.parquet", was_a=(1, [5]), b=(2, ["z"]))
    wanted = [
        Wanted(TYPES, [path], BY_IDS.format(path), condition, 2)
        for path, condition in (
            (plain, "true"),
            (few, "true"),
            (few, "a is null"),
            (renamed, "true"),
            (renamed, "a = 5"),
            (plain, "b = 'y'"),
        )
    ]
    found = fetch_together(connection, wanted)
    assert [(one.columns, one.rows) for one in found] == [
        (["b", "a"], [("x", 1), ("y", 2)]),
        (["b"], [("x",)]),
        (["a", "b"], [(None, "x")]),
        (["a", "b"], [(5, "z")]),
        (["a", "b"], [(5, "z")]),
        (["b", "a"], [("y", 2)]),
    ]
    assert [len(one.rows) for one in fetch_together(connection, [wanted[0]._replace(limit=1)])] == [1]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_copy_that_fails_says_so_in_whatever_thread(
    place: int, connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    good = written(tmp_path / "good.parquet", a=(1, [1]), b=(2, ["x"]))
    copies = [copied("raw.x", good), copied("raw.y", good), copied("raw.x", good)]
    copies[place] = copied("raw.y", str(tmp_path / "gone.parquet"))
    with pytest.raises(duckdb.IOException, match="gone"):
        copy_together(connection, copies)


def test_copies_go_into_the_database_that_is_named(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    connection.execute("attach ':memory:' as other; use other; create schema raw")
    connection.execute("create table raw.x (a BIGINT, b VARCHAR); create table raw.y (a BIGINT, b VARCHAR)")
    file = written(tmp_path / "file.parquet", a=(1, [1]), b=(2, ["x"]))
    copy_together(connection, [copied("raw.x", file), copied("raw.y", file)], "other")
    counts = "select (select count(*) from other.raw.x), (select count(*) from other.raw.y), (select count(*) from memory.raw.y)"
    assert connection.execute(counts).fetchall() == [(1, 1, 0)]


def test_rows_of_a_program_are_inserted_as_they_are(connection: duckdb.DuckDBPyConnection) -> None:
    insert_rows(connection, "raw.x", TYPES, [(1, None), (1, None)])
    insert_rows(connection, "raw.x", TYPES, [(2, "b"), (3, "b"), (4, None)])
    insert_rows(connection, "raw.x", TYPES, [(None, None)])
    rows = connection.execute("from raw.x").fetchall()
    assert rows == [(1, None), (1, None), (2, "b"), (3, "b"), (4, None)]
