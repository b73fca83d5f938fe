"""Runs whose clock was set back by a day since the run before: nothing is lost, doubled or hidden.

A small library stands before the kernel's clock; without a C compiler this is skipped.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weft.lineage.verify import verify

if TYPE_CHECKING:
    from tests.conftest import Project

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec -= 86400;
    return result;
}
"""

FLOW = """
    import os, time
    class Clocked(FlowSpec):
        @step
        def start(self):
            self.xs = [1, 2, 3]
            self.next(self.body, foreach="xs")
        @step
        def body(self):
            self.y = self.input
            if self.input == 2 and os.environ.get("FAIL"):
                raise ValueError("as asked")
            self.next(self.join)
        @step
        def join(self, inputs):
            self.total = sum(i.y for i in inputs)
            self.next(self.end)
        @step
        def end(self):
            self.day = int(time.time() // 86400)
    if __name__ == "__main__":
        Clocked()
    """


@pytest.fixture
def yesterday(tmp_path: Path) -> str:
    """The path of a library under which it is the day before."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return str(library)


def test_runs_go_on_after_the_clock_was_set_back_by_a_day(project: Project, yesterday: str) -> None:
    project.write(FLOW)
    assert project.call("run", "--keep-going", FAIL="1").code == 1
    failed = project.newest()
    done = project.call("resume", LD_PRELOAD=yesterday)
    assert done.code == 0, done.err
    done = project.call("run", LD_PRELOAD=yesterday)
    assert done.code == 0, done.err
    project.log.seal(force=True, grace_s=-1)
    assert project.call("run").code == 0
    runs = {run.run_id: run for run in project.runs()}
    assert len(runs) == 4
    assert sorted(run.status for run in runs.values()) == ["failed", "succeeded", "succeeded", "succeeded"]
    days = {run.saved("end")["day"] for run in runs.values() if run.status == "succeeded"}
    assert len(days) == 2, "the clock of a run did not go back"
    (resumed,) = (run for run in runs.values() if "reused" in run.statuses.values())
    assert resumed.state.started is not None
    assert (resumed.state.started.payload or {})["origin_run_id"] == failed.run_id
    assert sum(status == "reused" for status in resumed.statuses.values()) == 3
    for run in runs.values():
        events = project.log.events(run_uid=run.state.run_uid)
        assert [event.seq for event in events] == sorted(event.seq for event in events)
    assert verify(project.log.storage).problems == []
