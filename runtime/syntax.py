"""What a piece of source mentions. Pure."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = [
    "BUILTINS",
    "Imported",
    "Mentions",
    "bound_names",
    "imports_in",
    "mentions_of",
]

BUILTINS = frozenset(dir(builtins)) | {"__file__", "__path__", "__spec__", "__annotations__", "__class__"}

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_BY_NAME = frozenset({"getattr", "hasattr", "setattr", "delattr"})
#: What lets code reach anything by a text that is made at run time.
_BOUNDLESS = {
    **dict.fromkeys(
        ("exec", "eval", "compile", "globals", "vars", "__import__", "__builtins__", "__loader__")
    ),
    **dict.fromkeys(("getattr",)),
}
_BOUNDLESS_ATTRIBUTES = frozenset(
    {
        "__builtins__",
        "__closure__",
        "__code__",
        "__dict__",
        "__getattribute__",
        "__globals__",
        "__loader__",
        "__subclasses__",
    }
)


class Imported(NamedTuple):
    """A name that an import binds: to `module` itself, or to its `attribute` ("*" for all of them).

    `loads` is the module that the statement imports; it differs from `module` in `import a.b`, which binds `a`.
    """

    name: str
    module: str
    attribute: str | None
    level: int
    loads: str


class Mentions:
    """What a piece of source mentions that it does not bind itself.

    `chains` are names with the attributes read from them (`a.b.c` is ("a", "b", "c")), `stores` those whose
    attributes are set. `own` are the attributes of the flow object; with `gives_self_away` that object is
    handed to other code, so that attributes of anything (`attributes`) may be its own. `soft` are names that
    a class body binds for itself. `boundless` says why the source may reach anything.
    """

    def __init__(self) -> None:
        self.chains: dict[tuple[str, ...], None] = {}
        self.stores: dict[tuple[str, ...], None] = {}
        self.own: dict[str, None] = {}
        self.attributes: set[str] = set()
        self.imports: list[Imported] = []
        self.soft: set[str] = set()
        self.decorators: list[ast.expr] = []
        self.calls: list[tuple[str, ...] | None] = []
        self.gives_self_away = False
        self.boundless: str | None = None


def bound_names(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that statements bind in their own scope, imports included."""
    found: set[str] = set()
    foreign: set[str] = set()
    for node in nodes:
        _bind(node, found, foreign)
    return found - foreign


def _bind(node: ast.AST, found: set[str], foreign: set[str]) -> None:
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        found.add(node.name)
        return
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, _COMPREHENSIONS):
        found.update(n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
        return
    if isinstance(node, ast.Name):
        if not isinstance(node.ctx, ast.Load):
            found.add(node.id)
    elif isinstance(node, ast.Import | ast.ImportFrom):
        found.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Global):
        foreign.update(node.names)
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        found.add(node.name)
    elif isinstance(node, ast.MatchMapping) and node.rest:
        found.add(node.rest)
    for child in ast.iter_child_nodes(node):
        _bind(child, found, foreign)


def mentions_of(nodes: Iterable[ast.AST], self_name: str | None = None) -> Mentions:
    """What statements mention. `self_name` is the name of the flow object in a method of the flow."""
    reader = _Reader(self_name)
    for node in nodes:
        reader.read(node, frozenset())
    return reader.found


