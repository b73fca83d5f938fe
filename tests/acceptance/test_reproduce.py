"""A recorded run is run again from its own code and parameters, and compared artifact by artifact."""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.conftest import Done, Project

FLOW = """
import os
import random

import helper


class Made(FlowSpec):
    factor = Parameter("factor", default=2)

    @step
    def start(self):
        self.numbers = [1, 2, 3]
        self.next(self.each, foreach="numbers")

    @step
    def each(self):
        self.product = helper.scaled(self.input, self.factor)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(branch.product for branch in inputs)
        self.noise = NOISE
        self.next(self.end)

    @step
    def end(self):
        self.after = self.noise


if __name__ == "__main__":
    Made()
"""
HELPER = "def scaled(number, factor):\n    return number * factor\n"


def reproduce(project: Project, *arguments: str, **environment: str) -> Done:
    command = [sys.executable, "-m", "weft", "reproduce", *arguments]
    return project.call_in(project.folder, command, environment)


def write(project: Project, noise: str = "0") -> None:
    project.write(FLOW.replace("NOISE", noise))
    project.write(HELPER, "helper.py", prelude="")


def test_a_run_is_reproduced_from_its_own_code_and_parameters(project: Project) -> None:
    write(project)
    run = project.run("--factor", "5")
    project.write("raise SystemExit('this is other code')", prelude="")
    (project.folder / "helper.py").unlink()
    done = reproduce(project, f"Made/{run.run_id}", WEFT_RUN_FACTOR="7")
    assert done.code == 0, done.err
    assert "join/total" in done.out
    assert f"is equal to Made/{run.run_id}" in done.out
    again = project.newest()
    assert again.run_id != run.run_id
    assert again.parameters == {"factor": 5}
    tags = [event.name for event in again.events("tag_added")]
    assert f"reproduces:Made/{run.run_id}" in tags
    assert not again.events("task_reused")


def test_what_comes_out_otherwise_is_shown_with_its_cause(project: Project) -> None:
    write(project, noise="random.random()")
    run = project.run()
    done = reproduce(project, f"Made/{run.run_id}", "--json")
    assert done.code == 1
    document: dict[str, Any] = json.loads(done.out)
    assert not document["is_equal"]
    assert [cause["id"] for cause in document["diff"]["causes"]] == ["artifact join/noise"]
    rows = {f"{row['step']}/{row['name']}": row for row in document["artifacts"]}
    assert rows["each/product"]["equal"] == 3
    assert rows["join/noise"]["changed"] == rows["end/after"]["changed"] == 1
    shown = reproduce(project, f"Made/{run.run_id}")
    assert shown.code == 1
    assert "nothing that is recorded explains it" in shown.out


def test_a_failed_run_that_fails_again_is_reproduced(project: Project) -> None:
    write(project, noise="1 / 0")
    run = project.fail()
    done = reproduce(project, f"Made/{run.run_id}")
    assert done.code == 0, done.out + done.err
    assert project.newest().status == "failed"


def test_decorators_of_the_command_line_are_kept(project: Project) -> None:
    write(project, noise="os.environ.get('MARK')")
    done = project.call("--with", 'environment:vars={"MARK": "set"}', "run")
    assert done.code == 0, done.err
    run = project.newest()
    done = reproduce(project, f"Made/{run.run_id}")
    assert done.code == 0, done.err + done.out
    assert project.newest().saved("join")["noise"] == "set"


def test_files_that_are_not_what_they_were_are_listed(project: Project) -> None:
    write(project, noise="len(open(track('data.txt')).read())")
    source = (project.folder / "flow.py").read_text()
    (project.folder / "flow.py").write_text("from weft import track\n" + source)
    (project.folder / "data.txt").write_text("one")
    run = project.run()
    (project.folder / "data.txt").write_text("three")
    done = reproduce(project, f"Made/{run.run_id}")
    assert done.code == 1
    assert "data.txt: recorded" in done.out
    assert "input" in done.out
    assert "1. input" in done.out


def test_a_pickled_parameter_takes_trust(project: Project) -> None:
    write(project)
    source = (project.folder / "flow.py").read_text()
    (project.folder / "flow.py").write_text(
        source.replace(
            'Parameter("factor", default=2)', 'Parameter("factor", default=2, type=Times)'
        ).replace(
            "class Made",
            "class Times:\n    def __init__(self, text):\n        self.number = int(text)\n\n"
            "    def __rmul__(self, number):\n        return number * self.number\n\n\nclass Made",
        )
    )
    run = project.run()
    refused = reproduce(project, f"Made/{run.run_id}")
    assert (refused.code, refused.out) == (2, "")
    assert "Pass --trust" in refused.err
    assert project.newest().run_id == run.run_id
    assert reproduce(project, f"Made/{run.run_id}", "--trust").code == 0


def test_what_cannot_be_reproduced_is_told(project: Project) -> None:
    write(project)
    run = project.run()
    unknown = reproduce(project, "Made/1")
    assert unknown.code == 2
    assert "Near names" in unknown.err
    no_uv = reproduce(project, f"Made/{run.run_id}", "--uv", PATH="/nowhere")
    assert (no_uv.code, no_uv.out) == (2, "")
    assert "uv is not on PATH" in no_uv.err
    past = project.call_in(
        project.folder,
        [sys.executable, "-m", "weft", "--as-of", "2999-01-01", "reproduce", f"Made/{run.run_id}"],
    )
    assert past.code == 2
    assert len(project.runs()) == 1
