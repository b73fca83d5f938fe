"""The lineage graph: which task read which artifact, and which task made it.

Edges are `used` (a task read an artifact or something outside the store) and `generated_by` (an artifact, or
something outside, was written by a task). They come from what was recorded, never from names that are
alike. Inheritance and `merge_artifacts` pass artifacts on by reference and make no edges: an artifact is
always that of the task that saved it. A reused task is the task it stands for. Walking down finds the reads
whose recorded producer saved the artifact, as workers record it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.records import Records
from weft.lineage.targets import find_roots

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["Edge", "Graph", "Node", "trace"]


class Node(NamedTuple):
    """A task, an artifact or something external. `id` is the pathspec, or the URI of something external."""

    id: str
    kind: str
    flow: str | None = None
    run_id: str | None = None
    step: str | None = None
    task_id: str | None = None
    name: str | None = None
    digest: str | None = None
    type: str | None = None
    value: str | None = None
    status: str | None = None

    @property
    def task(self) -> str | None:
        """The pathspec of the task this is, or whose artifact this is."""
        if self.flow is None:
            return None
        return f"{self.flow}/{self.run_id}/{self.step}/{self.task_id}"


class Edge(NamedTuple):
    """`used` goes from a task to what it read, `generated_by` from what was written to the task.

    `item_index` is the item of a foreach list that was read, where it was one.
    """

    kind: str
    source: str
    target: str
    item_index: int | None = None


class Graph:
    """What was found from `roots` in `direction` ("up", "down" or "both")."""

    def __init__(self, target: str, direction: str) -> None:
        self.target = target
        self.direction = direction
        self.roots: list[str] = []
        self.nodes: dict[str, Node] = {}
        #: How many tasks lie between a node and the nearest root, itself included if it is one.
        self.depths: dict[str, int] = {}
        self.edges: list[Edge] = []
        self._known: set[Edge] = set()

    def add(self, node: Node, depth: int) -> bool:
        """Whether the node is new."""
        if node.id in self.nodes:
            return False
        self.nodes[node.id] = node
        self.depths[node.id] = depth
        return True

    def connect(self, edge: Edge) -> None:
        if edge not in self._known:
            self._known.add(edge)
            self.edges.append(edge)

    def with_depth(self) -> Iterator[tuple[int, Node]]:
        """Every node with its depth, roots first."""
        for identity, node in sorted(self.nodes.items(), key=lambda item: self.depths[item[0]]):
            yield self.depths[identity], node

    def document(self) -> dict[str, Any]:
        """The graph as plain JSON values."""
        return {
            "target": self.target,
            "direction": self.direction,
            "roots": self.roots,
            "nodes": [{"depth": depth, **node._asdict()} for depth, node in self.with_depth()],
            "edges": [edge._asdict() for edge in self.edges],
        }

    def tree(self) -> str:
        """Text for people: an artifact a line, below it what it was made from (or what was made from it)."""
        from weft.lineage.drawing import draw_tree

        return draw_tree(self)

    def json(self) -> str:
        import json

        return json.dumps(self.document(), ensure_ascii=False, indent=2)

    def dot(self) -> str:
        """For Graphviz."""
        from weft.lineage.drawing import draw_dot

        return draw_dot(self)

    def mermaid(self) -> str:
        """For Markdown."""
        from weft.lineage.drawing import draw_mermaid

        return draw_mermaid(self)

    def __repr__(self) -> str:
        return f"<Graph of {self.target}: {len(self.nodes)} nodes, {len(self.edges)} edges>"

    def __str__(self) -> str:
        return self.tree()

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.tree())}</pre>"


def trace(store: Answers, target: str, direction: str = "up", depth: int | None = None) -> Graph:
    """Walk from `target`; see `Store.lineage`. Each level asks for the rows of whole runs, never for a task's.

    Raises: NotFound, UsageError.
    """
    from weft.lineage.errors import UsageError

    if direction not in ("up", "down", "both"):
        raise UsageError(f"{direction!r} is no direction. Give up, down or both.")
    if depth is not None and depth < 0:
        raise UsageError(f"A depth of {depth} means nothing. Give 0 or more.")
    walk = _Walk(store, Graph(target, direction), depth)
    roots = find_roots(store, walk.records, target, direction)
    for task, name in roots.artifacts:
        walk.root(walk.artifact(task, name))
    for task in roots.tasks:
        walk.root(walk.task(task))
    for uri in roots.uris:
        walk.root(Node(uri, "external"))
    if direction != "down":
        walk.up()
    if direction != "up":
        walk.down()
    return walk.graph


class _Walk:
    """One walk, level by level."""

    def __init__(self, store: Answers, graph: Graph, depth: int | None) -> None:
        self.records = Records(store)
        self.graph = graph
        self._depth = depth

    def root(self, node: Node) -> None:
        if self.graph.add(node, 0):
            self.graph.roots.append(node.id)

    def artifact(self, task: str, name: str) -> Node:
        """The node of an artifact that `task` saved."""
        flow, run_id, step, task_id = task.split("/")
        saved = self.records.saved(task).get(name)
        digest, type_name, value = (None, None, None) if saved is None else saved
        return Node(f"{task}/{name}", "artifact", flow, run_id, step, task_id, name, digest, type_name, value)

    def task(self, task: str) -> Node:
        flow, run_id, step, task_id = task.split("/")
        return Node(task, "task", flow, run_id, step, task_id, status=self.records.status(task))

    def up(self) -> None:
        frontier = [self.graph.nodes[root] for root in self.graph.roots]
        depth = 0
        while frontier and (self._depth is None or depth < self._depth):
            depth += 1
            frontier = self._level_up(frontier, depth)

    def down(self) -> None:
        frontier = [self.graph.nodes[root] for root in self.graph.roots]
        depth = 0
        while frontier and (self._depth is None or depth < self._depth):
            depth += 1
            frontier = self._level_down(frontier, depth)

    def _level_up(self, frontier: list[Node], depth: int) -> list[Node]:
        """The makers of these nodes, and what they read."""
        self.records.load(node.task for node in frontier)
        makers: dict[str, None] = {}
        for node in frontier:
            is_external = node.kind == "external"
            tasks = self.records.external(node.id, "write") if is_external else [node.task or ""]
            for task in tasks:
                if not task.endswith("/_parameters/0"):
                    makers.setdefault(task)
                    if node.id != task:
                        self.graph.connect(Edge("generated_by", node.id, task))
        self.records.load(makers)
        found = []
        reads = {task: self.records.reads(task) for task in makers}
        self.records.load(read.producer for listed in reads.values() for read in listed)
        for task, listed in reads.items():
            self.graph.add(self.task(task), depth)
            for read in listed:
                owner = self.records.owner(read.producer, read.name)
                node = self.artifact(owner, read.name)
                self.graph.connect(Edge("used", task, node.id, read.item_index))
                if self.graph.add(node, depth):
                    found.append(node)
            for uri, way in self.records.touched(task):
                if way == "read":
                    node = Node(uri, "external")
                    self.graph.connect(Edge("used", task, uri))
                    if self.graph.add(node, depth):
                        found.append(node)
        return found

    def _level_down(self, frontier: list[Node], depth: int) -> list[Node]:
        """The tasks that read these nodes, and what they wrote."""
        readers = {node.id: None for node in frontier if node.kind == "task"}
        for node in frontier:
            if node.kind == "external":
                for task in self.records.external(node.id, "read"):
                    readers.setdefault(task)
                    self.graph.connect(Edge("used", task, node.id))
        artifacts = {(node.task or "", node.name or "") for node in frontier if node.kind == "artifact"}
        for task, owner, name, item_index in self._readers(artifacts):
            readers.setdefault(task)
            self.graph.connect(Edge("used", task, f"{owner}/{name}", item_index))
        self.records.load(readers)
        found = []
        for task in readers:
            self.graph.add(self.task(task), depth)
            for name in self.records.saved(task):
                node = self.artifact(task, name)
                self.graph.connect(Edge("generated_by", node.id, task))
                if self.graph.add(node, depth):
                    found.append(node)
            for uri, way in self.records.touched(task):
                if way == "write":
                    node = Node(uri, "external")
                    self.graph.connect(Edge("generated_by", uri, task))
                    if self.graph.add(node, depth):
                        found.append(node)
        return found

    def _readers(self, artifacts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str, int | None]]:
        """(reading task, owner, name, item index) of the reads of these artifacts, in any run."""
        wanted = set(artifacts)
        rows = self.records.readers({task for task, _ in wanted})
        self.records.load(producer for _, producer, _, _ in rows)
        for task, producer, name, item_index in rows:
            owner = self.records.owner(producer, name)
            if (owner, name) in wanted:
                yield task, owner, name, item_index
