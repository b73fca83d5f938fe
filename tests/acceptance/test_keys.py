"""Task keys as they are recorded: equal for equal code and reads, whatever run they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project, Run

HELPERS = """
    import numpy
    LIMIT = 3
    class Box:
        def __init__(self, n):
            self.n = n
        def twice(self):
            return self.n * 2
    def clip(x):
        return min(x, LIMIT)
    """
FLOW = """
    import helpers
    class Keyed(FlowSpec):
        alpha = Parameter("alpha", default=1)
        beta = Parameter("beta", default=2)
        @step
        def start(self):
            self.xs = [1, 2, 3]
            self.box = helpers.Box(self.alpha)
            self.plain = 7
            self.next(self.each, foreach="xs")
        @step
        def each(self):
            self.y = helpers.clip(self.input) * self.plain
            self.next(self.join)
        @step
        def join(self, inputs):
            self.ys = [branch.y for branch in inputs]
            self.merge_artifacts(inputs, include=["box"])
            self.next(self.end)
        @step
        def end(self):
            self.out = self.box.twice() + sum(self.ys)
            self.missing = hasattr(self, "nothing")
    if __name__ == "__main__":
        Keyed()
    """


def keys(run: Run) -> dict[str, str]:
    found = {}
    for place, task in run.tasks.items():
        assert task.final is not None
        assert task.final.ended is not None
        found[place] = (task.final.ended.payload or {})["task_key"]
    return found


def changed(before: Run, after: Run) -> set[str]:
    old, new = keys(before), keys(after)
    assert old.keys() == new.keys()
    return {place.partition("[")[0] for place in old if old[place] != new[place]}


@pytest.fixture
def first(project: Project) -> Run:
    project.write(HELPERS, "helpers.py", prelude="")
    project.write(FLOW)
    return project.run("--isolation", "inline")


@pytest.mark.parametrize("isolation", ["fork", "spawn"])
def test_keys_are_equal_in_every_isolation(project: Project, first: Run, isolation: str) -> None:
    assert changed(first, project.run("--isolation", isolation)) == set()
    assert len(set(keys(first).values())) == 6


@pytest.mark.parametrize(
    ("arguments", "file", "old", "new", "expected"),
    [
        ((), "flow.py", "self.plain = 7", "self.plain = 7  # seven", set()),
        (("--beta", "5"), "flow.py", "", "", set()),
        (("--alpha", "5"), "flow.py", "", "", {"start", "join", "end"}),
        ((), "flow.py", "default=1", "default=5", {"start", "join", "end"}),
        ((), "flow.py", "self.plain = 7", "self.plain = 3 + 4", {"start", "end"}),  # by the pickle
        ((), "helpers.py", "LIMIT = 3", "LIMIT = 4", {"each", "end"}),
        ((), "helpers.py", "self.n * 2", "self.n * 3", {"start", "end"}),
        ((), "flow.py", "[1, 2, 3]", "[1, 2, 5]", {"start", "each", "end"}),  # clip makes it 3
    ],
)
def test_keys_change_with_what_a_task_depends_on(
    project: Project,
    first: Run,
    arguments: tuple[str, ...],
    file: str,
    old: str,
    new: str,
    expected: set[str],
) -> None:
    path = project.folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    again = project.run("--isolation", "inline", *arguments)
    assert changed(first, again) == expected


def test_code_of_each_step_is_recorded(first: Run) -> None:
    (event,) = first.events("code_reached")
    payload = event.payload or {}
    assert payload["python"].startswith("3.")
    assert payload["modules"] == ["__main__", "helpers"]
    each = payload["steps"]["each"]
    assert each["rule"] == "reached"
    assert each["parts"] == [
        "flow.py:Keyed.each",
        "flow.py:import helpers",
        "helpers.py:LIMIT",
        "helpers.py:clip",
    ]
    assert set(payload["packages"]) == {"numpy"}
    pickled = [e for e in first.events("artifact_used") if e.name == "box"]
    assert [(e.step, (e.payload or {})["modules"]) for e in pickled] == [("end", ["helpers"])]
