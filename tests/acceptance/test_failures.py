"""Flows that fail, and what is said and recorded of it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

RETRY = """
    import os
    class Again(FlowSpec):
        @retry(times=3, minutes_between_retries=0)
        @step
        def start(self):
            self.junk = current.retry_count
            print("attempt", current.retry_count)
            if current.retry_count < 2:
                self.lost = True
                raise ValueError("not yet")
            self.kept = current.retry_count
            self.next(self.end)
        @step
        def end(self):
            self.seen = (self.kept, hasattr(self, "lost"))
    if __name__ == "__main__":
        Again()
    """


@pytest.mark.parametrize("isolation", ["fork", "inline"])
def test_retry_makes_new_attempts_until_one_succeeds(project: Project, isolation: str) -> None:
    project.write(RETRY)
    run = project.run("--isolation", isolation)
    attempts = run.tasks["start"].attempts
    assert {n: a.status for n, a in attempts.items()} == {0: "failed", 1: "failed", 2: "succeeded"}
    assert run.saved("start") == {"junk": 2, "kept": 2}
    assert run.saved("end") == {"seen": (2, False)}
    assert [run.console("start", attempt=n) for n in range(3)] == [[f"attempt {n}"] for n in range(3)]
    assert "ValueError: not yet" in run.console("start", "stderr", 1)[-1]


def test_attached_retry_is_used_in_spawned_workers_too(project: Project) -> None:
    project.write(
        """
        class Slow(FlowSpec):
            @step
            def start(self):
                import time
                if current.retry_count == 0:
                    time.sleep(60)
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Slow()
        """
    )
    attached = ("--with", "timeout:seconds=0.2", "--with", "retry:times=1,minutes_between_retries=0")
    run = project.run("--isolation", "spawn", *attached)
    assert len(run.tasks["start"].attempts) == 2


CATCH = """
    import os, signal
    class Caught(FlowSpec):
        how = Parameter("how", default="raise")
        @catch(var="problem")
        @retry(times=1, minutes_between_retries=0)
        @step
        def start(self):
            self.before = current.retry_count
            if self.how == "raise":
                raise KeyError("why")
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "unsaved":
                self.handle = open(os.devnull)
            self.next(self.end)
        @step
        def end(self):
            self.seen = None if self.problem is None else (self.problem.type, self.problem.exception)
            self.inherited = hasattr(self, "before")
    if __name__ == "__main__":
        Caught()
    """


@pytest.mark.parametrize("isolation", ["fork", "inline"])
def test_catch_keeps_an_exception_and_goes_on(project: Project, isolation: str) -> None:
    project.write(CATCH)
    run = project.run("--isolation", isolation)
    assert run.saved("end") == {"seen": ("builtins.KeyError", "'why'"), "inherited": True}
    assert run.statuses == {"start": "caught", "end": "succeeded"}
    assert (run.status, len(run.tasks["start"].attempts)) == ("succeeded", 2)


def test_catch_stands_in_for_a_process_that_was_killed(project: Project) -> None:
    project.write(CATCH)
    run = project.run("--how", "kill")
    statuses = {n: a.status for n, a in run.tasks["start"].attempts.items()}
    assert statuses == {0: "failed", 1: "failed", 2: "caught"}
    error_type, message = run.saved("end")["seen"]
    assert error_type == "weft.runtime.failures.FailureHandledByCatch"
    assert "Attempt 1 ended" in message
    assert run.saved("end")["inherited"] is False


def test_catch_takes_what_cannot_be_saved(project: Project) -> None:
    project.write(CATCH)
    run = project.run("--how", "unsaved")
    assert run.saved("end")["seen"][0] == "weft.lineage.errors.NotSerializable"


def test_catch_leaves_none_where_all_went_well(project: Project) -> None:
    project.write(CATCH)
    assert project.run("--how", "well").saved("end") == {"seen": None, "inherited": True}


ENDS = """
    import ctypes, os, signal, sys, time
    class Ends(FlowSpec):
        how = Parameter("how", default="exit")
        @environment(vars={"COLOUR": "blue"})
        @timeout(seconds=1)
        @step
        def start(self):
            print("before", os.environ["COLOUR"], flush=True)
            self.kept = 1
            if self.how == "exit":
                sys.exit(3)
            if self.how == "exit0":
                sys.exit()
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "segv":
                ctypes.string_at(0)
            if self.how == "sleep":
                time.sleep(30)
            if self.how == "vanish":
                os._exit(0)
            if self.how == "unsaved":
                self.a_handle = open(os.devnull)
                self.z = 2
            if self.how == "mute":
                class Mute(Exception):
                    def __str__(self):
                        raise RuntimeError
                raise Mute
            if self.how == "bytes":
                raise ValueError("bad \\udcff name")
            self.next(self.end)
        @step
        def end(self):
            self.colour = os.environ.get("COLOUR")
    if __name__ == "__main__":
        Ends()
    """


@pytest.mark.parametrize(
    ("how", "error_type", "words"),
    [
        ("exit", "SystemExit", "sys.exit(3)"),
        ("exit0", "SystemExit", "sys.exit(None)"),
        ("kill", "SIGKILL", "died of SIGKILL"),
        ("segv", "SIGSEGV", "died of SIGSEGV"),
        ("sleep", "weft.runtime.failures.TimeoutException", "@timeout of 1 s"),
        ("vanish", "ProcessExit", "exit code 0"),
        ("unsaved", "weft.lineage.errors.NotSerializable", "'a_handle' of step start is a _io.TextIOWrapper"),
        ("mute", "__main__.Ends.start.<locals>.Mute", "RuntimeError"),
        ("bytes", "ValueError", "bad \\udcff name"),
    ],
)
def test_failure_is_named(project: Project, how: str, error_type: str, words: str) -> None:
    project.write(ENDS)
    run = project.fail("--how", how)
    assert run.statuses == {"start": "failed"}
    assert run.end["root_cause"] == f"Ends/{run.run_id}/start/1"
    assert run.end["error_type"] == error_type
    assert words in run.end["error_message"]
    assert run.console("start") == ["before blue"]
    if how == "unsaved":
        assert run.saved("start") == {"kept": 1, "z": 2}
    if how == "segv":
        assert any("Segmentation fault" in line for line in run.console("start", "stderr"))


def test_environment_ends_with_its_step(project: Project) -> None:
    project.write(ENDS)
    for isolation in ("fork", "inline"):
        assert project.run("--how", "well", "--isolation", isolation).saved("end") == {"colour": None}


SIBLINGS = """
    import os, time
    class Sib(FlowSpec):
        @step
        def start(self):
            self.xs = [0, 1, 2, 3]
            self.next(self.work, foreach="xs")
        @step
        def work(self):
            if self.input == 1:
                while not os.path.exists("begun"):
                    time.sleep(0.01)
                raise ValueError("one")
            if self.input == 0:
                open("begun", "w").close()
                if os.environ.get("WAIT"):
                    time.sleep(30)
            self.done = self.input
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        Sib()
    """


def test_first_failure_stops_the_siblings_and_is_the_cause(project: Project) -> None:
    project.write(SIBLINGS)
    run = project.fail("--max-workers", "2", WAIT="1")
    assert run.status == "failed"
    assert run.statuses["work[0]"] == "cancelled"
    assert run.statuses["work[1]"] == "failed"
    assert run.end["root_cause"].endswith(f"work/{run.tasks['work[1]'].task_id}")
    assert {run.statuses["work[2]"], run.statuses["work[3]"]} == {"cancelled"}
    assert "join" not in run.statuses


def test_siblings_that_have_just_been_started_are_stopped_at_once(project: Project) -> None:
    """A signal that comes before a child is ready for it must not be lost: that would cost the time of grace."""
    project.write(
        """
        import time
        class Fast(FlowSpec):
            @step
            def start(self):
                self.xs = list(range(40))
                self.next(self.a, foreach="xs")
            @step
            def a(self):
                if self.index == 3:
                    raise ValueError("three")
                time.sleep(30)
                self.next(self.join)
            @step
            def join(self, inputs):
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Fast()
        """
    )
    for _ in range(3):
        run = project.fail("--max-workers", "16")
        assert run.state.ended is not None
        failed = run.tasks["a[3]"].attempts[0].ended
        assert failed is not None
        assert run.state.ended.time_us - failed.time_us < 4_000_000


def test_keep_going_runs_what_does_not_depend_on_the_failure(project: Project) -> None:
    project.write(SIBLINGS)
    for isolation in ("fork", "inline"):
        run = project.fail("--keep-going", "--isolation", isolation)
        statuses = [run.statuses[f"work[{i}]"] for i in range(4)]
        assert statuses == ["succeeded", "failed", "succeeded", "succeeded"]
        assert run.status == "failed"


def test_foreach_that_is_too_wide_names_the_option(project: Project) -> None:
    project.write(SIBLINGS)
    run = project.fail("--max-num-splits", "3")
    assert "--max-num-splits" in run.end["error_message"]
    assert "more than 3 items" in run.end["error_message"]


WAITING = """
    import os, signal, subprocess, time
    class Waiting(FlowSpec):
        how = Parameter("how", default="yield")
        @step
        def start(self):
            self.xs = [0, 1]
            self.next(self.wait, foreach="xs")
        @step
        def wait(self):
            if self.how == "stubborn":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "60"])
            with open("pids", "a") as file:
                file.write(f"{os.getpid()}\\n{child.pid}\\n")
            print("waiting", flush=True)
            time.sleep(60)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        Waiting()
    """


def _wait_for_tasks(process: subprocess.Popen[bytes], count: int) -> None:
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += b"] waiting" in line
        if seen == count:
            return
    raise AssertionError("the run ended before its tasks waited")


def _assert_gone(project: Project) -> None:
    """Wait until every process that the tasks named has ended."""
    for pid in (project.folder / "pids").read_text().split():
        try:
            descriptor = os.pidfd_open(int(pid))
        except ProcessLookupError:
            continue
        try:
            assert select.select([descriptor], [], [], 5.0)[0], f"process {pid} still runs"
        finally:
            os.close(descriptor)


@pytest.mark.parametrize("isolation", ["fork", "spawn"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_is_cancelled_with_all_it_started(
    project: Project, number: signal.Signals, isolation: str
) -> None:
    project.write(WAITING)
    process = project.start("run", "--isolation", isolation, "--max-workers", "2")
    _wait_for_tasks(process, 2)
    os.killpg(process.pid, number)
    assert process.wait(20) == 1
    run = project.newest()
    assert run.status == "cancelled"
    assert run.statuses == {"start": "succeeded", "wait[0]": "cancelled", "wait[1]": "cancelled"}
    _assert_gone(project)


def test_second_interrupt_kills_what_does_not_yield(project: Project) -> None:
    project.write(WAITING)
    process = project.start("run", "--how", "stubborn", "--max-workers", "2")
    _wait_for_tasks(process, 2)
    os.killpg(process.pid, signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(3) == 1
    assert project.newest().status == "cancelled"
    _assert_gone(project)


def test_ignored_hangup_stays_ignored(project: Project) -> None:
    project.write(WAITING)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = project.start("run", "--max-workers", "2")
    finally:
        signal.signal(signal.SIGHUP, before)
    _wait_for_tasks(process, 2)
    os.kill(process.pid, signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(20) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_inline_run_is_cancelled(project: Project, number: signal.Signals) -> None:
    project.write(WAITING)
    process = project.start("run", "--isolation", "inline")
    assert process.stdout is not None
    while b"waiting" not in process.stdout.readline():
        pass
    os.kill(process.pid, number)
    assert process.wait(20) == 1
    run = project.newest()
    assert (run.status, run.statuses["wait[0]"]) == ("cancelled", "cancelled")


@pytest.mark.parametrize("isolation", ["fork", "spawn"])
def test_tasks_end_with_a_scheduler_that_is_killed(project: Project, isolation: str) -> None:
    project.write(WAITING)
    process = project.start("run", "--isolation", isolation, "--max-workers", "2")
    _wait_for_tasks(process, 2)
    process.kill()
    process.wait()
    run = project.newest()
    assert run.status == "lost"
    assert run.statuses["wait[0]"] == "lost"
    assert process.stdout is not None
    process.stdout.read()  # Ends when all who hold it have: template and tasks.
    if isolation == "fork":
        _assert_gone(project)


def test_template_that_is_killed_fails_the_run(project: Project) -> None:
    project.write(WAITING)
    process = project.start("run", "--max-workers", "2")
    _wait_for_tasks(process, 2)
    task = int((project.folder / "pids").read_text().split()[0])
    with open(f"/proc/{task}/stat") as file:
        template = int(file.read().rpartition(")")[2].split()[1])
    os.kill(template, signal.SIGKILL)
    assert process.wait(20) == 1
    run = project.newest()
    assert run.status == "failed"
    assert run.end["error_type"] == "WorkerLost"
    assert set(run.statuses.values()) == {"succeeded", "failed"}


PLAIN = """
    class A(FlowSpec):
        @step
        def start(self):
            self.next(self.end)
        @step
        def end(self):
            pass
    """
TWO = """
    class B(A):
        pass
    if __name__ == "__main__":
        A()
        B()
    """


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("    class F(FlowSpec):\n        pass\n    F()\n", ("F has no start step",)),
        (PLAIN + TWO, ("starts A and B",)),
        (PLAIN.replace("self.end", "self.edn") + "A()\n", ("edn", "end")),
    ],
    ids=["empty", "two flows", "unknown step"],
)
def test_flow_that_cannot_run_is_one_sentence_and_exit_2(
    project: Project, source: str, words: tuple[str, ...]
) -> None:
    project.write(source)
    done = project.call("run")
    assert done.code == 2, done.err
    assert all(line.startswith("error: ") for line in done.err.splitlines())
    assert all(word in done.err for word in words)
    assert not project.store.exists()


def test_flow_whose_import_starts_a_thread_is_spawned(project: Project) -> None:
    project.write(
        """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True, name="ticker").start()
        class Threaded(FlowSpec):
            @step
            def start(self):
                self.x = 1
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Threaded()
        """
    )
    done = project.call("run")
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if "fresh interpreters" in line]
    assert "threads (ticker)" in line
    started = project.newest().state.started
    assert started is not None
    assert (started.payload or {})["isolation"] == "spawn"
