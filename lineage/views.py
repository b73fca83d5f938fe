"""The views in DuckDB: an in-memory database that holds the events and what they fold to.

Hot tails go in as rows; segments are read where they lie, by an explicit list of files, or are copied
in when they are small. Folds are worked out when a query first needs them and kept until more events
come. The database is a cache: nothing is lost with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from weft.lineage import fence, view_sql
from weft.lineage.codec import row_of
from weft.lineage.errors import QueryError
from weft.lineage.events import COLUMNS, FAMILIES, Event, family_of
from weft.lineage.limits import Limits, TimeIsUp, run_interruptible

__all__ = ["Sealed", "Views", "load_engine"]

#: Segments up to this size together are copied into memory, so that folds of them can be kept.
_COPIED_BYTES_MAX = 8 * 1024 * 1024
_THREADS_MAX = 8
_MEMORY_BYTES_MIN = 512 * 1024 * 1024

_UNLIMITED = Limits()

_COLUMN_TYPES = {column.name: column.sql_type for column in COLUMNS}

#: Words of queries that look at the catalogue, and so see whether a view was made.
_CATALOGUE_WORDS = ("show", "describe", "information_schema", "duckdb_", "pragma_", "sqlite_", "pg_")

_TASKS = ("runs", "attempts", "tasks")
_REUSES = (*_TASKS, "reuses")

#: The folds below each view.
_FOLDS = {
    "runs": _TASKS,
    "steps": _TASKS,
    "tasks": _REUSES,
    "attempts": _REUSES,
    "artifacts": (*_REUSES, "retried"),
    "artifact_uses": _REUSES,
    "external_uses": _REUSES,
    "parameters": ("runs",),
    "tags": ("runs",),
    "events": ("runs",),
}

#: The families of events that each view reads, run and task apart.
_FAMILIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_FOLDS, ()),
    "artifacts": ("artifact",),
    "artifact_uses": ("use",),
    "external_uses": ("use",),
    "events": FAMILIES,
}


class Sealed(NamedTuple):
    """The segments to read: a SELECT of events for each family that has any, and the files they read."""

    queries: dict[str, str]
    files: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return sum(os.path.getsize(file) for file in self.files)


def load_engine() -> Any:
    """DuckDB's module, without its Python wrappers: they cost 80 ms and are needed only for frames.

    The bare module's name is private, so another version may lack it.
    """
    try:
        return import_module("_duckdb")
    except ImportError:
        return import_module("duckdb")


class Views:
    """One connection that carries the views. Not safe to use from two threads at once.

    Events later than `as_of_us` are left out. `readable` are further files that queries may open.
    """

    def __init__(
        self, engine: Any, sealed: Sealed, as_of_us: int | None = None, readable: Sequence[str] = ()
    ) -> None:
        self._engine = engine
        self._has_twins: bool | None = None
        #: What was made of views and folds since events came last: "table" or "view" by name.
        self._made: dict[str, str] = {}
        #: Events that no query needed so far, by family.
        self._waiting: dict[str, list[Event]] = {}
        self._uncopied: dict[str, str] = {}
        self._as_of_us = as_of_us
        self._sealed_families = frozenset(sealed.queries)
        self._results = 0
        self._discarded: list[str] = []
        self.connection = engine.connect(":memory:", config=_config())
        self._keeps_folds = sealed.size_bytes <= _COPIED_BYTES_MAX
        self._create_events(sealed.queries)
        fence.shut(self.connection, [*sealed.files, *readable])

    def add(self, events: Iterable[Event]) -> None:
        """Put in events that are in no segment and were not put in before."""
        for event in events:
            if self._as_of_us is None or event.time_us <= self._as_of_us:
                self._waiting.setdefault(family_of(event.kind), []).append(event)
        self._has_twins = None

    def set_clock(self, liveness: Mapping[bytes, bool], now_us: int | None) -> None:
        """Say what time it is, and which writers are known to live (True) or to be dead (False)."""
        self.connection.execute("delete from raw.writers")
        rows = [(writer, not lives) for writer, lives in liveness.items()]
        if rows:
            self._insert("raw.writers", {"writer": "BLOB", "is_dead": "BOOLEAN"}, rows)
        self.connection.execute("update raw.clock set now_us = ?", [now_us])
        self._has_twins = None

    def rows(self, query: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Run a query of our own and fetch it."""
        self._fold_for(query)
        rows: list[tuple[Any, ...]] = self.connection.execute(query, params).fetchall()
        return rows

    def ask(self, query: str, params: Any = None, limits: Limits = _UNLIMITED) -> str:
        """Run a user's query, keep its rows in a temporary table, and give that table's name.

        Raises: QueryError, also for one that takes longer or gives more rows than it may.
        """
        statement = fence.check(self._engine, self.connection, query)
        self._fold_for(statement.text)
        while self._discarded:
            self.connection.execute(f"drop table if exists {self._discarded.pop()}")
        self._results += 1
        name = f"result_{self._results}"
        try:
            self.connection.execute("begin transaction read only")
            try:
                run_interruptible(
                    lambda: self._keep(name, statement, params, limits.rows),
                    self.connection.interrupt,
                    limits.seconds,
                )
                self.connection.execute("commit")
            except BaseException:
                self.connection.execute("rollback")
                raise
        except TimeIsUp:
            raise QueryError(
                f"The query took longer than {limits.seconds:g} s. Give it more with --max-seconds, or narrow it by "
                "flow and run_id."
            ) from None
        except self._engine.Error as error:
            raise QueryError(_message(error)) from None
        return name

    def _keep(self, name: str, statement: fence.Statement, params: Any, rows_max: int | None) -> None:
        if statement.is_explain:
            self._keep_plan(name, statement.text, params)
            return
        end = "" if rows_max is None else f" limit {rows_max + 1}"
        self.connection.execute(f"create temp table {name} as from (\n{statement.text}\n){end}", params)
        if rows_max is None:
            return
        (count,) = self.connection.execute(f"select count(*) from {name}").fetchone()
        if count > rows_max:
            raise QueryError(
                f"The query gives more than {rows_max:,} rows. Raise --max-rows, or add a LIMIT or an aggregate."
            )

    def has_twins(self) -> bool:
        """Whether two runs share a pathspec."""
        self._fold_for("")
        return bool(self._has_twins)

    def discard(self, table: str) -> None:
        """Let go of a result; may be called from any thread, at any time."""
        self._discarded.append(table)

    def unended(self) -> list[tuple[bytes, int]]:
        """The writer of each run without an end, and until when its lease is good, in µs."""
        self._put_in("run")
        found: list[tuple[bytes, int]] = self.connection.execute(view_sql.unended()).fetchall()
        return found

    def event_time_us(self, writer: bytes, seq: int) -> int | None:
        """The log time of an event; None when there is none of that id."""
        self._put_in(*FAMILIES)
        for family in FAMILIES:
            query = f"select time_us from raw.{family}_events where writer = ? and seq = ? limit 1"
            for row in self.connection.execute(query, [writer, seq]).fetchall():
                return int(row[0])
        return None

    def create(self, name: str, types: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Make a table of rows in schema `call`, where the results of table functions lie."""
        columns = ", ".join(f"{column} {sql_type}" for column, sql_type in types.items())
        self.connection.execute(f"create or replace table call.{name} ({columns})")
        if rows:
            self._insert(f"call.{name}", types, rows)

    def _keep_plan(self, name: str, text: str, params: Any) -> None:
        rows = self.connection.execute(text, params).fetchall()
        self.connection.execute(
            f"create temp table {name} as select unnest(?::VARCHAR[]) explain_key, unnest(?::VARCHAR[]) explain_value",
            [[str(row[0]) for row in rows], [str(row[1]) for row in rows]],
        )

    def _create_events(self, sealed: Mapping[str, str]) -> None:
        statements = [
            "create schema raw; create schema fold; create schema call",
            "create table raw.writers (writer BLOB, is_dead BOOLEAN)",
            "create table raw.clock as select null::BIGINT as now_us",
        ]
        columns = ", ".join(f"{column.name} {column.sql_type}" for column in COLUMNS)
        until = "" if self._as_of_us is None else f" where time_us <= {self._as_of_us}"
        for family in FAMILIES:
            hot = self._hot(family)
            statements.append(f"create table {hot} ({columns})")
            if family not in sealed:
                continue
            source = f"select * from ({sealed[family]}){until}"
            if self._keeps_folds:
                self._uncopied[family] = source
            else:
                statements.append(
                    f"create view raw.{family}_events as select * from {hot} union all {source}"
                )
        self.connection.execute(";".join(statements))

    def _hot(self, family: str) -> str:
        """The table that events of a family are put into: the one that folds read, or the top of it."""
        is_whole = self._keeps_folds or family not in self._sealed_families
        return f"raw.{family}_events" if is_whole else f"raw.hot_{family}"

    def _put_in(self, *families: str) -> None:
        """Insert the events of these families that wait for it, and copy those of small segments."""
        for family in families:
            if family in self._uncopied:
                self.connection.execute(f"insert into {self._hot(family)} {self._uncopied.pop(family)}")
            waiting = self._waiting.pop(family, None)
            if waiting:
                self._insert(self._hot(family), _COLUMN_TYPES, [row_of(event) for event in waiting])

    def _fold_for(self, query: str) -> None:
        """Make ready what a query may need: every view whose name it mentions, what that folds, the events below.

        Each costs some milliseconds to make, so a cold command makes no others. A query that looks at
        the catalogue gets all.
        """
        import re

        text = query.lower()
        words = set(re.findall(r"\w+", text))
        if any(word in text for word in _CATALOGUE_WORDS):
            words.update(view_sql.VIEWS)
        views = [view for view in view_sql.VIEWS if view in words]
        families = {family for view in views for family in _FAMILIES[view]}
        families |= {family for family in FAMILIES if f"{family}_events" in words}
        self._put_in("run", "task", *sorted(families))
        if self._has_twins is None:
            self._forget_folds()
        kind = "table" if self._keeps_folds else "view"
        needed = {fold for view in views for fold in _FOLDS[view]}
        if words & {"reuses", "retried"}:
            needed.update(view_sql.FOLDS)
        for fold in view_sql.FOLDS:
            if fold in needed:
                self._make(f"fold.{fold}", kind, view_sql.fold_sql(fold, bool(self._has_twins)))
        for view in views:
            self._make(view, "view", view_sql.view_sql(view, bool(self._has_twins)))

    def _forget_folds(self) -> None:
        self._has_twins = bool(self.connection.execute(view_sql.twins()).fetchall())
        for name, kind in self._made.items():
            self.connection.execute(f"drop {kind} {name}")
        self._made.clear()

    def _make(self, name: str, kind: str, query: str) -> None:
        if name not in self._made:
            self.connection.execute(f"create {kind} {name} as {query}")
            self._made[name] = kind

    def _insert(self, table: str, types: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows as one list per column. A column that is NULL in all rows is left out; one that is the
        same in all goes in as one value, but for one column, which says how many rows there are."""
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
            self.connection.execute(
                f"insert into {table} ({', '.join(names)}) select {', '.join(parts)}", params
            )


def _config() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    return {
        "threads": min(_THREADS_MAX, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2),
        "memory_limit": f"{max(_MEMORY_BYTES_MIN, memory)}B",
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }


def _message(error: Exception) -> str:
    """DuckDB's message; its line numbers are those of the user's text, not of the statement around it."""
    import re

    text = re.sub(r"\bLINE (\d+):", lambda match: f"LINE {max(1, int(match[1]) - 1)}:", str(error))
    if "Table with name" in text:
        return f"{text}\nThe views are {', '.join(view_sql.VIEWS)}. Ask one of them."
    return f"{text}\nCorrect the query."
