"""When a ledger commits where a commit is a request: once in a while, and at once when a worker waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from weft.lineage import clock, events
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.memory import MemoryStorage
from weft.lineage.paths import JOURNALS
from weft.runtime.ledger import Ledger
from weft.runtime.machine import Machine
from weft.runtime.source import parse_flow

_FLOW = """
from weft import FlowSpec

class F(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass
"""

RUN = RunRef(b"r" * 16, "F", "1")


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be moved by the test."""
    time_s = [100.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: time_s[0])
    return time_s


@pytest.fixture
def make(import_flow: Callable[..., type]) -> Callable[[MemoryStorage], Ledger]:
    def ledger(storage: MemoryStorage) -> Ledger:
        graph = parse_flow(import_flow(_FLOW))
        return Ledger(RUN, graph, Machine(graph, {}), Journal.create(storage), lambda event: None)

    return ledger


def test_commit_waits_a_second_unless_a_worker_waits_for_it(
    make: Callable[[MemoryStorage], Ledger], now_s: list[float]
) -> None:
    storage = MemoryStorage(can_append=False)
    ledger = make(storage)
    assert ledger.next_commit_s() is None
    ledger.record([events.run_started(RUN, None, {})])
    # The first task is to be launched once this is durable.
    assert ledger.is_commit_due(has_room=True)
    assert not ledger.is_commit_due(has_room=False)
    ledger.sync()
    assert len(storage.list(JOURNALS)) == 1
    launch = ledger.ready.popleft()
    ledger.record([events.attempt_started(ledger.task(launch.task_id), 0, 4711, "box")])
    assert not ledger.is_commit_due(has_room=True)
    now_s[0] += 0.4
    assert ledger.next_commit_s() == pytest.approx(0.6)
    now_s[0] += 0.6
    assert ledger.is_commit_due(has_room=False)


def test_commit_is_due_at_a_megabyte(make: Callable[[MemoryStorage], Ledger], now_s: list[float]) -> None:
    ledger = make(MemoryStorage(can_append=False))
    ledger.record([events.run_started(RUN, None, {"note": "x" * (1 << 20)})])
    assert ledger.is_commit_due(has_room=False)


def test_commit_is_always_due_where_it_costs_little(
    make: Callable[[MemoryStorage], Ledger], now_s: list[float]
) -> None:
    ledger = make(MemoryStorage())
    ledger.record([events.run_started(RUN, None, {})])
    assert ledger.is_commit_due(has_room=False)
    assert ledger.next_commit_s() is None
