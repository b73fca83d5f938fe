"""A module as a table: what its statements bind, and which of them act when it is imported. Pure."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from weft.lineage.code_digests import digest_of
from weft.runtime.syntax import BUILTINS, Imported, Mentions, bound_names, imports_in, mentions_of

__all__ = [
    "ModuleSource",
    "ModuleTable",
    "Part",
    "absolute_name",
    "class_parts",
    "is_calm",
    "is_own_name",
    "is_standard",
]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_COMPOUND = (ast.If, ast.Try, ast.TryStar, ast.With)
#: Packages whose decorators and base classes keep no list of what is given to them.
_CALM = frozenset(
    {
        "keras",
        "lightgbm",
        "lightning",
        "metaflow",
        "numba",
        "numpy",
        "pandas",
        "polars",
        "pydantic",
        "pytorch_lightning",
        "sklearn",
        "tenacity",
        "torch",
        "weft",
        "xgboost",
    }
)
_OWN_PACKAGES = frozenset({"weft", "metaflow"})
#: Decorators of weft whose meaning is taken from the flow itself, not from the source.
_OWN_DECORATORS = frozenset({"step", "retry", "cache", "catch", "timeout", "environment", "resources"})
#: What is declared in a flow's class and recorded by value when it is read.
_OWN_VALUES = frozenset({"Parameter", "IncludeFile", "Config"})


class ModuleSource(NamedTuple):
    """A local module. `file` is shown to people; `package` is what relative imports start from.

    `tree` is None where there is no source to read; then `digest` stands for all of it.
    """

    name: str
    file: str
    package: str
    tree: ast.Module | None
    digest: str = ""


class Part:
    """A statement of a module, or of the flow's class: the smallest thing that is reached or not."""

    def __init__(
        self, label: str, table: ModuleTable, nodes: Sequence[ast.AST], self_name: str | None = None
    ) -> None:
        self.label = label
        self.table = table
        self.nodes = nodes
        self.self_name = self_name
        self.is_of_flow = False
        #: Whether it is the second argument's turn: a join's inputs are flow objects, too.
        self.has_inputs = False
        self._digest: str | None = None
        self._mentions: Mentions | None = None

    @property
    def digest(self) -> str:
        if self._digest is None:
            self._digest = digest_of(self.nodes)
        return self._digest

    @property
    def mentions(self) -> Mentions:
        if self._mentions is None:
            self._mentions = mentions_of(self.nodes, self.self_name)
        return self._mentions

    @property
    def is_definition(self) -> bool:
        return isinstance(self.nodes[0], _DEFINITIONS)


