"""The account of runs by Python, over events that are held in memory. Pure, but for what it asks to be held."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from weft.lineage.accounts import Account, Place, Reuse, TaskRow, ViewAccount
from weft.lineage.named_runs import NamedRun
from weft.lineage.projections import RunState, TaskState, believed, fold
from weft.lineage.run_demands import RunKey
from weft.lineage.schema import KINDS, Event, family_of

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["HeldAccount", "account_of"]

_EPOCH = datetime(1970, 1, 1)  # Times of views are in UTC, and do not say so.


def account_of(store: Answers, runs: Collection[RunKey], families: Collection[str]) -> Account:
    """An account of runs for questions that will read these families of events, beside those of runs and tasks."""
    held = HeldAccount(store, families)
    if held.holds(runs):
        return held
    store.foresee(runs, families)
    return ViewAccount(store)


class HeldAccount:
    """The account of runs that came to an end, with few events. What it cannot say it asks the views."""

    def __init__(self, store: Answers, families: Collection[str]) -> None:
        self._store = store
        self._families = {"run", "task", *families}
        self._views = ViewAccount(store)
        #: The runs that were asked for, whether they are there or not.
        self._held: set[RunKey] = set()
        self._runs: dict[RunKey, RunState] = {}
        self._by_kind: dict[str, list[Event]] = {}
        self._by_task: dict[tuple[bytes | None, str, str], list[Event]] = {}

    def holds(self, runs: Iterable[RunKey]) -> bool:
        """Whether runs are there and told of from here; their events are fetched where they are not here yet."""
        wanted = set(runs)
        if not wanted <= self._held:
            everything = self._held | wanted
            found = self._store.held(everything, self._families)
            if found is None or not self._take(found):
                return False
            self._held = everything
        return wanted <= self._runs.keys()

    def _holds_origins(self, runs: Iterable[NamedRun]) -> bool:
        """The same of runs, and of those that their reused tasks are from."""
        keys = {run.key for run in runs}
        if not self.holds(keys):
            return False
        reused = (task.reused for key in keys for task in self._runs[key].tasks.values())
        origins = {(event.producer_flow or "", event.producer_run_id or "") for event in reused if event}
        # One that is not there is none.
        return self.holds(origins) or not any(self._views.runs(origins - self._runs.keys()))

    def runs(self, names: Iterable[RunKey]) -> dict[RunKey, NamedRun]:
        wanted = set(names)
        if not self.holds(wanted):
            return self._views.runs(wanted)
        return {name: _named(self._runs[name]) for name in wanted}

    def tasks(self, runs: Iterable[NamedRun], places: Collection[Place] | None = None) -> list[TaskRow]:
        runs = list(runs)
        if not self.holds(run.key for run in runs):
            return self._views.tasks(runs, places)
        states = {run.uid: self._runs[run.key] for run in runs}
        return [
            _task_row(states[uid].tasks[step, task_id], uid, events)
            for (uid, step, task_id), events in self._by_task.items()
            if uid in states and (places is None or (step, task_id) in places)
        ]

    def reuses(self, runs: Iterable[NamedRun]) -> list[Reuse]:
        runs = list(runs)
        if not self._holds_origins(runs):
            return self._views.reuses(runs)
        return [
            self._reuse(run.uid, task.reused)
            for run in runs
            for task in self._runs[run.key].tasks.values()
            if task.reused is not None
        ]

    def origin(self, reuse: Reuse) -> NamedRun | None:
        run = self._runs.get((reuse.origin_flow or "", reuse.origin_run_id or ""))
        return self._views.origin(reuse) if run is None else _named(run)

    def events(
        self,
        kinds: Sequence[str],
        columns: Sequence[str],
        runs: Iterable[NamedRun],
        *,
        places: Collection[Place] | None = None,
        digests: Collection[bytes] | None = None,
    ) -> list[tuple[Any, ...]]:
        runs = list(runs)
        is_told = family_of(kinds[0]) in self._families and self.holds(run.key for run in runs)
        if not is_told:
            return self._views.events(kinds, columns, runs, places=places, digests=digests)
        uids = {run.uid for run in runs}
        taken = [Event._fields.index(column) for column in columns]
        return [
            tuple([event[index] for index in taken])
            for kind in kinds
            for event in self._by_kind.get(kind, ())
            if event.run_uid in uids
            and (places is None or (event.step, event.task_id) in places)
            and (digests is None or event.digest in digests)
        ]

    def _take(self, found: Iterable[Event]) -> bool:
        """Take in events; whether what became of all their runs can be told from them alone."""
        told = believed(found)
        states = fold(told)
        runs = {(run.flow, run.run_id): run for run in states.values()}
        if len(runs) < len(states) or any(run.first is None or run.ended is None for run in states.values()):
            return False
        by_kind: dict[str, list[Event]] = {}
        by_task: dict[tuple[bytes | None, str, str], list[Event]] = {}
        for event in told:
            run = states[event.run_uid or b""]
            if (event.flow, event.run_id) != (run.flow, run.run_id):
                return False
            by_kind.setdefault(event.kind, []).append(event)
            if event.step is not None and event.task_id is not None and family_of(event.kind) == "task":
                by_task.setdefault((event.run_uid, event.step, event.task_id), []).append(event)
        self._runs, self._by_kind, self._by_task = runs, by_kind, by_task
        return True

    def _reuse(self, uid: bytes, told: Event) -> Reuse:
        flow, run_id = told.producer_flow, told.producer_run_id
        origin = self._runs.get((flow or "", run_id or ""))
        return Reuse(
            uid,
            told.step or "",
            told.task_id or "",
            None if origin is None else origin.run_uid,
            flow,
            run_id,
            told.producer_step,
            told.producer_task_id,
        )


def _named(run: RunState) -> NamedRun:
    assert run.ended is not None, "others are not told of here"
    started = run.started
    return NamedRun(
        run.flow,
        run.run_id,
        run.run_uid,
        run.run_id,
        run.status,
        run.code_digest,
        None if started is None else _time(started.time_us),
        None if run.ended.kind == "run_lost" else _time(run.ended.time_us),
        run.origin_run_id,
        None if started is None else (started.payload or {}).get("user"),
    )


def _task_row(task: TaskState, uid: bytes | None, events: Sequence[Event]) -> TaskRow:
    final = task.final
    paths = [event.foreach_path for event in events if event.foreach_path is not None]
    keys = [key for event in events if (key := (event.payload or {}).get("task_key")) is not None]
    starts = [start_us for event in events if (start_us := _start_us(event)) is not None]
    return TaskRow(
        uid or b"",
        task.step,
        task.task_id,
        task.status,
        max(paths, default=None),
        min(event.time_us for event in events),
        min(starts, default=None),
        None if final is None or final.ended is None else final.ended.time_us,
        task.final_attempt,
        max(keys, default=None),
    )


def _start_us(event: Event) -> int | None:
    """When an attempt began, by what its start or its end says."""
    if event.attempt is None:
        return None
    if event.kind == "attempt_started":
        return event.time_us
    duration_s = (event.payload or {}).get("duration_s")
    is_end = KINDS[event.kind].fact == "attempt_end"
    return event.time_us - round(1e6 * duration_s) if is_end and duration_s is not None else None


def _time(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
