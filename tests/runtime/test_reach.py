"""What of the code counts for a step, as tables of edits: which steps see one, and where nothing can be proved."""

from __future__ import annotations

import ast
import textwrap

import pytest

from weft.runtime.modules import ModuleSource
from weft.runtime.reach import EVERY_MODULE, REACHED, FlowReach, reach_flow

FLOW = """
'''What the flow is for.'''
import os
import numpy as np
import tools
import pkg.deep
from functools import partial
from tools import clean, clean as tidy
from weft import FlowSpec, Parameter, retry, step
from pkg import near

SCALE = 2
WIDTH = SCALE * 3
TABLE = {"a": clean}

def local(x):
    '''Doubles.'''
    return x * SCALE  # twice

def unused(x):
    return local(x) + 1

class Model:
    '''A model.'''
    rate = 0.1
    def fit(self, xs):
        return self._loss(xs)
    def _loss(self, xs):
        return WIDTH

class Mixin:
    unit = "kg"
    def weigh(self):
        return self.unit

class Flow(Mixin, FlowSpec):
    '''Doc.'''
    alpha = Parameter("alpha", default=0.5)
    size = 10
    kept = 11

    @retry(times=2)
    @step
    def start(self):
        '''First.'''
        self.x = clean([1, 2])
        self.next(self.a, self.b)

    @step
    def a(self):
        self.y = local(self.x) + self.assist() + self.alpha
        self.next(self.join)

    @step
    def b(self):
        import tools.more as more
        self.z = Model().fit(self.x) + more.extra(1)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.w = ", ".join(str(i.index) for i in inputs) + near.where() + self.weigh()
        self.next(self.end)

    @step
    def end(self):
        print(pkg.deep.dig(self.w), TABLE)

    def assist(self):
        return self.size

    def idle(self):
        return 1

if __name__ == "__main__":
    Flow()
"""
TOOLS = """
import json
from .more import extra as _extra
LIMIT = 7
def clean(xs):
    return [x for x in xs if x < LIMIT]
def other(xs):
    return xs
"""
MORE = """
def extra(x):
    return x
def spare(x):
    return x
"""
SOURCES = {
    "__main__": FLOW,
    "tools": TOOLS,
    "tools.more": MORE,
    "pkg": "from pkg import near\n",
    "pkg.near": "import scipy\nimport pkg.deep\ndef where():\n    return 'here'\n",
    "pkg.deep": "def dig(x):\n    return x\n",
}
STEPS = ("start", "a", "b", "join", "end")
CLASSES = (("__main__", "Flow"), ("__main__", "Mixin"))


def reach_of(sources: dict[str, str], steps: tuple[str, ...] = STEPS, asked: str = "") -> FlowReach:
    def find(name: str) -> ModuleSource | None:
        if name not in sources:
            return None
        is_package = any(other.startswith(f"{name}.") for other in sources)
        package = name if is_package else name.rpartition(".")[0]
        file = "flow.py" if name == "__main__" else name.replace(".", "/") + ".py"
        return ModuleSource(name, file, package, ast.parse(textwrap.dedent(sources[name])))

    tree = ast.parse(textwrap.dedent(sources["__main__"]))
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    classes = [(module, name) for module, name in CLASSES if name in defined]
    return reach_flow(classes, dict.fromkeys(steps, asked), find)


def changed(before: FlowReach, after: FlowReach) -> set[str]:
    return {step for step, reach in before.steps.items() if reach[:2] != after.steps[step][:2]}


ALL = set(STEPS)


