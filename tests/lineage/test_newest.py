"""The newest runs, folded alone, are those that a fold of all runs lists."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import seeds
from tests.lineage.test_checkpoint import History
from weft.lineage import events as kinds
from weft.lineage.checkpoint import CheckpointBroken
from weft.lineage.events import RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.log import EventLog
from weft.lineage.newest import Listing, newest_runs
from weft.lineage.schema import Event
from weft.lineage.sight import Prover, look
from weft.lineage.sources import Sealed
from weft.lineage.store import Store
from weft.lineage.views import Views

COLUMNS = (
    *("flow", "run_id", "status", "started_at", "finished_at", "duration_s", "user_name", "origin_run_id"),
    *("code_digest", "tasks", "tasks_failed", "root_cause"),
)

LISTINGS = tuple(
    Listing(flow, tags, status, None, limit)
    for limit in (1, 2, 5)
    for flow, tags, status in (
        (None, (), None),
        ("One", (), None),
        (None, ("a",), None),
        (None, ("a", "b"), "succeeded"),
        ("Two", (), "running"),
        (None, (), "lost"),
        (None, (), "failed"),
        ("Two", ("b",), "cancelled"),
    )
)


@pytest.fixture(autouse=True)
def _few_runs_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few runs are looked at first, and more only where those were too few."""
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)
    monkeypatch.setattr("weft.lineage.newest._SPARE_RUNS", 1)
    monkeypatch.setattr("weft.lineage.newest._WIDENED", 2)


Rows = list[dict[str, Any]]


def in_general(views: Views, listing: Listing) -> Rows:
    """The runs of a listing, of a fold of all."""
    query, params = listing.query()
    rows = views.rows(query, params or None)
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def compared(
    views: Views, listings: Iterable[Listing], live: Iterable[bytes] | None, now_us: int
) -> tuple[list[Rows | None], list[Rows | None]]:
    """What listings give where the newest runs are folded alone, and where they are looked up among those that are
    folded: what a fold of all gives. `live` are those of the writers that live, or nothing is known of them."""

    def liveness_of(unended: list[tuple[bytes, int]]) -> tuple[dict[bytes, bool], int]:
        return {} if live is None else {writer: writer in live for writer, _ in unended}, now_us

    alone, among = (
        [newest_runs(views, listing, liveness_of, is_folded) for listing in listings]
        for is_folded in (False, True)
    )
    views.set_clock(*liveness_of(views.unended()))
    for listing, *found in zip(listings, alone, among, strict=True):
        wanted = in_general(views, listing)
        assert found[0] in (None, wanted), listing
        assert found[1] in (None, wanted), listing
    return alone, among


def compare(history: History, as_of_us: int | None) -> tuple[int, int]:
    """How many listings were folded alone, and how many were looked up among the folded."""
    live = history.log.live_writers() if as_of_us is None else None
    listings = history.draw.sample(LISTINGS, 8)
    log = EventLog(history.storage)
    prover = Prover(history.storage, log)
    sight = look(history.storage, log)
    while True:
        prover.local = sight.local
        views = Views(sight.sealed, as_of_us, prove=prover.prove)
        views.add(sight.tail)
        try:
            alone, among = compared(views, listings, live, as_of_us or history.now_us)
        except CheckpointBroken:
            # The history tears files of the cache, and deletes some.
            assert sight.checkpoint is not None
            sight = look(history.storage, log, sight.checkpoint)
        else:
            break
    return len(listings) - alone.count(None), len(listings) - among.count(None)


def live_through(history: History, steps: int) -> None:
    found = []
    for _ in range(steps):
        for _ in range(8):
            history.tell()
            history.step()
        found.append(compare(history, None))
        found.append(compare(history, history.now_us - history.draw.randrange(20_000)))
    assert any(alone for alone, _ in found)


