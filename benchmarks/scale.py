"""A store with a long history: millions of events, made from a seed and written as the product writes them."""

from __future__ import annotations

import random
import time
from itertools import accumulate
from typing import NamedTuple

from benchmarks.measure import load_arrow_s
from benchmarks.scale_runs import Made, Origin, RunPlan, batches, plan_chain, plan_foreach
from weft.lineage.collector import CollectorPause
from weft.lineage.description import create_store
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.paths import JournalName, journal_path
from weft.lineage.storage import AppendFile

__all__ = ["History", "Landmarks", "SyntheticStorage", "write_history"]

_YEAR_US = 365 * 86_400_000_000
#: 2025-01-01 UTC.
_BEGIN_US = 1_735_689_600_000_000

_EVENTS_PER_RUN = 102
_FLOWS = 40
_FLOW_WEIGHTS = list(accumulate(1 / rank for rank in range(1, _FLOWS + 1)))
_FAILED, _RESUMED, _LOST = 0.05, 0.05, 0.002
_WIDTH_MAX = 12

#: Where in the year the runs stand that are unlike the others.
_WIDE, _CHAIN, _TWIN, _OTHER_TWIN = 0.2, 0.3, 0.5, 0.7

#: Runs at the end that stay in journals, and how many of them never end.
_UNSEALED_RUNS, _OPEN_RUNS = 28, 3

#: Journals that are sealed at once.
_SEALED_JOURNALS = 4_000


class Landmarks(NamedTuple):
    """Pathspecs of runs that are unlike the others: one very wide, one of many steps, two to be compared,
    those whose writer died, and those that never ended."""

    wide: str = ""
    chain: str = ""
    twins: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    open: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return bool(self.wide and self.chain and len(self.twins) == 2)

    def noted(self, pathspec: str, special: float | None, ending: str, is_open: bool) -> Landmarks:
        """These and a further run, if it is one of them."""
        if special == _WIDE:
            return self._replace(wide=pathspec)
        if special == _CHAIN:
            return self._replace(chain=pathspec)
        if special is not None:
            return self._replace(twins=(*self.twins, pathspec))
        if is_open:
            return self._replace(open=(*self.open, pathspec))
        return self if ending else self._replace(lost=(*self.lost, pathspec))


class History(NamedTuple):
    """What was written, where to find what is unlike the rest, and how long writing and sealing took: beside
    the clock, of sealing the seconds of processors, which other work on the machine does not change.

    Loading what writes Parquet is in none of them.
    """

    seed: int
    event_count: int
    sealed_count: int
    run_count: int
    landmarks: Landmarks
    write_s: float
    seal_s: float
    seal_cpu_s: float = 0.0


class SyntheticStorage(LocalStorage):
    """A folder whose writes are not made durable: what a seed makes can be made again. Never for real records."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._open: dict[str, AppendFile] = {}

    def create_append(self, path: str) -> AppendFile:
        self._open[path] = file = _UnsyncedFile(super().create_append(path))
        return file

    def sync_folder(self, path: str) -> None:
        """Not here."""

    def sync_file(self, path: str) -> None:
        """Not here: of the files of a real store this finds that all is written."""

    def _sync_parent(self, target: str) -> None:
        """Not here."""

    def die(self, writer: bytes) -> None:
        """Let go of a writer's journal as the death of its process would."""
        self._open.pop(journal_path(JournalName(writer, 0))).close()


class _UnsyncedFile:
    def __init__(self, file: AppendFile) -> None:
        self._file = file
        self.write = file.write
        self.truncate = file.truncate
        self.close = file.close

    def sync(self) -> None:
        """Not here."""


