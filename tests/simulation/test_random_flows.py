"""Random flows, run for real and held against a plain evaluation of the same flow.

A failing seed is the test's id and is replayed with WEFT_TEST_SEED=<seed>.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.lineage.test_accounts import FAMILIES, both
from weft.lineage.held_account import HeldAccount
from weft.lineage.store import open_store

if TYPE_CHECKING:
    from tests.conftest import Project, Run

_GIVEN = os.environ.get("WEFT_TEST_SEED")
_SEEDS_INLINE = [int(_GIVEN)] if _GIVEN else list(range(12))
_SEEDS_FORK = [int(_GIVEN)] if _GIVEN else [100, 101, 102]
_SEEDS_SLOW = [int(_GIVEN)] if _GIVEN else list(range(1000, 1300))
_DEPTH_MAX = 3


class Plain(NamedTuple):
    """A step that fails `failures` times first, and at its end for good if it `is_caught`."""

    name: str
    failures: int = 0
    is_caught: bool = False


class Split(NamedTuple):
    name: str
    branches: list[Block]
    join: str


class Foreach(NamedTuple):
    name: str
    items: list[Any]
    body: Block
    join: str


class Switch(NamedTuple):
    name: str
    cases: tuple[Plain, Plain]


Item = Plain | Split | Foreach | Switch
Block = list[Item]


class Expected(NamedTuple):
    """What one task leaves behind."""

    saved: dict[str, Any]
    status: str
    attempts: int
    parents: tuple[str, ...]


class Maker:
    """Draws a flow."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self._count = 0

    def flow(self) -> Block:
        return [*self.block(0), Plain("end")]

    def block(self, depth: int) -> Block:
        return [self.item(depth) for _ in range(self.draw.choice((1, 1, 2, 3)))]

    def item(self, depth: int) -> Item:
        kind = self.draw.choice(("plain", "plain", "switch", "split", "foreach"))
        if depth >= _DEPTH_MAX or self._count > 25:
            kind = "plain"
        name = self._name()
        if kind == "plain":
            return Plain(name, self.draw.choice((0, 0, 0, 1, 2)), self.draw.random() < 0.2)
        if kind == "switch":
            return Switch(name, (Plain(self._name()), Plain(self._name(), 1)))
        if kind == "split":
            branches = [self.block(depth + 1) for _ in range(self.draw.choice((2, 2, 3)))]
            self.draw.shuffle(branches)
            return Split(name, branches, self._name())
        makers = (
            lambda i: i * 3,
            lambda i: f"item {i}",
            lambda i: "x" * 5000 + str(i),
            lambda i: {"k": (i,)},
        )
        make = self.draw.choice(makers)
        items = [make(i) for i in range(self.draw.choice((1, 2, 3)))]
        return Foreach(name, items, self.block(depth + 1), self._name())

    def _name(self) -> str:
        self._count += 1
        # Names in another order than that of the flow.
        return f"s{self.draw.randrange(1000):03d}_{self._count}"


class Writer:
    """A drawn flow as Python text."""

    def __init__(self) -> None:
        self.lines = ["class Drawn(FlowSpec):", "    @step", "    def start(self):"]

    def flow(self, block: Block) -> str:
        self.lines += ["        self.trace, self.acc, self.base = [], [], {'b': 1}"]
        self.lines += [f"        self.next(self.{block[0].name})"]
        self._block(block, None)
        self.lines += ['if __name__ == "__main__":', "    Drawn()"]
        return "\n".join(self.lines) + "\n"

    def _block(self, block: Block, following: str | None) -> None:
        for position, item in enumerate(block):
            after = block[position + 1].name if position + 1 < len(block) else following
            self._item(item, after)

    def _item(self, item: Item, after: str | None) -> None:
        if isinstance(item, Plain):
            self._plain(item, [] if after is None else [f"self.next(self.{after})"])
        elif isinstance(item, Switch):
            cases = ", ".join(f"{i}: self.{case.name}" for i, case in enumerate(item.cases))
            way = "self.way = len(self.acc) % 2"
            self._plain(Plain(item.name), [way, f"self.next({{{cases}}}, condition='way')"])
            for case in item.cases:
                self._plain(case, [f"self.next(self.{after})"])
        elif isinstance(item, Split):
            targets = ", ".join(f"self.{branch[0].name}" for branch in item.branches)
            self._plain(Plain(item.name), [f"self.next({targets})"])
            for branch in reversed(item.branches):
                self._block(branch, item.join)
            self._join(item.join, after)
        else:
            listed = f"self.xs = {item.items!r}"
            self._plain(Plain(item.name), [listed, f"self.next(self.{item.body[0].name}, foreach='xs')"])
            self._block(item.body, item.join)
            self._join(item.join, after)

    def _plain(self, item: Plain, last: list[str]) -> None:
        if item.is_caught:
            self.lines += [f"    @catch(var='problem_{item.name}')"]
        if item.failures:
            self.lines += [f"    @retry(times={item.failures}, minutes_between_retries=0)"]
        body = [f"self.trace = [*self.trace, ({item.name!r}, self.index, self.input)]"]
        body += [f"self.acc.append({item.name!r})"]
        if item.failures:
            body += [f"if current.retry_count < {item.failures}:", "    raise ValueError('again')"]
        if item.is_caught:
            body += ["if self.base:", "    raise KeyError('caught')"]
        self._step(item.name, "self", body + last)

    def _join(self, name: str, after: str | None) -> None:
        body = [
            f"self.trace = [({name!r}, self.index), *[branch.trace for branch in inputs]]",
            "self.acc = [word for branch in inputs for word in branch.acc]",
            "self.merge_artifacts(inputs, include=['base'])",
        ]
        self._step(name, "self, inputs", [*body, f"self.next(self.{after})"])

    def _step(self, name: str, arguments: str, body: list[str]) -> None:
        self.lines += ["    @step", f"    def {name}({arguments}):", *(f"        {line}" for line in body)]


