"""Random flows with random reads, run for real: the graph that lineage derives is the one the steps saw.

Every value says in itself which task made it, every file too, and each step notes what it found in what it
read. These notes are the oracle; nothing of them comes from the record. A failing seed is the test's id and
is replayed with WEFT_TEST_SEED=<seed>.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from weft.lineage.edges import Edge
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.store import Store

if TYPE_CHECKING:
    from tests.conftest import Project

_GIVEN = os.environ.get("WEFT_TEST_SEED")
_SEEDS = [int(_GIVEN)] if _GIVEN else [1, 3]
_SEEDS_SLOW = [int(_GIVEN)] if _GIVEN else list(range(100, 160))
_TARGETS = 10
_DEPTH_MAX = 2

_PRELUDE = """
import hashlib
import json
import os
import weft
from weft import FlowSpec, Parameter, Run, current, retry, step

SHARED = os.environ["SHARED"]


def note(kind, **facts):
    line = json.dumps({"task": current.pathspec, "attempt": current.retry_count, "kind": kind, **facts})
    file = os.open(os.environ["ORACLE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode() + b"\\n")
    os.close(file)


def make(flow, name, size=0):
    note("made", name=name)
    setattr(flow, name, {"by": current.pathspec, "name": name, "pad": "x" * size})


def make_list(flow, name, count):
    note("made", name=name)
    setattr(flow, name, [{"by": current.pathspec, "name": name, "item": i} for i in range(count)])


def read(holder, name):
    value = getattr(holder, name, None)
    if value is not None:
        value = value[0] if isinstance(value, list) else value
        if value["by"] != current.pathspec:  # What it has just made itself it does not load.
            note("used", by=value["by"], name=value["name"], item=None)


def read_items(flow):
    for index, count, item in flow.foreach_stack():
        note("used", by=item["by"], name=item["name"], item=index)


def read_alpha(flow):
    assert flow.alpha == 3
    run = "/".join(current.pathspec.split("/")[:2])
    note("used", by=run + "/_parameters/0", name="alpha", item=None)


def read_before(name):
    if "BEFORE" in os.environ:
        value = getattr(Run(os.environ["BEFORE"]).data, name, None)
        if isinstance(value, dict):
            note("used", by=value["by"], name=value["name"], item=None)


def path_of(name):
    return os.path.join(SHARED, name)


def write_file(name):
    text = json.dumps({"by": current.pathspec, "attempt": current.retry_count, "file": name})
    with open(weft.track(path_of(name), "write"), "w") as file:
        file.write(text)
    note("wrote", uri=path_of(name), digest=hashlib.sha256(text.encode()).hexdigest())


def read_file(name):
    if os.path.exists(path_of(name)):
        with open(weft.track(path_of(name))) as file:
            text = file.read()
        note("read", uri=path_of(name), digest=hashlib.sha256(text.encode()).hexdigest(), by=json.loads(text)["by"])


def fail(name):
    if os.environ.get("FAIL") == name:
        raise RuntimeError("FAIL is set")


"""


class _Writer:
    """Draws a flow and writes it as Python text."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.lines = ["class Drawn(FlowSpec):", '    alpha = Parameter("alpha", default=3)']
        self.steps: list[str] = []
        self._names: list[str] = ["base"]
        self._files: list[str] = []
        self._count = 0

    def flow(self) -> str:
        first = self._new_step()
        self._step("start", ['make(self, "base", 5000)', *self._body(0), f"self.next(self.{first})"])
        self._block(first, "end", 0)
        self._step("end", ['make(self, "result")', *self._body(0)])
        return "\n".join([*self.lines, 'if __name__ == "__main__":', "    Drawn()", ""])

    def _new_step(self) -> str:
        self._count += 1
        return f"s{self._count}"

    def _block(self, first: str, after: str, depth: int) -> None:
        """Some items one after the other; the first is the step `first`, the last goes on to `after`."""
        count = self.draw.choice((1, 2, 2, 3))
        names = [first, *(self._new_step() for _ in range(count - 1)), after]
        for name, following in itertools.pairwise(names):
            kind = (
                self.draw.choice(("plain", "split", "foreach"))
                if depth < _DEPTH_MAX and self._count < 14
                else "plain"
            )
            if kind == "plain":
                self._plain(name, [f"self.next(self.{following})"], depth)
            elif kind == "split":
                branches = [self._new_step() for _ in range(2)]
                join = self._new_step()
                self._plain(name, [f"self.next({', '.join(f'self.{branch}' for branch in branches)})"], depth)
                for branch in branches:
                    self._block(branch, join, depth + 1)
                self._join(join, following, depth)
            else:
                body, join = self._new_step(), self._new_step()
                listed = f"xs_{name}"
                opening = [f'make_list(self, "{listed}", {self.draw.choice((1, 2, 3))})']
                self._plain(name, [*opening, f'self.next(self.{body}, foreach="{listed}")'], depth)
                self._names.append(listed)
                self._block(body, join, depth + 1)
                self._join(join, following, depth)

    def _plain(self, name: str, last: list[str], depth: int) -> None:
        body = self._body(depth)
        if self.draw.random() < 0.3:
            self.lines.append("    @retry(times=1, minutes_between_retries=0)")
            first = self._reads(depth)
            if self.draw.random() < 0.5:
                first.append(f'write_file("first_{name}_" + current.task_id)')
            body = [
                "if current.retry_count == 0:",
                *(f"    {line}" for line in first),
                "    raise ValueError",
                *body,
            ]
        if depth == 0 and self.draw.random() < 0.6:
            body.append(f'write_file("file_{name}")')
            self._files.append(f"file_{name}")
        self._step(name, [*body, f'fail("{name}")', *last])

    def _join(self, name: str, following: str, depth: int) -> None:
        body = []
        for line in self._reads(depth):
            if line.startswith("read(self"):
                body.append(line.replace("read(self", f"read(inputs[{self.draw.choice((0, -1))}]"))
        if self.draw.random() < 0.5:
            body.append('for branch in inputs: read(branch, "base")')
        body += ['self.merge_artifacts(inputs, include=["base"])']
        body += [f'make(self, "{self._new_name()}")', f'fail("{name}")', f"self.next(self.{following})"]
        self._step(name, body, "self, inputs")

    def _body(self, depth: int) -> list[str]:
        body = self._reads(depth)
        for _ in range(self.draw.choice((0, 1, 1, 2))):
            name = (
                self.draw.choice(self._names[1:] or ["again"])
                if self.draw.random() < 0.2
                else self._new_name()
            )
            if not name.startswith("xs_"):
                body.append(f'make(self, "{name}", {self.draw.choice((0, 0, 5000))})')
        return body

    def _reads(self, depth: int) -> list[str]:
        body = []
        for name in self.draw.sample(self._names, min(len(self._names), self.draw.choice((0, 1, 2, 3)))):
            body.append(f'read(self, "{name}")')
        chances = [("read_alpha(self)", 0.2), ('read_before("base")', 0.15), ('read_before("result")', 0.15)]
        chances += [("read_items(self)", 0.6 if depth else 0.1)]
        if self._files:
            chances.append((f'read_file("{self.draw.choice(self._files)}")', 0.4))
        return body + [line for line, chance in chances if self.draw.random() < chance]

    def _new_name(self) -> str:
        self._names.append(f"a{len(self._names)}")
        return self._names[-1]

    def _step(self, name: str, body: list[str], arguments: str = "self") -> None:
        self.steps.append(name)
        body = ['note("begun")', *body]
        self.lines += ["    @step", f"    def {name}({arguments}):", *(f"        {line}" for line in body)]


class _Task(NamedTuple):
    """What the attempts of a task that count noted."""

    made: set[str]
    used: set[tuple[str, str, int | None]]
    wrote: set[str]
    read: set[str]


class Oracle:
    """The graph of the steps' own notes."""

    def __init__(self, paths: list[Path]) -> None:
        notes = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
        last = {note["task"]: note["attempt"] for note in sorted(notes, key=lambda note: note["attempt"])}
        writers = {(note["task"], note["attempt"]) for note in notes if note["kind"] == "wrote"}
        self.tasks = {task: _Task(set(), set(), set(), set()) for task in last}
        for note in notes:
            task, is_last = self.tasks[note["task"]], note["attempt"] == last[note["task"]]
            if not is_last and (note["task"], note["attempt"]) not in writers:
                continue
            if note["kind"] == "made" and is_last:
                task.made.add(note["name"])
            elif note["kind"] == "used":
                task.used.add((note["by"], note["name"], note["item"]))
            elif note["kind"] in ("wrote", "read"):
                group = task.wrote if note["kind"] == "wrote" else task.read
                group.add(f"{note['uri']}@sha256:{note['digest'][:12]}")

    def up(self, task: str, name: str) -> tuple[set[str], set[Edge]]:
        """(nodes, edges) of what an artifact was made from."""
        nodes, edges = {f"{task}/{name}"}, set[Edge]()
        frontier, seen = [(task, f"{task}/{name}")], set()
        while frontier:
            task, thing = frontier.pop()
            if task.endswith("/_parameters/0"):
                continue
            edges.add(Edge("generated_by", thing, task))
            if task in seen:
                continue
            seen.add(task)
            nodes.add(task)
            known = self.tasks[task]
            for by, read, item in known.used:
                nodes.add(f"{by}/{read}")
                edges.add(Edge("used", task, f"{by}/{read}", item))
                frontier.append((by, f"{by}/{read}"))
            for file in known.read:
                nodes.add(file)
                edges.add(Edge("used", task, file))
                frontier += [(other, file) for other, facts in self.tasks.items() if file in facts.wrote]
        return nodes, edges

    def down(self, task: str, name: str) -> tuple[set[str], set[Edge]]:
        """(nodes, edges) of what was made from an artifact."""
        nodes, edges = {f"{task}/{name}"}, set[Edge]()
        frontier, seen = [f"{task}/{name}"], set()
        while frontier:
            thing = frontier.pop()
            for reader, facts in self.tasks.items():
                items = [item for by, read, item in facts.used if f"{by}/{read}" == thing]
                edges.update(Edge("used", reader, thing, item) for item in items)
                if thing in facts.read:
                    edges.add(Edge("used", reader, thing))
                if reader in seen or not (items or thing in facts.read):
                    continue
                seen.add(reader)
                nodes.add(reader)
                made = [f"{reader}/{made}" for made in facts.made] + list(facts.wrote)
                edges.update(Edge("generated_by", one, reader) for one in made)
                frontier += [one for one in made if one not in nodes]
                nodes.update(made)
        return nodes, edges


class Setting:
    """A folder with a drawn flow, what its steps note, and the files they share."""

    def __init__(self, project: Project, seed: int, shared: Path) -> None:
        self.project = project
        self.oracle = project.folder / "oracle.jsonl"
        self.environment = {"ORACLE": str(self.oracle), "SHARED": str(shared)}
        writer = _Writer(seed)
        project.write(writer.flow(), prelude=_PRELUDE)
        self.steps = writer.steps

    def run(self, isolation: str, **environment: str) -> str:
        """The pathspec of a run that went well."""
        run = self.project.run("--isolation", isolation, **self.environment, **environment)
        return f"Drawn/{run.run_id}"


def _check(store: str, oracle: Oracle, seed: int, when: str) -> None:
    draw = random.Random(seed)
    made = sorted((task, name) for task, facts in oracle.tasks.items() for name in facts.made)
    parameters = sorted(
        {by for facts in oracle.tasks.values() for by, _, _ in facts.used if "/_parameters/" in by}
    )
    chosen = draw.sample(made, min(_TARGETS, len(made))) + [(by, "alpha") for by in parameters]
    with Store(LocalStorage(store)) as opened:
        for task, name in chosen:
            for direction in ("up", "down"):
                expected = getattr(oracle, direction)(task, name)
                graph = opened.lineage(f"{task}/{name}", direction)
                message = f"{direction} of {task}/{name} {when}; replay with WEFT_TEST_SEED={seed}"
                assert {node.id for _, node in graph.with_depth()} == expected[0], message
                assert set(graph.links()) == expected[1], message
                assert graph.cycle() == [], message


def _check_all(project: Project, tmp_path_factory: pytest.TempPathFactory, seed: int, isolation: str) -> None:
    from tests.conftest import Project

    draw = random.Random(seed)
    shared = tmp_path_factory.mktemp("shared")
    here = Setting(project, seed, shared)
    first = here.run(isolation)
    failing = draw.choice([step for step in here.steps if step not in ("start", "end")])
    # Who is cancelled because another failed has noted what it read, but does not live to tell it.
    options = ("--isolation", isolation, "--keep-going")
    done = project.call("run", *options, **here.environment, BEFORE=first, FAIL=failing)
    assert done.code == 1, done.err + done.out
    resumed = project.call("resume", "--isolation", isolation, **here.environment, BEFORE=first)
    assert resumed.code == 0, resumed.err + resumed.out
    _check(str(project.store), Oracle([here.oracle]), seed, "in journals")
    EventLog(LocalStorage(str(project.store))).seal(force=True, grace_s=0)
    _check(str(project.store), Oracle([here.oracle]), seed, "sealed")
    # Another user's store, whose runs read the files that were left here, is merged by copying its files.
    other = Project(tmp_path_factory.mktemp("other"))
    there = Setting(other, seed + 1, shared)
    there.run(isolation)
    for folder in ("journal", "log", "objects"):
        if (other.store / folder).exists():
            shutil.copytree(other.store / folder, project.store / folder, dirs_exist_ok=True)
    both = Oracle([here.oracle, there.oracle])
    _check(str(project.store), both, seed, "merged")
    log = EventLog(LocalStorage(str(project.store)))
    log.seal(force=True, grace_s=0)
    assert log.compact(is_whole=True, grace_s=0).merged
    _check(str(project.store), both, seed, "compacted")


@pytest.mark.parametrize("seed", _SEEDS)
def test_lineage_is_what_the_steps_saw(
    project: Project, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    _check_all(project, tmp_path_factory, seed, "fork" if seed % 3 == 0 else "inline")


@pytest.mark.slow
@pytest.mark.parametrize("seed", _SEEDS_SLOW)
def test_lineage_of_many_flows_is_what_the_steps_saw(
    project: Project, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    _check_all(project, tmp_path_factory, seed, "fork" if seed % 4 == 0 else "inline")
