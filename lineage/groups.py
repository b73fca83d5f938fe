"""Nodes that differ by their task only, as one: how ten thousand tasks of a foreach become one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.sides import External

if TYPE_CHECKING:
    from weft.lineage.edges import Graph
    from weft.lineage.uses import Place

__all__ = ["Group", "groups_of", "in_order"]

_IDS_LISTED_MAX = 3


class Group(NamedTuple):
    """Tasks of one step of a run, or their artifacts of one name; or one thing that is external."""

    kind: str
    place: Place | None
    name: str | None
    ids: frozenset[str]
    external: External | None = None

    def members(self) -> list[tuple[Any, ...]]:
        """The keys of its nodes."""
        if self.external is not None:
            return [self.external]
        ending = () if self.name is None else (self.name,)
        return [(self.place, task_id, *ending) for task_id in in_order(self.ids)]

    def named(self) -> str:
        """Its first ids: `2,3,4,…`."""
        return ",".join(self.first_ids()) + (",…" if len(self.ids) > _IDS_LISTED_MAX else "")

    def first_ids(self) -> list[str]:
        import heapq

        return heapq.nsmallest(_IDS_LISTED_MAX, self.ids, key=lambda text: (len(text), text))

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        if self.external is not None or self.place is None:
            return {"kind": self.kind, "name": self.external and self.external.id, "count": 1}
        fields = {**self.place._asdict(), "name": self.name, "count": len(self.ids)}
        return {"kind": self.kind, **fields, "task_ids": self.first_ids()}


def groups_of(graph: Graph) -> list[Group]:
    """All nodes of a graph, folded; steps in the order in which they were come upon."""
    found: dict[tuple[str, Any, str | None], set[str]] = {}
    externals: dict[External, None] = {}
    for side in graph.sides.values():
        side.complete()
        for (place, name), ids in side.artifacts.items():
            found.setdefault(("artifact", place, name), set()).update(ids)
        for place, tasks in side.tasks.items():
            found.setdefault(("task", place, None), set()).update(tasks)
        externals.update(dict.fromkeys(side.externals))
    groups = [Group(*key, frozenset(ids)) for key, ids in found.items() if ids]
    return groups + [Group("external", None, None, frozenset(), external) for external in externals]


def in_order(ids: Iterable[str]) -> list[str]:
    """Task ids as people count."""
    return sorted(ids, key=lambda text: (len(text), text))
