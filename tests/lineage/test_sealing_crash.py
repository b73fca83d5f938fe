"""Sealing and compaction cut off at each step: the log gives the same events as before, and goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from weft.lineage.journal import Journal
from weft.lineage.log import EventLog
from weft.lineage.memory import MemoryStorage
from weft.lineage.schema import Event
from weft.lineage.storage import Data
from weft.lineage.verify import verify

T = TypeVar("T")


class Killed(BaseException):
    """The process ends here."""


class FaultyStorage(MemoryStorage):
    """Dies at the n-th change of a file: just before it, or just after."""

    def __init__(self, step: int, is_done: bool) -> None:
        super().__init__()
        self.steps_left = step
        self.is_done = is_done
        self.is_armed = False

    def put(self, path: str, data: Data) -> None:
        self._step(lambda: super(FaultyStorage, self).put(path, data))

    def delete(self, path: str) -> None:
        self._step(lambda: super(FaultyStorage, self).delete(path))

    def _step(self, change: Callable[[], None]) -> None:
        if self.is_armed:
            self.steps_left -= 1
            if self.steps_left < 0:
                if self.is_done:
                    change()
                raise Killed
        change()


def _run(storage: FaultyStorage, count: int, first: int = 0) -> None:
    kinds = ("run_started", "task_created", "artifact_saved", "artifact_used", "console_written")
    for number in range(first, first + count):
        journal = Journal.create(storage, writer=bytes([number]) * 16)
        journal.append([Event(kind=kind, run_id=str(number), blob=b"x") for kind in kinds])
        journal.close()


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("step", range(10))
def test_seal_killed_at_any_step_loses_and_doubles_nothing(step: int, is_done: bool) -> None:
    storage = FaultyStorage(step, is_done)
    _run(storage, 3)
    before = EventLog(storage).events()
    storage.is_armed = True
    with pytest.raises(Killed):
        # Lock file, six segment files, then the removal of three journals: ten changes.
        EventLog(storage).seal(force=True, grace_s=-1)
    storage.is_armed = False
    assert EventLog(storage).events() == before
    assert verify(storage).is_sound
    for _ in range(2):
        EventLog(storage).seal(force=True, grace_s=-1)
    assert EventLog(storage).events() == before
    assert storage.list("journal") == []
    assert verify(storage).problems == []


def test_what_a_killed_seal_left_behind_is_no_damage_once_all_is_sealed_anew() -> None:
    storage = FaultyStorage(step=2, is_done=False)
    _run(storage, 3)
    storage.is_armed = True
    with pytest.raises(Killed):
        EventLog(storage).seal(force=True, grace_s=-1)
    storage.is_armed = False
    # With one more journal it becomes another segment, which does not complete the one that was cut off.
    journal = Journal.create(storage)
    journal.append([Event(kind="tag_added", run_id="1")])
    journal.close()
    for _ in range(2):
        EventLog(storage).seal(force=True, grace_s=-1)
    assert storage.list("journal") == []
    assert verify(storage).problems == []


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("step", range(18))
def test_compaction_killed_at_any_step_loses_and_doubles_nothing(step: int, is_done: bool) -> None:
    storage = FaultyStorage(step, is_done)
    for number in range(2):
        _run(storage, 1, number)
        for _ in range(2):
            EventLog(storage).seal(force=True, grace_s=-1)
    before = EventLog(storage).events()
    storage.is_armed = True
    with pytest.raises(Killed):
        # Six files of the new segment, then the removal of twelve: eighteen changes.
        EventLog(storage).compact(is_whole=True, grace_s=-1)
    storage.is_armed = False
    assert EventLog(storage).events() == before
    assert verify(storage).problems == []
    for _ in range(2):
        EventLog(storage).compact(is_whole=True, grace_s=-1)
    assert EventLog(storage).events() == before
    assert len(storage.list("log")) == 6
    assert verify(storage).problems == []
