"""What a flow object sees in a step: `self`, and the inputs of a join."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, overload

from weft.lineage.events import Level
from weft.runtime.flow import FlowSpec, bind
from weft.runtime.merging import MergeRefused
from weft.runtime.orders import InputOrder, RunContext
from weft.runtime.refs import Ref, Table
from weft.runtime.transition import Transition

__all__ = ["InputView", "Inputs", "Reader", "View"]


class Reader(Protocol):
    """The running attempt: it loads what is looked at, and records that."""

    context: RunContext

    def new_flow(self) -> FlowSpec: ...
    def read(self, name: str, ref: Ref, item_index: int | None = None) -> Any: ...
    def is_config(self, name: str) -> bool: ...
    def read_config(self, name: str, ref: Ref) -> Any: ...
    def record_absence(self, name: str) -> None: ...


class View:
    """What a flow object reads through: a table of references and the foreach levels around it."""

    def __init__(
        self, attempt: Reader, levels: tuple[Level, ...], items: tuple[Ref, ...], table: Table, owner: str
    ) -> None:
        self._attempt = attempt
        self._levels = levels
        self._items = items
        self._loaded_items: dict[int, Any] = {}
        self.table = dict(table)
        self.owner = owner
        self.transition: Transition | None = None

    @property
    def index(self) -> int | None:
        return self._levels[-1].position if self._levels else None

    def load(self, name: str) -> Any:
        """The value of an artifact or parameter, recorded as read.

        Raises: AttributeError, recorded as looked up and absent.
        """
        ref = self.table.get(name) or self._attempt.context.parameters.get(name)
        if ref is None:
            self._attempt.record_absence(name)
            raise AttributeError(
                f"Flow {self._attempt.context.run.flow} has no attribute {name!r} in {self.owner}. "
                "Set it on self in an earlier step; in a join, take it from inputs or merge_artifacts."
            )
        if name not in self.table and self._attempt.is_config(name):
            return self._attempt.read_config(name, ref)
        return self._attempt.read(name, ref)

    def load_input(self) -> Any:
        return self._item(len(self._items) - 1) if self._items else None

    def foreach_stack(self) -> list[tuple[int, int, Any]]:
        return [
            (level.position, level.num_splits, self._item(depth)) for depth, level in enumerate(self._levels)
        ]

    def _item(self, depth: int) -> Any:
        if depth not in self._loaded_items:
            level = self._levels[depth]
            self._loaded_items[depth] = self._attempt.read(level.var, self._items[depth], level.position)
        return self._loaded_items[depth]

    def merge(self, flow: FlowSpec, inputs: Any, include: list[str], exclude: list[str]) -> None:
        raise MergeRefused("merge_artifacts belongs to the join's self. Call self.merge_artifacts(inputs).")

    def refuse_set(self, name: str) -> str | None:
        return None

    def is_inherited(self, name: str) -> bool:
        return name in self.table


class InputView(View):
    """One input of a join."""

    def __init__(self, attempt: Reader, order: InputOrder) -> None:
        super().__init__(attempt, order.levels, order.items, order.table, f"step {order.step}")
        self.order = order
        self._values: dict[str, Any] = {}

    def load(self, name: str) -> Any:
        if name not in self._values:
            self._values[name] = super().load(name)
        return self._values[name]


class Inputs:
    """The branches that meet in a join, in order; each is a flow object with that branch's artifacts."""

    def __init__(self, attempt: Reader, orders: tuple[InputOrder, ...]) -> None:
        self._attempt = attempt
        self._orders = orders
        self._flows: dict[int, FlowSpec] = {}

    @property
    def flows(self) -> list[FlowSpec]:
        return list(self)

    def __len__(self) -> int:
        return len(self._orders)

    def __iter__(self) -> Iterator[FlowSpec]:
        return (self._flow(position) for position in range(len(self._orders)))

    @overload
    def __getitem__(self, position: int) -> FlowSpec: ...
    @overload
    def __getitem__(self, position: slice) -> list[FlowSpec]: ...
    def __getitem__(self, position: int | slice) -> FlowSpec | list[FlowSpec]:
        places = range(len(self._orders))[position]
        return self._flow(places) if isinstance(places, int) else [self._flow(place) for place in places]

    def __getattr__(self, step: str) -> FlowSpec:
        for position in reversed(range(len(self._orders))):
            if self._orders[position].step == step:
                return self._flow(position)
        known = ", ".join(dict.fromkeys(order.step for order in self._orders))
        raise AttributeError(f"No branch of this join comes from a step {step!r}. They come from: {known}.")

    def _flow(self, position: int) -> FlowSpec:
        if position not in self._flows:
            flow = self._attempt.new_flow()
            bind(flow, InputView(self._attempt, self._orders[position]))
            self._flows[position] = flow
        return self._flows[position]
