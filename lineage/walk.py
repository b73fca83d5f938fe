"""The walk over recorded reads, level by level: up to what something was made from, down to what was made from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from weft.lineage.details import Details
from weft.lineage.edges import Graph
from weft.lineage.errors import UsageError
from weft.lineage.records import PARAMETERS
from weft.lineage.same import Twin, find_twins
from weft.lineage.sides import External, Side
from weft.lineage.targets import Roots, find_roots
from weft.lineage.uses import Place, Touch, Uses

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["trace"]

#: The families of events that a walk reads; those of tasks come with every run.
_FAMILIES = ("use", "artifact")

_PARAMETERS_STEP, _PARAMETERS_TASK = PARAMETERS.split("/")


def trace(
    store: Answers,
    target: str,
    direction: str = "up",
    depth: int | None = None,
    same_content: bool = False,
) -> Graph:
    """Walk from `target`; see `Store.lineage`. Each level asks for whole runs, all new ones at once.

    Raises: NotFound, UsageError.
    """
    if direction not in ("up", "down", "both"):
        raise UsageError(f"{direction!r} is no direction. Give up, down or both.")
    if depth is not None and depth < 0:
        raise UsageError(f"A depth of {depth} means nothing. Give 0 or more.")
    uses = Uses(store)
    details = Details(store, uses)
    sides = {}
    store.foresee(_runs_in(target), (), later=_FAMILIES)
    for way in ("up", "down") if direction == "both" else (direction,):
        roots = find_roots(store, target, way)
        places = [*(root[0] for root in roots.artifacts), *(root[0] for root in roots.tasks)]
        store.foresee({(place.flow, place.run_id) for place in places}, _FAMILIES)
        walk = _Walk(uses, details, Side(uses, way), depth, same_content)
        (walk.up if way == "up" else walk.down)(roots)
        sides[way] = walk.side
    return Graph(target, direction, sides, details)


def _runs_in(target: str) -> list[tuple[str, str]]:
    """The run that a target seems to name; to be wrong costs a look for its files."""
    flow, _, rest = target.partition("/")
    run_id = rest.partition("/")[0]
    return [(flow, run_id)] if flow and run_id else []


class _Frontier:
    """Where the next level begins: tasks, artifacts of one name, and what is external.

    `doers` are root tasks, whose own artifacts come first on the way down.
    """

    def __init__(self) -> None:
        self.doers: dict[Place, set[str]] = {}
        self.tasks: dict[Place, set[str]] = {}
        self.artifacts: dict[tuple[Place, str], set[str]] = {}
        self.externals: list[External] = []

    def __bool__(self) -> bool:
        return bool(self.doers or self.tasks or self.artifacts or self.externals)

    def add_task(self, place: Place, ids: Iterable[str]) -> None:
        self.tasks.setdefault(place, set()).update(ids)

    def add_artifact(self, place: Place, name: str, ids: Iterable[str]) -> None:
        self.artifacts.setdefault((place, name), set()).update(ids)


class _Walk:
    """One walk in one direction."""

    def __init__(
        self, uses: Uses, details: Details, side: Side, depth_max: int | None, follows_same: bool
    ) -> None:
        self.side = side
        self._uses = uses
        self._details = details
        self._depth_max = depth_max
        self._follows_same = follows_same

    def up(self, roots: Roots) -> None:
        frontier, depth = self._begin(roots), 0
        self._from_parameters(frontier, depth)
        while frontier and (self._depth_max is None or depth < self._depth_max):
            depth += 1
            frontier = self._level_up(frontier, depth)
            self._from_parameters(frontier, depth)
            self._follow_same(frontier, depth)

    def down(self, roots: Roots) -> None:
        frontier, depth = self._begin(roots), 0
        while frontier and (self._depth_max is None or depth < self._depth_max):
            depth += 1
            frontier = self._level_down(frontier, depth)
            self._follow_same(frontier, depth)

    def _begin(self, roots: Roots) -> _Frontier:
        frontier = _Frontier()
        side = self.side
        side.roots = list(dict.fromkeys((*roots.artifacts, *roots.tasks, *roots.externals)))
        for place, task_id, name in roots.artifacts:
            side.add_artifacts(place, name, [task_id], 0)
            frontier.add_artifact(place, name, [task_id])
        for place, task_id in roots.tasks:
            side.tasks.setdefault(place, {}).setdefault(task_id, 0)
            frontier.doers.setdefault(place, set()).add(task_id)
        for external in roots.externals:
            side.add_external(external, None, 0)
            frontier.externals.append(external)
        self._follow_same(frontier, 0)
        return frontier

    def _level_up(self, frontier: _Frontier, depth: int) -> _Frontier:
        """The makers of the frontier, and what they read."""
        side, uses, following = self.side, self._uses, _Frontier()
        makers = frontier.doers
        for (place, _), ids in frontier.artifacts.items():
            if place.step != _PARAMETERS_STEP:
                makers.setdefault(place, set()).update(ids)
        for touch in uses.touches_of((external.uri for external in frontier.externals), "write"):
            for external in frontier.externals:
                if external.is_that_of(touch):
                    side.writes.append((touch, external))
                    makers.setdefault(touch.place, set()).add(touch.task_id)
        fresh = side.expand(makers, depth)
        uses.load((place.flow, place.run_id) for place in fresh)
        for place, ids in fresh.items():
            for bundle in uses.read_by(place, ids):
                side.bundles.append(bundle)
                new = side.add_artifacts(bundle.maker, bundle.name, bundle.makers, depth)
                if new:
                    following.add_artifact(bundle.maker, bundle.name, new)
            for touch in uses.touched_by(place, ids):
                if touch.direction == "read":
                    self._note_read(touch, following, depth)
        return following

    def _from_parameters(self, frontier: _Frontier, depth: int) -> None:
        """The files whose paths are in parameters of the frontier."""
        found = {place for place, _ in frontier.artifacts if place.step == _PARAMETERS_STEP}
        self._uses.load((place.flow, place.run_id) for place in found)
        for place in found:
            for touch in self._uses.touched_by(place, {_PARAMETERS_TASK}):
                if touch.parameter is not None and (place, touch.parameter) in frontier.artifacts:
                    self._note_read(touch, frontier, depth)

    def _note_read(self, touch: Touch, frontier: _Frontier, depth: int) -> None:
        external = External(touch.uri, touch.content)
        self.side.reads.append((touch, external))
        if self.side.add_external(external, touch.size_bytes, depth):
            frontier.externals.append(external)

    def _level_down(self, frontier: _Frontier, depth: int) -> _Frontier:
        """The tasks that read the frontier, and what they wrote outside; what they saved is read by the next level."""
        side, uses, following = self.side, self._uses, _Frontier()
        doers = frontier.doers
        for place, ids in self._readers(frontier).items():
            doers.setdefault(place, set()).update(ids)
        for touch in uses.touches_of((external.uri for external in frontier.externals), "read"):
            for external in frontier.externals:
                if not external.is_that_of(touch):
                    continue
                side.reads.append((touch, external))
                if touch.parameter is None:
                    doers.setdefault(touch.place, set()).add(touch.task_id)
                elif side.add_artifacts(touch.place, touch.parameter, [touch.task_id], depth):
                    following.add_artifact(touch.place, touch.parameter, [touch.task_id])
        fresh = side.expand(doers, depth)
        uses.load((place.flow, place.run_id) for place in fresh)
        for place, ids in fresh.items():
            following.add_task(place, ids)
            for touch in uses.touched_by(place, ids):
                if touch.direction == "write":
                    external = External(touch.uri, touch.content)
                    side.writes.append((touch, external))
                    if side.add_external(external, touch.size_bytes, depth):
                        following.externals.append(external)
        return following

    def _readers(self, frontier: _Frontier) -> dict[Place, set[str]]:
        """The tasks that read what the frontier's tasks saved, and its artifacts."""
        wanted: list[tuple[Place, str | None, set[str]]] = [
            *((place, None, ids) for place, ids in frontier.tasks.items()),
            *((place, name, ids) for (place, name), ids in frontier.artifacts.items()),
        ]
        self._uses.load_readers((place.flow, place.run_id) for place, _, _ in wanted)
        readers: dict[Place, set[str]] = {}
        for place, name, ids in wanted:
            for bundle in self._uses.readers_of(place, ids, name):
                self.side.bundles.append(bundle)
                readers.setdefault(bundle.reader, set()).update(bundle.readers)
        return readers

    def _follow_same(self, frontier: _Frontier, depth: int) -> None:
        """Where that was asked for: go on from what has the content of something in the frontier as well."""
        if not self._follows_same:
            return
        side = self.side
        keys: list[tuple[Any, ...]] = [
            (place, task_id, name) for (place, name), ids in frontier.artifacts.items() for task_id in ids
        ]
        if side.direction == "down":
            side.complete()
            keys += [
                (place, task_id, name)
                for (place, name), ids in side.artifacts.items()
                for task_id in frontier.tasks.get(place, set()).intersection(ids)
            ]
        for twin in find_twins(self._details, [*keys, *frontier.externals]):
            side.same.append(twin)
            self._enter(twin, frontier, depth)

    def _enter(self, twin: Twin, frontier: _Frontier, depth: int) -> None:
        key = twin.key
        if isinstance(key, External):
            if self.side.add_external(key, twin.size_bytes, depth):
                frontier.externals.append(key)
            return
        place, task_id, name = key
        if self.side.add_artifacts(place, name, [task_id], depth):
            frontier.add_artifact(place, name, [task_id])
