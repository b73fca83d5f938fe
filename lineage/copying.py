"""Rows on their way into tables of DuckDB: those of a program, and those of segment files.

Most of what it takes to read a few rows of a file is to plan it. Bound by the names of its columns that takes half
as long as by field ids; a file with a name that the table lacks is bound by field ids, which every file has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from weft.lineage.engine import load_engine

__all__ = [
    "BY_NAMES_MAX",
    "Copy",
    "Found",
    "Wanted",
    "copy_together",
    "count_rows",
    "fetch_together",
    "insert_rows",
]

#: Files that are read by the names of their columns: of more each is planned by itself.
BY_NAMES_MAX = 2

T = TypeVar("T")
R = TypeVar("R")


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
    return sum(_two_at_a_time(connection, _copy, copies, database))


class Wanted(NamedTuple):
    """Rows of proven files that a program wants, at most `limit`, with some of the columns `names`; the rest is as
    of a `Copy`."""

    names: Collection[str]
    paths: Sequence[str]
    source: str
    condition: str
    limit: int


class Found(NamedTuple):
    """Rows, and the names of their columns: those that there are in the files."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def fetch_together(connection: Any, wanted: Sequence[Wanted]) -> list[Found]:
    """The rows of each, fetched two at a time. Raises: DuckDB's errors."""
    return _two_at_a_time(connection, _fetch, wanted, "")


def count_rows(connection: Any, wanted: Sequence[Wanted]) -> int:
    """How many rows there are, without regard to limits. Raises: DuckDB's errors."""
    counts = [f"(select count(*) from ({one.source}) where {one.condition})" for one in wanted]
    (row,) = connection.execute(f"select {' + '.join(counts)}").fetchall()
    return int(row[0])


def _two_at_a_time(
    connection: Any, work: Callable[[Any, T], R], items: Sequence[T], database: str
) -> list[R]:
    """What `work` gives for each item, done on this connection and on another beside it."""
    waiting = iter(enumerate(items))
    done: dict[int, R] = {}

    def go_on(own: Any) -> None:
        # An iterator over a sequence gives each item to one of the threads.
        for number, item in waiting:
            done[number] = work(own, item)

    if len(items) < 2:
        go_on(connection)
        return list(done.values())
    from threading import Thread

    failed: list[Exception] = []
    other = connection.cursor()
    if database:
        other.execute(f"use {database}")

    def go_on_beside() -> None:
        try:
            go_on(other)
        except Exception as error:  # noqa: BLE001  # It is raised where the caller waits.
            failed.append(error)

    second = Thread(target=go_on_beside, name="weft-copy")
    second.start()
    try:
        go_on(connection)
    finally:
        second.join()
        other.close()
    if failed:
        raise failed[0]
    return [done[number] for number in range(len(items))]


def _copy(connection: Any, copy: Copy) -> int:
    ways = [f"insert into {copy.table} by name {query}" for query in _by_names(copy, copy.table)]
    ways.append(f"insert into {copy.table} select * from ({copy.source}) where {copy.condition}")
    (row,) = _first_bound(connection, ways).fetchall()
    return int(row[0])


def _fetch(connection: Any, wanted: Wanted) -> Found:
    by_ids = f"select * from ({wanted.source}) where {wanted.condition}"
    result = _first_bound(connection, [f"{way} limit {wanted.limit}" for way in (*_by_names(wanted), by_ids)])
    columns = [column[0] for column in result.description]
    if not set(columns) <= set(wanted.names):
        result = connection.execute(f"{by_ids} limit {wanted.limit}")
        columns = [column[0] for column in result.description]
    return Found(columns, result.fetchall())


def _first_bound(connection: Any, ways: Sequence[str]) -> Any:
    """The result of the first of some statements for the same that can be bound."""
    *quick, last = ways
    for way in quick:
        with suppress(load_engine().BinderException):
            # It fails before anything is read.
            return connection.execute(way)
    return connection.execute(last)


def _by_names(of: Copy | Wanted, table: str = "") -> Iterator[str]:
    """SELECTs that read files by the names of their columns, the quicker first: it needs all columns of the
    condition in each file, the other one has those of a table as well."""
    if not of.paths:
        return
    files = [f"select * from read_parquet('{_quoted(path)}')" for path in of.paths]
    yield " union all by name ".join(f"{file} where {of.condition}" for file in files)
    if table:
        all_columns = " union all by name ".join((f"select * from {table} where false", *files))
        yield f"select * from ({all_columns}) where {of.condition}"


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
