"""What an earlier run left behind, place by place: finished tasks with all they depended on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from weft.lineage.events import Content, Level
from weft.lineage.ids import Pathspec
from weft.lineage.projections import RunState, TaskState
from weft.lineage.schema import Event, Payload
from weft.runtime.items import Item
from weft.runtime.keys import (
    Dependencies,
    FlowCode,
    Input,
    Sight,
    StepCode,
    dependencies,
    flow_code_of,
    pickles_among,
)
from weft.runtime.machine import TaskPlace
from weft.runtime.refs import Ref, Table, ref_of

__all__ = ["Earlier", "History", "Missing", "Origin", "Uses", "content_of", "role_of"]

#: What attempts read, by run_uid, step and task_id.
Uses = Mapping[tuple[bytes, str, str], Sequence[Event]]


class Missing(Exception):
    """What a task builds on is not in this store."""


class Origin(NamedTuple):
    """The run to go on from. `runs` holds it and every run whose tasks it reused or merged from.

    `uses` gives what attempts read, the same each time; to ask for it takes long where there are many. `last_time_us`
    is the time of the latest event that was read, `last_seq` the last one of the run's writer, if that is lost and can
    be taken over.
    """

    run: RunState
    runs: Mapping[bytes, RunState]
    uses: Callable[[], Uses]
    last_time_us: int
    last_seq: int | None


class Earlier(NamedTuple):
    """A task of the origin, and the one that really ran where it was itself reused.

    `saved` is what it saved or merged, `below` the tasks that came right after it.
    """

    task: TaskState
    source: TaskState
    source_run: RunState
    pathspec: Pathspec
    saved: dict[str, Ref]
    transition: Payload
    below: Sequence[TaskState]

    @property
    def items(self) -> list[Item]:
        """Those of its foreach, in their order."""
        found = [
            (task.levels[-1], content_of(task.placed))
            for task in self.below
            if task.placed is not None and task.placed.digest is not None
        ]
        found.sort(key=lambda placed: placed[0].position)
        return [Item(content, level.label) for level, content in found]

    @property
    def packs(self) -> set[bytes]:
        """The objects that hold the items of its foreach."""
        told = (task.placed.payload or {} for task in self.below if task.placed is not None)
        return {bytes.fromhex(payload["pack"]) for payload in told if "pack" in payload}

    @property
    def reads(self) -> Payload | None:
        """What it told of its reads as it ended, so that they can be compared at once."""
        final = self.source.final
        told = None if final is None or final.ended is None else final.ended.payload
        return None if told is None else told.get("reads")

    @property
    def duration_s(self) -> float | None:
        """How long its last attempt took."""
        final = self.source.final
        found = (
            None if final is None or final.ended is None else (final.ended.payload or {}).get("duration_s")
        )
        return None if found is None else float(found)


class _Row:
    __slots__ = ("items", "missing", "sight", "table")

    def __init__(self, sight: Sight, items: tuple[Ref, ...], missing: Missing | None) -> None:
        self.sight = sight
        self.items = items
        self.table: Table = {}
        #: Why it is not known what the task saw.
        self.missing = missing


class History:
    """The tasks of a run by their place. What they saw is worked out from the run that they really ran in."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._by_id = {(run.flow, run.run_id): run for run in origin.runs.values()}
        self._by_id[origin.run.flow, origin.run.run_id] = origin.run
        self._rows: dict[bytes, dict[tuple[str, str], _Row]] = {}
        self._codes: dict[bytes, FlowCode | None] = {}
        self._step_codes: dict[tuple[bytes, str, str], StepCode | None] = {}
        self._levels: dict[tuple[str, str], tuple[Level, ...]] = {}
        self._below: dict[tuple[str, str], list[TaskState]] = {}
        self._saved_by: dict[tuple[bytes, str, str], dict[str, Ref]] = {}
        self._earlier: dict[tuple[str, str], Earlier] = {}
        #: In the order in which they came about.
        self.places: dict[TaskPlace, TaskState] = {}
        visits: dict[tuple[str, tuple[int, ...]], int] = {}
        for task in origin.run.tasks.values():
            for parent in task.parents:
                self._below.setdefault(parent, []).append(task)
            if task.placed is not None:
                levels = self._levels[task.step, task.task_id] = task.levels
                positions = tuple(level.position for level in levels)
                visit = visits.get((task.step, positions), 0)
                visits[task.step, positions] = visit + 1
                self.places[TaskPlace(task.step, positions, visit)] = task

    def earlier(self, place: TaskPlace) -> Earlier | None:
        """The task that stood at a place. Raises: Missing."""
        task = self.places.get(place)
        return None if task is None else self.earlier_of(task)

    def earlier_of(self, task: TaskState) -> Earlier:
        """A task of the origin with what it left behind. Raises: Missing."""
        key = (task.step, task.task_id)
        found = self._earlier.get(key)
        if found is None:
            run, source = self._source_of(self.origin.run, task)
            pathspec = Pathspec(run.flow, run.run_id, source.step, source.task_id)
            found = self._earlier[key] = Earlier(
                task,
                source,
                run,
                pathspec,
                self._saved(run, source),
                task.transition or {},
                self._below.get(key, ()),
            )
        return found

    def pickles_of(self, earlier: Earlier) -> str:
        """What the pickles that the task read have to do with the code, as `pickles_among` tells it."""
        reads = earlier.reads
        if reads is None:
            return pickles_among(self._uses_of(earlier))[0]
        pickles: str = reads["shape"][0]
        return pickles

    def code_of(self, earlier: Earlier) -> StepCode | None:
        """The code that the task depended on; None where that was not recorded."""
        key = (earlier.source_run.run_uid, earlier.source.step, self.pickles_of(earlier))
        if key not in self._step_codes:
            code = self.flow_code(earlier.source_run)
            self._step_codes[key] = None if code is None else code.with_pickles(*key[1:])
        return self._step_codes[key]

    def depends_on(self, earlier: Earlier) -> Dependencies:
        """What the task depended on. Raises: Missing."""
        rows = self._rows.get(earlier.source_run.run_uid) or self._rows_of(earlier.source_run)
        row = rows[earlier.source.step, earlier.source.task_id]
        if row.missing is not None:
            raise row.missing
        merged = [e for e in earlier.source.artifacts.values() if e.kind == "artifact_merged"]
        told = [*self._uses_of(earlier), *merged]
        return dependencies(told, row.sight, self.code_of(earlier), self._path_uses(earlier.source_run))

    def flow_code(self, run: RunState) -> FlowCode | None:
        if run.run_uid not in self._codes:
            payload = None if run.reached is None else run.reached.payload
            self._codes[run.run_uid] = flow_code_of(payload) if payload and "steps" in payload else None
        return self._codes[run.run_uid]

    def _uses_of(self, earlier: Earlier) -> Sequence[Event]:
        """What the task's last attempt read."""
        source = earlier.source
        told = self.origin.uses().get((earlier.source_run.run_uid, source.step, source.task_id), ())
        final = source.final_attempt
        return [event for event in told if event.attempt == final]

    def _path_uses(self, run: RunState) -> Sequence[Event]:
        return self.origin.uses().get((run.run_uid, "_parameters", "0"), ())

    def _source_of(self, run: RunState, task: TaskState) -> tuple[RunState, TaskState]:
        """The task that really ran, and its run."""
        return (run, task) if task.origin is None else self._find(task.origin)

    def _find(self, pathspec: Pathspec) -> tuple[RunState, TaskState]:
        run = self._by_id.get((pathspec.flow, pathspec.run_id or ""))
        task = None if run is None else run.tasks.get((pathspec.step or "", pathspec.task_id or ""))
        if run is None or task is None:
            raise Missing(f"task {pathspec} is not in this store")
        return run, task

    # What the tasks of a run saw

    def _rows_of(self, run: RunState) -> dict[tuple[str, str], _Row]:
        if run.run_uid not in self._rows:
            rows = self._rows[run.run_uid] = {}
            parameters = {name: e.digest for name, e in run.parameters.items() if e.digest is not None}
            for key, task in run.tasks.items():
                if task.placed is not None:
                    levels = self._levels[key] if run is self.origin.run else task.levels
                    rows[key] = self._row(run, task, levels, rows, parameters)
        return self._rows[run.run_uid]

    def _row(
        self,
        run: RunState,
        task: TaskState,
        levels: tuple[Level, ...],
        rows: dict[tuple[str, str], _Row],
        parameters: Mapping[str, bytes],
    ) -> _Row:
        parents = [(run.tasks[key], rows[key]) for key in task.parents if key in rows]
        items = self._items(run, task, levels, parents)
        is_join = len(parents) > 1 or any(len(row.sight.levels) > len(levels) for _, row in parents)
        if is_join:
            inputs = tuple(Input(p.step, row.sight.levels, row.items, row.table) for p, row in parents)
            sight = Sight(parameters, levels, items, {}, inputs)
        else:
            sight = Sight(parameters, levels, items, parents[0][1].table if parents else {})
        row = _Row(sight, items, next((p.missing for _, p in parents if p.missing is not None), None))
        try:
            saved = self._saved(*self._source_of(run, task))
        except Missing as missing:
            row.missing = row.missing or missing
            saved = {}
        row.table = {**sight.table, **saved} if saved else sight.table
        return row

    def _items(
        self, run: RunState, task: TaskState, levels: tuple[Level, ...], parents: list[tuple[TaskState, _Row]]
    ) -> tuple[Ref, ...]:
        items = parents[0][1].items[: len(levels)] if parents else ()
        placed = task.placed
        if placed is not None and placed.digest is not None and len(items) < len(levels) and parents:
            split, row = parents[0]
            listed = row.table.get(levels[-1].var)
            producer = Pathspec(run.flow, run.run_id, split.step, split.task_id)
            items = (*items, ref_of(placed, listed.producer if listed is not None else producer, None))
        return items

    def _saved(self, run: RunState, task: TaskState) -> dict[str, Ref]:
        key = (run.run_uid, task.step, task.task_id)
        found = self._saved_by.get(key)
        if found is None:
            owner = Pathspec(run.flow, run.run_id, task.step, task.task_id)
            found = {name: self._ref(name, event, owner) for name, event in task.artifacts.items()}
            self._saved_by[key] = found
        return found

    def _ref(self, name: str, event: Event, owner: Pathspec) -> Ref:
        if event.kind == "artifact_saved":
            return ref_of(event, owner, None)
        producer = Pathspec(
            event.producer_flow or "", event.producer_run_id, event.producer_step, event.producer_task_id
        )
        if producer.task_id is None or producer.step == "_parameters":
            raise AssertionError(f"merged {name} names no task")
        _, task = self._find(producer)
        found = task.artifacts.get(name)
        if found is None or found.kind != "artifact_saved":
            raise Missing(f"{producer}/{name} is not in this store")
        return ref_of(found, producer, None)


def role_of(event: Event) -> str:
    """What a recorded value of a run is: a parameter, a constant or a config."""
    role: str = (event.payload or {}).get("role", "parameter")
    return role


def content_of(event: Event) -> Content:
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
