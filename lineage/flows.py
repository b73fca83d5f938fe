"""Flows, runs and steps as objects, with the names that Metaflow's client has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from weft.lineage.answers import Answers
from weft.lineage.errors import NotFound
from weft.lineage.recorded import Recorded, default_store, get_namespace, in_namespace
from weft.lineage.tasks import Task, TaskData

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Code", "Flow", "Metaflow", "Run", "Step"]


class Code(NamedTuple):
    """The code of a run. `files` are the texts of its files by path, `entry` the path of the flow's."""

    digest: str
    entry: str
    files: dict[str, str]

    @property
    def flowspec(self) -> str:
        """The text of the flow's file."""
        return self.files[self.entry]


class Metaflow:
    """All flows of a store."""

    def __init__(self, store: Answers | None = None) -> None:
        self._store = store or default_store()

    @property
    def flows(self) -> list[Flow]:
        """The flows that have a run in the namespace, the one that ran last first."""
        condition, params = in_namespace()
        rows = self._store.rows(
            f"select flow from runs where {condition} group by flow order by max(started_at) desc, flow",
            params,
        )
        return [Flow(row[0], store=self._store) for row in rows]

    def __iter__(self) -> Iterator[Flow]:
        return iter(self.flows)

    def __getitem__(self, name: str) -> Flow:
        return Flow(name, store=self._store)

    def __contains__(self, name: object) -> bool:
        return any(flow.id == name for flow in self.flows)

    def __repr__(self) -> str:
        return "Metaflow()"


#: What a list of runs fetches at once; of a run that has ended none of it changes.
_RUN_FACTS = ("run_id", "status", "started_at", "finished_at", "user_name", "origin_run_id", "code_digest")


class Flow(Recorded):
    """A flow: `Flow("MyFlow")`."""

    _LEVEL = 1
    _NOUN = "flow"

    @property
    def latest_run(self) -> Run | None:
        """The run that started last; None without any in the namespace."""
        return next(iter(self.runs()), None)

    @property
    def latest_successful_run(self) -> Run | None:
        return next((run for run in self.runs() if run.successful), None)

    @property
    def created_at(self) -> datetime:
        """When it ran first."""
        at: datetime = self._row("runs", "min(started_at)")[0]
        return at

    def runs(self, *tags: str) -> Iterator[Run]:
        """The runs that have all these tags, newest first."""
        condition, params = in_namespace()
        rows = self._store.rows(
            f"select {', '.join(_RUN_FACTS)} from runs where flow = ? and {condition} "
            "order by started_at desc, run_id desc",
            [self.id, *params],
        )
        for row in rows:
            facts = dict(zip(_RUN_FACTS, row, strict=True))
            has_ended = facts["status"] in ("succeeded", "failed", "cancelled")
            run = Run.listed(f"{self.id}/{facts['run_id']}", self._store, facts if has_ended else None)
            if not tags or set(tags) <= run.tags:
                yield run

    def _check(self) -> None:
        if not self._store.rows("select 1 from fold.counted where flow = ? limit 1", [self.id]):
            self._row("runs", "flow")

    def _child_names(self) -> list[str]:
        condition, params = in_namespace()
        rows = self._store.rows(
            f"select run_id from runs where flow = ? and {condition} order by started_at desc, run_id desc",
            [self.id, *params],
        )
        return [row[0] for row in rows]

    def _child(self, name: str) -> Run:
        return Run.listed(f"{self.id}/{name}", self._store)


