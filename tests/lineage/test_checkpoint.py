"""Checkpoints change no answer: not when they are new, old, cut short, broken or gone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults import seeds
from tests.lineage.conftest import Story
from weft.lineage import events as kinds
from weft.lineage.checkpoint import CHECKPOINTS, DESCRIPTION_PATH, read_checkpoint
from weft.lineage.checkpointing import refresh_checkpoint
from weft.lineage.description import create_store
from weft.lineage.events import RunRef
from weft.lineage.folds import Folds
from weft.lineage.ids import Pathspec, TaskRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.schema import Event
from weft.lineage.sources import Sealed
from weft.lineage.store import Store
from weft.lineage.view_sql import VIEWS
from weft.lineage.views import Views

NUMBERS = "select run_id, step, task_id, name, value_number, digest from artifacts where value_number > 1"
#: The views that are made from states; all others read events alone.
FOLDED_VIEWS = ("runs", "tasks", "steps", "tags", "parameters")


@pytest.fixture(autouse=True)
def _no_store_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)


class History:
    """Random runs, told bit by bit by several writers, and what happens to the files meanwhile."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.draw = draw
        self.storage = LocalStorage(str(folder))
        create_store(self.storage)
        self.log = EventLog(self.storage)
        self.now_us = 1_700_000_000_000_000
        self._journals = [self._journal(), self._journal()]
        self._runs: list[RunRef] = []
        self._tasks: list[TaskRef] = []
        #: Answers as they were at a time, by that time.
        self.recorded: dict[int, dict[str, list[str]]] = {}

    def close(self) -> None:
        for journal in self._journals:
            journal.close()

    def step(self) -> None:
        """One thing that may happen to a store."""
        action = self.draw.choice(
            (
                self.tell,
                self.tell,
                self.tell,
                self.turn,
                self.seal,
                self.compact,
                self.fold,
                self.fold,
                self.forget,
                self.record,
                self.tear,
            )
        )
        action()

    def tell(self) -> None:
        for _ in range(self.draw.randrange(1, 12)):
            self.draw.choice(self._journals).append([self._event()])

    def turn(self) -> None:
        """One writer ends, another begins."""
        place = self.draw.randrange(len(self._journals))
        self._journals[place].close()
        self._journals[place] = self._journal()

    def seal(self) -> None:
        self.log.seal(force=True, grace_s=self.draw.choice((0.0, 60.0)))

    def compact(self) -> None:
        self.log.tidy(is_whole=True, grace_s=self.draw.choice((0.0, 60.0)))

    def fold(self) -> None:
        refresh_checkpoint(self.storage, EventLog(self.storage), self.draw.choice((None, 1, 50_000)))

    def forget(self) -> None:
        """Files of the cache are deleted."""
        for file in self.storage.scan(CHECKPOINTS):
            if self.draw.random() < 0.5:
                self.storage.delete(file.path)

    def tear(self) -> None:
        """A file of the cache is cut, or has other bytes."""
        files = [file.path for file in self.storage.scan(CHECKPOINTS) if file.size_bytes]
        if files:
            flip(self.storage, self.draw.choice(files), self.draw)

    def record(self) -> None:
        self.recorded[self.now_us] = expected(self.log, self.now_us)
        self.now_us += 1

    def _clock(self) -> int:
        self.now_us += self.draw.choice((0, 1, 1000))
        return self.now_us

    def _journal(self) -> Journal:
        return Journal.create(self.storage, now_us=self._clock)

    def _event(self) -> Event:
        draw = self.draw
        if not self._runs or draw.random() < 0.2:
            return self._begin()
        run = draw.choice(self._runs)
        if not self._tasks or draw.random() < 0.25:
            if draw.random() < 0.5:
                return self._of_run(run)
            task = run.task(draw.choice(("start", "fit")), str(draw.randrange(4)))
            self._tasks.append(task)
            if draw.random() < 0.3:
                other = draw.choice(self._tasks)
                origin = Pathspec(other.flow, other.run_id, other.step, other.task_id)
                return kinds.task_reused(task, origin, (), (), None, {"reason": "r", "next": []})
            return kinds.task_created(task, (("start", "1"),), (), None)
        return self._of_task(draw.choice(self._tasks[-12:]))

    def _begin(self) -> Event:
        draw = self.draw
        run_id = str(draw.randrange(8)) if draw.random() < 0.1 else str(100 + len(self._runs))
        run = RunRef(draw.randbytes(16), draw.choice(("One", "Two")), run_id)
        self._runs.append(run)
        payload = {"user": "me"}
        if len(self._runs) > 1 and draw.random() < 0.3:
            origin = draw.choice(self._runs)
            payload |= {"origin_run_id": origin.run_id, "origin_run_uid": origin.run_uid.hex()}
        return kinds.run_started(run, draw.randbytes(32), payload)

    def _of_run(self, run: RunRef) -> Event:
        draw = self.draw
        return draw.choice(
            [
                kinds.tag_added(run, draw.choice("ab"), "user"),
                kinds.tag_removed(run, draw.choice("ab")),
                kinds.parameter_set(run, draw.choice("pq"), self._content(), "parameter"),
                kinds.lease_renewed(run, self.now_us + 10**8),
                kinds.step_started(run, draw.choice(("start", "fit"))),
                kinds.run_ended(run, "succeeded"),
                kinds.run_ended(run, "failed", {"root_cause": f"{run.flow}/{run.run_id}/fit/1"}),
                kinds.run_lost(run, self._journals[0].writer, draw.randrange(50)),
            ]
        )

    def _of_task(self, task: TaskRef) -> Event:
        draw = self.draw
        attempt = draw.choice((0, 0, 0, 1))
        origin = Pathspec(task.flow, task.run_id, "start", "1")
        return draw.choice(
            [
                kinds.attempt_started(task, attempt, 7, "box"),
                kinds.artifact_saved(task, attempt, draw.choice("xy"), self._content()),
                kinds.artifact_used(task, attempt, "x", draw.randbytes(32), origin),
                kinds.attempt_succeeded(task, attempt, {"next": []}, {"cpu_s": 0.5}),
                kinds.attempt_failed(task, attempt, "E", {"message": "m"}),
                kinds.retry_scheduled(task, attempt + 1, 0.0),
            ]
        )

    def _content(self) -> kinds.Content:
        number = self.draw.choice((None, 0.5, 1.5, 2.5))
        return kinds.Content(
            self.draw.randbytes(32),
            3,
            "float",
            "plain/1",
            None if number is None else str(number),
            number,
            b"x",
        )


