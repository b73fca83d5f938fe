"""A crash at every I/O step of everything that writes, then a power loss; the log must tell the truth.

The workload is run once to count its steps, then again for each step, where it stops: just before, in
the middle, or just after. What is on the disk then is opened by another process (after a kill) or found
in one of the states a power loss may leave (`tests.faults`), and compared with what was promised:

- an event whose sync returned is there exactly once, with its content, and so is an object whose put did;
- one that was told and not acknowledged is there whole or not at all; nothing else is there;
- verify finds nothing but torn ends and, where un-synced sectors came in another order, damage that lies
  behind everything that was acknowledged;
- sealing goes on, and changes no answer.

WEFT_TEST_SEED=<seed> replays one workload with its losses. The slow tests try one in 16 of its steps, the next with
each seed; WEFT_TEST_SHARD=all tries them all, which takes about half an hour of a processor.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pytest

from tests import faults
from tests.faults import Crash, Disk, Fault, FaultyStorage, RemoteFaultyStorage
from tests.simulation.world import Content, World, contents, tidy
from weft.lineage.description import create_store, read_description
from weft.lineage.errors import NotFound, StoreUnavailable
from weft.lineage.journal import Journal
from weft.lineage.log import EventLog
from weft.lineage.objects import Objects
from weft.lineage.paths import JOURNALS
from weft.lineage.schema import Event
from weft.lineage.verify import Problem, verify


def check(world: World, disk: Disk) -> None:
    """Open the store as the next process does, and hold it against the model."""
    storage = FaultyStorage(disk) if world.storage.can_append else RemoteFaultyStorage(disk)
    try:
        found = contents(storage)
        missing = world.acknowledged - set(found)
        assert not missing, f"acknowledged and lost: {sorted(missing)}"
        wrong = {name for name, content in found.items() if world.told.get(name) != content}
        assert not wrong, f"never told, or told otherwise: {sorted(wrong)}"
        for digest, data in world.objects.items():
            assert Objects(storage).get(digest) == data
        _check_verified(world, storage)
        tidy(EventLog(storage))
        _check_goes_on(storage, found)
        _check_verified(world, storage)
    except Exception as error:
        raise AssertionError(f"{error}\n--- the story ---\n{storage.story}") from error


def _check_verified(world: World, storage: FaultyStorage) -> None:
    bad = [p for p in verify(storage).problems if not p.is_torn and not _is_behind(world, storage, p)]
    assert not bad, f"verify says {bad}"


def _is_behind(world: World, storage: FaultyStorage, problem: Problem) -> bool:
    """Whether damage lies behind all that was acknowledged of a journal. No reader can tell that from bit rot."""
    return (
        "reordered and garbage sectors" in storage.disk.story
        and problem.path.startswith(JOURNALS)
        and problem.offset is not None
        and problem.offset >= world.synced_bytes.get(problem.path, 0)
    )


def _check_goes_on(storage: FaultyStorage, found: dict[str, Content]) -> None:
    """Whoever comes next creates the store again if need be, writes, and is read."""
    create_store(storage)
    journal = Journal.create(storage)
    journal.append([Event(kind="tag_added", run_id="2", name="next")])
    journal.close()
    tidy(EventLog(storage))
    assert contents(storage) == found | {"next": ("tag_added", "next", None)}, "sealing changed the answer"
    read_description(storage)


class _FaultyWorld(World):
    def __init__(self, storage: FaultyStorage, seed: int) -> None:
        super().__init__(storage, seed, lambda journal: storage.kill_writer(journal.path))
        self.faulty = storage


def _crash(seed: int, count: int, fault: Fault) -> _FaultyWorld | None:
    """The world as it was when the machine stopped; None when the workload was over before."""
    world = _FaultyWorld(FaultyStorage(fault=fault), seed)
    try:
        world.act(count)
    except Crash:
        return world
    return None


def _steps(seed: int, count: int) -> int:
    world = _FaultyWorld(FaultyStorage(), seed)
    world.act(count)
    assert set(contents(world.storage)) >= world.acknowledged
    return world.faulty.steps


_MOMENTS: tuple[Literal["before", "torn", "after"], ...] = ("before", "torn", "after")


def _sweep(seed: int, count: int, steps: list[int], losses: int) -> int:
    """Crash at each of `steps`; gives the number of disks that were opened."""
    opened = 0
    for step in steps:
        for moment in _MOMENTS:
            world = _crash(seed, count, Fault(step, moment))
            if world is None:
                continue
            check(world, world.faulty.disk.after_kill())
            opened += 1
            for loss in range(losses):
                draw = random.Random(f"{seed} {step} {moment} {loss}")
                # Half of them on a file system that writes sectors in any order.
                harsh = draw.random() < 0.5
                disk = world.faulty.disk.after_power_loss(draw, faults.LOSSES if harsh else faults.LOSSES[:4])
                if harsh:
                    disk.story.append("reordered and garbage sectors")
                check(world, disk)
                opened += 1
    return opened


@pytest.mark.parametrize("seed", faults.seeds([1]))
def test_crash_at_some_steps_loses_nothing_acknowledged(seed: int) -> None:
    total = _steps(seed, 20)
    draw = random.Random(seed)
    assert _sweep(seed, 20, sorted(draw.sample(range(total), 4)), losses=1) > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", faults.seeds(range(5)))
def test_crash_at_every_step_loses_nothing_acknowledged(seed: int) -> None:
    total = _steps(seed, 40)
    steps = faults.shard(range(total), seed)
    opened = _sweep(seed, 40, steps, losses=1)
    assert opened >= len(steps)
    print(f"seed {seed}: {len(steps)} of {total} steps, {opened} disks")


def _error_plans(total: int, draw: random.Random, count: int) -> Iterator[Fault]:
    for step in sorted(draw.sample(range(total), min(count, total))):
        yield Fault(step, draw.choice(("error", "error_after")), is_lasting=draw.random() < 0.3)


def _fail(seed: int, count: int, fault: Fault) -> _FaultyWorld:
    """The world when a call failed and the process ended for it."""
    world = _FaultyWorld(FaultyStorage(fault=fault), seed)
    with contextlib.suppress(StoreUnavailable):
        world.act(count)
    return world


@pytest.mark.parametrize("seed", faults.seeds([2]))
def test_failing_calls_lose_nothing_acknowledged(seed: int) -> None:
    draw = random.Random(seed)
    for fault in _error_plans(_steps(seed, 20), draw, 5):
        _check_failed(_fail(seed, 20, fault), draw, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", faults.seeds(range(100, 105)))
def test_any_failing_call_loses_nothing_acknowledged(seed: int) -> None:
    draw = random.Random(seed)
    total = _steps(seed, 40)
    plans = faults.shard(_error_plans(total, draw, total), seed)
    for fault in plans:
        _check_failed(_fail(seed, 40, fault), random.Random(f"{seed} {fault.step}"), 1)
    print(f"seed {seed}: {len(plans)} of {total} failing calls, {2 * len(plans)} disks")


def _check_failed(world: _FaultyWorld, draw: random.Random, losses: int) -> None:
    check(world, world.faulty.disk.after_kill())
    for _ in range(losses):
        check(world, world.faulty.disk.after_power_loss(draw, faults.LOSSES[:4]))


@pytest.mark.parametrize("seed", faults.seeds([3]))
def test_a_full_disk_loses_nothing_and_works_once_there_is_space(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(5):
        world = _FaultyWorld(FaultyStorage(Disk(capacity_bytes=draw.randrange(500, 20_000))), seed)
        with pytest.raises(StoreUnavailable, match="disk is full"):
            world.act(40)
        disk = world.faulty.disk.after_kill()
        disk.capacity_bytes = None
        check(world, disk)


def _bucket_faults(total: int, draw: random.Random, count: int) -> Iterator[Fault]:
    kinds: tuple[Literal["before", "after", "error", "error_after"], ...]
    kinds = ("before", "after", "error", "error_after")
    for step in sorted(draw.sample(range(total), min(count, total))):
        yield Fault(step, draw.choice(kinds), is_lasting=draw.random() < 0.3)


def _requests(seed: int, actions: int) -> int:
    whole = _FaultyWorld(RemoteFaultyStorage(), seed)
    whole.act(actions)
    return whole.faulty.steps


def _check_bucket(seed: int, actions: int, plans: Iterable[Fault]) -> None:
    """Requests that are cut off, refused, or answered with an error although they were carried out."""
    for fault in plans:
        world = _FaultyWorld(RemoteFaultyStorage(fault=fault), seed)
        with contextlib.suppress(Crash, StoreUnavailable):
            world.act(actions)
        check(world, world.faulty.disk.after_kill())


@pytest.mark.parametrize("seed", faults.seeds([9]))
def test_requests_that_fail_or_only_seem_to_lose_nothing_acknowledged(seed: int) -> None:
    _check_bucket(seed, 20, _bucket_faults(_requests(seed, 20), random.Random(seed), 8))


@pytest.mark.slow
@pytest.mark.parametrize("seed", faults.seeds(range(300, 305)))
def test_any_request_that_fails_or_only_seems_to_loses_nothing_acknowledged(seed: int) -> None:
    total = _requests(seed, 40)
    plans = faults.shard(_bucket_faults(total, random.Random(seed), total), seed)
    _check_bucket(seed, 40, plans)
    print(f"seed {seed}: {len(plans)} of {total} requests")


@pytest.mark.parametrize("seed", faults.seeds([10]))
@pytest.mark.parametrize("lag", [1, 4])
def test_listings_that_lag_hide_events_and_never_change_or_lose_them(lag: int, seed: int) -> None:
    """Within the time of grace, which is longer than any listing lags."""
    storage = RemoteFaultyStorage(lag=lag)
    world = _FaultyWorld(storage, seed)
    world.grace_s = None
    world.act(30)
    with contextlib.suppress(StoreUnavailable):
        stale = contents(storage)
        assert all(world.told[name] == content for name, content in stale.items())
    storage.lag = 0
    found = contents(storage)
    assert world.acknowledged <= set(found)
    assert all(world.told[name] == content for name, content in found.items())
    assert verify(storage).is_sound


class _Unlucky(random.Random):
    """Of all that a power loss may leave, what was durable for certain."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


