"""What a run says at its end is in order, and what it says to type works when typed."""

from __future__ import annotations

import re
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
