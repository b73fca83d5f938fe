"""A circle in what was read: nothing a run can do, but records can be damaged, made up and merged. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from weft.lineage.uses import Bundle

__all__ = ["find_cycle"]

T = TypeVar("T")


def find_cycle(bundles: Iterable[Bundle]) -> list[str]:
    """Pathspecs of tasks that were each made from the next, and the last from the first; empty without any.

    Steps are looked at first: where those make no circle, which is nearly always, tasks make none.
    A task may read what an earlier attempt of its own saved.
    """
    bundles = list(bundles)
    places = {place for bundle in bundles for place in (bundle.reader, bundle.maker)}
    steps: dict[object, set[object]] = {place: set() for place in places}
    for bundle in bundles:
        steps[bundle.reader].add(bundle.maker)
    suspect = _inside(steps)
    if not suspect:
        return []
    tasks: dict[str, set[str]] = {}
    for bundle in bundles:
        if bundle.reader in suspect and bundle.maker in suspect:
            for reader, maker, _ in bundle.pairs():
                source, target = f"{bundle.reader}/{reader}", f"{bundle.maker}/{maker}"
                if source != target:
                    tasks.setdefault(source, set()).add(target)
                    tasks.setdefault(target, set())
    left = _inside(tasks)
    if not left:
        return []
    path = [min(left)]
    while True:
        following = min(task for task in tasks[path[-1]] if task in left)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def _inside(edges: Mapping[T, set[T]]) -> set[T]:
    """What is left when everything that leads nowhere is taken away, again and again."""
    incoming: dict[T, list[T]] = {node: [] for node in edges}
    left = {node: len(targets) for node, targets in edges.items()}
    for node, targets in edges.items():
        for target in targets:
            incoming[target].append(node)
    ends = [node for node, count in left.items() if not count]
    while ends:
        node = ends.pop()
        del left[node]
        for source in incoming[node]:
            left[source] -= 1
            if not left[source]:
                ends.append(source)
    return set(left)
