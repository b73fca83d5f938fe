"""What makes a flow unable to run, one function per rule; each message names the fix. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from weft.lineage.errors import InvalidFlow, UsageError
from weft.runtime.config import OPTION_NAMES, Config, NotSettled
from weft.runtime.decorators import Decorator, decorators_of
from weft.runtime.graph import Graph, Node
from weft.runtime.parameters import Parameter, check_parameters, parameters_of

__all__ = ["Problem", "check", "check_flow"]

_RESERVED_STEPS = frozenset({"name", "next", "input", "index", "cmd"})
_STEP_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")
_SPLITS = ("split", "foreach")


class Problem(NamedTuple):
    """One thing to mend, with its place."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


Rule = Callable[[Graph], Iterable[Problem]]


def check(
    graph: Graph,
    decorators: Mapping[str, Sequence[Decorator]] | None = None,
    parameters: Mapping[str, Parameter] | None = None,
) -> list[Problem]:
    """The problems of a flow, the one to mend first on top; none when it can run.

    Later rules rest on earlier ones: only the problems of the first rule that finds some are returned.
    """
    for rule in _RULES:
        problems = list(rule(graph))
        if problems:
            return problems
    by_step = decorators or {}
    problems = [
        problem for node in graph for problem in _decorator_problems(node, by_step.get(node.name, ()))
    ]
    return problems or list(_parameter_problems(graph, parameters or {}))


def check_flow(flow_class: type, graph: Graph) -> list[Problem]:
    """The problems of a flow class whose graph is `graph`, its decorators and parameters included."""
    problems = check(graph, decorators_of(flow_class), parameters_of(flow_class))
    return problems or list(_no_init(flow_class, graph))


def _no_init(flow_class: type, graph: Graph) -> Iterable[Problem]:
    """Tasks are made in processes of their own from what is recorded: an `__init__` has no part in that."""
    for base in flow_class.__mro__:
        if base is object or "_weft_is_flow" in vars(base):
            return
        if "__init__" in vars(base):
            yield Problem(
                graph.file,
                graph.line,
                f"{base.__name__}.__init__ is never called for a task. Set values in the start step, "
                "or as variables of the class.",
            )


def _at(node: Node, message: str) -> Problem:
    return Problem(node.file, node.line, message)


def _at_next(node: Node, message: str) -> Problem:
    return Problem(node.file, node.tail_next_line, message)


# Names, start and end


