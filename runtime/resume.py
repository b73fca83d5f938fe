"""What of an earlier run can stand in for a new one, derived from its events. Pure.

A task is reused when it was done, the named step and what follows it are not to run again, its
parents are reused too, and its transition still fits the graph. A foreach whose children were not all
recorded was cut off before it was acknowledged, and runs again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from weft.lineage import events
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.events import Content, Event, Level, Payload, RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.projections import DONE, RunState, TaskState
from weft.runtime.graph import Graph
from weft.runtime.items import Item
from weft.runtime.ledger import ReusedTask
from weft.runtime.machine import TaskKey
from weft.runtime.refs import Ref, ref_of

__all__ = ["Origin", "PlannedTask", "ResumePlan", "plan_resume"]


class Origin(NamedTuple):
    """The run to go on from. `runs` holds it and every run whose tasks it reused or merged from.

    `last_time_us` is the time of the latest event that was read, `last_seq` the last one of the run's writer.
    """

    run: RunState
    runs: Mapping[bytes, RunState]
    last_time_us: int
    last_seq: int


class PlannedTask(NamedTuple):
    """A task to be reused: its place, its id in the new run, and all its event and its heirs need."""

    key: TaskKey
    task_id: str
    origin: Pathspec
    parents: tuple[tuple[str, str], ...]
    levels: tuple[Level, ...]
    item: Content | None
    payload: Payload
    table: dict[str, Ref]


class ResumePlan(NamedTuple):
    """What a resumed run takes over. `lost` is the fact about the origin that nobody has told yet.

    `items` are the foreach items of the tasks that will run below reused foreachs, `parameters` the
    origin's values, `last_time_us` the time of the latest event that was read.
    """

    origin_run_id: str
    origin_run_uid: bytes
    step: str | None
    tasks: tuple[PlannedTask, ...]
    items: dict[TaskKey, Item]
    parameters: dict[str, Content]
    last_time_us: int
    lost: Event | None

    @property
    def keys(self) -> frozenset[TaskKey]:
        return frozenset(task.key for task in self.tasks)

    def reused_in(self, run: RunRef) -> list[ReusedTask]:
        """The events that make the tasks part of `run`, in the order in which they came about."""
        return [
            ReusedTask(
                events.task_reused(
                    run.task(t.key.step, t.task_id), t.origin, t.parents, t.levels, t.item, t.payload
                ),
                t.table,
            )
            for t in self.tasks
        ]


def plan_resume(origin: Origin, graph: Graph, step: str | None) -> ResumePlan:
    """Plan to go on from `origin`, from `step` on if one is named.

    Raises: UsageError for a step the flow does not have; NotFound when a run it builds on is missing.
    """
    run = origin.run
    planner = _Planner(run, origin.runs, graph, _steps_to_rerun(graph, step))
    planner.plan()
    lost = None
    if run.status == "lost" and run.ended is None and run.writer is not None:
        lost = events.run_lost(RunRef(run.run_uid, run.flow, run.run_id), run.writer, origin.last_seq)
    return ResumePlan(
        run.run_id,
        run.run_uid,
        step,
        tuple(planner.tasks),
        planner.items,
        {name: _content(event) for name, event in run.parameters.items() if _role(event) == "parameter"},
        origin.last_time_us,
        lost,
    )


def _steps_to_rerun(graph: Graph, step: str | None) -> set[str]:
    """The step and all that follows it."""
    if step is None:
        return set()
    if step not in graph.steps:
        raise UsageError(f"{graph.name} has no step {step!r}. Its steps are: {', '.join(graph.steps)}.")
    reached, frontier = {step}, [step]
    while frontier:
        for target in graph.steps[frontier.pop()].out_steps:
            if target not in reached:
                reached.add(target)
                frontier.append(target)
    return reached


class _Planner:
    def __init__(
        self, origin: RunState, runs: Mapping[bytes, RunState], graph: Graph, rerun: set[str]
    ) -> None:
        self.tasks: list[PlannedTask] = []
        self.items: dict[TaskKey, Item] = {}
        self._origin = origin
        self._graph = graph
        self._rerun = rerun
        self._by_id = {(run.flow, run.run_id): run for run in runs.values()}
        self._by_id[origin.flow, origin.run_id] = origin
        self._new_ids: dict[tuple[str, str], str] = {}
        self._children: dict[tuple[str, str], int] = {}
        for task in origin.tasks.values():
            for parent in task.parents:
                self._children[parent] = self._children.get(parent, 0) + 1

    def plan(self) -> None:
        visits: dict[tuple[str, tuple[int, ...]], int] = {}
        for task in self._origin.tasks.values():
            if task.placed is None:
                continue
            positions = tuple(level.position for level in task.levels)
            visit = visits.get((task.step, positions), 0)
            visits[task.step, positions] = visit + 1
            key = TaskKey(task.step, positions, visit)
            item = _content(task.placed) if task.placed.digest is not None else None
            if self._is_reusable(task):
                self._reuse(task, key, item)
            elif item is not None:
                self.items[key] = Item(item, task.levels[-1].label)

    def _is_reusable(self, task: TaskState) -> bool:
        node = self._graph.steps.get(task.step)
        transition = task.transition
        if node is None or transition is None or task.status not in DONE or task.step in self._rerun:
            return False
        if any(parent not in self._new_ids for parent in task.parents):
            return False
        steps = tuple(transition.get("next", ()))
        if node.condition is not None:
            is_fitting = len(steps) == 1 and steps[0] in node.out_steps
        else:
            is_fitting = steps == node.out_steps and transition.get("foreach") == node.foreach
        is_whole = node.foreach is None or self._children.get((task.step, task.task_id), 0) >= transition.get(
            "num_splits", 0
        )
        return is_fitting and is_whole

    def _reuse(self, task: TaskState, key: TaskKey, item: Content | None) -> None:
        new_id = str(len(self.tasks) + 1)
        self._new_ids[task.step, task.task_id] = new_id
        source_run, source = self._source_of(task)
        origin = Pathspec(source_run.flow, source_run.run_id, source.step, source.task_id)
        parents = tuple((step, self._new_ids[step, task_id]) for step, task_id in task.parents)
        payload: Payload = {
            **(task.transition or {}),
            "status": "caught" if source.status == "caught" else "succeeded",
            "reason": f"finished in {origin.flow}/{origin.run_id}",
        }
        table = {name: self._ref(name, event, origin) for name, event in source.artifacts.items()}
        self.tasks.append(PlannedTask(key, new_id, origin, parents, task.levels, item, payload, table))

    def _source_of(self, task: TaskState) -> tuple[RunState, TaskState]:
        """The task that really ran, and its run."""
        origin = task.origin
        return (self._origin, task) if origin is None else self._find(origin)

    def _find(self, origin: Pathspec) -> tuple[RunState, TaskState]:
        run = self._by_id.get((origin.flow, origin.run_id or ""))
        task = None if run is None else run.tasks.get((origin.step or "", origin.task_id or ""))
        if run is None or task is None:
            raise NotFound(
                f"Task {origin}, which {self._origin.flow}/{self._origin.run_id} builds on, is not in this store. "
                "Copy the store it comes from into this one, or start a new run."
            )
        return run, task

    def _ref(self, name: str, event: Event, owner: Pathspec) -> Ref:
        if event.kind == "artifact_saved":
            return ref_of(event, owner, None)
        producer = Pathspec(
            event.producer_flow or "", event.producer_run_id, event.producer_step, event.producer_task_id
        )
        if producer.task_id is None or producer.step == "_parameters":
            raise AssertionError(f"merged {name} names no task")
        _, task = self._find(producer)
        return ref_of(task.artifacts[name], producer, None)


def _content(event: Event) -> Content:
    """What an event says of the value it carries or names."""
    placement = event.payload or {}
    pack = placement.get("pack")
    assert event.digest is not None
    return Content(
        event.digest,
        event.size_bytes or 0,
        event.type or "",
        event.serializer or "",
        event.value,
        event.value_number,
        event.blob,
        None if pack is None else bytes.fromhex(pack),
        placement.get("pack_offset", 0),
    )


def _role(event: Event) -> str:
    role: str = (event.payload or {}).get("role", "parameter")
    return role
