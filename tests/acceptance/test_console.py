"""What tasks print, down to the file descriptor, as it is shown and as it is kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Project

_STEP = """
    import ctypes, os, subprocess, sys, threading, time
    class Say(FlowSpec):
        @step
        def start(self):
            {body}
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        Say()
    """


def _write(project: Project, *lines: str) -> None:
    project.write(_STEP.replace("{body}", "\n            ".join(lines)))


def test_output_of_file_descriptors_and_subprocesses_is_kept(project: Project) -> None:
    _write(
        project,
        'print("python")',
        "sys.stdout.flush()",
        'os.write(1, b"descriptor\\n")',
        'subprocess.run(["echo", "child"])',
        'os.system("echo shell; echo error >&2")',
        'os.write(2, b"to stderr\\n")',
        'print("last, unfinished", end="")',
    )
    run = project.run()
    assert run.console("start") == ["python", "descriptor", "child", "shell", "last, unfinished"]
    assert run.console("start", "stderr") == ["error", "to stderr"]


def test_output_is_shown_with_time_task_and_pid(project: Project) -> None:
    _write(project, 'print("  indented")')
    done = project.call("run")
    (line,) = done.out.splitlines()
    assert f"[{project.newest().run_id}/start/1 (pid " in line
    assert line.endswith(")]   indented")


def test_progress_bars_bytes_and_long_lines_are_kept_as_a_terminal_shows_them(project: Project) -> None:
    _write(
        project,
        'os.write(1, b"0%\\r50%\\r100%\\n")',
        'os.write(1, b"windows\\r\\n")',
        'os.write(1, b"bad \\xff byte\\n")',
        'os.write(1, ("x" + "é" * 100_000 + "\\n").encode())',
        'os.write(1, b"\\n")',
    )
    run = project.run()
    lines = run.console("start")
    assert lines[:3] == ["100%", "windows", "bad � byte"]
    assert lines[-1] == ""
    assert "".join(lines[3:-1]) == "x" + "é" * 100_000


def test_unfinished_line_is_shown_while_the_task_goes_on(project: Project) -> None:
    _write(
        project,
        'os.write(1, b"waiting for you: ")',
        'while not os.path.exists("go"):',
        "    time.sleep(0.01)",
    )
    process = project.start("run")
    assert process.stdout is not None
    for line in process.stdout:
        if b"waiting for you" in line:
            break
    else:
        raise AssertionError("the unfinished line was not shown")
    (project.folder / "go").touch()
    process.stdout.read()
    assert process.wait(20) == 0


def test_output_beyond_the_limit_is_cut_with_a_marker(project: Project) -> None:
    _write(
        project,
        'print("a" * 1000)',
        "for i in range(3000):",
        '    print("b" * 1000)',
        'print("small", file=sys.stderr)',
    )
    run = project.run("--max-log-size", "1")
    lines = run.console("start")
    assert lines[0] == "a" * 1000
    assert "--max-log-size" in lines[-1]
    assert 1_000_000 < sum(len(line) + 1 for line in lines) < 1_060_000
    assert run.console("start", "stderr") == ["small"]
    sizes = [e.size_bytes or 0 for e in run.events("console_written") if e.name == "stdout"]
    assert len(sizes) > 1


def test_nothing_is_kept_where_the_limit_is_zero(project: Project) -> None:
    _write(project, 'print("a")', 'print("b")')
    (line,) = project.run("--max-log-size", "0").console("start")
    assert "--max-log-size" in line


def test_process_left_behind_holds_up_nothing(project: Project) -> None:
    """A daemon in a session of its own keeps the task's pipe open, and floods it."""
    _write(
        project,
        'print("begun", flush=True)',
        "code = \"import os; open('pids', 'w').write(str(os.getpid())); os.close(0)\\nwhile 1: print('noise' * 999)\"",
        "subprocess.Popen([sys.executable, '-c', code], start_new_session=True)",
        'while not os.path.exists("pids") or not open("pids").read():',
        "    time.sleep(0.01)",
    )
    run = project.run()
    assert run.console("start")[0] == "begun"
    assert run.statuses == {"start": "succeeded", "end": "succeeded"}


def test_children_of_a_task_end_with_it(project: Project) -> None:
    _write(project, 'child = subprocess.Popen(["sleep", "60"])', 'open("pids", "w").write(str(child.pid))')
    project.run()
    pid = int((project.folder / "pids").read_text())
    try:
        with open(f"/proc/{pid}/stat") as file:
            assert file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return


def test_threads_and_exit_functions_are_waited_for(project: Project) -> None:
    _write(
        project,
        'threading.Thread(target=lambda: (time.sleep(0.2), print("from the thread"))).start()',
        "import atexit",
        'atexit.register(lambda: print("at exit"))',
    )
    assert project.run().console("start") == ["from the thread", "at exit"]


def test_reader_that_goes_away_does_not_stop_the_run(project: Project) -> None:
    _write(project, "for i in range(20000):", '    print("line", i)')
    process = project.start("--quiet", "run")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 0
    assert project.newest().status == "succeeded"


def test_output_is_shown_also_where_the_terminal_cannot(project: Project) -> None:
    _write(project, 'os.write(1, "é → 日\\n".encode())')
    done = project.call("run", PYTHONIOENCODING="ascii")
    assert done.code == 0
    assert done.lines == ["\\xe9 \\u2192 \\u65e5"]
    assert project.newest().console("start") == ["é → 日"]


def test_import_of_the_flow_prints_once(project: Project) -> None:
    path = project.write("print('imported', end='')\n", prelude="from weft import FlowSpec, step\n")
    body = _STEP.replace("{body}", "print('step')")
    path.write_text(path.read_text() + "\n".join(line[4:] for line in body.splitlines()))
    done = project.call("run")
    assert done.code == 0
    assert done.out.count("imported") == 1
    assert os.fspath(project.folder) not in done.out


def test_closed_streams_take_no_descriptor_of_the_record(project: Project) -> None:
    """A journal that got descriptor 1 would take in whatever is printed."""
    project.write(
        """
        import os
        class Closed(FlowSpec):
            @step
            def start(self):
                os.write(1, b"to one\\n")
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Closed()
        """
    )
    done = project.call_under("exec <&- >&- 2>&-", "run")
    assert (done.code, done.out, done.err) == (0, "", "")
    run = project.newest()
    assert run.status == "succeeded"
    assert run.console("start") == ["to one"]
