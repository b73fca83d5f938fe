from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from weft.lineage.errors import InvalidFlow, UsageError
from weft.runtime.parameters import (
    JSONType,
    Parameter,
    ParameterContext,
    check_parameters,
    constants_of,
    convert,
    parameters_of,
    resolve,
)


def parameter(**keywords: Any) -> Parameter:
    return Parameter("alpha", **keywords)


@pytest.mark.parametrize(
    ("declared", "given", "value"),
    [
        (parameter(), "text", "text"),
        (parameter(), 3, "3"),
        (parameter(default=1), "7", 7),
        (parameter(default=1), 7, 7),
        (parameter(default=0.5), "7", 7.0),
        (parameter(default=0.5), "1e-3", 0.001),
        (parameter(type=float), 7, 7.0),
        (parameter(default=False), "True", True),
        (parameter(default=True), "no", False),
        (parameter(type=bool), "1", True),
        (parameter(type=bool), 0, False),
        (parameter(type=JSONType), '{"a": [1, null]}', {"a": [1, None]}),
        (parameter(type=JSONType), {"a": 1}, {"a": 1}),
        (parameter(default=[1]), "[2]", [2]),
        (parameter(default={"a": 1}), '{"b": 2}', {"b": 2}),
        (parameter(separator=","), "a,b,,c", ["a", "b", "", "c"]),
        (parameter(separator=",", type=int), "1,2", [1, 2]),
        (parameter(separator=":", default="a:b"), ["x"], ["x"]),
        (parameter(type=click.IntRange(0, 9)), "7", 7),
        (parameter(type=click.Choice(["a", "b"])), "b", "b"),
        (parameter(type=click.FLOAT), "0.25", 0.25),
        (parameter(type=click.Path), "some/file", "some/file"),
        (parameter(type=complex), "1+2j", 1 + 2j),
        (parameter(default=1), None, None),
    ],
)
def test_values_convert_to_the_type(declared: Parameter, given: object, value: object) -> None:
    converted = convert(declared, given)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("declared", "given", "message"),
    [
        (
            parameter(default=1),
            "x",
            "Parameter alpha: 'x' is not of type int. Give --alpha a value of type int.",
        ),
        (parameter(default=1), "1.5", "not of type int"),
        (parameter(default=1), True, "not of type int"),
        (parameter(default=1.5), "x", "not of type float"),
        (parameter(default=1.5), [1], "not of type float"),
        (parameter(default=True), "maybe", "(true or false)"),
        (parameter(default=True), 2, "not of type bool"),
        (parameter(), [1], "not of type str"),
        (parameter(type=JSONType), "{", "not of type JSON"),
        (parameter(type=int, separator=","), "1,x", "'x' is not of type list of int"),
        (parameter(separator=","), 3, "not of type list of str"),
        (parameter(type=click.IntRange(0, 9)), "12", "12 is not in the range 0<=x<=9"),
        (parameter(type=int, secret=True), "hunter2", "the value given is not of type int"),
    ],
)
def test_values_that_do_not_convert_name_parameter_value_and_type(
    declared: Parameter, given: object, message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        convert(declared, given)
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)


class Base:
    size = 3
    hidden = Parameter("hidden")
    tables = Parameter("tables", default="t")
    _private = 1

    @property
    def derived(self) -> int:
        return 1

    @classmethod
    def make(cls) -> None: ...

    @staticmethod
    def free() -> None: ...

    class Inner: ...

    system = os
    shape: Any = (1, 2)


class Flow(Base):
    learning_rate = Parameter("learning-rate", default=0.1, help="How fast.")
    hidden = None
    size = 4
    shape = property(lambda self: ())

    def method(self) -> None: ...


def test_parameters_are_found_along_the_mro() -> None:
    assert {a: p.name for a, p in parameters_of(Flow).items()} == {
        "tables": "tables",
        "learning_rate": "learning-rate",
    }
    assert Flow.learning_rate.attribute == "learning_rate"
    assert Flow.learning_rate.option == "--learning-rate"
    assert repr(Flow.learning_rate) == "Parameter('learning-rate', type=float)"


def test_constants_are_the_plain_public_values() -> None:
    assert constants_of(Flow) == {"size": 4, "hidden": None}
    assert constants_of(Flow, root=Base) == {"size": 4, "hidden": None}
    assert constants_of(Base) == {"size": 3, "shape": (1, 2)}


