"""Task keys: all that a finished task depended on, code and reads, as one digest. Pure.

A read is named by where a task finds it, not by the run that made it: the same step on the same values has
the same key in every run. `dependencies` says what a task depended on from what it is recorded to have read,
`look_up` what it would find there now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from weft.lineage.events import Level
from weft.lineage.schema import Event, Payload
from weft.runtime.reach import EVERY_MODULE, FOREACH_STACK, INDEX, FlowReach, StepReach
from weft.runtime.refs import Table

__all__ = [
    "UNKNOWN",
    "Dependencies",
    "Dependency",
    "FlowCode",
    "Input",
    "Sight",
    "StepCode",
    "dependencies",
    "digest_of_json",
    "external_value",
    "flow_code",
    "flow_code_of",
    "look_up",
    "pickles_among",
    "task_key",
]

#: Changes when keys are made otherwise: then none of the old ones equals a new one.
_FORMAT = "weft-key/1"

#: As `json.dumps`, which would make an encoder for each call.
_json_text = json.JSONEncoder(ensure_ascii=False).encode

#: What the pickles that a task read have to do with the code: see `pickles_among`.
NO_PICKLES, FOREIGN_PICKLES, OUR_PICKLES = "", "foreign", "ours"

#: The digest of what is not known before a task has run.
UNKNOWN = b"?"

_PARAMETERS_STEP = "_parameters"


class StepCode(NamedTuple):
    """The code part of a step's keys: digests by label, and versions of the distributions it imports."""

    digest: str
    rule: str
    reason: str | None
    parts: dict[str, str]
    packages: dict[str, str]


class FlowCode(NamedTuple):
    """The code parts of a flow's steps, and that of all its local modules together."""

    python: str
    steps: dict[str, StepCode]
    every: StepCode
    modules: tuple[str, ...]

    def with_pickles(self, step: str, pickles: str, reason: str | None = None) -> StepCode | None:
        """The code that a task of `step` depended on: objects in a pickle bring the code of their classes along.

        `pickles` and `reason` are as `pickles_among` its reads says.
        """
        code = self.steps.get(step)
        if code is None or pickles == NO_PICKLES or (pickles == OUR_PICKLES and code.rule == EVERY_MODULE):
            return code
        if pickles == OUR_PICKLES:
            parts = {**self.every.parts, **code.parts}
            return _step_code(self.python, EVERY_MODULE, reason, parts, self.every.packages)
        packages = {**self.every.packages, **code.packages}
        return _step_code(self.python, code.rule, code.reason, code.parts, packages)

    def to_payload(self) -> Payload:
        """Plain JSON values, for the event that records it."""
        every_parts = dict(self.every.parts)
        packages = dict(self.every.packages)
        steps: dict[str, Any] = {}
        for step, code in self.steps.items():
            every_parts |= code.parts
            packages |= code.packages
            steps[step] = {"digest": code.digest, "rule": code.rule, "packages": sorted(code.packages)}
            is_all = code.rule == EVERY_MODULE
            listed = code.parts.keys() - self.every.parts.keys() if is_all else code.parts.keys()
            steps[step]["parts"] = sorted(listed)
            if code.reason is not None:
                steps[step]["reason"] = code.reason
        return {
            "python": self.python,
            "modules": list(self.modules),
            "parts": every_parts,
            "packages": packages,
            "every": {
                "digest": self.every.digest,
                "parts": sorted(self.every.parts),
                "packages": sorted(self.every.packages),
            },
            "steps": steps,
        }


class Input(NamedTuple):
    """One input of a join: the branch's step, its foreach levels and items, and what it sees at its end."""

    step: str
    levels: tuple[Level, ...]
    items: tuple[Any, ...]
    table: Table


class Sight(NamedTuple):
    """What a task can see as it is created. `inputs` is None but for a join, which inherits no `table`."""

    parameters: Mapping[str, bytes]
    levels: tuple[Level, ...]
    items: tuple[Any, ...]
    table: Table
    inputs: tuple[Input, ...] | None = None


class Dependency(NamedTuple):
    """One thing a task depended on: its kind, where it lies, and its name.

    `place` counts inputs of a join and levels of foreach. Kinds: parameter, artifact, item, merged, and what is
    no read but shows in a task's result: the inputs of a join, the names they have, the lengths of foreachs and
    the positions in them.
    What lies outside of what a task can see is external (a file) or elsewhere (a task of another run).
    """

    kind: str
    place: tuple[int, ...]
    name: str


Dependencies = dict[Dependency, bytes | None]


