"""Questions to a long history: in a store that is open, and as commands that start cold."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from benchmarks.measure import best_of, run_python
from benchmarks.report import Figure
from weft.lineage import event_tables
from weft.lineage.checkpoint import CHECKPOINTS, DESCRIPTION_PATH
from weft.lineage.checkpointing import refresh_checkpoint
from weft.lineage.engine import load_engine
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.store import Store

__all__ = ["measure_views"]

_NEWEST = 20
_EVERYTHING = "select r.status, count(*), sum(tasks), sum(tasks_failed) from runs r group by all"
_LIST = ["-m", "weft", "runs", "--limit", str(_NEWEST), "--json"]

#: What is read of events and not of states, and how many runs are asked about.
_VIEWS_OF_EVENTS = ("attempts", "artifacts", "artifact_uses", "external_uses", "events")
_FIRST_RUNS = 20

_BOTH = """
    select flow, run_id, started_at from runs
    where (flow, run_id) in (select flow, run_id from artifacts where name = 'x' and value_number > 5)
        and (flow, run_id) in (select flow, run_id from artifacts where name = 'score' and value_number > 0.9)
    order by started_at desc limit 20"""


class _Question(NamedTuple):
    name: str
    query: str
    params: dict[str, Any]
    target: str


def measure_views(folder: str, repeats: int) -> list[Figure]:
    """Figures of the store in `folder`, which is compacted and gets a checkpoint first.

    Small stores have no need of checkpoints; here even those are asked as large ones are.
    """
    storage = LocalStorage(folder)
    figures = []
    with _every_store_is_large():
        log = EventLog(storage)
        log.tidy(is_whole=True)
        start = time.perf_counter()
        refresh_checkpoint(storage, log)
        figures.append(Figure("checkpoint brought up to date", time.perf_counter() - start, "s"))
        kept = sum(file.size_bytes for file in storage.scan(CHECKPOINTS))
        figures.append(Figure("size of the checkpoint", kept / 1e6, "MB"))
        start = time.perf_counter()
        with Store(storage) as store:
            store.sql("select * from runs order by started_at desc limit 20").fetchall()
            figures.append(Figure("open, newest 20 runs", (time.perf_counter() - start) * 1e3, "ms"))
            figures += [_ask(store, question, repeats) for question in _questions(store)]
            figures += _first_questions(store)
            (middle,) = store.sql("select quantile_disc(started_at, 0.5) from runs").rows[0]
        with Store(storage, as_of=_utc(middle)) as then:
            figures.append(_ask(then, _newest("as of the middle, newest 20", "40 ms"), repeats))
    figures.append(_cold(folder, repeats, "with a checkpoint", "1.3 x, 100 MB"))
    with _without_checkpoint(storage):
        figures.append(_cold(folder, repeats, "without any cache", "6 x, 100 MB"))
        figures.append(_folding(folder))
    return figures


def _folding(folder: str) -> Figure:
    """The memory of a command that folds all runs and tasks there are."""
    env = {"WEFT_STORE": folder}
    cost = run_python(
        ["-m", "weft", "sql", _EVERYTHING, "--json"], os.path.dirname(folder), env, watches_memory=True
    )
    peak_mb = (cost.peak_rss_bytes or 0) / 1e6
    return Figure(f"peak memory of folding everything ({cost.wall_s:.1f} s)", peak_mb, "MB", target="500 MB")


def _newest(name: str, target: str) -> _Question:
    return _Question(name, "select * from runs order by started_at desc limit 20", {}, target)


def _questions(store: Store) -> Iterator[_Question]:
    (flow,) = store.sql("select flow from runs group by flow order by count(*) desc, flow limit 1").rows[0]
    keys = store.sql("select flow, run_id from runs where tasks > 0 order by started_at, run_id").rows
    one = dict(zip(("f", "r"), keys[len(keys) // 2], strict=True))
    wide = dict(
        zip(("f", "r"), store.sql("select flow, run_id from runs order by tasks desc").rows[0], strict=True)
    )
    of_run = "where flow = $f and run_id = $r"
    saved = store.sql(
        f"select name, digest from artifacts {of_run} order by size_bytes desc, name limit 1", **one
    ).rows
    name, digest = saved[0] if saved else ("x", f"sha256:{'0' * 64}")
    yield _newest("newest 20 runs", "20 ms")
    yield _Question(
        "latest successful run of a flow",
        "select run_id from runs where flow = $f and status = 'succeeded' order by started_at desc limit 1",
        {"f": flow},
        "20 ms",
    )
    yield _Question(
        "who has this digest", f"select pathspec from artifacts where digest = '{digest}'", {}, "20 ms"
    )
    yield _Question("status of one run", f"select status from runs {of_run}", one, "10 ms")
    yield _Question(
        "one artifact by flow, run and name",
        f"from artifacts {of_run} and name = $n",
        one | {"n": name},
        "15 ms",
    )
    yield _Question("tasks of the widest run", f"from tasks {of_run}", wide, "40 ms")
    yield _Question("x > 5 and score > 0.9, newest 20", _BOTH, {}, "75 ms")


def _ask(store: Store, question: _Question, repeats: int) -> Figure:
    count = len(store.sql(question.query, **question.params).rows)
    bare = _bare(count)
    timings = []
    bare_timings = []
    for _ in range(max(2, repeats)):
        bare_timings.append(_timed(bare))
        timings.append(_timed(lambda: store.sql(question.query, **question.params).fetchall()))
    own_s, bare_s = statistics.median(timings), statistics.median(bare_timings)
    return Figure(
        question.name,
        own_s * 1e3,
        "ms",
        own_s / bare_s,
        f"as many rows of bare DuckDB ({count})",
        question.target,
    )


def _first_questions(store: Store) -> Iterator[Figure]:
    """Of runs that nobody asked about before, once all files that hold their events are proven."""
    for view in _VIEWS_OF_EVENTS:
        store.sql(f"select count(*) from {view}").fetchall()
    keys = store.sql("select flow, run_id from runs where tasks > 0 order by flow, run_id").rows
    asks: dict[str, Callable[[str, str], object]] = {
        **{view: partial(_of_run, store, view) for view in _VIEWS_OF_EVENTS},
        "Run.successful": lambda flow, run_id: store.run(f"{flow}/{run_id}").successful,
    }
    chosen = iter(keys[:: max(1, len(keys) // (len(asks) * _FIRST_RUNS))])
    for name, ask in asks.items():
        timings = [_timed(partial(ask, *key)) for key in islice(chosen, _FIRST_RUNS)]
        if timings:
            yield Figure(
                f"first question about a run: {name}", statistics.median(timings) * 1e3, "ms", target="20 ms"
            )


def _of_run(store: Store, view: str, flow: str, run_id: str) -> object:
    query = f"from {view} where flow = $flow and run_id = $run_id"
    return store.sql(query, flow=flow, run_id=run_id).fetchall()


def _bare(count: int) -> Callable[[], object]:
    """As many rows of 16 columns, fetched from a table of bare DuckDB."""
    connection = load_engine().connect(":memory:")
    columns = ", ".join(f"'text ' || i AS column_{n}" for n in range(16))
    connection.execute(f"CREATE TABLE listed AS SELECT {columns} FROM range({count}) t(i)")
    return lambda: connection.execute("SELECT * FROM listed ORDER BY column_3 DESC").fetchall()


def _cold(folder: str, repeats: int, form: str, target: str) -> Figure:
    place = os.path.dirname(folder)
    env = {"WEFT_STORE": folder}
    bare_s, list_s = best_of(
        max(2, repeats),
        lambda: run_python(["-c", "import duckdb"], place).wall_s,
        lambda: run_python(_LIST, place, env).wall_s,
    )
    peak = run_python(_LIST, place, env, watches_memory=True).peak_rss_bytes
    name = f"`weft runs --limit {_NEWEST}`, {form}"
    if peak is not None:
        name += f" ({peak / 1e6:.0f} MB)"
    return Figure(name, list_s * 1e3, "ms", list_s / bare_s, "import duckdb", target)


@contextmanager
def _every_store_is_large() -> Iterator[None]:
    before = event_tables.COPIED_BYTES_MAX
    event_tables.COPIED_BYTES_MAX = 0
    try:
        yield
    finally:
        event_tables.COPIED_BYTES_MAX = before


@contextmanager
def _without_checkpoint(storage: LocalStorage) -> Iterator[None]:
    """The description is put aside, and the lock held, so that no command makes another."""
    data = storage.get(DESCRIPTION_PATH)
    lock = storage.try_lock(f"{CHECKPOINTS}.lock")
    storage.delete(DESCRIPTION_PATH)
    try:
        yield
    finally:
        storage.put(DESCRIPTION_PATH, data)
        if lock is not None:
            lock.release()


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
