from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.runtime.checks import Problem, check_flow
from weft.runtime.source import parse_flow

FlowOf = Callable[..., type]
ImportFlow = Callable[..., type]


def problems_of(flow_class: type) -> list[Problem]:
    return check_flow(flow_class, parse_flow(flow_class))


class Broken(NamedTuple):
    """A flow with one fault: what is said of it, and the line of the file it is said of."""

    message: str
    line: int
    steps: dict[str, str]


# Line 3 of the file is `class F:`; step number n (from 0) has its decorator, its `def` and its last
# statement on the lines 4 + 3n, 5 + 3n and 6 + 3n.
BROKEN = {
    "reserved name": Broken("Step next has a name", 8, {"start": "self.next", "next": "self.end", "end": ""}),
    "no start": Broken("has no start step", 3, {"begin": "self.end", "end": ""}),
    "no end": Broken("has no end step", 3, {"start": "self.a", "a": "self.start"}),
    "start entered": Broken(
        "Step b goes back to start",
        12,
        {"start": "self.a", "a": "self.b", "b": "self.start", "end": ""},
    ),
    "end goes on": Broken(
        "ends the flow but calls self.next", 9, {"start": "self.end", "end": "self.a", "a": "self.end"}
    ),
    "end joins": Broken(
        "ends the flow but takes inputs",
        14,
        {"start": "self.a, self.b", "a": "self.end", "b": "self.end", "end": "inputs:"},
    ),
    "upper case": Broken("'Fit' cannot be the name", 8, {"start": "self.Fit", "Fit": "self.end", "end": ""}),
    "underscore": Broken("'_a' cannot be the name", 8, {"start": "self._a", "_a": "self.end", "end": ""}),
    "join that splits": Broken(
        "is a join (it takes inputs) and splits",
        15,
        {
            "start": "self.a, self.b",
            "a": "self.j",
            "b": "self.j",
            "j": "inputs: self.c, self.d",
            "c": "self.k",
            "d": "self.k",
            "k": "inputs: self.end",
            "end": "",
        },
    ),
    "no next": Broken("not self.next", 9, {"start": "self.a", "a": "", "end": ""}),
    "unknown form": Broken("none of the forms", 6, {"start": "self.end, foreach=self.xs", "end": ""}),
    "foreach of two": Broken(
        "none of the forms", 6, {"start": "self.a, self.end, foreach='xs'", "a": "self.end", "end": ""}
    ),
    "not a step": Broken("none of the forms", 6, {"start": "'end'", "end": ""}),
    "nothing": Broken("none of the forms", 6, {"start": "*[]", "end": ""}),
    "case that is a name": Broken(
        "none of the forms",
        6,
        {"start": "{x: self.end, 'b': self.a}, condition='v'", "a": "self.end", "end": ""},
    ),
    "switch without condition": Broken(
        "has no condition", 6, {"start": "{'a': self.a, 'b': self.end}", "a": "self.end", "end": ""}
    ),
    "switch without cases": Broken("has no cases", 6, {"start": "{}, condition='v'", "end": ""}),
    "switch of one": Broken(
        "can only go to end", 6, {"start": "{'a': self.end, 'b': self.end}, condition='v'", "end": ""}
    ),
    "gang": Broken(
        "num_parallel, which this version",
        6,
        {"start": "self.a, num_parallel=4", "a": "self.j", "j": "inputs: self.end", "end": ""},
    ),
    "unknown step": Broken(
        "goes to fitt, which is no step of F. Did you mean fit?",
        6,
        {"start": "self.fitt", "fit": "self.end", "end": ""},
    ),
    "unlike any step": Broken("Add @step def zzz(self)", 6, {"start": "self.zzz", "end": ""}),
    "named twice": Broken(
        "goes to a more than once",
        6,
        {"start": "self.a, self.a", "a": "self.j", "j": "inputs: self.end", "end": ""},
    ),
    "loop": Broken(
        "in a loop: a -> b -> c -> a",
        15,
        {"start": "self.a", "a": "self.b", "b": "self.c", "c": "self.a", "end": ""},
    ),
    "loop through a switch": Broken(
        "in a loop: a -> b -> a",
        12,
        {
            "start": "self.a",
            "a": "self.b",
            "b": "{'again': self.a, 'done': self.end}, condition='v'",
            "end": "",
        },
    ),
    "own successor": Broken("in a loop: a -> a", 9, {"start": "self.a", "a": "self.a", "end": ""}),
    "unreached": Broken(
        "Nothing leads to step lost", 11, {"start": "self.end", "a": "self.end", "lost": "self.a", "end": ""}
    ),
    "foreach without body": Broken(
        "leads straight into the join j",
        6,
        {"start": "self.j, foreach='xs'", "j": "inputs: self.end", "end": ""},
    ),
    "switch into join": Broken(
        "switch of step a leads straight into the join j",
        9,
        {
            "start": "self.a, self.b",
            "a": "{'x': self.j, 'y': self.c}, condition='v'",
            "c": "self.j",
            "b": "self.j",
            "j": "inputs: self.end",
            "end": "",
        },
    ),
    "end before join": Broken(
        "before the foreach of step start was joined",
        6,
        {"start": "self.a, foreach='xs'", "a": "self.end", "end": ""},
    ),
    "end before outer join": Broken(
        "before the split of step start was joined",
        6,
        {
            "start": "self.a, self.b",
            "a": "self.c, foreach='xs'",
            "c": "self.j",
            "j": "inputs: self.end",
            "b": "self.end",
            "end": "",
        },
    ),
    "end from one branch": Broken(
        "before the split of step start was joined",
        6,
        {
            "start": "self.a, self.b, self.c",
            "a": "self.j",
            "b": "self.j",
            "j": "inputs: self.end",
            "c": "self.end",
            "end": "",
        },
    ),
    "join of nothing": Broken(
        "takes inputs, but no split", 8, {"start": "self.a", "a": "inputs: self.end", "end": ""}
    ),
    "branch left out": Broken(
        "closes the split of step start without c",
        17,
        {
            "start": "self.a, self.b, self.c",
            "a": "self.j",
            "b": "self.j",
            "c": "self.k",
            "j": "inputs: self.k",
            "k": "inputs: self.end",
            "end": "",
        },
    ),
    "join of two splits": Broken(
        "do not come from the same split",
        20,
        {
            "start": "self.a, self.b",
            "a": "self.c, self.d",
            "b": "self.j",
            "c": "self.j",
            "d": "self.j",
            "j": "inputs: self.end",
            "end": "",
        },
    ),
    "join of cousins": Broken(
        "do not come from the same split",
        29,
        {
            "start": "self.a, self.b",
            "a": "self.s",
            "b": "self.t",
            "s": "self.c, foreach='xs'",
            "t": "self.s2",
            "s2": "self.d, foreach='xs'",
            "c": "self.j",
            "d": "self.j",
            "j": "inputs: self.k",
            "k": "inputs: self.end",
            "end": "",
        },
    ),
    "split into join": Broken(
        "leads straight into the join j",
        6,
        {"start": "self.a, self.j", "a": "self.j", "j": "inputs: self.end", "end": ""},
    ),
    "branches that meet": Broken(
        "Make it a join: def c(self, inputs)",
        14,
        {
            "start": "self.a, self.b",
            "a": "self.c",
            "b": "self.c",
            "c": "self.j",
            "j": "inputs: self.end",
            "end": "",
        },
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_check_names_the_place_and_the_fix(case: str, flow_of: FlowOf) -> None:
    broken = BROKEN[case]
    problems = problems_of(flow_of(**broken.steps))
    assert problems, "nothing was found"
    assert broken.message in problems[0].message
    assert problems[0].line == broken.line
    assert problems[0].path.endswith("flow_file.py")
    assert problems[0].message.endswith((".", "?", "inputs)."))


VALID = {
    "one step": {"only": ""},
    "linear": {"start": "self.a", "a": "self.end", "end": ""},
    "split": {
        "start": "self.a, self.b",
        "a": "self.j",
        "b": "self.c",
        "c": "self.j",
        "j": "inputs: self.end",
        "end": "",
    },
    "foreach": {"start": "self.a, foreach='xs'", "a": "self.j", "j": "inputs: self.end", "end": ""},
    "nested foreach": {
        "start": "self.a, foreach='xs'",
        "a": "self.b, foreach='ys'",
        "b": "self.j",
        "j": "inputs: self.k",
        "k": "inputs: self.end",
        "end": "",
    },
    "split in foreach": {
        "start": "self.a, foreach='xs'",
        "a": "self.b, self.c",
        "b": "self.j",
        "c": "self.j",
        "j": "inputs: self.d",
        "d": "self.k",
        "k": "inputs: self.end",
        "end": "",
    },
    "foreach in split": {
        "start": "self.a, self.b",
        "a": "self.c, foreach='xs'",
        "c": "self.j",
        "j": "inputs: self.k",
        "b": "self.k",
        "k": "inputs: self.end",
        "end": "",
    },
    "one foreach after another": {
        "start": "self.a, foreach='xs'",
        "a": "self.j",
        "j": "inputs: self.again",
        "again": "self.b, foreach='xs'",
        "b": "self.k",
        "k": "inputs: self.end",
        "end": "",
    },
    "switch": {
        "start": "{'x': self.a, 'y': self.b, 3: self.end}, condition='v'",
        "a": "self.end",
        "b": "self.end",
        "end": "",
    },
    "switch on itself": {
        "start": "self.a",
        "a": "{'again': self.a, 'done': self.end}, condition='v'",
        "end": "",
    },
    "start that recurs": {"start": "{True: self.start, False: self.end}, condition='v'", "end": ""},
    "switch in foreach": {
        "start": "self.a, foreach='xs'",
        "a": "{'x': self.b, 'y': self.c}, condition='v'",
        "b": "self.j",
        "c": "self.j",
        "j": "inputs: self.end",
        "end": "",
    },
    "switch in a branch": {
        "start": "self.a, self.b",
        "a": "{'x': self.c, 'y': self.d}, condition='v'",
        "b": "self.j",
        "c": "self.j",
        "d": "self.e",
        "e": "self.j",
        "j": "inputs: self.end",
        "end": "",
    },
    "switch with a split inside": {
        "start": "{'x': self.s, 'y': self.m}, condition='v'",
        "s": "self.a, self.b",
        "a": "self.j",
        "b": "self.j",
        "j": "inputs: self.m",
        "m": "self.end",
        "end": "",
    },
}


@pytest.mark.parametrize("case", VALID)
def test_check_lets_through(case: str, flow_of: FlowOf) -> None:
    assert problems_of(flow_of(**VALID[case])) == []


def test_check_lets_a_thousand_steps_through(flow_of: FlowOf) -> None:
    steps = {f"s{i}": f"self.s{i + 1}" for i in range(1500)}
    assert problems_of(flow_of(start="self.s0", **steps, s1500="self.end", end="")) == []


FLOW = """
class F:
    {class_body}
    @step
    def start(self): self.next(self.work)
    {decorators}
    @step
    def work(self): {work}
    @step
    def body(self): self.next(self.j)
    @step
    def j(self, inputs): self.next(self.end)
    @step
    def end(self): pass
"""
FOREACH = "self.next(self.body, foreach='xs')"
LINEAR = "self.next(self.body)"


@pytest.mark.parametrize(
    ("decorators", "message"),
    [
        ("@retry(times=5)", "Give at most 4"),
        ("@retry(times=-1)", "Give a whole number from 0 to 4"),
        ("@retry(times='2')", "Give a whole number from 0 to 4"),
        ("@retry(minutes_between_retries=None)", "is not a duration"),
        ("@timeout", "is 0 seconds long"),
        ("@timeout(seconds=-5, minutes=1)", "is not a duration"),
        ("@timeout(seconds='5')", "Give a number of seconds"),
        ("@environment(vars=['A'])", "is not a dict"),
        ("@environment(vars={'A=B': '1'})", "cannot set a variable named 'A=B'"),
        ("@environment(vars={'A': None})", "cannot set A to None"),
        ("@catch(var='my var')", "cannot be the name of an artifact"),
        ("@catch", "has @catch and ends in a foreach"),
        ("@retry\n    @retry(times=1)", "has @retry more than once"),
    ],
)
def test_check_finds_decorators_that_cannot_work(
    decorators: str, message: str, import_flow: ImportFlow
) -> None:
    problems = problems_of(import_flow(FLOW.format(class_body="", decorators=decorators, work=FOREACH)))
    assert message in problems[0].message
    assert problems[0].message.startswith("Step work")


def test_check_lets_decorators_through(import_flow: ImportFlow) -> None:
    decorators = (
        "@retry(times=0)\n    @timeout(minutes=1.5)\n    @environment(vars={'A': 1})\n    @resources(cpu=2)"
    )
    assert problems_of(import_flow(FLOW.format(class_body="", decorators=decorators, work=FOREACH))) == []


@pytest.mark.parametrize(
    ("class_body", "message"),
    [
        ("run_id = Parameter('run-id')", "has a name that weft needs itself"),
        ("a = Parameter('alpha'); b = Parameter('Alpha')", "Rename one"),
        ("a = Parameter('al pha')", "cannot be an option"),
        ("name = Parameter('title')", "has a name that weft needs itself"),
        ("def __init__(self): self.k = 1", "__init__ is never called for a task"),
    ],
)
def test_check_finds_class_bodies_that_cannot_work(
    class_body: str, message: str, import_flow: ImportFlow
) -> None:
    problems = problems_of(import_flow(FLOW.format(class_body=class_body, decorators="", work=FOREACH)))
    assert message in problems[0].message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def start(): self.next(self.end)", "has no self. Write def start(self)"),
        ("def start(self, a, b): self.next(self.end)", "has 3 arguments"),
        ("def start(self):\n        if 1:\n            self.next(self.end)", "outside if, for, with and try"),
        ("def start(self): return self.next(self.end)", "The last statement of step start is not self.next"),
    ],
)
def test_check_finds_bodies_that_cannot_work(source: str, message: str, import_flow: ImportFlow) -> None:
    text = f"class F:\n    @step\n    {source}\n    @step\n    def end(self): pass\n"
    assert message in problems_of(import_flow(text))[0].message


