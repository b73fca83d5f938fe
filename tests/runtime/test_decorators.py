from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from weft.lineage.errors import UsageError
from weft.runtime.decorators import (
    Catch,
    Decorator,
    Environment,
    Resources,
    Retry,
    Timeout,
    attach,
    catch,
    decorators_of,
    environment,
    parse_decorator_spec,
    resources,
    retry,
    step,
    steps_of,
    timeout,
)
from weft.runtime.failures import ExceptionWrapper, FailureHandledByCatch, TimeoutException


class Flow:
    @retry
    @step
    def start(self) -> None:
        """Above, bare."""

    @step
    @catch(var="failure")
    @timeout(seconds=30, minutes=1, hours=1)
    def below(self) -> None: ...

    @environment(vars={"A": 1})
    @step(end=True, node_info={"colour": "red"})
    @resources(cpu=4, memory=8192)
    def finish(self) -> None: ...

    def helper(self) -> None: ...


def named(flow_class: type) -> dict[str, list[str]]:
    return {name: [d.name for d in found] for name, found in decorators_of(flow_class).items()}


def test_decorators_stand_above_or_below_step_and_keep_their_order() -> None:
    assert named(Flow) == {
        "start": ["retry"],
        "below": ["catch", "timeout"],
        "finish": ["environment", "resources"],
    }


def test_step_marks_its_function() -> None:
    finish: Any = Flow.finish
    assert (finish.is_step, finish.is_start, finish.is_end) == (True, False, True)
    assert (finish.name, finish.node_info) == ("finish", {"colour": "red"})
    assert Flow.start.__doc__ == "Above, bare."
    assert not hasattr(Flow.helper, "is_step")


def test_what_decorators_ask_for_has_types_and_units() -> None:
    assert (Retry().times, Retry().delay_s) == (3, 120.0)
    assert Retry(times=1, minutes_between_retries=0.5).delay_s == 30.0
    assert Timeout(seconds=30, minutes=1, hours=1).seconds == 3690.0
    assert Environment(vars={"A": 1}).vars == {"A": "1"}
    assert (Catch().var, Catch().print_exception) == (None, True)
    assert Resources(cpu=4).attributes == {
        "cpu": 4,
        "gpu": None,
        "disk": None,
        "memory": 4096,
        "shared_memory": None,
    }
    assert repr(Retry(times=1)) == "@retry(times=1)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: retry(time=3), "has no attribute 'time'. Did you mean times?"),
        (lambda: catch(zzz=3), "has no attribute 'zzz'. It has: var, print_exception."),
        (lambda: retry(Flow), "Put it on a method"),
        (lambda: retry(functools.partial(print)), "Put it on a method"),
        (lambda: step(Flow), "Put it on a method"),
        (lambda: parse_decorator_spec("rety"), "Did you mean retry?"),
        (
            lambda: parse_decorator_spec("zzz"),
            "Known are: cache, catch, environment, resources, retry, timeout.",
        ),
        (lambda: parse_decorator_spec("retry:3"), "Write name:attribute=value"),
        (lambda: parse_decorator_spec("retry:tines=3"), "Did you mean times?"),
        (lambda: parse_decorator_spec("retry:times=9"), "at most 4"),
    ],
)
def test_wrong_uses_are_refused_with_the_fix(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        call()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "attributes"),
    [
        ("retry", {"times": 3, "minutes_between_retries": 2}),
        ("retry:times=0", {"times": 0, "minutes_between_retries": 2}),
        ("retry:times=1, minutes_between_retries=0.5", {"times": 1, "minutes_between_retries": 0.5}),
        ("catch:var=failure,print_exception=False", {"var": "failure", "print_exception": False}),
        ("catch:var=None,print_exception=true", {"var": None, "print_exception": True}),
        ('environment:vars={"A": "1,2", "B": "}"}', {"vars": {"A": "1,2", "B": "}"}}),
    ],
)
def test_specs_parse(spec: str, attributes: dict[str, object]) -> None:
    assert parse_decorator_spec(spec).attributes == attributes


def test_attach_goes_to_the_steps_that_lack_the_decorator() -> None:
    class Base:
        @step
        def start(self) -> None: ...

        @step
        @retry(times=0)
        def middle(self) -> None: ...

    class Sub(Base):
        @step
        def end(self) -> None: ...

    attach(Sub, "retry:times=2")
    found: dict[str, tuple[Decorator, ...]] = decorators_of(Sub)
    assert {name: [d.attributes["times"] for d in ds] for name, ds in found.items()} == {
        "start": [2],
        "middle": [0],
        "end": [2],
    }


def test_steps_of_follows_the_mro() -> None:
    class Left:
        @step
        def start(self) -> None: ...

        @step
        def shared(self) -> None: ...

    class Right:
        @step
        def shared(self) -> None: ...

        @step
        def end(self) -> None: ...

    class Both(Left, Right):
        start = None  # type: ignore[assignment]  # what a subclass may do

    assert list(steps_of(Both)) == ["shared", "end"]
    assert steps_of(Both)["shared"] is Left.shared


def test_caught_failures_are_text_and_survive_a_pickle() -> None:
    try:
        raise TimeoutException("too long")
    except TimeoutException as error:
        caught = ExceptionWrapper.of(error)
    again = pickle.loads(pickle.dumps(caught))
    assert again == caught
    assert hash(again) == hash(caught)
    assert bool(caught)
    assert caught.type == "weft.runtime.failures.TimeoutException"
    assert caught.exception == "too long"
    assert caught.stacktrace is not None
    assert caught.stacktrace.endswith("TimeoutException: too long\n")
    assert str(caught) == caught.stacktrace
    assert repr(caught) == "ExceptionWrapper(weft.runtime.failures.TimeoutException: too long)"
    assert ExceptionWrapper.of(ValueError("x")).stacktrace is None
    assert str(ExceptionWrapper.of(ValueError("x"))) == "builtins.ValueError: x"
    assert pickle.loads(pickle.dumps(FailureHandledByCatch(3))).attempt == 3
