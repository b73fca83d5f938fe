"""Resume: which task of an earlier run may stand in for a new one, decided as the new one is created. Pure.

At that moment all tasks before it are done, so everything it could read is known. In plain resume (Metaflow's)
a task is reused when it was done, all tasks before it are reused, and its transition still fits the graph. When
reads are compared it is reused when each of its recorded reads gives the same digest now, whatever ran before
it; when code is compared, the code it reached must be the same as well. A task that ran again and saved the same
values so stops the wave by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from weft.lineage import events
from weft.lineage.errors import UsageError
from weft.lineage.events import Content, RunRef
from weft.lineage.projections import DONE
from weft.lineage.schema import Event, Payload
from weft.runtime.graph import Graph, Node
from weft.runtime.history import Earlier, History, Missing, Origin, content_of, role_of
from weft.runtime.keys import UNKNOWN, Dependency, FlowCode, Sight, StepCode, look_up
from weft.runtime.machine import TaskPlace
from weft.runtime.shapes import Shape, parse_shape, sight_digest

__all__ = [
    "MAYBE",
    "REUSE",
    "RUN",
    "Change",
    "Decision",
    "Outside",
    "Planner",
    "Request",
    "misfit",
    "what_is_gone",
]

REUSE, RUN, MAYBE = "reuse", "run", "maybe"

_CHANGES_MAX = 20
_NAMED_MAX = 3


class Request(NamedTuple):
    """What a resume is asked for. `step` runs again with all that follows it, `place` alone."""

    step: str | None = None
    place: TaskPlace | None = None
    compares_reads: bool = False
    compares_code: bool = False


class Outside(NamedTuple):
    """What a decision asks of the world: whether an object is there, and what tells a file's content apart."""

    has: Callable[[bytes], bool]
    fingerprint: Callable[[str, bytes], bytes]


class Change(NamedTuple):
    """One thing that is not as it was: its kind (code, package, python, parameter, artifact …), name, and
    what it was and is (digests in hex, versions)."""

    kind: str
    name: str
    before: str | None
    after: str | None


class Decision(NamedTuple):
    """What becomes of a task that is to be created: `REUSE` with `earlier`, `RUN`, or in a plan `MAYBE`."""

    action: str
    reason: str
    earlier: Earlier | None = None
    changes: tuple[Change, ...] = ()

    def to_payload(self) -> Payload:
        """Why a task ran, for the event that creates it."""
        payload: Payload = {"reason": self.reason}
        if self.earlier is not None:
            payload["earlier"] = str(self.earlier.pathspec)
        if self.changes:
            payload["changes"] = [list(change) for change in self.changes[:_CHANGES_MAX]]
        return payload


