"""The lineage graph: which task read which artifact, and which task made it.

Edges are `used` (a task read an artifact or something outside the store), `generated_by` (an artifact, or
something outside, was written by a task) and `same_content` (equal bytes in places that never heard of each
other). They come from what was recorded, never from names that are alike. Inheritance and `merge_artifacts`
pass artifacts on by reference and make no edges: an artifact is always that of the task that saved it. A
reused task is the task it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.details import Details, Fact
from weft.lineage.sides import External, Side
from weft.lineage.uses import Place

if TYPE_CHECKING:
    from weft.lineage.same import Twin

__all__ = ["Edge", "Graph", "Node"]


class Node(NamedTuple):
    """A task, an artifact or something external.

    `id` is the pathspec; of something external the URI, with what tells its content apart after an `@`.
    `name` is the artifact's name, or the URI.
    """

    id: str
    kind: str
    flow: str | None = None
    run_id: str | None = None
    step: str | None = None
    task_id: str | None = None
    name: str | None = None
    digest: str | None = None
    size_bytes: int | None = None
    type: str | None = None
    value: str | None = None
    status: str | None = None


class Edge(NamedTuple):
    """`used` goes from a task to what it read, `generated_by` from what was written to the task.

    `item_index` is the item of a foreach list that was read, where it was one. A parameter that holds a
    path stands for the task in `used`: only what read that parameter depends on the file.
    """

    kind: str
    source: str
    target: str
    item_index: int | None = None


class Graph:
    """What was found from `roots` in `direction` ("up", "down" or "both").

    A graph of a hundred thousand edges is a few bundles of them until somebody looks at each.
    """

    def __init__(self, target: str, direction: str, sides: dict[str, Side], details: Details) -> None:
        self.target = target
        self.direction = direction
        #: The walk in each direction that was asked for.
        self.sides = sides
        self.details = details

    @property
    def roots(self) -> list[str]:
        return list(dict.fromkeys(root for side in self.sides.values() for root in side.root_ids()))

    @cached_property
    def nodes(self) -> Any:
        """An Arrow table of the nodes: the fields of `Node`, and `depth`.

        `depth` is how many tasks lie between a node and the nearest root, itself included if it is one;
        NULL for what is only the same content as a node.
        """
        import pyarrow as pa

        kinds = {"depth": pa.int64(), "size_bytes": pa.int64()}
        schema = pa.schema([(name, kinds.get(name, pa.string())) for name in ("depth", *Node._fields)])
        rows = [{"depth": depth, **node._asdict()} for depth, node in self.with_depth()]
        return pa.Table.from_pylist(rows, schema=schema)

    @cached_property
    def edges(self) -> Any:
        """An Arrow table of the edges: the fields of `Edge`."""
        import pyarrow as pa

        schema = pa.schema(
            [(name, pa.int64() if name == "item_index" else pa.string()) for name in Edge._fields]
        )
        columns = zip(*self.links(), strict=True) if self.links() else ((),) * len(Edge._fields)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)

    def with_depth(self) -> Iterator[tuple[int | None, Node]]:
        """Every node with its depth, roots first; last those that are the same content as one of them."""
        depths: dict[tuple[Any, ...], int] = {}
        for side in self.sides.values():
            for key, depth in side.depths():
                depths[key] = min(depth, depths.get(key, depth))
        sizes = {key: size for side in self.sides.values() for key, size in side.sizes.items()}
        facts = self.details.facts(depths)
        for key, depth in sorted(depths.items(), key=_in_order):
            fact = Fact(size_bytes=sizes.get(key)) if isinstance(key, External) else facts.get(key)
            yield depth, _node_of(key, fact)
        for twin in self._others(depths):
            yield None, _node_of(twin.key, Fact(twin.digest, twin.size_bytes))

    def links(self) -> list[Edge]:
        """Every edge, each once, by kind and ends."""
        found: dict[Edge, None] = {}
        for side in self.sides.values():
            for bundle in side.bundles:
                for reader, maker, item in bundle.pairs():
                    source = f"{bundle.reader}/{reader}"
                    found[Edge("used", source, f"{bundle.maker}/{maker}/{bundle.name}", item)] = None
            for touch, external in side.reads:
                source = f"{touch.place}/{touch.task_id}" + (f"/{touch.parameter}" if touch.parameter else "")
                found[Edge("used", source, external.id)] = None
            for place, name, task in side.generated():
                found[Edge("generated_by", f"{place}/{task}/{name}", f"{place}/{task}")] = None
            for touch, external in side.writes:
                found[Edge("generated_by", external.id, f"{touch.place}/{touch.task_id}")] = None
        for twin in self.same:
            found[Edge("same_content", _id_of(twin.of), _id_of(twin.key))] = None
        return sorted(found, key=_in_order_of_ends)

    @cached_property
    def same(self) -> list[Twin]:
        """Equal contents recorded elsewhere, of the roots and of what is external; of all that was walked
        through where the walk was to follow them."""
        from weft.lineage.same import twins_of

        followed = [twin for side in self.sides.values() for twin in side.same]
        return list(dict.fromkeys([*followed, *twins_of(self.details, self.sides.values())]))

    def _others(self, known: dict[tuple[Any, ...], int]) -> list[Twin]:
        """One for each place that has the content of a node and is none itself."""
        return list({twin.key: twin for twin in self.same if twin.key not in known}.values())

    def cycle(self) -> list[str]:
        """Tasks that were each made from the next, and the last from the first; empty where all is well.

        No run can make one: it takes records that were damaged or made up, merged with others.
        """
        from weft.lineage.cycles import find_cycle

        return find_cycle([bundle for side in self.sides.values() for bundle in side.bundles])

    def radius(self) -> dict[str, int]:
        """How much was found: `artifacts`, `tasks`, `externals`, `runs`, `flows`; the roots do not count, and
        in both directions only what was made from them does.

        `reusing_runs` are runs that reuse a task of these and are none of them.
        """
        from weft.lineage.radius import radius_of

        return radius_of(self)

    def document(self) -> dict[str, Any]:
        """The graph as plain JSON values."""
        from weft.lineage.groups import groups_of

        return {
            "target": self.target,
            "direction": self.direction,
            "roots": self.roots,
            "radius": self.radius(),
            "cycle": self.cycle(),
            "groups": [group.document() for group in groups_of(self)],
            "nodes": [{"depth": depth, **node._asdict()} for depth, node in self.with_depth()],
            "edges": [edge._asdict() for edge in self.links()],
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
        from weft.lineage.pictures import draw_dot

        return draw_dot(self)

    def mermaid(self) -> str:
        """For Markdown."""
        from weft.lineage.pictures import draw_mermaid

        return draw_mermaid(self)

    def __repr__(self) -> str:
        nodes = len({key for side in self.sides.values() for key, _ in side.depths()})
        edges = sum(side.edge_count() for side in self.sides.values())
        return f"<Graph of {self.target}: {nodes} nodes, {edges} edges>"

    def __str__(self) -> str:
        return self.tree()

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.tree())}</pre>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Notebooks that know Mermaid draw the graph, others show the tree."""
        return {
            "text/plain": self.tree(),
            "text/html": self._repr_html_(),
            "text/vnd.mermaid": self.mermaid(),
        }


