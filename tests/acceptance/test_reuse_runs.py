"""What resumes with `--changed`, new parameters or a named task leave behind, run for real."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from tests.conftest import Project as _Project
from weft.lineage.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Project, Run

CHAIN = """
    class Chain(FlowSpec):
        alpha = Parameter("alpha", default=1)
        @step
        def start(self):
            self.x = abs(self.alpha)
            self.ns = [1, 2, 3]
            self.next(self.each, foreach="ns")
        @step
        def each(self):
            self.y = self.input * self.x
            self.next(self.join)
        @step
        def join(self, inputs):
            self.ys = sorted(branch.y for branch in inputs)
            self.next(self.end)
        @step
        def end(self):
            self.out = self.ys
    if __name__ == "__main__":
        Chain()
    """


def _statuses(run: Run) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for place, status in run.statuses.items():
        found.setdefault(place.partition("[")[0], set()).add(status)
    return found


def test_wave_stops_where_values_come_out_equal(project: Project) -> None:
    project.write(CHAIN)
    project.run()
    run = project.resume("--alpha", "-1")
    assert _statuses(run) == {
        "start": {"succeeded"},
        "each": {"reused"},
        "join": {"reused"},
        "end": {"reused"},
    }
    assert run.parameters == {"alpha": -1}
    assert run.saved("end") == {"out": [1, 2, 3]}
    again = project.resume("--alpha", "2")
    assert again.saved("end") == {"out": [2, 4, 6]}
    assert "reused" not in set(again.statuses.values())


def test_list_that_grows_runs_its_new_items(project: Project) -> None:
    project.write(CHAIN)
    project.run()
    project.write(CHAIN.replace("[1, 2, 3]", "[1, 5, 3, 4]"))
    run = project.resume("--changed")
    assert [run.statuses[f"each[{i}]"] for i in range(4)] == ["reused", "succeeded", "reused", "succeeded"]
    assert run.saved("end") == {"out": [1, 3, 4, 5]}
    project.write(CHAIN.replace("[1, 2, 3]", "[1, 5]"))
    shrunk = project.resume("--changed")
    assert [shrunk.statuses[f"each[{i}]"] for i in range(2)] == ["reused", "reused"]
    assert shrunk.saved("end") == {"out": [1, 5]}
    why = next(e for e in shrunk.events("task_created") if e.step == "join").payload or {}
    assert "its inputs are others" in why["why"]["reason"]


def test_one_task_runs_again_and_what_it_changes(project: Project) -> None:
    project.write(CHAIN)
    first = project.run()
    task_id = first.tasks["each[1]"].task_id
    run = project.resume("--from-task", f"Chain/{first.run_id}/each/{task_id}")
    assert {place for place, status in run.statuses.items() if status == "succeeded"} == {"each[1]"}
    project.write(CHAIN.replace("self.input * self.x", "self.input * self.x + 100"))
    other = project.resume("--from-task", f"{run.run_id}/each/{run.tasks['each[2]'].task_id}")
    assert {p for p, status in other.statuses.items() if status == "succeeded"} == {"each[2]", "join", "end"}
    assert other.saved("end") == {"out": [1, 2, 103]}


def test_task_whose_artifacts_are_gone_runs_again(project: Project) -> None:
    project.write(
        CHAIN.replace("abs(self.alpha)", "b'x' * 9000").replace("self.input * self.x", "len(self.x)")
    )
    project.run()
    objects = sorted((project.store / "objects").rglob("*"), key=lambda path: path.stat().st_size)
    (big,) = (path for path in objects if path.is_file() and path.stat().st_size > 8000)
    big.unlink()
    done = project.call("resume", "--plan")
    assert "its artifacts are gone: x" in done.out
    for arguments in ((), ("--changed",)):
        run = project.resume(*arguments)
        assert run.statuses["start"] == "succeeded"
        big.unlink()
    assert run.statuses["each[0]"] == "reused"


def test_run_of_another_user_is_built_on_and_its_pickles_ask_for_trust(project: Project) -> None:
    source = CHAIN.replace("abs(self.alpha)", "complex").replace("self.input * self.x", "self.x(self.input)")
    source = source.replace("class Chain", "class Odd:\n        pass\n    class Chain")
    source = source.replace("self.ns = [1, 2, 3]", "self.ns = [1, 2, 3]\n            self.odd = Odd()")
    source = source.replace("self.y = self.x(self.input)", "self.y = (self.input, type(self.odd).__name__)")
    project.write(source)
    first = project.run(WEFT_USER="grace")
    assert project.call("resume").code == 2
    whole = project.resume("--from", f"Chain/{first.run_id}")
    assert set(whole.statuses.values()) == {"reused"}
    refused = project.call("resume", "each", "--from", first.run_id)
    assert refused.code == 1
    assert "--trust" in refused.err
    trusted = project.resume("each", "--from", first.run_id, "--trust")
    assert trusted.saved("end") == {"out": [(1, "Odd"), (2, "Odd"), (3, "Odd")]}


def test_merge_that_would_pass_on_something_else_runs_again(project: Project) -> None:
    source = """
    class Merge(FlowSpec):
        n = Parameter("n", default=1)
        @step
        def start(self):
            self.next(self.a, self.b)
        @step
        def a(self):
            self.passed = "a" * self.n
            self.next(self.join)
        @step
        def b(self):
            self.next(self.join)
        @step
        def join(self, inputs):
            self.merge_artifacts(inputs)
            self.next(self.end)
        @step
        def end(self):
            self.seen = self.passed
    if __name__ == "__main__":
        Merge()
    """
    project.write(source)
    project.run()
    run = project.resume("--n", "3")
    assert run.saved("end") == {"seen": "aaa"}
    assert run.statuses["b"] == "reused"
    project.write(source.replace("def b(self):", "def b(self):\n            self.more = 1"))
    more = project.resume("--changed")
    assert more.statuses["join"] == "succeeded"
    assert {e.name for e in more.events("artifact_merged")} == {"passed", "more"}


SWITCH = """
    class Turns(FlowSpec):
        mode = Parameter("mode", default="left")
        turns = Parameter("turns", default=1)
        @step
        def start(self):
            self.count = 0
            self.next(self.again)
        @step
        def again(self):
            self.count += 1
            self.way = "again" if self.count < self.turns else self.mode
            self.next({"again": self.again, "left": self.left, "right": self.right}, condition="way")
        @step
        def left(self):
            self.side = "l"
            self.next(self.end)
        @step
        def right(self):
            self.side = "r"
            self.next(self.end)
        @step
        def end(self):
            self.out = (self.side, self.count)
    if __name__ == "__main__":
        Turns()
    """


def test_plan_does_not_promise_where_a_switch_goes(project: Project) -> None:
    project.write(SWITCH)
    project.run()
    done = project.call("resume", "--mode", "right", "--plan", "--json")
    planned = {task["step"]: task for task in json.loads(done.out)["tasks"]}
    assert {step: task["action"] for step, task in planned.items()} == {
        "start": "reuse",
        "again": "run",
        "left": "maybe",
        "end": "maybe",
    }
    assert planned["left"]["reason"] == "if again goes on to it again"
    run = project.resume("--mode", "right")
    assert run.statuses == {"start": "reused", "again": "succeeded", "right": "succeeded", "end": "succeeded"}
    back = project.resume("--mode", "left", "--from", run.run_id)
    assert back.saved("end") == {"out": ("l", 1)}


def test_plan_of_a_loop_comes_to_an_end(project: Project) -> None:
    project.write(SWITCH)
    project.run("--turns", "3")
    done = project.call("resume", "--turns", "7", "--plan", "--json")
    planned = [(task["step"], task["action"]) for task in json.loads(done.out)["tasks"]]
    assert planned == [
        ("start", "reuse"),
        ("again", "run"),
        ("again", "run"),
        ("again", "run"),
        ("left", "maybe"),
        ("end", "maybe"),
    ]
    assert project.resume("--turns", "7").saved("end") == {"out": ("l", 7)}
    project.write(SWITCH.replace("self.count += 1", "self.count += 1\n            assert self.count < 3"))
    project.fail("--turns", "6")
    assert "again" in project.call("resume", "--plan").out


def test_join_that_reads_the_items_of_its_inputs_is_compared(project: Project) -> None:
    project.write(CHAIN.replace("branch.y for", "branch.input * branch.y for"))
    project.run()
    assert set(project.resume("--changed").statuses.values()) == {"reused"}
    run = project.resume("--alpha", "3")
    assert run.saved("end") == {"out": [3, 12, 27]}


def test_absent_name_that_appears_is_a_change(project: Project) -> None:
    project.write(CHAIN.replace("self.out = self.ys", "self.out = getattr(self, 'late', 0)"))
    project.run()
    project.write(
        CHAIN.replace("self.out = self.ys", "self.out = getattr(self, 'late', 0)").replace(
            "self.ys = sorted", "self.late = 7\n            self.ys = sorted"
        )
    )
    run = project.resume("--changed")
    assert run.saved("end") == {"out": 7}
    assert run.statuses["each[0]"] == "reused"


def test_file_that_was_only_touched_is_no_change(project: Project) -> None:
    project.write(CHAIN)
    path = project.folder / "flow.py"
    project.run()
    os.utime(path, (1, 1))
    assert set(project.resume("--changed").statuses.values()) == {"reused"}


def test_reused_task_shows_what_it_inherits_in_its_own_run(project: Project) -> None:
    """`rest` passes through `each` unread: the tasks there are reused although it has another value."""
    source = CHAIN.replace("self.ns =", "self.rest = 'old'\n            self.ns =")
    project.write(source)
    project.run()
    project.write(source.replace("'old'", "'new'"))
    run = project.resume("--changed")
    task = run.tasks["each[0]"]
    assert task.status == "reused"
    with open_store(str(project.store)) as store:
        recorded = store.run(f"Chain/{run.run_id}")["each"][task.task_id]
        assert (recorded.data.rest, recorded.data.y) == ("new", 1)


def test_run_from_another_store_is_resumed_only_by_name_and_its_pickles_ask_for_trust(
    project: Project, tmp_path: Path
) -> None:
    """All there is to load is a pickle: an artifact, the items of a foreach, and a parameter."""
    source = """
    class Odd:
        def __init__(self, text):
            self.text = str(text)
    class Far(FlowSpec):
        odd = Parameter("odd", default="x", type=Odd)
        names = Parameter("names", default="a,b", type=lambda text: [Odd(t) for t in text.split(",")])
        @step
        def start(self):
            self.kept = Odd("k")
            self.next(self.each, foreach="names")
        @step
        def each(self):
            self.text = self.input.text
            self.next(self.join)
        @step
        def join(self, inputs):
            self.merge_artifacts(inputs)
            self.texts = [branch.text for branch in inputs]
            self.next(self.end)
        @step
        def end(self):
            self.out = (self.kept.text, self.odd.text, self.texts)
    if __name__ == "__main__":
        Far()
    """
    project.write(source.replace("self.merge_artifacts(inputs)", "self.kept = inputs[0].kept"))
    first = project.run()
    near = _Project(tmp_path / "near")
    near.folder.mkdir()
    near.write(source.replace("self.merge_artifacts(inputs)", "self.kept = inputs[0].kept"))
    pulled = near.call_in(near.folder, [*_weft(), "--store", str(near.store), "pull", str(project.store)])
    assert pulled.code == 0, pulled.err
    unnamed = near.call("resume")
    assert unnamed.code == 2
    assert f"only Far/{first.run_id}, which was made in another store" in unnamed.err
    assert "--trust" in near.call("resume", "--from", first.run_id).err
    # What is kept of the items was pickled there, the list and the parameter are not.
    given = ("--from", first.run_id, "--odd", "x", "--names", "a,b")
    for step in ("each", "join", "end"):
        refused = near.call("resume", step, *given)
        assert refused.code == 1
        assert "--trust" in refused.err
    trusted = near.resume("each", "--from", first.run_id, "--trust")
    assert trusted.saved("end")["out"] == ("k", "x", ["a", "b"])


def _weft() -> list[str]:
    return [sys.executable, "-m", "weft"]


def test_base_class_of_the_flow_counts(project: Project) -> None:
    base = "class Base(FlowSpec):\n    def make(self):\n        return 1\n    def other(self):\n        return 2\n"
    project.write(base, "base.py")
    project.write(
        """
    from base import Base
    class Derived(Base):
        @step
        def start(self):
            self.x = self.make()
            self.next(self.end)
        @step
        def end(self):
            self.y = 1
    if __name__ == "__main__":
        Derived()
    """
    )
    project.run()
    project.write(base.replace("return 2", "return 3"), "base.py")
    assert set(project.resume("--changed").statuses.values()) == {"reused"}
    project.write(base.replace("return 1", "return 4"), "base.py")
    run = project.resume("--changed")
    assert run.statuses == {"start": "succeeded", "end": "reused"}
    assert run.saved("start") == {"x": 4}
