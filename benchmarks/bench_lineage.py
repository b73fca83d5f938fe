"""Lineage in a long history: how long it takes to walk from something to all it was made from, or all made from it."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable
from typing import Any

from benchmarks.bench_scale import history_in
from benchmarks.measure import best_of
from benchmarks.report import Figure, answer_of
from benchmarks.workloads import Size
from weft.lineage import view_sql
from weft.lineage.engine import load_engine
from weft.lineage.local import LocalStorage
from weft.lineage.paths import SEGMENTS
from weft.lineage.store import Store

__all__ = ["measure_lineage"]


def measure_lineage(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """Walk in an open store, up and down the run of many steps and the very wide one.

    Beside each stands one bare scan of DuckDB for the reads of that run, without any walk.
    """
    marks = history_in(folder, seed, size.history).landmarks
    root = os.path.join(folder, "store")
    figures: list[Figure] = []
    answers: list[Any] = []
    with Store(LocalStorage(root)) as store:
        chain_end, wide_end = (_last_artifact(store, run) for run in (marks.chain, marks.wide))
        questions = [
            ("many steps, up from the last artifact", marks.chain, chain_end, "up", "15 ms"),
            ("many steps, down from the run", marks.chain, marks.chain, "down", "20 ms"),
            ("very wide, up from the last artifact", marks.wide, wide_end, "up", "60 ms"),
            ("very wide, down from the first", marks.wide, f"{marks.wide}/start/1/table", "down", "60 ms"),
        ]
        for name, run, target, direction, limit in questions:

            def ask(target: str = target, direction: str = direction) -> float:
                return _timed(lambda: store.lineage(target, direction))

            bare_s, walk_s = best_of(2 * size.repeats, _bare_scan(root, run), ask)
            figures.append(
                Figure(name, walk_s * 1e3, "ms", walk_s / bare_s, "one bare scan of the run", limit)
            )
            graph = store.lineage(target, direction)
            shown_s = _timed(graph.tree)
            figures.append(Figure(f"the tree of that: {graph!r}".partition(": <")[0], shown_s * 1e3, "ms"))
            answers.append([graph.radius(), len(graph.tree().splitlines())])
    return figures, answer_of(answers)


def _last_artifact(store: Store, run: str) -> str:
    query = (
        "select step, task_id, name from raw.artifact_events where flow = ? and run_id = ? and step = 'end' "
        "order by attempt desc, name limit 1"
    )
    ((step, task_id, name),) = store.rows(query, run.split("/"))
    return f"{run}/{step}/{task_id}/{name}"


def _bare_scan(root: str, run: str) -> Callable[[], float]:
    """The reads of one run, grouped by what is alike in them, out of the sealed segments."""
    connection = load_engine().connect(":memory:")
    files = sorted(glob.glob(os.path.join(root, SEGMENTS, "use", "*.parquet")))
    query = (
        "select step, name, producer_step, list(task_id), list(producer_task_id) "
        f"from ({view_sql.read_events(files)}) where flow = ? and run_id = ? group by all"
    )
    connection.execute("set parquet_metadata_cache = true")
    return lambda: _timed(lambda: connection.execute(query, run.split("/")).fetchall())


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
