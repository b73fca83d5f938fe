"""What tasks saved and passed on, and what they see of it, fetched from the views for whole runs at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from weft.lineage.fold_sql import PACKED

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["PARAMETERS", "Records"]

#: The pseudo task whose artifacts are the parameters and constants of a run.
PARAMETERS = "_parameters/0"

_PATH = "v.flow || '/' || v.run_id || '/' || v.step || '/' || v.task_id"

_TWIN = re.compile(r"~\d+$")


class _Task:
    """One task as the walk needs it. `origin` is the task it stands for."""

    __slots__ = ("levels", "merged", "origin", "parents", "saved", "status")

    def __init__(self, status: str | None = None) -> None:
        self.status = status
        self.origin: str | None = None
        self.parents: list[str] = []
        self.levels = 0
        #: digest, type and preview by name
        self.saved: dict[str, tuple[str | None, str | None, str | None]] = {}
        #: the producer by name
        self.merged: dict[str, str] = {}


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

    def has(self, task: str) -> bool:
        return task in self._tasks

    def status(self, task: str) -> str | None:
        return self._of(task).status

    def parents(self, task: str) -> list[str]:
        return self._of(task).parents

    def saved(self, task: str) -> dict[str, tuple[str | None, str | None, str | None]]:
        """Digest, type and preview of what a task saved itself, by name."""
        return self._of(task).saved

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
        run = "/".join(task.split("/")[:2])
        here: str | None = task
        while here is not None:
            yield self.origin(here)
            # A reused task inherits in its own run: a task before it may have run again.
            record = self._of(here)
            here = None
            if len(record.parents) == 1:
                parent = self._of(record.parents[0])
                if parent.levels <= record.levels:
                    here = record.parents[0]
        yield f"{run}/{PARAMETERS}"

    def _fetch(self, runs: list[tuple[str, str]]) -> None:
        self._fetch_tasks(runs)
        of_runs, params = _of_runs("artifacts", runs)
        for task, name, digest, type_name, value in self._store.rows(
            f"select {_PATH}, v.name, v.digest, v.type, v.value from {of_runs} where v.origin_pathspec is null",
            params,
            about=runs,
        ):
            self._tasks.setdefault(task, _Task()).saved[name] = (digest, type_name, value)
        of_runs, params = _of_runs("fold.tasks", runs)
        for task, name, producer in self._store.rows(
            f"""
            select {_PATH}, e.name,
                e.producer_flow || '/' || e.producer_run_id || '/' || e.producer_step || '/' || e.producer_task_id
            from {of_runs} join told.artifact_events e on e.flow = v.flow
                and e.run_id = v.raw_run_id and e.run_uid = v.run_uid and e.step = v.step and e.task_id = v.task_id
            where e.kind = 'artifact_merged' and e.attempt >= coalesce(v.final_attempt, 0)
            """,
            params,
            about=runs,
        ):
            self._tasks.setdefault(task, _Task()).merged[name] = producer

    def _fetch_tasks(self, runs: list[tuple[str, str]]) -> None:
        of_runs, params = _of_runs("fold.tasks", runs)
        recorded, raw_params = _among(
            [(flow, run) for flow, shown in runs for run in (shown, _TWIN.sub("", shown))]
        )
        for row in self._store.rows(
            f"""
            with placed as (
                select flow, run_id, run_uid, step, task_id, arg_min(payload, {PACKED}) as payload
                from told.task_events where kind in ('task_created', 'task_reused') and {recorded} group by all
            )
            select {_PATH}, v.status, p.payload ->> '$.parents', p.payload -> '$.levels', u.origin_pathspec
            from {of_runs}
                left join placed p on p.flow = v.flow and p.run_id = v.raw_run_id and p.run_uid = v.run_uid
                    and p.step = v.step and p.task_id = v.task_id
                left join fold.reuses u on u.run_uid = v.run_uid and u.step = v.step and u.task_id = v.task_id
            order by v.first_us, v.task_id
            """,
            [*raw_params, *params],
            about=runs,
        ):
            self._add_task(*row)

    def _add_task(
        self, task: str, status: str, parents: str | None, levels: str | None, origin: str | None
    ) -> None:
        run = "/".join(task.split("/")[:2])
        record = self._tasks.setdefault(task, _Task(status))
        record.status = status
        record.origin = origin
        record.parents = [f"{run}/{step}/{task_id}" for step, task_id in json.loads(parents or "[]")]
        record.levels = len(json.loads(levels or "[]"))


def _of_runs(relation: str, runs: list[tuple[str, str]]) -> tuple[str, list[Any]]:
    """What follows FROM for the rows of a relation, called v, that belong to some runs, and its parameters."""
    condition, params = _among(runs)
    wanted = "(select unnest(?::VARCHAR[]) as flow, unnest(?::VARCHAR[]) as run_id) wanted"
    chosen = f"(select * from {relation} where {condition}) v"
    return (
        f"{wanted} join {chosen} on v.flow = wanted.flow and v.run_id = wanted.run_id",
        [[flow for flow, _ in runs], [run_id for _, run_id in runs], *params],
    )


def _among(runs: list[tuple[str, str]]) -> tuple[str, list[Any]]:
    """A condition by constants, which reaches the statistics of files; flows and ids are told apart."""
    flows, ids = sorted({flow for flow, _ in runs}), sorted({run_id for _, run_id in runs})
    marks = [", ".join("?" for _ in names) for names in (flows, ids)]
    return f"flow in ({marks[0]}) and run_id in ({marks[1]})", [*flows, *ids]
