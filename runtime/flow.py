"""`FlowSpec`, the class users derive from.

An instance is one task's view of its artifacts: what the body sets on `self` is in the instance's
`__dict__`, what it reads and has not set is loaded by the attempt it is bound to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol

from weft.runtime.command_line import command_line
from weft.runtime.decorators import steps_of
from weft.runtime.transition import Transition, transition_of

__all__ = ["Binding", "FlowSpec", "bind", "binding_of"]

#: Where an instance keeps what it is bound to; not an artifact.
_BINDING = "_weft_binding"


class Binding(Protocol):
    """What stands behind a flow object: the running attempt, or one input of a join."""

    transition: Transition | None

    @property
    def index(self) -> int | None: ...
    def load(self, name: str) -> Any: ...
    def load_input(self) -> Any: ...
    def foreach_stack(self) -> list[tuple[int, int, Any]]: ...
    def merge(self, flow: FlowSpec, inputs: Any, include: list[str], exclude: list[str]) -> None: ...
    def refuse_set(self, name: str) -> str | None: ...
    def is_inherited(self, name: str) -> bool: ...


class _NameOfFlow:
    """The flow's name, until a step sets an artifact of that name."""

    def __get__(self, flow: FlowSpec | None, owner: type[FlowSpec]) -> str:
        binding = None if flow is None else binding_of(flow)
        if binding is None or not binding.is_inherited("name"):
            return owner.__name__
        name: str = binding.load("name")
        return name


class FlowSpec:
    """A flow: its steps are the methods marked `@step`, its artifacts what they set on `self`.

    Making an instance runs the command line (`python flow.py run`); `MyFlow(use_cli=False)` does not.
    """

    _weft_is_flow: ClassVar[bool] = True

    def __init__(self, use_cli: bool = True) -> None:
        if use_cli:
            start = command_line()
            assert start is not None, "`import weft` sets the command line"
            start(type(self))

    name = _NameOfFlow()

    @property
    def index(self) -> int | None:
        """The task's place in the innermost foreach around it, from 0; None outside any."""
        binding = binding_of(self)
        return None if binding is None else binding.index

    @property
    def input(self) -> Any:
        """The item of the innermost foreach around the task; None outside any."""
        binding = binding_of(self)
        return None if binding is None else binding.load_input()

    def foreach_stack(self) -> list[tuple[int, int, Any]]:
        """(index, number of items, item) of every foreach around the task, outermost first."""
        binding = binding_of(self)
        return [] if binding is None else binding.foreach_stack()

    def next(self, *targets: Any, **options: Any) -> None:
        """Say where the flow goes on; the last statement of every step but the end.

        `self.next(self.a)`, `self.next(self.a, self.b)`, `self.next(self.a, foreach="items")` or
        `self.next({"x": self.a, "y": self.b}, condition="name")`.
        """
        binding = binding_of(self)
        if binding is not None:
            binding.transition = transition_of(self, binding.transition, targets, options)

    def merge_artifacts(
        self, inputs: Any, exclude: list[str] | None = None, include: list[str] | None = None
    ) -> None:
        """In a join: take over what the branches agree on, by reference.

        Names set on `self` before are left alone, so settle conflicts first.

        Raises: UnhandledInMergeArtifactsException naming what differs; nothing is merged then.
        """
        binding = binding_of(self)
        if binding is not None:
            binding.merge(self, inputs, include or [], exclude or [])

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        """The step functions."""
        return iter([getattr(self, name) for name in steps_of(type(self))])

    def __getattr__(self, name: str) -> Any:
        binding = None if name.startswith("__") else binding_of(self)
        if binding is None:
            raise AttributeError(f"Flow {type(self).__name__} has no attribute {name!r}.")
        return binding.load(name)

    def __setattr__(self, name: str, value: Any) -> None:
        binding = binding_of(self)
        refusal = None if binding is None else binding.refuse_set(name)
        if name in ("index", "input"):
            refusal = f"self.{name} says where a task is in its foreach and cannot be set. Use another name."
        if refusal is not None:
            raise AttributeError(refusal)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        binding = binding_of(self)
        if binding is not None and binding.is_inherited(name):
            raise AttributeError(
                f"{name!r} comes from an earlier step and stays part of the run. Set it to None instead of deleting it."
            )
        object.__delattr__(self, name)


def bind(flow: FlowSpec, binding: Binding) -> None:
    """Let a flow object read through `binding`."""
    flow.__dict__[_BINDING] = binding


def binding_of(flow: FlowSpec) -> Binding | None:
    binding: Binding | None = flow.__dict__.get(_BINDING)
    return binding
