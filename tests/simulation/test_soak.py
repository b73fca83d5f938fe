"""Real processes on one store: flows, readers, compactors and copies, killed at random and resumed.

What is done is drawn from a seed (WEFT_TEST_SEED=<seed> replays the draws; the machine's own timing it cannot).
It goes on for WEFT_SOAK_SECONDS, by default 20; `make soak SECONDS=600` asks for more. Then what the store says
is held against what the flows did to the world and against what was acknowledged:

- a run whose process ended with code 0 is `succeeded` for every reader that was started later, and in every copy;
- a task that had a successor running was acknowledged, and no resume ran it again;
- verify finds nothing but torn ends, in the store and in every copy;
- SQL, the fold in Python and a store from which every cache was deleted agree.
"""

from __future__ import annotations

import json
import os
import random
import re
import selectors
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests import faults
from weft.lineage import clock
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.projections import RunState, fold
from weft.lineage.store import Store
from weft.lineage.verify import verify

if TYPE_CHECKING:
    from tests.conftest import Project

_SECONDS = float(os.environ.get("WEFT_SOAK_SECONDS", "20"))
_FLOWS = 3
_READERS = 2
_COMPACTORS = 2
_KILL_EVERY_S = 0.4
_COPY_EVERY_S = 3.0
#: Shorter than a user's 60 s, so that files are removed during the test; a copy must not take longer.
_GRACE_S = 5.0
_DONE = ("succeeded", "caught", "reused")

FLOW = """
    import os
    def note(place):
        with open("effects", "ab", buffering=0) as file:
            file.write(f"{current.run_id} {place}\\n".encode())
    class Soaked(FlowSpec):
        @step
        def start(self):
            note("start")
            self.xs = [{"n": i, "pad": "p" * 5000 * (i % 2)} for i in range(5)]
            self.next(self.a, foreach="xs")
        @step
        def a(self):
            note(f"a[{self.index}]")
            self.n = self.input["n"] + len(self.input["pad"])
            print("n is", self.n)
            self.next(self.b)
        @step
        def b(self):
            note(f"b[{self.index}]")
            self.m = self.n * 2
            self.next(self.join)
        @step
        def join(self, inputs):
            note("join")
            self.total = sum(i.m for i in inputs)
            self.next(self.end)
        @step
        def end(self):
            note("end")
            assert self.total == 20020, self.total
    if __name__ == "__main__":
        Soaked()
    """

COMPACT = """
import sys
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
log = EventLog(LocalStorage(sys.argv[1]))
log.tidy(is_whole=True, grace_s=float(sys.argv[2]))
"""

_QUESTIONS: tuple[tuple[str, ...], ...] = (
    ("runs", "--json", "--limit", "100000"),
    ("sql", "select run_id, status from runs", "--format", "json"),
)


class Actor(NamedTuple):
    """A process, what it is, and what is done when it is over."""

    kind: str
    process: subprocess.Popen[bytes]
    over: Callable[[int, str, str], None]
    output: Path