def flip(storage: LocalStorage, path: str, draw: random.Random) -> None:
    data = bytearray(storage.get(path))
    if draw.random() < 0.2:
        del data[draw.randrange(len(data)) :]
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    with open(f"{storage.root}/{path}", "wb") as file:
        file.write(data)


def answers(rows: Any, views: Iterable[str] = VIEWS) -> dict[str, list[str]]:
    found = {view: sorted(map(repr, rows(f"from {view}"))) for view in views}
    # What is asked of one run is answered from its events alone, and stays the same.
    keys = rows("select flow, run_id from runs order by hash(run_id)")[:2]
    for flow, run_id in keys:
        for view in views:
            about = f"{view} where flow = '{flow}' and run_id = '{run_id}'"
            found[about] = sorted(map(repr, rows(f"from {about}")))
            assert set(found[about]) <= set(found[view])
    digests = "select distinct digest from artifacts order by digest limit 3" if "artifacts" in found else ""
    for (digest,) in rows(digests) if digests else ():
        # Only the files that may hold it are read.
        held = rows(f"from artifacts where digest = '{digest}'")
        assert sorted(map(repr, held)) == [row for row in found["artifacts"] if digest in row]
    return found | {"numbers": sorted(map(repr, rows(NUMBERS)))}


def has_twins(found: dict[str, list[str]]) -> bool:
    """Whether a second run of a pathspec is among the answers."""
    return any("~" in row for row in found["runs"])


def expected(log: EventLog, as_of_us: int | None = None) -> dict[str, list[str]]:
    """What a fold of all events in memory shows."""
    views = Views(Sealed(), as_of_us)
    views.add(log.events())
    live = log.live_writers() if as_of_us is None else set()
    liveness = {writer: writer in live for writer, _ in views.unended()} if as_of_us is None else {}
    views.set_clock(liveness, as_of_us)
    return answers(views.rows)


@pytest.fixture
def history(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[History]:
    seed = getattr(request, "param", 1)
    print(f"WEFT_TEST_SEED={seed}")
    made = History(tmp_path / "store", random.Random(seed))
    yield made
    made.close()


def live_through(history: History, steps: int) -> None:
    with Store(history.storage) as kept:
        for _ in range(steps):
            for _ in range(3):
                history.step()
            wanted = expected(history.log)
            assert answers(lambda query: kept.sql(query).rows) == wanted
            with Store(history.storage) as fresh:
                assert fresh.has_twins() == kept.has_twins() == has_twins(wanted)
                assert answers(lambda query: fresh.rows(query)) == wanted
        for moment_us, recorded in history.recorded.items():
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us)
            with Store(history.storage, as_of=moment) as then:
                assert answers(lambda query: then.rows(query)) == recorded


@pytest.mark.parametrize("history", seeds(range(2)), indirect=True)
def test_answers_are_those_of_a_fold_from_nothing(history: History) -> None:
    live_through(history, 4)


@pytest.mark.slow
@pytest.mark.parametrize("history", seeds(range(100, 130)), indirect=True)
def test_answers_of_long_histories_are_those_of_a_fold_from_nothing(history: History) -> None:
    live_through(history, 15)


