"""Runs as they were named, found among those that were folded: what was recorded of them is then asked for directly.

A view costs some milliseconds each time it is bound. What belongs to a few runs that are known needs none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from weft.lineage.answers import Answers

__all__ = [
    "NamedRun",
    "find_run_named",
    "find_run_of",
    "find_run_told",
    "find_runs_named",
    "marks",
    "of_runs",
]


class NamedRun(NamedTuple):
    """A run that is there. `run_id` is the id that is shown, `raw_run_id` the one in its events."""

    flow: str
    run_id: str
    uid: bytes
    raw_run_id: str
    status: str = ""
    code_digest: bytes | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    origin_run_id: str | None = None
    user_name: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.flow, self.run_id

    @property
    def pathspec(self) -> str:
        return f"{self.flow}/{self.run_id}"

    def shown(self, flow: str, raw_run_id: str) -> str:
        """The id to show of a run that an event of this run names."""
        return self.run_id if (flow, raw_run_id) == (self.flow, self.raw_run_id) else raw_run_id


_COLUMNS = "flow, run_id, run_uid, raw_run_id, status, code_digest, started_at, finished_at, origin_run_id, user_name"


def find_runs_named(store: Answers, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], NamedRun]:
    """The runs of these (flow, run id), as views show them; those that are not there are left out."""
    wanted = set(names)
    if not wanted:
        return {}
    flows, ids = sorted({flow for flow, _ in wanted}), sorted({run_id for _, run_id in wanted})
    rows = store.rows(
        f"select {_COLUMNS} from fold.runs where flow in ({marks(flows)}) and run_id in ({marks(ids)})",
        [*flows, *ids],
        about=wanted,
    )
    # Flows and ids are asked for apart, so a run may come that nobody wanted.
    return {(row[0], row[1]): NamedRun._make(row) for row in rows if (row[0], row[1]) in wanted}


def find_run_named(store: Answers, flow: str, run_id: str) -> NamedRun | None:
    return find_runs_named(store, [(flow, run_id)]).get((flow, run_id))


def find_run_of(store: Answers, flow: str, raw_run_id: str, uid: bytes) -> NamedRun | None:
    """The run that events name so."""
    query = f"select {_COLUMNS} from fold.runs where flow = ? and raw_run_id = ? and run_uid = ?"
    rows = store.rows(query, [flow, raw_run_id, uid], about=[(flow, raw_run_id)])
    return NamedRun._make(rows[0]) if rows else None


def find_run_told(store: Answers, flow: str, run_id: str) -> NamedRun | None:
    """The same without what became of it: where no runs share a pathspec, no run is folded for that."""
    if store.has_twins():
        return find_run_named(store, flow, run_id)
    query = (
        "select run_uid from told.run_events where flow = ? and run_id = ? and run_uid is not null limit 1"
    )
    rows = store.rows(query, [flow, run_id], about=[(flow, run_id)])
    return NamedRun(flow, run_id, bytes(rows[0][0]), run_id) if rows else None


def of_runs(runs: Iterable[NamedRun], column: str = "run_id") -> tuple[str, list[str | bytes]]:
    """A condition for the rows of some runs, and its parameters; `column` is the one with the recorded run id.

    Flow and run id say what the uid says already, but segments have statistics of them.
    """
    listed = list(runs)
    flows = sorted({run.flow for run in listed})
    ids = sorted({run.raw_run_id for run in listed})
    uids = sorted({run.uid for run in listed})
    condition = f"flow in ({marks(flows)}) and {column} in ({marks(ids)}) and run_uid in ({marks(uids)})"
    return condition, [*flows, *ids, *uids]


def marks(values: Iterable[object]) -> str:
    """Question marks for the parameters of an IN."""
    return ", ".join("?" for _ in values)