@pytest.mark.parametrize(
    ("module", "old", "new", "seen_by"),
    [
        # What does not count
        ("__main__", "# twice", "# two times", set()),
        ("__main__", "x * SCALE", "x*SCALE", set()),
        ("__main__", "x * SCALE", "(\n        x * SCALE\n    )", set()),
        ("__main__", "'''Doubles.'''", "'''Times two.'''", set()),
        ("__main__", "'''A model.'''", "", set()),
        ("__main__", "'''What the flow is for.'''", "", set()),
        ("__main__", "'''First.'''", "", set()),
        ("__main__", "'''Doc.'''", "'''Another.'''", set()),
        ("__main__", "local(x) + 1", "local(x) + 2", set()),
        ("__main__", "return 1\n", "return 2\n", set()),
        ("__main__", "kept = 11", "kept = 12", set()),
        ("__main__", "default=0.5", "default=0.7", set()),
        ("__main__", "times=2", "times=4", set()),
        ("__main__", "    @retry(times=2)\n", "", set()),
        ("__main__", "import os\n", "", set()),
        ("tools", "def other(xs):\n    return xs", "def other(xs):\n    return None", set()),
        ("tools.more", "def spare(x):\n    return x", "def spare(x):\n    return 2", set()),
        # What counts, and for whom
        ("__main__", "clean([1, 2])", "clean([1, 3])", {"start"}),
        ("__main__", "self.a, self.b", "self.b, self.a", {"start"}),
        ("__main__", "x * SCALE", "x + SCALE", {"a"}),
        ("__main__", "SCALE = 2", "SCALE = 3", {"a", "b"}),
        ("__main__", "WIDTH = SCALE * 3", "WIDTH = SCALE * 4", {"b"}),
        ("__main__", "return WIDTH", "return -WIDTH", {"b"}),
        ("__main__", "rate = 0.1", "rate = 0.2", {"b"}),
        ("__main__", "size = 10", "size = 11", {"a"}),
        ("__main__", "return self.size", "return -self.size", {"a"}),
        ("__main__", 'unit = "kg"', 'unit = "g"', {"join"}),
        ("__main__", "return self.unit", "return self.unit * 2", {"join"}),
        ("__main__", '{"a": clean}', '{"b": clean}', {"end"}),
        ("__main__", "from pkg import near", "from pkg import deep as near", {"join"}),
        ("tools", "LIMIT = 7", "LIMIT = 8", {"start", "end"}),
        ("tools", "if x < LIMIT", "if x <= LIMIT", {"start", "end"}),
        ("tools.more", "def extra(x):\n    return x", "def extra(x):\n    return -x", {"b"}),
        ("pkg.near", "'here'", "'there'", {"join"}),
        ("pkg.deep", "return x", "return -x", {"end"}),
        ("__main__", "import tools.more as more\n", "import tools as more\n", {"b"}),
        ("__main__", "from tools import clean,", "from tools import other as clean,", {"start", "end"}),
        # What a module does when it is imported counts for all
        ("__main__", "SCALE = 2\n", "SCALE = 2\nnp.random.seed(3)\n", ALL),
        ("__main__", "    Flow()", "    np.random.seed(3)\n    Flow()", ALL),
        ("tools", "LIMIT = 7\n", "LIMIT = 7\njson.encoder.FLOAT_REPR = repr\n", ALL),
        ("pkg.near", "import scipy\n", "import scipy\nimport torch\n", ALL),
        ("tools", "def other", "import atexit\n@atexit.register\ndef other", ALL - ALL),
        ("tools", "def other", "@clean\ndef other", ALL),
        ("tools", "LIMIT = 7\n", "LIMIT = 7\nREADY = clean([])\n", ALL),
        # Bindings
        ("__main__", "clean as tidy", "clean as neat", set()),
        ("__main__", "def unused(x)", "def np(x)", set()),
    ],
)
def test_edit_is_seen_by_the_steps_that_reach_it(module: str, old: str, new: str, seen_by: set[str]) -> None:
    assert old in SOURCES[module]
    before = reach_of(SOURCES)
    after = reach_of({**SOURCES, module: SOURCES[module].replace(old, new)})
    assert {reach.rule for reach in before.steps.values()} == {REACHED}
    assert changed(before, after) == seen_by


def test_reach_names_what_it_took_in() -> None:
    reach = reach_of(SOURCES).steps
    assert set(reach["a"].parts) == {
        "flow.py:Flow.a",
        "flow.py:Flow.assist",
        "flow.py:Flow.size",
        "flow.py:SCALE",
        "flow.py:local",
    }
    assert reach["b"].modules == {"numpy", "scipy"}


