"""What a walk in one direction found, kept as sets of tasks by step and bundles of edges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from weft.lineage.same import Twin
    from weft.lineage.uses import Bundle, Place, Touch, Uses

__all__ = ["External", "Side"]

_DIGITS_SHOWN = 12


class External(NamedTuple):
    """Something outside the store with one content: a file that has changed is another one.

    `content` is the digest, or a text that stands for it, or None where nothing is known of it.
    """

    uri: str
    content: bytes | str | None

    @property
    def id(self) -> str:
        if self.content is None:
            return self.uri
        known = self.content
        return f"{self.uri}@" + (
            f"sha256:{known.hex()[:_DIGITS_SHOWN]}" if isinstance(known, bytes) else known
        )

    def is_that_of(self, touch: Touch) -> bool:
        """Whether a touch may have been of this: what is not known of a content may be any."""
        content = touch.content
        return self.uri == touch.uri and (content is None or self.content is None or content == self.content)


class Side:
    """The nodes and edges found in one direction from the roots, each node with its depth.

    A node is named by a key: a task (place, id), an artifact (place, id, name), or something external.
    """

    def __init__(self, uses: Uses, direction: str) -> None:
        self.direction = direction
        self.roots: list[tuple[Any, ...]] = []
        self.tasks: dict[Place, dict[str, int]] = {}
        #: Ids of the tasks that saved an artifact, by their place and its name.
        self.artifacts: dict[tuple[Place, str], dict[str, int]] = {}
        self.externals: dict[External, int] = {}
        self.sizes: dict[External, int] = {}
        self.bundles: list[Bundle] = []
        self.reads: list[tuple[Touch, External]] = []
        self.writes: list[tuple[Touch, External]] = []
        #: Equal contents that were followed.
        self.same: list[Twin] = []
        self._uses = uses
        self._expanded: dict[Place, set[str]] = {}
        self._completed: dict[Place, set[str]] = {}
        self._bundles_completed = 0

    def root_ids(self) -> list[str]:
        return [key.id if isinstance(key, External) else "/".join(map(str, key)) for key in self.roots]

    def expand(self, tasks: dict[Place, set[str]], depth: int) -> dict[Place, set[str]]:
        """Add tasks; those that were not expanded before."""
        fresh = {}
        for place, ids in tasks.items():
            known = self._expanded.setdefault(place, set())
            new = ids - known if known else set(ids)
            if new:
                known |= new
                depths = self.tasks.setdefault(place, {})
                for task_id in new:
                    depths.setdefault(task_id, depth)
                fresh[place] = new
        return fresh

    def add_artifacts(self, place: Place, name: str, ids: Iterable[str], depth: int) -> set[str]:
        """Add the artifacts of one name of several tasks; the ids of those that are new."""
        known = self.artifacts.setdefault((place, name), {})
        fresh = set(ids) - known.keys() if known else set(ids)
        known.update(dict.fromkeys(fresh, depth))
        return fresh

    def add_external(self, external: External, size_bytes: int | None, depth: int) -> bool:
        """Whether it is new."""
        if size_bytes is not None:
            self.sizes[external] = size_bytes
        if external in self.externals:
            return False
        self.externals[external] = depth
        return True

    def complete(self) -> None:
        """Add what the tasks found on the way down have saved: the walk itself need not know."""
        if self.direction == "up":
            return
        for place, tasks in list(self.tasks.items()):
            done = self._completed.setdefault(place, set())
            left = tasks.keys() - done
            if left:
                done |= left
                for name, ids in self._uses.saved_by(place, left):
                    self._add_saved(place, name, ids)
        for bundle in self.bundles[self._bundles_completed :]:
            self._add_saved(bundle.maker, bundle.name, bundle.makers)
        self._bundles_completed = len(self.bundles)

    def _add_saved(self, place: Place, name: str, ids: Iterable[str]) -> None:
        tasks = self.tasks.get(place, {})
        known = self.artifacts.setdefault((place, name), {})
        for task_id in set(ids) - known.keys():
            known[task_id] = tasks.get(task_id, 0)

    def depths(self) -> Iterator[tuple[tuple[Any, ...], int]]:
        """(key, depth) of every node."""
        self.complete()
        for (place, name), ids in self.artifacts.items():
            for task_id, depth in ids.items():
                yield (place, task_id, name), depth
        for place, tasks in self.tasks.items():
            for task_id, depth in tasks.items():
                yield (place, task_id), depth
        yield from self.externals.items()

    def generated(self) -> Iterator[tuple[Place, str, str]]:
        """(place, name, task) of the artifacts whose task was found."""
        self.complete()
        for (place, name), ids in self.artifacts.items():
            tasks = self.tasks.get(place, {})
            for task_id in ids:
                if task_id in tasks:
                    yield place, name, task_id

    def edge_count(self) -> int:
        counted = sum(bundle.width for bundle in self.bundles) + len(self.reads) + len(self.writes)
        return counted + sum(1 for _ in self.generated())