class Model:
    """A drawn flow, evaluated in plain Python."""

    def __init__(self) -> None:
        self.tasks: dict[str, Expected] = {}

    def flow(self, block: Block) -> None:
        seen: dict[str, Any] = {"trace": [], "acc": [], "base": {"b": 1}}
        self.tasks["start"] = Expected(dict(seen), "succeeded", 1, ())
        self._block(block, seen, [], ("start",))

    def _block(
        self, block: Block, seen: dict[str, Any], items: list[tuple[int, Any]], parents: tuple[str, ...]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        for item in block:
            seen, parents = self._item(item, seen, items, parents)
        return seen, parents

    def _item(
        self, item: Item, seen: dict[str, Any], items: list[tuple[int, Any]], parents: tuple[str, ...]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        if isinstance(item, Plain):
            return self._plain(item, seen, items, parents, {})
        if isinstance(item, Switch):
            way = (len(seen["acc"]) + 1) % 2
            seen, parents = self._plain(Plain(item.name), seen, items, parents, {"way": way})
            return self._plain(item.cases[way], seen, items, parents, {})
        if isinstance(item, Split):
            seen, parents = self._plain(Plain(item.name), seen, items, parents, {})
            ends = [self._block(branch, seen, items, parents) for branch in item.branches]
            return self._join(item.join, ends, items)
        seen, parents = self._plain(Plain(item.name), seen, items, parents, {"xs": item.items})
        ends = [
            self._block(item.body, seen, [*items, (position, value)], parents)
            for position, value in enumerate(item.items)
        ]
        return self._join(item.join, ends, items)

    def _plain(
        self,
        item: Plain,
        seen: dict[str, Any],
        items: list[tuple[int, Any]],
        parents: tuple[str, ...],
        more: dict[str, Any],
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        index, value = items[-1] if items else (None, None)
        saved: dict[str, Any] = {
            "trace": [*seen["trace"], (item.name, index, value)],
            "acc": [*seen["acc"], item.name],
            **more,
        }
        if item.is_caught:
            saved[f"problem_{item.name}"] = "KeyError"
        status = "caught" if item.is_caught else "succeeded"
        return self._done(item.name, items, Expected(saved, status, item.failures + 1, parents), seen)

    def _join(
        self, name: str, ends: list[tuple[dict[str, Any], tuple[str, ...]]], items: list[tuple[int, Any]]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        saved = {
            "trace": [(name, items[-1][0] if items else None), *[seen["trace"] for seen, _ in ends]],
            "acc": [word for seen, _ in ends for word in seen["acc"]],
        }
        parents = tuple(parent for _, last in ends for parent in last)
        return self._done(name, items, Expected(saved, "succeeded", 1, parents), {"base": {"b": 1}})

    def _done(
        self, name: str, items: list[tuple[int, Any]], task: Expected, inherited: dict[str, Any]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        positions = ".".join(str(position) for position, _ in items)
        place = f"{name}[{positions}]" if positions else name
        self.tasks[place] = task
        return {**inherited, **task.saved}, (place,)


def _recorded(run: Run) -> dict[str, Expected]:
    places = {(task.step, task.task_id): place for place, task in run.tasks.items()}
    found = {}
    for place, task in run.tasks.items():
        saved = run.saved(place)
        for name, value in saved.items():
            if name.startswith("problem_"):
                saved[name] = value.type.rpartition(".")[2]
        parents = tuple(places[parent] for parent in task.parents)
        found[place] = Expected(saved, task.status, len(task.attempts), parents)
    return found


def _check(project: Project, seed: int, isolation: str) -> None:
    flow = Maker(seed).flow()
    project.write(Writer().flow(flow))
    model = Model()
    model.flow(flow)
    done = project.call("run", "--isolation", isolation, "--max-workers", "3")
    assert done.code == 0, f"replay with WEFT_TEST_SEED={seed}\n{done.err}{done.out}"
    run = project.newest()
    assert _recorded(run) == model.tasks, f"replay with WEFT_TEST_SEED={seed}"
    resumed = project.resume()
    assert set(resumed.statuses.values()) == {"reused"}
    assert len(resumed.tasks) == len(run.tasks)
    with open_store(str(project.store)) as store:
        names = [(r.state.flow, r.run_id) for r in (run, resumed)]
        assert HeldAccount(store, FAMILIES).holds(names)
        by_views, by_held = both(store, names)
    assert by_held == by_views, f"replay with WEFT_TEST_SEED={seed}"


@pytest.mark.parametrize("seed", _SEEDS_INLINE)
def test_random_flow_inline_is_what_plain_python_computes(project: Project, seed: int) -> None:
    _check(project, seed, "inline")


@pytest.mark.parametrize("seed", _SEEDS_FORK)
def test_random_flow_forked_is_what_plain_python_computes(project: Project, seed: int) -> None:
    _check(project, seed, "fork")


@pytest.mark.slow
@pytest.mark.parametrize("seed", _SEEDS_SLOW)
def test_many_random_flows_are_what_plain_python_computes(project: Project, seed: int) -> None:
    _check(project, seed, "fork" if seed % 4 == 0 else "inline")
