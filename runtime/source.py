"""Finds the syntax trees of a flow's steps in the files of its class and its bases."""

from __future__ import annotations

import ast
import sys
from typing import Any

from weft.lineage.errors import InvalidFlow
from weft.runtime.decorators import steps_of
from weft.runtime.graph import Graph, StepSource, docstring, graph_from_ast

__all__ = ["parse_flow"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Block = ast.stmt | ast.excepthandler | ast.match_case


def parse_flow(flow_class: type) -> Graph:
    """The graph of a flow class; its module has been imported, and no code of it is run.

    Raises: InvalidFlow when a source file cannot be read or does not hold a step that the class has, and
    when its file starts another flow as well.
    """
    files = _Files()
    files.refuse_second_flow(flow_class)
    sources = {}
    start_marks, end_marks = [], []
    for name, function in steps_of(flow_class).items():
        owner = next(base for base in flow_class.__mro__ if name in vars(base))
        sources[name] = files.step(owner, name, function)
        if getattr(function, "is_start", False):
            start_marks.append(name)
        if getattr(function, "is_end", False):
            end_marks.append(name)
    file = files.path_of(flow_class)
    definition = files.class_definition(flow_class)
    line = 1 if definition is None else definition.lineno
    doc = "" if definition is None else docstring(definition)
    return graph_from_ast(flow_class.__name__, file, line, doc, sources, start_marks, end_marks)


class _Files:
    """The modules read for one flow, each parsed once."""

    def __init__(self) -> None:
        self._trees: dict[str, ast.Module] = {}
        self._classes: dict[str, dict[str, list[ast.ClassDef]]] = {}
        self._methods: dict[type, dict[str, _Function]] = {}

    def path_of(self, owner: type) -> str:
        module = sys.modules.get(owner.__module__)
        return getattr(module, "__file__", None) or _code_file(owner) or f"<{owner.__module__}>"

    def class_definition(self, owner: type) -> ast.ClassDef | None:
        """The definition of a class, the last one where a file holds several of that name."""
        path = self.path_of(owner)
        if not steps_of(owner):
            return None
        definitions = self._definitions(path, owner.__name__).get(owner.__qualname__, [])
        own_code = [_code_of(f) for name, f in steps_of(owner).items() if name in vars(owner)]
        lines = {code.co_firstlineno for code in own_code if code is not None}
        exact = [d for d in definitions if lines & {_first_line(f) for f in _methods(d)}]
        return next(reversed(exact or definitions), None)

    def refuse_second_flow(self, flow_class: type) -> None:
        """A file that starts two flows would run the first and never come to the second."""
        path = self.path_of(flow_class)
        if not steps_of(flow_class):
            return
        tree = self._tree(path, flow_class.__name__)
        flows = {"FlowSpec", flow_class.__name__}
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and flows.intersection(map(_last_name, node.bases)):
                flows.add(node.name)
        started = [call for call in _calls_on_the_way(tree.body) if call[0] in flows]
        names = list(dict.fromkeys(name for name, _ in started))
        if len(names) > 1:
            raise InvalidFlow(
                f"This file starts {names[0]} and {names[1]}, and would never come to the second. "
                "Start one of them, or give each a file of its own.",
                path,
                next(line for name, line in started if name == names[1]),
            )

    def step(self, owner: type, name: str, function: Any) -> StepSource:
        path = self.path_of(owner)
        method = self._methods_of(owner).get(name)
        found: list[_Function] = [] if method is None else [method]
        if not found:
            # A method that was put on the class from outside: its code says where it was written.
            code = _code_of(function)
            path = path if code is None else code.co_filename
            functions = (n for n in ast.walk(self._tree(path, owner.__name__)) if isinstance(n, _Function))
            found = [f for f in functions if code is not None and _first_line(f) == code.co_firstlineno]
        if not found:
            raise InvalidFlow(
                f"The source of step {name} of {owner.__name__} is not in this file. "
                "Write each step as a method in the class body.",
                path,
            )
        return StepSource(found[-1], path)

    def _methods_of(self, owner: type) -> dict[str, _Function]:
        """The methods of a class by name; of several with one name the last."""
        if owner not in self._methods:
            definition = self.class_definition(owner)
            methods = [] if definition is None else _methods(definition)
            self._methods[owner] = {method.name: method for method in methods}
        return self._methods[owner]

    def _definitions(self, path: str, flow_name: str) -> dict[str, list[ast.ClassDef]]:
        if path not in self._classes:
            definitions: dict[str, list[ast.ClassDef]] = {}
            _collect_classes(self._tree(path, flow_name), "", definitions)
            self._classes[path] = definitions
        return self._classes[path]

    def _tree(self, path: str, flow_name: str) -> ast.Module:
        if path not in self._trees:
            try:
                self._trees[path] = ast.parse(_read(path), path)
            except (OSError, SyntaxError, ValueError) as error:
                raise InvalidFlow(
                    f"The source of {flow_name} cannot be read: {error}. "
                    "A flow needs its source file: write it to a .py file.",
                    path,
                ) from error
        return self._trees[path]


def _read(path: str) -> bytes | str:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        # Notebooks keep the text of a cell in linecache, under a file name of their own.
        linecache = sys.modules.get("linecache")
        lines = linecache.getlines(path) if linecache is not None else []
        if not lines:
            raise
        return "".join(lines)


def _last_name(expression: ast.expr) -> str:
    """`b` of `a.b`, `a` of `a`, else nothing."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def _calls_on_the_way(block: list[ast.stmt]) -> list[tuple[str, int]]:
    """Names that are called without arguments by statements of their own, also under `if __name__ == …`."""
    found: list[tuple[str, int]] = []
    for statement in block:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            if isinstance(call.func, ast.Name) and not call.args and not call.keywords:
                found.append((call.func.id, statement.lineno))
        elif isinstance(statement, ast.If) and any(
            isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
        ):
            found += _calls_on_the_way(statement.body)
    return found


def _collect_classes(node: ast.AST, prefix: str, found: dict[str, list[ast.ClassDef]]) -> None:
    """All class definitions below a node by qualified name, in the order of the source."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            found.setdefault(prefix + child.name, []).append(child)
            _collect_classes(child, f"{prefix}{child.name}.", found)
        elif isinstance(child, _Function):
            _collect_classes(child, f"{prefix}{child.name}.<locals>.", found)
        elif isinstance(child, _Block):
            _collect_classes(child, prefix, found)


def _methods(node: ast.AST) -> list[_Function]:
    """The functions of a class body, also those under an `if` or a `with` in it."""
    methods: list[_Function] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function):
            methods.append(child)
        elif not isinstance(child, ast.ClassDef) and isinstance(child, _Block):
            methods += _methods(child)
    return methods


def _first_line(function: _Function) -> int:
    """What `co_firstlineno` says of a function: the line of its first decorator."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def _code_of(function: Any) -> Any:
    """The code of a function below its wrappers; None for a callable that has none."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return getattr(function, "__code__", None)


def _code_file(owner: type) -> str | None:
    """The file that the methods of a class were compiled from; a notebook's module has no `__file__`."""
    for name, function in steps_of(owner).items():
        code = _code_of(function)
        if name in vars(owner) and code is not None:
            file: str = code.co_filename
            return file
    return None