class Planner:
    """Decides for each new task whether one of the origin stands in for it.

    `code` is that of the flow as it is now, needed where code is compared.

    Raises: UsageError for a step that the flow does not have.
    """

    def __init__(
        self, origin: Origin, graph: Graph, request: Request, outside: Outside, code: FlowCode | None = None
    ) -> None:
        self.origin = origin
        self.request = request
        self.code = code
        self.history = History(origin)
        self._graph = graph
        self._outside = outside
        self._code_changes: dict[tuple[str, str], tuple[Change, ...]] = {}
        self._shapes: dict[str, Shape] = {}
        self._last_shapes: dict[str, tuple[list[Any], Shape]] = {}
        self._rerun = _steps_to_rerun(graph, request.step)

    @property
    def run_id(self) -> str:
        return self.origin.run.run_id

    @property
    def parameters(self) -> dict[str, Content]:
        """The origin's values."""
        recorded = self.origin.run.parameters.items()
        return {name: content_of(event) for name, event in recorded if role_of(event) == "parameter"}

    @property
    def lost(self) -> Event | None:
        """The fact about the origin that nobody has told yet."""
        run, last_seq = self.origin.run, self.origin.last_seq
        if run.status != "lost" or run.ended is not None or run.writer is None or last_seq is None:
            return None
        return events.run_lost(RunRef(run.run_uid, run.flow, run.run_id), run.writer, last_seq)

    def decide(self, place: TaskPlace, sight: Sight, are_parents_reused: bool) -> Decision:
        """Whether the earlier task at a place stands in for the one that is about to be created there."""
        try:
            earlier = self.history.earlier(place)
            if earlier is None:
                return Decision(RUN, f"it is not in {self._run_name}")
            refusal = self._refusal(place, earlier, are_parents_reused)
            if refusal is not None:
                return Decision(RUN, refusal, earlier)
            if self.request.compares_code:
                decision = self._compare_code(earlier)
                if decision is not None:
                    return decision
            if self.request.compares_reads:
                decision = self._compare_reads(earlier, sight)
                if decision is not None:
                    return decision
            gone = what_is_gone(earlier, self._outside.has)
        except Missing as missing:
            return Decision(RUN, f"what it builds on is gone: {missing}")
        if gone is not None:
            return Decision(RUN, f"its artifacts are gone: {gone}", earlier)
        return Decision(REUSE, self._reason(earlier), earlier)

    @property
    def _run_name(self) -> str:
        return f"{self.origin.run.flow}/{self.origin.run.run_id}"

    def _reason(self, earlier: Earlier) -> str:
        run = f"{earlier.pathspec.flow}/{earlier.pathspec.run_id}"
        if self.request.compares_code:
            return f"same code and reads as {earlier.pathspec}"
        if self.request.compares_reads:
            return f"same reads as {earlier.pathspec}"
        return f"finished in {run}"

    def _refusal(self, place: TaskPlace, earlier: Earlier, are_parents_reused: bool) -> str | None:
        task = earlier.task
        if place.step in self._rerun:
            is_named = place.step == self.request.step
            return "the step was named" if is_named else f"it follows {self.request.step}, which was named"
        if place == self.request.place:
            return "the task was named"
        if task.status not in DONE:
            return f"it {_STATUS_WORDS.get(task.status, task.status)} in {self._run_name}"
        if not self.request.compares_reads and not are_parents_reused:
            return "a task before it runs again"
        return misfit(self._graph.steps[place.step], earlier)

    # Code and reads

    def _compare_code(self, earlier: Earlier) -> Decision | None:
        assert self.code is not None, "code is compared with the code there is"
        before = self.history.code_of(earlier)
        if before is None:
            return Decision(RUN, f"its code was not recorded in {self._run_name}", earlier)
        after = self.code.with_pickles(earlier.source.step, self.history.pickles_of(earlier))
        if after is None or after.digest == before.digest:
            return None
        flow_code = self.history.flow_code(earlier.source_run)
        assert flow_code is not None
        compared = (before.digest, after.digest)
        if compared not in self._code_changes:
            self._code_changes[compared] = _code_changes(before, after, flow_code.python, self.code.python)
        changes = self._code_changes[compared]
        return Decision(RUN, _named(changes), earlier, changes)

    def _has_read_the_same(self, earlier: Earlier, sight: Sight) -> bool | None:
        """Whether the digest says so that was recorded, None where there is none; if not, reads are compared one by
        one."""
        told = earlier.reads
        code = None if told is None else self.history.code_of(earlier)
        if told is None or code is None:
            return None
        shape = self._shape(earlier.source.step, told["shape"])
        return sight_digest(code, shape, sight) == told["digest"] and all(
            kind == "external" and self._outside.fingerprint(name, bytes.fromhex(value)).hex() == value
            for kind, name, value in told.get("outside", ())
        )

    def _shape(self, step: str, rows: list[Any]) -> Shape:
        """The shape that a task of a step told; thousands of them tell the same."""
        last = self._last_shapes.get(step)
        if last is not None and last[0] == rows:
            return last[1]
        key = repr(rows)
        if key not in self._shapes:
            self._shapes[key] = parse_shape(rows)
        self._last_shapes[step] = rows, self._shapes[key]
        return self._shapes[key]

    def _compare_reads(self, earlier: Earlier, sight: Sight) -> Decision | None:
        is_same = self._has_read_the_same(earlier, sight)
        if is_same:
            return None
        changes: list[Change] = []
        unknown: list[str] = []
        for dependency, before in self.history.depends_on(earlier).items():
            if dependency.kind == "external":
                after: bytes | None = self._outside.fingerprint(dependency.name, before or b"")
            elif dependency.kind == "elsewhere":
                # What a task saved never changes, but the client that is asked again may find another one.
                after = None
            else:
                after = look_up(dependency, sight)
            if after == UNKNOWN:
                unknown.append(dependency.name or "its inputs")
            elif after != before or after == b"":
                changes.append(_read_change(dependency, before, after))
        if changes:
            return Decision(RUN, _named(changes), earlier, tuple(changes))
        if unknown:
            names = ", ".join(list(dict.fromkeys(unknown))[:_NAMED_MAX])
            return Decision(MAYBE, f"if {names} comes out with another value", earlier)
        if is_same is False:
            # As where damage took the events of reads: what is left of them explains nothing.
            return Decision(RUN, "it read other values, and not all of what it read is recorded", earlier)
        return None


