"""The views in DuckDB: what users ask, behind the fence, over folds that are made when a query first needs them.

The database is a cache: nothing is lost with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from weft.lineage import fence, view_sql
from weft.lineage.copying import insert_rows
from weft.lineage.engine import load_engine
from weft.lineage.errors import QueryError
from weft.lineage.fold_sql import FOLDS, STATES, told_sql
from weft.lineage.folds import Folds
from weft.lineage.limits import Limits, TimeIsUp, run_interruptible
from weft.lineage.narrowed_files import NarrowedFiles
from weft.lineage.narrowing import digest_demanded
from weft.lineage.schema import FAMILIES, Event
from weft.lineage.sight import FileGone
from weft.lineage.sources import Sealed
from weft.lineage.summaries import SUMMARIES

__all__ = ["CATALOGUE_WORDS", "FAMILIES_OF", "Views"]

T = TypeVar("T")

_UNLIMITED = Limits()

#: Words of queries that look at the catalogue, and so see whether a view was made.
CATALOGUE_WORDS = ("show", "describe", "information_schema", "duckdb_", "pragma_", "sqlite_", "pg_")

#: The families of believed events that each view reads itself.
FAMILIES_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(view_sql.VIEWS, ()),
    "attempts": ("task",),
    "artifacts": ("run", "artifact"),
    "artifact_uses": ("use",),
    "external_uses": ("use",),
}

_ANY_REUSE = "any reuse"
_ANY_TWINS = "any twins"
_TWINS = """
    select 1 from (
        select distinct run_uid, flow, run_id from told.run_events
        where run_uid is not null and flow is not null and run_id is not null
    ) group by flow, run_id having count(*) > 1 limit 1
