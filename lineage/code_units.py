"""The code of a run cut into units that are compared one by one: functions, methods, assignments, the rest. Pure.

A unit is cosmetic in its change when its syntax tree without docstrings stayed the same. What a step reaches
is found by names alone: whatever a unit mentions, and is called so in any file, counts. That is too much
rather than too little.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from weft.lineage.code_digests import digest_of

__all__ = ["CodeChange", "Unit", "compare_code", "steps_reached", "units_of"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Unit(NamedTuple):
    """One piece of a file. `name` is qualified ("TreesFlow.fit"); that of a module's rest is empty.

    `meaning` is what has to be equal for two texts to do the same, a digest; `mentions` are the names in it.
    """

    path: str
    name: str
    text: str
    meaning: str
    mentions: frozenset[str]


class CodeChange(NamedTuple):
    """A unit that differs between two runs; `change` is "changed", "only_a" or "only_b".

    `diff` is a unified diff without its heading.
    """

    path: str
    name: str
    change: str
    is_cosmetic: bool
    diff: str


def units_of(files: Mapping[str, str]) -> dict[tuple[str, str], Unit]:
    """The units of a snapshot by path and name; a file that is no Python of today is one unit."""
    found: dict[tuple[str, str], Unit] = {}
    for path, text in files.items():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            found[path, ""] = Unit(path, "", text, text, frozenset())
            continue
        cutter = _Cutter(path, text.splitlines())
        cutter.cut(tree.body, "")
        found |= cutter.finish()
    return found


def compare_code(a: Mapping[tuple[str, str], Unit], b: Mapping[tuple[str, str], Unit]) -> list[CodeChange]:
    """What differs between the units of two snapshots, by path and then as they stand in the files."""
    changes = []
    for place in dict.fromkeys([*a, *b]):
        old, new = a.get(place), b.get(place)
        if old is not None and new is not None and old.text == new.text:
            continue
        change = "only_b" if old is None else "only_a" if new is None else "changed"
        is_cosmetic = old is not None and new is not None and old.meaning == new.meaning
        texts = "" if old is None else old.text, "" if new is None else new.text
        changes.append(CodeChange(*place, change, is_cosmetic, _diff(*texts)))
    return sorted(changes, key=lambda change: change.path)


def steps_reached(
    place: tuple[str, str], snapshots: Iterable[Mapping[tuple[str, str], Unit]], steps: Iterable[str]
) -> list[str]:
    """The steps that may do something else once the unit at `place` is another."""
    wanted = list(dict.fromkeys(steps))
    if "." in place[1] and _last(place[1]) in wanted:
        # Others name it in `self.next(self.fit)`, and do not call it.
        return [_last(place[1])]
    reached: set[str] = set()
    for units in snapshots:
        if place not in units:
            continue
        if not place[1]:
            return wanted
        mentioned_by: dict[str, set[str]] = {}
        for unit in units.values():
            for name in unit.mentions:
                mentioned_by.setdefault(name, set()).add(_last(unit.name))
        seen = {_last(place[1])}
        waiting = list(seen)
        while waiting:
            following = mentioned_by.get(waiting.pop(), set()) - seen
            if "" in following:
                return wanted
            seen |= following
            waiting += [name for name in following if name not in wanted]
        reached |= seen
    return [step for step in wanted if step in reached]


class _Cutter:
    """Cuts one file; lines that belong to no unit of their own are the rest."""

    def __init__(self, path: str, lines: list[str]) -> None:
        self._path = path
        self._lines = lines
        self._owner = [""] * len(lines)
        self._nodes: dict[str, list[ast.AST]] = {"": []}
        self._more: dict[str, set[str]] = {}

    def cut(self, body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            name = _name_of(node)
            if name is None:
                self._nodes[prefix.rstrip(".")].append(node)
                continue
            name = prefix + name
            self._nodes.setdefault(name, [])
            self._claim(node, name)
            if prefix:
                self._more.setdefault(name, set()).add(_last(prefix.rstrip(".")))
            if isinstance(node, ast.ClassDef):
                self._nodes[name] += [*node.bases, *node.keywords, *node.decorator_list]
                special = {child.name for child in node.body if isinstance(child, _Function)}
                # What Python calls by itself is reached with the class.
                self._more.setdefault(name, set()).update(n for n in special if n.startswith("__"))
                self.cut(node.body, f"{name}.")
            else:
                self._nodes[name].append(node)

    def finish(self) -> dict[tuple[str, str], Unit]:
        texts: dict[str, list[str]] = {name: [] for name in self._nodes}
        for line, owner in zip(self._lines, self._owner, strict=True):
            texts[owner].append(line)
        found = {}
        for name, nodes in self._nodes.items():
            text = "\n".join(texts[name]).strip("\n")
            nodes = [node for node in nodes if not _is_text(node)]
            mentions = {word for node in nodes for word in _mentions(node)}
            meaning = digest_of(nodes) if nodes else ""
            if text.strip() or meaning:
                found[self._path, name] = Unit(
                    self._path, name, text, meaning, frozenset(mentions | self._more.get(name, set()))
                )
        return found

    def _claim(self, node: ast.stmt, name: str) -> None:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        for line in range(first - 1, node.end_lineno or node.lineno):
            self._owner[line] = name


def _name_of(node: ast.stmt) -> str | None:
    if isinstance(node, _Function | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return None


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_text(node: ast.AST) -> bool:
    """A docstring, or another text that stands alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _mentions(node: ast.AST) -> Iterable[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isidentifier():
            yield part.value  # as in getattr(self, "fit")


def _diff(old: str, new: str) -> str:
    import difflib

    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=2, lineterm="")
    return "\n".join(line for number, line in enumerate(lines) if number > 1)