class Soak:
    """One store and all that happens to it."""

    def __init__(self, project: Project, seed: int) -> None:
        self.folder = project.folder
        self.store = project.store
        self.draw = random.Random(seed)
        self.actors: dict[int, Actor] = {}
        self.counts: Counter[str] = Counter()
        #: Runs whose process said that it succeeded, in the order in which they did.
        self.succeeded: list[str] = []
        self.lost_by: dict[str, str] = {}
        self.is_ending = False
        self._selector = selectors.DefaultSelector()
        self._numbers = 0
        self._killed: set[int] = set()
        (self.folder / "compact.py").write_text(COMPACT)
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(("WEFT", "METAFLOW"))}

    # Starting

    def start(
        self, kind: str, command: list[str], over: Callable[[int, str, str], None], **variables: str
    ) -> None:
        self._numbers += 1
        output = self.folder / f"output-{self._numbers}"
        with open(output, "wb") as out, open(f"{output}.err", "wb") as err:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        descriptor = os.pidfd_open(process.pid)
        self.actors[descriptor] = Actor(kind, process, over, output)
        self._selector.register(descriptor, selectors.EVENT_READ)
        self.counts[kind] += 1

    def flow(self, slot: int, command: str) -> None:
        def over(code: int, out: str, err: str) -> None:
            found = re.search(r"Soaked/(\d+) succeeded", out + err)
            if code == 0:
                assert found, f"a run ended without saying so: {out}{err}"
                self.succeeded.append(found[1])
            elif code != -signal.SIGKILL:
                # A worker or template was killed, or there was no run to resume yet.
                assert code in (1, 2), f"{command} ended with {code}: {out}{err}"
                assert "Traceback" not in err or "worker" in err, err
            if self.is_ending:
                if code != 0:
                    self.flow(slot, "run" if code == 2 else "resume")
                return
            self.flow(slot, "run" if code in (0, 2) else self.draw.choice(("resume", "resume", "run")))

        workers = str(self.draw.choice((1, 2, 4)))
        self.start(
            "flow",
            [sys.executable, "flow.py", command, "--max-workers", workers],
            over,
            WEFT_USER=f"user-{slot}",
        )

    def reader(self) -> None:
        expected = list(self.succeeded)
        question = self.draw.choice(_QUESTIONS)

        def over(code: int, out: str, err: str) -> None:
            if code != -signal.SIGKILL and self.store.exists():
                assert code == 0, f"{question} ended with {code}: {err}"
                answer = json.loads(out)
                rows = answer if isinstance(answer, list) else answer["runs"]
                statuses = {row["run_id"]: row["status"] for row in rows}
                wrong = [run for run in expected if statuses.get(run) != "succeeded"]
                assert not wrong, f"acknowledged and not shown by {question}: {wrong}"
                assert len(statuses) == len(rows), "a run is there twice"
            if not self.is_ending:
                self.reader()

        if (self.store / "weft.json").exists():
            self.start("reader", self._weft(*question), over)

    def compactor(self, number: int) -> None:
        def over(code: int, out: str, err: str) -> None:
            assert code in (0, -signal.SIGKILL), f"compaction ended with {code}: {err}"
            if not self.is_ending:
                self.compactor(number)

        if number:
            self.start("compactor", self._weft("compact"), over)
        else:
            self.start("compactor", [sys.executable, "compact.py", str(self.store), str(_GRACE_S)], over)

    def copy(self) -> None:
        """`cp -r` as a user does it, in the middle of everything."""
        expected = list(self.succeeded)
        target = self.folder / f"copy-{self._numbers}"
        started_s = clock.monotonic_s()

        def over(code: int, out: str, err: str) -> None:
            # A file that was removed since cp listed it is no loss.
            assert code == 0 or "No such file" in err, err
            if clock.monotonic_s() - started_s < _GRACE_S:
                self._check_copy(target, expected)
                self.counts["copy checked"] += 1
            shutil.rmtree(target)

        self.start("copy", ["cp", "-r", str(self.store), str(target)], over)

    def _weft(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "weft", "--store", str(self.store), *arguments]

    # The course of things

    def go(self, seconds: float) -> None:
        for slot in range(_FLOWS):
            self.flow(slot, "run")
        end_s = clock.monotonic_s() + seconds
        kill_s = clock.monotonic_s() + 1.0
        copy_s = clock.monotonic_s() + _COPY_EVERY_S
        while (now_s := clock.monotonic_s()) < end_s:
            self._fill()
            if now_s >= kill_s:
                self._kill()
                kill_s = now_s + self.draw.expovariate(1 / _KILL_EVERY_S)
            if now_s >= copy_s and self.store.exists():
                self.copy()
                copy_s = now_s + _COPY_EVERY_S
            self._wait(min(end_s, kill_s, copy_s) - now_s)
        self.is_ending = True
        while self.actors:
            self._wait(60.0)

    def stop(self) -> None:
        for actor in self.actors.values():
            actor.process.kill()
            actor.process.wait()

    def _fill(self) -> None:
        if (self.store / "weft.json").exists():
            kinds = Counter(actor.kind for actor in self.actors.values())
            for _ in range(_READERS - kinds["reader"]):
                self.reader()
            for number in range(_COMPACTORS if kinds["compactor"] == 0 else 0):
                self.compactor(number)

    def _wait(self, seconds: float) -> None:
        for key, _ in self._selector.select(max(0.0, seconds)):
            assert isinstance(key.fd, int)
            self._selector.unregister(key.fd)
            os.close(key.fd)
            actor = self.actors.pop(key.fd)
            code = actor.process.wait()
            error = Path(f"{actor.output}.err")
            actor.over(code, actor.output.read_text("utf-8", "replace"), error.read_text("utf-8", "replace"))
            actor.output.unlink()
            error.unlink()

    def _kill(self) -> None:
        """SIGKILL a scheduler, the template or a worker below one, a compactor or a reader."""
        kind = self.draw.choice(("scheduler", "scheduler", "template", "worker", "compactor", "reader"))
        own = {"scheduler": "flow", "template": "flow", "worker": "flow"}.get(kind, kind)
        pids = [actor.process.pid for actor in self.actors.values() if actor.kind == own]
        for _ in range({"template": 1, "worker": 2}.get(kind, 0)):
            pids = [child for pid in pids for child in _children(pid)]
        if pids:
            try:
                os.kill(self.draw.choice(pids), signal.SIGKILL)
                self.counts[f"{kind} killed"] += 1
            except ProcessLookupError:
                return

    # What must hold

    def _check_copy(self, folder: Path, expected: list[str]) -> None:
        storage = LocalStorage(str(folder))
        report = verify(storage)
        assert report.is_sound, f"a copy is damaged: {report.problems}"
        states = _states(storage)
        wrong = [run for run in expected if run not in states or states[run].status != "succeeded"]
        assert not wrong, f"acknowledged and not in the copy: {wrong}"

    def check(self) -> None:
        storage = LocalStorage(str(self.store))
        report = verify(storage)
        assert report.is_sound, report.problems
        states = _states(storage)
        assert all(states[run].status == "succeeded" for run in self.succeeded)
        self._check_effects(states)
        with Store(storage) as store:
            in_sql = _answers(store)
        assert {run: row[0] for run, row in in_sql.items()} == {r: s.status for r, s in states.items()}
        for run, state in states.items():
            assert in_sql[run][1] == len(state.tasks), run
        for cache in (self.store / "cache").glob("*"):
            shutil.rmtree(cache) if cache.is_dir() else cache.unlink()
        with Store(LocalStorage(str(self.store))) as store:
            assert _answers(store) == in_sql

    def _check_effects(self, states: dict[str, RunState]) -> None:
        """What a step did to the world, against what is recorded of its run and of those that resumed it."""
        effects: dict[str, set[str]] = {}
        for line in (self.folder / "effects").read_text().splitlines():
            run, place = line.split()
            effects.setdefault(run, set()).add(place)
        for run, places in effects.items():
            done = {place for place, status in _places(states[run]).items() if status in _DONE}
            for place in places:
                for before in _before(place):
                    assert before in done, f"{place} ran in {run} and {before} is not recorded as done"
        for run, state in states.items():
            origin = (state.started.payload or {}).get("origin_run_id") if state.started else None
            if origin is not None:
                finished = {p for p, status in _places(states[origin]).items() if status in _DONE}
                again = finished & effects.get(run, set())
                assert not again, f"{again} were finished in {origin} and ran again in {run}"