def _reserved_names(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if node.name in _RESERVED_STEPS:
            yield _at(node, f"Step {node.name} has a name that every flow needs itself. Rename the step.")


def _one_start_one_end(graph: Graph) -> Iterable[Problem]:
    for word, marks, found in (
        ("start", graph.start_marks, graph.start),
        ("end", graph.end_marks, graph.end),
    ):
        if len(marks) > 1:
            yield _at(
                graph[marks[1]],
                f"Steps {_listed(marks)} are all marked as the {word} step. Leave {word}=True on one of them.",
            )
        elif not found:
            yield Problem(
                graph.file,
                graph.line,
                f"Flow {graph.name} has no {word} step. Name a step {word}, or mark one with @step({word}=True).",
            )


def _unambiguous_start_and_end(graph: Graph) -> Iterable[Problem]:
    for word, found in (("start", graph.start), ("end", graph.end)):
        if found != word and word in graph:
            yield _at(
                graph[word],
                f"Step {word} looks like the {word} step, but {found} is marked as that. "
                f"Rename {word}, or take {word}=True off {found}.",
            )


def _edges_of_start_and_end(graph: Graph) -> Iterable[Problem]:
    start, end = graph[graph.start], graph[graph.end]
    for name in start.in_steps:
        if name != start.name or start.kind != "switch":
            yield _at_next(
                graph[name],
                f"Step {name} goes back to {start.name}, where the flow starts. Send it to a later step.",
            )
    if end.has_next:
        yield _at_next(end, f"Step {end.name} ends the flow but calls self.next. Remove that call.")
    if end.arg_count > 1:
        yield _at(
            end,
            f"Step {end.name} ends the flow but takes inputs. Add a join step before it and drop the second argument.",
        )


def _step_names(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if node.name.startswith("_") or not _STEP_CHARACTERS.issuperset(node.name):
            yield _at(
                node,
                f"{node.name!r} cannot be the name of a step. Use lower-case letters, digits and _, not _ first.",
            )


# Each step by itself


def _arguments(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if node.arg_count == 0:
            yield _at(node, f"Step {node.name} has no self. Write def {node.name}(self).")
        elif node.arg_count > 2:
            yield _at(
                node,
                f"Step {node.name} has {node.arg_count} arguments. A step takes self, a join takes self and inputs.",
            )
        elif node.kind == "join" and (
            len(node.out_steps) > 1 or node.foreach or node.num_parallel or node.condition
        ):
            yield _at_next(
                node,
                f"Step {node.name} is a join (it takes inputs) and splits as well. "
                "Let it go on to one new step, and split there.",
            )


def _ends_in_next(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if not node.has_next and not node.is_end:
            yield _at_next(
                node,
                f"The last statement of step {node.name} is not self.next. Put self.next(self.<step>) "
                "on the last line of the step itself, outside if, for, with and try.",
            )


def _known_forms(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if node.has_next and not node.is_next_understood:
            yield _at_next(
                node,
                f"The self.next of step {node.name} has none of the forms weft can read without running it. "
                "Write self.next(self.a), self.next(self.a, self.b), self.next(self.a, foreach='items') or "
                "self.next({'x': self.a, 'y': self.b}, condition='choice'), where the cases of a switch are "
                "texts, numbers or self.config.<name>.",
            )


def _switches(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if node.kind != "switch" and not node.condition:
            continue
        if not node.switch_cases:
            yield _at_next(
                node, f"The switch of step {node.name} has no cases. Give it a dict with two or more."
            )
        elif not node.condition:
            yield _at_next(
                node,
                f"The switch of step {node.name} has no condition. Add condition='<name of an artifact>'.",
            )
        elif len(node.out_steps) < 2:
            yield _at_next(
                node,
                f"The switch of step {node.name} can only go to {_listed(node.out_steps)}. "
                "Give it a second step, or write a plain self.next.",
            )


def _unsupported(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if node.num_parallel:
            yield _at_next(
                node,
                f"Step {node.name} uses num_parallel, which this version of weft does not support yet. "
                "Use foreach over a list of that length.",
            )
        if "parallel" in node.decorators:
            yield _at(
                node,
                f"Step {node.name} uses @parallel, which this version of weft does not support yet. "
                "Take it off and use foreach.",
            )


# Steps together


def _known_targets(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        for target in node.out_steps:
            if target not in graph:
                yield _at_next(
                    node,
                    f"Step {node.name} goes to {target}, which is no step of {graph.name}. {_hint(target, graph)}",
                )
        repeated = [t for t in dict.fromkeys(node.out_steps) if node.out_steps.count(t) > 1]
        if repeated:
            yield _at_next(
                node,
                f"Step {node.name} goes to {_listed(repeated)} more than once. Name each step once, "
                "or use foreach to run one step several times.",
            )


def _no_loops(graph: Graph) -> Iterable[Problem]:
    done: set[str] = set()
    for first in graph.steps:
        path: list[str] = []
        # Depth first without recursion: None on the stack marks the end of a step's targets.
        stack: list[str | None] = [first]
        while stack:
            name = stack.pop()
            if name is None:
                done.add(path.pop())
                continue
            if name in done:
                continue
            if name in path:
                loop = [*path[path.index(name) :], name]
                yield _at_next(
                    graph[loop[-2]],
                    f"The flow runs in a loop: {' -> '.join(loop)}. Only a switch may name its own step; "
                    f"send {loop[-2]} to a later step.",
                )
                return
            path.append(name)
            stack.append(None)
            node = graph[name]
            stack.extend(t for t in reversed(node.out_steps) if not (t == name and node.kind == "switch"))


def _all_reached(graph: Graph) -> Iterable[Problem]:
    reached = _reachable(graph, graph.start)
    for node in graph:
        if node.name not in reached:
            yield _at(
                node,
                f"Nothing leads to step {node.name}. Name it in the self.next of an earlier step, or remove it.",
            )


def _foreach_has_body(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if node.kind == "foreach" and graph[node.out_steps[0]].kind == "join":
            yield _at_next(
                node,
                f"The foreach of step {node.name} leads straight into the join {node.out_steps[0]}. "
                "Put a step between them that does the work for one item.",
            )


def _no_switch_into_join(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if node.kind == "switch":
            for target in node.out_steps:
                if graph[target].kind == "join":
                    yield _at_next(
                        node,
                        f"The switch of step {node.name} leads straight into the join {target}. "
                        "Put an ordinary step between them.",
                    )


def _splits_end_in_joins(graph: Graph) -> Iterable[Problem]:
    end = graph[graph.end]
    places = [place for name in end.in_steps if (place := _place_after(graph, name, end.name))]
    if places:
        split = places[0][-1][0]
        yield _at_next(
            graph[split],
            f"The flow ends in {end.name} before the {_word(graph[split])} of step {split} was joined. "
            f"Add a join step (def <name>(self, inputs)) between {split} and {end.name}.",
        )
    for node in graph:
        if node.kind == "join" and node.split is None:
            yield _at(
                node,
                f"Step {node.name} takes inputs, but no split or foreach is open there. Remove the second argument.",
            )
            return


def _steps_have_one_place(graph: Graph) -> Iterable[Problem]:
    """A step that is no join is reached from one branch only, by one path or by the ways of a switch."""
    for node in graph:
        if node.kind == "join":
            continue
        places = {_place_after(graph, name, node.name): name for name in node.in_steps if name != node.name}
        if len(places) > 1:
            first, second = list(places.values())[:2]
            yield _at(
                node,
                f"Step {node.name} is reached from {first} and from {second}, which are different branches. "
                f"Make it a join: def {node.name}(self, inputs).",
            )


def _joins_are_balanced(graph: Graph) -> Iterable[Problem]:
    for node in graph:
        if node.kind != "join" or node.split is None:
            continue
        split = graph[node.split]
        places = [_place_after(graph, name, node.name) for name in node.in_steps]
        splits = {tuple(name for name, _ in place) for place in places}
        if len(splits) > 1:
            yield _at(
                node,
                f"Join {node.name} gets {_listed(node.in_steps)}, which do not come from the same split. "
                "Join the inner split in a step of its own first.",
            )
            continue
        joined = {place[-1][1] for place in places}
        missing = [branch for branch in split.out_steps if branch not in joined]
        if node.name in split.out_steps:
            yield _at_next(
                split,
                f"The split of step {split.name} leads straight into the join {node.name}. "
                "Put a step between them.",
            )
        elif missing:
            yield _at(
                node,
                f"Join {node.name} closes the {_word(split)} of step {split.name} without {_listed(missing)}. "
                f"Let every branch of it lead to {node.name}.",
            )


def _place_after(graph: Graph, name: str, target: str) -> tuple[tuple[str, str], ...]:
    """The splits, with their branches, that a task of `target` is inside of when it comes from `name`."""
    node = graph[name]
    place = tuple(zip(node.split_parents, node.split_branches, strict=True))
    return (*place, (name, target)) if node.kind in _SPLITS else place


def _reachable(graph: Graph, first: str) -> set[str]:
    reached: set[str] = set()
    waiting = [first]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(graph[name].out_steps)
    return reached


# Decorators and parameters


def _decorator_problems(node: Node, decorators: Sequence[Decorator]) -> Iterable[Problem]:
    names = [decorator.name for decorator in decorators]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield _at(node, f"Step {node.name} has @{name} more than once. Leave one of them.")
    for decorator in decorators:
        try:
            problem = decorator.problem()
        except NotSettled:  # A resume looks again once it has the config of its origin.
            continue
        except UsageError as error:
            problem = f"@{decorator.name}: {error}"
        if problem is not None:
            yield _at(node, f"Step {node.name}: {problem}")
        elif decorator.name == "catch" and node.kind in ("foreach", "switch"):
            yield _at(
                node,
                f"Step {node.name} has @catch and ends in a {_word(node)}: after a failure nobody knows where to "
                "go on. Put the part that may fail in a step before it, and @catch there.",
            )


def _parameter_problems(graph: Graph, parameters: Mapping[str, Parameter]) -> Iterable[Problem]:
    try:
        check_parameters(parameters)
    except InvalidFlow as error:
        yield Problem(graph.file, graph.line, error.message)
        return
    names = [p.name for p in parameters.values() if not isinstance(p, Config)]
    taken = [name for name in names if name.replace("-", "_") in OPTION_NAMES]
    if taken and len(names) < len(parameters):
        message = f"Parameter {taken[0]} has the name of an option that gives configs. Give it another name."
        yield Problem(graph.file, graph.line, message)


# Words


def _word(node: Node) -> str:
    return node.kind if node.kind in ("foreach", "switch") else "split"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def _hint(name: str, graph: Graph) -> str:
    import difflib

    near = difflib.get_close_matches(name, graph.steps, n=2)
    return (
        f"Did you mean {' or '.join(near)}?" if near else f"Add @step def {name}(self), or name another step."
    )


_RULES: tuple[Rule, ...] = (
    _reserved_names,
    _one_start_one_end,
    _unambiguous_start_and_end,
    _step_names,
    _arguments,
    _edges_of_start_and_end,
    _ends_in_next,
    _known_forms,
    _switches,
    _unsupported,
    _known_targets,
    _no_loops,
    _all_reached,
    _foreach_has_body,
    _no_switch_into_join,
    _splits_end_in_joins,
    _steps_have_one_place,
    _joins_are_balanced,
)
