from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.lineage.errors import InvalidFlow
from weft.runtime.source import parse_flow

FlowOf = Callable[..., type]
ImportFlow = Callable[..., type]


def test_graph_reads_each_form_of_transition(flow_of: FlowOf) -> None:
    graph = parse_flow(
        flow_of(
            start="self.a, self.b",
            a="self.body, foreach='xs'",
            body="self.j_inner",
            j_inner="inputs: self.j",
            b="{'x': self.b, 1: self.c, -2: self.c, self.config.k: self.c}, condition='v'",
            c="self.j",
            j="inputs: self.end",
            end="",
        )
    )
    kinds = {node.name: node.kind for node in graph}
    assert kinds == {
        "start": "split",
        "a": "foreach",
        "b": "switch",
        "body": "linear",
        "c": "linear",
        "j_inner": "join",
        "j": "join",
        "end": "end",
    }
    assert graph["a"].foreach == "xs"
    assert graph["b"].condition == "v"
    assert graph["b"].switch_cases == {"x": "b", "1": "c", "-2": "c", "config.k": "c"}
    assert graph["b"].out_steps == ("b", "c")
    assert graph["start"].is_start
    assert (graph.start, graph.end) == ("start", "end")


def test_graph_knows_what_each_step_is_inside_of(flow_of: FlowOf) -> None:
    graph = parse_flow(
        flow_of(
            start="self.outer",
            outer="self.left, self.right",
            left="self.fit, foreach='xs'",
            fit="self.tune, foreach='lrs'",
            tune="self.best",
            best="inputs: self.all_fits",
            all_fits="inputs: self.j",
            right="self.j",
            j="inputs: self.end",
            end="",
        )
    )
    assert graph["tune"].split_parents == ("outer", "left", "fit")
    assert graph["tune"].split_branches == ("left", "fit", "tune")
    assert graph["best"].split_parents == ("outer", "left")
    assert graph["best"].split == "fit"
    assert graph["fit"].matching_join == "best"
    assert graph["left"].matching_join == "all_fits"
    assert graph["outer"].matching_join == "j"
    assert graph["end"].split_parents == ()


def test_join_order_is_that_of_the_branches_not_of_the_definitions(flow_of: FlowOf) -> None:
    graph = parse_flow(
        flow_of(
            end="",
            a="self.j",
            z="self.z2",
            z2="{'x': self.z3, 'y': self.z4}, condition='v'",
            z4="self.j",
            z3="self.j",
            j="inputs: self.end",
            m="self.j",
            start="self.z, self.a, self.m",
        )
    )
    assert graph["j"].join_order == ("z3", "z4", "a", "m")


def test_steps_come_after_all_that_lead_to_them(flow_of: FlowOf) -> None:
    graph = parse_flow(
        flow_of(end="", j="inputs: self.end", b="self.b2", b2="self.j", a="self.j", start="self.a, self.b")
    )
    assert list(graph.steps) == ["start", "a", "b", "b2", "j", "end"]


def test_steps_of_bases_belong_to_the_flow(import_flow: ImportFlow) -> None:
    import_flow(
        """
        class Base:
            @step
            def start(self):
                "of the base"
                self.next(self.work)

            @step
            def work(self):
                self.next(self.end)

            @step
            def end(self): pass
        """,
        "Base",
        "base_file",
    )
    flow_class = import_flow(
        """
        from base_file import Base
        class F(Base):
            '''What F does.'''
            @step
            def work(self):
                self.next(self.more)

            @step
            def more(self):
                self.next(self.end)
        """
    )
    graph = parse_flow(flow_class)
    assert list(graph.steps) == ["start", "work", "more", "end"]
    assert Path(graph["start"].file).name == "base_file.py"
    assert Path(graph["work"].file).name == "flow_file.py"
    assert (graph["start"].doc, graph.doc, graph.line) == ("of the base", "What F does.", 5)


def test_a_name_that_is_no_step_in_the_subclass_is_no_step(import_flow: ImportFlow) -> None:
    flow_class = import_flow(
        """
        class Base:
            @step
            def start(self): self.next(self.end)
            @step
            def gone(self): self.next(self.end)
            @step
            def end(self): pass
        class F(Base):
            gone = None
        """
    )
    assert list(parse_flow(flow_class).steps) == ["start", "end"]


def test_the_class_that_was_defined_last_is_read(import_flow: ImportFlow) -> None:
    source = """
        class F:
            @step
            def start(self): self.next(self.old)
        class F:
            if True:
                @retry
                @step
                def start(self):
                    self.next(self.new)
        def make():
            class F:
                @step
                def start(self): self.next(self.local)
            return F
        G = make()
        """
    assert parse_flow(import_flow(source))["start"].out_steps == ("new",)
    assert parse_flow(import_flow(source))["start"].decorators == ("retry",)
    assert parse_flow(import_flow(source, "G"))["start"].out_steps == ("local",)


