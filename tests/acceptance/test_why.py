"""`weft why`: what a task depended on, against the task it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft.lineage.errors import NotFound, UsageError
from weft.lineage.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Project, Run

FLOW = """
    import numpy
    def scale(x):
        return x * 2
    class Go(FlowSpec):
        rate = Parameter("rate", default=3)
        @step
        def start(self):
            self.xs = [1, 2]
            self.next(self.each, foreach="xs")
        @step
        def each(self):
            self.y = scale(self.input)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.total = sum(branch.y for branch in inputs)
            self.next(self.end)
        @step
        def end(self):
            self.out = self.total * self.rate
            self.found = getattr(self, "nothing", None)
    if __name__ == "__main__":
        Go()
    """


@pytest.fixture
def runs(project: Project) -> tuple[Run, Run, Run]:
    """A run, one of edited code resumed with `--changed`, and one with another parameter."""
    project.write(FLOW)
    first = project.run()
    project.write(FLOW.replace("x * 2", "x * 3"))
    second = project.resume("--changed")
    third = project.resume("--rate", "4")
    return first, second, third


@pytest.fixture
def store(project: Project, runs: object) -> Iterator[Store]:
    with open_store(str(project.store)) as opened:
        yield opened


def _path(run: Run, place: str) -> str:
    task = run.tasks[place]
    return f"Go/{run.run_id}/{task.step}/{task.task_id}"


def test_why_names_the_code_that_changed_and_shows_it(runs: tuple[Run, Run, Run], store: Store) -> None:
    first, second, _ = runs
    why = store.why(_path(second, "each[1]"))
    assert why.status == "succeeded"
    assert why.earlier == _path(first, "each[1]")
    assert why.is_forced
    assert why.task_key not in (None, why.earlier_key)
    (change,) = (part for part in why.parts if part.state != "equal")
    assert (change.kind, change.name, change.state) == ("code", "flow.py:scale", "changed")
    assert change.diff is not None
    assert change.diff.splitlines()[-2:] == ["-    return x * 2", "+    return x * 3"]
    assert why.reason == "It ran because flow.py:scale changed."
    equal = {(part.kind, part.name) for part in why.parts if part.state == "equal"}
    assert ("code", "flow.py:Go.each") in equal
    assert ("package", "numpy") in equal
    assert ("item", "xs[1]") in equal
    assert "return x * 3" in why.text()
    assert why.document()["parts"][0]["name"] == "flow.py:scale"


def test_why_shows_values_from_what_to_what(runs: tuple[Run, Run, Run], store: Store) -> None:
    first, second, third = runs
    parameter = store.why(_path(third, "end"))
    changed = {p.name: (p.before, p.after) for p in parameter.parts if p.state != "equal"}
    assert changed == {"rate": ("3", "4")}
    total = store.why(_path(second, "end"))
    assert {p.name: (p.before, p.after) for p in total.parts if p.state != "equal"} == {"total": ("6", "9")}
    assert "total has another value" in total.reason
    join = store.why(_path(second, "join"))
    assert {p.name for p in join.parts if p.state != "equal"} == {"y of each[each:0]", "y of each[each:1]"}
    assert join.earlier == _path(first, "join")


def test_why_says_what_a_reused_task_was_reused_for(runs: tuple[Run, Run, Run], store: Store) -> None:
    first, second, third = runs
    start = store.why(f"Go/{second.run_id}/start")
    assert (start.status, start.is_forced) == ("reused", False)
    assert start.reason == f"It was reused: same code and reads as {_path(first, 'start')}."
    assert {part.state for part in start.parts} == {"equal"}
    each = store.why(_path(third, "each[0]"))
    assert each.earlier == _path(second, "each[0]")


def test_why_of_ordinary_runs_compares_with_the_run_before(project: Project) -> None:
    project.write(FLOW)
    first = project.run()
    second = project.run()
    with open_store(str(project.store)) as store:
        alone, again = store.why(_path(first, "end")), store.why(_path(second, "end"))
    assert alone.earlier is None
    assert "no finished task of this step before it" in alone.reason
    assert (again.earlier, again.is_forced) == (_path(first, "end"), False)
    assert "would have reused it" in again.reason
    assert again.task_key == again.earlier_key


def test_plain_resume_shows_the_change_it_did_not_look_at(project: Project) -> None:
    project.write(FLOW)
    project.run()
    project.write(FLOW.replace("x * 2", "x * 3"))
    run = project.resume()
    with open_store(str(project.store)) as store:
        why = store.why(_path(run, "each[0]"))
    assert [part.name for part in why.parts if part.state == "changed"] == ["flow.py:scale"]
    assert not why.is_forced
    assert "not compared" in why.text()


def test_why_of_what_is_not_there_names_near_ones(runs: tuple[Run, Run, Run], store: Store) -> None:
    first = runs[0]
    for target, words in (
        ("Gone/1/start/1", "Go"),
        (f"Go/{first.run_id}/eahc/2", "each"),
        (f"Go/{first.run_id}/each/99", "There is no task"),
        (f"Go/{first.run_id[:-1]}/each/2", first.run_id),
    ):
        with pytest.raises(NotFound, match=words):
            store.why(target)
    for target in (f"Go/{first.run_id}", f"Go/{first.run_id}/each"):
        with pytest.raises(UsageError, match=r"Write Flow/run/step/task|Name one of them"):
            store.why(target)


def test_why_on_the_command_line(project: Project, runs: tuple[Run, Run, Run]) -> None:
    path = _path(runs[1], "each[0]")
    done = project.call_in(project.folder, [*_weft(), "why", path])
    assert done.code == 0, done.err
    assert "part of the code flow.py:scale changed" in done.out
    assert "All local modules count" not in done.out
    answer = project.call_in(project.folder, [*_weft(), "why", path, "--json"])
    assert '"is_forced": true' in answer.out


def _weft() -> list[str]:
    import sys

    return [sys.executable, "-m", "weft"]


def test_why_names_the_file_behind_a_parameter(project: Project) -> None:
    project.write(
        """
        import pathlib
        class Filed(FlowSpec):
            table = Parameter("table", type=pathlib.Path, default="in.csv")
            @step
            def start(self):
                self.text = self.table.read_text()
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Filed()
        """
    )
    path = project.folder / "in.csv"
    path.write_text("a")
    project.run()
    path.write_text("b")
    run = project.resume("--changed")
    with open_store(str(project.store)) as store:
        why = store.why(f"Filed/{run.run_id}/start")
    assert why.reason == f"It ran because the content of {path} changed."
    (part,) = (part for part in why.parts if part.state != "equal")
    assert (part.kind, part.name) == ("external", str(path))