@pytest.mark.parametrize("what", ["weft.json", "objects/", "log/"])
def test_a_name_that_a_killed_process_left_is_durable_before_it_is_relied_on(what: str) -> None:
    """A kill between a file's name and the sync of its folder, another process, then a power loss."""

    def work(storage: FaultyStorage) -> None:
        create_store(storage)
        Objects(storage).put([b"value"])
        if not storage.list("journal"):
            journal = Journal.create(storage)
            journal.append([Event(kind="tag_added", name="first")])
            journal.close()
        tidy(EventLog(storage))

    whole = FaultyStorage()
    work(whole)
    named = [
        line
        for line in whole.disk.story
        if line.split(": ")[1].startswith((f"link {what}", f"rename {what}"))
    ]
    assert named
    killed = FaultyStorage(fault=Fault(int(named[0].split(":")[0]), "after"))
    with pytest.raises(Crash):
        work(killed)
    following = FaultyStorage(killed.disk.after_kill())
    work(following)
    found = FaultyStorage(following.disk.after_power_loss(_Unlucky(), ["lost"]))
    read_description(found)
    assert Objects(found).get(hashlib.sha256(b"value").digest()) == b"value"
    assert list(contents(found)) == ["first"]
    assert verify(found).is_sound


def test_what_a_killed_writer_left_in_the_cache_is_durable_before_it_is_sealed() -> None:
    """Else a seal that is cut off names events which its journal has lost: nobody could tell them from lost ones."""

    def work(storage: FaultyStorage) -> None:
        journal = Journal.create(storage, b"w" * 16)
        journal.append([Event(kind="run_started", run_id="1", name="first")])
        journal.sync()
        journal.append([Event(kind="console_written", run_id="1", name="second")])
        storage.kill_writer(journal.path)
        EventLog(storage).seal(force=True)

    whole = FaultyStorage()
    work(whole)
    named = next(line for line in whole.disk.story if ": rename log/run/" in line)
    killed = FaultyStorage(fault=Fault(int(named.split(":")[0]) + 1, "after"))
    with pytest.raises(Crash):
        work(killed)
    found = FaultyStorage(killed.disk.after_power_loss(_Unlucky(), ["lost"]))
    for _ in range(2):
        tidy(EventLog(found))
    assert "first" in contents(found)
    assert verify(found).is_sound


