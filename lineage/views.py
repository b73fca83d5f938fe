"""The views in DuckDB: what users ask, behind the fence, over folds that are made when a query first needs them.

The database is a cache: nothing is lost with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple, TypeVar

from weft.lineage import fence, view_sql
from weft.lineage.copying import insert_rows
from weft.lineage.engine import load_engine
from weft.lineage.errors import QueryError
from weft.lineage.fold_sql import ATTEMPT_ENDS, FOLDS, STATES, told_sql
from weft.lineage.folds import Folds
from weft.lineage.limits import Limits, TimeIsUp, run_interruptible
from weft.lineage.narrowed_files import NarrowedFiles
from weft.lineage.narrowing import digest_demanded
from weft.lineage.parse_trees import is_plain_question
from weft.lineage.schema import FAMILIES, Event
from weft.lineage.sight import FileGone
from weft.lineage.sources import Sealed
from weft.lineage.summaries import SUMMARIES

__all__ = ["CATALOGUE_WORDS", "FAMILIES_OF", "Kept", "Views"]

T = TypeVar("T")

#: Of results: views may share a connection.
_numbers = count(1)

_UNLIMITED = Limits()

#: Parse trees of queries that are kept.
_TREES_MAX = 256

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


class Kept(NamedTuple):
    """A temporary table that holds the rows of a query, on the one connection that sees it."""

    connection: Any
    table: str


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
        quick: Any = None,
    ) -> None:
        super().__init__(sealed, as_of_us, prove, spill_folder, connection=connection, quick=quick)
        self._watch = watch
        #: Who was known to live when that was looked up last, and when it is to be looked up again, in s.
        self.liveness: dict[bytes, bool] = {}
        self.watch_again_s = 0.0
        #: The SQL each view was made of last.
        self._shown: dict[str, str] = {}
        self._discarded: list[Kept] = []
        self._trees: dict[str, Any] = {}
        self._readable = readable

    def _set_up(self) -> None:
        super()._set_up()
        fence.shut(self.connection, [*self._sealed.paths, *self._readable])

    @property
    def _engine(self) -> Any:
        return load_engine()

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
                self._folding.execute(query, params)
            except self._engine.CatalogException as error:
                if not _lacks_tasks(error):
                    raise
                self._fold_for(query, is_whole=True)
                self._folding.execute(query, params)
            rows: list[tuple[Any, ...]] = self._folding.fetchall()
            return [column[0] for column in self._folding.description], rows
        except self._engine.Error as error:
            self._raise_if_lost(error)
            raise

    def tree(self, query: str) -> Any:
        """What DuckDB's parser makes of a query; nothing of one that is nested too deeply to be read."""
        if query not in self._trees:
            import json

            if len(self._trees) >= _TREES_MAX:
                self._trees.clear()
            ((tree,),) = self.connection.execute("select json_serialize_sql(?)", [query]).fetchall()
            try:
                self._trees[query] = json.loads(tree)
            except RecursionError:
                self._trees[query] = {}
        return self._trees[query]

    def asked(self, ask: Callable[[], T]) -> T:
        """What `ask` gives, which queries the connection itself. Raises: FileGone."""
        try:
            return ask()
        except self._engine.Error as error:
            self._raise_if_lost(error)
            raise

    def ask(self, query: str, params: Any = None, limits: Limits = _UNLIMITED) -> Kept:
        """Run a user's query and keep its rows.

        Raises: QueryError, also for one that takes longer or gives more rows than it may; FileGone.
        """
        statement = fence.check(self._engine, self.connection, query)
        try:
            self._fold_for(statement.text, params)
        except self._engine.Error as error:
            self._raise_if_lost(error)
            raise
        while self._discarded:
            old = self._discarded.pop()
            old.connection.execute(f"drop table if exists {old.table}")
        kept = Kept(self._connection_for(statement), f"result_{next(_numbers)}")
        try:
            try:
                self._run(kept, statement, params, limits)
            except self._engine.CatalogException as error:
                if not _lacks_tasks(error):
                    raise
                self._fold_for(statement.text, is_whole=True)
                self._run(kept, statement, params, limits)
        except TimeIsUp:
            raise QueryError(
                f"The query took longer than {limits.seconds:g} s. Give it more with --max-seconds, or narrow it by "
                "flow and run_id."
            ) from None
        except self._engine.Error as error:
            self._raise_if_lost(error)
            raise QueryError(_message(error)) from None
        return kept

    def _connection_for(self, statement: fence.Statement) -> Any:
        """What plans a user's query in the shortest time. The views write their joins out; a user may leave to the
        optimizer what is joined, and which expressions are worked out first, or not at all."""
        is_plain = self._folding is self._quick and not statement.is_explain
        if is_plain and is_plain_question(self.tree(statement.text), view_sql.VIEWS):
            return self._quick
        return self.connection

    def _run(self, kept: Kept, statement: fence.Statement, params: Any, limits: Limits) -> None:
        kept.connection.execute("begin transaction read only")
        try:
            run_interruptible(
                lambda: _keep(kept, statement, params, limits.rows),
                kept.connection.interrupt,
                limits.seconds,
            )
            kept.connection.execute("commit")
        except BaseException:
            # An interrupt may come when it is committed already.
            with suppress(self._engine.Error):
                kept.connection.execute("rollback")
            raise

    def _raise_if_lost(self, error: Exception) -> None:
        if self.has_lost_files():
            raise FileGone(str(error)) from error

    def discard(self, kept: Kept) -> None:
        """Let go of a result; may be called from any thread, at any time."""
        self._discarded.append(kept)

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
        traits = self._traits(views)
        folds = {fold for view in views for fold in view_sql.folds_of(view, traits)}
        folds |= {fold for fold in FOLDS if f"fold.{fold}" in schemas}
        states = {state for view in views for state in view_sql.states_of(view, traits)}
        states |= {state for state in STATES if f"state.{state}" in schemas}
        has_numbers = self._folded is not None and _NUMBER_CONDITION in words and "artifacts" in words
        if has_numbers:
            has_numbers = re.search(r"value_number\"?\s*(?:[<>=]|between|in\b)", text) is not None
        # Who lives is of no matter to a view without folds, nor to states.
        if self._watch is not None and (folds or (views and not self._is_small)):
            self._watch(self)
        self.need_events(recorded | set(FAMILIES if "events" in views else ()))
        if families:
            self.need_told(families)
        self.need_states(states | ({"numbers"} if has_numbers else set()))
        sought = None
        if views == ["artifacts"] and "digest" in words and not self._is_small:
            sought = self._sought(query, params)
        if folds:
            self.need_folds(folds | ({"lent"} if has_numbers else set()))
        for view in views:
            self._show(view, view_sql.view_sql(view, traits, has_numbers, sought))
        for name in summaries:
            self._show(name, SUMMARIES[name].sql)

    def _traits(self, views: Collection[str]) -> view_sql.Traits:
        """What may be true of the events that some views show."""
        if not views:
            return view_sql.Traits()
        may_reuse = not view_sql.REUSING.isdisjoint(views)
        return view_sql.Traits(
            self.has_twins(),
            may_reuse and self._is_so(_ANY_REUSE, self._has_reuses),
            "attempts" in views and self._is_so(_ANY_OPEN_ATTEMPT, self._has_open_attempts),
        )

    def _has_reuses(self) -> bool:
        if self._is_small:
            return self._has_any("task", "task_reused")
        self.need_states(("reuses",))
        return self.rows_in("state.reuses") > 0

    def _has_open_attempts(self) -> bool:
        # Over all history it takes longer to find out than to allow for it.
        if not self._is_small:
            return True
        self.need_told(("task",))
        return bool(self._folding.execute(_OPEN_ATTEMPTS).fetchall())

    def _sought(self, query: str, params: Any) -> view_sql.Sought | None:
        """The digest that a query of artifacts demands, if it plainly does, and where its events are."""
        digest = digest_demanded(self.tree(query), params)
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


