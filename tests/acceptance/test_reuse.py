"""What `resume --changed` and parameters on resume run again: tables of edits against one run, and real resumes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Project as _Project
from weft.lineage.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Project, Run

TOOLS = """
    '''Tools.'''
    LIMIT = 100
    def scale(x, by):
        '''Scales.'''
        return min(x * by, LIMIT)
    def spare(x):
        return x
    class Model:
        def predict(self, x):
            return x + 1
    """
FLOW = """
    import pathlib
    import numpy
    import tools
    from weft import track
    class Go(FlowSpec):
        rate = Parameter("rate", default=3)
        unread = Parameter("unread", default=1)
        path = Parameter("path", default="given.txt", type=pathlib.Path)
        # more parameters
        factor = 2
        @step
        def start(self):
            self.xs = [1, 2, 3]
            self.base = 10
            self.rest = "unread"
            self.next(self.each, foreach="xs")
        @step
        def each(self):
            self.y = tools.scale(self.input, self.base)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.ys = [branch.y for branch in inputs]
            self.merge_artifacts(inputs, include=["base"])
            self.next(self.split)
        @step
        def split(self):
            self.next(self.left, self.right)
        @step
        def left(self):
            self.a = sum(self.ys) * self.rate
            self.model = tools.Model()
            self.next(self.meet)
        @retry(times=0)
        @step
        def right(self):
            self.b = open(track("data.txt")).read() + str(self.factor)
            self.next(self.meet)
        @step
        def meet(self, inputs):
            self.c = (inputs.left.a, inputs.right.b)
            self.guess = inputs.left.model.predict(1)
            self.next(self.end)
        @step
        def end(self):
            self.out = (self.c, numpy.int64(1), getattr(self, "absent", None), self.path.read_text())
    if __name__ == "__main__":
        Go()
    """
ALL = ("start", "each", "join", "split", "left", "right", "meet", "end")
NOTHING: tuple[str, ...] = ()


class Bench:
    """One run, and plans of its resume after an edit; the files are put back."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.files = {
            "flow.py": project.write(FLOW),
            "tools.py": project.write(TOOLS, "tools.py", prelude=""),
        }
        for name in ("data.txt", "given.txt"):
            self.files[name] = project.folder / name
            self.files[name].write_text("41\n")
        self.texts = {name: path.read_text() for name, path in self.files.items()}
        self.origin = project.run("--isolation", "inline")

    def plan(self, *arguments: str) -> dict[str, list[dict[str, Any]]]:
        """The planned tasks by step."""
        done = self.project.call("resume", "--plan", "--json", *arguments)
        assert done.code == 0, done.err
        found: dict[str, list[dict[str, Any]]] = {}
        for task in json.loads(done.out)["tasks"]:
            found.setdefault(task["step"], []).append(task)
        return found

    def edit(self, file: str, old: str, new: str) -> None:
        text = self.texts[file]
        assert old in text
        self.files[file].write_text(text.replace(old, new))

    def restore(self) -> None:
        for name, path in self.files.items():
            path.write_text(self.texts[name])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    project = _Project(tmp_path_factory.mktemp("reuse"))
    yield Bench(project)
    project.stop_all()


@pytest.fixture
def bench(made: Bench) -> Iterator[Bench]:
    yield made
    made.restore()


def _actions(plan: dict[str, list[dict[str, Any]]], action: str) -> set[str]:
    return {step for step, tasks in plan.items() if any(task["action"] == action for task in tasks)}


def _reasons(plan: dict[str, list[dict[str, Any]]]) -> str:
    return "; ".join(task["reason"] for tasks in plan.values() for task in tasks if task["action"] == "run")


@pytest.mark.parametrize(
    ("file", "old", "new", "runs", "may_run", "reason"),
    [
        # No change that counts
        ("flow.py", "self.base = 10", "self.base = 10  # ten", NOTHING, NOTHING, ""),
        ("flow.py", "self.base = 10", "self.base = (10)", NOTHING, NOTHING, ""),
        ("tools.py", "'''Scales.'''", "'''Multiplies.'''", NOTHING, NOTHING, ""),
        ("flow.py", "times=0", "times=3", NOTHING, NOTHING, ""),
        ("flow.py", "# more parameters", 'added = Parameter("added", default=1)', NOTHING, NOTHING, ""),
        ("flow.py", '"unread", default=1', '"unread", default=2', NOTHING, NOTHING, ""),
        ("data.txt", "41\n", "41\n", NOTHING, NOTHING, ""),
        # Of `tools`, the pickle of a class brings all in for the step that reads it
        (
            "tools.py",
            "def spare(x):\n    return x",
            "def spare(x):\n    return -x",
            ("meet",),
            ("end",),
            "tools.py:spare",
        ),
        ("tools.py", "x + 1", "x + 2", ("left", "meet"), ("end",), "tools.py:Model changed"),
        # Code
        (
            "flow.py",
            "self.base = 10",
            "self.base = 11",
            ("start", "meet"),
            ("each", "join", "left"),
            "flow.py:Go.start",
        ),
        ("tools.py", "x * by", "by * x", ("each", "meet"), ("join", "left", "end"), "tools.py:scale changed"),
        (
            "tools.py",
            "LIMIT = 100",
            "LIMIT = 20",
            ("each", "meet"),
            ("join", "left", "end"),
            "tools.py:LIMIT",
        ),
        ("flow.py", "factor = 2", "factor = 5", ("right", "meet"), ("end",), "flow.py:Go.factor changed"),
        (
            "flow.py",
            "@retry(times=0)",
            "@environment(vars={'A': '1'})",
            ("right",),
            ("meet", "end"),
            "Go.right decorators",
        ),
        ("flow.py", "import numpy\n", "import numpy\nnumpy.random.seed(1)\n", ALL, NOTHING, "statement"),
        # What was read
        ("data.txt", "41", "42", ("right",), ("meet", "end"), "data.txt changed"),
        ("given.txt", "41", "42", ("end",), NOTHING, "given.txt changed"),
        # The graph
        (
            "flow.py",
            "self.left, self.right",
            "self.right, self.left",
            ("split", "meet"),
            NOTHING,
            "flow.py:Go.split",
        ),
    ],
)
def test_edit_runs_what_it_affects(
    bench: Bench, file: str, old: str, new: str, runs: tuple[str, ...], may_run: tuple[str, ...], reason: str
) -> None:
    bench.edit(file, old, new)
    plan = bench.plan("--changed")
    assert _actions(plan, "run") == set(runs)
    assert set(may_run) <= _actions(plan, "maybe")
    assert _actions(plan, "reuse") <= set(ALL) - set(runs) - set(may_run)
    assert reason in _reasons(plan)


