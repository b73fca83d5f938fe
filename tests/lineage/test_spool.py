"""The spool: objects on their way to a far store, and what dead schedulers leave behind."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from weft.lineage.errors import NotFound, StoreDamaged
from weft.lineage.journal import Journal, read_event_at
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.memory import MemoryStorage
from weft.lineage.objects import Objects
from weft.lineage.paths import JOURNALS, OBJECTS, object_path
from weft.lineage.remote import RemoteStorage
from weft.lineage.schema import Event
from weft.lineage.spool import Spool
from weft.lineage.stores import open_spool


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteStorage:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "copies"))
    return RemoteStorage(f"memory://{os.urandom(6).hex()}/store")


def test_spool_is_for_stores_that_are_far(remote: RemoteStorage, tmp_path: Path) -> None:
    assert open_spool(LocalStorage(str(tmp_path))) is None
    assert open_spool(MemoryStorage(can_append=False)) is None
    spool = open_spool(remote)
    assert spool is not None
    spool.close()


def test_objects_are_published_before_the_chunk_that_names_them(remote: RemoteStorage) -> None:
    order: list[str] = []

    class Watched(RemoteStorage):
        def create_exclusive(self, path: str, data: object) -> None:
            order.extend([*self.list(OBJECTS), path])
            super().create_exclusive(path, data)  # type: ignore[arg-type]

    storage = Watched(remote.url)
    spool = Spool(storage)
    journal = Journal.create(storage, spool=spool)
    digests = [Objects(storage, spool.storage).put([b"value", bytes([n])]) for n in range(5)]
    journal.append([Event(kind="artifact_saved", digest=digest) for digest in digests])
    assert storage.list("") == []
    journal.sync()
    assert order == [*sorted(map(object_path, digests)), journal.path]
    # Where they were read before they still are.
    reader = Objects(storage, spool.storage)
    assert [reader.get(digest) for digest in digests] == [b"value" + bytes([n]) for n in range(5)]
    assert spool.storage.list(OBJECTS) == []
    assert reader.path_of(digests[0]) == storage.copies.path(object_path(digests[0]))
    journal.close()
    assert not os.path.exists(spool.folder)
    assert storage.list(JOURNALS) == [path for path in order if path.startswith(JOURNALS)]


def test_object_that_was_published_is_not_put_twice(remote: RemoteStorage) -> None:
    spool = Spool(remote)
    objects = Objects(remote, spool.storage)
    digest = objects.put([b"value"])
    spool.publish()
    remote.delete(object_path(digest))
    assert objects.put([b"value"]) == digest
    assert objects.get(digest) == b"value"
    spool.publish()
    assert not remote.exists(object_path(digest))
    spool.close()


def test_places_lead_into_the_spool(remote: RemoteStorage) -> None:
    journal = Journal.create(remote, spool=Spool(remote))
    first = journal.append([Event(kind="tag_added", name="a"), Event(kind="tag_added", name="b")])
    journal.sync()
    second = journal.append([Event(kind="tag_added", name="c")])
    places = [*first, *second]
    assert [read_event_at(*place, journal.writer).name for place in places] == ["a", "b", "c"]
    journal.close()
    assert len(EventLog(remote).events()) == 4


def test_spools_of_the_dead_are_swept_and_those_of_the_living_stay(remote: RemoteStorage) -> None:
    living, dead = Spool(remote), Spool(remote)
    dead._frames.close()
    newest = Spool(remote)
    spools = Path(remote.copies.path("spool"))
    assert {str(path) for path in spools.iterdir()} == {living.folder, newest.folder}
    living.close()
    newest.close()
    assert list(spools.iterdir()) == []


def test_damaged_copy_is_fetched_anew_and_a_damaged_object_is_refused(remote: RemoteStorage) -> None:
    objects = Objects(remote)
    digest = objects.put([b"value"])
    assert objects.get(digest) == b"value"
    copy = objects.path_of(digest)
    assert copy is not None
    Path(copy).write_bytes(b"wrong")
    assert objects.get(digest) == b"value"
    assert objects.get_part(digest, 1, 2, hashlib.sha256(b"al").digest()) == b"al"
    remote.put(object_path(digest), b"other")
    Path(copy).unlink()
    with pytest.raises(StoreDamaged, match="holds other bytes"):
        objects.get(digest)
    remote.delete(object_path(digest))
    with pytest.raises(NotFound, match="is not in the store"):
        objects.get(digest)
