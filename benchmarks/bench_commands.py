"""Commands that ask, as whole processes: in a store of two small runs, and in a long history."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bench_scale import history_in
from benchmarks.measure import run_python
from benchmarks.report import Figure, answer_of
from benchmarks.workloads import Size, wide_source
from weft.lineage.local import LocalStorage
from weft.lineage.store import Store

__all__ = ["measure_commands"]

_WIDTH = 8
_BARE = ["-c", "import duckdb"]

#: The newest run that was resumed, of about ten tasks, and its origin.
_RESUMED = """
    select flow, run_id, origin_run_id from runs where origin_run_id is not null and tasks between 5 and 40
    order by started_at desc, run_id limit 1"""
_NEWEST_TWO = "select flow, run_id from runs order by started_at desc, run_id limit 2"
_RAN = """
    select pathspec from tasks where flow = $flow and run_id = $run_id
    order by status = 'reused', step desc, task_id limit 1"""


class _Targets(NamedTuple):
    """A run, another one to compare it with, and a task of the first that ran."""

    run: str
    other: str
    task: str


def measure_commands(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """Each command in turn with `import duckdb`: the median of the ratios of its walls to those of two neighbours."""
    history_in(folder, seed, size.history)
    small = os.path.join(folder, "small")
    os.makedirs(small, exist_ok=True)
    Path(small, "wide.py").write_text(wide_source(_WIDTH, seed), encoding="utf-8")
    while len(_runs(os.path.join(small, ".weft"))) < 2:
        run_python(["wide.py", "run"], small)
    figures: list[Figure] = []
    answers: list[Any] = []
    for name, root in (("two small runs", os.path.join(small, ".weft")), ("long history", f"{folder}/store")):
        targets = _targets(root)
        repeats = 2 * size.repeats - 1
        figures += [_timed(name, root, command, folder, repeats) for command in _commands(targets)]
        with Store(LocalStorage(root)) as store:
            answers.append(
                [len(store.diff(targets.run, targets.other).times), len(store.why(targets.task).parts)]
            )
    return figures, answer_of(answers)


def _runs(root: str) -> list[tuple[str, str]]:
    if not os.path.isdir(root):
        return []
    with Store(LocalStorage(root)) as store:
        return store.sql(_NEWEST_TWO).fetchall()


def _targets(root: str) -> _Targets:
    with Store(LocalStorage(root)) as store:
        resumed = store.sql(_RESUMED).fetchall()
        if resumed:
            ((flow, run_id, origin),) = resumed
            other = f"{flow}/{origin}"
        else:
            (flow, run_id), before = store.sql(_NEWEST_TWO).fetchall()
            other = "/".join(before)
        ((task,),) = store.sql(_RAN, flow=flow, run_id=run_id).fetchall()
    return _Targets(f"{flow}/{run_id}", other, task)


def _commands(targets: _Targets) -> Iterator[list[str]]:
    yield ["runs"]
    for command in ("logs", "show", "lineage"):
        yield [command, targets.run]
    yield ["why", targets.task]
    yield ["diff", targets.run, targets.other]


def _timed(name: str, root: str, command: list[str], folder: str, repeats: int) -> Figure:
    def wall_s(arguments: list[str]) -> float:
        return run_python(arguments, folder, {"WEFT_STORE": root}).wall_s

    arguments = ["-m", "weft", *command]
    # What the first one leaves behind is there for the others.
    wall_s(arguments)
    bare = [wall_s(_BARE)]
    own = []
    for _ in range(repeats):
        own.append(wall_s(arguments))
        bare.append(wall_s(_BARE))
    ratios = [2 * taken / (bare[i] + bare[i + 1]) for i, taken in enumerate(own)]
    title = f"`weft {command[0]}`, {name}"
    return Figure(
        title, statistics.median(own) * 1e3, "ms", statistics.median(ratios), "import duckdb", "1.5 x"
    )
