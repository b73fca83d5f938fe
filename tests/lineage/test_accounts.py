"""Both accounts of runs, by SQL and by Python over held events, tell the same; and each is asked when it should be."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lineage.conftest import Story
from tests.lineage.test_named_runs import tell_many
from tests.lineage.test_views import histories, views_of
from weft.lineage import events as kinds
from weft.lineage import held
from weft.lineage.accounts import Account, ViewAccount
from weft.lineage.checkpointing import refresh_checkpoint
from weft.lineage.events import Content, Level, RunRef
from weft.lineage.held_account import HeldAccount, account_of
from weft.lineage.ids import Pathspec
from weft.lineage.log import EventLog
from weft.lineage.named_runs import NamedRun
from weft.lineage.run_demands import RunKey
from weft.lineage.schema import KINDS, Event
from weft.lineage.store import Store

FAMILIES = ("artifact", "use", "other")
COLUMNS = ("writer", "seq", "run_uid", "step", "task_id", "name", "digest", "value", "item_index", "payload")


def told_by(account: Account, runs: Collection[NamedRun]) -> dict[str, Any]:
    """All that an account says of some runs."""
    tasks, reuses = account.tasks(runs), account.reuses(runs)
    found: dict[str, Any] = {
        "runs": account.runs([run.key for run in runs]),
        "tasks": sorted(map(repr, tasks)),
        "reuses": sorted(map(repr, reuses)),
        "origins": sorted(repr(account.origin(reuse)) for reuse in reuses),
        "places": sorted(
            repr(row)
            for row in account.tasks(runs, {("fit", "1")})
            if (row.step, row.task_id) == ("fit", "1")
        ),
    }
    for kind in KINDS:
        rows = account.events((kind,), COLUMNS, runs)
        found[kind] = sorted(map(repr, rows))
        digests = {row[6] for row in rows[:1] if row[6] is not None}
        found[f"{kind} of a digest"] = sorted(
            map(repr, account.events((kind,), COLUMNS, runs, digests=digests))
        )
    return found


class Told:
    """An open store, as far as accounts ask it, over a list of events."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self._views = views_of(events)

    def rows(self, query: str, params: Any = None, about: object = ()) -> list[tuple[Any, ...]]:
        return self._views.rows(query, params)

    def held(self, about: Collection[tuple[str, str]], families: Collection[str]) -> list[Event]:
        return list(self._events)


@st.composite
def fuller(draw: st.DrawFn) -> list[Event]:
    """Events of a few runs, with what tasks saved and read, in any order."""
    events = draw(histories())
    tasks = {(e.run_uid, e.flow, e.run_id, e.step, e.task_id) for e in events if e.task_id is not None}
    told = []
    for uid, flow, run_id, step, task_id in sorted(tasks):
        task = RunRef(uid or b"", flow or "", run_id or "").task(step or "", task_id or "")
        for _ in range(draw(st.integers(0, 2))):
            attempt, number = draw(st.integers(0, 2)), draw(st.integers(0, 1))
            content = Content(bytes([number]) * 32, 3, "int", "plain/1", str(number), 1.0, b"x")
            origin = Pathspec("Hello", "0", "start", "0")
            told += [
                kinds.artifact_saved(task, attempt, "x", content),
                kinds.artifact_used(
                    task, attempt, "x", content.digest, origin, draw(st.sampled_from((None, 2)))
                ),
                kinds.task_created(task, (), (Level(task.step, "xs", number, 2, "0"),), content),
                kinds.attempt_succeeded(
                    task, attempt, {"next": [], "task_key": f"key {number}"}, {"duration_s": number + 0.3}
                ),
            ]
    return events + [
        event._replace(writer=b"c" * 16, seq=seq, time_us=draw(st.integers(1, 9)) * 1_000_000)
        for seq, event in enumerate(told)
    ]