_KINDS = ("used", "generated_by", "same_content")


def _in_order_of_ends(edge: Edge) -> tuple[int, str, str, int]:
    return (
        _KINDS.index(edge.kind),
        edge.source,
        edge.target,
        -1 if edge.item_index is None else edge.item_index,
    )


def _in_order(item: tuple[tuple[Any, ...], int]) -> tuple[object, ...]:
    """By depth, then by step, then as people count."""
    key, depth = item
    if isinstance(key, External):
        return (depth, ("",), 0, key.id, "")
    place, task_id, *name = key
    return (depth, tuple(place), len(task_id), task_id, *name)


def _id_of(key: tuple[Any, ...]) -> str:
    """The id of a node: of a task (place, task), an artifact (place, task, name) or something external."""
    return key.id if isinstance(key, External) else "/".join(map(str, key))


def _node_of(key: tuple[Any, ...], fact: Fact | None) -> Node:
    if isinstance(key, External):
        digest = "sha256:" + key.content.hex() if isinstance(key.content, bytes) else None
        return Node(key.id, "external", name=key.uri, digest=digest, size_bytes=fact and fact.size_bytes)
    place, task_id, *name = key
    assert isinstance(place, Place)
    if not name:
        return Node(_id_of(key), "task", *place, task_id, status=fact and fact.status)
    known = fact or Fact()
    return Node(
        _id_of(key),
        "artifact",
        *place,
        task_id,
        name[0],
        known.digest,
        known.size_bytes,
        known.type,
        known.value,
    )
