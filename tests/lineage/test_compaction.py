"""Compaction: many small segments become few, and no event changes, is lost or comes twice."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.lineage import compaction
from weft.lineage import events as ev
from weft.lineage.columns import Columns
from weft.lineage.compaction import Candidate, plan
from weft.lineage.errors import NotFound
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.manifest import pieces_of
from weft.lineage.memory import MemoryStorage
from weft.lineage.ranges import Range, Ranges
from weft.lineage.schema import Event
from weft.lineage.segments import write_segment
from weft.lineage.storage import Storage
from weft.lineage.verify import verify

PAST_GRACE_S = -1.0


def run_events(number: int, tasks: int = 2) -> Iterator[Event]:
    run = RunRef(bytes([number]) * 16, f"Flow{number % 3}", str(1000 - number))
    yield ev.run_started(run, None, {"user": "ann", "n": number})
    for index in range(tasks):
        task = run.task("fit", str(index))
        yield ev.task_created(task, (("start", "1"),), (), None)
        yield ev.artifact_saved(
            task, 0, "x", ev.Content(bytes([index]) * 32, 4, "float", "plain", "1.5", 1.5, b"xx")
        )
        yield ev.console_written(task, 0, "stdout", 1, 3, b"abc", None)
    yield Event(kind="from_a_newer_weft", run_uid=run.run_uid, name=str(number))


def write_runs(storage: Storage, numbers: range, size_max_bytes: int = 1 << 24) -> None:
    """Each run in a segment of its own."""
    for number in numbers:
        journal = Journal.create(storage, bytes([number]) * 16, size_max_bytes=size_max_bytes)
        for event in run_events(number):
            journal.append([event])
        journal.close()
        EventLog(storage).seal(force=True, grace_s=PAST_GRACE_S)


def tidy(storage: Storage) -> None:
    """Seal, compact, and remove all that may go."""
    EventLog(storage).seal(force=True, grace_s=PAST_GRACE_S)
    for _ in range(2):
        EventLog(storage).compact(is_whole=True, grace_s=PAST_GRACE_S)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "store"))


# What is merged


def candidates(counts: list[int]) -> list[Candidate]:
    return [Candidate(f"{index:04}", count, True, index) for index, count in enumerate(counts)]


@pytest.mark.parametrize(
    ("counts", "merged_whole", "merged"),
    [
        ([], [], []),
        ([10], [], []),
        ([10, 10], [["0000", "0001"]], []),
        ([600_000, 10], [], []),
        ([10, 600_000, 10, 10], [["0000", "0002", "0003"]], []),
        ([400_000] * 4, [["0000", "0001"], ["0002", "0003"]], []),
        ([10] * 8, [[f"{i:04}" for i in range(8)]], [[f"{i:04}" for i in range(8)]]),
        ([10] * 7 + [5000], [[f"{i:04}" for i in range(8)]], []),
    ],
)
def test_plan_merges(counts: list[int], merged_whole: list[list[str]], merged: list[list[str]]) -> None:
    assert plan(candidates(counts), is_whole=True) == merged_whole
    assert plan(candidates(counts), is_whole=False) == merged


def test_segment_that_is_read_in_part_is_written_anew() -> None:
    part = Candidate("a", 900_000, False, 5)
    assert plan([part], is_whole=True) == [["a"]]
    assert plan([part, Candidate("b", 10, True, 1)], is_whole=True) == [["b", "a"]]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 3_000_000), max_size=400))
def test_at_most_a_hundred_segments_remain_of_any_history(counts: list[int]) -> None:
    bins = plan(candidates(counts), is_whole=True)
    merged = {segment_id for found in bins for segment_id in found}
    sizes = [sum(counts[int(segment_id)] for segment_id in found) for found in bins]
    sizes += [count for index, count in enumerate(counts) if f"{index:04}" not in merged]
    assert sum(sizes) == sum(counts)
    assert len(sizes) <= 100
    assert plan(candidates(sizes), is_whole=True) == []


@pytest.mark.parametrize("batch", [50, 800, 20_000])
def test_an_event_is_written_anew_a_few_times_however_long_the_history(batch: int) -> None:
    draw = random.Random(5)
    sizes: list[int] = []
    written = made = 0
    for _ in range(2_000):
        sizes.append(draw.randint(1, 2 * batch))
        made += sizes[-1]
        for found in plan(candidates(sizes), is_whole=False)[:1]:
            chosen = {int(segment_id) for segment_id in found}
            merged = sum(sizes[index] for index in chosen)
            written += merged
            sizes = [*(size for index, size in enumerate(sizes) if index not in chosen), merged]
        assert len(sizes) < 130
    assert written / made < 8


# That nothing changes


@pytest.mark.parametrize("is_local", [True, False])
def test_compaction_changes_no_event_and_keeps_each_range(is_local: bool, storage: LocalStorage) -> None:
    store: Storage = storage if is_local else MemoryStorage()
    write_runs(store, range(9), size_max_bytes=300)
    log = EventLog(store)
    before = log.events()
    ranges = sorted(r for segment in log.segments() for r in segment.ranges)
    assert len(ranges) > 20
    report = log.compact(is_whole=True)
    assert (report.segments_before, report.segments_after, report.removed, report.left) == (9, 1, [], [])
    assert report.event_count == len(before)
    assert log.events() == EventLog(store).events() == before
    (segment,) = EventLog(store).segments()
    assert sorted(segment.ranges) == ranges
    assert segment.why == "compact"
    assert len(segment.replaces) == 9
    assert verify(store).problems == []
    report = log.compact(is_whole=True, grace_s=PAST_GRACE_S)
    assert len(report.removed) == len(set(report.removed)) >= 9 * 5
    assert len(store.list("log")) == len(segment.files)
    assert log.events() == EventLog(store).events() == before
    assert log.compact(is_whole=True, grace_s=PAST_GRACE_S)[2:] == ([], [], [])


def test_rows_are_sorted_and_lie_in_row_groups_of_the_same_size(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weft.lineage import merging, segments

    monkeypatch.setattr(merging, "ROW_GROUP_ROWS", 7)
    monkeypatch.setattr(segments, "ROW_GROUP_ROWS", 7)
    write_runs(storage, range(12), size_max_bytes=500)
    EventLog(storage).compact(is_whole=True)
    (segment,) = EventLog(storage).segments()
    for file in segment.files.values():
        parquet = pq.ParquetFile(f"{storage.root}/{file.path}")
        groups = [parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)]
        assert groups[:-1] == [7] * (len(groups) - 1)
        table = parquet.read()
        names = [name for name in ("flow", "run_id", "writer", "seq") if name in table.column_names]
        rows = [
            tuple(value or "" for value in row[:-1]) + row[-1:]
            for row in zip(*(table[n].to_pylist() for n in names), strict=True)
        ]
        assert rows == sorted(rows)
        assert len(rows) == file.footer.rows[file.footer.family]


def test_many_segments_of_one_size_are_merged_by_themselves(storage: LocalStorage) -> None:
    write_runs(storage, range(7))
    before = EventLog(storage).events()
    assert EventLog(storage).compact().merged == []
    write_runs(storage, range(7, 8))
    (segment,) = EventLog(storage).compact().merged
    assert len(segment.replaces) == 8
    assert [e for e in EventLog(storage).events() if e.writer[0] < 7] == before


# Where stores were merged


def test_stores_compacted_apart_and_merged_give_each_event_once() -> None:
    whole = MemoryStorage()
    write_runs(whole, range(12))
    before = EventLog(whole).events()
    copies = []
    for numbers in ((0, 1, 2, 3, 4), (3, 4, 5, 6, 7, 8), (8, 9, 10, 11)):
        copy = MemoryStorage()
        for segment in EventLog(whole).segments():
            if segment.ranges.writers() <= {bytes([number]) * 16 for number in numbers}:
                for file in segment.files.values():
                    copy.put(file.path, whole.get(file.path))
        tidy(copy)
        copies.append(copy)
    for copy in copies:
        for path in copy.list("log"):
            whole.put(path, copy.get(path))
    assert _ids(whole) == [(event.writer, event.seq) for event in before]
    tidy(whole)
    assert _ids(whole) == [(event.writer, event.seq) for event in before]
    assert len(EventLog(whole).segments()) == 1
    assert len(whole.list("log")) == len(EventLog(whole).segments()[0].files)
    assert verify(whole).problems == []


def _ids(storage: Storage) -> list[tuple[bytes, int]]:
    return sorted((event.writer, event.seq) for event in EventLog(storage).events())


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_segments_that_overlap_in_any_way_are_merged_right(made: list[list[tuple[int, int, int]]]) -> None:
    storage = MemoryStorage()
    for index, claims in enumerate(made):
        ranges = {(bytes([w]) * 16, first, first + more) for w, first, more in claims}
        columns = Columns()
        for writer in sorted({r[0] for r in ranges}):
            seqs = sorted({seq for w, first, last in ranges if w == writer for seq in range(first, last + 1)})
            kinds = ("run_started", "task_created", "artifact_saved")
            columns.add(writer, [[seq, kinds[seq % 3], 1, seq, None, "F", str(seq // 4)] for seq in seqs])
        found = Ranges.of(Range(*r, bytes(32), 1) for r in ranges)
        write_segment(storage, columns.tables(), found, "seal", [f"{index:064x}"])
    before = _ids(storage)
    log = EventLog(storage)
    report = log.compact(is_whole=True)
    assert report.left == []
    assert _ids(storage) == before
    log.compact(is_whole=True, grace_s=PAST_GRACE_S)
    assert _ids(storage) == before
    assert len(log.segments()) == 1
    assert pieces_of(log.segments())[0].only is None


def test_same_events_with_other_content_are_not_removed() -> None:
    storage, other = MemoryStorage(), MemoryStorage()
    for store, tag in ((storage, "a"), (other, "b")):
        journal = Journal.create(store, bytes(16))
        journal.append([Event(kind="tag_added", name=tag)])
        journal.close()
        tidy(store)
    for path in other.list("log"):
        storage.put(path, other.get(path))
    report = EventLog(storage).compact(is_whole=True, grace_s=PAST_GRACE_S)
    assert report.removed == []
    assert "other content" in report.left[0][1]
    assert not verify(storage).is_sound


# What is not ours to lose


def test_columns_and_families_of_a_newer_weft_are_kept(storage: LocalStorage) -> None:
    for number in (1, 2):
        columns = Columns()
        columns.add(bytes([number]) * 16, [[0, "run_started", 1, 5, None, "F", "1"]])
        table = columns.tables()["run"]
        if number == 2:
            field = pa.field("novelty", pa.string(), metadata={b"PARQUET:field_id": b"77"})
            table = table.append_column(field, pa.array(["kept"]))
        ranges = Ranges.of([Range(bytes([number]) * 16, 0, 0, bytes(32), 1)])
        write_segment(storage, {"run": table}, ranges, "seal")
    EventLog(storage).compact(is_whole=True)
    (segment,) = EventLog(storage).segments()
    table = pq.read_table(f"{storage.root}/{segment.files['run'].path}")
    assert table["novelty"].to_pylist() == [None, "kept"]
    assert table.schema.field("novelty").metadata[b"PARQUET:field_id"] == b"77"


def test_lowest_version_of_a_kind_is_told(storage: LocalStorage) -> None:
    for number, version in ((1, 2), (2, 1)):
        journal = Journal.create(storage, bytes([number]) * 16)
        journal.append([Event(kind="run_lost", version=version, run_id=str(number))])
        journal.close()
        EventLog(storage).seal(force=True)
    found = [segment.versions for segment in EventLog(storage).segments()]
    assert sorted(versions["run_lost"] for versions in found) == [1, 2]
    EventLog(storage).compact(is_whole=True)
    (segment,) = EventLog(storage).segments()
    assert segment.versions == {"journal_closed": 1, "run_lost": 1}


def test_damaged_segment_is_neither_merged_nor_removed(storage: LocalStorage) -> None:
    write_runs(storage, range(3))
    damaged = EventLog(storage).segments()[1].files["task"].path
    data = bytearray(storage.get(damaged))
    data[50] ^= 1
    storage.put(damaged, bytes(data))
    before = storage.list("log")
    report = EventLog(storage).compact(is_whole=True, grace_s=PAST_GRACE_S)
    assert (report.merged, report.removed) == ([], [])
    assert damaged in report.left[0][1]
    assert storage.list("log") == before


def test_events_that_ranges_tell_of_and_nobody_has_stop_a_merge(storage: LocalStorage) -> None:
    for number in (1, 2):
        columns = Columns()
        columns.add(bytes([number]) * 16, [[0, "run_started", 1, 5]])
        ranges = Ranges.of([Range(bytes([number]) * 16, 0, number, bytes(32), 1)])
        write_segment(storage, columns.tables(), ranges, "seal")
    report = EventLog(storage).compact(is_whole=True)
    assert report.merged == []
    assert "hold 2 events where their ranges say 5" in report.left[0][1]


def test_segment_on_its_way_here_is_no_remnant(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events are all here already, but whoever copies it must find what he has copied."""
    write_runs(storage, range(2))
    old = {path: storage.get(path) for path in storage.list("log")}
    tidy(storage)
    write_runs(storage, range(2, 3))
    tidy(storage)
    # No segment that is here names the old ones: they were merged twice since.
    first, *rest = sorted(old)
    for path in rest:
        storage.put(path, old[path])
    before = EventLog(storage).events()
    EventLog(storage).compact(is_whole=True, grace_s=PAST_GRACE_S)
    assert first.startswith("log/artifact/")
    assert set(rest) - set(storage.list("log")) == {
        path for path in rest if _segment_of(old, path) != _segment_of(old, first)
    }
    monkeypatch.setattr(compaction, "_REMNANT_US", -(10**12))
    EventLog(storage).compact(is_whole=True, grace_s=PAST_GRACE_S)
    assert not set(storage.list("log")) & set(old)
    assert EventLog(storage).events() == before


