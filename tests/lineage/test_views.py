from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.lineage import events as kinds
from weft.lineage.errors import QueryError
from weft.lineage.events import Level, RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.projections import LEASE_US, RunState, fold
from weft.lineage.schema import Event
from weft.lineage.sources import Sealed
from weft.lineage.views import Views

TEXT, NUMBER, SIZE, TIME = "VARCHAR", "DOUBLE", "BIGINT", "TIMESTAMP"
#: The columns that docs and users rely on.
FIXED = {
    "runs": "flow run_id status started_at:t finished_at:t duration_s:f user_name origin_run_id code_digest "
    "tasks:i tasks_failed:i root_cause",
    "steps": "flow run_id step status started_at:t finished_at:t tasks:i tasks_done:i tasks_failed:i "
    "tasks_reused:i",
    "tasks": "flow run_id step task_id pathspec foreach_path status attempts:i started_at:t finished_at:t "
    "duration_s:f origin_pathspec reuse_reason task_key",
    "attempts": "flow run_id step task_id attempt:i status started_at:t finished_at:t duration_s:f error_type "
    "error_message exit_signal host pid:i max_rss_bytes:i cpu_s:f",
    "artifacts": "flow run_id step task_id attempt:i name pathspec digest size_bytes:i type serializer value:j "
    "value_number:f created_at:t",
    "artifact_uses": "flow run_id step task_id attempt:i name digest item_index:i is_absent:b "
    "producer_pathspec used_at:t",
    "external_uses": "flow run_id step task_id attempt:i uri digest direction size_bytes:i occurred_at:t",
    "parameters": "flow run_id name value:j value_number:f",
    "tags": "flow run_id tag kind added_at:t",
    "events": "id kind version:i occurred_at:t writer seq:i flow run_id step task_id attempt:i name digest payload:j",
}
TYPES = {"": TEXT, "t": TIME, "f": NUMBER, "i": SIZE, "b": "BOOLEAN", "j": "JSON"}
NOW_US = 10_000_000_000
WRITERS = (b"a" * 16, b"b" * 16)


def views_of(
    events: Sequence[Event],
    now_us: int | None = None,
    dead: frozenset[bytes] = frozenset(),
    live: frozenset[bytes] = frozenset(),
    as_of_us: int | None = None,
) -> Views:
    views = Views(Sealed(), as_of_us)
    views.add(events)
    views.set_clock({**dict.fromkeys(live, True), **dict.fromkeys(dead, False)}, now_us)
    return views


def stamped(events: Sequence[Event], writer: bytes = WRITERS[0], start_us: int = 1_000_000) -> list[Event]:
    return [
        event._replace(writer=writer, seq=seq, time_us=start_us + seq * 1000)
        for seq, event in enumerate(events)
    ]


RUN = RunRef(b"1" * 16, "Hello", "1")


def started(run: RunRef = RUN) -> Event:
    return kinds.run_started(run, None, {"user": "me"})


@pytest.mark.parametrize("view", FIXED)
def test_views_of_an_empty_store_have_all_columns_and_types(view: str) -> None:
    views = views_of([])
    columns = {row[0]: row[1] for row in views.rows(f"describe {view}")}
    expected = [column.partition(":") for column in FIXED[view].split()]
    assert {name: TYPES[code] for name, _, code in expected}.items() <= columns.items()
    assert views.rows(f"from {view}") == []


def test_views_hold_times_durations_and_errors() -> None:
    task = RUN.task("fit", "2")
    failure = {"message": "bad\x1b[0m", "traceback": "tb", "exit_signal": "SIGSEGV", "cpu_s": 0.5}
    views = views_of(
        stamped(
            [
                started(),
                kinds.step_started(RUN, "fit"),
                kinds.task_created(task, (), (Level("fit", "xs", 3, 9, "x"),), None),
                kinds.attempt_started(task, 0, 12, "box"),
                kinds.attempt_failed(task, 0, "ValueError", failure),
                kinds.run_ended(RUN, "failed", {"root_cause": task.pathspec}),
            ]
        )
    )
    (run,) = views.rows("select status, duration_s, tasks, tasks_failed, root_cause from runs")
    assert run == ("failed", 0.005, 1, 1, "Hello/1/fit/2")
    (attempt,) = views.rows(
        "select status, duration_s, error_type, error_message, exit_signal, host, pid, cpu_s from attempts"
    )
    assert attempt == ("failed", 0.001, "ValueError", "bad\x1b[0m", "SIGSEGV", "box", 12, 0.5)
    assert views.rows("select foreach_path, status, attempts from tasks") == [("fit:3", "failed", 1)]
    assert views.rows("select status, tasks, tasks_done, tasks_failed from steps") == [("failed", 1, 0, 1)]


