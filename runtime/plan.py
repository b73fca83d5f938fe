"""A resume played through without running anything: what would become of each task, and why. Pure.

The ledger and the machine are those of a run. A task that would run is told to have succeeded, with values that
nobody knows: what reads them may be reused or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any, NamedTuple

from weft.lineage import events
from weft.lineage.events import Content, Event, RunRef, format_foreach_path
from weft.runtime.graph import Graph
from weft.runtime.history import Missing
from weft.runtime.items import Item
from weft.runtime.keys import UNKNOWN
from weft.runtime.ledger import Ledger
from weft.runtime.machine import Machine, TaskPlace
from weft.runtime.resume import REUSE, Change, Decision, Planner

__all__ = ["NOT_NEEDED", "PlannedTask", "make_plan"]

NOT_NEEDED = "not needed"

_UNKNOWN = Content(UNKNOWN, 0, "", "", blob=b"")


class PlannedTask(NamedTuple):
    """What is to become of one task: `REUSE`, `RUN`, `MAYBE` or `NOT_NEEDED`, and how long it should take.

    `origin` is the task of an earlier run that stands in for it or is compared with it. `expected_s` is how long
    that one took, else the median of its step, else None; 0 for a task that is not run.
    """

    step: str
    foreach_path: str | None
    action: str
    reason: str
    origin: str | None
    expected_s: float | None
    changes: tuple[Change, ...] = ()


class _NoJournal:
    """Keeps nothing."""

    is_full = False
    is_sync_costly = False
    unsynced_bytes = next_seq = last_time_us = 0
    writer = b""

    def append(self, batch: list[Event]) -> list[Any]:
        return [None] * len(batch)

    def sync(self) -> None:
        return


def make_plan(planner: Planner, graph: Graph, parameters: Iterable[Event], run: RunRef) -> list[PlannedTask]:
    """What a resume would do, in the order in which tasks would be created. `parameters` are its `parameter_set` events."""
    rehearsal = _Rehearsal(planner, graph, run)
    rehearsal.play(list(parameters))
    return rehearsal.planned


class _Rehearsal:
    def __init__(self, planner: Planner, graph: Graph, run: RunRef) -> None:
        self.planned: list[PlannedTask] = []
        self._planner = planner
        self._graph = graph
        self._run = run
        self._seen: set[TaskPlace] = set()
        self._ledger = Ledger(
            run, graph, Machine(graph), _NoJournal(), lambda event: None, planner, self._note
        )
        self._durations: dict[str, list[float]] = {}
        for place in planner.history.places:
            duration_s = self._duration_s(place)
            if duration_s is not None:
                self._durations.setdefault(place.step, []).append(duration_s)
        self._decisions: dict[str, tuple[TaskPlace, Decision]] = {}

    def play(self, parameters: list[Event]) -> None:
        ledger = self._ledger
        ledger.record([*parameters, events.run_started(self._run, None, {})])
        while ledger.end is None:
            ledger.sync()
            if not ledger.ready:
                break
            while ledger.ready:
                self._pretend(ledger.ready.popleft().task_id)
        for place, task in self._planner.history.places.items():
            if place not in self._seen:
                path = f"{self._planner.origin.run.flow}/{self._planner.run_id}/{task.step}/{task.task_id}"
                reason = (
                    "nothing leads there now"
                    if place.step in self._graph
                    else "the flow has no such step now"
                )
                self.planned.append(PlannedTask(task.step, task.foreach_path, NOT_NEEDED, reason, path, 0.0))

    def _note(self, place: TaskPlace, task_id: str, levels: Any, decision: Decision) -> None:
        self._seen.add(place)
        self._decisions[task_id] = place, decision
        earlier = decision.earlier
        expected_s = 0.0 if decision.action == REUSE else self._expected_s(place)
        origin = None if earlier is None else str(earlier.pathspec)
        path = format_foreach_path(levels)
        self.planned.append(
            PlannedTask(
                place.step, path, decision.action, decision.reason, origin, expected_s, decision.changes
            )
        )

    def _pretend(self, task_id: str) -> None:
        """Tell the ledger that a task has run; what it saved is what it saved before, with other values."""
        place, decision = self._decisions[task_id]
        node = self._graph.steps[place.step]
        task = self._ledger.task(task_id)
        earlier = decision.earlier
        names = [] if earlier is None else list(earlier.saved)
        told = [events.attempt_started(task, 0, 0, "")]
        told += [events.artifact_saved(task, 0, name, _UNKNOWN) for name in names]
        transition: dict[str, Any] = {"next": list(node.out_steps)}
        items: list[Item] = []
        if node.condition is not None:
            before = [] if earlier is None else earlier.transition.get("next", [])
            transition["next"] = (
                before if before and before[0] in node.out_steps else list(node.out_steps[:1])
            )
        if node.foreach is not None:
            count = 1 if earlier is None else earlier.transition.get("num_splits", 1)
            items = [Item(_UNKNOWN, "")] * count
            transition |= {"foreach": node.foreach, "num_splits": count}
        told.append(events.attempt_succeeded(task, 0, transition, {}))
        self._ledger.record(told, items)

    def _expected_s(self, place: TaskPlace) -> float | None:
        own = self._duration_s(place)
        if own is not None:
            return own
        known = self._durations.get(place.step)
        return median(known) if known else None

    def _duration_s(self, place: TaskPlace) -> float | None:
        try:
            earlier = self._planner.history.earlier(place)
        except Missing:
            return None
        return None if earlier is None else earlier.duration_s