def misfit(node: Node, earlier: Earlier) -> str | None:
    """Why the graph does not go on from an earlier task of the step `node`; None where it does."""
    transition = earlier.transition
    steps = tuple(transition.get("next", ()))
    if node.condition is not None:
        is_fitting = len(steps) == 1 and steps[0] in node.out_steps
    else:
        is_fitting = steps == node.out_steps and transition.get("foreach") == node.foreach
    if not is_fitting:
        return "it goes on in another way now"
    if node.foreach is not None and len(earlier.below) < transition.get("num_splits", 0):
        return "not all of its items were recorded"
    return None


def what_is_gone(earlier: Earlier, has: Callable[[bytes], bool]) -> str | None:
    """The name of the first artifact or item whose bytes are not there any more."""
    for name, ref in earlier.saved.items():
        if ref.blob is None and not has(ref.pack or ref.digest):
            return name
    is_split = earlier.transition.get("foreach") is not None
    if is_split and not all(has(pack) for pack in earlier.packs):
        return f"the items of {earlier.transition['foreach']}"
    return None


_STATUS_WORDS = {
    "failed": "failed",
    "pending": "was not begun",
    "running": "was not finished",
    "retrying": "failed",
}
_STATUS_WORDS |= {"lost": "was cut off", "cancelled": "was cancelled"}


def _steps_to_rerun(graph: Graph, step: str | None) -> set[str]:
    """The step and all that follows it."""
    if step is None:
        return set()
    if step not in graph.steps:
        from difflib import get_close_matches

        near = get_close_matches(step, list(graph.steps), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"{graph.name} has no step {step!r}.{hint} Its steps are: {', '.join(graph.steps)}.")
    reached, frontier = {step}, [step]
    while frontier:
        for target in graph.steps[frontier.pop()].out_steps:
            if target not in reached:
                reached.add(target)
                frontier.append(target)
    return reached


def _code_changes(
    before: StepCode, after: StepCode, python_before: str, python_after: str
) -> tuple[Change, ...]:
    changes = [
        *_differences("code", before.parts, after.parts),
        *_differences("package", before.packages, after.packages),
    ]
    if python_before != python_after:
        changes.append(Change("python", "", python_before, python_after))
    return tuple(changes) or (Change("code", "how keys are made", None, None),)


def _differences(kind: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    names = [*before, *(name for name in after if name not in before)]
    return [
        Change(kind, name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _read_change(dependency: Dependency, before: bytes | None, after: bytes | None) -> Change:
    kind, place, name = dependency
    if kind in ("artifact", "item") and place and (kind == "artifact" or len(place) > 1):
        name = f"inputs[{place[0]}].{name}"
    return Change(
        kind, name, None if before is None else before.hex(), None if after is None else after.hex()
    )


_KINDS = {
    "artifact": "{} has another value",
    "code": "{} changed",
    "elsewhere": "it asked the client, which found {} then",
    "external": "the content of {} changed",
    "inputs": "its inputs are others",
    "item": "the item of {} has another value",
    "lengths": "a foreach around it has another length",
    "merged": "merged {} has another value",
    "names": "its inputs have other artifacts",
    "package": "package {} changed",
    "parameter": "parameter {} changed",
    "positions": "its place in a foreach is another",
    "python": "Python changed",
}


def _named(changes: list[Change] | tuple[Change, ...]) -> str:
    """The first changes as text."""
    shown = [_KINDS[change.kind].format(change.name) for change in changes[:_NAMED_MAX]]
    more = len(changes) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
