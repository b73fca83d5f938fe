"""A store whose events a test tells one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from weft.lineage import events as kinds
from weft.lineage.description import create_store
from weft.lineage.events import Content, Level, RunRef
from weft.lineage.ids import Pathspec, TaskRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.objects import Objects
from weft.lineage.schema import Event
from weft.lineage.serializers import dump
from weft.lineage.store import Store


class Story:
    """Writes the events of runs as a scheduler would."""

    def __init__(self, root: str) -> None:
        self.storage = LocalStorage(root)
        create_store(self.storage)
        self.objects = Objects(self.storage)
        self.journal = Journal.create(self.storage)
        self.stores: list[Store] = []

    def tell(self, *events: Event) -> None:
        self.journal.append(events)

    def store(self, **options: Any) -> Store:
        store = Store(self.storage, **options)
        self.stores.append(store)
        return store

    def next_journal(self) -> None:
        """End this writer and begin another."""
        self.journal.close()
        self.journal = Journal.create(self.storage)

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.journal.close()

    def content(self, value: object, is_inline: bool = True) -> Content:
        dumped = dump(value)
        data = b"".join(bytes(part) for part in dumped.parts)
        if not is_inline:
            self.objects.put([data])
        return Content(
            dumped.digest,
            dumped.size_bytes,
            dumped.type,
            dumped.serializer,
            dumped.value,
            dumped.value_number,
            data if is_inline else None,
        )

    def run(self, flow: str, run_id: str, uid: bytes | None = None, **payload: Any) -> RunRef:
        run = RunRef(uid or f"{flow}/{run_id}".encode().rjust(16, b"."), flow, run_id)
        self.tell(kinds.run_started(run, None, {"user": "me", **payload}))
        return run

    def parameter(self, run: RunRef, name: str, value: object) -> None:
        self.tell(kinds.parameter_set(run, name, self.content(value), "parameter"))

    def task(
        self,
        run: RunRef,
        step: str,
        task_id: str,
        parents: tuple[TaskRef, ...] = (),
        levels: tuple[Level, ...] = (),
        is_done: bool = True,
        reads: tuple[tuple[str, TaskRef], ...] = (),
        **saves: object,
    ) -> TaskRef:
        """One task with one attempt that reads and saves; with `is_done` it succeeds."""
        task = run.task(step, task_id)
        self.tell(
            kinds.task_created(task, tuple((p.step, p.task_id) for p in parents), levels, None),
            kinds.attempt_started(task, 0, 4711, "box"),
        )
        for name, producer in reads:
            self.read(task, name, producer)
        for name, value in saves.items():
            self.tell(kinds.artifact_saved(task, 0, name, self.content(value)))
        if is_done:
            self.tell(kinds.attempt_succeeded(task, 0, {"next": []}, {"cpu_s": 0.5, "max_rss_bytes": 1000}))
        return task

    def read(self, task: TaskRef, name: str, producer: TaskRef, item_index: int | None = None) -> None:
        origin = Pathspec(producer.flow, producer.run_id, producer.step, producer.task_id)
        self.tell(kinds.artifact_used(task, 0, name, b"d" * 32, origin, item_index))

    def merge(self, task: TaskRef, name: str, producer: TaskRef) -> None:
        origin = Pathspec(producer.flow, producer.run_id, producer.step, producer.task_id)
        self.tell(kinds.artifact_merged(task, 0, name, b"d" * 32, origin))

    def reuse(
        self, run: RunRef, origin: TaskRef, parents: tuple[TaskRef, ...] = (), task_id: str | None = None
    ) -> TaskRef:
        task = run.task(origin.step, task_id or origin.task_id)
        spec = Pathspec(origin.flow, origin.run_id, origin.step, origin.task_id)
        placed = tuple((p.step, p.task_id) for p in parents)
        payload = {"reason": "succeeded before", "status": "succeeded", "next": []}
        self.tell(kinds.task_reused(task, spec, placed, (), None, payload))
        return task

    def end(self, run: RunRef, status: str = "succeeded", **payload: Any) -> None:
        self.tell(kinds.run_ended(run, status, payload))


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    told = Story(str(tmp_path / "store"))
    yield told
    told.close()
