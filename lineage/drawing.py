"""The lineage graph as text: a tree for people, Graphviz and Mermaid for pictures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.lineage.edges import Graph, Node

__all__ = ["draw_dot", "draw_mermaid", "draw_tree"]

_VALUE_CHARACTERS_MAX = 40
_MEMBERS_NAMED_MAX = 3
#: How deep a tree is drawn: further to the right nobody can read it.
_LEVELS_MAX = 40

Group = tuple[str, ...]


def draw_tree(graph: Graph) -> str:
    """An artifact a line, with the task that made it; below it what that task read, or what was made from it.

    Artifacts of one name from many tasks of one step are one line with a count. What was drawn before is
    only named. A line says where a tree goes deeper than it is drawn.
    """
    parts = []
    for direction, title in (("up", "made from"), ("down", "used for")):
        if graph.direction in (direction, "both"):
            prefix = [f"{title}:"] if graph.direction == "both" else []
            parts.append("\n".join([*prefix, *_Tree(graph, direction).lines()]))
    return "\n\n".join(parts)


def draw_dot(graph: Graph) -> str:
    """Tasks are boxes, artifacts ellipses; arrows go the way of the data."""
    lines = ["digraph lineage {", "  rankdir=LR;"]
    shapes = {"task": "box", "artifact": "ellipse", "external": "note"}
    for node in graph.nodes.values():
        lines.append(f"  {_quoted(node.id)} [shape={shapes[node.kind]}, label={_quoted(_label(node))}];")
    for source, target, label in _flows(graph):
        note = f" [label={_quoted(label)}]" if label else ""
        lines.append(f"  {_quoted(source)} -> {_quoted(target)}{note};")
    return "\n".join([*lines, "}"])


def draw_mermaid(graph: Graph) -> str:
    """Tasks are boxes, artifacts rounded; arrows go the way of the data."""
    lines = ["flowchart LR"]
    ids = {identity: f"n{number}" for number, identity in enumerate(graph.nodes)}
    brackets = {"task": ("[", "]"), "artifact": ("([", "])"), "external": ("[/", "/]")}
    for node in graph.nodes.values():
        left, right = brackets[node.kind]
        text = _label(node).replace("&", "#amp;").replace('"', "#quot;").replace("\n", "<br>")
        lines.append(f'  {ids[node.id]}{left}"{text}"{right}')
    for source, target, label in _flows(graph):
        arrow = f'-- "{label}" -->' if label else "-->"
        lines.append(f"  {ids[source]} {arrow} {ids[target]}")
    return "\n".join(lines)


def _flows(graph: Graph) -> Iterator[tuple[str, str, str]]:
    """(from, to, label) the way data went: into a task what it used, out of it what it made."""
    for edge in graph.edges:
        label = "" if edge.item_index is None else f"[{edge.item_index}]"
        yield edge.target, edge.source, label


def _label(node: Node) -> str:
    if node.kind == "external":
        return node.id
    place = f"{node.step}/{node.task_id}"
    return place if node.kind == "task" else f"{node.name}\n{place}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class _Tree:
    """Draws in one direction."""

    def __init__(self, graph: Graph, direction: str) -> None:
        self._graph = graph
        self._direction = direction
        self._drawn: set[Group] = set()
        self._made_by: dict[str, list[str]] = {}
        self._used: dict[str, list[str]] = {}
        self._used_by: dict[str, list[str]] = {}
        self._made: dict[str, list[str]] = {}
        for edge in graph.edges:
            if edge.kind == "used":
                self._used.setdefault(edge.source, []).append(edge.target)
                self._used_by.setdefault(edge.target, []).append(edge.source)
            else:
                self._made_by.setdefault(edge.source, []).append(edge.target)
                self._made.setdefault(edge.target, []).append(edge.source)

    def lines(self) -> list[str]:
        found: list[str] = []
        # By hand, not by recursion: a chain of steps may be deeper than Python's stack.
        stack = [(group, "", "", 0) for group in reversed(self._groups(self._graph.roots))]
        while stack:
            group, indent, branch, level = stack.pop()
            is_repeat = group in self._drawn
            children = [] if is_repeat else self._children(group)
            self._drawn.add(group)
            found.append(
                indent
                + branch
                + self._line(group, is_root=level == 0)
                + (" (above)" if is_repeat and self._children(group) else "")
            )
            below = indent + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
            if children and level == _LEVELS_MAX:
                found.append(f"{below}└─ … goes deeper: ask for the lineage of {self._name(group)}")
                continue
            for position, child in enumerate(reversed(children)):
                stack.append((child, below, "└─ " if position == 0 else "├─ ", level + 1))
        return found

    def _children(self, group: Group) -> list[Group]:
        nodes: dict[str, None] = {}
        for identity in group:
            if self._direction == "up":
                makers = [identity] if self._kind(identity) == "task" else self._made_by.get(identity, ())
                for task in makers:
                    nodes.update(dict.fromkeys(self._used.get(task, ())))
            else:
                readers = [identity] if self._kind(identity) == "task" else self._used_by.get(identity, ())
                for task in readers:
                    made = self._made.get(task, ())
                    # A reader that wrote nothing is shown itself.
                    nodes.update(dict.fromkeys(made or ([] if task == identity else [task])))
        return self._groups(nodes)

    def _groups(self, identities: Iterable[str]) -> list[Group]:
        """Siblings of one step and name together, in the order they come."""
        groups: dict[tuple[str | None, ...], list[str]] = {}
        for identity in identities:
            node = self._graph.nodes[identity]
            key = (node.kind, node.flow, node.run_id, node.step, node.name) if node.flow else (node.id,)
            groups.setdefault(key, []).append(identity)
        return [tuple(group) for group in groups.values()]

    def _kind(self, identity: str) -> str:
        return self._graph.nodes[identity].kind

    def _line(self, group: Group, is_root: bool) -> str:
        nodes = [self._graph.nodes[identity] for identity in group]
        first = nodes[0]
        if first.kind == "external":
            return first.id
        ids = sorted((node.task_id or "" for node in nodes), key=lambda text: (len(text), text))
        place = f"{first.flow}/{first.run_id}/" if is_root or self._is_foreign(first) else ""
        named = ",".join(ids[:_MEMBERS_NAMED_MAX]) + (",…" if len(ids) > _MEMBERS_NAMED_MAX else "")
        place += f"{first.step}/{named}"
        count = f" \N{MULTIPLICATION SIGN}{len(group)}" if len(group) > 1 else ""
        if first.kind == "task":
            status = f"  {first.status}" if first.status and len(group) == 1 else ""
            return f"{place}{count}{status}"
        text = f"{first.name}{count}"
        types = {node.type for node in nodes}
        if len(types) == 1 and first.type:
            text += f"  {first.type}"
        if first.value is not None and len(group) == 1:
            text += f" = {_shortened(first.value)}"
        return f"{text}  {place}"

    def _name(self, group: Group) -> str:
        """The pathspec of a group's first member."""
        node = self._graph.nodes[group[0]]
        name = f"/{node.name}" if node.kind == "artifact" else ""
        return f"{node.flow}/{node.run_id}/{node.step}/{node.task_id}{name}"

    def _is_foreign(self, node: Node) -> bool:
        """Whether a node is of another run than the first root."""
        root = self._graph.nodes[self._graph.roots[0]]
        return (node.flow, node.run_id) != (root.flow, root.run_id)


def _shortened(text: str) -> str:
    return text if len(text) <= _VALUE_CHARACTERS_MAX else text[: _VALUE_CHARACTERS_MAX - 1] + "…"
