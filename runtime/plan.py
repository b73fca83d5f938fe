"""A resume played through without running anything: what would become of each task, and why. Pure.

The ledger and the machine are those of a run. A task that would run is told to have succeeded, with values that
nobody knows: what reads them may be reused or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from weft.lineage import events
from weft.lineage.events import Content, RunRef, format_foreach_path
from weft.lineage.schema import Event
from weft.runtime.graph import Graph, Node
from weft.runtime.history import Earlier, Missing
from weft.runtime.items import Item
from weft.runtime.keys import UNKNOWN, Sight
from weft.runtime.ledger import Ledger
from weft.runtime.machine import Machine, TaskPlace
from weft.runtime.resume import MAYBE, REUSE, Change, Decision, Planner

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
        self._ledger = Ledger(run, graph, Machine(graph), _NoJournal(), None, self, self._note)
        self._medians: dict[str, float] | None = None
        self._decisions: dict[str, tuple[TaskPlace, Decision]] = {}
        #: Where a switch that runs again may lead: the step and its foreach positions, and the switch.
        self._doubted: dict[tuple[str, tuple[int, ...]], str] = {}

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

    def decide(self, place: TaskPlace, sight: Sight, are_parents_reused: bool) -> Decision:
        """What the planner says, unless it is not known whether the flow comes there."""
        decision = self._planner.decide(place, sight, are_parents_reused)
        switch = self._doubted.get((place.step, place.positions))
        if switch is None or decision.action != REUSE:
            return decision
        return Decision(MAYBE, f"if {switch} goes on to it again", decision.earlier)

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
            transition["next"] = [self._way_on(node, earlier)]
            self._doubted[transition["next"][0], place.positions] = place.step
        if node.foreach is not None:
            count = 1 if earlier is None else earlier.transition.get("num_splits", 1)
            items = [Item(_UNKNOWN, "")] * count
            transition |= {"foreach": node.foreach, "num_splits": count}
        told.append(events.attempt_succeeded(task, 0, transition, {}))
        self._ledger.record(told, items)

    @staticmethod
    def _way_on(switch: Node, earlier: Earlier | None) -> str:
        """Where a switch went before; else anywhere but to itself, for that would have no end."""
        before = () if earlier is None else earlier.transition.get("next", ())
        known = [step for step in before if step in switch.out_steps]
        others = [step for step in switch.out_steps if step != switch.name]
        return (known or others or switch.out_steps)[0]

    def _expected_s(self, place: TaskPlace) -> float | None:
        own = self._duration_s(place)
        if own is not None:
            return own
        if self._medians is None:
            from statistics import median  # Costs as much as planning a hundred tasks.

            known: dict[str, list[float]] = {}
            for other in self._planner.history.places:
                duration_s = self._duration_s(other)
                if duration_s is not None:
                    known.setdefault(other.step, []).append(duration_s)
            self._medians = {step: median(durations) for step, durations in known.items()}
        return self._medians.get(place.step)

    def _duration_s(self, place: TaskPlace) -> float | None:
        try:
            earlier = self._planner.history.earlier(place)
        except Missing:
            return None
        return None if earlier is None else earlier.duration_s
