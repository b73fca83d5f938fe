"""The graph of a flow, read from syntax trees: nothing the user wrote is run. Pure.

A graph can be made of any flow that parses, also of one that does not check: what it says of splits
and joins means something only where `weft.runtime.checks` finds no problem.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Graph", "Node", "StepSource", "docstring", "graph_from_ast"]


_NO_CASES: dict[str, str] = {}


class StepSource(NamedTuple):
    """The syntax tree of one step and the file that it stands in."""

    function: ast.FunctionDef | ast.AsyncFunctionDef
    file: str


class Node(NamedTuple):
    """One step.

    `kind` is what its transition does: "linear", "split", "foreach", "switch", or "end" where there is
    none; except that a step of two arguments is a "join", and a linear start is a "start".

    `split_parents` are the splits and foreachs a task of the step is inside of, outermost first, and
    `split_branches` the step that each of them entered by. A join is no longer inside the split it
    closes: that one is `split`, and its closing join is its `matching_join`. `join_order` are the
    `in_steps` of a join in the order of the branches in the `self.next` of its split.

    `has_next` and `is_next_understood` tell what the last statement was: any `self.next` call, and one
    of the forms there are. Lines count from 1.
    """

    name: str
    kind: str
    file: str
    line: int
    tail_next_line: int
    arg_count: int
    is_start: bool = False
    is_end: bool = False
    out_steps: tuple[str, ...] = ()
    in_steps: tuple[str, ...] = ()
    foreach: str | None = None
    condition: str | None = None
    switch_cases: dict[str, str] = _NO_CASES
    num_parallel: bool = False
    has_next: bool = False
    is_next_understood: bool = False
    doc: str = ""
    decorators: tuple[str, ...] = ()
    split_parents: tuple[str, ...] = ()
    split_branches: tuple[str, ...] = ()
    split: str | None = None
    matching_join: str | None = None
    join_order: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]


class Graph:
    """The steps of a flow by name, in an order in which every step comes after those that lead to it.

    `start` and `end` are "" where the flow has none; `start_marks` and `end_marks` are the steps marked
    by `@step(start=True)` and `@step(end=True)`.
    """

    __slots__ = ("doc", "end", "end_marks", "file", "line", "name", "start", "start_marks", "steps")

    def __init__(
        self,
        name: str,
        file: str,
        line: int,
        doc: str,
        steps: dict[str, Node],
        start_marks: tuple[str, ...],
        end_marks: tuple[str, ...],
    ) -> None:
        self.name = name
        self.file = file
        self.line = line
        self.doc = doc
        self.steps = steps
        self.start_marks = start_marks
        self.end_marks = end_marks
        self.start = next((n.name for n in steps.values() if n.is_start), "")
        self.end = next((n.name for n in steps.values() if n.is_end), "")

    def __getitem__(self, step: str) -> Node:
        return self.steps[step]

    def __contains__(self, step: object) -> bool:
        return step in self.steps

    def __iter__(self) -> Iterator[Node]:
        return iter(self.steps.values())

    def __len__(self) -> int:
        return len(self.steps)

    def to_payload(self) -> dict[str, Any]:
        """The graph as plain JSON values, for the event that starts a run."""
        return {
            "name": self.name,
            "doc": self.doc,
            "start": self.start,
            "end": self.end,
            "steps": [_node_payload(node) for node in self],
        }


def graph_from_ast(
    name: str,
    file: str,
    line: int,
    doc: str,
    sources: Mapping[str, StepSource],
    start_marks: Sequence[str] = (),
    end_marks: Sequence[str] = (),
) -> Graph:
    """The graph of the flow `name` whose steps are `sources`, given in the order of definition."""
    only_step = next(iter(sources)) if len(sources) == 1 else None
    start = start_marks[0] if start_marks else only_step or "start"
    end = end_marks[0] if end_marks else only_step or "end"
    nodes = {
        step: _parse_step(step, source, is_start=step == start, is_end=step == end)
        for step, source in sources.items()
    }
    nodes = _sorted_from(start, nodes)
    nodes = _nested(nodes)
    return Graph(name, file, line, doc, nodes, tuple(start_marks), tuple(end_marks))


def _node_payload(node: Node) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "name": node.name,
        "kind": node.kind,
        "line": node.line,
        "doc": node.doc,
        "next": list(node.out_steps),
        "is_start": node.is_start,
        "is_end": node.is_end,
        "split_parents": list(node.split_parents),
        "decorators": list(node.decorators),
    }
    optional: dict[str, Any] = {
        "foreach": node.foreach,
        "condition": node.condition,
        "switch_cases": dict(node.switch_cases),
        "split": node.split,
        "matching_join": node.matching_join,
        "join_order": list(node.join_order),
    }
    return payload | {key: value for key, value in optional.items() if value}


# One step


class _Transition(NamedTuple):
    """What one `self.next` says."""

    kind: str
    out_steps: tuple[str, ...] = ()
    foreach: str | None = None
    condition: str | None = None
    switch_cases: dict[str, str] = _NO_CASES
    num_parallel: bool = False


def _parse_step(name: str, source: StepSource, is_start: bool, is_end: bool) -> Node:
    function = source.function
    arguments = function.args
    arg_count = len(arguments.posonlyargs) + len(arguments.args)
    call = _tail_next(function)
    transition = None if call is None else _parse_next(call)
    kind = "linear" if transition is None else transition.kind
    if arg_count > 1:
        kind = "join"
    elif is_end and call is None:
        kind = "end"
    elif is_start and kind == "linear":
        kind = "start"
    return Node(
        name=name,
        kind=kind,
        file=source.file,
        line=function.lineno,
        tail_next_line=function.body[-1].lineno if call is None else call.lineno,
        arg_count=arg_count,
        is_start=is_start,
        is_end=is_end,
        has_next=call is not None,
        is_next_understood=transition is not None,
        doc=docstring(function),
        decorators=_decorator_names(function),
        **({} if transition is None else _transition_fields(transition)),
    )


def _transition_fields(transition: _Transition) -> dict[str, Any]:
    fields = transition._asdict()
    del fields["kind"]
    return fields


def _tail_next(function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.Call | None:
    """The call in the last statement, if that is `self.next(…)`."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    last = function.body[-1]
    if not arguments or not isinstance(last, ast.Expr) or not isinstance(last.value, ast.Call):
        return None
    return last.value if _own_attribute(last.value.func, arguments[0].arg) == "next" else None


