"""Metamorphic: after a random edit a resume, and a run that reuses, leave what a fresh run leaves, task by task.

A failing seed is the test's id and is replayed with WEFT_TEST_SEED=<seed>.
"""

from __future__ import annotations

import os
import random
import re
from typing import TYPE_CHECKING

import pytest

from weft.lineage.store import open_store

if TYPE_CHECKING:
    from tests.conftest import Project

_GIVEN = os.environ.get("WEFT_TEST_SEED")
_SEEDS = [int(_GIVEN)] if _GIVEN else list(range(2))
_SEEDS_SLOW = [int(_GIVEN)] if _GIVEN else list(range(1000, 1150))
_VARIABLES = ("a", "b", "c")


class Maker:
    """Draws a flow and edits of it. Values stay small and helpers saturate, so that waves often stop."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self._count = 0
        self._steps: list[tuple[str, str, list[str], str]] = []  # name, arguments, body, next

    def tools(self) -> str:
        lines = ["LIMIT = 4", "class Box:", "    def __init__(self, n):", "        self.n = n"]
        for number in range(4):
            body = self.draw.choice(
                (
                    "min(x + y, LIMIT)",
                    f"(x * {number + 2} + y) % 5",
                    f"x + {number}",
                    f"Box(x + {number}).n % 3",
                )
            )
            lines += [f"def h{number}(x, y):", f"    # note {number}", f"    return {body}"]
        return "\n".join(lines) + "\n"

    def flow(self) -> str:
        first = [f"self.{name} = {self.draw.randrange(6)}" for name in _VARIABLES]
        segments = [self._segment() for _ in range(self.draw.choice((2, 3)))]
        names = [segment[0][0] for segment in segments] + ["end"]
        steps = [("start", "self", first, f"self.{names[0]}")]
        for segment, following in zip(segments, names[1:], strict=True):
            *inner, (name, arguments, body, _) = segment
            steps += [*inner, (name, arguments, body, f"self.{following}")]
        steps.append(("end", "self", ["self.out = (self.a, self.b, self.c)"], ""))
        lines = ["import tools", "class Drawn(FlowSpec):"]
        lines += [f"    p{i} = Parameter('p{i}', default={self.draw.randrange(4)})" for i in range(2)]
        for name, arguments, body, target in steps:
            lines += ["    @step", f"    def {name}({arguments}):", *(f"        {line}" for line in body)]
            lines += [f"        self.next({target})"] if target else []
        return "\n".join([*lines, 'if __name__ == "__main__":', "    Drawn()"]) + "\n"

    def edit(self, flow: str, tools: str) -> tuple[str, str]:
        """Both files after one to three random edits."""
        for _ in range(self.draw.choice((1, 1, 2, 3))):
            kind = self.draw.choice(("note", "limit", "constant", "default", "start", "call", "body"))
            if kind == "note":
                tools = tools.replace("# note", "# other note")
            elif kind == "limit":
                tools = re.sub(r"LIMIT = \d", f"LIMIT = {self.draw.randrange(3, 6)}", tools)
            elif kind == "constant":
                tools = self._replace_one(r"x \+ \d", f"x + {self.draw.randrange(4)}", tools)
            elif kind == "default":
                flow = self._replace_one(r"default=\d", f"default={self.draw.randrange(4)}", flow)
            elif kind == "start":
                flow = self._replace_one(r"(self\.[abc]) = \d", rf"\1 = {self.draw.randrange(6)}", flow)
            elif kind == "call":
                flow = self._replace_one(r"tools\.h\d", f"tools.h{self.draw.randrange(4)}", flow)
            else:
                flow = self._replace_one(r"% 3", "% 2", flow)
        return flow, tools

    def _replace_one(self, pattern: str, text: str, source: str) -> str:
        found = list(re.finditer(pattern, source))
        if not found:
            return source
        match = self.draw.choice(found)
        return source[: match.start()] + match.expand(text) + source[match.end() :]

    def _segment(self) -> list[tuple[str, str, list[str], str]]:
        self._count += 1
        n = self._count
        kind = self.draw.choice(("plain", "plain", "foreach", "split"))
        if kind == "plain":
            return [
                (f"plain{n}", "self", [f"self.{self.draw.choice(_VARIABLES)} = {self._call('self')}"], "")
            ]
        if kind == "foreach":
            size = f"self.items = [x % 3 for x in range(1 + self.{self.draw.choice(_VARIABLES)} % 3 + 1)]"
            keep = [name for name in _VARIABLES if name != "a"]
            return [
                (f"each{n}", "self", [size], f"self.body{n}, foreach='items'"),
                (f"body{n}", "self", [f"self.part = {self._call('self', 'self.input')}"], f"self.join{n}"),
                (
                    f"join{n}",
                    "self, inputs",
                    [
                        "self.a = sum(i.part for i in inputs) % 5",
                        f"self.merge_artifacts(inputs, include={keep})",
                    ],
                    "",
                ),
            ]
        return [
            (f"fork{n}", "self", ["pass"], f"self.left{n}, self.right{n}"),
            (f"left{n}", "self", [f"self.b = {self._call('self')}"], f"self.meet{n}"),
            (f"right{n}", "self", [f"self.c = {self._call('self')}"], f"self.meet{n}"),
            (
                f"meet{n}",
                "self, inputs",
                [
                    f"self.b = inputs.left{n}.b",
                    f"self.c = inputs.right{n}.c",
                    "self.merge_artifacts(inputs, include=['a'])",
                ],
                "",
            ),
        ]

    def _call(self, flow: str, first: str | None = None) -> str:
        x = first or f"{flow}.{self.draw.choice(_VARIABLES)}"
        y = f"{flow}.{self.draw.choice((*_VARIABLES, 'p0', 'p1'))}"
        return f"tools.h{self.draw.randrange(4)}({x}, {y})"


def _left_behind(project: Project, run_id: str) -> dict[tuple[str, str | None, str], str]:
    """The digest of each artifact by step, place and name, those of reused tasks included."""
    with open_store(str(project.store)) as store:
        rows = store.sql(
            "select t.step, t.foreach_path, a.name, a.digest from artifacts a join tasks t using (flow, run_id, step, task_id) "
            "where run_id = $run_id",
            run_id=run_id,
        ).fetchall()
    return {(step, path, name): digest for step, path, name, digest in rows}


def _check(project: Project, seed: int, edits: int) -> None:
    maker = Maker(seed)
    tools, flow = maker.tools(), maker.flow()
    hint = f"replay with WEFT_TEST_SEED={seed}"

    def write() -> None:
        project.write(flow)
        project.write(tools, "tools.py", prelude="")

    write()
    assert project.call("run", "--isolation", "inline").code == 0, hint
    for _ in range(edits):
        flow, tools = maker.edit(flow, tools)
        write()
        given = ["--p0", str(maker.draw.randrange(4))] if maker.draw.random() < 0.4 else []
        resumed = project.call("resume", "--changed", "--isolation", "inline", *given)
        assert resumed.code == 0, f"{hint}\n{resumed.err}"
        run = project.newest()
        values = [f"--{name}={run.parameters[name]}" for name in ("p0", "p1")]
        cached = project.call("run", "--reuse", "--isolation", "inline", *values)
        assert cached.code == 0, f"{hint}\n{cached.err}"
        found = _left_behind(project, project.newest().run_id)
        fresh = project.call("run", "--isolation", "inline", *values)
        assert fresh.code == 0, f"{hint}\n{fresh.err}"
        expected = _left_behind(project, project.newest().run_id)
        assert found == expected, hint
        assert _left_behind(project, run.run_id) == expected, hint
        # The next edit is resumed from the resume: what it reused has to stand there as well.
        again = project.call("resume", "--changed", "--isolation", "inline", "--from", run.run_id)
        assert again.code == 0, hint
        assert set(project.newest().statuses.values()) == {"reused"}, hint


@pytest.mark.parametrize("seed", _SEEDS)
def test_resume_leaves_what_a_fresh_run_leaves(project: Project, seed: int) -> None:
    _check(project, seed, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", _SEEDS_SLOW)
def test_many_resumes_leave_what_fresh_runs_leave(project: Project, seed: int) -> None:
    _check(project, seed, 3)