def _before(place: str) -> list[str]:
    """The places that were acknowledged before one could start."""
    if place == "start":
        return []
    step, _, index = place.partition("[")
    return {
        "a": ["start"],
        "b": ["start", f"a[{index}"],
        "join": ["start", *(f"{s}[{n}]" for s in "ab" for n in range(5))],
        "end": ["join"],
    }[step]


def _places(state: RunState) -> dict[str, str]:
    """Status by `step` or `step[position]`."""
    found = {}
    for task in state.tasks.values():
        positions = ".".join(str(level.position) for level in task.levels)
        found[f"{task.step}[{positions}]" if positions else task.step] = task.status
    return found


def _states(storage: LocalStorage) -> dict[str, RunState]:
    log = EventLog(storage)
    states = fold(log.events(), log.dead_writers(), clock.now_us(), log.live_writers())
    return {state.run_id: state for state in states.values()}


def _answers(store: Store) -> dict[str, tuple[Any, ...]]:
    rows = store.rows("select run_id, status, tasks, tasks_failed from runs")
    return {row[0]: tuple(row[1:]) for row in rows}


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def _soak(project: Project, seed: int, seconds: float) -> None:
    project.write(FLOW)
    soak = Soak(project, seed)
    try:
        soak.go(seconds)
        soak.check()
    finally:
        soak.stop()
        counts = ", ".join(f"{count} x {what}" for what, count in sorted(soak.counts.items()))
        print(f"\nseed {seed}, {seconds:g} s: {len(soak.succeeded)} runs succeeded; {counts}")


@pytest.mark.parametrize("seed", faults.seeds([8]))
def test_soak_loses_nothing_acknowledged(project: Project, seed: int) -> None:
    _soak(project, seed, _SECONDS)
