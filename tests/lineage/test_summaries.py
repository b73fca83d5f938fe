"""The views that answer what teams ask most, over a history of three days."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from weft.lineage import events as kinds
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.store import Store
from weft.lineage.summaries import SUMMARIES

if TYPE_CHECKING:
    from tests.lineage.conftest import Story

_DAY_US = 86_400_000_000
_BEGIN_US = 1_700_000_000_000_000 // _DAY_US * _DAY_US + _DAY_US // 2
_FIRST = date(2023, 11, 14)


@pytest.fixture
def store(story: Story) -> Store:
    """Three runs, a day apart: one that goes well, one with a retry that takes longer, one that fails."""
    for day in range(3):
        story.journal.close()
        story.journal = Journal.create(story.storage, now_us=lambda day=day: _BEGIN_US + day * _DAY_US)  # type: ignore[misc]
        run = story.run("F", str(day + 1))
        if day == 1:
            _attempt(story, run, 0, 1.0, "failed")
        _attempt(story, run, int(day == 1), 2.0 * (day + 1), "failed" if day == 2 else "succeeded")
        if day == 2:
            story.end(run, "failed", root_cause="F/3/fit/1", error_type="ValueError", error_message="no")
        else:
            story.tell(kinds.artifact_saved(run.task("fit", "1"), int(day == 1), "x", story.content(day)))
            story.end(run)
    again = story.run("F", "4", origin_run_id="1", origin_run_uid=RunRef(b"", "", "").run_uid.hex())
    story.reuse(again, RunRef(b"F/1".rjust(16, b"."), "F", "1").task("fit", "1"))
    story.end(again)
    return story.store()


def _attempt(story: Story, run: RunRef, attempt: int, duration_s: float, status: str) -> None:
    task = run.task("fit", "1")
    usage = {"duration_s": duration_s, "cpu_s": duration_s / 2, "max_rss_bytes": 1000 + attempt}
    if attempt == 0:
        story.tell(kinds.task_created(task, (), (), None))
    story.tell(kinds.attempt_started(task, attempt, 1, "box"))
    if status == "failed":
        story.tell(kinds.attempt_failed(task, attempt, "ValueError", {"message": "no", **usage}))
    else:
        story.tell(kinds.attempt_succeeded(task, attempt, {"next": []}, usage))


def _rows(store: Store, query: str) -> list[tuple[Any, ...]]:
    return store.sql(query).fetchall()


def test_step_times_compare_a_day_with_the_four_weeks_before(store: Store) -> None:
    rows = _rows(store, "select day, tasks, median_s, usual_s, trend from step_times order by day")
    assert rows == [
        (_FIRST, 1, 2.0, None, None),
        (_FIRST.replace(day=15), 1, 4.0, 2.0, 2.0),
        (_FIRST.replace(day=16), 1, 6.0, 3.0, 2.0),
    ]


def test_step_costs_count_what_really_ran_and_what_was_wasted(store: Store) -> None:
    rows = _rows(
        store,
        "select run_id, attempts, cpu_s, duration_s, max_rss_bytes, wasted_s from step_costs order by 1",
    )
    assert rows == [
        ("1", 1, 1.0, 2.0, 1000, 0.0),
        ("2", 2, 2.5, 5.0, 1001, 1.0),
        ("3", 1, 3.0, 6.0, 1000, 6.0),
    ]


def test_flaky_tasks_failed_and_then_succeeded(store: Store) -> None:
    rows = _rows(
        store, "select step, tasks, tasks_retried, attempts_failed, last_error_type from flaky_tasks"
    )
    assert rows == [("fit", 2, 1, 1, "ValueError")]


def test_reuse_says_what_it_saved(store: Store) -> None:
    rows = _rows(store, "select run_id, tasks, tasks_reused, rate, saved_s from reuse order by run_id")
    assert rows == [
        ("1", 1, 0, 0.0, 0.0),
        ("2", 1, 0, 0.0, 0.0),
        ("3", 1, 0, 0.0, 0.0),
        ("4", 1, 1, 1.0, 2.0),
    ]


def test_store_growth_adds_up(store: Store) -> None:
    rows = _rows(
        store, "select day, runs, values_new, events_total, bytes_total from store_growth order by day"
    )
    (everything,) = _rows(store, "select count(*), count(distinct digest) from events")
    # The store itself was made today.
    assert [row[:3] for row in rows[:3]] == [
        (_FIRST, 1, 1),
        (_FIRST.replace(day=15), 1, 1),
        (_FIRST.replace(day=16), 2, 0),
    ]
    assert rows[-1][3] == everything[0]
    assert (
        rows[-1][4] == sum(size for (size,) in _rows(store, "select distinct size_bytes from artifacts")) * 2
    )


def test_failures_are_told_by_their_root_cause(store: Store) -> None:
    rows = _rows(store, "select step, error_type, last_message, runs, last_run_id, last_cause from failures")
    assert rows == [("fit", "ValueError", "no", 1, "3", "F/3/fit/1")]


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_summary_of_an_empty_store_has_its_columns(story: Story, name: str) -> None:
    result = story.store().sql(f"select * from {name}")
    assert (len(result), len(result.columns) > 3) == (0, True)
