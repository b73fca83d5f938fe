"""What is asked below the views of runs that were named is what the views say of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lineage.conftest import Story
from weft.lineage import events as kinds
from weft.lineage.comparison import compare_runs
from weft.lineage.contents import read_recorded
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.events import Level, RunRef
from weft.lineage.ids import Pathspec, digest_to_text
from weft.lineage.journal import Journal
from weft.lineage.named_runs import find_run_named, find_run_told, find_runs_named
from weft.lineage.records import Records
from weft.lineage.run_records import read_run_record
from weft.lineage.schema import Event
from weft.lineage.store import Store
from weft.lineage.targets import find_roots


def tell_many(story: Story) -> None:
    """Runs whose tasks have every status there is, twins among them; the last run has no end."""
    first = story.run("F", "1", graph={"start": "a", "steps": [{"name": "a", "next": ["b"]}]})
    story.parameter(first, "alpha", 0.5)
    story.parameter(first, "who", "me")
    story.tell(kinds.tag_added(first, "b", "user"), kinds.tag_added(first, "a", "system"))
    # Told again: the first counts of parameters, the last of tags.
    story.parameter(first, "alpha", "later")
    story.tell(
        kinds.parameter_set(first, "settings", story.content({"x": 1}), "config"),
        kinds.parameter_set(first, "CONSTANT", story.content(1), "constant"),
        kinds.tag_added(first, "c", "user"),
        kinds.tag_removed(first, "c"),
        kinds.tag_added(first, "d", "user"),
        kinds.tag_removed(first, "d"),
        kinds.tag_added(first, "d", "system"),
    )
    a = story.task(first, "a", "1", x=1, y="long " * 20)
    level = (Level("b", "items", 0, 2, "0"),)
    b = story.task(first, "b", "2", parents=(a,), levels=level, reads=(("x", a),), z=3)
    story.task(first, "b", "3", parents=(a,), levels=(Level("b", "items", 1, 2, "1"),))
    story.end(first)
    second = story.run("F", "2", origin_run_id="1")
    story.reuse(second, a)
    story.reuse(second, b, task_id="7")
    failed = second.task("c", "9")
    story.tell(
        kinds.step_started(second, "c"),
        kinds.task_created(failed, (("b", "7"),), (), None),
        kinds.attempt_started(failed, 0, 1, "box"),
        kinds.attempt_failed(failed, 0, "ValueError", {"message": "no"}),
        kinds.retry_scheduled(failed, 1, 0.0),
    )
    caught = second.task("c", "10")
    story.tell(
        kinds.task_created(caught, (), (), None),
        kinds.attempt_started(caught, 0, 1, "box"),
        kinds.attempt_caught(caught, 0, "KeyError", {"message": "k"}, {"next": []}),
    )
    story.end(second, "failed", root_cause="F/2/c/9")
    twin = story.run("F", "1", b"t" * 16)
    story.parameter(twin, "alpha", 2)
    story.task(twin, "a", "1", x=2)
    story.tell(kinds.task_created(twin.task("b", "2"), (), (), None), kinds.step_started(twin, "d"))
    story.end(twin, "cancelled")
    going_on = story.run("F", "3")
    story.task(going_on, "a", "1", is_done=False)
    story.task(going_on, "a", "2")
    story.reuse(going_on, a, task_id="3")
    waiting = going_on.task("a", "4")
    story.tell(kinds.task_created(waiting, (), (), None))
    only_reused = story.run("F", "4")
    story.reuse(only_reused, a)
    story.end(only_reused)


@pytest.fixture(params=["as told", "its writer is dead"])
def store(story: Story, request: pytest.FixtureRequest) -> Store:
    tell_many(story)
    if request.param != "as told":
        story.next_journal()
    return story.store()


def test_record_of_a_run_is_what_views_say_of_it(store: Store) -> None:
    runs = store.rows("select flow, run_id from runs")
    assert len(runs) == 5
    for flow, run_id in runs:
        where, params = "where flow = $flow and run_id = $run_id", {"flow": flow, "run_id": run_id}
        record = read_run_record(store, flow, run_id)
        assert record is not None
        assert [record.row] == store.records(f"select * from runs {where}", params)
        assert list(record.row) == list(store.records(f"select * from runs {where}", params)[0])
        assert record.steps == store.records(f"select * from steps {where} order by started_at, step", params)
        assert record.parameters == store.records(
            f"select name, value, value_number from parameters {where} order by name", params
        )
        assert record.tags == store.records(
            f"select tag, kind, added_at from tags {where} order by tag", params
        )
        statuses = {row[0] for row in store.rows(f"select status from tasks {where}", params)}
        assert record.has_failures is not statuses.isdisjoint({"failed", "caught", "lost"})
        if run_id == "1":
            assert record.graph["start"] == "a"
    assert read_run_record(store, "F", "9") is None


def test_runs_are_found_by_the_ids_that_are_shown(store: Store) -> None:
    found = find_runs_named(store, [("F", "1"), ("F", "1~2"), ("F", "9"), ("G", "1")])
    assert {name: run.raw_run_id for name, run in found.items()} == {("F", "1"): "1", ("F", "1~2"): "1"}
    twin = find_run_named(store, "F", "1~2")
    assert twin is not None
    assert twin.uid == b"t" * 16
    for name in (("F", "1"), ("F", "1~2"), ("F", "2"), ("F", "9")):
        told, named = find_run_told(store, *name), find_run_named(store, *name)
        assert (told and told.uid) == (named and named.uid)
    assert (twin.shown("F", "1"), twin.shown("F", "2"), twin.shown("G", "1")) == ("1~2", "2", "1")


def test_roots_of_steps_and_tasks_are_the_tasks_that_really_ran(story: Story) -> None:
    """Where no runs share a pathspec they are found without the records of the whole run, and are the same."""
    first = story.run("F", "1")
    a = story.task(first, "a", "1", x=1)
    late = story.task(first, "a", "10")
    story.task(first, "a", "2")
    second = story.run("F", "2")
    story.reuse(second, late, task_id="5")
    story.task(second, "a", "4")
    story.reuse(second, a, task_id="3")
    store = story.store()
    records = Records(store)
    records.load(["F/1/-/-", "F/2/-/-"])
    for run, ids in (("1", ("1", "10", "2")), ("2", ("5", "4", "3"))):
        roots = find_roots(store, f"F/{run}/a", "up")
        tasks = [f"{place}/{task_id}" for place, task_id in roots.tasks]
        assert tasks == [records.origin(task) for task in records.tasks_of("F", run, "a")]
        for task_id in ids:
            (root,) = find_roots(store, f"F/{run}/a/{task_id}", "up").tasks
            assert f"{root[0]}/{root[1]}" == records.origin(f"F/{run}/a/{task_id}")
    with pytest.raises(NotFound, match="Near names: 1"):
        find_roots(store, "F/1/a/11", "up")


def _late(story: Story, run: RunRef, *events: Event) -> None:
    """Told by a scheduler whose run was taken over before it said so."""
    story.tell(*events)
    writer, last_seq = story.journal.writer, story.journal.next_seq - len(events) - 1
    other = Journal.create(story.storage)
    other.append([kinds.run_lost(run, writer, last_seq)])
    other.close()


@pytest.mark.parametrize("is_late", [False, True])
def test_what_a_lost_scheduler_told_late_is_not_compared(story: Story, is_late: bool) -> None:
    """Its run was taken over: what it told of its code, its reads and its values after that does not count."""
    first = story.run("F", "1", packages={"numpy": "1"})
    story.task(first, "a", "1", x=1)
    story.end(first)
    second = story.run("F", "2", packages={"numpy": "1"})
    task = story.task(second, "a", "1", x=1)
    content = story.content("late " * 20)
    told = [
        kinds.code_reached(second, {"packages": {"scipy": "2"}, "steps": {}}),
        kinds.artifact_saved(task, 0, "late", content),
        kinds.artifact_used(task, 0, "seen", b"s" * 32, Pathspec("F", "1", "a", "1")),
    ]
    if is_late:
        _late(story, second, *told)
    else:
        story.tell(*told)
    store = story.store()
    found = compare_runs(store, "F/1", "F/2")
    names = {difference.subject for difference in found.differences}
    assert ("package scipy" in names) is not is_late
    assert ("a/late" in names) is not is_late
    assert [read.name for read in found.reads] == ([] if is_late else ["seen"])
    assert bool(read_recorded(store, [digest_to_text(content.digest)])) is not is_late


@pytest.mark.parametrize("is_late", [False, True])
def test_what_a_lost_scheduler_told_late_is_no_reason(story: Story, is_late: bool) -> None:
    first = story.run("F", "1")
    story.task(first, "a", "1", x=1)
    story.end(first)
    second = story.run("F", "2")
    task = story.task(second, "a", "1", x=1)
    reached: dict[str, Any] = {
        "python": "3.13",
        "every": {"parts": [], "packages": []},
        "parts": {},
        "packages": {},
        "steps": {"a": {"digest": "d", "rule": "reached", "parts": [], "packages": []}},
    }
    told = [
        kinds.artifact_used(task, 0, "seen", b"s" * 32, Pathspec("F", "1", "a", "1")),
        kinds.code_reached(second, reached),
    ]
    if is_late:
        _late(story, second, *told)
    else:
        story.tell(*told)
    why = story.store().why("F/2/a/1")
    assert [(part.kind, part.name) for part in why.parts] == (
        [] if is_late else [("python", "version"), ("artifact", "seen")]
    )


def test_twins_that_come_to_an_open_store_are_seen(story: Story) -> None:
    story.task(story.run("F", "1"), "a", "1", x=1)
    store = story.store()
    assert not store.has_twins()
    told = find_run_told(store, "F", "1")
    assert told is not None
    assert (told.uid, told.raw_run_id) == (b"F/1".rjust(16, b"."), "1")
    assert find_run_told(store, "F", "2") is None
    story.run("F", "1", b"t" * 16)
    assert store.has_twins()
    twin = find_run_told(store, "F", "1~2")
    assert twin is not None
    assert twin.uid == b"t" * 16


def test_tasks_of_one_moment_are_named_in_the_order_of_their_ids(story: Story) -> None:
    run = story.run("F", "1")
    story.tell(*(kinds.task_created(run.task("a", str(number)), (), (), None) for number in (10, 9, 2, 1)))
    with pytest.raises(UsageError, match="1, 2, 9, 10"):
        story.store().why("F/1/a")
