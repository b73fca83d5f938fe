"""`resume`: what stands in from the earlier run, what runs again, and what is refused."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

FLOW = """
    import os
    class Go(FlowSpec):
        alpha = Parameter("alpha", default=1)
        # more parameters
        @step
        def start(self):
            self.xs = [{"n": i, "pad": "p" * 6000} for i in range(4)]
            self.big = "b" * 2000
            self.next(self.work, foreach="xs")
        @step
        def work(self):
            if self.index == 2 and os.environ.get("FAIL"):
                raise ValueError("two")
            self.n = self.input["n"] * 10 + self.alpha
            self.pad = len(self.input["pad"]) + len(self.big)
            print("worked", self.index)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.ns = [branch.n for branch in inputs]
            self.merge_artifacts(inputs, include=["pad", "big"])
            self.next(self.after)
        @step
        def after(self):
            self.out = (self.ns, self.pad, len(self.big))
            self.next(self.end)
        @step
        def end(self):
            self.last = (self.out, current.origin_run_id)
    if __name__ == "__main__":
        Go()
    """
OUT = ([1, 11, 21, 31], 8000, 2000)


@pytest.mark.parametrize("isolation", ["fork", "spawn", "inline"])
def test_resume_keeps_the_siblings_and_runs_the_rest(project: Project, isolation: str) -> None:
    project.write(FLOW)
    origin = project.fail("--max-workers", "1", FAIL="1")
    run = project.resume("--isolation", isolation)
    assert run.saved("end") == {"last": (OUT, origin.run_id)}
    assert run.statuses["work[0]"] == run.statuses["work[1]"] == run.statuses["start"] == "reused"
    assert run.statuses["work[2]"] == run.statuses["after"] == "succeeded"
    reused = [e for e in run.events("task_reused")]
    assert {(e.producer_run_id, e.producer_step) for e in reused} == {
        (origin.run_id, "start"),
        (origin.run_id, "work"),
    }
    used = [e for e in run.events("artifact_used") if e.step == "work" and e.name == "big"]
    assert {e.producer_run_id for e in used} == {origin.run_id}


def test_resume_of_a_success_reuses_all_of_it(project: Project) -> None:
    project.write(FLOW)
    first = project.run()
    run = project.resume()
    assert run.status == "succeeded"
    assert set(run.statuses.values()) == {"reused"}
    assert list(run.statuses) == list(first.statuses)
    assert run.saved("after") == {"out": OUT}


def test_resume_from_a_step_runs_it_and_what_follows(project: Project) -> None:
    project.write(FLOW)
    origin = project.run()
    project.write(FLOW.replace("self.out = (", "self.out = ('new', "))
    run = project.resume("join")
    assert run.saved("end") == {"last": (("new", *OUT), origin.run_id)}
    assert {place for place, status in run.statuses.items() if status == "succeeded"} == {
        "join",
        "after",
        "end",
    }
    again = project.resume("end")
    assert [again.statuses[step] for step in ("join", "after", "end")] == ["reused", "reused", "succeeded"]
    sources = {e.step: e.producer_run_id for e in again.events("task_reused")}
    assert sources == {
        "start": origin.run_id,
        "work": origin.run_id,
        "join": run.run_id,
        "after": run.run_id,
    }
    assert again.saved("end") == {"last": (("new", *OUT), run.run_id)}


def test_parameters_are_those_of_the_origin_and_new_ones_have_their_default(project: Project) -> None:
    project.write(FLOW)
    project.run("--alpha", "5")
    added = 'beta = Parameter("beta", default=7)\n        gamma = Parameter("gamma", default="g")'
    project.write(FLOW.replace("# more parameters", added).replace("self.out = (", "self.out = (self.beta, "))
    run = project.resume("after")
    assert run.parameters == {"alpha": 5, "beta": 7, "gamma": "g"}
    assert run.saved("after") == {"out": (7, [5, 15, 25, 35], 8000, 2000)}
    again = project.resume("--alpha", "6")
    assert again.parameters == {"alpha": 6, "beta": 7, "gamma": "g"}
    assert again.saved("after") == {"out": (7, [6, 16, 26, 36], 8000, 2000)}
    assert again.statuses["start"] == "reused"


def test_step_that_was_renamed_runs_with_the_one_before_it(project: Project) -> None:
    project.write(FLOW)
    project.run()
    project.write(FLOW.replace("self.after", "self.later").replace("def after", "def later"))
    run = project.resume()
    statuses = run.statuses
    assert (statuses["work[3]"], statuses["join"], statuses["later"]) == ("reused", "succeeded", "succeeded")
    assert run.saved("later") == {"out": OUT}


def test_step_that_was_removed_is_not_missed(project: Project) -> None:
    project.write(FLOW)
    project.run()
    before, _, rest = FLOW.partition("        @step\n        def after")
    _, _, end = rest.partition("        @step\n        def end")
    source = (
        before.replace("self.next(self.after)", "self.next(self.end)")
        + "        @step\n        def end"
        + end
    )
    project.write(source.replace("(self.out, ", "(self.ns, "))
    run = project.resume()
    assert run.saved("end")["last"][0] == OUT[0]
    assert "after" not in run.statuses


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), ("no step 'nowhere'", "start, work")),
        (("--origin-run-id", "17"), ("no run Go/17",)),
    ],
)
def test_resume_that_makes_no_sense_is_refused(
    project: Project, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    project.write(FLOW)
    project.run()
    done = project.call("resume", *arguments)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words)
    assert len(project.runs()) == 1


def test_resume_without_a_run_is_refused(project: Project) -> None:
    project.write(FLOW)
    done = project.call("resume")
    assert (done.code, project.store.exists()) == (2, False)
    project.run()
    other = project.call("resume", WEFT_USER="grace")
    assert other.code == 2
    assert "grace" in other.err


WAITING = """
    import os, time
    class Wait(FlowSpec):
        @step
        def start(self):
            print("waiting", flush=True)
            while not os.path.exists("go"):
                time.sleep(0.01)
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        Wait()
    """


def test_running_origin_is_refused_and_a_lost_one_is_said_to_be(project: Project) -> None:
    project.write(WAITING)
    process = project.start("run")
    assert process.stdout is not None
    while b"] waiting" not in process.stdout.readline():
        pass
    done = project.call("resume")
    assert done.code == 2
    assert "still running" in done.err
    named = project.call("resume", "--origin-run-id", project.newest().run_id)
    assert named.code == 2
    assert "still running" in named.err
    process.kill()
    process.wait()
    assert project.newest().status == "lost"
    (project.folder / "go").touch()
    run = project.resume()
    assert run.statuses == {"start": "succeeded", "end": "succeeded"}
    lost = project.runs()[0]
    assert (lost.status, lost.state.ended is not None) == ("lost", True)
    project.resume()
    assert len(lost.events("run_lost")) == 1


def test_two_resumes_at_once_are_two_runs(project: Project) -> None:
    project.write(FLOW)
    project.fail(FAIL="1")
    processes = [project.start("resume", "--origin-run-id", project.newest().run_id) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.read()
        assert process.wait(20) == 0
    _, *resumed = project.runs()
    assert [run.status for run in resumed] == ["succeeded", "succeeded"]
    assert len({run.run_id for run in resumed}) == 2
    assert [run.saved("after") for run in resumed] == [{"out": OUT}] * 2


CAUGHT = """
    class Cat(FlowSpec):
        @catch(var="problem")
        @step
        def start(self):
            self.x = 1
            raise ValueError("v")
            self.next(self.loop)
        @step
        def loop(self):
            self.x += 1
            self.way = "on" if self.x < 4 else "off"
            self.next({"on": self.loop, "off": self.left}, condition="way")
        @step
        def left(self):
            self.next(self.end)
        @step
        def end(self):
            self.seen = (self.x, self.problem.exception)
    if __name__ == "__main__":
        Cat()
    """


def test_caught_tasks_and_loops_are_reused(project: Project) -> None:
    project.write(CAUGHT)
    first = project.run()
    run = project.resume("end")
    assert run.saved("end") == first.saved("end") == {"seen": (4, "v")}
    assert [e.step for e in run.events("task_reused")] == ["start", "loop", "loop", "loop", "left"]
    assert [(e.payload or {})["status"] for e in run.events("task_reused")][:2] == ["caught", "succeeded"]
    again = project.resume("left")
    assert again.saved("end") == {"seen": (4, "v")}


LONG = """
    class Long(FlowSpec):
        @step
        def start(self):
            self.early = "e" * 3000
            self.xs = list(range(24))
            self.next(self.fill, foreach="xs")
        @step
        def fill(self):
            for i in range(230):
                setattr(self, f"part_{i}", f"{self.index}-{i}-" + "v" * 3900)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.ends = [branch.part_229[:6] for branch in inputs]
            self.merge_artifacts(inputs, include=["early"])
            self.next(self.end)
        @step
        def end(self):
            self.seen = (len(self.early), self.ends[0], self.ends[-1])
            import os
            if os.environ.get("FAIL"):
                raise ValueError
    if __name__ == "__main__":
        Long()
    """


def test_run_that_outgrows_a_journal_goes_on_in_the_next(project: Project) -> None:
    project.write(LONG)
    origin = project.fail(FAIL="1")
    journals = sorted((project.store / "journal").iterdir())
    assert len(journals) == 2
    assert os.path.getsize(journals[0]) > 16 << 20
    assert origin.saved("end") == {"seen": (3000, "0-229-", "23-229")}
    run = project.resume()
    assert run.statuses["end"] == "succeeded"
    assert run.saved("end") == origin.saved("end")


def test_run_killed_while_it_resumes_is_resumed_from_there(project: Project) -> None:
    project.write(WAITING)
    for command in ("run", "resume"):
        process = project.start(command)
        assert process.stdout is not None
        while b"] waiting" not in process.stdout.readline():
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (project.folder / "go").touch()
    run = project.resume()
    first, second, third = project.runs()
    assert [first.status, second.status, third.status] == ["lost", "lost", "succeeded"]
    assert run.state.origin_run_id == second.run_id