@settings(max_examples=40, deadline=None)
@given(fuller(), st.sampled_from(("0", "0, 1", "0, 1, 2")), st.randoms(use_true_random=False))
def test_both_accounts_tell_the_same(events: list[Event], ended: str, order: random.Random) -> None:
    events += [
        kinds.run_ended(RunRef(bytes([int(number)]) * 16, "Hello", number), "failed")._replace(
            writer=b"e" * 16, seq=0, time_us=9_000_000
        )
        for number in ended.split(", ")
        if any(event.run_id == number for event in events)
    ]
    order.shuffle(events)
    store: Any = Told(events)
    account, views = HeldAccount(store, (*FAMILIES, "console")), ViewAccount(store)
    names = sorted({(e.flow or "", e.run_id or "") for e in events})
    has_ended = {event.run_id for event in events if KINDS[event.kind].fact == "run_end"}
    assert account.holds(names) is (len(has_ended) == len(names))
    runs = list(views.runs(names).values())
    assert told_by(account, runs) == told_by(views, runs)


def is_held(store: Store, *run_ids: str) -> bool:
    account = account_of(store, [("F", run_id) for run_id in run_ids], FAMILIES)
    return isinstance(account, HeldAccount)


def both(store: Store, names: Collection[RunKey]) -> list[dict[str, Any]]:
    """What each account says of runs, the views first."""
    views = ViewAccount(store)
    runs = list(views.runs(names).values())
    assert len(runs) == len(names)
    return [told_by(account, runs) for account in (views, HeldAccount(store, FAMILIES))]


def _as_told(story: Story) -> None:
    """All in journals."""


def _seal(story: Story) -> None:
    story.next_journal()
    EventLog(story.storage).seal(force=True, grace_s=0)


def _seal_and_go_on(story: Story) -> None:
    _seal(story)
    story.end(story.run("F", "6"))


SHAPES: dict[str, Callable[[Story], None]] = {
    "journals": _as_told,
    "segments": _seal,
    "both": _seal_and_go_on,
}


@pytest.fixture(params=SHAPES)
def shaped(request: pytest.FixtureRequest, story: Story) -> Story:
    tell_many(story)
    SHAPES[request.param](story)
    return story


@pytest.mark.parametrize("is_small", [False, True])
def test_runs_that_ended_and_share_no_name_are_held(
    shaped: Story, is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)
    alone = shaped.run("F", "5")
    task = shaped.task(alone, "a", "1", x=1)
    shaped.end(alone)
    reusing = shaped.run("F", "7", origin_run_id="5")
    shaped.reuse(reusing, task)
    shaped.end(reusing, "failed")
    refresh_checkpoint(shaped.storage, EventLog(shaped.storage))
    if is_small:
        # The checkpoint of a store that was larger once is still there.
        monkeypatch.undo()
    with shaped.store() as store:
        # Twins, one that goes on, one that is not there.
        for run_id in ("1", "1~2", "3", "9"):
            assert not is_held(store, run_id)
        # Two of these reuse tasks of a twin.
        for run_id in ("2", "4", "5", "7"):
            assert is_held(store, run_id)
        assert is_held(store, "5", "7")
        assert not is_held(store, "5", "3")
        by_views, by_held = both(store, [("F", "5"), ("F", "7")])
        assert by_held == by_views
        for listed in (("1", "1~2", "2", "3", "4"), ("2", "4"), ("4", "7")):
            by_views, by_held = both(store, [("F", run_id) for run_id in listed])
            assert by_held == by_views