def _parse_next(call: ast.Call) -> _Transition | None:
    """What a `self.next` call says; None when it has none of the known forms."""
    assert isinstance(call.func, ast.Attribute)
    assert isinstance(call.func.value, ast.Name)
    self_name = call.func.value.id
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if len(call.args) == 1 and isinstance(call.args[0], ast.Dict):
        return _parse_switch(call.args[0], keywords, self_name)
    targets = tuple(_own_attribute(argument, self_name) or "" for argument in call.args)
    if not targets or "" in targets:
        return None
    if not keywords:
        return _Transition("linear" if len(targets) == 1 else "split", targets)
    if len(targets) != 1 or len(keywords) != 1:
        return None
    foreach = keywords.get("foreach")
    if isinstance(foreach, ast.Constant) and isinstance(foreach.value, str):
        return _Transition("foreach", targets, foreach=foreach.value)
    if "num_parallel" in keywords:
        return _Transition("foreach", targets, num_parallel=True)
    return None


def _parse_switch(
    cases: ast.Dict, keywords: dict[str | None, ast.expr], self_name: str
) -> _Transition | None:
    condition = keywords.pop("condition", None)
    if keywords or not (condition is None or isinstance(condition, ast.Constant)):
        return None
    name = None if condition is None else condition.value
    if not (name is None or isinstance(name, str)):
        return None
    switch_cases = {}
    for key, value in zip(cases.keys, cases.values, strict=True):
        label, target = _case_label(key, self_name), _own_attribute(value, self_name)
        if label is None or target is None:
            return None
        switch_cases[label] = target
    targets = tuple(dict.fromkeys(switch_cases.values()))
    return _Transition("switch", targets, condition=name, switch_cases=switch_cases)