@pytest.mark.parametrize("seed", seeds(range(2)))
def test_newest_runs_are_those_of_a_fold_of_all(seed: int, tmp_path: Path) -> None:
    print(f"WEFT_TEST_SEED={seed}")
    history = History(tmp_path / "store", random.Random(seed))
    live_through(history, 2)
    history.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(range(200, 240)))
def test_newest_runs_of_long_histories_are_those_of_a_fold_of_all(seed: int, tmp_path: Path) -> None:
    print(f"WEFT_TEST_SEED={seed}")
    history = History(tmp_path / "store", random.Random(seed))
    live_through(history, 8)
    history.close()


RUNS = [RunRef(bytes([number]) * 16, "Flow", str(100 + number)) for number in range(12)]
NOW_US = 10_000_000_000
OLD, NEW = b"o" * 16, b"n" * 16


def begun(run: RunRef, us: int, writer: bytes = OLD, epoch: int = 0) -> Event:
    event = kinds.run_started(run, b"c" * 32, {"user": "me"})
    return event._replace(writer=writer, seq=us, time_us=us, epoch=epoch)


def at(us: int, event: Event, writer: bytes = OLD) -> Event:
    return event._replace(writer=writer, seq=us, time_us=us)


def ended(run: RunRef, us: int, status: str = "succeeded") -> Event:
    return at(us, kinds.run_ended(run, status))


def whole(runs: Iterable[RunRef], since_us: int = 1_000) -> list[Event]:
    """Runs that began and ended well, one after the other, with a task each."""
    told = []
    for number, run in enumerate(runs):
        us = since_us + 100 * number
        task = run.task("start", "1")
        told += [
            begun(run, us),
            at(us + 1, kinds.task_created(task, (), (), None)),
            at(us + 2, kinds.attempt_started(task, 0, 7, "box")),
            at(us + 3, kinds.attempt_succeeded(task, 0, {"next": []}, {})),
            ended(run, us + 4),
        ]
    return told