class Run(Recorded):
    """A run: `Run("MyFlow/17")`."""

    _LEVEL = 2
    _NOUN = "run"

    @property
    def status(self) -> str:
        """One of running, succeeded, failed, cancelled and lost."""
        return str(self._row("runs", "status")[0])

    @property
    def finished(self) -> bool:
        """Whether its end was reached; False for a failed run, as in Metaflow: see `status`."""
        return self.status == "succeeded"

    @property
    def successful(self) -> bool:
        """Whether its end was reached and the end task was not one whose failure was caught."""
        end = self.end_task
        return end is not None and end.successful

    @property
    def created_at(self) -> datetime | None:
        at: datetime | None = self._row("runs", "started_at")[0]
        return at

    @property
    def finished_at(self) -> datetime | None:
        """When it came to its end, whatever that was."""
        at: datetime | None = self._row("runs", "finished_at")[0]
        return at

    @property
    def end_task(self) -> Task | None:
        """The last task, once it is there: of all tasks done the one that leads nowhere."""
        if not self.finished:
            return None
        rows = self._store.rows(
            "select step, task_id, status from tasks where flow = ? and run_id = ? "
            "and status in ('succeeded', 'caught', 'reused') order by created_at desc, "
            "try_cast(task_id as bigint) desc limit 1",
            self._parts,
        )
        if not rows:
            return None
        step, task_id, status = rows[0]
        return Task.listed(f"{self.pathspec}/{step}/{task_id}", self._store, {"status": status})

    @property
    def data(self) -> TaskData | None:
        """The artifacts of the end task; None before the end."""
        end = self.end_task
        return None if end is None else end.data

    @property
    def code(self) -> Code | None:
        """The code it ran; None where none was stored."""
        digest = self._row("runs", "code_digest")[0]
        if digest is None:
            return None
        manifest = json.loads(self._store.objects.get(bytes.fromhex(digest.removeprefix("sha256:"))))
        texts = {
            path: self._store.objects.get(bytes.fromhex(sha)).decode("utf-8", "replace")
            for path, sha in manifest["files"].items()
        }
        return Code(digest, manifest["entry"], texts)

    @property
    def origin_pathspec(self) -> str | None:
        """The run that this one resumed."""
        origin = self._row("runs", "origin_run_id")[0]
        return None if origin is None else f"{self._parts[0]}/{origin}"

    def steps(self, *tags: str) -> Iterator[Step]:
        """The steps that were begun, newest first."""
        return iter(self) if set(tags) <= self.tags else iter(())

    def _check(self) -> None:
        self._row("runs", "flow")
        if not self.is_in_namespace():
            raise NotFound(
                f"{self.pathspec} is not in the namespace {get_namespace()}. Call namespace(None) to see all."
            )

    def _child_names(self) -> list[str]:
        return self._names(
            "select step from steps where flow = ? and run_id = ? order by started_at desc, step"
        )

    def _child(self, name: str) -> Step:
        return Step.listed(f"{self.pathspec}/{name}", self._store)


class Step(Recorded):
    """A step of a run: `Step("MyFlow/17/fit")`."""

    _LEVEL = 3
    _NOUN = "step"

    @property
    def status(self) -> str:
        return str(self._row("steps", "status")[0])

    @property
    def task(self) -> Task | None:
        """Its newest task."""
        return next(iter(self), None)

    @property
    def created_at(self) -> datetime | None:
        at: datetime | None = self._row("steps", "started_at")[0]
        return at

    @property
    def finished_at(self) -> datetime | None:
        """When its last task ended; None while one goes on."""
        at: datetime | None = self._row("steps", "finished_at")[0]
        return at

    @property
    def origin_pathspec(self) -> str | None:
        origin = self.parent.origin_pathspec
        return None if origin is None else f"{origin}/{self.id}"

    def tasks(self, *tags: str) -> Iterator[Task]:
        """Its tasks, newest first."""
        return iter(self) if set(tags) <= self.tags else iter(())

    def _check(self) -> None:
        self._row("steps", "step")

    def _child_names(self) -> list[str]:
        return self._names(
            "select task_id from tasks where flow = ? and run_id = ? and step = ? "
            "order by created_at desc, try_cast(task_id as bigint) desc"
        )

    def _child(self, name: str) -> Task:
        return Task.listed(f"{self.pathspec}/{name}", self._store)