def test_custom_start_and_end(import_flow: ImportFlow) -> None:
    graph = parse_flow(
        import_flow(
            """
            class F:
                @step(end=True)
                def finish(self): pass
                @retry(times=1)
                @step(start=True)
                def begin(self): self.next(self.finish)
            """
        )
    )
    assert (graph.start, graph.end) == ("begin", "finish")
    assert [(node.kind, node.is_start, node.is_end) for node in graph] == [
        ("start", True, False),
        ("end", False, True),
    ]


def test_one_step_is_start_and_end(flow_of: FlowOf) -> None:
    graph = parse_flow(flow_of(only=""))
    assert (graph.start, graph.end, graph["only"].kind) == ("only", "only", "end")


def test_docstrings_and_lines(import_flow: ImportFlow) -> None:
    graph = parse_flow(
        import_flow(
            '''\
            class F:
                @step
                def start(self):
                    """Load the data.

                    All of it:
                        twice.
                    """
                    self.next(
                        self.end
                    )

                @step
                def end(self):
                    pass
            '''
        )
    )
    start = graph["start"]
    assert start.title == "Load the data."
    assert start.doc == "Load the data.\n\nAll of it:\n    twice."
    assert (start.line, start.tail_next_line, graph.line) == (5, 11, 3)


def test_a_wrapped_step_is_found_by_its_name(import_flow: ImportFlow) -> None:
    graph = parse_flow(
        import_flow(
            """
            import functools
            def loud(function):
                @functools.wraps(function)
                def run(*args): return function(*args)
                return run
            class F:
                @loud
                @step
                def start(self): self.next(self.end)
                @step
                @loud
                def end(self): pass
            """
        )
    )
    assert graph["start"].out_steps == ("end",)
    assert graph["start"].decorators == ("loud",)


def test_a_step_attached_from_outside_is_found_by_its_code(import_flow: ImportFlow) -> None:
    flow_class = import_flow(
        """
        class F:
            @step
            def start(self): self.next(self.end)
        @step
        def end(self): pass
        F.end = end
        """
    )
    assert parse_flow(flow_class).end == "end"


def test_a_flow_without_a_file_says_so() -> None:
    space: dict[str, object] = {"__name__": "nowhere"}
    text = "from weft.runtime.decorators import step\nclass F:\n    @step\n    def start(self): pass\n"
    exec(compile(text, "<made up>", "exec"), space)  # noqa: S102 - a class without a file is the point
    flow_class = space["F"]
    assert isinstance(flow_class, type)
    with pytest.raises(InvalidFlow, match=r"made up.*write it to a \.py file"):
        parse_flow(flow_class)


def test_a_flow_in_a_notebook_cell_is_read_from_linecache() -> None:
    import linecache

    text = "from weft.runtime.decorators import step\nclass F:\n    @step\n    def only(self): pass\n"
    linecache.cache["<cell 1>"] = (len(text), None, text.splitlines(keepends=True), "<cell 1>")
    module = types.ModuleType("cell")
    sys.modules["cell"] = module
    try:
        exec(compile(text, "<cell 1>", "exec"), vars(module))  # noqa: S102 - as a notebook does
        assert list(parse_flow(module.F).steps) == ["only"]
    finally:
        del sys.modules["cell"], linecache.cache["<cell 1>"]


def test_a_graph_is_made_of_any_flow_that_parses(flow_of: FlowOf) -> None:
    graph = parse_flow(
        flow_of(
            start="self.a, self.nowhere",
            a="self.b",
            b="self.a",
            j="inputs: self.j",
            lost="1 + 1",
            odd="self.a, foreach=xs",
        )
    )
    assert set(graph.steps) == {"start", "a", "b", "j", "lost", "odd"}
    assert graph.end == ""
    assert not graph["odd"].is_next_understood
    assert json.loads(json.dumps(graph.to_payload()))["name"] == "F"


def test_reading_a_flow_imports_no_inspect(flow_of: FlowOf, tmp_path: Path) -> None:
    flow_of(start="self.end", end="")
    code = (
        # Python 3.13 loads linecache for every `-c`.
        "import sys; begun = set(sys.modules); sys.path.insert(0, sys.argv[1]); import flow_file;"
        "from weft.runtime.source import parse_flow; parse_flow(flow_file.F);"
        "print(sorted({'inspect', 'dataclasses', 'linecache', 'json'} & set(sys.modules) - begun))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