TWIN = RunRef(b"t" * 16, "Flow", RUNS[11].run_id)
OTHER = RunRef(b"x" * 16, "Other", "7")
CASES: dict[str, tuple[list[Event], Listing, list[tuple[str, str]]]] = {
    "ended runs": (whole(RUNS), Listing(limit=2), [("111", "succeeded"), ("110", "succeeded")]),
    "a run whose writer is dead": (
        [*whole(RUNS[:10]), begun(RUNS[10], 9_000)],
        Listing(limit=2),
        [("110", "lost"), ("109", "succeeded")],
    ),
    "a run whose writer lives": (
        [*whole(RUNS[:10]), begun(RUNS[10], 9_000, NEW)],
        Listing(limit=1),
        [("110", "running")],
    ),
    "a status that few have": (
        [*whole(RUNS[1:]), begun(RUNS[0], 10)],
        Listing(limit=1, status="lost"),
        [("100", "lost")],
    ),
    "an old run of the same name": (
        [*whole(RUNS), begun(TWIN, 5), ended(TWIN, 6)],
        Listing(limit=1),
        [("111~2", "succeeded")],
    ),
    "a run of the same name that begins later": (
        [*whole(RUNS), begun(TWIN, 9_000), ended(TWIN, 9_001, "failed")],
        Listing(limit=2),
        [("111~2", "failed"), ("111", "succeeded")],
    ),
    "what a lost scheduler told after it was fenced": (
        [
            *whole(RUNS[:10]),
            begun(RUNS[10], 8_000),
            at(8_001, kinds.run_lost(RUNS[10], OLD, 8_000), NEW),
            ended(RUNS[10], 8_002),
        ],
        Listing(limit=1),
        [("110", "lost")],
    ),
    "a beginning told by a fenced scheduler": (
        [
            *whole(RUNS[:10]),
            at(7_000, kinds.tag_added(RUNS[10], "a", "user")),
            at(8_001, kinds.run_lost(RUNS[10], OLD, 7_500), NEW),
            begun(RUNS[10], 8_002),
        ],
        Listing(limit=1),
        [("109", "succeeded")],
    ),
    "a beginning told twice": (
        [*whole(RUNS), begun(RUNS[0], 50_000), begun(RUNS[1], 40_000, NEW, epoch=1)],
        Listing(limit=2),
        [("101", "succeeded"), ("111", "succeeded")],
    ),
    "beginnings at one moment": (
        [begun(run, 5_000 + n, NEW)._replace(time_us=5_000) for n, run in enumerate(RUNS)],
        Listing(limit=3),
        [("111", "running"), ("110", "running"), ("109", "running")],
    ),
    "a run whose beginning came last": (
        [*whole(RUNS[:10]), ended(RUNS[10], 4), begun(RUNS[10], 9_000, NEW)],
        Listing(limit=1),
        [("110", "succeeded")],
    ),
    "a flow of few runs": (
        [*whole(RUNS), *whole([OTHER], 10)],
        Listing("Other", limit=1),
        [("7", "succeeded")],
    ),
    "a tag that few have, of a run with a twin": (
        [*whole(RUNS), begun(TWIN, 5), at(7, kinds.tag_added(RUNS[11], "a", "user"))],
        Listing(tags=("a",), limit=1),
        [("111~2", "succeeded")],
    ),
    "a run that reused its task": (
        [
            *whole(RUNS[:10]),
            begun(RUNS[10], 9_000),
            at(
                9_001,
                kinds.task_reused(
                    RUNS[10].task("start", "1"), Pathspec("Flow", "109", "start", "1"), (), (), None, {}
                ),
            ),
            ended(RUNS[10], 9_002),
        ],
        Listing(limit=1),
        [("110", "succeeded")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_newest_runs_are_right_with(case: str) -> None:
    told, listing, wanted = CASES[case]
    views = Views(Sealed())
    views.add(told)
    (rows,), (looked_up,) = compared(views, [listing], [NEW], NOW_US)
    assert rows is not None
    assert [(row["run_id"], row["status"]) for row in rows] == wanted
    assert (looked_up is None) == any(event.run_uid == TWIN.run_uid for event in told)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(whole(RUNS[:2]), id="fewer runs than asked for"),
        pytest.param(
            [*whole(RUNS[:2]), at(9_000, kinds.tag_added(RUNS[3], "a", "user"))], id="a run without beginning"
        ),
        pytest.param([], id="nothing"),
    ],
)
def test_too_few_beginnings_take_a_fold_of_all(told: list[Event]) -> None:
    views = Views(Sealed())
    views.add(told)
    (alone,), (among,) = compared(views, [Listing(limit=3)], [], NOW_US)
    assert alone is None
    assert among is not None


def test_as_of_a_moment_only_what_was_told_by_then_counts() -> None:
    told = [*whole(RUNS[:10]), begun(RUNS[10], 9_000), ended(RUNS[10], 9_100), begun(RUNS[11], 9_200)]
    views = Views(Sealed(), 9_050)
    views.add(told)
    (rows,), (looked_up,) = compared(views, [Listing(limit=2)], None, 9_050)
    assert rows is not None
    assert looked_up == rows
    assert [(row["run_id"], row["status"]) for row in rows] == [("110", "running"), ("109", "succeeded")]


def test_only_a_question_that_folds_all_wants_a_checkpoint(tmp_path: Path) -> None:
    history = History(tmp_path / "store", random.Random(5))
    for _ in range(30):
        history.tell()
    for _ in range(4):
        history.turn()
    history.compact()
    listing = Listing(limit=1)
    query, params = listing.query()
    with Store(history.storage) as quick, Store(history.storage) as thorough:
        assert quick.list_runs(listing) == thorough.sql(query, **params).dicts()
        assert [quick.wants_checkpoint, thorough.wants_checkpoint] == [False, True]
    history.close()
