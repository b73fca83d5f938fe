"""What `self.next(...)` asks for, checked as it is called. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from weft.lineage.errors import UsageError

__all__ = ["InvalidNextException", "Transition", "transition_of"]

_OPTIONS = ("foreach", "condition")


class InvalidNextException(UsageError):
    """A call of `self.next` that the flow cannot follow."""


class Transition(NamedTuple):
    """Where a task goes on: the steps, and the list's name where there is one task for each of its items."""

    steps: tuple[str, ...]
    foreach: str | None = None


def transition_of(
    flow: Any, earlier: Transition | None, targets: tuple[Any, ...], options: dict[str, Any]
) -> Transition:
    """The transition a call asks for.

    Raises: InvalidNextException, saying what is wrong with the call.
    """
    if earlier is not None:
        raise InvalidNextException(
            "self.next() was called twice in one step. Keep one call, at the end of the step."
        )
    for option in options:
        if option == "num_parallel":
            raise InvalidNextException(
                "self.next(num_parallel=…) is not supported by this version. Use foreach instead."
            )
        if option not in _OPTIONS:
            raise InvalidNextException(
                f"self.next() has no option {option!r}. It takes foreach= or condition=."
            )
    if not targets:
        raise InvalidNextException("self.next() names no step. Write self.next(self.some_step).")
    foreach, condition = options.get("foreach"), options.get("condition")
    if isinstance(targets[0], dict) or condition is not None:
        return _switch(flow, targets, condition, foreach)
    steps = tuple(_step_name(target) for target in targets)
    if foreach is None:
        return Transition(steps)
    if not isinstance(foreach, str):
        raise InvalidNextException(
            f"foreach={foreach!r} is not a name. Give the name of the list as text: foreach='items' for self.items."
        )
    if len(steps) != 1:
        raise InvalidNextException(
            "A foreach goes to one step. Write self.next(self.some_step, foreach='items')."
        )
    return Transition(steps, foreach)


def _step_name(target: Any) -> str:
    function = getattr(target, "__func__", target)
    if not getattr(function, "is_step", False):
        raise InvalidNextException(
            f"self.next() takes steps, not {target!r}. Write self.next(self.some_step)."
        )
    name: str = function.__name__
    return name


def _switch(flow: Any, targets: tuple[Any, ...], condition: Any, foreach: Any) -> Transition:
    if foreach is not None:
        raise InvalidNextException(
            "self.next() takes either foreach= or condition=. Use one of them in a step of its own."
        )
    if len(targets) != 1 or not isinstance(targets[0], dict) or not targets[0]:
        raise InvalidNextException(
            "A switch takes one dict of cases. Write self.next({'a': self.a, 'b': self.b}, condition='name')."
        )
    if not isinstance(condition, str):
        raise InvalidNextException(
            "A switch needs condition='name', the artifact whose value picks the case."
        )
    try:
        value = getattr(flow, condition)
    except AttributeError:
        raise InvalidNextException(
            f"The condition self.{condition} is not set. Set it before self.next()."
        ) from None
    cases = targets[0]
    if value not in cases:
        known = ", ".join(repr(case) for case in cases)
        raise InvalidNextException(f"self.{condition} is {value!r}, which is no case of the switch: {known}.")
    return Transition((_step_name(cases[value]),))
