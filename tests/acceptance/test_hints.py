"""What a run says at its end is in order, and what it says to type works when typed."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Done, Project

_FAILING = """
    import os
    class Hint(FlowSpec):
        @step
        def start(self):
            if not os.path.exists("mended"):
                raise ValueError("broken " * 1_000)
            self.next(self.end)
        @step
        def end(self):
            print("the end")
    if __name__ == "__main__":
        Hint()
    """


def _hint(done: Done) -> str:
    """The command that resumes, as it was shown."""
    (command,) = re.findall(r"then `python (.*)` goes on", done.err)
    return str(command)


def _type(project: Project, command: str) -> Done:
    (project.folder / "mended").touch()
    return project.call_in(project.folder, ["sh", "-c", f"exec {project.command()[0]} {command}"])


def test_resume_is_named_as_it_works_for_modules(project: Project) -> None:
    (project.folder / "pack").mkdir()
    project.write("", "pack/__init__.py")
    project.write(_FAILING, "pack/flow.py")
    done = project.call_in(project.folder, [project.command()[0], "-m", "pack.flow", "run"])
    assert _hint(done) == "-m pack.flow resume"
    assert _type(project, _hint(done)).code == 0


def test_resume_is_named_as_it_works_for_odd_paths_and_stores(project: Project) -> None:
    (project.folder / "my flöws").mkdir()
    file = "my flöws/it's a flow.py"
    project.write(_FAILING, file)
    done = project.call("--store", "a störe", "run", file=file)
    (shown,) = re.findall(r"see `weft (.*?)`", done.err)
    assert shown.startswith("--store 'a störe' show Hint/")
    assert _type(project, _hint(done)).code == 0


def test_failures_are_said_in_a_line_that_can_be_read(project: Project) -> None:
    project.write(_FAILING)
    (line,) = [line for line in project.call("run").err.splitlines() if "attempt 0 failed" in line]
    assert 500 < len(line) < 1_200


def test_output_comes_before_the_news_that_its_task_is_done(project: Project) -> None:
    project.write(_FAILING)
    (project.folder / "mended").touch()
    command = ["sh", "-c", 'exec "$@" 2>&1', "sh", *project.command("run")]
    lines = project.call_in(project.folder, command).out.splitlines()
    printed = next(place for place, line in enumerate(lines) if line.endswith("the end"))
    done = next(place for place, line in enumerate(lines) if "end: done" in line)
    assert printed < done


def test_a_breakpoint_says_where_it_works(project: Project) -> None:
    project.write(_FAILING.replace('raise ValueError("broken " * 1_000)', "breakpoint()"))
    for isolation in ("fork", "spawn"):
        (failed,) = project.fail("--isolation", isolation).events("attempt_failed")
        assert (failed.payload or {})["message"].endswith("Use run --isolation inline.")
    assert project.run(PYTHONBREAKPOINT="0").status == "succeeded"


def test_an_interactive_session_is_told_to_use_a_file(project: Project) -> None:
    project.write(_FAILING)
    call = "import sys; sys.ps1 = '>>> '; import flow; flow.Hint()"
    done = project.call_in(project.folder, [sys.executable, "-c", call])
    assert done.err.splitlines()[-1].endswith("type `python that_file.py run`.")


def test_live_lines_show_the_steps_of_the_flow(project: Project) -> None:
    project.write(
        _FAILING.replace("        @step", '        days = Parameter("days", default=3)\n        @step', 1)
    )
    (project.folder / "mended").touch()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        project.command("run"), cwd=project.folder, stderr=theirs, stdout=subprocess.DEVNULL
    )
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    steps = set(re.findall(r"[▸✓]\x1b\[0m  (\w+)  ", shown.decode()))
    assert steps == {"start", "end"}
    assert "waiting, " not in shown.decode()


def test_a_step_is_said_to_be_over_once_its_retries_are_made(project: Project) -> None:
    project.write(
        """
        class Again(FlowSpec):
            @retry(times=2, minutes_between_retries=0)
            @step
            def start(self):
                assert current.retry_count == 2
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Again()
        """
    )
    for isolation in ("fork", "inline"):
        lines = project.call("run", "--isolation", isolation).err.splitlines()
        (over,) = [line for line in lines if " start: " in line and " in " in line]
        assert " start: done in " in over
        assert len([line for line in lines if " start: 1 task started" in line]) == 1
        assert lines.index(over) < lines.index(next(line for line in lines if " end: 1 task" in line))


def test_options_that_stand_in_the_wrong_place_are_told_theirs(project: Project) -> None:
    project.write(_FAILING)
    done = project.call("run", "--store", "elsewhere")
    assert (done.code, done.err) == (
        2,
        "error: --store stands before the command: `python flow.py --store … run`.\n",
    )
    weft = project.call_in(project.folder, [sys.executable, "-m", "weft", "runs", "--as-of", "2020"])
    assert weft.err == "error: --as-of stands before the command: `weft --as-of … runs`.\n"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Nobody writes to it any more.
        return b""
