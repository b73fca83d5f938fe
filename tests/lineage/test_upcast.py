"""Old versions are told as the current one tells them, and stay stored as they were written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from weft.lineage.journal import Journal, read_journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.memory import MemoryStorage
from weft.lineage.paths import JOURNALS
from weft.lineage.schema import KINDS, Event
from weft.lineage.upcast import UPCASTERS, upcast, upcast_all

STORES = Path(__file__).parent.parent / "fixtures" / "stores"

#: Where the bytes of each old version lie in the fixtures: store and journal.
STORED = {("run_lost", 1): ("0.1.0-kinds", "journal")}


def _stored(kind: str, version: int) -> Event:
    store, folder = STORED[kind, version]
    storage = LocalStorage(str(STORES / store / "store"))
    events = (event for path in storage.list(folder) for event in read_journal(storage, path).events)
    return next(event for event in events if (event.kind, event.version) == (kind, version))


def test_upcasters_lead_from_every_old_version_to_the_current_one() -> None:
    expected = {(name, version) for name, kind in KINDS.items() for version in range(1, kind.version)}
    assert set(UPCASTERS) == expected == set(STORED)


@pytest.mark.parametrize(("kind", "version"), UPCASTERS)
def test_upcaster_keeps_all_but_version_and_payload(kind: str, version: int) -> None:
    stored = _stored(kind, version)
    told = upcast(stored)
    assert told.version == KINDS[kind].version
    assert told._replace(version=version, payload=stored.payload) == stored
    assert upcast(told) is told


def test_run_lost_1_did_not_say_who_was_lost() -> None:
    stored = _stored("run_lost", 1)
    assert stored.payload is not None
    assert "writer" not in stored.payload
    assert upcast(stored).payload == {**stored.payload, "writer": None, "last_seq": None}


@pytest.mark.parametrize(
    "event",
    [Event(kind="run_danced", version=3), Event(kind="run_lost", version=99), Event(kind="run_failed")],
)
def test_events_that_are_not_old_are_left_as_they_are(event: Event) -> None:
    assert upcast(event) is event
    assert list(upcast_all([event])) == [event]


def test_unknown_kinds_and_higher_versions_are_kept_through_sealing() -> None:
    storage = MemoryStorage()
    newer = Event(kind="run_lost", version=99, flow="F", run_id="1", run_uid=bytes(16), payload={"new": [1]})
    unknown = Event(kind="run_danced", version=3, flow="F", run_id="1", payload={"steps": 2}, name="x")
    journal = Journal.create(storage)
    journal.append([newer, unknown])
    journal.close()
    log = EventLog(storage)
    before = log.events()
    assert [event.kind for event in before] == ["run_lost", "run_danced", "journal_closed"]
    assert before[0].payload == {"new": [1]}
    assert before[0].version == 99
    assert before[1]._replace(writer=b"", seq=-1, time_us=0) == unknown
    log.seal(force=True, grace_s=0)
    assert storage.list(JOURNALS) == []
    assert EventLog(storage).events() == before


@pytest.mark.parametrize("is_anew", [False, True], ids=["segment of 0.1.0", "sealed anew"])
def test_sealing_and_compaction_keep_the_old_version(tmp_path: Path, is_anew: bool) -> None:
    """What is stored is what was written: only readers see another version."""
    import pyarrow.parquet as pq

    store = tmp_path / "store"
    shutil.copytree(STORES / "0.1.0-kinds" / "store", store)
    if is_anew:
        shutil.rmtree(store / "log")
    log = EventLog(LocalStorage(str(store)))
    told = [event for event in log.events() if event.kind == "run_lost"]
    assert [event.version for event in told] == [2]
    for act in (
        lambda: log.seal(force=True, grace_s=0),
        lambda: log.compact(is_whole=True, grace_s=0),
    ):
        act()
        rows = [row for path in (store / "log" / "run").iterdir() for row in pq.read_table(path).to_pylist()]
        lost = [(row["version"], row["payload"].count("writer")) for row in rows if row["kind"] == "run_lost"]
        assert lost == [(1, 0)]
        assert [event for event in log.events() if event.kind == "run_lost"] == told
        assert any(segment.versions.get("run_lost") == 1 for segment in log.segments())
