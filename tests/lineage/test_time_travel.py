"""What a store answers as of a moment is what it answered then, whatever came later.

WEFT_TEST_SEED=<seed> replays one history.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.faults import seeds
from tests.lineage.conftest import Story
from weft.lineage import clock
from weft.lineage import events as kinds
from weft.lineage.errors import NotFound, WeftError
from weft.lineage.events import Level, RunRef
from weft.lineage.flows import Flow, Run
from weft.lineage.ids import TaskRef
from weft.lineage.moment import text_of_moment
from weft.lineage.store import Store, open_store
from weft.lineage.view_sql import VIEWS

_FLOWS = ("F", "G")
_RUNS_LOOKED_INTO = 2


class _History:
    """Grows by one random deed at a time."""

    def __init__(self, story: Story, seed: int) -> None:
        self.story = story
        self.draw = random.Random(seed)
        self.open: list[RunRef] = []
        self.runs: list[RunRef] = []
        self.tasks: dict[RunRef, list[TaskRef]] = {}
        self.done: list[TaskRef] = []

    def grow(self) -> None:
        deeds: list[Callable[[], None]] = [
            self.start,
            self.tag,
            self.end,
            self.next_journal,
            *[self.work] * 4,
        ]
        self.draw.choice(deeds)()

    def start(self) -> None:
        number = len(self.runs) + 1
        run = self.story.run(self.draw.choice(_FLOWS), str(number), graph={"start": "start", "steps": []})
        self.story.parameter(run, "alpha", number)
        self.runs.append(run)
        self.open.append(run)
        self.tasks[run] = []

    def work(self) -> None:
        if not self.open:
            return self.start()
        run = self.draw.choice(self.open)
        step, task_id = self.draw.choice(("start", "fit")), str(len(self.tasks[run]) + 1)
        read = self.draw.choice(self.done) if self.done else None
        of_flow = [task for task in self.done if task.flow == run.flow]
        if of_flow and self.draw.random() < 0.3:
            task = self.story.reuse(run, self.draw.choice(of_flow), task_id=task_id)
            self.tasks[run].append(task)
            return None
        is_done = self.draw.random() < 0.7
        levels = (Level("fit", "items", int(task_id), 9, task_id),) if step == "fit" else ()
        reads = () if read is None else (("x", read),)
        task = self.story.task(run, step, task_id, (), levels, is_done, reads, x=self.draw.randrange(5))
        self.tasks[run].append(task)
        if is_done:
            self.done.append(task)
        elif self.draw.random() < 0.5:
            self.story.tell(kinds.attempt_failed(task, 0, "ValueError", {"message": "no"}))
            if self.draw.random() < 0.5:
                self.story.tell(kinds.retry_scheduled(task, 1, 0.0), kinds.attempt_started(task, 1, 7, "box"))
        return None

    def tag(self) -> None:
        if self.runs:
            run, name = self.draw.choice(self.runs), self.draw.choice("ab")
            is_added = self.draw.random() < 0.6
            self.story.tell(kinds.tag_added(run, name, "user") if is_added else kinds.tag_removed(run, name))

    def end(self) -> None:
        if self.open:
            run = self.open.pop(self.draw.randrange(len(self.open)))
            status = self.draw.choice(("succeeded", "succeeded", "failed", "cancelled"))
            self.story.end(run, status, error_message="e" if status == "failed" else "")

    def next_journal(self) -> None:
        """The journal of a scheduler that still has runs is not ended: they would be lost."""
        if not self.open:
            self.story.next_journal()

    def moment(self) -> int:
        """A moment between what was told and what will be."""
        now_us = clock.now_us()
        while clock.now_us() <= now_us:
            pass
        return now_us


def answers(store: Store) -> dict[str, Any]:
    """All that can be asked, as it is answered now."""
    found: dict[str, Any] = {
        view: store.sql(f"select * from {view} order by all").fetchall() for view in VIEWS
    }
    found["events()"] = [(event.writer, event.seq) for event in store.events()]
    for name in _FLOWS:
        try:
            flow = Flow(name, store=store)
        except NotFound as error:
            found[name] = "There is no" in str(error)
            continue
        runs = list(flow.runs())
        latest = flow.latest_successful_run
        found[name] = [(r.id, r.status, r.successful, r.tags, r.finished_at) for r in runs]
        found[f"{name} latest"] = (flow.latest_run and flow.latest_run.id, latest and latest.id)
        found[f"{name} tagged"] = [run.id for run in flow.runs("a")]
        for run in runs[:_RUNS_LOOKED_INTO]:
            place = run.pathspec
            found[place] = [(t.pathspec, t.status, t.finished, list(t.data)) for s in run for t in s]
            found[f"{place} lines"] = store.lines(place)
            for direction in ("up", "down"):
                found[f"{place} {direction}"] = _lineage(store, place, direction)
            found[f"{place} diff"] = store.diff(place, runs[0].pathspec).document()
    return found


def _lineage(store: Store, place: str, direction: str) -> Any:
    try:
        return store.lineage(place, direction).document()
    except WeftError as error:
        return str(error)


def _check(story: Story, seed: int, moments: int) -> None:
    history = _History(story, seed)
    recorded: list[tuple[int, dict[str, Any]]] = []
    for _ in range(moments):
        for _ in range(8):
            history.grow()
        moment = history.moment()
        with story.store() as store:
            recorded.append((moment, answers(store)))
            if history.draw.random() < 0.3:
                store._log.seal(force=True)
    for moment, expected in recorded:
        with story.store(as_of=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)) as store:
            found = answers(store)
        for question, answer in expected.items():
            assert found[question] == answer, f"WEFT_TEST_SEED={seed}: {question} as of {moment}"


@pytest.mark.parametrize("seed", seeds((1, 2)))
def test_answers_as_of_a_moment_are_those_given_then(story: Story, seed: int) -> None:
    _check(story, seed, moments=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(range(3, 23)))
def test_answers_as_of_a_moment_are_those_given_then_at_length(story: Story, seed: int) -> None:
    _check(story, seed, moments=8)


def test_the_latest_successful_run_and_the_tags_are_those_of_then(story: Story) -> None:
    first = story.run("F", "1")
    story.task(first, "end", "1", x=1)
    story.tell(kinds.tag_added(first, "good", "user"))
    story.end(first)
    then = text_of_moment(story.store().events()[-1].time_us)
    second = story.run("F", "2")
    story.task(second, "end", "1", x=2)
    story.tell(kinds.tag_removed(first, "good"))
    story.end(second)
    with story.store(as_of=then) as store:
        latest = Flow("F", store=store).latest_successful_run
        assert latest is not None
        assert (latest.id, latest.user_tags) == ("1", frozenset({"good"}))
        assert latest.data is not None
        assert latest.data.x == 1
        with pytest.raises(NotFound):
            Run("F/2", store=store)
    now = Flow("F", store=story.store()).latest_successful_run
    assert now is not None
    assert (now.id, Run("F/1", store=story.store()).user_tags) == ("2", frozenset())


def test_the_id_of_an_event_names_its_moment(story: Story) -> None:
    run = story.run("F", "1")
    story.end(run)
    started = story.store().events()[0]
    identity = f"{started.writer.hex()}:{started.seq}"
    with story.store(as_of=identity) as store:
        assert Run("F/1", store=store).status == "running"
        assert len(store.events()) == 1
    with pytest.raises(NotFound, match="There is no event"):
        story.store(as_of=f"{started.writer.hex()}:99")


def test_before_the_store_began_it_says_when_it_began(story: Story) -> None:
    story.end(story.run("F", "1"))
    began = text_of_moment(story.store().events()[0].time_us)
    with pytest.raises(NotFound) as refused:
        story.store(as_of="2001-01-01")
    assert began in str(refused.value)
    with story.store(as_of=began) as store:
        assert Run("F/1", store=store).status == "running"


def test_an_empty_store_has_no_beginning(story: Story) -> None:
    assert story.store(as_of="2001-01-01").sql("select * from runs").fetchall() == []


def test_objects_of_a_moment_keep_it_when_they_are_pickled(story: Story) -> None:
    run = story.run("F", "1")
    story.task(run, "end", "1", x=1)
    then = text_of_moment(story.store().events()[-1].time_us)
    story.end(run)
    url = story.storage.url
    with open_store(url, as_of=then) as past, open_store(url) as present:
        old, new = Run("F/1", store=past), Run("F/1", store=present)
        assert (old.status, new.status) == ("running", "succeeded")
        assert old != new
        again = pickle.loads(pickle.dumps(old))
        assert (again.status, again) == ("running", old)
        task = pickle.loads(pickle.dumps(old["end"]["1"]))
        assert task.parent.parent.status == "running"


def test_the_views_for_any_duckdb_end_at_the_moment(story: Story) -> None:
    import duckdb

    run = story.run("F", "1")
    then = text_of_moment(story.store().events()[-1].time_us)
    story.end(run)
    story.next_journal()
    story.store()._log.seal(force=True)
    for as_of, status in ((None, "succeeded"), (then, "running")):
        with story.store(as_of=as_of) as store, duckdb.connect() as connection:
            connection.execute(store.ddl())
            assert connection.execute("select status from runs").fetchall() == [(status,)]