def _case_label(key: ast.expr | None, self_name: str) -> str | None:
    """A case as text: what `str` makes of a literal, or the path below `self` of a config value."""
    if isinstance(key, ast.UnaryOp) and isinstance(key.op, ast.USub):
        positive = key.operand
        if isinstance(positive, ast.Constant) and isinstance(positive.value, int | float):
            return f"-{positive.value}"
    if isinstance(key, ast.Constant) and isinstance(key.value, str | int | float):
        return str(key.value)
    path = []
    while isinstance(key, ast.Attribute):
        path.append(key.attr)
        key = key.value
    if len(path) > 1 and isinstance(key, ast.Name) and key.id == self_name:
        return ".".join(reversed(path))
    return None


def _own_attribute(expression: ast.expr, self_name: str) -> str | None:
    """`x` of `self.x`."""
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
        return expression.attr if expression.value.id == self_name else None
    return None


def _decorator_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    names = []
    for decorator in function.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        if name not in ("", "step"):
            names.append(name)
    return tuple(names)


def docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """The docstring without its indentation; `ast.get_docstring` would import `inspect` for that."""
    first = node.body[0]
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
        return ""
    text = first.value.value
    if not isinstance(text, str):
        return ""
    lines = text.expandtabs().split("\n")
    indents = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    margin = min(indents, default=0)
    return "\n".join([lines[0].strip(), *(line[margin:].rstrip() for line in lines[1:])]).strip("\n")


# All steps together


def _sorted_from(start: str, nodes: dict[str, Node]) -> dict[str, Node]:
    """The nodes in topological order, with `in_steps` set.

    Steps that lie on a loop or that nothing leads to come last, in the order of definition.
    """
    in_steps: dict[str, list[str]] = {name: [] for name in nodes}
    for node in nodes.values():
        for target in node.out_steps:
            if target in in_steps and node.name not in in_steps[target]:
                in_steps[target].append(node.name)
    missing = {name: len([s for s in sources if s != name]) for name, sources in in_steps.items()}
    ready = [start] if start in nodes and missing[start] == 0 else []
    ready += [name for name in nodes if name != start and missing[name] == 0]
    order: list[str] = []
    while ready:
        name = ready.pop(0)
        order.append(name)
        for target in dict.fromkeys(nodes[name].out_steps):
            if target in missing and target != name:
                missing[target] -= 1
                if missing[target] == 0:
                    ready.append(target)
    ordered = dict.fromkeys(order)
    rank = {
        name: position for position, name in enumerate([*ordered, *(n for n in nodes if n not in ordered)])
    }
    return {
        name: nodes[name]._replace(in_steps=tuple(sorted(in_steps[name], key=rank.__getitem__)))
        for name in rank
    }


def _nested(nodes: dict[str, Node]) -> dict[str, Node]:
    """The nodes with what they say of splits and joins, given in topological order."""
    stacks: dict[str, tuple[tuple[str, str], ...]] = {}
    placed: dict[str, Node] = {}
    for name, node in nodes.items():
        stack: tuple[tuple[str, str], ...] = ()
        entered = next((n for n in node.in_steps if n != name and n in stacks), None)
        if entered is not None:
            stack = stacks[entered]
            if nodes[entered].kind in ("split", "foreach"):
                stack = (*stack, (entered, name))
        if node.kind == "join" and stack:
            split = stack[-1][0]
            order = _join_order(node, nodes[split], nodes, stacks)
            node = node._replace(split=split, join_order=order)
            placed[split] = placed[split]._replace(matching_join=placed[split].matching_join or name)
            stack = stack[:-1]
        stacks[name] = stack
        placed[name] = node._replace(
            split_parents=tuple(split for split, _ in stack),
            split_branches=tuple(branch for _, branch in stack),
        )
    return placed


def _join_order(
    join: Node, split: Node, nodes: dict[str, Node], stacks: dict[str, tuple[tuple[str, str], ...]]
) -> tuple[str, ...]:
    """The steps into a join by the branch that they belong to; those of one branch in topological order."""

    def branch_position(in_step: str) -> int:
        if in_step == split.name:
            branch = join.name
        else:
            branch = next((b for s, b in reversed(stacks.get(in_step, ())) if s == split.name), "")
        return split.out_steps.index(branch) if branch in split.out_steps else len(split.out_steps)

    return tuple(sorted(join.in_steps, key=branch_position))