def test_two_marked_starts_and_ambiguous_ends_are_found(import_flow: ImportFlow) -> None:
    text = """
        class F:
            @step(start=True)
            def a(self): self.next(self.b)
            @step(start={second})
            def b(self): self.next(self.finish)
            @step
            def end(self): self.next(self.finish)
            @step(end=True)
            def finish(self): pass
    """
    assert "Steps a and b are all marked as the start" in str(
        problems_of(import_flow(text.format(second=True)))[0]
    )
    assert "Rename end, or take end=True off finish." in str(
        problems_of(import_flow(text.format(second=False)))[0]
    )


def test_custom_names_and_inheritance_check(import_flow: ImportFlow) -> None:
    text = """
        class Base:
            @step(start=True)
            def begin(self): self.next(self.finish)
            @step(end=True)
            def finish(self): pass
        class F(Base):
            alpha = Parameter("alpha", default=0.1)
    """
    assert problems_of(import_flow(text)) == []


@st.composite
def _chains(draw: st.DrawFn, depth: int, names: Iterator[str], after: str, steps: dict[str, str]) -> str:
    """Adds steps that run before `after`, and gives the name of their first one."""
    first = after
    for _ in range(draw(st.integers(0 if depth else 1, 2))):
        kind = draw(st.sampled_from(["linear", "split", "foreach", "switch"] if depth < 3 else ["linear"]))
        name = next(names)
        if kind == "linear":
            steps[name] = f"self.{first}"
        elif kind == "switch":
            ways = [draw(_chains(depth + 1, names, _linear(names, first, steps), steps)) for _ in range(2)]
            steps[name] = f"{{'a': self.{ways[0]}, 'b': self.{ways[1]}}}, condition='v'"
        else:
            join = next(names)
            steps[join] = f"inputs: self.{first}"
            count = 1 if kind == "foreach" else draw(st.integers(2, 3))
            heads = [
                draw(_chains(depth + 1, names, _linear(names, join, steps), steps)) for _ in range(count)
            ]
            steps[name] = ", ".join(f"self.{head}" for head in heads)
            steps[name] += ", foreach='xs'" if kind == "foreach" else ""
        first = name
    return first


def _linear(names: Iterator[str], after: str, steps: dict[str, str]) -> str:
    name = next(names)
    steps[name] = f"self.{after}"
    return name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_well_nested_flow_checks(data: st.DataObject, flow_of: FlowOf) -> None:
    steps = {"end": ""}
    names = (f"s{number}" for number in itertools.count())
    steps["start"] = f"self.{data.draw(_chains(0, names, 'end', steps))}"
    flow_class = flow_of(**steps)
    graph = parse_flow(flow_class)
    assert check_flow(flow_class, graph) == []
    order = list(graph.steps)
    assert set(order) == set(steps)
    for node in graph:
        assert all(order.index(target) > order.index(node.name) for target in node.out_steps)
        if node.split is not None:
            # Branches lead into a join in their own order, however its steps are named or defined.
            split = graph[node.split]
            places = [
                dict(zip(graph[s].split_parents, graph[s].split_branches, strict=True))
                for s in node.join_order
            ]
            positions = [split.out_steps.index(place[split.name]) for place in places]
            assert positions == sorted(positions)
            assert set(positions) == set(range(len(split.out_steps)))
            assert split.matching_join == node.name