class ModuleTable:
    """What the statements of one module bind. `effects` are those that do more than bind names."""

    def __init__(self, source: ModuleSource, is_entry: bool, flow_names: frozenset[str]) -> None:
        self.source = source
        self.names: dict[str, list[Part | Imported]] = {}
        self.parts: list[Part] = []
        self.effects: list[Part] = []
        self.imports: list[Imported] = []
        self.has_star = False
        self._is_entry = is_entry
        self._flow_names = flow_names
        self._labels: dict[str, int] = {}
        for statement in () if source.tree is None else source.tree.body:
            self._add(statement)
        # What a statement means may depend on names bound below it.
        self.effects = [part for part in self.parts if self._acts(part.nodes)]

    @property
    def name(self) -> str:
        return self.source.name

    def bindings(self, name: str) -> list[Part | Imported]:
        return self.names.get(name, [])

    def absolute(self, imported: Imported) -> str:
        return absolute_name(imported.module, imported.level, self.source.package)

    def _add(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._add_import(statement)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return
        elif isinstance(statement, ast.If) and _asks_for_main(statement.test):
            for inner in statement.body if self._is_entry else ():
                if not self._starts_flow(inner):
                    self._add(inner)
        elif not isinstance(statement, ast.Pass):
            self._add_part(statement)

    def _add_import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for imported in imports_in(statement):
            self.imports.append(imported)
            if imported.attribute == "*":
                self.has_star = True
            else:
                self.names.setdefault(imported.name, []).append(imported)

    def _add_part(self, statement: ast.stmt) -> None:
        bound = sorted(bound_names([statement]))
        part = Part(self._label(bound[0] if bound else "statement"), self, [statement])
        self.parts.append(part)
        for name in bound:
            self.names.setdefault(name, []).append(part)
        for node in _import_statements(statement):
            self._add_import(node)

    def _label(self, name: str) -> str:
        count = self._labels[name] = self._labels.get(name, 0) + 1
        return f"{self.source.file}:{name}" if count == 1 else f"{self.source.file}:{name}#{count}"

    def _starts_flow(self, statement: ast.stmt) -> bool:
        if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
            return False
        callee = statement.value.func
        return isinstance(callee, ast.Name) and callee.id in self._flow_names

    # What a statement does beside binding names

    def _acts(self, nodes: Sequence[ast.AST]) -> bool:
        return any(self._acts_alone(node) for node in nodes)

    def _acts_alone(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Pass | ast.Raise):
            return False
        if isinstance(node, _FUNCTIONS):
            outer = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
            return any(not self._is_calm(d) for d in node.decorator_list) or self._calls_ours(outer)
        if isinstance(node, ast.ClassDef):
            return node.name not in self._flow_names and self._registers(node)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            is_plain = not any(
                isinstance(n, ast.Attribute | ast.Subscript) for t in targets for n in ast.walk(t)
            )
            return not is_plain or (node.value is not None and self._calls_ours([node.value]))
        if isinstance(node, _COMPOUND):
            return self._acts(_inner_statements(node))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return False
        return type(node).__name__ != "TypeAlias"

    def _calls_ours(self, expressions: Sequence[ast.AST]) -> bool:
        """Whether code of local modules may run, or is handed to code that does."""
        mentioned = mentions_of(expressions)
        if not mentioned.calls:
            return False
        return any(
            not self._is_foreign(chain[0]) for chain in (*mentioned.chains, *filter(None, mentioned.calls))
        )

    def _is_foreign(self, root: str) -> bool:
        """Whether a name is a built-in one, a plain constant of this module, or comes from elsewhere."""
        bindings = self.names.get(root)
        if bindings is None:
            return root in BUILTINS
        for binding in bindings:
            if isinstance(binding, Part):
                if binding.is_definition or isinstance(binding.nodes[0], _COMPOUND):
                    return False
            elif binding.level or (not is_standard(binding.module) and _top(binding.module) not in _CALM):
                return False
        return True

    def _is_calm(self, decorator: ast.expr) -> bool:
        callee = decorator.func if isinstance(decorator, ast.Call) else decorator
        root = _root(callee)
        if root is None:
            return False
        bindings = self.names.get(root)
        if bindings is None:
            return root in BUILTINS
        return all(isinstance(b, Imported) and not b.level and is_calm(b.module) for b in bindings)

    def _registers(self, node: ast.ClassDef) -> bool:
        """Whether making the class may leave a trace elsewhere: by its decorators, its bases, or its body."""
        if node.keywords or any(not self._is_calm(d) for d in node.decorator_list):
            return True
        if any(self._acts_alone(n) for n in node.body if not isinstance(n, _FUNCTIONS)):
            return True
        return any(not self._is_calm_base(base) for base in node.bases)

    def _is_calm_base(self, base: ast.expr) -> bool:
        base = base.value if isinstance(base, ast.Subscript) else base
        root = _root(base)
        bindings = self.names.get(root) if root is not None else None
        if bindings is None:
            return root in BUILTINS
        for binding in bindings:
            if isinstance(binding, Imported):
                if binding.level or not is_calm(binding.module):
                    return False
            elif not self._is_calm_class(binding.nodes[0]):
                return False
        return True

    def _is_calm_class(self, definition: ast.AST) -> bool:
        if not isinstance(definition, ast.ClassDef):
            return False
        if any(getattr(node, "name", "") == "__init_subclass__" for node in definition.body):
            return False
        return definition.name in self._flow_names or not self._registers(definition)


def class_parts(
    table: ModuleTable, definition: ast.ClassDef, qualified: str, steps: frozenset[str]
) -> Iterator[tuple[str, Part]]:
    """What the body of a flow's class binds, name by name; "" for what it only does.

    Parameters are left out: their values are recorded when they are read.
    """
    count = 0
    for statement in definition.body:
        if isinstance(statement, ast.Pass) or _is_constant_expression(statement):
            continue
        names = bound_names([statement])
        if not names or (isinstance(statement, _COMPOUND) and table._acts([statement])):
            count += 1
            yield "", Part(f"{table.source.file}:{qualified} statement {count}", table, [statement])
            continue
        if _is_declaration(table, statement):
            continue
        for name in sorted(names):
            self_name, node = None, statement
            if isinstance(statement, _FUNCTIONS):
                arguments = [*statement.args.posonlyargs, *statement.args.args]
                self_name = arguments[0].arg if arguments else None
                node = _without_own_decorators(table, statement)
            part = Part(f"{table.source.file}:{qualified}.{name}", table, [node], self_name)
            part.is_of_flow = True
            part.has_inputs = name in steps and isinstance(statement, _FUNCTIONS) and len(arguments) > 1
            yield name, part


def absolute_name(module: str, level: int, package: str) -> str:
    """The full name of a module that is named relative to a package."""
    if not level:
        return module
    parts = package.split(".") if package else []
    base = parts[: len(parts) - (level - 1)] if level > 1 else parts
    return ".".join([*base, module] if module else base)


def is_standard(module: str) -> bool:
    return _top(module) in sys.stdlib_module_names


def is_calm(module: str) -> bool:
    return is_standard(module) or _top(module) in _CALM


def is_own_name(table: ModuleTable, expression: ast.expr, names: frozenset[str]) -> bool:
    """Whether an expression names something of weft itself: `step`, or `weft.step`."""
    callee = expression.func if isinstance(expression, ast.Call) else expression
    root = _root(callee)
    bindings = table.bindings(root) if root is not None else []
    if not bindings or not all(isinstance(b, Imported) and _top(b.module) in _OWN_PACKAGES for b in bindings):
        return False
    first = bindings[0]
    assert isinstance(first, Imported)
    last = callee.attr if isinstance(callee, ast.Attribute) else first.attribute
    return last in names


def _is_declaration(table: ModuleTable, statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
    return isinstance(value, ast.Call) and is_own_name(table, value, _OWN_VALUES)


def _without_own_decorators(
    table: ModuleTable, function: ast.FunctionDef | ast.AsyncFunctionDef
) -> ast.FunctionDef | ast.AsyncFunctionDef:
    kept = [d for d in function.decorator_list if not is_own_name(table, d, _OWN_DECORATORS)]
    fields = {field: getattr(function, field) for field in function._fields if hasattr(function, field)}
    return type(function)(**{**fields, "decorator_list": kept})


def _import_statements(statement: ast.stmt) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports below a compound statement of a module."""
    if isinstance(statement, _COMPOUND):
        for inner in _inner_statements(statement):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                yield inner
            else:
                yield from _import_statements(inner)


def _inner_statements(node: ast.AST) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for field in ("body", "orelse", "finalbody"):
        found += getattr(node, field, [])
    for clause in getattr(node, "handlers", []):
        found += clause.body
    return found


def _asks_for_main(test: ast.expr) -> bool:
    """`__name__ == "__main__"`."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return False
    sides = (test.left, test.comparators[0])
    names = {side.id for side in sides if isinstance(side, ast.Name)}
    texts = {side.value for side in sides if isinstance(side, ast.Constant)}
    return names == {"__name__"} and texts == {"__main__"}


def _is_constant_expression(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _root(expression: ast.expr) -> str | None:
    while isinstance(expression, ast.Attribute):
        expression = expression.value
    return expression.id if isinstance(expression, ast.Name) else None


def _top(module: str) -> str:
    return module.partition(".")[0]
