"""OpenLineage events of a run as it goes on, to a file; whatever the file does, the run goes on."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from weft.lineage.errors import WeftError
from weft.lineage.ids import TaskRef
from weft.lineage.objects import Objects
from weft.lineage.openlineage import Translation
from weft.lineage.openlineage_sinks import FileSink, MissedNote, documents_of, lookup_in, text_of
from weft.lineage.schema import Event
from weft.lineage.storage import Storage
from weft.runtime.console import Line
from weft.runtime.scheduler import Watcher

__all__ = ["LiveExport", "Missed"]

#: Lines that could not be written are kept to be tried again; past this many the log has to give them.
_KEPT_LINES_MAX = 1_000


class Missed(NamedTuple):
    """A sink that does not have all it should, and why."""

    path: str
    reason: str


class LiveExport:
    """Shows a watcher all there is to see, and tells the sink what follows from it.

    Nothing here raises: the reason of the last failure is `failure`.
    """

    def __init__(self, watcher: Watcher, path: str, storage: Storage, namespace: str) -> None:
        self._watcher = watcher
        self._sink = FileSink(path)
        self._storage = storage
        self._namespace = namespace
        self._translation = Translation(lookup_in(Objects(storage)), namespace)
        self._note = MissedNote(storage, path)
        self._waiting: list[str] = []
        self._begun_us: int | None = None
        self._has_dropped = False
        self.failure: str | None = None

    def on_event(self, event: Event) -> None:
        self._watcher.on_event(event)
        if self._begun_us is None:
            self._begun_us = event.time_us
        try:
            documents = self._translation.feed(event)
        except Exception as error:  # noqa: BLE001  # Whatever is wrong with an export, a task must not fail for it.
            self.failure = f"{type(error).__name__}: {error}"
            self._has_dropped = True
            return
        if documents:
            self._waiting += map(text_of, documents)
            self._write()

    def on_line(self, task: TaskRef, attempt: int, pid: int, stream: str, line: Line) -> None:
        self._watcher.on_line(task, attempt, pid, stream, line)

    def on_tick(self) -> None:
        self._watcher.on_tick()

    def finish(self) -> Missed | None:
        """Once the run is over: catch up with what is missing; None if nothing is any more."""
        try:
            if self._waiting or self._has_dropped:
                self._catch_up(self._begun_us or 0)
            else:
                since_us = self._note.read()
                if since_us is not None:
                    self._catch_up(since_us)
            return None
        except (OSError, WeftError, ImportError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        with contextlib.suppress(OSError, WeftError):
            self._note.write(self._begun_us or 0)
        return Missed(self._sink.path, reason)

    def _catch_up(self, since_us: int) -> None:
        """Write what waits; where that is not all, what the file lacks of the log."""
        self._sink.write(self._waiting)
        self._waiting = []
        noted_us = self._note.read()
        if noted_us is None and not self._has_dropped:
            return
        from weft.lineage.store import Store

        first_us = since_us if noted_us is None else min(since_us, noted_us)
        with Store(self._storage) as store:
            self._sink.add_missing(documents_of(store, self._namespace, first_us - 1))
        self._note.clear()

    def _write(self) -> None:
        try:
            self._sink.write(self._waiting)
            self._waiting = []
        except OSError as error:
            self.failure = error.strerror or str(error)
            if len(self._waiting) > _KEPT_LINES_MAX:
                self._waiting = []
                self._has_dropped = True
