"""The lineage graph for programs that draw: Graphviz and Mermaid. Wide steps are one node with a count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lineage.groups import groups_of
from weft.lineage.sides import External

if TYPE_CHECKING:
    from weft.lineage.edges import Graph
    from weft.lineage.groups import Group

__all__ = ["draw_dot", "draw_mermaid"]

#: Tasks of one step that are drawn one by one.
_APART_MAX = 8

Key = tuple[Any, ...]


def draw_dot(graph: Graph) -> str:
    """Tasks are boxes, artifacts ellipses; arrows go the way of the data, dashed lines join equal contents."""
    picture = _Picture(graph)
    shapes = {"task": "box", "artifact": "ellipse", "external": "note"}
    lines = ["digraph lineage {", "  rankdir=LR;"]
    for name, (kind, label) in picture.nodes.items():
        lines.append(f"  {_quoted(name)} [shape={shapes[kind]}, label={_quoted(label)}];")
    for (source, target), label in picture.arrows.items():
        note = f" [label={_quoted(label)}]" if label else ""
        lines.append(f"  {_quoted(source)} -> {_quoted(target)}{note};")
    for source, target in picture.equals:
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [style=dashed, dir=none];")
    return "\n".join([*lines, "}"])


def draw_mermaid(graph: Graph) -> str:
    """Tasks are boxes, artifacts rounded; arrows go the way of the data, dotted lines join equal contents."""
    picture = _Picture(graph)
    lines = ["flowchart LR"]
    ids = {name: f"n{number}" for number, name in enumerate(picture.nodes)}
    brackets = {"task": ("[", "]"), "artifact": ("([", "])"), "external": ("[/", "/]")}
    for name, (kind, label) in picture.nodes.items():
        left, right = brackets[kind]
        text = label.replace("&", "#amp;").replace('"', "#quot;").replace("\n", "<br>")
        lines.append(f'  {ids[name]}{left}"{text}"{right}')
    for (source, target), label in picture.arrows.items():
        arrow = f'-- "{label}" -->' if label else "-->"
        lines.append(f"  {ids[source]} {arrow} {ids[target]}")
    for source, target in picture.equals:
        lines.append(f"  {ids[source]} -.- {ids[target]}")
    return "\n".join(lines)


class _Picture:
    """What is drawn: nodes as (kind, label) by name, arrows with their labels, pairs of equal content."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: dict[str, tuple[str, str]] = {}
        self.arrows: dict[tuple[str, str], str] = {}
        self.equals: dict[tuple[str, str], None] = {}
        self._folded: dict[tuple[str, Any, str | None], str] = {}
        for group in groups_of(graph):
            self._add(group)
        for side in graph.sides.values():
            for bundle in side.bundles:
                artifact = self._folded.get(("artifact", bundle.maker, bundle.name))
                task = self._folded.get(("task", bundle.reader, None))
                if artifact is not None and task is not None:
                    self.arrows[artifact, task] = f"\N{MULTIPLICATION SIGN}{bundle.width:,}"
                    continue
                counts: dict[tuple[str, str], list[int | None]] = {}
                for reader, maker, item in bundle.pairs():
                    source = self._name((bundle.maker, maker, bundle.name))
                    counts.setdefault((source, self._name((bundle.reader, reader))), []).append(item)
                for pair, items in counts.items():
                    single = "" if items[0] is None else f"[{items[0]}]"
                    self.arrows[pair] = (
                        single if len(items) == 1 else f"\N{MULTIPLICATION SIGN}{len(items):,}"
                    )
            for touch, external in side.reads:
                ending = () if touch.parameter is None else (touch.parameter,)
                self.arrows.setdefault((external.id, self._name((touch.place, touch.task_id, *ending))), "")
            for touch, external in side.writes:
                self.arrows.setdefault((self._name((touch.place, touch.task_id)), external.id), "")
            for place, name, task_id in side.generated():
                self.arrows.setdefault((self._name((place, task_id)), self._name((place, task_id, name))), "")
        for twin in graph.same:
            self._add_twin(twin.key)
            self.equals[self._name(twin.of), self._name(twin.key)] = None

    def _add(self, group: Group) -> None:
        if group.external is not None:
            self.nodes[group.external.id] = ("external", group.external.id)
            return
        assert group.place is not None
        if len(group.ids) <= _APART_MAX:
            for key in group.members():
                self.nodes[_id_of(key)] = (group.kind, _label(key))
            return
        name = f"{group.place}/*" + (f"/{group.name}" if group.name else "")
        self._folded[group.kind, group.place, group.name] = name
        title = "" if group.name is None else f"{group.name}\n"
        self.nodes[name] = (
            group.kind,
            f"{title}{group.place.step} \N{MULTIPLICATION SIGN}{len(group.ids):,}",
        )

    def _add_twin(self, key: Key) -> None:
        name = self._name(key)
        if name not in self.nodes:
            kind = "external" if isinstance(key, External) else "artifact"
            self.nodes[name] = (kind, name if kind == "external" else _id_of(key))

    def _name(self, key: Key) -> str:
        if isinstance(key, External):
            return key.id
        kind = "task" if len(key) == 2 else "artifact"
        return self._folded.get((kind, key[0], key[2] if len(key) == 3 else None)) or _id_of(key)


def _id_of(key: Key) -> str:
    return "/".join(map(str, key))


def _label(key: Key) -> str:
    place = f"{key[0].step}/{key[1]}"
    return place if len(key) == 2 else f"{key[2]}\n{place}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