def _segment_of(files: dict[str, bytes], path: str) -> bytes:
    return files[path].rpartition(b'"segment":"')[2][:64]


def test_reader_lists_again_when_segments_are_compacted_away() -> None:
    class Compacting(MemoryStorage):
        """Compacts and removes the segments just before a file of them is read."""

        is_armed = False

        def localize(self, paths: object) -> list[str]:
            if self.is_armed:
                self.is_armed = False
                tidy(self)
                raise NotFound("gone")
            return super().localize(paths)  # type: ignore[arg-type]

    storage = Compacting()
    write_runs(storage, range(3))
    before = EventLog(storage).events()
    storage.is_armed = True
    assert EventLog(storage).events() == before
    assert len(EventLog(storage).segments()) == 1


def test_reader_lists_again_when_segments_go_after_they_were_proven(tmp_path: Path) -> None:
    class Compacting(LocalStorage):
        """Compacts and removes the segments just after it has said where their files lie."""

        is_armed = False

        def localize(self, paths: Sequence[str]) -> list[str]:
            found = super().localize(paths)
            if self.is_armed:
                self.is_armed = False
                tidy(self)
            return found

    storage = Compacting(str(tmp_path / "store"))
    write_runs(storage, range(3))
    log = EventLog(storage)
    before = log.events()
    storage.is_armed = True
    assert log.events() == before
    assert not storage.is_armed
    assert len(EventLog(storage).segments()) == 1
