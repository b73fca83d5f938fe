"""What tasks saved and passed on, and what they see of it, fetched for whole runs at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from weft.lineage.fold_sql import PACKED
from weft.lineage.named_runs import find_runs_named, of_runs

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["PARAMETERS", "Records"]

#: The pseudo task whose artifacts are the parameters and constants of a run.
PARAMETERS = "_parameters/0"


class _Task:
    """One task as the walk needs it. `origin` is the task it stands for."""

    __slots__ = ("_place", "_told", "merged", "origin", "saved")

    def __init__(self, told: str | None = None, origin: str | None = None) -> None:
        self._told = told
        #: Its parents as (step, id), and how many foreach levels it is in: read of what was told when it is asked.
        self._place: tuple[list[tuple[str, str]], int] | None = None
        self.origin = origin
        #: The names of what it saved.
        self.saved: set[str] = set()
        #: The producer by name.
        self.merged: dict[str, str] = {}

    @property
    def parents(self) -> list[tuple[str, str]]:
        return self._read()[0]

    @property
    def levels(self) -> int:
        return self._read()[1]

    def _read(self) -> tuple[list[tuple[str, str]], int]:
        if self._place is None:
            payload = json.loads(self._told or "{}")
            parents = [(step, task_id) for step, task_id in payload.get("parents") or ()]
            self._place = parents, len(payload.get("levels") or ())
        return self._place


class Records:
    """The tasks of the runs that were loaded, by pathspec."""

    def __init__(self, store: Answers) -> None:
        self._store = store
        self._runs: set[tuple[str, str]] = set()
        self._tasks: dict[str, _Task] = {}

    def load(self, tasks: Iterable[str | None]) -> None:
        """Fetch the runs of these tasks, and those that reused tasks come from."""
        wanted = {
            (parts[0], parts[1]) for task in tasks if task is not None and len(parts := task.split("/")) == 4
        }
        while wanted := wanted - self._runs:
            self._runs |= wanted
            before = len(self._tasks)
            self._fetch(sorted(wanted))
            listed = list(self._tasks.values())[before:]
            origins = [task.origin.split("/") for task in listed if task.origin is not None]
            wanted = {(origin[0], origin[1]) for origin in origins}

    def tasks_of(self, flow: str, run_id: str, step: str | None = None) -> list[str]:
        """The tasks of a loaded run, without the pseudo task of its parameters."""
        prefix = f"{flow}/{run_id}/" if step is None else f"{flow}/{run_id}/{step}/"
        return [
            path for path in self._tasks if path.startswith(prefix) and not path.endswith(f"/{PARAMETERS}")
        ]

    def parents(self, task: str) -> list[str]:
        run = _run_of(task)
        return [f"{run}/{step}/{task_id}" for step, task_id in self._of(task).parents]

    def origin(self, task: str) -> str:
        """The task that really ran."""
        return self._of(task).origin or task

    def visible(self, task: str) -> dict[str, str]:
        """The task that saved it for each name that a task sees: its own, what it merged and inherited."""
        seen: dict[str, str] = {}
        for path in self._inherited(task):
            record = self._of(path)
            for name in record.saved:
                seen.setdefault(name, path)
            for name, producer in record.merged.items():
                seen.setdefault(name, self.origin(producer))
        return seen

    def owner(self, task: str, name: str) -> str:
        """The task that saved the artifact which `task` sees under a name; `task` when none is recorded."""
        here = task
        for _ in range(len(self._tasks) + 1):
            for path in self._inherited(here):
                record = self._of(path)
                if name in record.saved:
                    return path
                if name in record.merged:
                    moved = record.merged[name]
                    break
            else:
                return self.origin(task)
            if moved == here:
                break
            self.load([moved])
            here = moved
        return self.origin(here)

    def _of(self, task: str) -> _Task:
        return self._tasks.get(task) or _Task()

    def _inherited(self, task: str) -> Iterable[str]:
        """The tasks whose artifacts `task` sees, itself first, the parameters last. A join sees no parent's."""
        run = _run_of(task)
        here: str | None = task
        while here is not None:
            yield self.origin(here)
            # A reused task inherits in its own run: a task before it may have run again.
            record = self._of(here)
            here = None
            if len(record.parents) == 1:
                parent = "/".join((run, *record.parents[0]))
                if self._of(parent).levels <= record.levels:
                    here = parent
        yield f"{run}/{PARAMETERS}"

    def _fetch(self, runs: list[tuple[str, str]]) -> None:
        """Read the events of runs themselves: how a task came out is of no matter here."""
        chosen = _Chosen(self._store, runs)
        last: dict[str, int] = {}
        for path, told, attempt in chosen.rows(_TASKS, "group by all order by min(time_us), task_id"):
            last[path] = attempt or 0
            kind, payload, *origin = (None, None) if told is None else told.values()
            is_reused = kind == "task_reused" and None not in origin
            self._tasks[path] = _Task(payload, "/".join(origin) if is_reused else None)
        for path, kind, name, attempt, *producer in chosen.rows(_SAVED):
            if (attempt or 0) < last.get(path, 0):
                continue
            record = self._tasks.setdefault(path, _Task())
            if kind == "artifact_merged" and None not in producer:
                record.merged[name] = "/".join(producer)
            else:
                record.saved.add(name)
        for path, name in chosen.rows(_PARAMETERS_SET):
            self._tasks.setdefault(path, _Task()).saved.add(name)


