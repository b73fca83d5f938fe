"""What differs between two runs, ordered by cause: the first difference upstream explains those after it. Pure.

Differences form a graph. An artifact that changed is the consequence of what its task read and found changed,
of the code its step reaches, of parameters and of files it read; a task that is there in one run only is that of
the task, the list or the branch it comes from. What nothing recorded explains is a cause by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.code_units import CodeChange
from weft.lineage.pairs import Pairs, Saved, TaskPair, TaskPlace

if TYPE_CHECKING:
    from weft.lineage.contrasts import Contrast

__all__ = ["Cause", "Diff", "Difference", "Effect", "compare"]

#: The kinds of differences, in the order in which causes of one place are told.
_KINDS = (
    "flow",
    "code",
    "graph",
    "parameter",
    "config",
    "constant",
    "input",
    "environment",
    "task",
    "artifact",
)
_PARAMETERS = "_parameters"
_DONE = ("succeeded", "caught")
#: Facts of the environment that change no value by themselves.
_HARMLESS = frozenset({"host", "user", "isolation", "git commit", "git branch"})


class Difference(NamedTuple):
    """One thing that is not the same. `change` is "changed", "only_a" or "only_b".

    `a` and `b` are short texts or None. `because` are the ids of the differences that explain it, none for
    a cause; where `is_certain` is not given they only may. `step` is None for what belongs to no step.
    """

    id: str
    kind: str
    subject: str
    change: str
    a: str | None
    b: str | None
    step: str | None = None
    name: str | None = None
    because: tuple[str, ...] = ()
    is_certain: bool = True

    @property
    def group(self) -> str:
        """The id of all differences that are told as one: those of one artifact over all tasks of a step."""
        if self.kind == "artifact":
            return f"artifact {self.step}/{self.name}"
        return f"task {self.step}" if self.kind == "task" else self.id


class Effect(NamedTuple):
    """Differences of one kind in one step that a cause explains: how many, and the first of them."""

    kind: str
    step: str
    name: str | None
    total: int
    first: str


class Cause(NamedTuple):
    """A difference that nothing recorded explains, or several of one group, and what follows from it."""

    id: str
    kind: str
    differences: tuple[Difference, ...]
    effects: tuple[Effect, ...]
    is_certain: bool


class Diff:
    """Two runs compared; `causes` come first on top, `differences` in the order of the graph."""

    def __init__(
        self,
        pairs: Pairs,
        code: Sequence[CodeChange],
        differences: Sequence[Difference],
        causes: Sequence[Cause],
        contrast: Callable[[Saved, Saved], Contrast] | None = None,
    ) -> None:
        self.a = pairs.a
        self.b = pairs.b
        self.times = pairs.times
        #: How many artifacts are equal, by step and name.
        self.equal = pairs.equal
        self.code = list(code)
        self.differences = list(differences)
        self.causes = list(causes)
        self.artifacts = {_artifact_id(p.place, p.name): p for p in pairs.artifacts}
        self.reads = list(pairs.reads)
        self._contrast = contrast

    @property
    def equal_artifacts(self) -> int:
        return sum(self.equal.values())

    @property
    def is_equal(self) -> bool:
        """Whether every task came out the same way and every artifact has the same digest."""
        return not any(d.kind in ("task", "artifact") for d in self.differences)

    @property
    def notes(self) -> list[str]:
        """What a reader has to know to read the rest rightly."""
        if self.a.flow == self.b.flow:
            return []
        flows = f"{self.a.flow} and {self.b.flow} are different flows"
        return [f"{flows}: compared is what has the same step, place in its foreach, and name."]

    def contrast(self, difference: Difference | str) -> Contrast | None:
        """How the two contents of a changed artifact differ; None where it is not there twice. Loads no pickle."""
        identity = difference if isinstance(difference, str) else difference.id
        pair = self.artifacts.get(identity)
        if pair is None or pair.a is None or pair.b is None or self._contrast is None:
            return None
        return self._contrast(pair.a, pair.b)

    def document(self, contrasts_max: int = 50) -> dict[str, Any]:
        """All of it as plain JSON values; of changed artifacts the first `contrasts_max` are looked into."""
        from weft.lineage.diff_text import document_of

        return document_of(self, contrasts_max)

    def text(self) -> str:
        """For people: causes first, then artifacts, inputs and durations."""
        from weft.lineage.diff_text import text_of

        return text_of(self)

    def json(self) -> str:
        import json

        return json.dumps(self.document(), ensure_ascii=False, indent=2)

    def __repr__(self) -> str:
        return f"<Diff {self.a.pathspec} {self.b.pathspec}: {len(self.differences)} differences>"

    def _repr_html_(self) -> str:
        from weft.lineage.diff_text import html_of

        return html_of(self)


def _artifact_id(place: TaskPlace, name: str) -> str:
    return f"artifact {place.label}/{name}"


def compare(
    pairs: Pairs,
    code: Sequence[CodeChange],
    reached: Mapping[tuple[str, str], Sequence[str]],
    contrast: Callable[[Saved, Saved], Contrast] | None = None,
) -> Diff:
    """Order what differs by cause. `reached` are the steps that each changed unit of code can make different."""
    weaver = _Weaver(pairs, code, reached)
    differences = [*weaver.of_runs(), *weaver.of_tasks(), *weaver.of_artifacts()]
    place = _places(pairs.a.graph, pairs.b.graph)
    differences.sort(key=lambda d: (_rank(d, place), d.kind == "artifact"))
    pairs = pairs._replace(times=sorted(pairs.times, key=lambda t: place.get(t.step, len(place))))
    return Diff(pairs, code, differences, _causes(differences, place), contrast)


class _Weaver:
    """Makes the differences and ties each to what explains it."""

    def __init__(
        self, pairs: Pairs, code: Sequence[CodeChange], reached: Mapping[tuple[str, str], Sequence[str]]
    ) -> None:
        self._pairs = pairs
        self._code = [change for change in code if not change.is_cosmetic]
        self._reached = reached
        self._code_of: dict[str, list[str]] = {}
        for change in self._code:
            for step in reached.get((change.path, change.name), ()):
                self._code_of.setdefault(step, []).append(_code_id(change))
        self._values = {pair.name: f"{pair.role} {pair.name}" for pair in pairs.values}
        self._artifacts = {(p.place, p.name) for p in pairs.artifacts}
        self._tasks = {pair.place: pair for pair in pairs.tasks}
        self._tasks_of: dict[str, list[TaskPlace]] = {}
        for place in self._tasks:
            self._tasks_of.setdefault(place.step, []).append(place)
        #: Of each run the tasks that differ and are not done.
        self._unfinished = tuple(
            tuple(_task_id(place) for place, status in told if status is not None and status not in _DONE)
            for told in (
                [(pair.place, pair.a) for pair in pairs.tasks],
                [(pair.place, pair.b) for pair in pairs.tasks],
            )
        )
        self._reads: dict[TaskPlace, dict[str, None]] = {}
        self._collect_reads()
        self._graphs = _nodes(pairs.a.graph), _nodes(pairs.b.graph)
        self._graph_steps = set[str]()
        self._environment = list(self._differing_environment())
        self._suspects = tuple(d.id for d in self._environment if d.subject not in _HARMLESS)

    def of_runs(self) -> Iterator[Difference]:
        """Flow, code, graph, parameters, constants, environment and files."""
        pairs = self._pairs
        if pairs.a.flow != pairs.b.flow:
            yield Difference("flow", "flow", "flow", "changed", pairs.a.flow, pairs.b.flow)
        for change in self._code:
            subject = f"{change.path}: {change.name or 'the rest of the module'}"
            yield Difference(_code_id(change), "code", subject, change.change, None, None)
        yield from self._differing_graph()
        for pair in pairs.values:
            identity = self._values[pair.name]
            values = _shown(pair.a), _shown(pair.b)
            yield Difference(identity, pair.role, pair.name, _change(pair.a, pair.b), *values)
        yield from self._environment
        seen: dict[str, None] = {}
        for touched in pairs.external:
            identity = f"input {touched.uri}"
            if touched.direction == "read" and identity not in seen:
                seen[identity] = None
                values = touched.a, touched.b
                yield Difference(identity, "input", touched.uri, _change(*values), *values)

    def of_tasks(self) -> Iterator[Difference]:
        for pair in self._pairs.tasks:
            place = pair.place
            if pair.a is None or pair.b is None:
                because, is_certain = self._why_missing(pair), True
            else:
                because, is_certain = self._why(place)
            yield Difference(
                _task_id(place),
                "task",
                place.label,
                _change(pair.a, pair.b),
                pair.a,
                pair.b,
                place.step,
                None,
                because,
                is_certain,
            )

    def of_artifacts(self) -> Iterator[Difference]:
        whys: dict[TaskPlace, tuple[tuple[str, ...], bool]] = {}
        for pair in self._pairs.artifacts:
            place = pair.place
            if place in self._tasks:
                # The task itself came out otherwise, and that is told.
                why: tuple[tuple[str, ...], bool] = ((_task_id(place),), True)
            else:
                if place not in whys:
                    whys[place] = self._why(place)
                why = whys[place]
            yield Difference(
                _artifact_id(place, pair.name),
                "artifact",
                f"{place.label}/{pair.name}",
                _change(pair.a, pair.b),
                _shown(pair.a),
                _shown(pair.b),
                place.step,
                pair.name,
                *why,
            )

    def _collect_reads(self) -> None:
        """What each task read that leads on to another difference."""
        for read in self._pairs.reads:
            producer = read.producer
            if producer.step == _PARAMETERS:
                cause = self._values.get(read.name)
            elif (producer, read.name) in self._artifacts:
                cause = _artifact_id(producer, read.name)
            else:
                cause = _task_id(producer) if producer in self._tasks else None
            if cause is not None:
                self._reads.setdefault(read.place, {})[cause] = None
        for touched in self._pairs.external:
            if touched.direction == "read":
                self._reads.setdefault(touched.place, {})[f"input {touched.uri}"] = None

    def _why(self, place: TaskPlace) -> tuple[tuple[str, ...], bool]:
        """What explains that a task came out otherwise; not for certain where only the environment is left."""
        found = [*self._code_of.get(place.step, ()), *self._reads.get(place, ())]
        return (tuple(found), True) if found else (self._suspects, False)

    def _why_missing(self, pair: TaskPair) -> tuple[str, ...]:
        """What explains that a task is there in one run only."""
        place = pair.place
        if place.step in self._graph_steps:
            return (f"graph {place.step}",)
        nodes = self._graphs[0 if pair.b is None else 1]
        found: dict[str, None] = {}
        for node in nodes.values():
            if place.step in node.get("next", ()):
                found |= dict.fromkeys(self._from_parent(node, place))
        # Where nothing before it differs, the run without it came to an end elsewhere.
        return tuple(found) or self._unfinished[1 if pair.b is None else 0]

    def _from_parent(self, node: Mapping[str, Any], place: TaskPlace) -> Iterator[str]:
        """Differences of the tasks of one step that lead to the task at `place`."""
        step = node["name"]
        outer = place.path.rpartition(",")[0]
        parent = TaskPlace(step, outer if node.get("foreach") else place.path, place.visit)
        for name in (node.get("foreach"), node.get("condition")):
            if name and (parent, name) in self._artifacts:
                yield _artifact_id(parent, name)
        if parent in self._tasks:
            yield _task_id(parent)
        elif not node.get("foreach"):
            # A join: any of the branches that come together in it.
            begin = f"{place.path}," if place.path else ""
            for other in self._tasks_of.get(step, ()):
                if other.path.startswith(begin) and other.path != place.path:
                    yield _task_id(other)

    def _differing_graph(self) -> Iterator[Difference]:
        a, b = self._graphs
        if not a or not b:
            return
        for step in dict.fromkeys([*a, *b]):
            ways = _way(a.get(step)), _way(b.get(step))
            if ways[0] != ways[1]:
                self._graph_steps.add(step)
                because = tuple(self._code_of.get(step, ()))
                yield Difference(f"graph {step}", "graph", step, _change(*ways), *ways, step, None, because)

    def _differing_environment(self) -> Iterator[Difference]:
        a, b = self._pairs.a.environment, self._pairs.b.environment
        has_packages = all(any(name.startswith("package ") for name in facts) for facts in (a, b))
        for name in dict.fromkeys([*a, *b]):
            is_known = has_packages if name.startswith("package ") else True
            if a.get(name) != b.get(name) and is_known:
                values = a.get(name), b.get(name)
                yield Difference(f"environment {name}", "environment", name, _change(*values), *values)


def _causes(differences: Sequence[Difference], place: Mapping[str, int]) -> list[Cause]:
    """Differences without a reason of their own, each group with what follows from it, first causes first."""
    by_id = {difference.id: difference for difference in differences}
    roots = _roots(by_id)
    own: dict[str, list[Difference]] = {}
    effects: dict[str, dict[str, list[Difference]]] = {}
    for difference in differences:
        if difference.group in roots[difference.id]:
            own.setdefault(difference.group, []).append(difference)
        for root in roots[difference.id]:
            if root != difference.group:
                effects.setdefault(root, {}).setdefault(difference.group, []).append(difference)
    found = []
    for identity, group in own.items():
        following = [
            Effect(first.kind, first.step or "", first.name, len(members), first.id)
            for members in effects.get(identity, {}).values()
            if (first := members[0]).kind in ("task", "artifact", "graph")
        ]
        explained = (d for members in effects.get(identity, {}).values() for d in members)
        is_certain = all(d.is_certain for d in explained if identity in d.because)
        found.append(Cause(identity, group[0].kind, tuple(group), tuple(following), is_certain))
    return sorted(found, key=lambda cause: _cause_rank(cause, by_id, place))


def _cause_rank(
    cause: Cause, by_id: Mapping[str, Difference], place: Mapping[str, int]
) -> tuple[bool, int, int, str]:
    affected = [by_id[effect.first] for effect in cause.effects]
    if cause.kind in ("task", "artifact"):
        affected.append(cause.differences[0])
    first = min((_rank(d, place) for d in affected), default=0)
    return not affected, first, _KINDS.index(cause.kind), cause.id


def _roots(by_id: Mapping[str, Difference]) -> dict[str, frozenset[str]]:
    """The groups of the causes behind each difference. What a damaged record ties into a circle ends there."""
    roots: dict[str, frozenset[str]] = {}
    for identity in by_id:
        waiting = [identity]
        under_way: set[str] = set()
        while waiting:
            here = waiting[-1]
            if here in roots:
                waiting.pop()
                continue
            known = [i for i in by_id[here].because if i in by_id]
            missing = [i for i in known if i not in roots and i not in under_way]
            if missing and here not in under_way:
                under_way.add(here)
                waiting += missing
                continue
            waiting.pop()
            sets = {roots[i] for i in known if i in roots}
            roots[here] = frozenset().union(*sets) if sets else frozenset({by_id[here].group})
    return roots


def _rank(difference: Difference, place: Mapping[str, int]) -> int:
    return -1 if difference.step is None else place.get(difference.step, len(place))


def _places(*graphs: Mapping[str, Any] | None) -> dict[str, int]:
    """Where each step stands when the graphs are walked from their starts."""
    places: dict[str, int] = {}
    for graph in graphs:
        nodes = _nodes(graph)
        waiting = [graph["start"]] if graph and nodes else []
        while waiting:
            name = waiting.pop(0)
            if name not in places:
                places[name] = len(places)
                waiting += nodes.get(name, {}).get("next", ())
    return places


def _nodes(graph: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {node["name"]: node for node in graph["steps"]} if graph and "steps" in graph else {}


def _way(node: Mapping[str, Any] | None) -> str | None:
    """Where a step leads, as text."""
    if node is None:
        return None
    ways = ", ".join(node.get("next", ())) or "the end"
    split = f" for each of {node['foreach']}" if node.get("foreach") else ""
    switch = f" by {node['condition']}" if node.get("condition") else ""
    decorators = f" with {', '.join(map(str, node['decorators']))}" if node.get("decorators") else ""
    return f"{node.get('kind', 'step')} to {ways}{split}{switch}{decorators}"


def _change(a: object, b: object) -> str:
    return "only_b" if a is None else "only_a" if b is None else "changed"


def _shown(saved: Saved | None) -> str | None:
    return None if saved is None else saved.value or f"{saved.type} {saved.digest[7:19]}"


def _code_id(change: CodeChange) -> str:
    return f"code {change.path}:{change.name}"


def _task_id(place: TaskPlace) -> str:
    return f"task {place.label}"
