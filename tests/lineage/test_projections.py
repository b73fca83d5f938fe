from __future__ import annotations

import itertools

import pytest

from weft.lineage import events as kinds
from weft.lineage.events import Content, Level, RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.projections import LEASE_US, RunState, fold
from weft.lineage.schema import Event

RUN = RunRef(b"1" * 16, "Hello", "1")
TASK = RUN.task("fit", "2")
LEVELS = (Level("fit", "xs", 3, 9, "x"),)
CONTENT = Content(b"x" * 32, 3, "int", "plain/1", "1", 1.0, b"x")


def stamped(*events: Event) -> list[Event]:
    return [event._replace(writer=b"w" * 16, seq=i, time_us=1000 * (i + 1)) for i, event in enumerate(events)]


def folded(*events: Event) -> RunState:
    (state,) = fold(stamped(kinds.run_started(RUN, None, {"user": "me"}), *events)).values()
    return state


def created() -> Event:
    return kinds.task_created(TASK, (("start", "1"),), LEVELS, CONTENT)


def test_fold_keeps_all_that_resume_needs() -> None:
    state = folded(
        created(),
        kinds.attempt_started(TASK, 0, 1, "h"),
        kinds.artifact_saved(TASK, 0, "old", CONTENT),
        kinds.attempt_failed(TASK, 0, "E", {}),
        kinds.retry_scheduled(TASK, 1, 0.0),
        kinds.attempt_started(TASK, 1, 1, "h"),
        kinds.artifact_saved(TASK, 1, "x", CONTENT),
        kinds.artifact_merged(TASK, 1, "y", b"y" * 32, Pathspec("Hello", "1", "start", "1")),
        kinds.attempt_succeeded(TASK, 1, {"next": ["end"], "foreach": "xs", "num_splits": 2}, {"cpu_s": 1.0}),
    )
    task = state.tasks["fit", "2"]
    assert (task.status, task.final_attempt, task.foreach_path) == ("succeeded", 1, "fit:3")
    assert (task.parents, task.levels) == ((("start", "1"),), LEVELS)
    assert sorted(task.artifacts) == ["x", "y"]
    assert sorted(task.saved[0]) == ["old"]
    assert task.transition == {"next": ["end"], "foreach": "xs", "num_splits": 2}
    assert task.item is not None
    assert task.item.blob == b"x"
    assert (task.origin, task.reused) == (None, None)
    assert state.counts == {"succeeded": 1}


def test_fold_of_a_reused_task_names_its_origin() -> None:
    origin = Pathspec("Hello", "0", "fit", "9")
    payload = {"reason": "r", "next": ["end"]}
    event = kinds.task_reused(TASK, origin, (("start", "1"),), LEVELS, None, payload)
    task = folded(event).tasks["fit", "2"]
    assert (task.status, task.origin, task.transition) == ("reused", origin, {"next": ["end"]})
    assert task.parents == (("start", "1"),)
    assert task.item is None


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ([], "pending"),
        ([kinds.attempt_started(TASK, 0, 1, "h")], "running"),
        ([kinds.attempt_failed(TASK, 0, "E", {})], "failed"),
        ([kinds.attempt_failed(TASK, 0, "E", {}), kinds.retry_scheduled(TASK, 1, 0.0)], "retrying"),
        ([kinds.attempt_caught(TASK, 0, "E", {}, {"next": []})], "caught"),
        ([kinds.attempt_cancelled(TASK, 0, "stop")], "cancelled"),
        ([kinds.run_ended(RUN, "failed")], "cancelled"),
        ([kinds.run_ended(RUN, "lost")], "lost"),
        ([kinds.attempt_started(TASK, 0, 1, "h"), kinds.run_ended(RUN, "cancelled")], "cancelled"),
        ([kinds.attempt_started(TASK, 0, 1, "h"), kinds.run_ended(RUN, "failed")], "lost"),
    ],
)
def test_fold_gives_a_task_its_status(told: list[Event], status: str) -> None:
    assert folded(created(), *told).tasks["fit", "2"].status == status


