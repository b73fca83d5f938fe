"""A store that is open for questions: SQL, lineage, events, console, and the contents of artifacts."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any, Self, TypeVar

from weft.lineage import clock, fence, view_sql
from weft.lineage.checkpoint import Checkpoint, CheckpointBroken
from weft.lineage.description import find_store, read_description
from weft.lineage.engine import is_interrupt
from weft.lineage.errors import NotFound, StoreUnavailable, UsageError
from weft.lineage.event_tables import is_small
from weft.lineage.limits import Limits
from weft.lineage.log import EventLog
from weft.lineage.moment import event_id_of, moment_us, text_of_moment
from weft.lineage.near import RoutedViews
from weft.lineage.newest import Listing, newest_runs
from weft.lineage.objects import Objects
from weft.lineage.paths import JOURNALS, SEGMENTS
from weft.lineage.recorded import set_opener
from weft.lineage.result import Result
from weft.lineage.schema import Event
from weft.lineage.sight import FileGone, Prover, Sight, look
from weft.lineage.sources import Sealed
from weft.lineage.storage import Storage
from weft.lineage.stores import open_storage
from weft.lineage.views import Views

if TYPE_CHECKING:
    from datetime import datetime

    from weft.lineage.answers import Line
    from weft.lineage.diff import Diff
    from weft.lineage.edges import Graph
    from weft.lineage.flows import Flow, Run
    from weft.lineage.verify import Report
    from weft.lineage.why import Why

__all__ = ["Store", "open_store", "sql"]

T = TypeVar("T")

#: A query that meets files which were compacted away is asked again so often.
_AGAIN_MAX = 10

#: How long it is believed that a writer lives, once that was looked up.
_LIVENESS_S = 1.0


class Store:
    """One store, read-only. Every question sees all that was committed before it was asked.

    Safe to use from several threads. Close it with `with` or `close`; results outlive it.
    """

    def __init__(self, storage: Storage, as_of: str | datetime | None = None) -> None:
        read_description(storage)
        self.storage = storage
        self.objects = Objects(storage)
        self._log = EventLog(storage)
        self._lock = RLock()
        self._views: RoutedViews | None = None
        self._listing: object = None
        self._sight = Sight(Sealed(), {}, [], None)
        self._prover = Prover(storage, self._log)
        self._checkpoint: Checkpoint | None = None
        #: A checkpoint that turned out not to be what its names say.
        self._broken: Checkpoint | None = None
        #: Whether a question was asked that takes folds of all runs.
        self._has_folded = False
        self._is_closed = False
        #: What each query of `sql` may take.
        self.limits = Limits()
        self.as_of_us: int | None = None
        if as_of is not None:
            self.as_of_us = self.moment_us(as_of)
            self._views = None
            self._check_had_begun(as_of)

    @property
    def url(self) -> str:
        return self.storage.url

    @property
    def damaged(self) -> dict[str, str]:
        """Journals that were found damaged so far, by path, and where: some of their events are in no answer."""
        return dict(self._log.damaged)

    def sql(self, query: str, frames: Mapping[str, Any] | None = None, **params: Any) -> Result:
        """Run one read-only query over the views; `$name` in it is the parameter `name`.

        `frames` joins the caller's own pandas, polars or Arrow frames, under the names given.

        Raises: QueryError with DuckDB's message.
        """
        with self._lock:
            calls = fence.find_calls(query)
            if calls:
                return self._asked(lambda views: self._ask_with_calls(views, query, calls, frames, params))
            return self._asked(lambda views: self._ask(views, query, frames, params))

    def rows(
        self, query: str, params: Any = None, about: Collection[tuple[str, str]] | None = ()
    ) -> list[tuple[Any, ...]]:
        """Rows of a query of weft's own, which is not fenced.

        `about` are the runs, as (flow, run id), whose events, with those of the origins of their reused tasks, are
        all that it needs; None: those of all. Where it is not given, the query may say it itself.
        """
        with self._lock:
            return self._asked(lambda views: views.near(query, params, about).rows(query, params))

    def records(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        """The same, each row by column name."""
        with self._lock:
            return self._asked(lambda views: views.near(query, params).records(query, params))

    def list_runs(self, listing: Listing) -> list[dict[str, Any]]:
        """Runs, the newest first, each by column name.

        Raises: QueryError with DuckDB's message.
        """
        if listing.limit and listing.where is None:
            with self._lock:
                found = self._asked(lambda views: self._newest(views, listing))
            if found is not None:
                return found
        query, params = listing.query()
        return self.sql(query, **params).dicts()

    def rows_at_hand(self, query: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Rows of a query of weft's own over the runs that were asked about last; none where all must be read for it."""

        def ask(views: RoutedViews) -> list[tuple[Any, ...]]:
            return [] if views.at_hand is None else views.at_hand.rows(query, params)

        with self._lock:
            return self._asked(ask)

    def foresee(
        self, about: Collection[tuple[str, str]], families: Collection[str], later: Collection[str] = ()
    ) -> None:
        """Say that several questions about runs follow, and which families of their events these will read, and
        which others later."""
        with self._lock:
            if later:
                self._prover.begin(self._asked(lambda views: views.files_of(about, later)))
            if not families:
                return
            self._asked(lambda views: views.foresee(about, families))

    def foresee_states(self, names: Collection[str]) -> None:
        """Say that a question about all runs follows, and which of the states that are kept of them it will read."""
        with self._lock:
            self._refreshed()
            folded = self._sight.sealed.folded
            self._prover.begin(
                [part.files[name] for part in (folded.parts if folded else ()) for name in names]
            )

    def held(self, about: Collection[tuple[str, str]], families: Collection[str]) -> list[Event] | None:
        """The events of some families of runs, in no order; None where these are many, or where all of history must
        be searched for them."""
        with self._lock:
            self._has_folded = True
            return self._asked(lambda views: views.held(about, families))

    def held_before(self, families: Collection[str]) -> list[Event]:
        """The events of some families that are held of the runs that were asked about before."""
        with self._lock:
            return self._asked(lambda views: list(views.held_before(families)))

    def has_twins(self) -> bool:
        """Whether two runs share a pathspec, which makes the second `id~2`."""
        with self._lock:
            return self._asked(lambda views: views.has_twins())

    def events(
        self,
        since: str | datetime | None = None,
        flow: str | None = None,
        run_id: str | None = None,
    ) -> list[Event]:
        """The events, by log time; with `since` only those later than a time or than the event of that id."""
        events = self._log.events(flow=flow, run_id=run_id)
        if self.as_of_us is not None:
            events = [event for event in events if event.time_us <= self.as_of_us]
        if since is None:
            return events
        place = event_id_of(since) if isinstance(since, str) else None
        if place is None:
            after_us = self.moment_us(since)
            return [event for event in events if event.time_us > after_us]
        last = (self.moment_us(since), *place)
        return [event for event in events if (event.time_us, event.writer, event.seq) > last]

    def lineage(
        self, target: str, direction: str = "up", depth: int | None = None, same_content: bool = False
    ) -> Graph:
        """What `target` was made from ("up"), what was made from it ("down"), or "both".

        `target` is a pathspec, a digest or the first digits of one, or a file or URI that a flow read or
        wrote. With `same_content` the walk goes on from equal contents that were recorded elsewhere, too.
        Ask the graph while the store is open: what it tells of its nodes is fetched when it is needed.

        Raises: NotFound with near names, UsageError for the first digits of several digests.
        """
        from weft.lineage.walk import trace

        return trace(self, target, direction, depth, same_content)

    def diff(self, a: str, b: str) -> Diff:
        """What differs between two runs, `Flow/run` each, ordered by cause; of a flow alone its newest run.

        Raises: NotFound with near names.
        """
        from weft.lineage.comparison import compare_runs

        return compare_runs(self, a, b)

    def why(self, pathspec: str) -> Why:
        """Why a task ran or was reused: all it depended on, against the nearest earlier task of its step.

        Raises: NotFound with near names, UsageError for what is no task.
        """
        from weft.lineage.why import explain

        return explain(self, pathspec)

    def lines(self, pathspec: str, stream: str | None = None) -> list[Line]:
        """What a run, a step or a task printed, by time; with `stream` only "stdout" or "stderr".

        A reused task shows what its origin printed.
        """
        from weft.lineage.console import read_lines

        return read_lines(self, pathspec, stream)

    def verify(self, *, is_deep: bool = False) -> Report:
        """Read and check everything in the store; with `is_deep` also work out hashes and decode values."""
        from weft.lineage.verify import verify

        return verify(self.storage, is_deep=is_deep)

    def ddl(self) -> str:
        """The views as SQL text for any DuckDB, over the segments of this store."""
        with self._lock:
            self._refreshed()
            return view_sql.ddl(self._sight.sealed.selects(), self.as_of_us)

    def run(self, pathspec: str) -> Run:
        """The run `Flow/run_id`, as a client object. Raises: NotFound."""
        from weft.lineage.flows import Run

        return Run(pathspec, store=self)

    def flow(self, name: str) -> Flow:
        """The flow of that name, as a client object. Raises: NotFound."""
        from weft.lineage.flows import Flow

        return Flow(name, store=self)

    def moment_us(self, moment: str | datetime) -> int:
        """A moment, or the log time of the event with that id, in µs. Raises: UsageError, NotFound for an event id that is not in the log."""
        place = event_id_of(moment) if isinstance(moment, str) else None
        if place is None:
            return moment_us(moment)
        with self._lock:
            found = self._asked(lambda views: views.event_time_us(*place))
        if found is None:
            raise NotFound(f"There is no event {moment} in {self.url}. `weft log` lists the ids.")
        return found

    @property
    def wants_checkpoint(self) -> bool:
        """Whether a question took folds of this big store that are not kept yet."""
        sealed = self._sight.sealed
        return (
            self._has_folded
            and not is_small(sealed.sizes_bytes())
            and not all(file.is_covered for file in sealed.files)
        )

    def close(self) -> None:
        with self._lock:
            self._views = None
            self._listing = None
            self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.url}>"

    def _repr_html_(self) -> str:
        from html import escape

        newest = self.sql("select * from runs order by started_at desc limit 20")
        return f"<p><b>weft store</b> {escape(self.url)}</p>{newest._repr_html_()}"

    def _check_had_begun(self, as_of: str | datetime) -> None:
        """Raises: NotFound, saying when the store began, for a moment before that."""
        if self.rows("select 1 from state.runs limit 1"):
            return
        first = min((event.time_us for event in self._log.events(families=("run",))), default=None)
        if first is not None:
            raise NotFound(
                f"Nothing was recorded in {self.url} at {as_of}: it began at {text_of_moment(first)}. "
                "Name that moment or a later one."
            )

    def _asked(self, ask: Callable[[RoutedViews], T]) -> T:
        """What `ask` gives of the views over all that is there now, asked again when files went meanwhile."""
        for _ in range(_AGAIN_MAX):
            try:
                return ask(self._refreshed())
            except CheckpointBroken:
                self._broken = self._checkpoint
                self._views = None
            except FileGone:
                self._views = None
            except (KeyboardInterrupt, Exception) as error:
                if not is_interrupt(error):
                    raise
                # What was being made may be half made.
                self._views = None
                raise KeyboardInterrupt from error
        raise StoreUnavailable(f"The files of {self.url} keep changing while they are read. Try again.")

    def _newest(self, views: RoutedViews, listing: Listing) -> list[dict[str, Any]] | None:
        """The runs of a listing, folded alone where the others are not folded yet; None where all must be."""
        covered = False if self._checkpoint is not None else None
        is_folded = is_small(self._sight.sealed.sizes_bytes(covered))
        self._has_folded = self._has_folded or is_folded
        return views.asked(lambda: newest_runs(views, listing, self._liveness_of, is_folded))

    def _refreshed(self) -> RoutedViews:
        """The views over all that is there now."""
        if self._is_closed:
            raise UsageError(f"The store {self.url} is closed. Open it again.")
        listing = self._list()
        if self._views is None or listing != self._listing:
            self._load()
            self._listing = listing
        assert self._views is not None
        return self._views

    def _list(self) -> object:
        journals = [(file.path, file.size_bytes) for file in self.storage.scan(JOURNALS)]
        return journals, self.storage.list(SEGMENTS)

    def _load(self) -> None:
        """Take in what is new; begin anew when segments have come or gone."""
        sight = self._log.at_rest(lambda: look(self.storage, self._log, self._broken))
        self._checkpoint = sight.checkpoint
        self._prover.local = sight.local
        if self._views is None or sight.sealed != self._sight.sealed:
            self._sight = sight
            self._views = self._open_views(())
        else:
            last: dict[bytes, int] = {}
            for event in self._sight.tail:
                last[event.writer] = max(event.seq, last.get(event.writer, -1))
            self._sight = sight
            self._views.add(event for event in sight.tail if event.seq > last.get(event.writer, -1))

    def _let_views_go(self) -> None:
        """Begin anew at the next question: a statement was interrupted."""
        self._views = None

    def _open_views(self, files: Sequence[str]) -> RoutedViews:
        """A new connection that also lets queries read `files`."""
        views = RoutedViews(
            self._sight.sealed,
            self.as_of_us,
            files,
            self._prover.prove,
            self._spill_folder(),
            self._watch_writers,
        )
        views.add(self._sight.tail)
        return views

    def _spill_folder(self) -> str:
        return ""

    def _watch_writers(self, views: Views) -> None:
        """Tell the views which writers live, and what time it is, where a status may depend on it."""
        self._has_folded = True
        if views.watch_again_s > clock.monotonic_s():
            return
        unended = views.unended()
        liveness, now_us = self._liveness_of(unended)
        is_first = views.watch_again_s == 0.0
        has_run_out = any(until_us < now_us for writer, until_us in unended if writer not in liveness)
        if is_first or liveness != views.liveness or has_run_out:
            views.liveness = liveness
            if unended:
                views.set_clock(liveness, now_us)
        views.watch_again_s = clock.monotonic_s() + _LIVENESS_S if unended else float("inf")

    def _liveness_of(self, unended: Sequence[tuple[bytes, int]]) -> tuple[dict[bytes, bool], int]:
        """Which writers of runs without an end are known to live or to be dead, and what time it is, in µs."""
        if self.as_of_us is not None:
            return {}, self.as_of_us
        liveness: dict[bytes, bool] = {}
        if unended and self.storage.locks_prove_death:
            # A writer that died may be sealed already and leave no journal: only those seen alive are.
            live = self._log.live_writers()
            liveness = {writer: writer in live for writer, _ in unended}
            # Of runs that were brought here the locks say nothing, so their leases do, as long as they are good.
            now_us = clock.now_us()
            leased = {writer for writer, until_us in unended if writer not in live and until_us >= now_us}
            if leased:
                for writer in self._log.writers_from_elsewhere(leased):
                    del liveness[writer]
        return liveness, clock.now_us()

    def _ask_with_calls(
        self,
        views: RoutedViews,
        query: str,
        calls: Sequence[fence.Call],
        frames: Mapping[str, Any] | None,
        params: dict[str, Any],
    ) -> Result:
        from weft.lineage.calls import TableCalls

        with TableCalls(self, calls) as tables:
            views = self._open_views(tables.files) if tables.files else views
            tables.fill(views)
            return self._ask(views, tables.rewritten(query), frames, params)

    def _ask(
        self, views: RoutedViews, query: str, frames: Mapping[str, Any] | None, params: dict[str, Any]
    ) -> Result:
        near = views.near(query, params or None)
        for name, frame in (frames or {}).items():
            if name in view_sql.VIEW_NAMES:
                raise UsageError(f"A frame cannot be called {name!r}, which is a view. Give it another name.")
            # Frames of the caller are scanned by DuckDB's Python wrappers.
            import duckdb  # noqa: F401

            near.connection.register(name, frame.to_arrow() if hasattr(frame, "to_arrow") else frame)
        try:
            return Result(near, self._lock, near.ask(query, params or None, self.limits), self._let_views_go)
        finally:
            for name in frames or {}:
                near.connection.unregister(name)


def open_store(url: str | None = None, as_of: str | datetime | None = None) -> Store:
    """Open a store to read: `url`, else `WEFT_STORE`, else the nearest `.weft` at or above the working folder.

    `as_of` leaves out all events of later log time: ISO 8601 (in the local zone if it names none), a
    datetime, or the id of an event.

    Raises: NotFound when there is no store; none is ever created. StoreError.
    """
    root = url or find_store(os.getcwd(), os.environ)
    if root is None:
        raise NotFound(
            f"There is no store at or above {os.getcwd()}. Run a flow first, or name a store with --store "
            "(in Python: open_store(url))."
        )
    return Store(open_storage(root), as_of)


def sql(query: str, frames: Mapping[str, Any] | None = None, **params: Any) -> Result:
    """Run one read-only query over the default store; see `Store.sql`."""
    with open_store() as store:
        return store.sql(query, frames=frames, **params)


set_opener(open_store)
