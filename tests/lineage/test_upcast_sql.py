"""SQL sees events of old versions as the current one tells them, wherever they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.lineage import events as kinds
from weft.lineage import upcast
from weft.lineage.checkpoint import read_checkpoint
from weft.lineage.checkpointing import refresh_checkpoint
from weft.lineage.description import create_store
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.schema import KINDS, Event
from weft.lineage.store import Store

RUN = RunRef(b"1" * 16, "Hello", "1")
TASK = RUN.task("fit", "2")

#: Every view that shows something of what the upcasters below change.
QUESTIONS = (
    "select tag, kind from tags order by all",
    "select name, value_number, value from artifacts order by all",
    "select name from artifacts where value_number > 25 order by all",
    "select kind, version, name from events where kind in ('tag_added', 'artifact_saved') order by all",
    "select name, value_number from artifacts where flow = 'Hello' and run_id = '1' order by all",
)
EXPECTED = [
    [("new", "user"), ("old, told anew", "user")],
    [("first", 20.0, "2"), ("second", 30.0, "3")],
    [("second",)],
    [
        ("artifact_saved", 3, "first"),
        ("artifact_saved", 3, "second"),
        ("tag_added", 2, "new"),
        ("tag_added", 2, "old, told anew"),
    ],
    [("first", 20.0), ("second", 30.0)],
]


def _tag(event: Event) -> Event:
    payload = {"kind": (event.payload or {})["was_called"]}
    return event._replace(version=2, name=f"{event.name}, told anew", payload=payload)


def _register(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if tags had another shape now, and numbers had been tenths for two versions."""
    monkeypatch.setitem(KINDS, "tag_added", KINDS["tag_added"]._replace(version=2))
    monkeypatch.setitem(KINDS, "artifact_saved", KINDS["artifact_saved"]._replace(version=3))
    monkeypatch.setitem(upcast.UPCASTERS, ("tag_added", 1), _tag)
    monkeypatch.setitem(upcast.UPCASTERS, ("artifact_saved", 1), lambda event: event._replace(version=2))
    monkeypatch.setitem(
        upcast.UPCASTERS,
        ("artifact_saved", 2),
        lambda event: event._replace(version=3, value_number=(event.value_number or 0) * 10),
    )
    monkeypatch.setattr(upcast, "_CHANGED", frozenset(kind for kind, _ in upcast.UPCASTERS))


def _history(storage: LocalStorage) -> list[list[Event]]:
    create_store(storage)
    content = kinds.Content(b"x" * 32, 3, "int", "plain/1", "2", 2.0, b"x")
    second = content._replace(digest=b"y" * 32, value="3", value_number=30.0)
    return [
        [
            kinds.run_started(RUN, None, {"user": "me"}),
            Event(
                kind="tag_added",
                version=1,
                run_uid=RUN.run_uid,
                flow="Hello",
                run_id="1",
                name="old",
                payload={"was_called": "user"},
            ),
            kinds.task_created(TASK, (), (), None),
            kinds.attempt_started(TASK, 0, 1, "h"),
            kinds.artifact_saved(TASK, 0, "first", content)._replace(version=1),
        ],
        [
            kinds.artifact_saved(TASK, 0, "second", second)._replace(version=3),
            Event(
                kind="tag_added",
                version=2,
                run_uid=RUN.run_uid,
                flow="Hello",
                run_id="1",
                name="new",
                payload={"kind": "user"},
            ),
            kinds.run_ended(RUN, "succeeded", {}),
        ],
    ]


def _answers(storage: LocalStorage) -> list[list[tuple[object, ...]]]:
    with Store(storage) as store:
        return [store.sql(question).rows for question in QUESTIONS]


@pytest.mark.parametrize("copied_bytes", [0, 1_000_000], ids=["large", "small"])
def test_old_versions_are_told_anew_in_journals_segments_and_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied_bytes: int
) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", copied_bytes)
    _register(monkeypatch)
    storage = LocalStorage(str(tmp_path / "store"))
    log = EventLog(storage)
    for events in _history(storage):
        journal = Journal.create(storage)
        journal.append(events)
        journal.close()
    assert _answers(storage) == EXPECTED
    log.seal(force=True, grace_s=0)
    assert _answers(storage) == EXPECTED
    refresh_checkpoint(storage, log)
    assert _answers(storage) == EXPECTED
    log.compact(is_whole=True, grace_s=0)
    assert _answers(storage) == EXPECTED
    refresh_checkpoint(storage, log)
    assert _answers(storage) == EXPECTED


def test_dirty_runs_are_folded_of_events_told_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)
    _register(monkeypatch)
    storage = LocalStorage(str(tmp_path / "store"))
    log = EventLog(storage)
    first, second = _history(storage)
    for events in (first, second):
        journal = Journal.create(storage)
        journal.append(events)
        journal.close()
        if events is first:
            log.seal(force=True, grace_s=0)
            refresh_checkpoint(storage, log)
    assert _answers(storage) == EXPECTED
    log.seal(force=True, grace_s=0)
    assert _answers(storage) == EXPECTED
    refresh_checkpoint(storage, log)
    assert _answers(storage) == EXPECTED


def test_a_checkpoint_of_before_an_upcaster_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)
    storage = LocalStorage(str(tmp_path / "store"))
    log = EventLog(storage)
    for events in _history(storage):
        journal = Journal.create(storage)
        journal.append(events)
        journal.close()
    log.seal(force=True, grace_s=0)
    refresh_checkpoint(storage, log)
    assert read_checkpoint(storage) is not None
    _register(monkeypatch)
    assert read_checkpoint(storage) is None
    assert _answers(storage) == EXPECTED