def test_fold_believes_the_highest_epoch_then_the_first() -> None:
    events = stamped(
        kinds.run_started(RUN, None, {}),
        created(),
        kinds.attempt_succeeded(TASK, 0, {"next": ["late"]}, {}),
        kinds.attempt_failed(TASK, 0, "E", {}, epoch=1),
        kinds.attempt_cancelled(TASK, 0, "x", epoch=1),
    )
    for order in itertools.permutations(events):
        (state,) = fold([*order, *order]).values()
        assert state.tasks["fit", "2"].status == "failed"


def test_fold_calls_a_run_lost_when_its_lease_ran_out() -> None:
    events = stamped(kinds.run_started(RUN, None, {}), kinds.lease_renewed(RUN, 500_000_000))
    writer = frozenset((b"w" * 16,))

    def status(
        now_us: int | None = None, dead: frozenset[bytes] = frozenset(), live: frozenset[bytes] = frozenset()
    ) -> str:
        return fold(events, dead, now_us, live)[RUN.run_uid].status

    assert status() == "running"
    assert status(500_000_000) == "running"
    assert status(500_000_001) == "lost"
    assert status(500_000_001, live=writer) == "running"
    assert status(1, dead=writer) == "lost"
    assert LEASE_US == 120_000_000


def test_fold_asks_the_lease_of_a_run_from_another_store() -> None:
    writer = frozenset((b"w" * 16,))
    for told, is_here in (({"store_id": "a"}, True), ({}, True), ({"store_id": "b"}, False)):
        events = stamped(kinds.run_started(RUN, None, told), kinds.lease_renewed(RUN, 500_000_000))
        assert fold(events, writer, 1, store_id="a")[RUN.run_uid].status == ("lost" if is_here else "running")
        assert fold(events, writer, 500_000_001, store_id="a")[RUN.run_uid].status == "lost"
        assert fold(events, writer, 1)[RUN.run_uid].status == "lost"


def test_what_a_lost_scheduler_says_after_it_was_declared_lost_is_not_believed() -> None:
    zombie = stamped(
        kinds.run_started(RUN, None, {}),
        kinds.task_created(TASK, (), (), None),
        kinds.attempt_started(TASK, 0, 1, "h"),
        kinds.attempt_succeeded(TASK, 0, {"next": []}, {}),
        kinds.run_ended(RUN, "succeeded"),
    )
    lost = kinds.run_lost(RUN, zombie[0].writer, last_seq=2)._replace(writer=b"x" * 16, seq=0, time_us=10**15)
    (state,) = fold([lost, *zombie]).values()
    assert (state.status, [task.status for task in state.tasks.values()]) == ("lost", ["lost"])
    (state,) = fold([*zombie, lost._replace(payload={"error_message": "as version 1 said it"})]).values()
    assert (state.status, [task.status for task in state.tasks.values()]) == ("lost", ["succeeded"])
    of_another_run = lost._replace(run_uid=b"o" * 16)
    assert fold([of_another_run, *zombie])[RUN.run_uid].status == "succeeded"


def test_fold_orders_tasks_by_when_they_came() -> None:
    events = stamped(
        kinds.run_started(RUN, None, {}),
        kinds.task_created(RUN.task("b", "1"), (), (), None),
        kinds.task_created(RUN.task("a", "2"), (), (), None),
    )
    assert list(fold(events[::-1])[RUN.run_uid].tasks) == [("b", "1"), ("a", "2")]


def test_fold_takes_code_parameters_and_tags() -> None:
    state = folded(
        kinds.code_saved(RUN, b"c" * 32, 3, {}),
        kinds.parameter_set(RUN, "alpha", CONTENT, "parameter"),
        kinds.tag_added(RUN, "t", "user"),
        kinds.tag_removed(RUN, "t"),
    )
    assert state.code_digest == b"c" * 32
    assert list(state.parameters) == ["alpha"]
    assert state.tags["t"].kind == "tag_removed"
    assert (state.origin_run_id, state.writer) == (None, b"w" * 16)
