"""The lineage graph as a tree for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from weft.lineage.groups import Group
from weft.lineage.radius import radius_line
from weft.lineage.sides import External, Side
from weft.lineage.uses import Bundle, Place

if TYPE_CHECKING:
    from weft.lineage.details import Details, Fact
    from weft.lineage.edges import Graph

__all__ = ["draw_tree"]

_VALUE_CHARACTERS_MAX = 40
_TWINS_NAMED_MAX = 20
_DIGITS_SHOWN = 12
#: Of larger groups nobody asks for the type of each member.
_TYPED_MEMBERS_MAX = 200
#: How deep a tree is drawn: further to the right nobody can read it.
_LEVELS_MAX = 40


def draw_tree(graph: Graph) -> str:
    """An artifact a line, with the task that made it; below it what that task read, or what was made from it.

    Artifacts of one name from many tasks of one step are one line with a count. What was drawn before is
    only named. A line says where a tree goes deeper than it is drawn. On the way down the last line counts
    what was found. What only has the same content stands apart.
    """
    parts = []
    titles = {"up": "made from", "down": "used for"}
    for direction, side in graph.sides.items():
        lines = [f"{titles[direction]}:"] if graph.direction == "both" else []
        lines += _Tree(side, graph.details).lines()
        parts.append("\n".join(lines))
    if "down" in graph.sides:
        parts.append(radius_line(graph))
    if graph.same:
        parts.append("\n".join(_twin_lines(graph)))
    cycle = graph.cycle()
    if cycle:
        parts.append(
            f"These tasks are recorded as made from each other: {' <- '.join([*cycle, cycle[0]])}. No run does "
            "that: `weft verify` the stores that were merged here."
        )
    return "\n\n".join(parts)


def _twin_lines(graph: Graph) -> list[str]:
    lines = ["same content, recorded apart:"]
    for twin in graph.same[:_TWINS_NAMED_MAX]:
        lines.append(f"  {_text_of(twin.of)} = {_text_of(twin.key)}")
    left = len(graph.same) - _TWINS_NAMED_MAX
    return [*lines, f"  … and {left:,} more"] if left > 0 else lines


def _text_of(key: tuple[Any, ...]) -> str:
    return key.id if isinstance(key, External) else "/".join(map(str, key))


class _Tree:
    """Draws one side."""

    def __init__(self, side: Side, details: Details) -> None:
        self._side = side
        self._details = details
        self._drawn: set[Group] = set()
        self._by_reader: dict[Place, list[Bundle]] = {}
        self._by_artifact: dict[tuple[Place, str], list[Bundle]] = {}
        for bundle in side.bundles:
            self._by_reader.setdefault(bundle.reader, []).append(bundle)
            self._by_artifact.setdefault((bundle.maker, bundle.name), []).append(bundle)
        side.complete()
        self._names: dict[Place, list[str]] = {}
        for place, name in side.artifacts:
            self._names.setdefault(place, []).append(name)
        self._roots = self._grouped(side.roots)

    def lines(self) -> list[str]:
        drawn: list[tuple[str, Group | None, bool, str]] = []
        # By hand, not by recursion: a chain of steps may be deeper than Python's stack.
        stack = [(group, "", "", 0) for group in reversed(self._roots)]
        while stack:
            group, indent, branch, level = stack.pop()
            is_repeat = group in self._drawn
            children = self._children(group)
            self._drawn.add(group)
            suffix = " (above)" if is_repeat and children else ""
            drawn.append((indent + branch, group, level == 0, suffix))
            if is_repeat or not children:
                continue
            below = indent + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
            if level == _LEVELS_MAX:
                text = f"{below}└─ … goes deeper: ask for the lineage of {_text_of(group.members()[0])}"
                drawn.append((text, None, False, ""))
                continue
            for position, child in enumerate(reversed(children)):
                stack.append((child, below, "└─ " if position == 0 else "├─ ", level + 1))
        facts = self._facts(group for _, group, _, _ in drawn if group is not None)
        return [
            prefix + ("" if group is None else self._line(group, is_root, facts)) + suffix
            for prefix, group, is_root, suffix in drawn
        ]

    def _facts(self, groups: Iterable[Group]) -> dict[tuple[Any, ...], Fact]:
        keys = [
            key
            for group in groups
            if len(group.ids) == 1 or (group.kind == "artifact" and len(group.ids) <= _TYPED_MEMBERS_MAX)
            for key in group.members()
        ]
        return self._details.facts(keys)

    def _children(self, group: Group) -> list[Group]:
        if self._side.direction == "up":
            return self._read_by(self._makers(group), group)
        if group.kind == "task":
            assert group.place is not None
            return self._made_by({group.place: set(group.ids)}, shows_idle=False)
        return self._made_by(self._readers(group), shows_idle=True) + self._parameters(group)

    def _makers(self, group: Group) -> dict[Place, set[str]]:
        if group.external is None:
            assert group.place is not None
            return {group.place: set(group.ids)}
        makers: dict[Place, set[str]] = {}
        for touch, external in self._side.writes:
            if external == group.external:
                makers.setdefault(touch.place, set()).add(touch.task_id)
        return makers

    def _read_by(self, makers: dict[Place, set[str]], group: Group) -> list[Group]:
        """What these tasks read; of a parameter the file whose path it holds."""
        found: dict[tuple[Place, str], set[str]] = {}
        externals: dict[External, None] = {}
        for place, ids in makers.items():
            for bundle in self._by_reader.get(place, ()):
                kept = bundle.of_readers(ids)
                if kept is not None:
                    found.setdefault((kept.maker, kept.name), set()).update(kept.makers)
            for touch, external in self._side.reads:
                if touch.place == place and touch.task_id in ids and touch.parameter in (None, group.name):
                    externals[external] = None
        return _groups(found, externals)

    def _readers(self, group: Group) -> dict[Place, set[str]]:
        readers: dict[Place, set[str]] = {}
        if group.external is not None:
            for touch, external in self._side.reads:
                if external == group.external and touch.parameter is None:
                    readers.setdefault(touch.place, set()).add(touch.task_id)
            return readers
        assert group.place is not None
        for bundle in self._by_artifact.get((group.place, group.name or ""), ()):
            kept = bundle.of_makers(set(group.ids))
            if kept is not None:
                readers.setdefault(kept.reader, set()).update(kept.readers)
        return readers

    def _parameters(self, group: Group) -> list[Group]:
        """The parameters that hold the path of something external."""
        if group.external is None:
            return []
        return [
            Group("artifact", touch.place, touch.parameter, frozenset([touch.task_id]))
            for touch, external in self._side.reads
            if external == group.external and touch.parameter is not None
        ]

    def _made_by(self, readers: dict[Place, set[str]], shows_idle: bool) -> list[Group]:
        """What these tasks wrote; with `shows_idle` also those that wrote nothing."""
        found: dict[tuple[Place, str], set[str]] = {}
        externals: dict[External, None] = {}
        idle: list[Group] = []
        for place, ids in readers.items():
            busy: set[str] = set()
            for name in self._names.get(place, ()):
                made = ids.intersection(self._side.artifacts[place, name])
                if made:
                    busy |= made
                    found.setdefault((place, name), set()).update(made)
            for touch, external in self._side.writes:
                if touch.place == place and touch.task_id in ids:
                    busy.add(touch.task_id)
                    externals[external] = None
            if shows_idle and ids - busy:
                idle.append(Group("task", place, None, frozenset(ids - busy)))
        return _groups(found, externals) + idle

    def _grouped(self, keys: Iterable[tuple[Any, ...]]) -> list[Group]:
        """Siblings of one step and name together, in the order they come."""
        groups: dict[tuple[Any, ...], set[str]] = {}
        for key in keys:
            if isinstance(key, External):
                groups[("external", None, None, key)] = set()
            else:
                place, task_id, *name = key
                kind = ("artifact", place, name[0]) if name else ("task", place, None)
                groups.setdefault((*kind, None), set()).add(task_id)
        return [
            Group(kind, place, name, frozenset(ids), external)
            for (kind, place, name, external), ids in groups.items()
        ]

    def _line(self, group: Group, is_root: bool, facts: dict[tuple[Any, ...], Fact]) -> str:
        if group.external is not None:
            size = self._side.sizes.get(group.external)
            return group.external.id + ("" if size is None else f"  {size:,} bytes")
        assert group.place is not None
        place = (
            f"{group.place.flow}/{group.place.run_id}/" if is_root or self._is_foreign(group.place) else ""
        )
        place += f"{group.place.step}/{group.named()}"
        count = f" \N{MULTIPLICATION SIGN}{len(group.ids):,}" if len(group.ids) > 1 else ""
        members = group.members() if len(group.ids) <= _TYPED_MEMBERS_MAX else []
        known = [facts[key] for key in members if key in facts]
        if group.kind == "task":
            status = f"  {known[0].status}" if len(group.ids) == 1 and known and known[0].status else ""
            return f"{place}{count}{status}"
        text = f"{group.name}{count}"
        types = {fact.type for fact in known}
        if len(types) == 1 and known[0].type:
            text += f"  {known[0].type}"
        if len(group.ids) == 1 and known and known[0].value is not None:
            text += f" = {_shortened(known[0].value)}"
        return f"{text}  {place}"

    def _is_foreign(self, place: Place) -> bool:
        """Whether a step is of another run than the first root."""
        root = self._roots[0].place
        return root is None or (place.flow, place.run_id) != (root.flow, root.run_id)


def _groups(found: dict[tuple[Place, str], set[str]], externals: Iterable[External]) -> list[Group]:
    listed = [Group("artifact", place, name, frozenset(ids)) for (place, name), ids in found.items()]
    return listed + [Group("external", None, None, frozenset(), external) for external in externals]


def _shortened(text: str) -> str:
    return text if len(text) <= _VALUE_CHARACTERS_MAX else text[: _VALUE_CHARACTERS_MAX - 1] + "…"