def write_history(folder: str, seed: int, count: int) -> History:
    """Make a store of about `count` events in an empty folder: a year of runs of 40 flows.

    All but the last runs are sealed. The objects that events name are not made.
    """
    storage = SyntheticStorage(folder)
    create_store(storage)
    load_arrow_s()
    begin_s = time.perf_counter()
    with CollectorPause():
        writer = _Writer(storage, seed, count)
        while (
            writer.event_count < count - _UNSEALED_RUNS * _EVENTS_PER_RUN or not writer.landmarks.is_complete
        ):
            writer.write(writer.next_plan())
            if writer.unsealed >= _SEALED_JOURNALS:
                writer.seal()
        writer.seal()
        sealed_count = writer.event_count
        for left in range(_UNSEALED_RUNS, 0, -1):
            writer.write(writer.next_plan(is_open=left <= _OPEN_RUNS))
    write_s = time.perf_counter() - begin_s - writer.seal_s
    return History(
        seed,
        writer.event_count,
        sealed_count,
        writer.run_count,
        writer.landmarks,
        write_s,
        writer.seal_s,
        writer.seal_cpu_s,
    )


class _Writer:
    """Writes run after run."""

    def __init__(self, storage: SyntheticStorage, seed: int, count: int) -> None:
        self._storage = storage
        self._log = EventLog(storage)
        self._seed = seed
        self._step_us = _YEAR_US * _EVENTS_PER_RUN // count
        self._special = {int(at * count / _EVENTS_PER_RUN): at for at in (_WIDE, _CHAIN, _TWIN, _OTHER_TWIN)}
        self._wide = max(20, min(10_000, count // 200))
        self._chain = max(5, min(200, count // 100))
        #: What the next resume of each flow takes up.
        self._origins: dict[str, Origin] = {}
        self.landmarks = Landmarks()
        self.event_count = 0
        self.run_count = 0
        self.unsealed = 0
        self.seal_s = self.seal_cpu_s = 0.0

    def next_plan(self, is_open: bool = False) -> RunPlan:
        number = self.run_count
        draw = random.Random(f"{self._seed}/plan/{number}")
        started_us = _BEGIN_US + number * self._step_us + draw.randrange(self._step_us)
        flow = f"Flow{draw.choices(range(_FLOWS), cum_weights=_FLOW_WEIGHTS)[0]}"
        special = self._special.get(number)
        if special == _CHAIN:
            plan = plan_chain(draw, number, flow, started_us, self._chain)
        elif special == _WIDE:
            plan = plan_foreach(draw, number, flow, started_us, self._wide, "succeeded", reads=10)
        elif special is not None:
            plan = plan_foreach(draw, number, "Flow0", started_us, self._wide // 10, "succeeded")
        else:
            chance = draw.random()
            ending = (
                "" if chance < _LOST or is_open else "failed" if chance < _LOST + _FAILED else "succeeded"
            )
            plan = plan_foreach(draw, number, flow, started_us, 1 + draw.randrange(_WIDTH_MAX), ending)
            origin = self._origins.get(flow)
            if origin is not None and (origin.lost_writer is not None or draw.random() < _RESUMED):
                plan = plan._replace(origin=origin)
        self.landmarks = self.landmarks.noted(
            f"{plan.run.flow}/{plan.run.run_id}", special, plan.ending, is_open
        )
        return plan

    def write(self, plan: RunPlan) -> None:
        """Append all events of a run to a journal of its own, and end it; a run without an end loses its writer."""
        draw = random.Random(f"{self._seed}/{plan.number}")
        time_us = int(plan.run.run_id)
        journal = Journal.create(self._storage, draw.randbytes(16), now_us=lambda: time_us)
        made: Made = {}
        for wait_us, told in batches(draw, plan, made):
            time_us += wait_us
            journal.append(told)
        if plan.ending:
            journal.close()
        else:
            self._storage.die(journal.writer)
        self.event_count += journal.next_seq
        self.run_count += 1
        self.unsealed += 1
        if len(plan.steps) == 4 and len(made) < 2 * _WIDTH_MAX:
            lost = None if plan.ending else journal.writer
            self._origins[plan.run.flow] = Origin(plan.run, made, lost, journal.next_seq - 1)

    def seal(self) -> None:
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        self._log.seal(force=True, grace_s=0)
        self.seal_s += time.perf_counter() - begin_s
        self.seal_cpu_s += time.process_time() - begin_cpu_s
        self.unsealed = 0
