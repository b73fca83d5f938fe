"""A transfer gives the target the union of both stores, however often, in whatever order, and wherever it breaks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import Crash, Disk, Fault, FaultyStorage, seeds
from weft.lineage import events as kinds
from weft.lineage.description import create_store, read_description
from weft.lineage.errors import NotFound, StoreError, StoreTooNew, UsageError
from weft.lineage.events import Content, RunRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.memory import MemoryStorage
from weft.lineage.objects import Objects
from weft.lineage.paths import JOURNALS, OBJECTS, SEGMENTS, incoming_path, object_path
from weft.lineage.schema import Event
from weft.lineage.storage import Storage
from weft.lineage.store import Store
from weft.lineage.stores import open_storage
from weft.lineage.transfer import TransferReport, transfer
from weft.lineage.verify import verify

SLOW_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 60)]

RUN = RunRef(bytes(range(16)), "Flow", "1")


def _store(storage: Storage | None = None) -> Storage:
    storage = MemoryStorage() if storage is None else storage
    create_store(storage)
    return storage


def _saved(storage: Storage, name: str, data: bytes, run: RunRef = RUN) -> Event:
    """An artifact whose bytes are an object of the store."""
    digest = Objects(storage).put([data])
    content = Content(digest, len(data), "bytes", "plain/1")
    return kinds.artifact_saved(run.task("start", "1"), 0, name, content)


def _tell(storage: Storage, number: int, *, is_closed: bool = True) -> Journal:
    """One run in a journal of its own."""
    run = RunRef(number.to_bytes(16, "big"), "Flow", str(number))
    journal = Journal.create(storage, number.to_bytes(16, "little"))
    journal.append([kinds.run_started(run, None, {"user": "ada"}), kinds.step_started(run, "start")])
    journal.append(
        [_saved(storage, "x", b"of run %d" % number, run), _saved(storage, "same", b"shared", run)]
    )
    journal.append([kinds.run_ended(run, "succeeded")])
    if is_closed:
        journal.close()
    else:
        journal.sync()
    return journal


def _events(storage: Storage) -> list[Event]:
    return EventLog(storage).events()


def _files(storage: Storage) -> dict[str, bytes]:
    return {path: storage.get(path) for path in storage.list("") if not path.startswith("cache")}


def _counts(report: TransferReport) -> tuple[int, int, int, int]:
    assert report.left == []
    return report.events, report.segments, report.journals, report.objects


def _seal(storage: Storage) -> None:
    EventLog(storage).seal(force=True, grace_s=0)


def test_transfer_brings_events_and_objects_as_they_are() -> None:
    source, target = _store(), MemoryStorage()
    _tell(source, 1)
    _seal(source)
    _tell(source, 2)
    assert _counts(transfer(source, target)) == (12, 1, 1, 3)
    assert _events(target) == _events(source)
    names = {path: data for path, data in _files(source).items() if not path.endswith("weft.json")}
    assert {path: data for path, data in _files(target).items() if path in names} == names
    assert verify(target).problems == []
    assert read_description(target).store_id != read_description(source).store_id
    assert _counts(transfer(source, target)) == (0, 0, 0, 0)
    assert _counts(transfer(target, source)) == (0, 0, 0, 0)


def test_transfer_of_a_store_that_was_sealed_since_sends_nothing() -> None:
    source, target = _store(), MemoryStorage()
    _tell(source, 1)
    transfer(source, target)
    _seal(source)
    before = _files(target)
    assert _counts(transfer(source, target)) == (0, 0, 0, 0)
    assert _files(target) == before


def test_live_journal_travels_as_far_as_it_is_and_again_after_its_end() -> None:
    source, target = _store(), MemoryStorage()
    journal = _tell(source, 1, is_closed=False)
    assert transfer(source, target).events == 5
    assert transfer(source, target).events == 0
    journal.append([kinds.tag_added(RUN, "late", "user")])
    journal.append([kinds.tag_added(RUN, "later", "user")])
    journal.sync()
    assert transfer(source, target).events == 2
    assert len(target.list(JOURNALS)) == 2
    assert _events(target) == _events(source)
    journal.append([kinds.tag_added(RUN, "last", "user")])
    journal.close()
    before = _files(target)
    assert transfer(source, target).events == 2
    assert before.items() <= _files(target).items(), "a file at the target was replaced"
    assert _events(target) == _events(source)
    assert verify(target).problems == []
    _seal(target)
    assert _events(target) == _events(source)
    assert target.list(JOURNALS) == []
    assert _counts(transfer(source, target)) == (0, 0, 0, 0)
    assert _counts(transfer(target, source)) == (0, 0, 0, 0)


def test_chunk_inside_a_later_longer_range_is_read_once() -> None:
    source, target = _store(), MemoryStorage()
    journal = _tell(source, 1, is_closed=False)
    transfer(source, target)
    journal.append([kinds.tag_added(RUN, "late", "user")])
    transfer(source, target)
    journal.append([kinds.tag_added(RUN, "later", "user")])
    journal.close()
    _seal(source)
    assert len(target.list(JOURNALS)) == 2
    assert transfer(source, target).segments == 1
    assert _events(target) == _events(source)
    with Store(target) as store:
        assert store.sql("select count(*) from events").fetchall() == [(8,)]


def test_overlapping_files_of_one_writer_are_read_once() -> None:
    """Folders of stores that got a live journal at different moments, copied over each other."""
    source = _store()
    one, other = MemoryStorage(), MemoryStorage()
    journal = _tell(source, 1, is_closed=False)
    transfer(source, one)
    journal.append([kinds.tag_added(RUN, "late", "user")])
    transfer(source, other)
    journal.append([kinds.tag_added(RUN, "later", "user")])
    transfer(source, one)
    journal.append([kinds.tag_added(RUN, "last", "user")])
    transfer(source, other)
    for path in one.list(JOURNALS):
        if not other.exists(path):
            other.put(path, one.get(path))
    assert len(other.list(JOURNALS)) == 3
    assert _events(other) == _events(source)
    _seal(other)
    assert _events(other) == _events(source)
    with Store(other) as store:
        assert store.sql("select count(*) from events").fetchall() == [(len(_events(source)),)]


@pytest.mark.parametrize("is_sealed", [False, True])
def test_files_of_code_follow_a_manifest_that_came_alone(is_sealed: bool) -> None:
    """A transfer may be broken off between the two."""
    source, target = _store(), _store()
    code = Objects(source).put([b"print(1)"])
    text = json.dumps({"entry": "flow.py", "files": {"flow.py": code.hex()}}).encode()
    manifest = Objects(source).put([text])
    journal = Journal.create(source)
    journal.append([kinds.code_saved(RUN, manifest, len(text), {"entry": "flow.py", "files": 1})])
    journal.close()
    if is_sealed:
        _seal(source)
    Objects(target).put([text])
    assert _counts(transfer(source, target))[3] == 1
    assert Objects(target).get(code) == b"print(1)"
    assert verify(target).problems == []


def test_frames_after_a_torn_end_are_not_sent() -> None:
    source, target = _store(), MemoryStorage()
    journal = _tell(source, 1, is_closed=False)
    source.put(journal.path, source.get(journal.path) + b"\x50\x00\x00")
    assert transfer(source, target).events == 5
    assert verify(target).problems == []


def test_damaged_files_stay_and_the_rest_travels(tmp_path: Path) -> None:
    source, target = _store(LocalStorage(str(tmp_path))), MemoryStorage()
    for number in (1, 2):
        _tell(source, number)
        _seal(source)
    journal = _tell(source, 3)
    _tell(source, 4)
    lost = Objects(source).put([b"of run 4"])
    source.delete(object_path(lost))
    spoilt = Objects(source).put([b"shared"])
    source.put(object_path(spoilt), b"sha!ed")
    segment = next(path for path in source.list(SEGMENTS) if b"of run" not in source.get(path))
    for path in (segment, journal.path):
        data = bytearray(source.get(path))
        data[40] ^= 4
        source.put(path, bytes(data))
    report = transfer(source, target)
    assert not report.is_complete
    found = {left.path: left.reason for left in report.left}
    assert set(found) == {segment, journal.path, object_path(lost), object_path(spoilt)}
    assert found[object_path(lost)].startswith("Object sha256:")
    assert found[object_path(lost)].endswith("is missing, which Flow/4/start/1/x need")
    assert "damaged at byte 0" in found[journal.path]
    assert all(left.advice.endswith("then repeat this.") for left in report.left)
    assert {event.run_id for event in _events(target)} - {None} in ({"1", "4"}, {"2", "4"})
    # Of events that are there already only what can be sent is looked for.
    assert transfer(source, target).left == [left for left in report.left if left.path != object_path(lost)]
    source.put(object_path(lost), b"of run 4")
    source.put(object_path(spoilt), b"shared")
    for path in (segment, journal.path):
        data = bytearray(source.get(path))
        data[40] ^= 4
        source.put(path, bytes(data))
    assert transfer(source, target).left == []
    assert _events(target) == _events(source)
    assert verify(target).problems == []


def test_transfer_takes_a_store_and_no_newer_one_and_not_itself(tmp_path: Path) -> None:
    source = _store(LocalStorage(str(tmp_path / "one")))
    with pytest.raises(NotFound, match="There is no store at"):
        transfer(MemoryStorage(), source)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with pytest.raises(UsageError, match="is this store itself"):
        transfer(source, LocalStorage(str(tmp_path / "link")))
    newer = MemoryStorage()
    newer.put("weft.json", b'{"format": 99, "version": "9.0.0", "store_id": "00"}')
    for pair in ((source, newer), (newer, source)):
        with pytest.raises(StoreTooNew):
            transfer(*pair)


def test_copies_of_folders_merge_the_same_way(tmp_path: Path) -> None:
    one, other = (_store(LocalStorage(str(tmp_path / name))) for name in ("one", "other"))
    _tell(one, 1)
    _seal(one)
    _tell(one, 2)
    _tell(other, 3)
    _seal(other)
    merged = MemoryStorage()
    transfer(one, merged)
    transfer(other, merged)
    shutil.copytree(tmp_path / "one", tmp_path / "copied")
    shutil.copytree(tmp_path / "other", tmp_path / "copied", dirs_exist_ok=True)
    copied = LocalStorage(str(tmp_path / "copied"))
    assert _events(copied) == _events(merged)
    assert verify(copied).problems == []
    assert sorted(copied.list(OBJECTS)) == sorted(merged.list(OBJECTS))


def test_runs_of_one_pathspec_are_told_apart_after_a_pull() -> None:
    one, other = _store(), _store()
    for storage, uid in ((one, b"a"), (other, b"b")):
        journal = Journal.create(storage)
        journal.append([kinds.run_started(RunRef(uid * 16, "Flow", "7"), None, {"user": "ada"})])
        journal.close()
    transfer(other, one)
    with Store(one) as store:
        assert store.sql("select run_id from runs order by 1").fetchall() == [("7",), ("7~2",)]


def _histories(draw: random.Random, stores: list[Storage]) -> list[Callable[[], object]]:
    """What may happen next, to three stores that begin with runs of their own."""
    number = 0
    live: list[tuple[Storage, Journal]] = []

    def run() -> None:
        nonlocal number
        number += 1
        storage = draw.choice(stores)
        is_closed = draw.random() < 0.6
        journal = _tell(storage, number, is_closed=is_closed)
        if not is_closed:
            live.append((storage, journal))

    def go_on() -> None:
        if live:
            _, journal = draw.choice(live)
            journal.append(
                [kinds.tag_added(RUN, f"tag{draw.random()}", "user") for _ in range(draw.randint(1, 3))]
            )
            if draw.random() < 0.5:
                journal.close()
                live[:] = [(s, j) for s, j in live if j is not journal]

    def seal() -> None:
        _seal(draw.choice(stores))

    def compact() -> None:
        EventLog(draw.choice(stores)).compact(is_whole=True, grace_s=0)

    def move() -> None:
        source, target = draw.sample(stores, 2)
        assert transfer(source, target).left == []

    return [run, go_on, go_on, seal, compact, move, move]


@pytest.mark.parametrize("seed", [*seeds(range(4)), *SLOW_SEEDS])
def test_any_order_of_transfers_ends_in_the_same_events(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the three is a store where files cannot grow, and journals are chunks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    draw = random.Random(seed)
    remote = open_storage(f"memory://{os.urandom(8).hex()}")
    stores: list[Storage] = [_store(), _store(LocalStorage(str(tmp_path / "store"))), _store(remote)]
    acts = _histories(draw, stores)
    for _ in range(25):
        draw.choice(acts)()
    everything = {(e.writer, e.seq): e for storage in stores for e in _events(storage)}
    before = {(e.writer, e.seq) for e in _events(stores[0])}
    assert before <= everything.keys()
    pairs = [(source, target) for source in stores for target in stores if source is not target] * 2
    draw.shuffle(pairs)
    for source, target in pairs:
        transfer(source, target)
    expected = sorted(everything.values(), key=lambda e: (e.time_us, e.writer, e.seq))
    for storage in stores:
        assert _events(storage) == expected, f"replay with WEFT_TEST_SEED={seed}"
        assert verify(storage).problems == []
        with Store(storage) as store:
            assert store.sql("select count(*) from events").fetchall() == [(len(expected),)]
    for source, target in pairs:
        assert transfer(source, target)[:4] == (0, 0, 0, 0), f"replay with WEFT_TEST_SEED={seed}"


def _source_with_all() -> MemoryStorage:
    """Segments, journals, a part of a journal that the target may have already."""
    source = MemoryStorage()
    create_store(source)
    for number in (1, 2):
        _tell(source, number)
    _seal(source)
    _tell(source, 3)
    _tell(source, 4, is_closed=False)
    return source


def _break(source: Storage, step: int, kind: str) -> FaultyStorage:
    """A target at whose given step a transfer broke, if there are so many."""
    storage = FaultyStorage(Disk(), Fault(step, kind))  # type: ignore[arg-type]
    with contextlib.suppress(Crash, StoreError):
        transfer(source, storage)
    return storage


def _check_broken(source: Storage, expected: list[Event], storage: FaultyStorage, disk: Disk) -> None:
    """What is there is sound as far as it goes, and a repeated transfer completes it."""
    repeated = FaultyStorage(disk)
    if repeated.exists("weft.json"):
        seen = _events(repeated)
        assert [event for event in expected if event in seen] == seen, storage.story
        assert all(problem.is_torn for problem in verify(repeated).problems), storage.story
    assert transfer(source, repeated).left == []
    assert _events(repeated) == expected, storage.story
    assert verify(repeated).problems == [], storage.story
    assert not any("incoming" in path for path in repeated.list(SEGMENTS))


@pytest.mark.parametrize(
    ("kind", "every"),
    [
        *((kind, 9) for kind in ("before", "torn", "error", "error_after")),
        *(
            pytest.param(kind, 1, marks=pytest.mark.slow)
            for kind in ("before", "torn", "error", "error_after")
        ),
    ],
)
def test_transfer_that_broke_at_any_step_is_completed_by_repeating_it(kind: str, every: int) -> None:
    source = _source_with_all()
    expected = _events(source)
    step = random.Random(kind).randrange(every)
    while (storage := _break(source, step, kind)).steps > step:
        _check_broken(source, expected, storage, storage.disk.after_kill())
        if kind == "before":
            _check_broken(source, expected, storage, storage.disk.after_power_loss(random.Random(step)))
        step += every
    assert step > 40


def test_segment_that_is_half_there_is_passed_over_while_it_is_announced() -> None:
    source, target = _store(), MemoryStorage()
    _tell(source, 1)
    _seal(source)
    transfer(source, target)
    (segment,) = EventLog(target).segments()
    target.delete(next(iter(segment.files.values())).path)
    with pytest.raises(StoreError, match="are gone"):
        _events(target)
    target.put(incoming_path(segment.segment_id), b"")
    assert _events(target) == []
    report = verify(target)
    assert report.is_sound
    assert "Repeat the push or pull" in report.problems[0].advice
    assert transfer(source, target).segments == 1
    assert _events(target) == _events(source)
    assert verify(target).problems == []
