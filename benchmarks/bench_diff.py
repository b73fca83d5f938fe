"""Two large runs compared in an open store: equal ones, ones that hardly differ, and ones that differ everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.measure import best_of
from benchmarks.report import Figure, answer_of
from benchmarks.workloads import Size, run_events
from weft.lineage.description import create_store
from weft.lineage.engine import load_engine
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.schema import Event
from weft.lineage.store import Store

__all__ = ["measure_diff"]

#: Each task has one read and two artifacts.
_ROWS_OF_A_TASK = 4
_SPARSE = 100


def measure_diff(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """Compare runs of `size.compared` tasks."""
    storage = LocalStorage(folder)
    create_store(storage)
    for number, every in enumerate((0, 0, _SPARSE, 1)):
        journal = Journal.create(storage)
        journal.append(list(_run(seed, number, size.compared, every)))
        journal.close()
    figures, answers = [], []
    with Store(storage) as store:
        bare = _bare(2 * size.compared * _ROWS_OF_A_TASK)
        (flow,) = (row[0] for row in store.sql("select distinct flow from runs").fetchall())
        for number, words in ((1, "equal"), (2, "1 task in 100 differs"), (3, "all tasks differ")):
            bare_s, diff_s = best_of(
                3 * size.repeats, bare, partial(_timed, store, f"{flow}/0", f"{flow}/{number}")
            )
            title = f"diff of two {size.compared:,}-task runs, {words}"
            figures.append(Figure(title, diff_s * 1e3, "ms", diff_s / bare_s, "bare DuckDB", "60 ms"))
            answers.append(len(store.diff(f"{flow}/0", f"{flow}/{number}").differences))
    return figures, answer_of(answers)


def _run(seed: int, number: int, tasks: int, every: int) -> Iterator[Event]:
    """The same run each time but for its id, and for the scores of every so many tasks."""
    uid = bytes([number]) * 16
    for event in run_events(seed, 0, tasks):
        event = event._replace(run_uid=uid, run_id=str(number))
        if event.producer_run_id is not None:
            event = event._replace(producer_run_id=str(number))
        is_score = event.kind == "artifact_saved" and event.name == "score" and event.digest is not None
        if is_score and every and int(event.task_id or 0) % every == 0:
            event = event._replace(digest=bytes(byte ^ 0xFF for byte in event.digest or b""))
        yield event


def _bare(rows: int) -> Callable[[], float]:
    """As many narrow rows, fetched from a table of bare DuckDB."""
    connection = load_engine().connect(":memory:")
    columns = ", ".join(f"'text ' || i AS column_{n}" for n in range(5))
    connection.execute(f"CREATE TABLE listed AS SELECT {columns} FROM range({rows}) t(i)")

    def ask() -> float:
        start = time.perf_counter()
        connection.execute("SELECT * FROM listed").fetchall()
        return time.perf_counter() - start

    return ask


def _timed(store: Store, a: str, b: str) -> float:
    start = time.perf_counter()
    store.diff(a, b)
    return time.perf_counter() - start
