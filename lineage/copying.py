"""Rows on their way into tables of DuckDB: those of a program, and those of segment files.

Most of what it takes to read a few rows of a file is to plan it. Bound by the names of its columns that takes half
as long as by field ids; a file with a name that the table lacks is bound by field ids, which every file has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from weft.lineage.engine import load_engine

__all__ = ["Copy", "copy_together", "insert_rows"]


class Copy(NamedTuple):
    """Rows of proven files that go into a table. `source` is a SELECT of them that binds by field ids; by names
    they are read of `paths`, none where that cannot be."""

    table: str
    paths: Sequence[str]
    source: str
    condition: str


def copy_together(connection: Any, copies: Sequence[Copy], database: str = "") -> int:
    """Carry out copies into tables of a database (or of the current one), two at a time; gives the number of rows.

    Raises: DuckDB's errors; then some may be done.
    """
    waiting = iter(copies)
    if len(copies) < 2:
        return _work(connection, waiting)
    from threading import Thread

    failed: list[Exception] = []
    counts: list[int] = []
    other = connection.cursor()
    if database:
        other.execute(f"use {database}")

    def work() -> None:
        try:
            counts.append(_work(other, waiting))
        except Exception as error:  # noqa: BLE001  # It is raised where the caller waits.
            failed.append(error)

    second = Thread(target=work, name="weft-copy")
    second.start()
    try:
        counts.append(_work(connection, waiting))
    finally:
        second.join()
        other.close()
    if failed:
        raise failed[0]
    return sum(counts)


def _work(connection: Any, waiting: Iterator[Copy]) -> int:
    count = 0
    # An iterator over a sequence gives each item to one of the threads.
    for copy in waiting:
        *by_names, by_ids = _ways(copy)
        for way in by_names:
            with suppress(load_engine().BinderException):
                # It fails before anything is read.
                count += _rows(connection.execute(way))
                break
        else:
            count += _rows(connection.execute(by_ids))
    return count


def _ways(copy: Copy) -> Iterator[str]:
    """Statements for a copy, the quickest first: all but the last need names that are the same, the first one also
    all columns of the condition."""
    if copy.paths:
        files = [f"select * from read_parquet('{_quoted(path)}')" for path in copy.paths]
        where = f"where {copy.condition}"
        chosen = " union all by name ".join(f"{file} {where}" for file in files)
        yield f"insert into {copy.table} by name {chosen}"
        all_columns = " union all by name ".join((f"select * from {copy.table} where false", *files))
        yield f"insert into {copy.table} by name select * from ({all_columns}) {where}"
    yield f"insert into {copy.table} select * from ({copy.source}) where {copy.condition}"


def _rows(inserted: Any) -> int:
    return int(inserted.fetchone()[0])


def insert_rows(
    connection: Any, table: str, types: Mapping[str, str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows as one list per column. A column that is NULL in all rows is left out; one that is the same in
    all goes in as one value, but for one column, which says how many rows there are."""
    names = []
    parts = []
    params = []
    has_list = False
    for (name, sql_type), values in zip(types.items(), zip(*rows, strict=True), strict=True):
        is_same = values.count(values[0]) == len(values)
        if is_same and values[0] is None:
            continue
        names.append(name)
        is_list = not is_same or not has_list
        has_list = has_list or is_list
        parts.append(f"unnest(?::{sql_type}[])" if is_list else f"?::{sql_type}")
        params.append(list(values) if is_list else values[0])
    if names:
        connection.execute(f"insert into {table} ({', '.join(names)}) select {', '.join(parts)}", params)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