_ANY_REUSE = "any reuse"
_ANY_OPEN_ATTEMPT = "any open attempt"
_OPEN_ATTEMPTS = f"""
    select 1 from told.task_events
    where kind in ('attempt_started', {", ".join(f"'{kind}'" for kind in ATTEMPT_ENDS)}) and attempt is not null
    group by run_uid, flow, run_id, step, task_id, attempt having bool_and(kind = 'attempt_started') limit 1
"""

#: `tasks` is also a column: where it can be no table, the view is not made. A wrong guess costs a second try.
_TASKS_AS_TABLE = (
    r"\b(?:from|join|table|describe|summarize|pivot|unpivot)\b[\s(\"]*(?:\w+\"?\.\"?)*tasks\b"
    r"|\bfrom\b.*,[\s(\"]*(?:\w+\"?\.\"?)*tasks\b"
)

#: The column whose conditions are answered from the numbers of a checkpoint.
_NUMBER_CONDITION = "value_number"


def _keep(kept: Kept, statement: fence.Statement, params: Any, rows_max: int | None) -> None:
    if statement.is_explain:
        _keep_plan(kept, statement.text, params)
        return
    end = "" if rows_max is None else f" limit {rows_max + 1}"
    kept.connection.execute(f"create temp table {kept.table} as from (\n{statement.text}\n){end}", params)
    if rows_max is None:
        return
    (rows,) = kept.connection.execute(f"select count(*) from {kept.table}").fetchone()
    if rows > rows_max:
        raise QueryError(
            f"The query gives more than {rows_max:,} rows. Raise --max-rows, or add a LIMIT or an aggregate."
        )


def _keep_plan(kept: Kept, text: str, params: Any) -> None:
    rows = kept.connection.execute(text, params).fetchall()
    kept.connection.execute(
        f"create temp table {kept.table} as select unnest(?::VARCHAR[]) explain_key, unnest(?::VARCHAR[]) explain_value",
        [[str(row[0]) for row in rows], [str(row[1]) for row in rows]],
    )


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
