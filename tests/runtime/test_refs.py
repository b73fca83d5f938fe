"""References find their bytes wherever these lie by now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weft.lineage import events
from weft.lineage.description import create_store
from weft.lineage.errors import StoreDamaged
from weft.lineage.events import RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.objects import Objects
from weft.lineage.serializers import dump
from weft.runtime.items import dump_items
from weft.runtime.refs import CARRIED_BYTES_MAX, Ref, content_from, load_ref, pack_tables, ref_of, unpack_refs

RUN = RunRef(b"\x07" * 16, "F", "1")
TASK = RUN.task("start", "1")
OWNER = Pathspec("F", "1", "start", "1")


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    storage = LocalStorage(str(tmp_path / ".weft"))
    create_store(storage)
    return Objects(storage)


def _saved(journal: Journal, objects: Objects, name: str, value: Any) -> Ref:
    event = events.artifact_saved(TASK, 0, name, content_from(dump(value), objects))
    (place,) = journal.append([event])
    return ref_of(event, OWNER, place)


def test_values_come_back_from_reference_journal_and_object(objects: Objects) -> None:
    storage = objects.storage
    journal = Journal.create(storage)
    values = {"carried": 1, "journal": "j" * 2000, "object": "o" * 20_000}
    refs = {name: _saved(journal, objects, name, value) for name, value in values.items()}
    assert [bool(r.blob) for r in refs.values()] == [True, False, False]
    assert [r.place is not None for r in refs.values()] == [False, True, False]
    pool, (names,) = pack_tables([refs])
    unpacked = unpack_refs([list(row) for row in pool])
    assert {name: load_ref(unpacked[index], objects) for name, index in names.items()} == values


def test_journals_of_a_writer_that_lives_are_kept_for_its_references(objects: Objects) -> None:
    journal = Journal.create(objects.storage, size_max_bytes=100)
    journal.append([events.run_started(RUN, None, {})])
    ref = _saved(journal, objects, "x", "x" * (CARRIED_BYTES_MAX + 1))
    journal.append([events.run_ended(RUN, "succeeded")])  # The value's file is closed, the writer lives.
    log = EventLog(objects.storage)
    log.seal(force=True, grace_s=0.0)
    log.seal(force=True, grace_s=0.0)
    assert load_ref(ref, objects) == "x" * (CARRIED_BYTES_MAX + 1)


def test_items_in_a_pack_are_read_and_checked_one_by_one(objects: Objects) -> None:
    values = [bytes([i]) * 5000 for i in range(4)]
    items = dump_items(values, "xs", "start", 10, objects)
    refs = [ref_of(events.task_created(TASK, (), (), item.content), OWNER, None) for item in items]
    assert [load_ref(ref, objects) for ref in refs] == values
    assert len({ref.pack for ref in refs}) == 1
    pack = refs[2].pack
    assert pack is not None
    path = Path(objects.path_of(pack) or "")
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[refs[2].pack_offset + 100] ^= 1
    path.write_bytes(data)
    assert load_ref(refs[1], objects) == values[1]
    with pytest.raises(StoreDamaged, match="other bytes"):
        load_ref(refs[2], objects)