def test_runs_with_many_events_are_told_of_by_views(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    first = story.run("F", "1")
    for number in range(9):
        story.task(first, "a", str(number), x=number)
    story.end(first)
    second = story.run("F", "2")
    story.task(second, "a", "1", x=1)
    story.end(second)
    monkeypatch.setattr(held, "_EVENTS_MAX", 12)
    with story.store() as store:
        for _ in range(2):
            assert not is_held(store, "1")
            assert is_held(store, "2")
        assert not is_held(store, "1", "2")
        account = HeldAccount(store, FAMILIES)
        assert account.holds([("F", "2")])
        # Beyond what can be held the views answer.
        assert [run.run_id for run in account.runs([("F", "1"), ("F", "2")]).values()] == ["1", "2"]
        (run,) = account.runs([("F", "1")]).values()
        assert len(account.tasks([run])) == 9


def test_that_runs_have_many_events_is_found_out_before_they_are_read(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = story.run("F", "1")
    for number in range(9):
        story.task(run, "a", str(number), x=number)
    story.end(run)
    few = story.run("F", "2")
    story.task(few, "a", "1", x=1)
    story.end(few)
    _seal(story)
    monkeypatch.setattr(held, "_EVENTS_MAX", 12)
    monkeypatch.setattr(held, "_SURELY_FEW_BYTES", 0)
    with story.store() as store:
        assert is_held(store, "2")
        monkeypatch.setattr(held, "fetch_together", None)
        assert not is_held(store, "1")


def test_what_comes_later_is_told_by_an_account_made_later(story: Story) -> None:
    run = story.run("F", "1")
    story.end(run)
    with story.store() as store:
        account = account_of(store, [("F", "1")], FAMILIES)
        assert account.tasks(account.runs([("F", "1")]).values()) == []
        story.task(run, "a", "1", x=1)
        account = account_of(store, [("F", "1")], FAMILIES)
        assert len(account.tasks(account.runs([("F", "1")]).values())) == 1


def test_what_was_not_known_at_a_moment_is_not_held(story: Story) -> None:
    run = story.run("F", "1")
    story.end(run)
    with story.store() as store:
        ((now,),) = store.rows("select max(occurred_at) from events")
    story.task(run, "a", "1", x=1)
    for seal in (False, True):
        if seal:
            _seal(story)
        with story.store(as_of=f"{now.isoformat()}Z") as store:
            account = account_of(store, [("F", "1")], FAMILIES)
            assert isinstance(account, HeldAccount)
            assert account.tasks(account.runs([("F", "1")]).values()) == []


def test_a_family_that_was_not_asked_for_is_told_by_views(story: Story) -> None:
    run = story.run("F", "1")
    story.task(run, "a", "1", x=1)
    story.end(run)
    with story.store() as store:
        account = HeldAccount(store, ())
        assert account.holds([("F", "1")])
        runs = list(account.runs([("F", "1")]).values())
        assert account.events(("artifact_saved",), ("name",), runs) == [("x",)]


def test_runs_that_are_held_one_after_the_other_are_held_once(story: Story) -> None:
    for run_id in ("1", "2"):
        run = story.run("F", run_id)
        story.task(run, "a", "1", x=1)
        story.end(run)
    for seal in (False, True):
        if seal:
            _seal(story)
        with story.store() as store:
            assert store.held([("F", "1")], ("run", "task")) is not None
            assert store.held([("F", "1")], ("artifact",)) is not None
            told = store.held([("F", "1"), ("F", "2")], ("run", "task", *FAMILIES))
            assert told is not None
            assert sorted(event.seq for event in told) == list(range(len(told)))
            assert len(told) == len(store.rows("from events")) - seal


def test_events_of_old_versions_are_held_as_of_today(story: Story) -> None:
    run = story.run("F", "1")
    story.tell(kinds.run_ended(run, "lost", {"error_message": "as version 1 said it"})._replace(version=1))
    for seal in (False, True):
        if seal:
            _seal(story)
        with story.store() as store:
            told = store.held([("F", "1")], ("run",)) or []
            (lost,) = [event for event in told if event.kind == "run_lost"]
            assert (lost.version, lost.payload) == (
                2,
                {"error_message": "as version 1 said it", "writer": None, "last_seq": None},
            )


def test_a_task_whose_origin_is_not_there_is_told_alike(story: Story) -> None:
    lost = story.task(story.run("F", "1"), "a", "1", x=1)
    run = story.run("F", "2")
    story.reuse(run, lost)
    story.reuse(run, RunRef(b"n" * 16, "F", "0").task("a", "7"))
    story.end(run)
    story.next_journal()
    with story.store() as store:
        # One is from a run that has no end, one from a run that was never brought here.
        assert is_held(store, "2")
        by_views, by_held = both(store, [("F", "2")])
        assert by_held == by_views
        assert len(by_held["reuses"]) == 2


@pytest.mark.parametrize("is_small", [False, True])
def test_what_came_after_a_moment_is_not_in_the_way_of_what_is_held(
    story: Story, is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many later events of a run that is called alike; they are in no place of the checkpoint."""
    if not is_small:
        monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)
    run = story.run("F", "1")
    for number in range(3):
        story.task(run, "a", str(number), x=number)
    story.end(run)
    with story.store() as store:
        ((now,),) = store.rows("select max(occurred_at) from events")
    _seal(story)
    refresh_checkpoint(story.storage, EventLog(story.storage))
    twin = story.run("F", "1", b"a" * 16)
    for number in range(30):
        story.task(twin, "a", str(number), x=number)
    _seal(story)
    monkeypatch.setattr(held, "_EVENTS_MAX", 20)
    with story.store(as_of=f"{now.isoformat()}Z") as store:
        assert is_held(store, "1")
        by_views, by_held = both(store, [("F", "1")])
        assert by_held == by_views
        assert len(by_held["tasks"]) == 3


def test_of_tasks_that_stand_for_one_the_same_counts_in_both_accounts(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What read of which of them is another difference."""

    def items(run: RunRef, count: int) -> list[tuple[Level, ...]]:
        return [(Level("each", "xs", number, count, "i"),) for number in range(count)]

    first = story.run("F", "1")
    made = [
        story.task(first, "each", str(n + 1), levels=levels, y=n) for n, levels in enumerate(items(first, 2))
    ]
    story.task(first, "end", "9", parents=tuple(made), reads=tuple(("y", task) for task in made), z=1)
    story.end(first)
    second = story.run("F", "2")
    for task_id in ("3", "2", "1"):
        task = second.task("each", task_id)
        origin = Pathspec("F", "1", "each", "1")
        story.tell(
            kinds.task_reused(task, origin, (), items(second, 3)[int(task_id) - 1], None, {"next": []})
        )
    for number, levels in enumerate(items(second, 3)):
        story.task(second, "more", str(10 + number), levels=levels, reads=(("y", made[0]),))
    other = story.task(second, "each", "4", y=5)
    story.task(second, "end", "9", parents=(other,), reads=(("y", made[0]), ("y", made[1])), z=2)
    story.end(second)
    with story.store() as store:
        assert is_held(store, "1", "2")
        by_held = [store.diff("F/1", "F/2").document(), store.diff("F/2", "F/1").document()]
    monkeypatch.setattr(held, "_EVENTS_MAX", 0)
    with story.store() as store:
        assert not is_held(store, "1", "2")
        assert [store.diff("F/1", "F/2").document(), store.diff("F/2", "F/1").document()] == by_held
    read = {(one["task"], one["producer"]) for one in by_held[0]["inputs"] if one["name"] == "y"}
    # At the reader's own place in the foreach, else the first: so `end` read the same of each[0] in both runs.
    assert read >= {(f"more[{number}]", f"each[{number}]") for number in range(3)}
    assert ("end", "each[1]") in read
    assert ("end", "each[0]") not in read


def test_a_read_that_does_not_say_who_made_it_is_explained(story: Story) -> None:
    for run_id in ("1", "2"):
        run = story.run("F", run_id)
        task = story.task(run, "a", "1")
        story.tell(kinds.artifact_used(task, 0, "seen", run_id.encode() * 32, None))
        story.end(run)
    with story.store() as store:
        (part,) = store.why("F/2/a/1").parts
    assert (part.kind, part.name, part.state) == ("artifact", "seen", "changed")
