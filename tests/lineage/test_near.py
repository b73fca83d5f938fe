"""A question about one run reads, and so proves, the files that hold events of it and no others."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pytest

from tests.lineage.conftest import Story
from weft.lineage import events as kinds
from weft.lineage.checkpointing import refresh_checkpoint
from weft.lineage.errors import StoreDamaged
from weft.lineage.events import RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.log import EventLog
from weft.lineage.paths import SEGMENTS
from weft.lineage.places import events_in, places_bytes, segment_key
from weft.lineage.store import Store

ARTIFACTS = "select name, pathspec, origin_pathspec from artifacts where flow = $flow and run_id = $run_id"


@pytest.fixture(autouse=True)
def _no_store_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)


@pytest.fixture
def story(story: Story) -> Story:
    """Five runs, each in a segment of its own; the last reuses the task of the first."""
    for number in range(5):
        run = RunRef(bytes([number]) * 16, "Plain", str(number))
        task = run.task("start", "1")
        story.tell(kinds.run_started(run, bytes(32), {"user": "me"}))
        if number < 4:
            story.tell(
                kinds.task_created(task, (), (), None),
                kinds.attempt_started(task, 0, 7, "box"),
                kinds.artifact_saved(task, 0, "x", story.content(number)),
                kinds.attempt_succeeded(task, 0, {"next": []}, {}),
            )
        else:
            payload = {"reason": "it was finished", "next": []}
            story.tell(kinds.task_reused(task, Pathspec("Plain", "0", "start", "1"), (), (), None, payload))
        story.tell(kinds.run_ended(run, "succeeded"))
        story.next_journal()
        EventLog(story.storage).seal(force=True, grace_s=0)
    refresh_checkpoint(story.storage, EventLog(story.storage))
    return story


def files_of(story: Story, number: int) -> list[str]:
    """The files of the segment that a run is in."""
    found = [
        segment
        for segment in EventLog(story.storage).segments()
        if any(event.run_id == str(number) for event in _events_of(story, segment.files["run"].path))
    ]
    assert len(found) == 1
    return [file.path for file in found[0].files.values()]


def _events_of(story: Story, path: str) -> list[RunRef]:
    query = f"select run_uid, flow, run_id from read_parquet('{story.storage.root}/{path}')"
    return [RunRef(*row) for row in duckdb.execute(query).fetchall()]


def files_proven(store: Store) -> set[str]:
    return {store._prover.local[path] for path in store._prover._proven if path in store._prover.local}


def flip_all(story: Story, paths: list[str]) -> None:
    for path in paths:
        place = Path(story.storage.root, path)
        data = bytearray(place.read_bytes())
        data[len(data) // 2] ^= 1
        place.write_bytes(data)


def test_a_question_about_one_run_reads_no_file_of_others(story: Story) -> None:
    for number in (0, 1, 3, 4):
        flip_all(story, files_of(story, number))
    with story.store() as store:
        rows = store.sql(ARTIFACTS, flow="Plain", run_id="2").fetchall()
        assert rows == [("x", "Plain/2/start/1/x", None)]
        task = store.sql("select status, attempts from tasks where pathspec = 'Plain/2/start/1'").fetchall()
        assert task == [("succeeded", 1)]


def test_client_objects_of_a_run_read_no_file_of_others(story: Story) -> None:
    for number in (0, 1, 3):
        flip_all(story, files_of(story, number))
    with story.store() as store:
        run = store.run("Plain/2")
        assert [step.id for step in run] == ["start"]
        (task,) = run["start"]
        assert (task.successful, task["x"].data) == (True, 2)
        assert store.lines("Plain/2") == []
        assert not any("/artifact/" in path for path in files_proven(store) - set(files_of(story, 2)))


def test_a_flipped_byte_in_a_file_that_is_needed_is_named(story: Story) -> None:
    needed = files_of(story, 2)
    flip_all(story, [path for path in needed if "/artifact/" in path])
    with story.store() as store:
        assert store.sql("from tasks where flow = 'Plain' and run_id = '2'").fetchall()
        with pytest.raises(StoreDamaged, match="its bytes are others"):
            store.sql(ARTIFACTS, flow="Plain", run_id="2")


def test_comparing_runs_reads_no_file_of_others(story: Story) -> None:
    with story.store() as store:
        expected = store.diff("Plain/2", "Plain/4").document()
    for number in (1, 3):
        flip_all(story, files_of(story, number))
    with story.store() as store:
        assert store.diff("Plain/2", "Plain/4").document() == expected
        assert files_proven(store) == {path for number in (0, 2, 4) for path in files_of(story, number)}


@pytest.mark.parametrize("number", [0, 2, 4])
@pytest.mark.parametrize("family", ["run", "task", "artifact"])
def test_a_flipped_byte_where_runs_are_compared_is_named(story: Story, number: int, family: str) -> None:
    """Of both runs, and of the one that a reused task is from."""
    harmed = [path for path in files_of(story, number) if f"/{family}/" in path]
    flip_all(story, harmed)
    with story.store() as store:
        for _ in range(2):
            if harmed:
                with pytest.raises(StoreDamaged, match="its bytes are others"):
                    store.diff("Plain/2", "Plain/4")
            # The others are compared all the same.
            assert store.diff("Plain/1", "Plain/3").differences


def test_twins_that_come_later_are_told_apart_in_what_was_copied(story: Story) -> None:
    query = "select run_id, status from tasks where flow = $flow and run_id in ('2', '2~2') order by run_id"
    with story.store() as store:
        assert store.sql(query, flow="Plain").rows == [("2", "succeeded")]
        # A run of another name first: no twin, and the checkpoint does not know it.
        story.tell(kinds.run_started(RunRef(b"x" * 16, "Plain", "7"), None, {}))
        assert store.sql(query, flow="Plain").rows == [("2", "succeeded")]
        twin = RunRef(b"y" * 16, "Plain", "2")
        story.tell(
            kinds.run_started(twin, None, {}), kinds.task_created(twin.task("start", "1"), (), (), None)
        )
        assert store.sql(query, flow="Plain").rows == [("2", "succeeded"), ("2~2", "pending")]
        twin = RunRef(b"z" * 16, "Plain", "7")
        story.tell(kinds.run_started(twin, None, {}))
        assert store.sql("select run_id from runs where flow = 'Plain' and run_id in ('7', '7~2')").rows == [
            ("7",),
            ("7~2",),
        ]


def test_what_comes_later_is_compared_beside_what_was_held(story: Story) -> None:
    run = RunRef(bytes([2]) * 16, "Plain", "2")
    with story.store() as store:
        assert len(store.diff("Plain/1", "Plain/2").artifacts) == 1
        story.tell(
            kinds.task_created(run.task("end", "2"), (), (), None),
            kinds.artifact_saved(run.task("end", "2"), 0, "y", story.content(7)),
        )
        assert len(store.diff("Plain/1", "Plain/2").artifacts) == 2


def test_a_reused_task_shows_what_its_origin_saved(story: Story) -> None:
    for number in (1, 2, 3):
        flip_all(story, files_of(story, number))
    with story.store() as store:
        rows = store.sql(ARTIFACTS, flow="Plain", run_id="4").fetchall()
        assert rows == [("x", "Plain/4/start/1/x", "Plain/0/start/1")]
    flip_all(story, files_of(story, 0))
    with story.store() as store, pytest.raises(StoreDamaged):
        store.sql(ARTIFACTS, flow="Plain", run_id="4")


def test_places_follow_a_compaction(story: Story) -> None:
    EventLog(story.storage).tidy(is_whole=True, grace_s=0)
    refresh_checkpoint(story.storage, EventLog(story.storage))
    assert len(EventLog(story.storage).segments()) == 1
    with story.store() as store:
        assert len(store.sql(ARTIFACTS, flow="Plain", run_id="2").fetchall()) == 1
        assert len(store.sql(ARTIFACTS, flow="Plain", run_id="4").fetchall()) == 1


def test_what_comes_later_is_seen_beside_what_was_copied(story: Story) -> None:
    run = RunRef(bytes([2]) * 16, "Plain", "2")
    with story.store() as store:
        assert len(store.sql(ARTIFACTS, flow="Plain", run_id="2").rows) == 1
        story.tell(
            kinds.task_created(run.task("end", "2"), (), (), None),
            kinds.artifact_saved(run.task("end", "2"), 0, "y", story.content(7)),
            kinds.task_reused(
                run.task("end", "3"), Pathspec("Plain", "3", "start", "1"), (), (), None, {"next": []}
            ),
        )
        rows = store.sql(f"{ARTIFACTS} order by pathspec", flow="Plain", run_id="2").rows
        assert [row[1] for row in rows] == ["Plain/2/end/2/y", "Plain/2/end/3/x", "Plain/2/start/1/x"]


def test_runs_of_many_events_are_asked_where_they_lie(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.lineage.near._EVENTS_MAX", 12)
    with story.store() as store:
        for _ in range(2):
            for number in range(5):
                (row,) = store.sql(ARTIFACTS, flow="Plain", run_id=str(number)).fetchall()
                assert row[1] == f"Plain/{number}/start/1/x"
    monkeypatch.setattr("weft.lineage.near._EVENTS_MAX", 1)
    with story.store() as store:
        assert len(store.sql(ARTIFACTS, flow="Plain", run_id="4").fetchall()) == 1


def test_results_outlive_what_was_copied_for_them(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.lineage.near._EVENTS_MAX", 12)
    with story.store() as store:
        first = store.sql(ARTIFACTS, flow="Plain", run_id="1")
        for number in (2, 3, 4):
            store.sql(ARTIFACTS, flow="Plain", run_id=str(number))
        assert first.fetchall() == [("x", "Plain/1/start/1/x", None)]


def test_results_that_are_let_go_leave_nothing_behind(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.lineage.near._MANY_RUNS", 1)
    with story.store() as store:
        for number in "01230123":
            assert store.sql(ARTIFACTS, flow="Plain", run_id=number).fetchall()
        (count,) = store._views._quick.execute(  # type: ignore[union-attr]
            "select count(*) from duckdb_tables() where table_name like 'result_%'"
        ).fetchone()
        assert count <= 2


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_without_sound_places_what_would_be_proven_ahead_is_asked_all_the_same(
    story: Story, harm: str
) -> None:
    with story.store() as store:
        expected = store.why("Plain/2/start/1").document(), store.lineage("Plain/2").document()
    (places,) = Path(story.storage.root, "cache", "checkpoint").glob("*.places")
    data = bytearray(places.read_bytes())
    places.unlink()
    if harm != "gone":
        data[len(data) // 2] ^= 1
        places.write_bytes(data if harm == "flipped" else data[:5])
    with story.store() as store:
        assert (store.why("Plain/2/start/1").document(), store.lineage("Plain/2").document()) == expected


def test_where_many_runs_are_at_hand_a_question_about_others_begins_anew(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.lineage.near._MANY_RUNS", 2)
    numbers = "0011231404"
    with story.store() as store:
        found = [store.sql(ARTIFACTS, flow="Plain", run_id=number).fetchall() for number in numbers]
    # The last run shows what the first one saved.
    origins = [None if number != "4" else "Plain/0/start/1" for number in numbers]
    assert found == [
        [("x", f"Plain/{number}/start/1/x", origin)] for number, origin in zip(numbers, origins, strict=True)
    ]


def test_the_catalogue_shows_each_view_once(story: Story) -> None:
    with story.store() as store:
        store.sql(ARTIFACTS, flow="Plain", run_id="1")
        ((count,),) = store.sql(
            "select count(*) from information_schema.tables where table_name = 'artifacts' and 'run_id' <> ''"
        ).rows
        assert count == 1


def test_places_tell_which_segments_hold_a_run() -> None:
    first = places_bytes([("a", "F", "1", 3), ("b", "F", "1", 4), ("b", "F", "2", 5)])
    data = places_bytes([("c", "F", "1", 6)], first)
    assert events_in(data, "F", "1") == {segment_key("a"): 3, segment_key("b"): 4, segment_key("c"): 6}
    assert events_in(data, "F", "2") == {segment_key("b"): 5}
    assert events_in(data, "F", "3") == {}
    assert events_in(b"", "F", "1") == {}


def test_files_of_segments_are_all_there(story: Story) -> None:
    """The helper above names what lies in the folder."""
    listed = {path for path in story.storage.list(SEGMENTS) if path.endswith(".parquet")}
    assert listed == {path for number in range(5) for path in files_of(story, number)}
    assert all(os.path.exists(f"{story.storage.root}/{path}") for path in listed)
