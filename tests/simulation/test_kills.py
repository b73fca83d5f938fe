"""`kill -9` of any process of a run at any moment, then `resume`.

What a round does is drawn from a seed, which is the test's id; WEFT_TEST_SEED=<seed> replays it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from weft.lineage import clock
from weft.lineage.verify import verify

if TYPE_CHECKING:
    from tests.conftest import Project, Run

_GIVEN = os.environ.get("WEFT_TEST_SEED")
_SEEDS = [int(_GIVEN)] if _GIVEN else [1, 2, 3]
_SEEDS_SLOW = [int(_GIVEN)] if _GIVEN else list(range(10, 70))

_WIDTH = 12
_TASKS = 40
_DONE = ("succeeded", "caught", "reused")

FLOW = f"""
    import os
    def note(place):
        with open("effects", "ab", buffering=0) as file:
            file.write(f"{{place}} {{current.run_id}}\\n".encode())
        print("noted", place)
    class Forty(FlowSpec):
        @step
        def start(self):
            note("start")
            self.xs = [{{"n": i, "pad": "p" * (3000 if i % 2 else 6000)}} for i in range({_WIDTH})]
            self.next(self.a, foreach="xs")
        @step
        def a(self):
            self.n = self.input["n"] + len(self.input["pad"])
            note(f"a[{{self.index}}]")
            self.next(self.b)
        @step
        def b(self):
            self.m = self.n * 2
            note(f"b[{{self.index}}]")
            self.next(self.join)
        @step
        def join(self, inputs):
            self.ms = [branch.m for branch in inputs]
            note("join")
            self.next(self.fan)
        @step
        def fan(self):
            self.ms = self.ms[1:]
            note("fan")
            self.next(self.c, foreach="ms")
        @step
        def c(self):
            self.k = (self.index, self.input)
            note(f"c[{{self.index}}]")
            self.next(self.close)
        @step
        def close(self, inputs):
            self.total = [branch.k for branch in inputs]
            note("close")
            self.next(self.end)
        @step
        def end(self):
            self.result = self.total
            note("end")
    if __name__ == "__main__":
        Forty()
    """

_RESULT = [(i - 1, (i + (3000 if i % 2 else 6000)) * 2) for i in range(1, _WIDTH)]


class Effects:
    """What the steps did to the world, by place: the runs that did it, in order."""

    def __init__(self, project: Project) -> None:
        self.runs_of: dict[str, list[str]] = {}
        path = project.folder / "effects"
        for line in path.read_text().splitlines() if path.exists() else ():
            place, run_id = line.split()
            self.runs_of.setdefault(place, []).append(run_id)


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def _kill(process: subprocess.Popen[bytes], draw: random.Random) -> str:
    """Kill one process of the run, if there is one of the kind drawn."""
    kind = draw.choice(("scheduler", "scheduler", "template", "worker"))
    templates = _children(process.pid)
    workers = [child for template in templates for child in _children(template)]
    victims = {"scheduler": [process.pid], "template": templates, "worker": workers}[kind]
    if not victims:
        kind, victims = "scheduler", [process.pid]
    try:
        os.kill(draw.choice(victims), signal.SIGKILL)
    except ProcessLookupError:
        return "nobody"
    return kind


def _disturbed(project: Project, draw: random.Random, command: str) -> str:
    """Start a run, kill one of its processes after so many lines of output, and wait for its end."""
    options = ["--max-workers", str(draw.choice((1, 2, 3, 8)))]
    if draw.random() < 0.3:
        options += ["--with", "retry:times=2,minutes_between_retries=0"]
    if draw.random() < 0.2:
        options += ["--isolation", "spawn"]
    process = project.start(command, *options)
    assert process.stdout is not None
    for _ in range(draw.randrange(1, 60)):
        if not process.stdout.readline():
            break
    victim = _kill(process, draw)
    process.stdout.read()  # Ends when the last process of the run does.
    process.wait()
    return victim


def _check_truth(run: Run, victim: str) -> None:
    """What is recorded of a disturbed run does not contradict itself or what happened."""
    if run.state.ended is None:
        assert run.status == "lost"
        assert victim == "scheduler"
    else:
        assert run.status in ("failed", "succeeded")
    if run.status == "succeeded":
        assert set(run.statuses.values()) <= set(_DONE)
    else:
        assert set(run.statuses.values()) <= {*_DONE, "failed", "lost", "cancelled"}
    if run.status == "failed":
        assert "failed" in run.statuses.values()


def _check_effects(project: Project) -> None:
    """What was recorded as finished in one run is done by no later one."""
    effects = Effects(project)
    for run in project.runs():
        for place, status in run.statuses.items():
            assert status not in _DONE or place in effects.runs_of, f"{place} is done but never ran"
            if status in _DONE:
                later = [run_id for run_id in effects.runs_of[place] if int(run_id) > int(run.run_id)]
                assert later == [], f"{place} was finished in {run.run_id} and ran again in {later}"


def _settled(project: Project) -> list[Run]:
    """The runs, once nobody holds the lock of one whose scheduler is gone.

    A process that is being spawned holds all that its parent had open, until it has become another program.
    """
    deadline_s = clock.monotonic_s() + 5.0
    while (runs := project.runs()) and runs[-1].status == "running" and runs[-1].is_spawned:
        assert clock.monotonic_s() < deadline_s, "the run of a dead scheduler still counts as running"
    return runs


def _round(project: Project, seed: int) -> None:
    draw = random.Random(seed)
    project.write(FLOW)
    command = "run"
    for _ in range(draw.choice((1, 2, 3))):
        before = project.runs() if project.store.exists() else []
        victim = _disturbed(project, draw, command)
        runs = _settled(project) if project.store.exists() else []
        if len(runs) > len(before):
            _check_truth(runs[-1], victim)
            command = "resume"
    last = project.resume() if command == "resume" else project.run()
    assert last.status == "succeeded"
    assert last.saved("end") == {"result": _RESULT}
    assert len(last.tasks) == _TASKS
    assert set(last.statuses.values()) <= {"succeeded", "reused"}
    _check_effects(project)
    assert verify(project.log.storage).is_sound
    assert set(Effects(project).runs_of) == set(last.tasks)


@pytest.mark.parametrize("seed", _SEEDS)
def test_killed_run_is_resumed_to_the_same_result(project: Project, seed: int) -> None:
    _round(project, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", _SEEDS_SLOW)
def test_many_killed_runs_are_resumed_to_the_same_result(project: Project, seed: int) -> None:
    _round(project, seed)
