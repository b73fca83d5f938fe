"""An open store: how long a list of runs takes, from Python and as a command."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import best_of, run_python
from benchmarks.report import Figure, answer_of
from benchmarks.workloads import Size, run_events
from weft.lineage.description import create_store
from weft.lineage.engine import load_engine
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.store import Store

__all__ = ["measure_list"]

_TASKS_OF_A_RUN = 20
_NEWEST = 20
#: A question seals so many journals at once.
_BATCH = 50

_LIST = """
    SELECT flow, run_id, status, started_at, finished_at, duration_s, user_name, tasks, tasks_failed, root_cause
    FROM runs ORDER BY started_at DESC
"""


def measure_list(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """All runs of a store that is open, then sealed; and the newest few by a command that starts cold."""
    storage = LocalStorage(os.path.join(folder, ".weft"))
    _write_runs(storage, seed, size.runs)
    figures, unsealed = _open_store(storage, size, "in journals")
    figures += [_cold(size, folder, "in journals")]
    EventLog(storage).seal(force=True, grace_s=0)
    sealed_figures, sealed = _open_store(storage, size, "sealed")
    assert sealed == unsealed, "sealing changes no answer"
    figures += [*sealed_figures, _cold(size, folder, "sealed"), _compacted(size, seed, folder, sealed)]
    return figures, answer_of(sealed)


def _compacted(size: Size, seed: int, folder: str, expected: list[Any]) -> Figure:
    """The same runs, each from a writer of its own, sealed in batches and compacted, against one segment of them all."""
    places = []
    for name, batch in (("batches", _BATCH), ("whole", 0)):
        storage = LocalStorage(os.path.join(folder, name))
        _write_runs(storage, seed, size.runs, batch)
        EventLog(storage).seal(force=True, grace_s=0)
        if batch:
            EventLog(storage).tidy(is_whole=True)
        places.append(storage)

    def opened(storage: LocalStorage) -> float:
        return _timed(lambda: _listed(storage))

    assert _shape(_listed(places[0])) == _shape(_listed(places[1])) == expected, (
        "compaction changes no answer"
    )
    own_s, one_s = best_of(size.repeats, lambda: opened(places[0]), lambda: opened(places[1]))
    return Figure(
        f"open and list {size.runs} runs, compacted",
        own_s * 1e3,
        "ms",
        own_s / one_s,
        "the same in one segment",
        "2 x",
    )


def _listed(storage: LocalStorage) -> list[Any]:
    with Store(storage) as store:
        return list(store.sql(_LIST).fetchall())


def _shape(rows: list[Any]) -> list[Any]:
    """What does not depend on when the runs were written."""
    return [[row[0], row[1], row[2], *row[6:]] for row in sorted(rows)]


def _write_runs(storage: LocalStorage, seed: int, count: int, batch: int | None = None) -> None:
    """Each run from a writer of its own, sealed after each `batch` of them; with 0 all from one writer."""
    create_store(storage)
    shared = Journal.create(storage) if batch == 0 else None
    for number in range(count):
        journal = shared or Journal.create(storage)
        journal.append(list(run_events(seed, number, _TASKS_OF_A_RUN)))
        if shared is None:
            journal.close()
        if batch and (number + 1) % batch == 0:
            EventLog(storage).seal(force=True, grace_s=0)
    if shared is not None:
        shared.close()


def _open_store(storage: LocalStorage, size: Size, form: str) -> tuple[list[Figure], list[Any]]:
    start = time.perf_counter()
    with Store(storage) as store:
        rows = store.sql(_LIST).fetchall()
        first_s = time.perf_counter() - start
        bare = _bare_list(len(rows))
        client_s = _client_s(store, size, len(rows))
        bare_s, list_s = best_of(3 * size.repeats, bare, lambda: _timed(lambda: store.sql(_LIST).fetchall()))
    figures = [
        Figure(f"open and list {size.runs} runs, {form}", first_s * 1e3, "ms"),
        Figure(
            f"list {size.runs} runs again, {form}",
            list_s * 1e3,
            "ms",
            list_s / bare_s,
            "bare DuckDB",
            "20 ms",
        ),
        Figure(
            f"list {size.runs} runs as objects, {form}",
            client_s * 1e3,
            "ms",
            client_s / bare_s,
            "bare DuckDB",
            "20 ms",
        ),
    ]
    return figures, _shape(rows)


def _client_s(store: Store, size: Size, count: int) -> float:
    """Every run of every flow as a client object, with its status and its end."""
    names = [row[0] for row in store.sql("SELECT DISTINCT flow FROM runs").fetchall()]

    def ask() -> None:
        found = [(run.id, run.status, run.finished_at) for name in names for run in store.flow(name).runs()]
        assert len(found) == count

    return best_of(min(2, size.repeats), lambda: _timed(ask))[0]


def _bare_list(count: int) -> Callable[[], float]:
    """As many rows of as many columns, fetched from a table of bare DuckDB."""
    connection = load_engine().connect(":memory:")
    columns = ", ".join(f"'text ' || i AS column_{n}" for n in range(10))
    connection.execute(f"CREATE TABLE listed AS SELECT {columns} FROM range({count}) t(i)")
    query = "SELECT * FROM listed ORDER BY column_3 DESC"
    return lambda: _timed(lambda: connection.execute(query).fetchall())


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cold(size: Size, folder: str, form: str) -> Figure:
    bare_s, cold_s = best_of(
        size.repeats,
        lambda: run_python(["-c", "pass"], folder).wall_s,
        lambda: run_python(["-m", "weft", "runs", "--limit", str(_NEWEST), "--json"], folder).wall_s,
    )
    return Figure(
        f"`weft runs --limit {_NEWEST}` cold, {form}", cold_s * 1e3, "ms", cold_s / bare_s, "python -c pass"
    )