def test_views_show_only_the_last_attempt_of_an_artifact() -> None:
    task = RUN.task("fit", "2")
    content = kinds.Content(b"x" * 32, 3, "int", "plain/1", "1", 1.0, b"x")
    views = views_of(
        stamped(
            [
                started(),
                kinds.task_created(task, (), (), None),
                kinds.attempt_started(task, 0, 1, "h"),
                kinds.artifact_saved(task, 0, "x", content),
                kinds.attempt_failed(task, 0, "E", {}),
                kinds.retry_scheduled(task, 1, 0.0),
            ]
        ),
        NOW_US,
        live=frozenset(WRITERS),
    )
    assert views.rows("select attempt, name, digest from artifacts") == [(0, "x", "sha256:" + "78" * 32)]
    assert views.rows("select status from tasks") == [("retrying",)]
    views.add([kinds.attempt_started(task, 1, 1, "h")._replace(writer=WRITERS[0], seq=99, time_us=9_000_000)])
    assert views.rows("from artifacts") == []
    assert views.rows("select status, attempts from tasks") == [("running", 2)]
    assert views.rows("select attempt, status from attempts order by 1") == [(0, "failed"), (1, "running")]


def test_views_tell_runs_of_one_pathspec_apart() -> None:
    twin = RunRef(b"2" * 16, "Hello", "1")
    tell = [started(), kinds.tag_added(RUN, "a", "user"), kinds.run_ended(RUN, "failed")]
    later = [started(twin), kinds.tag_added(twin, "b", "user"), kinds.run_ended(twin, "succeeded")]
    task = twin.task("fit", "1")
    later += [kinds.task_created(task, (), (), None), kinds.attempt_started(task, 0, 1, "h")]
    later += [kinds.artifact_used(task, 0, "x", b"x" * 32, Pathspec("Hello", "1", "start", "1"))]
    views = views_of(stamped(tell) + stamped(later, WRITERS[1], 5_000_000))
    assert views.rows("select run_id, status from runs order by 1") == [("1", "failed"), ("1~2", "succeeded")]
    assert views.rows("select run_id, tag from tags order by 1") == [("1", "a"), ("1~2", "b")]
    assert views.rows("select run_id, producer_pathspec from artifact_uses") == [("1~2", "Hello/1~2/start/1")]
    assert {row[0] for row in views.rows("select run_id from events")} == {"1", "1~2"}


def test_views_as_of_leave_out_what_came_later() -> None:
    events = stamped([started(), kinds.tag_added(RUN, "a", "user"), kinds.run_ended(RUN, "succeeded")])
    views = views_of(events, now_us=events[1].time_us, as_of_us=events[1].time_us)
    assert views.rows("select status from runs") == [("running",)]
    assert views.rows("select count(*) from events") == [(2,)]


def test_views_take_back_a_removed_tag() -> None:
    events = stamped(
        [
            started(),
            kinds.tag_added(RUN, "a", "user"),
            kinds.tag_added(RUN, "b", "system"),
            kinds.tag_removed(RUN, "a"),
        ]
    )
    assert views_of(events[::-1]).rows("select tag, kind from tags") == [("b", "system")]


@pytest.mark.parametrize(
    ("now_us", "dead", "live", "status"),
    [
        (None, False, False, "running"),
        (1_000_000 + LEASE_US, False, False, "running"),
        (1_000_001 + LEASE_US, False, False, "lost"),
        (1_000_001 + LEASE_US, False, True, "running"),
        (None, True, False, "lost"),
    ],
)
def test_views_call_a_run_lost_when_its_writer_is(
    now_us: int | None, dead: bool, live: bool, status: str
) -> None:
    task = RUN.task("fit", "1")
    events = stamped(
        [started(), kinds.task_created(task, (), (), None), kinds.attempt_started(task, 0, 1, "h")]
    )
    writers = frozenset(WRITERS[:1])
    none: frozenset[bytes] = frozenset()
    views = views_of(events, now_us, writers if dead else none, writers if live else none)
    assert views.rows("select status, finished_at from runs") == [(status, None)]
    assert views.rows("select t.status, a.status from tasks t join attempts a using (task_id)") == [
        (status, status)
    ]


def test_views_of_unknown_kinds_keep_the_events() -> None:
    events = stamped([started(), Event(kind="task_dreamt", flow="Hello", run_id="1", run_uid=RUN.run_uid)])
    views = views_of(events)
    assert views.rows("select kind from events order by seq") == [("run_started",), ("task_dreamt",)]


def test_ask_says_which_views_there_are() -> None:
    with pytest.raises(QueryError, match="artifact_uses"):
        views_of([]).ask("select * from runz")


# The fold exists twice on purpose: in SQL for people, in Python for the scheduler and resume.