"""
_REUSING = frozenset(name for name, folds in view_sql.FOLDS_OF.items() if "reuses" in folds)


class Views(Folds):
    """One connection that carries the views. Not safe to use from two threads at once.

    Events later than `as_of_us` are left out. `readable` are further files that queries may open. `watch` is
    called before a query whose answer may depend on who lives and on the time. A `connection` that is given is
    fenced already.
    """

    def __init__(
        self,
        sealed: Sealed,
        as_of_us: int | None = None,
        readable: Sequence[str] = (),
        prove: Callable[[Sequence[str]], None] | None = None,
        spill_folder: str = "",
        watch: Callable[[Views], None] | None = None,
        connection: Any = None,
    ) -> None:
        super().__init__(sealed, as_of_us, prove, spill_folder, connection=connection)
        self._engine = load_engine()
        self._watch = watch
        #: Who was known to live when that was looked up last, and when it is to be looked up again, in s.
        self.liveness: dict[bytes, bool] = {}
        self.watch_again_s = 0.0
        #: The SQL each view was made of last.
        self._shown: dict[str, str] = {}
        self._reuses = 0
        self._has_any_twins = False
        self._results = 0
        self._discarded: list[str] = []
        if connection is None:
            fence.shut(self.connection, [*sealed.paths, *readable])

    def add(self, events: Iterable[Event]) -> None:
        super().add(events)
        self.watch_again_s = 0.0

    def rows(self, query: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Run a query of our own and fetch it. Raises: FileGone."""
        return self._fetch(query, params)[1]

    def records(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        """Run a query of our own and fetch each row by column name. Raises: FileGone."""
        names, rows = self._fetch(query, params)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _fetch(self, query: str, params: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
        try:
            self._fold_for(query, params)
            try:
                self.connection.execute(query, params)
            except self._engine.CatalogException as error:
                if not _lacks_tasks(error):
                    raise
                self._fold_for(query, is_whole=True)
                self.connection.execute(query, params)
            rows: list[tuple[Any, ...]] = self.connection.fetchall()
            return [column[0] for column in self.connection.description], rows
        except self._engine.Error as error:
            self._raise_if_lost(error)
            raise

    def asked(self, ask: Callable[[], T]) -> T:
        """What `ask` gives, which queries the connection itself. Raises: FileGone."""
        try:
            return ask()
        except self._engine.Error as error:
            self._raise_if_lost(error)
            raise

    def ask(self, query: str, params: Any = None, limits: Limits = _UNLIMITED) -> str:
        """Run a user's query, keep its rows in a temporary table, and give that table's name.

        Raises: QueryError, also for one that takes longer or gives more rows than it may; FileGone.
        """
        statement = fence.check(self._engine, self.connection, query)
        try:
            self._fold_for(statement.text, params)
        except self._engine.Error as error:
            self._raise_if_lost(error)
            raise
        while self._discarded:
            self.connection.execute(f"drop table if exists {self._discarded.pop()}")
        self._results += 1
        name = f"result_{self._results}"
        try:
            try:
                self._run(name, statement, params, limits)
            except self._engine.CatalogException as error:
                if not _lacks_tasks(error):
                    raise
                self._fold_for(statement.text, is_whole=True)
                self._run(name, statement, params, limits)
        except TimeIsUp:
            raise QueryError(
                f"The query took longer than {limits.seconds:g} s. Give it more with --max-seconds, or narrow it by "
                "flow and run_id."
            ) from None
        except self._engine.Error as error:
            self._raise_if_lost(error)
            raise QueryError(_message(error)) from None
        return name

    def _run(self, name: str, statement: fence.Statement, params: Any, limits: Limits) -> None:
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

    def _raise_if_lost(self, error: Exception) -> None:
        if self.has_lost_files():
            raise FileGone(str(error)) from error

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
        """Whether two runs share a pathspec; where all events are at hand no run is folded for it."""
        if not self._is_small or self._moment is not None:
            return self.need_folds(()).has_twins
        # Noted among the states, and forgotten with them.
        if _ANY_TWINS not in self._states:
            self.need_told(("run",))
            self._has_any_twins = bool(self.connection.execute(_TWINS).fetchall())
            self._states[_ANY_TWINS] = ""
        return self._has_any_twins

    def discard(self, table: str) -> None:
        """Let go of a result; may be called from any thread, at any time."""
        self._discarded.append(table)

    def event_time_us(self, writer: bytes, seq: int) -> int | None:
        """The log time of an event; None when there is none of that id."""
        self.need_events(FAMILIES)
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
            insert_rows(self.connection, f"call.{name}", types, rows)

    def _keep_plan(self, name: str, text: str, params: Any) -> None:
        rows = self.connection.execute(text, params).fetchall()
        self.connection.execute(
            f"create temp table {name} as select unnest(?::VARCHAR[]) explain_key, unnest(?::VARCHAR[]) explain_value",
            [[str(row[0]) for row in rows], [str(row[1]) for row in rows]],
        )

    def _fold_for(self, query: str, params: Any = None, is_whole: bool = False) -> None:
        """Make ready what a query may need: every view whose name it mentions, what that folds, the events below.

        Each costs some milliseconds to make, so a cold command makes no others. A query that looks at
        the catalogue gets all, as does one for which too little was made (`is_whole`).
        """
        import re

        text = query.lower()
        # What lies below the views has names of theirs in other schemas.
        words = set(re.findall(r"\w+", re.sub(r"\b(?:raw|told|state|fold)\.\w+", " ", text)))
        is_whole = is_whole or any(word in text for word in CATALOGUE_WORDS)
        views, summaries = _named(words, text, is_whole)
        families = {family for view in views for family in FAMILIES_OF[view]}
        schemas = set(re.findall(r"\b(?:raw|told|fold|state)\.\w+", text))
        families |= {family for family in FAMILIES if f"told.{family}_events" in schemas}
        recorded = {family for family in FAMILIES if f"raw.{family}_events" in schemas}
        folds = {fold for view in views for fold in view_sql.FOLDS_OF[view]}
        folds |= {fold for fold in FOLDS if f"fold.{fold}" in schemas}
        states = {state for view in views for state in view_sql.STATES_OF[view]}
        states |= {state for state in STATES if f"state.{state}" in schemas}
        has_numbers = self._folded is not None and _NUMBER_CONDITION in words and "artifacts" in words
        if has_numbers:
            has_numbers = re.search(r"value_number\"?\s*(?:[<>=]|between|in\b)", text) is not None
        # States are of the events alone.
        if self._watch is not None and (views or folds):
            self._watch(self)
        self.need_events(recorded | set(FAMILIES if "events" in views else ()))
        if families:
            self.need_told(families)
        self.need_states(states | ({"numbers"} if has_numbers else set()))
        sought = None
        if views == ["artifacts"] and "digest" in words and not self._is_small:
            sought = self._sought(query, params)
        if views or folds:
            moment = self.need_folds(folds | ({"lent"} if has_numbers else set()))
            has_reuses = bool(_REUSING & set(views)) and self._has_reuses()
            for view in views:
                sql = view_sql.view_sql(view, moment.has_twins, has_numbers, has_reuses, sought)
                self._show(view, sql)
            for name in summaries:
                self._show(name, SUMMARIES[name].sql)

    def _has_reuses(self) -> bool:
        # Noted among what was made of the fold, and forgotten with it.
        if _ANY_REUSE not in self._made:
            self._made[_ANY_REUSE] = ""
            self._reuses = self.rows_in("fold.reuses")
        return self._reuses > 0

    def _sought(self, query: str, params: Any) -> view_sql.Sought | None:
        """The digest that a query of artifacts demands, if it plainly does, and where its events are."""
        (row,) = self.connection.execute("select json_serialize_sql(?)", [query]).fetchall()
        digest = digest_demanded(row[0], params)
        if digest is None:
            return None
        fences = "state.fences" if self.rows_in("state.fences") else None
        events = NarrowedFiles(self).with_digest(FAMILIES_OF["artifacts"], digest)
        return view_sql.Sought(digest, {family: f"({told_sql(events[family], fences)})" for family in events})

    def _show(self, view: str, sql: str) -> None:
        """Make a view, or make it anew where the last query needed another form of it."""
        if self._made.get(view) is not None and self._shown.get(view) != sql:
            self.connection.execute(f"drop view {view}")
            del self._made[view]
        self._make(self._made, view, "view", sql)
        self._shown[view] = sql


#: `tasks` is also a column: where it can be no table, the view is not made. A wrong guess costs a second try.
_TASKS_AS_TABLE = (
    r"\b(?:from|join|table|describe|summarize|pivot|unpivot)\b[\s(\"]*(?:\w+\"?\.\"?)*tasks\b"
    r"|\bfrom\b.*,[\s(\"]*(?:\w+\"?\.\"?)*tasks\b"
)

#: The column whose conditions are answered from the numbers of a checkpoint.
_NUMBER_CONDITION = "value_number"


def _named(words: Collection[str], text: str, is_whole: bool) -> tuple[list[str], list[str]]:
    """The views that a query may ask, those below them included, and the summaries."""
    import re

    summaries = [name for name in SUMMARIES if is_whole or name in words]
    bases = {base for name in summaries for base in SUMMARIES[name].bases}
    views = [view for view in view_sql.VIEWS if is_whole or view in words or view in bases]
    if "tasks" in views and not (is_whole or "tasks" in bases or re.search(_TASKS_AS_TABLE, text, re.DOTALL)):
        views.remove("tasks")
    return views, summaries


def _lacks_tasks(error: Exception) -> bool:
    return "tasks does not exist" in str(error)


def _message(error: Exception) -> str:
    """DuckDB's message; its line numbers are those of the user's text, not of the statement around it."""
    import re

    text = re.sub(r"\bLINE (\d+):", lambda match: f"LINE {max(1, int(match[1]) - 1)}:", str(error))
    if "Table with name" in text:
        return f"{text}\nThe views are {', '.join(view_sql.VIEW_NAMES)}. Ask one of them."
    return f"{text}\nCorrect the query."
