"""What a scheduler tells a worker: the context of the run, once, and an order for each attempt."""

from __future__ import annotations

from typing import Any, NamedTuple

from weft.lineage.events import Level, RunRef
from weft.lineage.ids import TaskRef
from weft.runtime.refs import Ref, Table, pack_tables, unpack_refs

__all__ = [
    "Expected",
    "InputOrder",
    "RunContext",
    "TaskOrder",
    "pack_context",
    "pack_order",
    "unpack_context",
    "unpack_order",
]


class RunContext(NamedTuple):
    """What all attempts of a run have in common.

    `parameters` holds parameters and class constants by attribute name; `facts` is what `current` says
    of the run (tags, username, origin_run_id, namespace, parameter_names, store). `decorators` are those
    of `--with`, which a worker that was not forked has not seen. `spool` is the folder for objects on their way
    to a store that is far. Pickles of the runs `distrusted` (flow, run id) are not loaded.
    """

    run: RunRef
    store_url: str
    parameters: dict[str, Ref]
    facts: dict[str, Any]
    max_num_splits: int
    decorators: tuple[str, ...] = ()
    spool: str | None = None
    distrusted: tuple[tuple[str, str], ...] = ()


class InputOrder(NamedTuple):
    """One input of a join: the branch's task and the artifacts it sees at its end."""

    step: str
    task_id: str
    levels: tuple[Level, ...]
    items: tuple[Ref, ...]
    table: Table


class Expected(NamedTuple):
    """What the source says of a step's transition."""

    steps: tuple[str, ...]
    foreach: str | None = None
    is_switch: bool = False
    is_end: bool = False


class TaskOrder(NamedTuple):
    """One attempt to make.

    `items` are those of the foreach levels around the task, outermost first; `table` is what it
    inherits; `inputs` is None but for a join.
    """

    task: TaskRef
    attempt: int
    is_last: bool
    is_fallback: bool
    levels: tuple[Level, ...]
    items: tuple[Ref, ...]
    table: Table
    expected: Expected
    inputs: tuple[InputOrder, ...] | None = None


def pack_context(context: RunContext) -> dict[str, Any]:
    pool, (parameters,) = pack_tables([context.parameters])
    return {
        "run": context.run,
        "store": context.store_url,
        "pool": pool,
        "parameters": parameters,
        "facts": context.facts,
        "max_num_splits": context.max_num_splits,
        "decorators": context.decorators,
        "spool": context.spool,
        "distrusted": context.distrusted,
    }


def unpack_context(body: dict[str, Any]) -> RunContext:
    pool = unpack_refs(body["pool"])
    parameters = {name: pool[index] for name, index in body["parameters"].items()}
    return RunContext(
        RunRef(*body["run"]),
        body["store"],
        parameters,
        body["facts"],
        body["max_num_splits"],
        tuple(body["decorators"]),
        body["spool"],
        tuple((flow, run_id) for flow, run_id in body["distrusted"]),
    )


def pack_order(order: TaskOrder) -> dict[str, Any]:
    """Plain values for msgpack; each reference once, however many inputs share it."""
    inputs = order.inputs or ()
    item_tables = [
        {str(i): ref for i, ref in enumerate(items)} for items in (order.items, *(i.items for i in inputs))
    ]
    pool, packed = pack_tables([order.table, *(i.table for i in inputs), *item_tables])
    tables, items = packed[: len(inputs) + 1], packed[len(inputs) + 1 :]
    return {
        "task": order.task,
        "attempt": order.attempt,
        "is_last": order.is_last,
        "is_fallback": order.is_fallback,
        "levels": order.levels,
        "expected": order.expected,
        "pool": pool,
        "table": tables[0],
        "items": list(items[0].values()),
        "inputs": None
        if order.inputs is None
        else [
            [i.step, i.task_id, i.levels, list(items[n].values()), tables[n]]
            for n, i in enumerate(order.inputs, start=1)
        ],
    }


def unpack_order(body: dict[str, Any]) -> TaskOrder:
    pool = unpack_refs(body["pool"])
    inputs = body["inputs"]
    steps, foreach, is_switch, is_end = body["expected"]
    return TaskOrder(
        TaskRef(*body["task"]),
        body["attempt"],
        body["is_last"],
        body["is_fallback"],
        _levels(body["levels"]),
        tuple(pool[index] for index in body["items"]),
        {name: pool[index] for name, index in body["table"].items()},
        Expected(tuple(steps), foreach, is_switch, is_end),
        None
        if inputs is None
        else tuple(
            InputOrder(
                step,
                task_id,
                _levels(levels),
                tuple(pool[index] for index in items),
                {name: pool[index] for name, index in table.items()},
            )
            for step, task_id, levels, items, table in inputs
        ),
    )


def _levels(rows: list[Any]) -> tuple[Level, ...]:
    return tuple(Level(*row) for row in rows)
