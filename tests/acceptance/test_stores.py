"""Where runs are recorded, and what is said when they cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

FLOW = """
    class Rec(FlowSpec):
        size = Parameter("size", default=10)
        @step
        def start(self):
            self.xs = list(range(6))
            self.next(self.a, foreach="xs")
        @step
        def a(self):
            self.values = ["v" * 3000] * 2
            for i in range(30):
                setattr(self, f"p{i}", f"{self.index} {i}" + "v" * 3000)
            if self.size > 10 and self.index == 0:
                self.large = b"x" * self.size
            self.next(self.join)
        @step
        def join(self, inputs):
            self.n = len(inputs)
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        Rec()
    """


@pytest.mark.parametrize(
    "place", ["a-file", "a-file/below", "dangling/below", "/proc/nowhere", "s3://bucket/x"]
)
def test_store_that_cannot_be_made_is_one_sentence_and_exit_3(project: Project, place: str) -> None:
    project.write(FLOW)
    (project.folder / "a-file").touch()
    (project.folder / "dangling").symlink_to("/nowhere/at/all")
    done = project.call("--store", place, "run")
    assert done.code == 3
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_store_is_found_above_and_by_the_environment(project: Project) -> None:
    project.write(FLOW)
    project.run()
    below = project.folder / "below"
    below.mkdir()
    done = project.call_in(below, project.command("run", file="../flow.py"))
    assert done.code == 0, done.err
    assert len(project.runs()) == 2
    assert project.call("run", WEFT_STORE=str(project.folder / "other")).code == 0
    assert (project.folder / "other" / "weft.json").exists()
    assert len(project.runs()) == 2


def test_disk_that_fills_up_under_the_journal_ends_the_run_and_keeps_what_was_acknowledged(
    project: Project,
) -> None:
    """A limit on the size of files stands for the disk: the journal outgrows it after some tasks."""
    project.write(FLOW)
    done = project.call_under("ulimit -f 300", "run", "--max-workers", "1")
    assert done.code == 3, done.err
    assert done.err.splitlines()[-1].startswith("error: ")
    lost = project.newest()
    assert lost.status == "lost"
    finished = [place for place, status in lost.statuses.items() if status == "succeeded"]
    assert "start" in finished
    run = project.resume()
    assert run.saved("join") == {"n": 6}
    assert [place for place, status in run.statuses.items() if status == "reused"] == finished


def test_disk_that_fills_up_under_an_artifact_fails_its_task_by_name(project: Project) -> None:
    project.write(FLOW)
    done = project.call_under("ulimit -f 3000", "run", "--size", "8000000", "--keep-going")
    assert done.code == 1, done.err
    run = project.newest()
    assert run.status == "failed"
    assert run.statuses["a[0]"] == "failed"
    assert run.statuses["a[1]"] == "succeeded"
    assert "cannot be written" in run.end["error_message"]
    assert project.resume().saved("join") == {"n": 6}
