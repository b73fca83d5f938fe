"""The code that a step depends on: what its method reaches through the local modules of a flow. Pure.

From the syntax tree of the step's method every name is followed: methods and class attributes of the flow,
functions, classes and constants of its module, and of the local modules it imports. What a module does when
it is imported counts for every step. Where it cannot be proved what code is reached, all of the local modules
count (rule `EVERY_MODULE`), and the reason is kept. Too much may count, never too little.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from weft.lineage.code_digests import text_digest
from weft.runtime.modules import ModuleSource, ModuleTable, Part, class_parts, is_standard
from weft.runtime.syntax import BUILTINS, Imported

__all__ = ["EVERY_MODULE", "FOREACH_STACK", "INDEX", "REACHED", "FlowReach", "StepReach", "reach_flow"]

#: Parts of their own: with them the numbers of items count, and the place among them, which are no reads.
FOREACH_STACK = "self.foreach_stack"
INDEX = "self.index"
REACHED = "reached"
EVERY_MODULE = "every module"

#: Modules and functions that bring in code which no syntax tree shows.
_BOUNDLESS = frozenset(
    {
        "builtins",
        "cloudpickle",
        "code",
        "dill",
        "gc",
        "imp",
        "importlib.import_module",
        "importlib.machinery",
        "importlib.reload",
        "importlib.util",
        "inspect",
        "joblib.load",
        "marshal",
        "operator.attrgetter",
        "operator.methodcaller",
        "pandas.read_pickle",
        "pickle",
        "pkgutil",
        "pydoc",
        "runpy",
        "shelve",
        "sys._getframe",
        "sys.meta_path",
        "sys.modules",
        "sys.path",
        "sys.path_hooks",
        "torch.load",
        "unittest.mock",
        # What is loaded through the client may be a pickle.
        *(
            f"weft.{name}"
            for name in ("DataArtifact", "Flow", "Metaflow", "Run", "Step", "Task", "open_store")
        ),
    }
)
_MODULE_NAMES = frozenset({"__doc__", "__file__", "__name__", "__package__", "__path__", "__spec__"})
_OF_PROPERTIES = frozenset({"setter", "getter", "deleter"})
_OWN_TOPS = frozenset({"weft", "metaflow"})


class StepReach(NamedTuple):
    """What of the code a step depends on: digests by label (`file:name`), and modules from elsewhere.

    `reason` says why all local modules count, where they do.
    """

    parts: dict[str, str]
    modules: frozenset[str]
    rule: str
    reason: str | None = None


class FlowReach(NamedTuple):
    """The reach of each step, and that of all local modules together; `local` are their names."""

    steps: dict[str, StepReach]
    every: StepReach
    local: tuple[str, ...]


def reach_flow(
    classes: Iterable[tuple[str, str]],
    steps: Mapping[str, str],
    find: Callable[[str], ModuleSource | None],
    imported: Iterable[str] = (),
) -> FlowReach:
    """What each step of a flow reaches.

    `classes` are (module, qualified name) along the MRO, the flow's first, without those of weft. `steps`
    gives for each step a text of what its decorators ask for. `find` gives a local module, or None for one
    that is installed or part of Python. `imported` are local modules that somebody has imported already.
    """
    flow = _Flow(list(classes), steps, find)
    for name in imported:
        flow.base.require_name(name)
    flow.base.run()
    reached = {step: flow.of_step(step) for step in steps}
    every = flow.of_everything(reached.values())
    whole = StepReach(every.parts, frozenset(every.modules), EVERY_MODULE)
    found = {}
    for step, walk in reached.items():
        if walk.reason is None:
            found[step] = StepReach(walk.parts, frozenset(walk.modules), REACHED)
        else:
            parts = {**whole.parts, **{k: v for k, v in walk.parts.items() if k not in whole.parts}}
            found[step] = StepReach(parts, whole.modules, EVERY_MODULE, walk.reason)
    local = sorted(table.name for table in flow.tables.values() if table is not None)
    return FlowReach(found, whole, tuple(local))


class _Flow:
    """The tables of a flow's modules, made as they are needed, and what its class binds."""

    def __init__(
        self,
        classes: list[tuple[str, str]],
        steps: Mapping[str, str],
        find: Callable[[str], ModuleSource | None],
    ) -> None:
        self.steps = steps
        self.tables: dict[str, ModuleTable | None] = {}
        self.own: dict[str, list[Part]] = {}
        self.class_names = {(module, name) for module, name in classes}
        self._find = find
        self._entry = classes[0][0]
        self._flow_names: dict[str, set[str]] = {}
        for module, name in classes:
            self._flow_names.setdefault(module, set()).add(name)
        self._class_effects: list[Part] = []
        self._missing: str | None = None
        for module, name in classes:
            self._add_class(module, name, frozenset(steps))
        self.base = _Walk(self)
        self.base.reason = self._missing
        self.base.require_name(self._entry)
        for part in (*self._class_effects, *self._dunders()):
            self.base.add(part)

    def table(self, name: str) -> ModuleTable | None:
        if name not in self.tables:
            source = self._find(name)
            flow_names = frozenset(self._flow_names.get(name, ()))
            self.tables[name] = (
                None if source is None else ModuleTable(source, name == self._entry, flow_names)
            )
        return self.tables[name]

    def is_class(self, part: Part) -> bool:
        """Whether a part is the class of the flow, or one that it derives from."""
        node = part.nodes[0]
        return isinstance(node, ast.ClassDef) and (part.table.name, node.name) in self.class_names

    def of_step(self, step: str) -> _Walk:
        walk = self.base.copy()
        for part in self.own.get(step, ())[:1]:
            walk.add(part)
        asked = self.steps[step]
        if asked:
            walk.parts[f"{self.own[step][0].label} decorators"] = text_digest(asked)
        walk.run()
        return walk

    def of_everything(self, reached: Iterable[_Walk]) -> _Walk:
        """All that lies in the local modules which any code of theirs imports."""
        every = self.base.copy()
        for walk in reached:
            for name in walk.required:
                every.require_name(name)
        seen = -1
        while seen != len(every.required):
            seen = len(every.required)
            for name in list(every.required):
                table = self.table(name)
                assert table is not None
                for part in table.parts:
                    if not self.is_class(part):
                        every.add(part)
                for bindings in table.names.values():
                    for binding in bindings:
                        if isinstance(binding, Imported):
                            every.note_import(table, binding)
                for part in (p for parts in self.own.values() for p in parts if p.table is table):
                    every.add(part)
            every.run()
        return every

    def _dunders(self) -> list[Part]:
        return [part for name, parts in self.own.items() if name.startswith("__") for part in parts]

    def _add_class(self, module: str, name: str, steps: frozenset[str]) -> None:
        table = self.table(module)
        if table is None:
            return
        definition = _definition(table, name)
        if definition is None:
            self._missing = f"the source of class {name} is not in {table.source.file}"
            return
        for attribute, part in class_parts(table, definition, name, steps):
            if attribute:
                self.own.setdefault(attribute, []).append(part)
            else:
                self._class_effects.append(part)
        head = [*definition.decorator_list, *(keyword.value for keyword in definition.keywords)]
        if head:
            part = Part(f"{table.source.file}:{name} decorators of the class", table, head)
            part.mentions.decorators.extend(definition.decorator_list)
            self._class_effects.append(part)