def test_a_sync_that_failed_is_not_tried_again() -> None:
    """The kernel drops the pages that it could not write, and says so once."""
    storage = FaultyStorage()
    journal = Journal.create(storage)
    journal.append([Event(kind="tag_added", name="first")])
    storage.fault = Fault(storage.steps, "error")
    with pytest.raises(StoreUnavailable):
        journal.sync()
    with pytest.raises(StoreUnavailable, match="closed or could not be written"):
        journal.append([Event(kind="tag_added", name="second")])
    with pytest.raises(StoreUnavailable, match="closed or could not be written"):
        journal.sync()
    journal.close()
    found = EventLog(FaultyStorage(storage.disk.after_power_loss(random.Random(0), ["kept"]))).events()
    assert found == []


def test_the_disk_of_these_tests_fails_as_it_says() -> None:
    """A model that never failed would prove nothing: each of its losses is seen."""
    storage = FaultyStorage()
    storage.put("a/whole", b"x" * 2000)
    file = storage.create_append("a/growing")
    file.write(b"s" * 700)
    file.sync()
    file.write(b"u" * 2000)
    storage.delete("a/whole")
    results: dict[str, set[int | None]] = {"a/whole": set(), "a/growing": set()}
    seen = set()
    for seed in range(60):
        disk = storage.disk.after_power_loss(random.Random(seed))
        for path, sizes in results.items():
            sizes.add(len(disk.names[path].data) if path in disk.names else None)
        grown = bytes(disk.names["a/growing"].data)
        assert grown[:700] == b"s" * 700
        seen.add(grown)
    assert results["a/whole"] == {None, 2000}
    assert 700 in results["a/growing"]
    assert 2700 in results["a/growing"]
    assert len(results["a/growing"]) > 5
    assert len(seen) > 30
    with pytest.raises(NotFound):
        FaultyStorage(Disk()).get("a/whole")