class _Chosen:
    """The rows of some runs, which may share their pathspecs with others."""

    def __init__(self, store: Answers, runs: list[tuple[str, str]]) -> None:
        self._store = store
        self._about = runs
        self._runs = set(runs)
        self._names: dict[bytes, str] | None = None
        if store.has_twins():
            named = find_runs_named(store, runs).values()
            self._names = {run.uid: run.pathspec for run in named}
            self._condition, self._params = of_runs(named) if named else ("false", [])
        else:
            flows, ids = sorted({flow for flow, _ in runs}), sorted({run_id for _, run_id in runs})
            marks = [", ".join("?" for _ in names) for names in (flows, ids)]
            # By constants: so it reaches the statistics of files.
            self._condition = f"flow in ({marks[0]}) and run_id in ({marks[1]}) and run_uid is not null"
            self._params = [*flows, *ids]

    def rows(self, query: str, end: str = "") -> Iterator[tuple[Any, ...]]:
        """Rows of a query that gives uid, flow, run id, step and task id first; instead of them the task's pathspec."""
        found = self._store.rows(f"{query} and {self._condition} {end}", self._params, about=self._about)
        for uid, flow, run_id, step, task_id, *more in found:
            if self._names is not None:
                run = self._names.get(bytes(uid))
            else:
                # Flows and ids are asked for apart.
                run = f"{flow}/{run_id}" if (flow, run_id) in self._runs else None
            if run is not None:
                yield f"{run}/{step}/{task_id}", *more


def _run_of(task: str) -> str:
    flow, run_id, *_ = task.split("/")
    return f"{flow}/{run_id}"


_KEYS = "run_uid, flow, run_id, step, task_id"

_TASKS = f"""
    select {_KEYS}, arg_min({{'kind': kind, 'payload': payload, 'flow': producer_flow, 'run_id': producer_run_id,
        'step': producer_step, 'task_id': producer_task_id}}, {PACKED}) filter (where kind in ('task_created', 'task_reused')),
        max(attempt) filter (where kind <> 'retry_scheduled')
    from told.task_events where step is not null and task_id is not null"""

_SAVED = f"""
    select {_KEYS}, kind, name, attempt, producer_flow, producer_run_id, producer_step, producer_task_id
    from told.artifact_events where kind in ('artifact_saved', 'artifact_merged')"""

_PARAMETERS_SET = f"select {_KEYS}, name from told.run_events where kind = 'parameter_set'"