def flow_code(reach: FlowReach, versions: Mapping[str, Mapping[str, str]], python: str) -> FlowCode:
    """`versions` gives for each module from elsewhere the distributions that brought it."""

    def code_of(found: StepReach) -> StepCode:
        packages = {name: v for module in sorted(found.modules) for name, v in versions[module].items()}
        return _step_code(python, found.rule, found.reason, found.parts, packages)

    steps = {step: code_of(found) for step, found in reach.steps.items()}
    return FlowCode(python, steps, code_of(reach.every), reach.local)


def flow_code_of(payload: Payload) -> FlowCode:
    """The inverse of `FlowCode.to_payload`."""
    parts, packages = payload["parts"], payload["packages"]
    told = payload["every"]
    every = StepCode(
        told["digest"],
        EVERY_MODULE,
        None,
        {label: parts[label] for label in told["parts"]},
        {name: packages[name] for name in told["packages"]},
    )
    steps = {}
    for step, code in payload["steps"].items():
        listed = {label: parts[label] for label in code["parts"]}
        whole = {**every.parts, **listed} if code["rule"] == EVERY_MODULE else listed
        versions = {name: packages[name] for name in code["packages"]}
        steps[step] = StepCode(code["digest"], code["rule"], code.get("reason"), whole, versions)
    return FlowCode(payload["python"], steps, every, tuple(payload["modules"]))


def _step_code(
    python: str, rule: str, reason: str | None, parts: dict[str, str], packages: dict[str, str]
) -> StepCode:
    digest = digest_of_json([_FORMAT, python, sorted(parts.items()), sorted(packages.items())]).hex()
    return StepCode(digest, rule, reason, parts, packages)


def pickles_among(reads: Iterable[Event]) -> tuple[str, str | None]:
    """Which pickles were read, none, foreign ones, or some that name modules of ours; and of these one as text."""
    named = [(e.name, e.payload["modules"]) for e in reads if e.payload and "modules" in e.payload]
    for name, modules in named:
        if modules:
            return OUR_PICKLES, f"artifact {name} is a pickle that names {', '.join(modules)}"
    return FOREIGN_PICKLES if named else NO_PICKLES, None


def task_key(code: StepCode, depends_on: Dependencies) -> str:
    """The key as hex digits."""
    reads = sorted(
        [d.kind, list(d.place), d.name, None if v is None else v.hex()] for d, v in depends_on.items()
    )
    return digest_of_json([_FORMAT, code.digest, reads]).hex()


def dependencies(
    told: Iterable[Event], sight: Sight, code: StepCode | None, paths: Iterable[Event] = ()
) -> Dependencies:
    """What a task depended on, from the reads and merges among the events of its attempt.

    `sight` is what it saw. A read of something that it did not see there (by the client, of another run) is
    named by the task that made it, and never changes. `paths` tell what lay where parameters point to.
    """
    found: Dependencies = {}
    finder = _Finder(sight)
    is_merging = False
    for event in told:
        name = event.name or ""
        if event.kind == "artifact_merged":
            is_merging = True
            found[Dependency("merged", (), name)] = event.digest
        elif event.kind == "external_used":
            if (event.payload or {}).get("direction") == "read":
                found[Dependency("external", (), name)] = external_value(event.digest, event.payload)
        elif event.kind == "artifact_used":
            for place in finder.places(event, name):
                found[place] = event.digest
    for event in paths:
        facts = event.payload or {}
        # The content of an included file is the parameter itself.
        pointing = None if facts.get("is_included") else facts.get("parameter")
        if pointing is not None and Dependency("parameter", (), pointing) in found:
            found[Dependency("external", (), event.name or "")] = external_value(event.digest, event.payload)
    if sight.inputs is not None:
        _note(found, Dependency("inputs", (), ""), sight)
        if is_merging:
            _note(found, Dependency("names", (), ""), sight)
    if code is not None and sight.levels:
        is_unproved = code.rule == EVERY_MODULE
        if is_unproved or FOREACH_STACK in code.parts:
            _note(found, Dependency("lengths", (), ""), sight)
        if is_unproved or FOREACH_STACK in code.parts or INDEX in code.parts:
            _note(found, Dependency("positions", (), ""), sight)
    return found


def external_value(digest: bytes | None, facts: Mapping[str, Any] | None) -> bytes:
    """What tells the content of a file apart: its digest, else the state that is known; empty for nothing."""
    if digest is not None:
        return digest
    state = (facts or {}).get("state")
    return b"" if state is None else b"state:" + str(state).encode()


