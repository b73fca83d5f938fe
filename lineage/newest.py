"""The newest runs of a long history, found without folding the others.

The runs that began last are those with the latest `run_started` events, so these come first, from few columns
and by the statistics of the files. Only what they are called is then folded, as all of it would be: every run of
these names, so that those which share one are told apart. Whether that was enough shows afterwards: the runs that
are listed must have begun later than any that was left out. If not, more are taken; and if none are left,
all are folded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage import fold_sql, view_sql
from weft.lineage.fold_sql import Moment, state_sql, told_sql
from weft.lineage.narrowed_files import NarrowedFiles

if TYPE_CHECKING:
    from weft.lineage.views import Views

__all__ = ["Listing", "newest_runs"]

_COLUMNS = (
    "flow, run_id, status, started_at, finished_at, duration_s, user_name, origin_run_id, code_digest, "
    "tasks, tasks_failed, root_cause"
)
_ORDER = "ORDER BY started_at DESC, flow, run_id DESC"

#: So many runs are looked at beyond those asked for: some begin at the same moment, or are told twice.
_SPARE_RUNS = 12

#: Each time that too few were found, so many times as many are looked at, up to so many.
_WIDENED = 10
_CANDIDATES_MAX = 5_000

#: Of the events only what the states of runs and tasks are made from.
_EVENT_COLUMNS = "run_uid, flow, run_id, kind, time_us, writer, seq, epoch, attempt, payload"
_RUN_COLUMNS = f"{_EVENT_COLUMNS}, digest, name"
_TASK_COLUMNS = f"{_EVENT_COLUMNS}, step, task_id, foreach_path"

_SOURCES = {
    "recorded": "newest.run_events",
    "run": "newest.run_told",
    "task": "newest.task_told",
    "runs": "newest.runs",
    "tasks": "newest.tasks",
}

#: What is asked for the liveness of the writers of unended runs, each with the end of its lease in µs; tells
#: which are known to live or not, and what time it is.
Watch = Callable[[list[tuple[bytes, int]]], tuple[Mapping[bytes, bool], int]]


class Listing(NamedTuple):
    """Which runs are listed, the newest first: at most `limit`, all for 0. `where` is SQL over the view `runs`."""

    flow: str | None = None
    tags: tuple[str, ...] = ()
    status: str | None = None
    where: str | None = None
    limit: int = 0

    def query(self) -> tuple[str, dict[str, Any]]:
        """The SELECT over the views, and its parameters."""
        conditions, params = self.conditions("tags")
        if self.where is not None:
            # The line breaks keep a comment at the end of the condition from hiding the bracket.
            conditions.append(f"(\n{self.where}\n)")
        return _select("runs", conditions, self.limit), params

    def conditions(self, tags: str) -> tuple[list[str], dict[str, Any]]:
        """All conditions but `where`; `tags` is the relation with the tags of runs."""
        conditions, params = [], dict[str, Any]()
        for column, value in (("flow", self.flow), ("status", self.status)):
            if value is not None:
                conditions.append(f"{column} = ${column}")
                params[column] = value
        for i, tag in enumerate(self.tags):
            conditions.append(
                f"EXISTS (SELECT 1 FROM {tags} t WHERE t.flow = runs.flow AND t.run_id = runs.run_id "
                f"AND t.tag = $tag_{i})"
            )
            params[f"tag_{i}"] = tag
        return conditions, params


def newest_runs(
    views: Views, listing: Listing, watch: Watch, is_folded: bool = False
) -> list[dict[str, Any]] | None:
    """The runs of a listing without `where`; None where it takes a fold of all runs to know them.

    With `is_folded` all are folded already: only those that may be listed are looked at more closely.

    Raises: FileGone.
    """
    assert listing.limit
    assert listing.where is None
    if is_folded:
        views.need_states(("counted", "tags") if listing.tags else ("counted",))
        if views.has_twins():
            return None
    files = NarrowedFiles(views)
    candidates = listing.limit + _SPARE_RUNS
    if listing.status is not None or listing.tags:
        candidates *= _WIDENED
    while candidates <= _CANDIDATES_MAX:
        views.connection.execute("drop schema if exists newest cascade; create schema newest")
        found = _Folded(views, listing, candidates) if is_folded else _Candidates(files, listing, candidates)
        rows = found.listed(watch)
        if rows is not None or found.are_all:
            return rows
        candidates *= _WIDENED
    return None


class _Candidates:
    """Some of the runs that began last, in the schema `newest`."""

    def __init__(self, files: NarrowedFiles, listing: Listing, count: int) -> None:
        self._files = files
        self._connection = files.views.connection
        self._listing = listing
        condition = "kind = 'run_started' and run_uid is not null and flow is not null and run_id is not null"
        params = None
        if listing.flow is not None:
            condition += " and flow = $flow"
            params = {"flow": listing.flow}
        started = self._started(f"{condition} order by time_us desc limit {count}", params, count)
        self.are_all = len(started) < count
        #: Whatever began later than this is among the candidates.
        self._since_us = -1 if self.are_all else started[-1][2]
        self._names = {(flow, run_id) for flow, run_id, _ in started}

    def _started(self, condition: str, params: Any, count: int) -> list[tuple[str, str, int]]:
        """The latest beginnings, from files that may hold any: those with the latest events come first."""
        found: list[tuple[str, str, int]] = []
        for source, later_us in self._files.by_time():
            found = self._connection.execute(
                f"select flow, run_id, time_us from {source} where {condition}", params
            ).fetchall()
            if len(found) == count and found[-1][2] > later_us:
                break
        return found

    def listed(self, watch: Watch) -> list[dict[str, Any]] | None:
        """The rows of the listing; None when a run that was left out may be one of them."""
        if len(self._names) < self._listing.limit:
            return None
        self._fold_runs()
        called = self._rows("select flow, raw_run_id from newest.runs")
        unended = self._rows(fold_sql.unended("newest.runs"))
        moment = _moment(unended, watch, len(called) > len(set(called)))
        self._make("view", "named", fold_sql.fold_sql("runs", moment, "newest"))
        if self._listing.tags:
            self._make("table", "tags", state_sql("tags", _SOURCES))
            self._make("view", "tagged", _TAGGED)
        conditions, params = self._listing.conditions("newest.tagged")
        where = " AND ".join(conditions) or "true"
        limit = self._listing.limit
        query = f"select * from newest.named runs where {where} {_ORDER} limit {limit}"
        self._make("table", "shown", query, params or None)
        shown = self._rows("select flow, raw_run_id, epoch_us(started_at) from newest.shown")
        if len(shown) < limit or any(us is None or us <= self._since_us for _, _, us in shown):
            return None
        self._count_tasks({(flow, run_id) for flow, run_id, _ in shown})
        self._make("view", "listed", fold_sql.fold_sql("counted", moment, "newest"))
        found = f"({view_sql.runs_sql('newest.listed')}) where (flow, run_id) in (select (flow, run_id) from newest.shown)"
        return _dicts(self._connection.execute(f"SELECT {_COLUMNS} FROM {found} {_ORDER}"))

    def _fold_runs(self) -> None:
        self._make("table", "run_events", self._of_names("run", _RUN_COLUMNS, self._names))
        self._make("table", "fences", state_sql("fences", _SOURCES))
        self._make("view", "run_told", told_sql("newest.run_events", "newest.fences"))
        self._make("table", "runs", state_sql("runs", _SOURCES))

    def _count_tasks(self, names: set[tuple[str, str]]) -> None:
        self._make("table", "task_events", self._of_names("task", _TASK_COLUMNS, names))
        self._make("view", "task_told", told_sql("newest.task_events", "newest.fences"))
        self._make("view", "tasks", state_sql("tasks", _SOURCES))
        self._make("view", "counted", state_sql("counted", _SOURCES))

    def _of_names(self, family: str, columns: str, names: set[tuple[str, str]]) -> str:
        """A SELECT of the events of the runs that are called so. Each name is written out: so it reaches the statistics
        of the files."""
        flows, runs, pairs = (
            ", ".join(texts)
            for texts in (
                {_text(flow) for flow, _ in names},
                {_text(run_id) for _, run_id in names},
                [f"({_text(flow)}, {_text(run_id)})" for flow, run_id in sorted(names)],
            )
        )
        return (
            f"select {columns} from {self._files.with_runs(family, {run_id for _, run_id in names})} "
            f"where flow in ({flows}) and run_id in ({runs}) and (flow, run_id) in ({pairs})"
        )

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._connection.execute(query).fetchall()
        return rows

    def _make(self, kind: str, name: str, query: str, params: Any = None) -> None:
        self._connection.execute(f"create {kind} newest.{name} as {query}", params)


class _Folded:
    """Of all runs, which are folded and have names of their own, those that began last."""

    def __init__(self, views: Views, listing: Listing, count: int) -> None:
        self._connection = views.connection
        self._listing = listing
        flow = "" if listing.flow is None else " where flow = $flow"
        self._connection.execute(
            f"create table newest.counted as select * from state.counted{flow} order by started_at desc limit {count}",
            None if listing.flow is None else {"flow": listing.flow},
        )
        rows = self._rows("select count(*), count(started_at), min(started_at) from newest.counted")
        ((found, begun, since),) = rows
        self.are_all = found < count
        #: Whatever began later than this is among the candidates; None: whatever began.
        self._since = since if begun == found else None

    def listed(self, watch: Watch) -> list[dict[str, Any]] | None:
        """The rows of the listing; None when a run that was left out may be one of them."""
        moment = _moment(self._rows(fold_sql.unended("newest.counted")), watch, False)
        fold = fold_sql.fold_sql("counted", moment, "newest")
        conditions, params = self._listing.conditions("(select *, raw_run_id as run_id from state.tags)")
        query = _select(f"({view_sql.runs_sql(f'({fold})')}) runs", conditions, self._listing.limit)
        rows = _dicts(self._connection.execute(query, params or None))
        if not self.are_all and (len(rows) < self._listing.limit or any(map(self._may_lack, rows))):
            return None
        return rows

    def _may_lack(self, row: Mapping[str, Any]) -> bool:
        """Whether a run that was left out may stand before this one."""
        started_at = row["started_at"]
        return started_at is None or (self._since is not None and started_at <= self._since)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._connection.execute(query).fetchall()
        return rows


def _moment(unended: list[tuple[bytes, int]], watch: Watch, has_twins: bool) -> Moment:
    liveness, now_us = watch(unended)
    return Moment(has_twins, tuple((writer, not lives) for writer, lives in liveness.items()), str(now_us))


def _dicts(cursor: Any) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


_TAGGED = """
select n.flow, n.run_id, t.tag from newest.tags t join newest.named n
    on n.run_uid = t.run_uid and n.flow = t.flow and n.raw_run_id = t.raw_run_id
"""


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _select(source: str, conditions: list[str], limit: int) -> str:
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {_COLUMNS} FROM {source}{where} {_ORDER}" + (f" LIMIT {limit}" if limit else "")
