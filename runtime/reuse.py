"""Reuse across ordinary runs: a finished task of any earlier run that had the same code and read the same. Pure.

Candidates come from the log alone, as it was when the run began. Nothing is marked as used and nothing is locked:
any number of runs may look for candidates at once, and what one of them saves is found by those that begin later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from weft.lineage.projections import RunState
from weft.lineage.serializers import is_pickle
from weft.runtime.graph import Graph
from weft.runtime.history import Earlier, History, Missing
from weft.runtime.keys import FlowCode, Sight
from weft.runtime.machine import TaskPlace
from weft.runtime.resume import REUSE, RUN, Decision, Outside, misfit, what_is_gone
from weft.runtime.shapes import Outer, Shape, parse_shape, sight_digest

__all__ = ["Candidate", "Candidates", "Reuse"]

#: Of finished tasks that read the same so many are looked at, the newest first.
_ASKED_MAX = 8

#: What a run that is at work told so recently may not be on disk yet.
_SETTLED_US = 5_000_000


class Candidate(NamedTuple):
    """A finished task, and what it read outside of its sight."""

    run_uid: bytes
    task_id: str
    ended_us: int
    outside: tuple[Outer, ...]


class Candidates:
    """Finished tasks by step and by what they read."""

    def __init__(self) -> None:
        self._shapes: dict[str, dict[str, Shape]] = {}
        self._found: dict[tuple[str, str], list[Candidate]] = {}

    def add(self, run: RunState, now_us: int) -> None:
        """Take in the tasks of a run that succeeded; a caught failure is tried again."""
        for task in run.tasks.values():
            ended = task.final.ended if task.status == "succeeded" and task.final is not None else None
            reads = ((ended.payload or {}) if ended is not None else {}).get("reads")
            if ended is None or reads is None:
                continue
            if run.status == "running" and ended.time_us > now_us - _SETTLED_US:
                continue
            shapes = self._shapes.setdefault(task.step, {})
            shape = parse_shape(reads["shape"])
            shapes.setdefault(shape.text, shape)
            outside = tuple(Outer(k, n, bytes.fromhex(v)) for k, n, v in reads.get("outside", ()))
            found = self._found.setdefault((task.step, reads["digest"]), [])
            found.append(Candidate(run.run_uid, task.task_id, ended.time_us, outside))

    def that_read(self, step: str, code: FlowCode, sight: Sight) -> Iterator[Candidate]:
        """The tasks of a step that had this code and read what is in sight; of each shape the newest first."""
        for shape in self._shapes.get(step, {}).values():
            step_code = code.with_pickles(step, shape.pickles)
            digest = None if step_code is None else sight_digest(step_code, shape, sight)
            if digest is not None:
                yield from sorted(
                    self._found.get((step, digest), ()), key=lambda found: found.ended_us, reverse=True
                )


class Reuse:
    """Decides for each new task of `steps` whether a candidate stands in for it.

    `history_of` gives the history of a run by its uid; `is_trusted` says whether a pickle of a run (flow, run id)
    may be loaded. `last_time_us` is the time of the latest event that was read.
    """

    def __init__(
        self,
        candidates: Candidates,
        history_of: Callable[[bytes], History],
        graph: Graph,
        steps: frozenset[str],
        outside: Outside,
        code: FlowCode,
        is_trusted: Callable[[str, str | None], bool],
        last_time_us: int,
    ) -> None:
        self.code = code
        self.steps = steps
        self.last_time_us = last_time_us
        self._candidates = candidates
        self._history_of = history_of
        self._graph = graph
        self._outside = outside
        self._is_trusted = is_trusted

    def decide(self, place: TaskPlace, sight: Sight, are_parents_reused: bool) -> Decision | None:
        """None for a step whose tasks always run."""
        if place.step not in self.steps:
            return None
        reason = "no finished task had the same code and reads"
        asked = 0
        for candidate in self._candidates.that_read(place.step, self.code, sight):
            asked += 1
            if asked > _ASKED_MAX:
                break
            try:
                earlier = self._earlier(place.step, candidate)
                refusal = self._refusal(candidate, earlier)
            except Missing as missing:
                reason = f"what it would build on is gone: {missing}"
                continue
            if refusal is None:
                return Decision(REUSE, f"same code and reads as {earlier.pathspec}", earlier)
            reason = f"{earlier.pathspec} had the same code and reads, but {refusal}"
        return Decision(RUN, reason)

    def _earlier(self, step: str, candidate: Candidate) -> Earlier:
        history = self._history_of(candidate.run_uid)
        task = history.origin.run.tasks.get((step, candidate.task_id))
        if task is None:
            raise Missing(f"task {step}/{candidate.task_id} is not in this store")
        return history.earlier_of(task)

    def _refusal(self, candidate: Candidate, earlier: Earlier) -> str | None:
        for kind, name, value in candidate.outside:
            # What a finished task of another run saved never changes.
            if kind == "external" and self._outside.fingerprint(name, value) != value:
                return f"the content of {name} changed"
        found = misfit(self._graph.steps[earlier.source.step], earlier)
        if found is not None:
            return found
        for name, ref in earlier.saved.items():
            if is_pickle(ref.serializer) and not self._is_trusted(ref.producer.flow, ref.producer.run_id):
                return f"{name} is a pickle that somebody else wrote"
        gone = what_is_gone(earlier, self._outside.has)
        return None if gone is None else f"its artifacts are gone: {gone}"