def test_nothing_is_compared_that_was_not_asked_for(bench: Bench) -> None:
    bench.edit("tools.py", "x * by", "x + by")
    assert _actions(bench.plan(), "reuse") == set(ALL)
    assert _actions(bench.plan("--rate", "4"), "run") == {"left"}
    assert _actions(bench.plan("--unread", "4"), "reuse") == set(ALL)
    assert _actions(bench.plan("--rate", "3"), "reuse") == set(ALL)


def test_version_of_a_package_counts_where_it_is_imported(bench: Bench, tmp_path: Path) -> None:
    plan = bench.plan("--changed")
    assert _actions(plan, "reuse") == set(ALL)
    package = tmp_path / "site-packages"
    for name in ("numpy", "numpy-0.0.1.dist-info"):
        (package / name).mkdir(parents=True)
    (package / "numpy" / "__init__.py").write_text("int64 = int\n")
    (package / "numpy-0.0.1.dist-info" / "RECORD").write_text("numpy/__init__.py,,\n")
    done = bench.project.call(
        "resume",
        "--changed",
        "--plan",
        "--json",
        PYTHONPATH=f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    )
    tasks = json.loads(done.out)["tasks"]
    changes = {
        tuple(change.values()) for task in tasks for change in task["changes"] if change["kind"] == "package"
    }
    assert {(kind, name, after) for kind, name, _, after in changes} == {("package", "numpy", "0.0.1")}


def test_removed_step_is_not_needed(bench: Bench) -> None:
    text = bench.texts["flow.py"]
    before, _, rest = text.partition("    @retry(times=0)")
    _, _, after = rest.partition("    @step\n    def meet")
    text = (before + "    @step\n    def meet" + after).replace("self.left, self.right", "self.left")
    text = text.replace("def meet(self, inputs)", "def meet(self)").replace(
        "(inputs.left.a, inputs.right.b)", "self.a"
    )
    bench.files["flow.py"].write_text(text.replace("inputs.left.model", "self.model"))
    plan = bench.plan("--changed")
    assert [task["reason"] for task in plan["right"]] == ["the flow has no such step now"]
    assert [task["action"] for task in plan["right"]] == ["not needed"]
    assert _actions(plan, "run") == {"split", "meet"}


def test_plan_says_what_it_goes_by(bench: Bench) -> None:
    bench.edit("flow.py", "self.base = 10", "self.base = 11")
    plan = bench.plan("--changed")
    (start,) = plan["start"]
    assert start["origin"] == f"Go/{bench.origin.run_id}/start/1"
    assert start["expected_s"] > 0
    (change,) = start["changes"]
    assert (change["kind"], change["name"]) == ("code", "flow.py:Go.start")
    assert change["before"] != change["after"]
    text = bench.project.call("resume", "--changed", "--plan").out
    assert "flow.py:Go.start changed" in text
    assert "Nothing was run" in text
    assert len(bench.project.runs()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("strat",), ("no step 'strat'", "Did you mean start")),
        (("--from", "Go/12"), ("no run Go/12",)),
        (("--from-task", "Go/{id}/each/77"), ("no task each/77", "each/2")),
        (("--from-task", "{id}/each"), ("is no task",)),
        (("start", "--from-task", "{id}/each/2"), ("STEP and --from-task",)),
        (("--json",), ("--plan",)),
        (("--rate", "much"), ("--rate",)),
    ],
)
def test_resume_that_makes_no_sense_says_why(
    bench: Bench, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    filled = [argument.replace("{id}", bench.origin.run_id) for argument in arguments]
    done = bench.project.call("resume", *filled)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err
    assert len(bench.project.runs()) == 1


# Real resumes

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