def imports_in(statement: ast.Import | ast.ImportFrom) -> Iterator[Imported]:
    """The names that an import binds."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.asname is not None:
                yield Imported(alias.asname, alias.name, None, 0, alias.name)
            else:
                top = alias.name.partition(".")[0]
                yield Imported(top, top, None, 0, alias.name)
        return
    module = statement.module or ""
    for alias in statement.names:
        yield Imported(alias.asname or alias.name, module, alias.name, statement.level, module)


class _Reader:
    def __init__(self, self_name: str | None) -> None:
        self.found = Mentions()
        self._self = self_name

    def read(self, node: ast.AST, bound: frozenset[str]) -> None:
        if isinstance(node, ast.Name):
            self._name(node, bound)
        elif isinstance(node, ast.Attribute):
            self._attribute(node, bound)
        elif isinstance(node, ast.Call):
            self._call(node, bound)
        elif isinstance(node, ast.Constant):
            return
        elif isinstance(node, _FUNCTIONS):
            self._function(node, bound)
        elif isinstance(node, ast.Lambda):
            self._defaults(node.args, bound)
            self.read(node.body, bound | _arguments(node.args) | bound_names([node.body]))
        elif isinstance(node, ast.ClassDef):
            self._class(node, bound)
        elif isinstance(node, _COMPREHENSIONS):
            self._comprehension(node, bound)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.found.imports.extend(imports_in(node))
        else:
            for child in ast.iter_child_nodes(node):
                self.read(child, bound)

    def _name(self, node: ast.Name, bound: frozenset[str]) -> None:
        if node.id == self._self:
            self.found.gives_self_away = True
        elif node.id not in bound:
            if not isinstance(node.ctx, ast.Load):
                self.found.soft.add(node.id)  # Bound by a `global` statement.
            self._chain((node.id,), is_stored=False)

    def _chain(self, chain: tuple[str, ...], is_stored: bool) -> None:
        (self.found.stores if is_stored else self.found.chains)[chain] = None
        if chain[0] in _BOUNDLESS and chain[0] in BUILTINS:
            self._note(f"{chain[0]} is used")

    def _attribute(self, node: ast.Attribute, bound: frozenset[str]) -> None:
        names: list[str] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            names.append(base.attr)
            base = base.value
        names.reverse()
        self.found.attributes.update(names)
        for name in names:
            if name in _BOUNDLESS_ATTRIBUTES:
                self._note(f"{name} is used")
        if isinstance(base, ast.Name):
            if base.id == self._self:
                self.found.own[names[0]] = None
            elif base.id not in bound:
                self._chain((base.id, *names), is_stored=not isinstance(node.ctx, ast.Load))
        elif _is_super(base):
            self.found.own[names[0]] = None
            self.read(base, bound)
        else:
            self.read(base, bound)

    def _call(self, node: ast.Call, bound: frozenset[str]) -> None:
        callee = node.func
        self.found.calls.append(_chain_of(callee))
        if isinstance(callee, ast.Name) and callee.id in _BY_NAME and callee.id not in bound and node.args:
            self._by_name(callee.id, node, bound)
            return
        if _is_super(node):
            return
        is_next = (
            isinstance(callee, ast.Attribute)
            and callee.attr == "next"
            and isinstance(callee.value, ast.Name)
            and callee.value.id == self._self
        )
        if is_next:
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                self._target(argument, bound)
            return
        for child in ast.iter_child_nodes(node):
            self.read(child, bound)

    def _target(self, argument: ast.expr, bound: frozenset[str]) -> None:
        """A step that a transition names is not called."""
        if isinstance(argument, ast.Dict):
            for value in argument.values:
                self._target(value, bound)
        elif not (
            isinstance(argument, ast.Attribute)
            and isinstance(argument.value, ast.Name)
            and argument.value.id == self._self
        ):
            self.read(argument, bound)

    def _by_name(self, function: str, node: ast.Call, bound: frozenset[str]) -> None:
        """`getattr` and its kin: an attribute where the name is a literal, else anything."""
        target, rest = node.args[0], node.args[1:]
        name = rest[0].value if rest and isinstance(rest[0], ast.Constant) else None
        context: ast.expr_context = ast.Store() if function in ("setattr", "delattr") else ast.Load()
        if isinstance(name, str):
            self.read(ast.Attribute(value=target, attr=name, ctx=context), bound)
            rest = rest[1:]
        elif function == "getattr":
            chain = _chain_of(target)
            if chain is None or chain[0] == self._self or chain[0] in bound:
                self._note("getattr gets a name that is made at run time")
            else:
                self.found.stores[(*chain, "?")] = None  # Harmless only where it is nobody of ours.
        elif not (isinstance(target, ast.Name) and target.id == self._self):
            chain = _chain_of(target)
            if function != "hasattr" and chain is not None and chain[0] not in bound:
                self.found.stores[(*chain, "?")] = None
            self.read(target, bound)
        for argument in (*rest, *(keyword.value for keyword in node.keywords)):
            self.read(argument, bound)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, bound: frozenset[str]) -> None:
        for decorator in node.decorator_list:
            self.found.decorators.append(decorator)
            self.read(decorator, bound)
        self._defaults(node.args, bound)
        if node.returns is not None:
            self.read(node.returns, bound)
        local = _arguments(node.args) | bound_names(node.body)
        foreign = {name for n in ast.walk(node) if isinstance(n, ast.Global) for name in n.names}
        # A name that an import binds leads to its module.
        foreign |= {name for n in ast.walk(node) for name in _import_names(n)}
        inner = (bound | local | _type_names(node)) - foreign
        for statement in node.body:
            self.read(statement, frozenset(inner))

    def _defaults(self, arguments: ast.arguments, bound: frozenset[str]) -> None:
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
        notes = [a.annotation for a in every]
        for child in (*arguments.defaults, *arguments.kw_defaults, *notes):
            if child is not None:
                self.read(child, bound)

    def _class(self, node: ast.ClassDef, bound: frozenset[str]) -> None:
        self.found.decorators.extend(node.decorator_list)
        for child in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self.read(child, bound)
        self.found.soft |= bound_names(node.body) | _type_names(node)
        for statement in node.body:
            self.read(statement, bound)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, bound: frozenset[str]
    ) -> None:
        self.read(node.generators[0].iter, bound)
        inner = bound | bound_names(generator.target for generator in node.generators)
        for position, generator in enumerate(node.generators):
            for child in ([] if position == 0 else [generator.iter]) + generator.ifs:
                self.read(child, inner)
        parts = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
        for part in parts:
            self.read(part, inner)

    def _note(self, reason: str) -> None:
        self.found.boundless = self.found.boundless or reason


def _chain_of(expression: ast.expr) -> tuple[str, ...] | None:
    names: list[str] = []
    while isinstance(expression, ast.Attribute):
        names.append(expression.attr)
        expression = expression.value
    return (expression.id, *reversed(names)) if isinstance(expression, ast.Name) else None


def _arguments(arguments: ast.arguments) -> set[str]:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return {argument.arg for argument in every}


def _import_names(node: ast.AST) -> set[str]:
    return bound_names([node]) if isinstance(node, ast.Import | ast.ImportFrom) else set()


def _type_names(node: ast.AST) -> set[str]:
    return {parameter.name for parameter in getattr(node, "type_params", ())}


def _is_super(expression: ast.expr) -> bool:
    """`super()`, or `super(…)` with names."""
    return (
        isinstance(expression, ast.Call)
        and isinstance(expression.func, ast.Name)
        and expression.func.id == "super"
    )
