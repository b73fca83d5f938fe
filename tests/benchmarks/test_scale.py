"""A long history is what its seed says, and the product tells it as it was made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.scale import History, write_history
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.store import Store

SEED = 17
EVENTS = 200_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, History]:
    folder = tmp_path_factory.mktemp("history")
    return folder, write_history(str(folder), SEED, EVENTS)


@pytest.fixture(scope="module")
def store(made: tuple[Path, History]) -> Iterator[Store]:
    with Store(LocalStorage(str(made[0]))) as opened:
        yield opened


def test_history_has_the_shape_that_was_asked_for(made: tuple[Path, History], store: Store) -> None:
    _, history = made
    assert abs(history.event_count - EVENTS) < EVENTS // 20
    counts = dict(store.sql("select kind, count(*) from events group by kind").fetchall())
    assert sum(counts.values()) == history.event_count
    share = {kind: count / history.event_count for kind, count in counts.items()}
    assert 0.35 < share["artifact_saved"] < 0.5
    assert 0.15 < share["artifact_used"] < 0.25
    tasks = counts["task_created"] + counts["task_reused"]
    assert 8 < tasks / history.run_count < 13
    assert 0.02 < counts["retry_scheduled"] / tasks < 0.06
    statuses = dict(store.sql("select status, count(*) from runs group by status").fetchall())
    assert sum(statuses.values()) == history.run_count
    assert 0.03 < statuses["failed"] / history.run_count < 0.07
    assert statuses["lost"] == len(history.landmarks.lost) + len(history.landmarks.open)
    resumed, flows = store.sql("select count(origin_run_id), count(distinct flow) from runs").fetchall()[0]
    assert 0.03 < resumed / history.run_count < 0.08
    assert flows == 40


def test_history_has_its_landmarks(made: tuple[Path, History], store: Store) -> None:
    marks = made[1].landmarks
    wide, chain, *twins = (
        store.sql("select tasks from runs where flow || '/' || run_id = $run", run=run).fetchall()[0][0]
        for run in (marks.wide, marks.chain, *marks.twins)
    )
    assert (wide, chain) == (1_003, 200)
    assert twins == [103, 103]
    flow, run_id = marks.wide.split("/")
    query = "select count(*) from artifact_uses where flow = $flow and run_id = $run_id and step = 'join'"
    assert store.sql(query, flow=flow, run_id=run_id).fetchall() == [(10_000,)]
    assert len(marks.open) == 3
    query = "select count(*) from (select digest from artifacts group by digest having count(distinct run_id) > 1)"
    assert store.sql(query).fetchall()[0][0] > 100


def test_history_lies_in_segments_but_for_its_last_runs(made: tuple[Path, History]) -> None:
    folder, history = made
    segments = EventLog(LocalStorage(str(folder))).segments()
    assert sum(sum(segment.rows.values()) for segment in segments) == history.sealed_count
    assert len(list((folder / "journal").iterdir())) == 28


def test_history_of_a_seed_is_always_the_same(tmp_path: Path) -> None:
    one, other = (write_history(str(tmp_path / name), SEED, 6_000) for name in ("one", "other"))
    assert one[:5] == other[:5]
    files = [
        {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name / "log").rglob("*.parquet")}
        for name in ("one", "other")
    ]
    assert files[0] == files[1]
    events = [EventLog(LocalStorage(str(tmp_path / name))).events() for name in ("one", "other")]
    assert events[0] == events[1]
