"""Flows run as users run them: what they compute, and what is recorded of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

ISOLATIONS = ("fork", "spawn", "inline")

HELLO = """
    class Hello(FlowSpec):
        @step
        def start(self):
            self.x = 1
            self.next(self.end)
        @step
        def end(self):
            print("hello", self.x)
    if __name__ == "__main__":
        Hello()
    """


def test_hello_prints_and_is_recorded(project: Project) -> None:
    project.write(HELLO)
    done = project.call("run", "--run-id-file", "id.txt", "--tag", "nightly", "--tag", "é")
    assert (done.code, done.lines) == (0, ["hello 1"])
    run = project.newest()
    assert (project.folder / "id.txt").read_text() == run.run_id
    assert (run.status, run.statuses) == ("succeeded", {"start": "succeeded", "end": "succeeded"})
    assert run.saved("start") == {"x": 1}
    assert run.saved("end") == {}
    assert run.console("end") == ["hello 1"]
    tags = {event.name: (event.payload or {})["kind"] for event in run.events("tag_added")}
    assert (tags["nightly"], tags["é"], tags["user:ada"]) == ("user", "user", "system")
    (used,) = run.events("artifact_used")
    assert (used.step, used.name, used.producer_step) == ("end", "x", "start")
    payload = run.state.started.payload if run.state.started else None
    assert payload is not None
    assert (payload["user"], payload["isolation"]) == ("ada", "fork")


def test_quiet_run_shows_what_tasks_print_alone(project: Project) -> None:
    project.write(HELLO)
    done = project.call("--quiet", "run")
    assert (done.code, done.lines, done.err) == (0, ["hello 1"], "")


PARAMETERS = """
    class P(FlowSpec):
        count = Parameter("count", default=3, help="how many")
        rate = Parameter("the-rate", default=0.5)
        flag = Parameter("flag", default=False)
        title = Parameter("title", required=True)
        spec = Parameter("spec", type=JSONType, default='{"a": [1, 2]}')
        late = Parameter("late", default=lambda context: 40 + 2, type=int)
        LIMIT = 7
        @step
        def start(self):
            self.seen = [self.count, self.rate, self.flag, self.title, self.spec, self.late, self.LIMIT]
            for name in ("count", "LIMIT"):
                try:
                    setattr(self, name, 9)
                except AttributeError as error:
                    print(error)
            self.next(self.end)
        @step
        def end(self):
            self.again = (self.count, self.LIMIT)
    if __name__ == "__main__":
        P()
    """


def test_parameters_come_from_options_environment_and_defaults(project: Project) -> None:
    project.write(PARAMETERS)
    run = project.run(
        "--count", "4", "--title", "n", "--flag", "True", WEFT_RUN_THE_RATE="0.25", WEFT_RUN_TITLE="x"
    )
    assert run.saved("start") == {"seen": [4, 0.25, True, "n", {"a": [1, 2]}, 42, 7]}
    assert run.saved("end") == {"again": (4, 7)}
    assert run.parameters["count"] == 4
    assert run.parameters["LIMIT"] == 7
    lines = run.console("start")
    assert len(lines) == 2
    assert all("cannot be set" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ((), {}, ("--title",)),
        (("--title", "n", "--count", "many"), {}, ("count", "many")),
        (("--title", "n"), {"WEFT_RUN_COUNT": "many"}, ("count", "many")),
        (("--title", "n", "--cuont", "1"), {}, ("--cuont",)),
        (("--title", "n", "--spec", "{"), {}, ("spec",)),
        (("--title", "n", "--with", "retyr"), {}, ("retyr",)),
        (("--title", "n", "--run-id-file", "no/such/folder"), {}, ("no/such/folder",)),
    ],
)
def test_wrong_options_are_one_sentence_and_exit_2(
    project: Project, arguments: tuple[str, ...], environment: dict[str, str], words: tuple[str, ...]
) -> None:
    project.write(PARAMETERS)
    done = project.call("run", *arguments, **environment)
    assert done.code == 2, done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words)
    assert not project.store.exists() or project.runs() == []


FOREACH = """
    class Fan(FlowSpec):
        @step
        def start(self):
            self.base = {"k": [1]}
            self.xs = ["a", "b", "c"]
            self.next(self.outer, foreach="xs")
        @step
        def outer(self):
            self.letter = self.input
            self.ys = list(range(self.index + 1))
            self.next(self.inner, foreach="ys")
        @step
        def inner(self):
            self.cell = (self.letter, self.input, self.index)
            self.stack = self.foreach_stack()
            self.next(self.more)
        @step
        def more(self):
            self.same = (self.index, self.input)
            self.next(self.close)
        @step
        def close(self, inputs):
            self.cells = [branch.cell for branch in inputs]
            self.place = (self.index, self.input)
            self.merge_artifacts(inputs, exclude=["cell", "same", "stack"])
            self.next(self.join)
        @step
        def join(self, inputs):
            self.rows = [branch.cells for branch in inputs]
            self.letters = [branch.letter for branch in inputs]
            self.merge_artifacts(inputs, include=["base"])
            self.outside = (self.index, self.input)
            self.next(self.end)
        @step
        def end(self):
            self.last = (self.base, self.rows, hasattr(self, "letter"))
    if __name__ == "__main__":
        Fan()
    """


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_nested_foreach_gives_the_same_in_every_isolation(project: Project, isolation: str) -> None:
    project.write(FOREACH)
    run = project.run("--isolation", isolation)
    rows = [[(letter, y, y) for y in range(i + 1)] for i, letter in enumerate("abc")]
    assert run.saved("join") == {"rows": rows, "letters": ["a", "b", "c"], "outside": (None, None)}
    assert run.saved("end") == {"last": ({"k": [1]}, rows, False)}
    assert run.saved("inner[2.1]") == {"cell": ("c", 1, 1), "stack": [(2, 3, "c"), (1, 3, 1)]}
    assert run.saved("more[2.1]") == {"same": (1, 1)}
    assert run.saved("close[1]") == {"cells": rows[1], "place": (1, "b")}
    assert set(run.statuses.values()) == {"succeeded"}
    merged = {(e.step, e.name) for e in run.events("artifact_merged")}
    assert ("join", "base") in merged
    paths = {e.foreach_path for e in run.events("task_created") if e.step == "inner"}
    assert paths == {f"outer:{i},inner:{y}" for i in range(3) for y in range(i + 1)}


def test_item_reads_name_the_list_and_the_item(project: Project) -> None:
    project.write(FOREACH)
    run = project.run()
    task_id = run.tasks["outer[1]"].task_id
    used = [e for e in run.events("artifact_used") if (e.step, e.task_id) == ("outer", task_id)]
    assert [(e.name, e.item_index, e.producer_step) for e in used] == [("xs", 1, "start")]
    absent = [e for e in run.events("artifact_used") if e.is_absent]
    assert [(e.step, e.name) for e in absent] == [("end", "letter")]


BRANCHES = """
    import time
    class Branches(FlowSpec):
        @step
        def start(self):
            self.shared = [1]
            self.changed = [0]
            self.next(self.slow, self.quick)
        @step
        def quick(self):
            self.x = "quick"
            self.common = 5
            self.next(self.join)
        @step
        def slow(self):
            time.sleep(0.2)
            self.x = "slow"
            self.common = 5
            self.changed.append(1)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.order = [branch.x for branch in inputs]
            self.by_name = (inputs.quick.x, inputs.slow.changed, inputs.quick.changed, len(inputs))
            try:
                self.merge_artifacts(inputs)
            except Exception as error:
                self.refused = (type(error).__name__, error.artifact_names)
            self.x = inputs[0].x
            self.merge_artifacts(inputs, exclude=["changed"])
            self.next(self.end)
        @step
        def end(self):
            self.all = (self.x, self.common, self.shared)
    if __name__ == "__main__":
        Branches()
    """


def test_static_join_has_its_inputs_in_the_order_of_the_split(project: Project) -> None:
    project.write(BRANCHES)
    run = project.run("--max-workers", "2")
    saved = run.saved("join")
    assert saved["order"] == ["slow", "quick"]
    assert saved["by_name"] == ("quick", [0, 1], [0], 2)
    assert saved["refused"] == ("UnhandledInMergeArtifactsException", ["changed", "x"])
    assert run.saved("end") == {"all": ("slow", 5, [1])}
    assert run.saved("slow")["changed"] == [0, 1]
    assert "changed" not in run.saved("quick")


SWITCH = """
    class Loop(FlowSpec):
        @step
        def start(self):
            self.count = 0
            self.next(self.again)
        @step
        def again(self):
            self.count += 1
            self.state = "more" if self.count < 4 else "done"
            self.next({"more": self.again, "done": self.end}, condition="state")
        @step
        def end(self):
            self.total = self.count
    if __name__ == "__main__":
        Loop()
    """


def test_switch_leads_back_to_its_step_until_it_leads_on(project: Project) -> None:
    project.write(SWITCH)
    run = project.run()
    assert run.saved("end") == {"total": 4}
    assert [task.step for task in run.state.tasks.values()].count("again") == 4


CURRENT = """
    class Cur(FlowSpec):
        alpha = Parameter("alpha", default=1)
        @step
        def start(self):
            c = current
            self.seen = [c.flow_name, c.step_name, c.retry_count, c.username, c.origin_run_id, c.namespace,
                         c.is_running_flow, c.parameter_names, c.tags, c.pathspec, c.run_id, c.task_id]
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        print(current.is_running_flow, current.run_id)
        Cur()
    """


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_current_speaks_of_the_task(project: Project, isolation: str) -> None:
    project.write(CURRENT)
    run = project.run("--tag", "t", "--isolation", isolation)
    i = run.run_id
    assert run.saved("start")["seen"] == [
        *("Cur", "start", 0, "ada", None, "user:ada", True, ["alpha"], ["t"]),
        *(f"Cur/{i}/start/1", i, "1"),
    ]


RANDOM = """
    import random, sys
    import numpy
    if "--seeded" in sys.argv:
        sys.argv.remove("--seeded")
        random.seed(7)
        numpy.random.seed(7)
    else:
        random.random()
    class Draw(FlowSpec):
        @step
        def start(self):
            self.xs = list(range(20))
            self.next(self.draw, foreach="xs")
        @step
        def draw(self):
            self.drawn = (random.random(), float(numpy.random.random()))
            self.next(self.join)
        @step
        def join(self, inputs):
            self.plain = len({branch.drawn[0] for branch in inputs})
            self.arrays = len({branch.drawn[1] for branch in inputs})
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        Draw()
    """


def test_children_draw_as_fresh_interpreters_do(project: Project) -> None:
    project.write(RANDOM)
    assert project.run().saved("join") == {"plain": 20, "arrays": 20}
    assert project.run("--seeded").saved("join") == {"plain": 1, "arrays": 1}


def test_small_flow_imports_little(project: Project) -> None:
    project.write(
        """
        import sys
        class Small(FlowSpec):
            @step
            def start(self):
                self.next(self.end)
            @step
            def end(self):
                self.modules = sorted(sys.modules)
        if __name__ == "__main__":
            import atexit
            atexit.register(lambda: open("modules.txt", "w").write("\\n".join(sys.modules)))
            Small()
        """
    )
    run = project.run()
    heavy = {
        *("asyncio", "duckdb", "pyarrow", "pandas", "numpy", "s3fs", "fsspec", "logging", "rich"),
        *("importlib.metadata", "multiprocessing", "tempfile", "pickle", "dataclasses", "hypothesis"),
        *("concurrent", "unittest", "email", "http", "ssl", "sqlite3", "xml"),
    }
    # click brings inspect, and with it dis and ast; uuid is of its types.
    assert heavy & set(run.saved("end")["modules"]) == set()
    assert heavy & set((project.folder / "modules.txt").read_text().split()) == set()


def test_every_event_is_json(project: Project) -> None:
    project.write(FOREACH)
    project.run()
    for event in project.log.events():
        json.dumps(event.payload)
