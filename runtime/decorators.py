"""The decorators of a step, as data: what they ask for is read when the step is run, nothing happens here.

A decorated function carries `is_step`, `is_start`, `is_end` and `decorators`, a list in the order of
the source, topmost first. All of them may stand above or below `@step`, bare or with arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, overload

from weft.lineage.errors import UsageError
from weft.runtime.config import keys_in, settled

__all__ = [
    "RETRIES_MAX",
    "Cache",
    "Catch",
    "Decorator",
    "Environment",
    "Resources",
    "Retry",
    "Timeout",
    "attach",
    "cache",
    "catch",
    "decorators_of",
    "environment",
    "is_step",
    "parse_decorator_spec",
    "resources",
    "retry",
    "step",
    "steps_of",
    "timeout",
]

Function = TypeVar("Function", bound=Callable[..., Any])

#: Six attempts at most, one of which is kept for `@catch`.
RETRIES_MAX = 4


class Decorator:
    """What one decorator asks for: `attributes` are its defaults, changed by what was given.

    Raises: UsageError for an attribute it does not have.
    """

    name: ClassVar[str] = ""
    defaults: ClassVar[Mapping[str, Any]] = {}

    __slots__ = ("_given",)

    def __init__(self, **attributes: Any) -> None:
        for attribute in attributes:
            if attribute not in self.defaults:
                raise UsageError(
                    f"@{self.name} has no attribute {attribute!r}. {_known(attribute, self.defaults, 'It has')}"
                )
        self._given = attributes

    @property
    def attributes(self) -> dict[str, Any]:
        """The values; those that come from a config are those of the run. Raises: UsageError before it has any."""
        return {**self.defaults, **{name: settled(value) for name, value in self._given.items()}}

    @property
    def config_keys(self) -> list[tuple[str, str | None]]:
        """The configs that values come from, by attribute, with the key of the document; None for all of it."""
        return [found for value in self._given.values() for found in keys_in(value)]

    def problem(self) -> str | None:
        """What is wrong with the values, with its fix; None when they can be used."""
        return None

    def __repr__(self) -> str:
        given = (f"{k}={v!r}" for k, v in self.attributes.items() if v != self.defaults[k])
        return f"@{self.name}({', '.join(given)})"


class Retry(Decorator):
    """A failed attempt is made again, up to `times` more."""

    name = "retry"
    defaults: ClassVar[Mapping[str, Any]] = {"times": 3, "minutes_between_retries": 2}

    __slots__ = ()

    @property
    def times(self) -> int:
        return int(self.attributes["times"])

    @property
    def delay_s(self) -> float:
        return float(self.attributes["minutes_between_retries"]) * 60

    def problem(self) -> str | None:
        times, minutes = self.attributes["times"], self.attributes["minutes_between_retries"]
        if not _is_number(times) or times != int(times) or times < 0:
            return f"@retry(times={times!r}) is not a count. Give a whole number from 0 to {RETRIES_MAX}."
        if times > RETRIES_MAX:
            return f"@retry(times={times!r}) is more than weft retries. Give at most {RETRIES_MAX}."
        if not _is_number(minutes) or minutes < 0:
            return (
                f"@retry(minutes_between_retries={minutes!r}) is not a duration. Give minutes, 0 for at once."
            )
        return None


class Cache(Decorator):
    """A finished task of an earlier run may stand in, where code and reads are the same."""

    name = "cache"

    __slots__ = ()


class Catch(Decorator):
    """After the last attempt the exception is swallowed and kept in the artifact `var`."""

    name = "catch"
    defaults: ClassVar[Mapping[str, Any]] = {"var": None, "print_exception": True}

    __slots__ = ()

    @property
    def var(self) -> str | None:
        var: str | None = self.attributes["var"]
        return var

    @property
    def print_exception(self) -> bool:
        return bool(self.attributes["print_exception"])

    def problem(self) -> str | None:
        var = self.attributes["var"]
        if var is not None and not (isinstance(var, str) and var.isidentifier()):
            return f"@catch(var={var!r}) cannot be the name of an artifact. Give a string such as 'failure'."
        return None


class Timeout(Decorator):
    """An attempt that runs longer than seconds, minutes and hours together fails."""

    name = "timeout"
    defaults: ClassVar[Mapping[str, Any]] = {"seconds": 0, "minutes": 0, "hours": 0}

    __slots__ = ()

    @property
    def seconds(self) -> float:
        """The three attributes together."""
        given = self.attributes
        return float(given["seconds"] + 60 * given["minutes"] + 3600 * given["hours"])

    def problem(self) -> str | None:
        for unit, amount in self.attributes.items():
            if not _is_number(amount) or amount < 0:
                return f"@timeout({unit}={amount!r}) is not a duration. Give a number of {unit}."
        if self.seconds == 0:
            return "@timeout is 0 seconds long. Give seconds, minutes or hours: @timeout(minutes=5)."
        return None


class Environment(Decorator):
    """Environment variables that are set for the process of the step."""

    name = "environment"
    defaults: ClassVar[Mapping[str, Any]] = {"vars": {}}

    __slots__ = ()

    @property
    def vars(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.attributes["vars"].items()}

    def problem(self) -> str | None:
        variables = self.attributes["vars"]
        if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
            return (
                "@environment(vars=…) is not a dict from names to texts. Give @environment(vars={'A': '1'})."
            )
        for name, value in variables.items():
            if not name or "=" in name or "\0" in name:
                return f"@environment(vars=…) cannot set a variable named {name!r}. Give it another name."
            if value is None or "\0" in str(value):
                return f"@environment(vars=…) cannot set {name} to {value!r}. Give it a text."
        return None


class Resources(Decorator):
    """What the step would like to have; a hint that engines other than the local one follow."""

    name = "resources"
    defaults: ClassVar[Mapping[str, Any]] = {
        "cpu": 1,
        "gpu": None,
        "disk": None,
        "memory": 4096,
        "shared_memory": None,
    }

    __slots__ = ()


_REGISTRY: dict[str, type[Decorator]] = {
    kind.name: kind for kind in (Cache, Catch, Environment, Resources, Retry, Timeout)
}


@overload
def step(function: Function, /) -> Function: ...
@overload
def step(
    *, start: bool = False, end: bool = False, node_info: Mapping[str, Any] | None = None
) -> Callable[[Function], Function]: ...
def step(
    function: Any = None,
    /,
    *,
    start: bool = False,
    end: bool = False,
    node_info: Mapping[str, Any] | None = None,
) -> Any:
    """Make a method a step of its flow; `start` and `end` mark one whose name is not `start` or `end`."""

    def mark(function: Function) -> Function:
        _require_function("step", function)
        marked: Any = function
        marked.is_step = True
        marked.is_start = start
        marked.is_end = end
        marked.node_info = dict(node_info or {})
        marked.name = marked.__name__
        if "decorators" not in vars(marked):
            marked.decorators = []
        return function

    return mark if function is None else mark(function)


class _Usage(Protocol):
    """A decorator that is used bare or with arguments."""

    @overload
    def __call__(self, function: Function, /) -> Function: ...
    @overload
    def __call__(self, **attributes: Any) -> Callable[[Function], Function]: ...


def _typed(usage: Any) -> _Usage:
    typed: _Usage = usage
    return typed


@_typed
def retry(function: Any = None, /, **attributes: Any) -> Any:
    """`@retry(times=3, minutes_between_retries=2)`: make a failed attempt again, up to `times` more."""
    return _decorate(Retry, function, attributes)


@_typed
def cache(function: Any = None, /, **attributes: Any) -> Any:
    """`@cache`: let a finished task of an earlier run stand in, where code and reads are the same.

    For steps whose results depend on nothing that weft does not see: see `docs/running.md`.
    """
    return _decorate(Cache, function, attributes)


@_typed
def catch(function: Any = None, /, **attributes: Any) -> Any:
    """`@catch(var=None, print_exception=True)`: let the flow go on after the last failed attempt.

    The artifact `var` is None when all went well, else an `ExceptionWrapper`.
    """
    return _decorate(Catch, function, attributes)


@_typed
def timeout(function: Any = None, /, **attributes: Any) -> Any:
    """`@timeout(seconds=0, minutes=0, hours=0)`: fail an attempt that runs longer than their sum."""
    return _decorate(Timeout, function, attributes)


@_typed
def environment(function: Any = None, /, **attributes: Any) -> Any:
    """`@environment(vars={})`: set environment variables for the process of the step."""
    return _decorate(Environment, function, attributes)


@_typed
def resources(function: Any = None, /, **attributes: Any) -> Any:
    """`@resources(cpu=1, gpu=None, disk=None, memory=4096, shared_memory=None)`: what the step would like."""
    return _decorate(Resources, function, attributes)


def steps_of(flow_class: type) -> dict[str, Callable[..., Any]]:
    """The step functions of a class along its MRO: those of bases first, then in the order of definition.

    A name that a subclass gives to something else is no step any more.
    """
    names: dict[str, None] = {}
    for base in reversed(flow_class.__mro__):
        names.update(dict.fromkeys(name for name, value in vars(base).items() if is_step(value)))
    steps = ((name, _attribute(flow_class, name)) for name in names)
    return {name: function for name, function in steps if is_step(function)}


def decorators_of(flow_class: type) -> dict[str, tuple[Decorator, ...]]:
    """The decorators of each step, topmost first."""
    return {name: tuple(getattr(f, "decorators", ())) for name, f in steps_of(flow_class).items()}


def is_step(value: object) -> bool:
    return callable(value) and getattr(value, "is_step", False) is True


def attach(flow_class: type, spec: str) -> None:
    """Give each step that lacks it the decorator `spec` names, as `--with` does.

    The function objects are changed, so a flow that inherits from the same base in this process sees it too.
    Raises: UsageError for a spec that does not parse.
    """
    decorator = parse_decorator_spec(spec)
    for function in steps_of(flow_class).values():
        attached: list[Decorator] = function.decorators  # type: ignore[attr-defined]  # set by `step`
        if all(other.name != decorator.name for other in attached):
            attached.append(decorator)


def parse_decorator_spec(spec: str) -> Decorator:
    """The decorator that `name` or `name:attribute=value,…` stands for; values are JSON, else text.

    >>> parse_decorator_spec("retry:times=1,minutes_between_retries=0")
    @retry(times=1, minutes_between_retries=0)

    Raises: UsageError for an unknown name or attribute, and for values that cannot be used.
    """
    name, _, text = spec.partition(":")
    kind = _REGISTRY.get(name)
    if kind is None:
        raise UsageError(f"There is no decorator {name!r} to attach. {_known(name, _REGISTRY, 'Known are')}")
    attributes = {}
    for assignment in _split_at_commas(text):
        attribute, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(
                f"{assignment!r} in {spec!r} sets nothing. Write name:attribute=value, for example retry:times=2."
            )
        attributes[attribute.strip()] = _literal(value.strip())
    decorator = kind(**attributes)
    problem = decorator.problem()
    if problem is not None:
        raise UsageError(problem)
    return decorator


def _decorate(kind: type[Decorator], function: Any, attributes: dict[str, Any]) -> Any:
    decorator = kind(**attributes)

    def add(function: Any) -> Any:
        _require_function(kind.name, function)
        # Decorators run from the bottom up, the list reads from the top down.
        function.decorators = [decorator, *vars(function).get("decorators", ())]
        return function

    return add if function is None else add(function)


def _require_function(name: str, function: object) -> None:
    if isinstance(function, type) or not callable(function) or not hasattr(function, "__name__"):
        raise UsageError(
            f"@{name} stands on {function!r}. Put it on a method of a flow, with arguments by name."
        )


def _attribute(flow_class: type, name: str) -> Any:
    return next(vars(base)[name] for base in flow_class.__mro__ if name in vars(base))


def _known(wrong: str, names: Mapping[str, object] | Sequence[str], opening: str) -> str:
    import difflib

    near = difflib.get_close_matches(wrong, names, n=3)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"{opening}: {', '.join(names)}."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _split_at_commas(text: str) -> list[str]:
    """The parts of a list whose commas inside brackets and quotes do not count."""
    parts, depth, quote, start = [], 0, "", 0
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]


def _literal(text: str) -> Any:
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text