STATUSES = ("succeeded", "failed", "cancelled", "lost")


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Events of a few runs, in any order, some of them twice and some facts told by two writers."""
    events: list[Event] = []
    for number in range(draw(st.integers(1, 3))):
        run = RunRef(bytes([number]) * 16, "Hello", str(number))
        told = [kinds.run_started(run, None, {"user": "me"})]
        if draw(st.booleans()):
            told.append(kinds.lease_renewed(run, draw(st.integers(0, 2 * NOW_US))))
        for task_number in range(draw(st.integers(0, 3))):
            told += draw(task_histories(run, str(task_number)))
        told += [
            kinds.run_ended(run, status, epoch=draw(st.integers(0, 2)))
            for status in draw(st.lists(st.sampled_from(STATUSES), max_size=2))
        ]
        tags = draw(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=3))
        told += [kinds.tag_added(run, t, "user") if add else kinds.tag_removed(run, t) for t, add in tags]
        events += [
            event._replace(
                writer=draw(st.sampled_from(WRITERS)),
                seq=len(events) + seq,
                # Few different times, so that the order has to be settled by writer and seq.
                time_us=draw(st.integers(1, 9)) * 1_000_000,
            )
            for seq, event in enumerate(told)
        ]
    return events


@st.composite
def task_histories(draw: st.DrawFn, run: RunRef, task_id: str) -> list[Event]:
    task = run.task(draw(st.sampled_from(("start", "fit"))), task_id)
    if draw(st.integers(0, 4)) == 0:
        origin = Pathspec("Hello", "0", "fit", "0")
        return [kinds.task_reused(task, origin, (), (), None, {"reason": "r", "next": ["end"]})]
    told = [kinds.task_created(task, (("start", "1"),), (), None)]
    for attempt in range(draw(st.integers(0, 3))):
        if attempt and draw(st.booleans()):
            told.append(kinds.retry_scheduled(task, attempt, 0.0))
        if draw(st.booleans()):
            told.append(kinds.attempt_started(task, attempt, 1, "h"))
        for end in draw(st.lists(st.sampled_from(("ok", "bad", "caught", "cut")), max_size=2)):
            epoch = draw(st.integers(0, 1))
            told.append(
                {
                    "ok": kinds.attempt_succeeded(task, attempt, {"next": [end]}, {}, epoch),
                    "bad": kinds.attempt_failed(task, attempt, "E", {"message": "m"}, epoch),
                    "caught": kinds.attempt_caught(task, attempt, "E", {}, {"next": [end]}, epoch),
                    "cut": kinds.attempt_cancelled(task, attempt, "stop", epoch),
                }[end]
            )
    return told


def summary(runs: dict[bytes, RunState]) -> dict[str, Any]:
    """What the views show, from the Python fold."""
    return {
        "runs": {(r.run_id, r.status, len(r.tasks)) for r in runs.values()},
        "tasks": {(r.run_id, t.step, t.task_id, t.status) for r in runs.values() for t in r.tasks.values()},
        "attempts": {
            (r.run_id, t.step, t.task_id, a.attempt, a.status)
            for r in runs.values()
            for t in r.tasks.values()
            if t.reused is None
            for a in t.attempts.values()
        },
        "tags": {
            (r.run_id, tag) for r in runs.values() for tag, e in r.tags.items() if e.kind == "tag_added"
        },
    }


@settings(max_examples=25, deadline=None)
@given(
    histories(),
    st.sampled_from((None, 5_000_000, NOW_US)),
    st.sets(st.sampled_from(WRITERS)),
    st.sets(st.sampled_from(WRITERS)),
    st.randoms(use_true_random=False),
    st.sampled_from((0, 10_000)),
)
def test_sql_folds_equal_python_folds(
    events: list[Event],
    now_us: int | None,
    dead: set[bytes],
    live: set[bytes],
    order: random.Random,
    few_events: int,
) -> None:
    dead_writers, live_writers = frozenset(dead - live), frozenset(live)
    expected = summary(fold(events, dead_writers, now_us, live_writers))
    shuffled = list(events)
    order.shuffle(shuffled)
    assert summary(fold(shuffled + events[:3], dead_writers, now_us, live_writers)) == expected

    queries = {
        "runs": "select run_id, status, tasks from runs",
        "tasks": "select run_id, step, task_id, status from tasks",
        "attempts": "select run_id, step, task_id, attempt, status from attempts where origin_pathspec is null",
        "tags": "select run_id, tag from tags",
    }
    asked = list(queries)
    order.shuffle(asked)
    # Few events are folded without the optimizer, and each question makes ready what it needs itself.
    with mock.patch("weft.lineage.event_tables._FEW_EVENTS", few_events):
        views = views_of(shuffled + events[:3], now_us, dead_writers, live_writers)
        assert {view: set(views.rows(queries[view])) for view in asked} == expected


def test_reuses_have_the_same_columns_where_there_are_none() -> None:
    run = RunRef(bytes(16), "Plain", "1")
    origin = Pathspec("Plain", "0", "start", "1")
    reused = kinds.task_reused(run.task("start", "1"), origin, (), (), None, {"next": []})
    with_none, with_one = views_of(stamped([])), views_of(stamped([reused]))
    for views in (with_none, with_one):
        views.rows("from tasks")
    for relation in ("state.reuses", "fold.reuses"):
        assert with_none.rows(f"describe {relation}") == with_one.rows(f"describe {relation}")
