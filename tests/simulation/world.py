"""A workload drawn from a seed, and what it was promised: what crashes are held against."""

from __future__ import annotations

import random
from collections.abc import Callable

from weft.lineage.description import create_store
from weft.lineage.journal import Journal
from weft.lineage.log import EventLog
from weft.lineage.objects import Objects
from weft.lineage.schema import Event
from weft.lineage.storage import Storage

__all__ = ["Content", "World", "contents", "tidy"]

_KINDS = ("run_started", "task_created", "artifact_saved", "artifact_used", "console_written", "kind_of_2040")
_JOURNAL_BYTES = 1500
_OLD = -1.0  # A time of grace that is over at once.

Content = tuple[str, str | None, bytes | None]


class World:
    """A workload drawn from a seed, and what it was promised: the model."""

    def __init__(self, storage: Storage, seed: int, kill: Callable[[Journal], None]) -> None:
        self.storage = storage
        self.kill = kill
        self.grace_s: float | None = _OLD
        self.told: dict[str, Content] = {}
        self.acknowledged: set[str] = set()
        self.objects: dict[bytes, bytes] = {}
        self.synced_bytes: dict[str, int] = {}
        self._waiting: dict[bytes, set[str]] = {}
        self._draw = random.Random(seed)
        self._writers = 0

    def act(self, count: int) -> None:
        """Do `count` things. Which ones depends on the seed alone, not on what goes wrong meanwhile."""
        create_store(self.storage)
        journals: list[Journal] = []
        for _ in range(count):
            choice = self._draw.random()
            if choice < 0.15 or not journals:
                journals.append(self._create())
            elif choice < 0.70:
                self._append(self._draw.choice(journals))
            elif choice < 0.80:
                journal = journals.pop(self._draw.randrange(len(journals)))
                if self._draw.random() < 0.5:
                    self._close(journal)
                else:
                    # What was not synced is in the cache still.
                    self.kill(journal)
            elif choice < 0.90:
                data = self._draw.randbytes(self._draw.choice((0, 10, 3000)))
                self.objects[Objects(self.storage).put([data])] = data
            else:
                tidy(EventLog(self.storage), self.grace_s)
        for journal in journals:
            self._close(journal)
        tidy(EventLog(self.storage), self.grace_s)
        tidy(EventLog(self.storage), self.grace_s)

    def _create(self) -> Journal:
        self._writers += 1
        writer = bytes([self._writers]) * 16
        self._waiting[writer] = set()
        return Journal.create(self.storage, writer, _JOURNAL_BYTES)

    def _append(self, journal: Journal) -> None:
        events = []
        for _ in range(self._draw.choice((1, 2, 8))):
            name = str(len(self.told))
            kind = self._draw.choice(_KINDS)
            blob = self._draw.randbytes(self._draw.choice((0, 40, 700)))
            self.told[name] = (kind, name, blob)
            self._waiting[journal.writer].add(name)
            events.append(Event(kind=kind, run_id="1", name=name, blob=blob))
        is_synced = self._draw.random() < 0.7
        old_path = journal.path
        journal.append(events)
        if journal.path != old_path and self.storage.can_append:
            # What the old file held was synced with the frame that closes it.
            self._acknowledge(journal.writer, self._waiting[journal.writer] - {str(e.name) for e in events})
        if is_synced:
            journal.sync()
            self._acknowledge(journal.writer, set(self._waiting[journal.writer]))
            if self.storage.can_append:
                self.synced_bytes[journal.path] = self.storage.size(journal.path)

    def _close(self, journal: Journal) -> None:
        journal.close()
        self._acknowledge(journal.writer, set(self._waiting[journal.writer]))
        self.synced_bytes[journal.path] = 1 << 40

    def _acknowledge(self, writer: bytes, names: set[str]) -> None:
        self.acknowledged |= names
        self._waiting[writer] -= names


def tidy(log: EventLog, grace_s: float | None = _OLD) -> None:
    """Seal and remove, compact and write what is kept of folds: all that a log does by itself."""
    log.tidy(is_whole=True, grace_s=grace_s)


def contents(storage: Storage) -> dict[str, Content]:
    """What the log holds, by name; no event may be there twice."""
    events = [event for event in EventLog(storage).events() if event.kind != "journal_closed"]
    found = {str(event.name): (event.kind, event.name, event.blob) for event in events}
    assert len(found) == len(events), "an event is there twice"
    return found
