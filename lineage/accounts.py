"""Accounts of runs: what was recorded of some, and what became of them, for who compares or explains.

Of many events SQL tells soonest. Of few most of the time goes into planning statements: these are held in
memory, and told by Python. Both accounts give the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from weft.lineage.named_runs import NamedRun, find_run_of, find_runs_named, marks, of_runs
from weft.lineage.run_demands import RunKey
from weft.lineage.schema import family_of

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["Account", "Place", "Reuse", "TaskRow", "ViewAccount"]

#: A step and a task id.
Place = tuple[str, str]


class TaskRow(NamedTuple):
    """One task, in columns of `fold.tasks`: it began with its first attempt and ended with its last, in µs."""

    run_uid: bytes
    step: str
    task_id: str
    status: str
    foreach_path: str | None
    first_us: int
    started_us: int | None
    ended_us: int | None
    final_attempt: int | None
    task_key: str | None


class Reuse(NamedTuple):
    """A reused task, and the task it stands for, whose run may not be there: `origin_uid` is None then."""

    run_uid: bytes
    step: str
    task_id: str
    origin_uid: bytes | None
    origin_flow: str | None
    origin_run_id: str | None
    origin_step: str | None
    origin_task_id: str | None


class Account(Protocol):
    """What events tell of runs. Rows come in no order."""

    def runs(self, names: Iterable[RunKey]) -> dict[RunKey, NamedRun]:
        """The runs of these names, as views show them; those that are not there are left out."""

    def tasks(self, runs: Iterable[NamedRun], places: Collection[Place] | None = None) -> list[TaskRow]:
        """The tasks of runs, or of them at least those at `places`."""

    def reuses(self, runs: Iterable[NamedRun]) -> list[Reuse]:
        """The reused tasks of runs."""

    def origin(self, reuse: Reuse) -> NamedRun | None:
        """The run that a reused task is from; None where it is not there."""

    def events(
        self,
        kinds: Sequence[str],
        columns: Sequence[str],
        runs: Iterable[NamedRun],
        *,
        places: Collection[Place] | None = None,
        digests: Collection[bytes] | None = None,
    ) -> list[tuple[Any, ...]]:
        """Columns of the believed events of runs, of kinds of one family; the payload as a dict, or None.

        Of `places` and `digests` come at least the events with one of them.
        """


class ViewAccount:
    """The account by SQL, below the views."""

    def __init__(self, store: Answers) -> None:
        self._store = store

    def runs(self, names: Iterable[RunKey]) -> dict[RunKey, NamedRun]:
        return find_runs_named(self._store, names)

    def tasks(self, runs: Iterable[NamedRun], places: Collection[Place] | None = None) -> list[TaskRow]:
        runs = list(runs)
        if not runs or (places is not None and not places):
            return []
        condition, params = of_runs(runs, "raw_run_id")
        more, asked = _at(places)
        rows = self._store.rows(
            f"select {', '.join(TaskRow._fields)} from fold.tasks where {condition}{more}",
            [*params, *asked],
            about=[run.key for run in runs],
        )
        return [TaskRow._make(row) for row in rows]

    def reuses(self, runs: Iterable[NamedRun]) -> list[Reuse]:
        runs = list(runs)
        if not runs:
            return []
        condition, params = of_runs(runs, "raw_run_id")
        rows = self._store.rows(
            f"select {', '.join(Reuse._fields)} from fold.reuses where {condition}",
            params,
            about=[run.key for run in runs],
        )
        return [Reuse._make(row) for row in rows]

    def origin(self, reuse: Reuse) -> NamedRun | None:
        if reuse.origin_uid is None or reuse.origin_flow is None or reuse.origin_run_id is None:
            return None
        return find_run_of(self._store, reuse.origin_flow, reuse.origin_run_id, reuse.origin_uid)

    def events(
        self,
        kinds: Sequence[str],
        columns: Sequence[str],
        runs: Iterable[NamedRun],
        *,
        places: Collection[Place] | None = None,
        digests: Collection[bytes] | None = None,
    ) -> list[tuple[Any, ...]]:
        runs = list(runs)
        if not runs or (places is not None and not places) or (digests is not None and not digests):
            return []
        condition, params = of_runs(runs)
        more, asked = _at(places)
        if digests is not None:
            more += f" and digest in ({marks(digests)})"
        rows = self._store.rows(
            f"select {', '.join(columns)} from told.{family_of(kinds[0])}_events "
            f"where kind in ({marks(kinds)}) and {condition}{more}",
            [*kinds, *params, *asked, *sorted(digests or ())],
            about=[run.key for run in runs],
        )
        if "payload" not in columns:
            return rows
        at = columns.index("payload")
        return [(*row[:at], _parsed(row[at]), *row[at + 1 :]) for row in rows]


def _at(places: Collection[Place] | None) -> tuple[str, list[str]]:
    """A condition for steps and task ids, each by itself, with its parameters."""
    if places is None:
        return "", []
    steps, ids = ({place[part] for place in places} for part in (0, 1))
    return f" and step in ({marks(steps)}) and task_id in ({marks(ids)})", [*sorted(steps), *sorted(ids)]


def _parsed(payload: str | None) -> dict[str, Any] | None:
    return json.loads(payload) if payload else None
