"""What `resume --changed` and parameters on resume run again: tables of edits against one run, and real resumes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Project as _Project
from weft.lineage.description import create_store
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Project

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

    def plan(self, *arguments: str, store: str | None = None) -> dict[str, list[dict[str, Any]]]:
        """The planned tasks by step."""
        named = () if store is None else ("--store", store)
        done = self.project.call(*named, "resume", "--plan", "--json", *arguments)
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
        ("flow.py", "class Go(FlowSpec):", "class Go(FlowSpec):\n    '''Goes.'''", NOTHING, NOTHING, ""),
        ("flow.py", 'self.rest = "unread"', "self.rest = 'unread'", NOTHING, NOTHING, ""),
        ("flow.py", "self.ys = [branch.y for", "self.ys = [\n  branch.y for", NOTHING, NOTHING, ""),
        ("flow.py", "@retry(times=0)", "", NOTHING, NOTHING, ""),
        ("flow.py", "@retry(times=0)", "@timeout(seconds=60)", NOTHING, NOTHING, ""),
        ("flow.py", "import tools\n", "import tools as tools\n", NOTHING, NOTHING, ""),
        # A resume has the parameters of its origin.
        ("flow.py", "default=3", "default=4", NOTHING, NOTHING, ""),
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
        ("tools.py", "by):", "by=1):", ("each", "meet"), ("join", "left", "end"), "tools.py:scale changed"),
        ("tools.py", "x + 1", "self.y + 1", ("left", "meet"), ("end",), "tools.py:Model changed"),
        (
            "flow.py",
            "self.model = tools.Model()",
            "self.model = tools.Model(); getattr(tools, str(self.rate), 0)",
            ("left", "meet"),
            ("end",),
            "Go.left changed",
        ),
        ("flow.py", "numpy.int64(1)", "numpy.int64(2)", ("meet", "end"), NOTHING, "flow.py:Go.end changed"),
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


def test_a_task_runs_again_where_what_it_read_differs_and_is_not_all_recorded(
    bench: Bench, tmp_path: Path
) -> None:
    copy = LocalStorage(str(tmp_path / "copy"))
    create_store(copy)
    shutil.copytree(bench.project.store / "objects", f"{copy.root}/objects", dirs_exist_ok=True)
    events = EventLog(LocalStorage(str(bench.project.store))).events()
    kept = [e for e in events if (e.kind, e.step, e.name) != ("artifact_used", "left", "rate")]
    assert len(kept) == len(events) - 1
    journal = Journal.create(copy)
    journal.append([event for event in kept if event.kind != "journal_closed"])
    journal.close()
    origin = ("--origin-run-id", bench.origin.run_id)
    assert _actions(bench.plan(*origin, store=copy.root), "reuse") == set(ALL)
    plan = bench.plan(*origin, "--rate", "4", store=copy.root)
    assert _actions(plan, "run") == {"left"}
    assert "not all of what it read is recorded" in _reasons(plan)


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


def test_helper_that_moves_to_another_file_is_new_code(bench: Bench) -> None:
    moved = bench.project.folder / "moved.py"
    moved.write_text("from tools import LIMIT\n\ndef scale(x, by):\n    return min(x * by, LIMIT)\n")
    bench.edit("flow.py", "tools.scale(self.input", "moved.scale(self.input")
    text = bench.files["flow.py"].read_text()
    bench.files["flow.py"].write_text(text.replace("import tools", "import moved\nimport tools", 1))
    try:
        plan = bench.plan("--changed")
    finally:
        moved.unlink()
    assert {"each", "meet"} <= _actions(plan, "run")
    assert "moved.py:scale" in {change["name"] for task in plan["each"] for change in task["changes"]}


def test_step_that_is_put_in_between_runs_and_the_rest_is_compared(bench: Bench) -> None:
    text = bench.texts["flow.py"].replace("self.next(self.split)", "self.next(self.added)")
    added = "    @step\n    def added(self):\n        self.next(self.split)\n    @step\n    def split"
    bench.files["flow.py"].write_text(text.replace("    @step\n    def split", added))
    plan = bench.plan("--changed")
    (task,) = plan["added"]
    assert task["action"] == "run"
    assert task["reason"].startswith("it is not in Go/")
    assert {"split", "right"} <= _actions(plan, "reuse")
    assert {"left", "meet"} <= _actions(plan, "maybe") | _actions(plan, "run")


def test_step_of_another_name_runs(bench: Bench) -> None:
    text = bench.texts["flow.py"].replace("self.split)", "self.fork)").replace("def split", "def fork")
    bench.files["flow.py"].write_text(text)
    plan = bench.plan("--changed")
    assert plan["fork"][0]["action"] == "run"
    assert plan["split"][0]["action"] == "not needed"
    assert plan["right"][0]["action"] == "reuse"


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


ASKING = """
    from weft import Flow
    class Source(FlowSpec):
        x = Parameter("x", default=1)
        @step
        def start(self):
            self.model = self.x
            self.next(self.end)
        @step
        def end(self):
            pass
    class Asking(FlowSpec):
        @step
        def start(self):
            self.model = Flow("Source").latest_successful_run.data.model
            self.next(self.end)
        @step
        def end(self):
            print("model", self.model)
    if __name__ == "__main__":
        import os
        Source() if "SOURCE" in os.environ else Asking()
    """


def test_task_that_asked_the_client_asks_again(project: Project) -> None:
    project.write(ASKING)
    project.run(SOURCE="1")
    assert project.run("--reuse").console("end") == ["model 1"]
    # Nothing has changed, but nobody can know that before it asks: what it gets then stops the wave.
    assert project.resume("--changed").statuses == {"start": "succeeded", "end": "reused"}
    project.run("--x", "2", SOURCE="1")
    assert "it asked the client, which found Source/" in project.call("resume", "--changed", "--plan").out
    assert project.resume("--changed").console("end") == ["model 2"]
    project.run("--x", "3", SOURCE="1")
    assert project.run("--reuse").console("end") == ["model 3"]
