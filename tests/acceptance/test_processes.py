"""What steps may do with their process: it is theirs, and behaves like a fresh interpreter's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Done, Project

_STEP = """
    import atexit, concurrent.futures, multiprocessing, os, signal, subprocess, sys, threading, time
    {head}
    def double(x):
        return 2 * x
    class Kept:
        def __init__(self, x):
            self.x = x
        def __eq__(self, other):
            return type(self) is type(other) and self.x == other.x
    class Proc(FlowSpec):
        @step
        def start(self):
            {body}
            self.next(self.end)
        @step
        def end(self):
            self.again = getattr(self, "out", None)
    if __name__ == "__main__":
        Proc()
    """


def _write(project: Project, *body: str, head: str = "") -> None:
    project.write(_STEP.replace("{body}", "\n            ".join(body)).replace("{head}", head))


@pytest.mark.parametrize(
    ("isolation", "method"),
    [("fork", "fork"), ("fork", "spawn"), ("fork", "forkserver"), ("spawn", "spawn"), ("inline", "fork")],
)
def test_step_uses_a_pool_of_processes(project: Project, isolation: str, method: str) -> None:
    _write(
        project,
        f"with multiprocessing.get_context({method!r}).Pool(2) as pool:",
        "    self.out = pool.map(double, range(5))",
    )
    assert project.run("--isolation", isolation).saved("start") == {"out": [0, 2, 4, 6, 8]}


def test_step_uses_executors_and_asyncio(project: Project) -> None:
    _write(
        project,
        "import asyncio",
        "with concurrent.futures.ThreadPoolExecutor(4) as threads:",
        "    a = list(threads.map(double, range(3)))",
        "with concurrent.futures.ProcessPoolExecutor(2) as processes:",
        "    b = list(processes.map(double, range(3)))",
        "async def later():",
        "    await asyncio.sleep(0)",
        "    return 7",
        "self.out = (a, b, asyncio.run(later()))",
    )
    assert project.run().saved("end") == {"again": ([0, 2, 4], [0, 2, 4], 7)}


def test_numpy_threads_work_in_a_fork(project: Project) -> None:
    _write(
        project,
        "b = numpy.random.default_rng(0).random((400, 400))",
        "self.out = bool(numpy.allclose(b @ b, numpy.dot(b, b)))",
        head="import numpy; numpy.ones((400, 400)) @ numpy.ones((400, 400))",
    )
    assert project.run("--isolation", "fork").saved("start") == {"out": True}


def test_objects_of_classes_of_the_flow_file_are_read_back(project: Project) -> None:
    for isolation in ("fork", "spawn", "inline"):
        _write(project, "self.out = Kept(3)")
        source = (project.folder / "flow.py").read_text()
        (project.folder / "flow.py").write_text(
            source.replace('getattr(self, "out", None)', "(self.out == Kept(3), self.out.x)")
        )
        assert project.run("--isolation", isolation).saved("end") == {"again": (True, 3)}


def test_step_may_close_its_streams_and_change_its_folder(project: Project) -> None:
    _write(
        project,
        'os.chdir("/")',
        'print("said")',
        "sys.stdout.close()",
        "sys.stderr.close()",
        'self.out = "b" * 10000',
    )
    run = project.run()
    assert run.console("start") == ["said"]
    assert run.saved("end") == {"again": "b" * 10000}


def test_child_that_a_step_forks_does_not_speak_for_it(project: Project) -> None:
    _write(project, "self.out = 1", "if os.fork() == 0:", "    self.out = 2", "else:", "    os.wait()")
    run = project.run()
    assert run.saved("start") == {"out": 1}
    assert run.status == "succeeded"


def test_stdin_of_a_step_is_empty(project: Project) -> None:
    _write(project, "self.out = sys.stdin.read()")
    assert project.run().saved("start") == {"out": ""}


def test_task_holds_no_descriptor_of_the_journal_or_of_other_tasks(project: Project) -> None:
    _write(
        project,
        "self.out = []",
        'for number in os.listdir("/proc/self/fd"):',
        '    if os.path.exists(f"/proc/self/fd/{number}"):',
        '        self.out.append(os.path.realpath(f"/proc/self/fd/{number}"))',
    )
    names = project.run().saved("start")["out"]
    assert not [name for name in names if ".weft" in name]
    assert len([name for name in names if "socket:" in name]) == 1


def test_environment_of_one_task_is_not_that_of_the_next(project: Project) -> None:
    _write(project, 'os.environ["LEAK"] = "1"', "self.out = None")
    source = (project.folder / "flow.py").read_text()
    (project.folder / "flow.py").write_text(
        source.replace('getattr(self, "out", None)', 'os.environ.get("LEAK")')
    )
    assert project.run().saved("end") == {"again": None}


def test_more_workers_than_files_may_be_open(project: Project) -> None:
    project.write(
        """
        class Wide(FlowSpec):
            @step
            def start(self):
                self.xs = list(range(60))
                self.next(self.a, foreach="xs")
            @step
            def a(self):
                self.y = self.input
                self.next(self.join)
            @step
            def join(self, inputs):
                self.total = sum(branch.y for branch in inputs)
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Wide()
        """
    )
    done: Done = project.call_under("ulimit -n 120", "run", "--max-workers", "500")
    assert done.code == 0, done.err
    assert project.newest().saved("join") == {"total": 1770}


def test_spawned_children_of_a_step_do_not_start_the_flow_again(project: Project) -> None:
    project.write(
        """
        import multiprocessing
        class Unguarded(FlowSpec):
            @step
            def start(self):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    self.lengths = pool.map(len, ["ab", "c"])
                self.next(self.end)
            @step
            def end(self):
                pass
        Unguarded()
        """
    )
    assert project.run().saved("start") == {"lengths": [2, 1]}
    assert len(project.runs()) == 1