def test_a_parameter_gives_way_to_the_flow_that_knows_its_value() -> None:
    class Lazy:
        alpha = Parameter("alpha")

        def __getattr__(self, name: str) -> str:
            return f"loaded {name}"

    lazy = Lazy()
    assert lazy.alpha == "loaded alpha"
    vars(lazy)["alpha"] = 3
    assert lazy.alpha == 3
    with pytest.raises(AttributeError, match="Read it in a step"):
        _ = Flow().learning_rate


def test_resolve_prefers_given_to_environment_to_default() -> None:
    parameters = parameters_of(Flow)
    environ = {"METAFLOW_RUN_LEARNING_RATE": "0.3", "METAFLOW_RUN_TABLES": "m", "WEFT_RUN_TABLES": "w"}
    assert resolve(parameters, {}, {}) == {"tables": "t", "learning_rate": 0.1}
    assert resolve(parameters, {}, environ) == {"tables": "w", "learning_rate": 0.3}
    assert resolve(parameters, {"learning_rate": "0.2"}, environ) == {"tables": "w", "learning_rate": 0.2}
    assert resolve(parameters, {"learning-rate": 1}, environ) == {"tables": "w", "learning_rate": 1.0}


def test_resolve_calls_a_default_once_with_its_context() -> None:
    seen: list[ParameterContext] = []

    def today(context: ParameterContext) -> str:
        seen.append(context)
        return "2026-01-01"

    parameters = {"day": Parameter("day", default=today)}
    assert resolve(parameters, {}, {}, "F", "ann") == {"day": "2026-01-01"}
    assert [(c.flow_name, c.user_name, c.parameter_name) for c in seen] == [("F", "ann", "day")]
    assert resolve(parameters, {"day": "x"}, {}) == {"day": "x"}
    assert len(seen) == 1


def test_resolve_treats_a_default_as_text_of_its_type() -> None:
    parameters = {"p": Parameter("p", default="[1, 2]", type=JSONType), "n": Parameter("n", type=int)}
    assert resolve(parameters, {}, {}) == {"p": [1, 2], "n": None}


@pytest.mark.parametrize(
    ("parameters", "given", "message"),
    [
        ({"a": Parameter("a", required=True, type=int)}, {}, "is required and was not given. Add --a <int>."),
        ({"alpha": Parameter("alpha")}, {"alhpa": 1}, "There is no parameter alhpa. Did you mean alpha?"),
        ({"alpha": Parameter("alpha")}, {"zzz": 1}, "The flow has: alpha."),
        ({}, {"zzz": 1}, "The flow has: none."),
        ({"a": Parameter("a", default="x", type=int)}, {}, "Parameter a: 'x' is not of type int"),
        ({"a": Parameter("a", default=lambda context: 1 / 0)}, {}, "failed with ZeroDivisionError"),
    ],
)
def test_resolve_refuses_with_the_fix(
    parameters: dict[str, Parameter], given: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        resolve(parameters, given, {})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["run-id"], "a name that weft needs itself"),
        (["max_workers"], "a name that weft needs itself"),
        (["next"], "a name that weft needs itself"),
        (["alpha", "ALPHA"], "Rename one."),
        (["a-b", "a_b"], "Rename one."),
        (["1st"], "cannot be an option"),
        ([""], "cannot be an option"),
    ],
)
def test_names_are_checked(names: list[str], message: str) -> None:
    parameters = {f"attribute_{i}": Parameter(name) for i, name in enumerate(names)}
    with pytest.raises(InvalidFlow) as raised:
        check_parameters(parameters)
    assert message in str(raised.value)


def test_a_default_that_is_a_function_says_nothing_of_the_type() -> None:
    default: Callable[[ParameterContext], int] = lambda context: 3
    assert resolve({"a": Parameter("a", default=default)}, {}, {}) == {"a": "3"}
    assert resolve({"a": Parameter("a", default=default, type=int)}, {}, {}) == {"a": 3}


def test_importing_parameters_imports_no_click() -> None:
    code = (
        "import sys, weft.runtime.parameters, weft.runtime.decorators, weft.runtime.failures;"
        "print(sorted({'click', 'inspect', 'dataclasses', 'json', 'ast', 'traceback', 'difflib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