def look_up(dependency: Dependency, sight: Sight) -> bytes | None:
    """The digest of what lies there now; None for nothing, `UNKNOWN` where a task has yet to run."""
    kind, place, name = dependency
    if kind == "parameter":
        return sight.parameters.get(name)
    if kind == "artifact":
        return _artifact(name, place, sight)
    if kind == "item":
        return _item(place, name, sight)
    if kind == "merged":
        found = {i.table[name].digest for i in sight.inputs or () if name in i.table}
        return found.pop() if len(found) == 1 else UNKNOWN if UNKNOWN in found else None
    if kind == "inputs":
        return digest_of_json([branch.step for branch in sight.inputs or ()])
    if kind == "names":
        return digest_of_json([sorted(branch.table) for branch in sight.inputs or ()])
    if kind == "positions":
        return digest_of_json([level.position for level in sight.levels])
    assert kind == "lengths", kind
    return digest_of_json([level.num_splits for level in sight.levels])


def _note(found: Dependencies, dependency: Dependency, sight: Sight) -> None:
    found[dependency] = look_up(dependency, sight)


def _artifact(name: str, place: tuple[int, ...], sight: Sight) -> bytes | None:
    table = sight.table
    if place:
        inputs = sight.inputs or ()
        if place[0] >= len(inputs):
            return None
        table = inputs[place[0]].table
    ref = table.get(name)
    return sight.parameters.get(name) if ref is None else ref.digest


def _item(place: tuple[int, ...], name: str, sight: Sight) -> bytes | None:
    levels, items = sight.levels, sight.items
    if len(place) > 1:
        inputs = sight.inputs or ()
        if place[0] >= len(inputs):
            return None
        levels, items = inputs[place[0]].levels, inputs[place[0]].items
    depth = place[-1]
    if depth >= len(items) or levels[depth].var != name:
        return None
    digest: bytes = items[depth].digest
    return digest


class _Finder:
    """Finds where a task found what it read; several places where one value could be seen in all of them."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._producers: dict[str, dict[tuple[Any, ...], list[Dependency]]] = {}
        self._items: dict[tuple[str, int, bytes], list[Dependency]] | None = None

    def places(self, event: Event, name: str) -> Sequence[Dependency]:
        if event.producer_step == _PARAMETERS_STEP:
            return (Dependency("parameter", (), name),)
        if event.item_index is not None:
            found = self._item_places(name, event.item_index, event.digest or b"")
        elif self._sight.inputs is not None:
            found = self._input_places(event, name, self._sight.inputs)
        else:
            ref = self._sight.table.get(name)
            is_there = (None if ref is None else ref.digest) == event.digest
            found = (Dependency("artifact", (), name),) if is_there else ()
        if found or event.is_absent:
            return found or (Dependency("artifact", (), name),)
        maker = (event.producer_flow, event.producer_run_id, event.producer_step, event.producer_task_id)
        return (Dependency("elsewhere", (), "/".join([*map(str, maker), name])),)

    def _input_places(self, event: Event, name: str, inputs: tuple[Input, ...]) -> Sequence[Dependency]:
        if name not in self._producers:
            known: dict[tuple[Any, ...], list[Dependency]] = {}
            for position, branch in enumerate(inputs):
                ref = branch.table.get(name)
                maker = () if ref is None else tuple(ref.producer[:4])
                known.setdefault(maker, []).append(Dependency("artifact", (position,), name))
            self._producers[name] = known
        maker = (event.producer_flow, event.producer_run_id, event.producer_step, event.producer_task_id)
        return self._producers[name].get(() if event.is_absent else maker, ())

    def _item_places(self, name: str, index: int, digest: bytes) -> Sequence[Dependency]:
        if self._items is None:
            self._items = {}
            sight = self._sight
            if sight.inputs is None:
                self._note_items((), sight.levels, sight.items)
            for position, branch in enumerate(sight.inputs or ()):
                self._note_items((position,), branch.levels, branch.items)
        return self._items.get((name, index, digest), ())

    def _note_items(self, place: tuple[int, ...], levels: tuple[Level, ...], items: tuple[Any, ...]) -> None:
        assert self._items is not None
        for depth, (level, item) in enumerate(zip(levels, items, strict=False)):
            found = self._items.setdefault((level.var, level.position, item.digest), [])
            found.append(Dependency("item", (*place, depth), level.var))


def digest_of_json(value: Any) -> bytes:
    """The sha256 of a plain value as JSON."""
    return hashlib.sha256(_json_text(value).encode("utf-8", "surrogatepass")).digest()