class _Walk:
    """The parts that one step reaches."""

    def __init__(self, flow: _Flow) -> None:
        self.flow = flow
        self.parts: dict[str, str] = {}
        self.modules: set[str] = set()
        self.required: dict[str, None] = {}
        self.reason: str | None = None
        self._queue: list[Part] = []
        self._resolving: set[tuple[str, str]] = set()
        self._attributes: set[str] = set()
        self._is_given_away = False
        self._has_inputs = False

    def copy(self) -> _Walk:
        other = _Walk(self.flow)
        other.parts = dict(self.parts)
        other.modules = set(self.modules)
        other.required = dict(self.required)
        other.reason = self.reason
        other._attributes = set(self._attributes)
        other._is_given_away = self._is_given_away
        return other

    def add(self, part: Part) -> None:
        if part.label not in self.parts:
            self.parts[part.label] = part.digest
            self._queue.append(part)

    def run(self) -> None:
        while self._queue:
            self._follow(self._queue.pop())
            if not self._queue:
                self._add_what_others_may_call()

    def require_name(self, name: str) -> None:
        """Take in what a module and the packages around it do when they are imported."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            table = self.flow.table(".".join(parts[:end]))
            if table is not None:
                self._require(table)

    def note_import(self, table: ModuleTable, imported: Imported) -> None:
        name = table.absolute(imported)
        label = f"{table.source.file}:import {imported.name}"
        digest = text_digest(f"{name}:{imported.attribute}")
        known = self.parts.get(label)
        # A name may be imported twice, below `try` and `except`.
        self.parts[label] = (
            digest if known in (None, digest) else text_digest("".join(sorted((known or "", digest))))
        )

    def _require(self, table: ModuleTable) -> None:
        if table.name in self.required:
            return
        self.required[table.name] = None
        if table.source.tree is None:
            self.parts[table.source.file] = table.source.digest
        for part in table.effects:
            self.add(part)
        for imported in table.imports:
            self._load(table, imported)

    def _load(self, table: ModuleTable, imported: Imported) -> None:
        """Take in the module that an import statement imports."""
        _, _, _, level, loads = imported
        name = table.absolute(imported._replace(module=loads, level=level))
        if self.flow.table(name.partition(".")[0]) is None:
            top = name.partition(".")[0]
            if not is_standard(top) and top not in _OWN_TOPS:
                self.modules.add(name)
            return
        self.require_name(name)
        if imported.attribute not in (None, "*"):
            below = f"{name}.{imported.attribute}"
            if self.flow.table(below) is not None:
                self.require_name(below)

    def _unproved(self, part: Part | ModuleTable, reason: str) -> None:
        where = part.label if isinstance(part, Part) else part.source.file
        self.reason = self.reason or f"{where}: {reason}"

    # One part

    def _follow(self, part: Part) -> None:
        mentions = part.mentions
        if mentions.boundless is not None:
            self._unproved(part, mentions.boundless)
        if part.table.has_star:
            self._unproved(part, f"{part.table.source.file} imports *")
        for imported in mentions.imports:
            self._load(part.table, imported)
        for chain in mentions.chains:
            self._resolve(part, chain)
        for chain in mentions.stores:
            self._note_store(part, chain)
        for name in mentions.own:
            self._add_own(name)
        for decorator in mentions.decorators:
            self._check_decorator(part, decorator)
        self._attributes |= mentions.attributes
        for part_of_place in (FOREACH_STACK, INDEX):
            name = part_of_place.removeprefix("self.")
            if name in mentions.attributes or name in mentions.own or mentions.gives_self_away:
                self.parts[part_of_place] = ""
        self._is_given_away |= mentions.gives_self_away
        self._has_inputs |= part.has_inputs

    def _add_own(self, name: str) -> None:
        for part in self.flow.own.get(name, ()):
            self.add(part)

    def _add_what_others_may_call(self) -> None:
        """A flow object in the hands of other code: any attribute may be one of its own."""
        for name in self._attributes & self.flow.own.keys():
            if self._is_given_away or (self._has_inputs and name not in self.flow.steps):
                self._add_own(name)

    def _bindings(self, part: Part, root: str) -> list[Part | Imported]:
        found: list[Part | Imported] = [i for i in part.mentions.imports if i.name == root]
        return found + part.table.bindings(root)

    def _resolve(self, part: Part, chain: tuple[str, ...]) -> None:
        root, rest = chain[0], chain[1:]
        bindings = self._bindings(part, root)
        for binding in bindings:
            if isinstance(binding, Imported):
                self._resolve_import(part, part.table, binding, rest)
            else:
                self._reach(binding, rest)
        if not bindings:
            if part.is_of_flow and root in self.flow.own:
                self._add_own(root)
            elif root not in part.mentions.soft and root not in BUILTINS:
                self._unproved(part, f"{root} is bound nowhere")

    def _reach(self, part: Part, rest: tuple[str, ...]) -> None:
        if not self.flow.is_class(part):
            self.add(part)
        elif rest:
            self._add_own(rest[0])
        else:
            self._is_given_away = True

    def _resolve_import(
        self, part: Part, table: ModuleTable, imported: Imported, rest: tuple[str, ...]
    ) -> None:
        name = table.absolute(imported)
        self.note_import(table, imported)
        path = rest if imported.attribute is None else (imported.attribute, *rest)
        target = self.flow.table(name)
        if target is not None:
            here = (table.name, imported.name)
            if here in self._resolving:  # Two modules that import a name from each other.
                self._unproved(part, f"{imported.name} is imported in a circle")
                return
            self._resolving.add(here)
            self._resolve_in(part, target, path)
            self._resolving.discard(here)
        elif self.flow.table(name.partition(".")[0]) is not None:
            self._unproved(part, f"module {name} is not found")
        elif _is_boundless(name, path):
            self._unproved(part, f"{'.'.join((name, *path))} is used")

    def _resolve_in(self, part: Part, table: ModuleTable, path: tuple[str, ...]) -> None:
        """What a path of attributes from a local module leads to."""
        self.require_name(table.name)
        if not path:
            for inner in table.parts:
                self._reach(inner, ())
            for bindings in table.names.values():
                for binding in bindings:
                    if isinstance(binding, Imported):
                        self.note_import(table, binding)
            return
        name, rest = path[0], path[1:]
        bindings = [
            binding
            for binding in table.bindings(name)
            if isinstance(binding, Part)
            or (table.absolute(binding), binding.attribute) != (table.name, name)  # `from . import below`
        ]
        for binding in bindings:
            if isinstance(binding, Imported):
                self._resolve_import(part, table, binding, rest)
            else:
                self._reach(binding, rest)
        below = self.flow.table(f"{table.name}.{name}")
        if below is not None and not any(isinstance(b, Imported) for b in bindings):
            self._resolve_in(part, below, rest)
        elif not bindings and below is None and name not in _MODULE_NAMES and table.source.tree is not None:
            self._unproved(part, f"{name} is not bound in {table.source.file}")

    def _note_store(self, part: Part, chain: tuple[str, ...]) -> None:
        """An attribute is set, or read by a name made at run time ("?"), of something with a name."""
        self._resolve(part, chain[:1])
        is_any = chain[-1] == "?"
        bindings = self._bindings(part, chain[0])
        for binding in bindings:
            if isinstance(binding, Part):
                is_code = binding.is_definition
            else:
                top = part.table.absolute(binding).partition(".")[0]
                is_code = self.flow.table(top) is not None or not (is_any or binding.attribute is None)
            if is_code or (is_any and isinstance(binding, Part)):
                does = "is asked for a name made at run time" if is_any else "gets another attribute"
                self._unproved(part, f"{'.'.join(chain[:-1])} {does}")

    def _check_decorator(self, part: Part, decorator: ast.expr) -> None:
        """A decorator is known where it is Python's, comes from a package, or is a function of ours."""
        callee = decorator.func if isinstance(decorator, ast.Call) else decorator
        names: list[str] = []
        while isinstance(callee, ast.Attribute):
            names.append(callee.attr)
            callee = callee.value
        root = callee.id if isinstance(callee, ast.Name) else ""
        if names and names[0] in _OF_PROPERTIES:
            return
        bindings = self._bindings(part, root)
        is_known = root in BUILTINS if not bindings else all(self._is_known(part, b, names) for b in bindings)
        if not is_known:
            self._unproved(part, f"@{'.'.join((root, *reversed(names)))} is a decorator of unknown kind")

    def _is_known(self, part: Part, binding: Part | Imported, names: list[str]) -> bool:
        if isinstance(binding, Part):
            return binding.is_definition
        path = list(reversed(names))
        table = self.flow.table(part.table.absolute(binding))
        if binding.attribute is not None:
            path.insert(0, binding.attribute)
        if table is None:
            return self.flow.table(part.table.absolute(binding).partition(".")[0]) is None
        if not path:
            return False
        found = table.bindings(path[0])
        return bool(found) and all(not isinstance(f, Part) or f.is_definition for f in found)


def _definition(table: ModuleTable, qualified: str) -> ast.ClassDef | None:
    """The last class definition of that name that stands in the module itself, or in blocks of it."""
    assert table.source.tree is not None or table.source.digest
    found = None
    for part in table.parts:
        for node in ast.walk(part.nodes[0]):
            if isinstance(node, ast.ClassDef) and node.name == qualified:
                found = node
    return found


def _is_boundless(module: str, path: tuple[str, ...]) -> bool:
    parts = (*module.split("."), *path)
    names = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    if names & _BOUNDLESS:
        return True
    # The module itself is handed on: any of its functions may be called.
    whole = ".".join(parts) + "."
    return any(name.startswith(whole) for name in _BOUNDLESS if name.startswith("importlib"))