def filled(history: History, parts: int = 2) -> None:
    for _ in range(parts):
        for _ in range(8):
            history.tell()
        history.turn()
        history.turn()
        history.seal()
        refresh_checkpoint(history.storage, history.log)


def test_a_checkpoint_that_covers_all_is_opened_without_footers(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(history)
    history.log.seal(force=True, grace_s=0)
    refresh_checkpoint(history.storage, history.log)
    wanted = expected(history.log)

    def refuse(*_: object) -> None:
        raise AssertionError("a footer was read")

    monkeypatch.setattr("weft.lineage.sight._at_large", refuse)
    with Store(history.storage) as store:
        assert answers(lambda query: store.rows(query)) == wanted
        proven = {path for path in store._prover._proven if "/log/" in path}
    with Store(history.storage) as store:
        store.rows("select * from runs order by started_at desc limit 20")
        assert len({path for path in store._prover._proven if "/log/" in path}) < len(proven)


def test_flipped_bytes_of_any_cache_file_change_no_answer(history: History) -> None:
    filled(history)
    wanted = {
        name: rows
        for name, rows in expected(history.log).items()
        if name.split()[0] in (*FOLDED_VIEWS, "numbers")
    }
    sound = {file.path: history.storage.get(file.path) for file in history.storage.scan(CHECKPOINTS)}
    assert len(sound) > 8
    for path, data in sound.items():
        if not data:
            continue
        flip(history.storage, path, history.draw)
        with Store(history.storage) as store:
            assert answers(lambda query: store.rows(query), FOLDED_VIEWS) == wanted
        history.storage.put(path, data)


@pytest.mark.parametrize("is_empty", [False, True])
def test_segments_of_nothing_that_is_folded_are_covered(story: Story, is_empty: bool) -> None:
    run = story.run("F", "1")
    task = story.task(run, "start", "1", x=1)
    story.end(run)
    for _ in range(2):
        story.next_journal()
        log = EventLog(story.storage)
        log.seal(force=True, grace_s=0)
        assert refresh_checkpoint(story.storage, log) is not None
        if not is_empty:
            story.tell(kinds.console_written(task, 0, "stdout", 1, 5, b"x", None))
    with story.store() as store:
        assert store.sql("select status, tasks from runs").fetchall() == [("succeeded", 1)]
        assert all(file.is_covered for file in store._sight.sealed.files)


def test_a_broken_checkpoint_is_made_anew(history: History) -> None:
    filled(history)
    known = read_checkpoint(history.storage)
    assert known is not None
    flip(history.storage, known.parts[0].files["tasks"].path, history.draw)
    refresh_checkpoint(history.storage, history.log)
    made = read_checkpoint(history.storage)
    assert made is not None
    assert len(made.parts) == 1
    with Store(history.storage) as store:
        assert answers(lambda query: store.rows(query)) == expected(history.log)


def test_a_checkpoint_that_needs_more_memory_than_is_meant_for_it_is_made_all_the_same(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.lineage.checkpointing._MEMORY_LIMIT", "300KB")
    folds = []

    class Noted(Folds):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            folds.append(self)
            super().__init__(*arguments, **named)

    monkeypatch.setattr("weft.lineage.checkpointing.Folds", Noted)
    filled(history, parts=1)
    assert len(folds) == 2, "the memory was enough, so this tries nothing"
    wanted = expected(history.log)
    with Store(history.storage) as store:
        assert answers(lambda query: store.rows(query)) == wanted


def test_a_store_that_cannot_be_written_to_needs_no_checkpoint(history: History) -> None:
    filled(history)
    wanted = expected(history.log)
    history.storage.delete(DESCRIPTION_PATH)
    with Store(history.storage) as store:
        assert answers(lambda query: store.rows(query)) == wanted
        assert store.wants_checkpoint


def test_a_checkpoint_follows_a_compaction_without_folding_again(history: History) -> None:
    filled(history)
    history.log.seal(force=True, grace_s=0)
    refresh_checkpoint(history.storage, history.log)
    before = read_checkpoint(history.storage)
    history.log.tidy(is_whole=True, grace_s=0)
    report = refresh_checkpoint(history.storage, history.log)
    after = read_checkpoint(history.storage)
    assert before is not None
    assert after is not None
    assert report.segments == 0
    assert before.parts == after.parts
    assert len(after.segments) < len(before.segments)
    with Store(history.storage) as store:
        assert not store.wants_checkpoint
        assert answers(lambda query: store.rows(query)) == expected(history.log)


def test_parts_stay_few(history: History) -> None:
    for _ in range(6):
        history.tell()
        history.turn()
        history.turn()
        history.seal()
        refresh_checkpoint(history.storage, history.log)
    made = read_checkpoint(history.storage)
    assert made is not None
    assert len(made.parts) <= 4
    used = {os.path.basename(file.path) for part in made.parts for file in part.files.values()}
    assert used <= {os.path.basename(file.path) for file in history.storage.scan(CHECKPOINTS)}