BODY = """
import importlib, pickle, math, operator
import tools
from weft import FlowSpec, step
class Box: pass
box = Box()
def wrap(f):
    return f
def plain(x):
    return x
class Flow(FlowSpec):
    @step
    def start(self):
        BODY
        self.next(self.end)
    @step
    def end(self):
        pass
    def assist(self):
        return 1
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("getattr(self, self.name)()", "getattr"),
        ("getattr(tools, self.which)()", "tools"),
        ("list(map(getattr, [self], ['x']))", "getattr is used"),
        ("exec(self.text)", "exec"),
        ("eval('plain(1)')", "eval"),
        ("globals()['plain'](1)", "globals"),
        ("vars(self)", "vars"),
        ("importlib.import_module('tools')", "importlib.import_module"),
        ("__import__('tools')", "__import__"),
        ("pickle.load(open('f', 'rb'))", "pickle.load"),
        ("import sys; sys.modules['tools'].clean()", "sys.modules"),
        ("operator.methodcaller('assist')(self)", "operator.methodcaller"),
        ("self.__dict__['x']", "__dict__"),
        ("plain.__globals__['wrap']", "__globals__"),
        ("missing(1)", "missing is bound nowhere"),
        ("tools.missing(1)", "missing is not bound in tools.py"),
        ("tools.clean = plain", "tools"),
        ("plain.mark = 1", "plain"),
        ("setattr(tools, 'clean', plain)", "tools"),
        ("setattr(tools, self.which, plain)", "tools"),
        ("from unittest import mock; mock.patch('tools.clean')", "unittest.mock"),
        ("@box.register\n        def f(): pass", "decorator of unknown kind"),
        ("@Flow.made()()\n        def f(): pass", "decorator of unknown kind"),
    ],
)
def test_what_cannot_be_proved_counts_every_module(body: str, reason: str) -> None:
    sources = {"__main__": BODY.replace("BODY", body), "tools": TOOLS, "tools.more": MORE}
    before = reach_of(sources, ("start", "end"))
    assert before.steps["start"].rule == EVERY_MODULE
    assert reason in (before.steps["start"].reason or "")
    assert before.steps["end"].rule == REACHED
    edited = {**sources, "tools": TOOLS.replace("return xs", "return None")}
    after = reach_of(edited, ("start", "end"))
    assert changed(before, after) == {"start"}


@pytest.mark.parametrize(
    "body",
    [
        "getattr(self, 'x', None); hasattr(self, 'y')",
        "[setattr(self, f'part_{i}', i) for i in range(3)]",
        "getattr(math, self.which)(2)",
        "xs = [plain for plain in range(3)]; print(xs)",
        "print((lambda box: box)(1))",
        "print([y := 1, y])",
        "def inner(missing):\n            return missing\n        inner(1)",
        "try:\n            pass\n        except ValueError as error:\n            print(error)",
        "match self.x:\n            case {'a': found, **others}:\n                print(found, others)",
        "import json.decoder; json.decoder.JSONDecoder()",
        "@wrap\n        def f(): pass",
        "class Inner:\n            a = 1\n            b = a\n        Inner()",
        "global made; made = 1; self.y = 2",
        "self.index; self.input; self.foreach_stack()",
        "with open('f') as file:\n            print(file)",
    ],
)
def test_what_can_be_proved_is_not_given_up(body: str) -> None:
    sources = {"__main__": BODY.replace("BODY", body), "tools": TOOLS, "tools.more": MORE}
    reach = reach_of(sources, ("start", "end")).steps["start"]
    assert (reach.rule, reach.reason) == (REACHED, None)


def test_getattr_with_a_literal_is_an_attribute() -> None:
    sources = {
        "__main__": BODY.replace("BODY", "getattr(self, 'assist')()"),
        "tools": TOOLS,
        "tools.more": MORE,
    }
    assert "flow.py:Flow.assist" in reach_of(sources, ("start", "end")).steps["start"].parts


@pytest.mark.parametrize(
    ("body", "is_reached"),
    [
        ("plain(self)", False),  # nobody reads an attribute of that name
        ("plain(self).assist()", True),
        ("flow = self; flow.assist()", True),
        ("super().assist()", True),
        ("Flow.assist(self)", True),
        ("(lambda: self.assist())()", True),
        ("self.x.assist()", True),
        ("box.assist()", False),
    ],
)
def test_methods_are_reached_through_flow_objects(body: str, is_reached: bool) -> None:
    if body == "self.x.assist()":
        body = "self.x.assist(self)"  # the flow is handed to it
    sources = {"__main__": BODY.replace("BODY", body), "tools": TOOLS, "tools.more": MORE}
    parts = reach_of(sources, ("start", "end")).steps["start"].parts
    assert ("flow.py:Flow.assist" in parts) == is_reached


def test_star_import_is_not_proved() -> None:
    sources = {**SOURCES, "__main__": FLOW.replace("import os\n", "from tools import *\n")}
    assert {reach.rule for reach in reach_of(sources).steps.values()} == {EVERY_MODULE}
    elsewhere = {**SOURCES, "pkg.deep": "from math import *\ndef dig(x):\n    return x\n"}
    assert [s for s, reach in reach_of(elsewhere).steps.items() if reach.rule == EVERY_MODULE] == ["end"]


def test_module_that_is_handed_on_counts_whole() -> None:
    sources = {**SOURCES, "__main__": FLOW.replace("clean([1, 2])", "list(map(print, [tools]))")}
    after = {**sources, "tools": TOOLS.replace("return xs", "return None")}
    assert changed(reach_of(sources), reach_of(after)) == {"start"}


def test_decorators_that_change_a_result_count() -> None:
    assert changed(reach_of(SOURCES), reach_of(SOURCES, asked="[catch]")) == ALL


def test_class_that_registers_itself_counts_for_all() -> None:
    base = "class Base:\n    def __init_subclass__(cls): pass\nclass Made(Base):\n    x = 1\n"
    sources = {**SOURCES, "pkg.deep": base + SOURCES["pkg.deep"]}
    after = {**sources, "pkg.deep": sources["pkg.deep"].replace("x = 1", "x = 2")}
    assert changed(reach_of(sources), reach_of(after)) == ALL


def test_number_of_items_counts_where_it_can_be_asked_for() -> None:
    sources = {"__main__": BODY.replace("BODY", "self.foreach_stack()"), "tools": TOOLS, "tools.more": MORE}
    parts = reach_of(sources, ("start", "end")).steps
    assert "self.foreach_stack" in parts["start"].parts
    assert "self.foreach_stack" not in parts["end"].parts
