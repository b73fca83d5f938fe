"""What views show of one run, put together from what lies below them: each part is fetched once, without a view.

`runs`, `steps`, `parameters` and `tags` say the same, as tests hold; to bind them costs more than to ask.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.fold_sql import KEY

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["RunRecord", "read_run_record"]

Record = dict[str, Any]

#: The columns of the view `runs`; the two counts come from the tasks.
_RUN_COLUMNS = {
    "flow": "flow",
    "run_id": "run_id",
    "status": "status",
    "started_at": "started_at",
    "finished_at": "finished_at",
    "duration_s": "(epoch_us(finished_at) - epoch_us(started_at)) / 1e6",
    "user_name": "user_name",
    "origin_run_id": "origin_run_id",
    "code_digest": "'sha256:' || lower(hex(code_digest))",
    "tasks": "null",
    "tasks_failed": "null",
    "root_cause": "root_cause",
    "error_type": "error_type",
    "error_message": "error_message",
    "run_uid": "lower(hex(run_uid))",
}
#: What of all that is set before a run begins the view `parameters` shows.
_ROLES = ("parameter", "config")
_OF_RUN = "flow = ? and raw_run_id = ? and run_uid = ?"


class RunRecord(NamedTuple):
    """One run: its row of `runs`, and its rows of `steps` (by time), `parameters` and `tags` (by name).

    `graph` is what was recorded of its graph, if anything was. `has_failures` says whether a task failed, was
    lost, or had its failure caught.
    """

    row: Record
    steps: list[Record]
    parameters: list[Record]
    tags: list[Record]
    graph: Any
    has_failures: bool


class _Group(NamedTuple):
    """The tasks of one step that have one status; times in µs of log time."""

    step: str
    status: str
    tasks: int
    first_us: int
    last_first_us: int
    last_ended_us: int | None


def read_run_record(store: Answers, flow: str, run_id: str) -> RunRecord | None:
    """The run of that flow and id, as views show them; None where there is none."""
    rows = store.rows(
        f"select {', '.join(_RUN_COLUMNS.values())}, raw_run_id, run_uid from fold.runs where flow = ? and run_id = ?",
        [flow, run_id],
        about=[(flow, run_id)],
    )
    if not rows:
        return None
    *columns, raw_run_id, uid = rows[0]
    run = dict(zip(_RUN_COLUMNS, columns, strict=True))
    key = [flow, raw_run_id, uid]
    groups = _groups(store, key)
    run["tasks"] = sum(group.tasks for group in groups)
    run["tasks_failed"] = _count(groups, "failed")
    told = _told(store, key)
    return RunRecord(
        run,
        _steps(store, key, run, groups),
        _parameters(told),
        _tags(told),
        _graph(told),
        any(group.status in ("failed", "caught", "lost") for group in groups),
    )


class _Told(NamedTuple):
    """One event of a run; `order` and `payload` as they were committed."""

    kind: str
    name: str | None
    value: str | None
    value_number: float | None
    payload: dict[str, Any]
    order: tuple[int, bytes, int]


def _told(store: Answers, key: list[Any]) -> list[_Told]:
    """What began a run, its parameters and tags; what is believed of several tellings of one fact comes first."""
    rows = store.rows(
        "select kind, name, value, value_number, payload, time_us, writer, seq from told.run_events "
        "where flow = ? and run_id = ? and run_uid = ? "
        "and kind in ('run_started', 'parameter_set', 'tag_added', 'tag_removed') "
        f"order by {KEY}",
        key,
        about=[(key[0], key[1])],
    )
    return [
        _Told(kind, name, value, number, json.loads(payload) if payload else {}, (time_us, writer, seq))
        for kind, name, value, number, payload, time_us, writer, seq in rows
    ]


def _parameters(told: list[_Told]) -> list[Record]:
    """The rows of `parameters`: of each name the first value, and the first number, that is known."""
    found: dict[str, Record] = {}
    for event in told:
        if event.kind == "parameter_set" and event.payload.get("role") in _ROLES:
            assert event.name is not None
            row = found.setdefault(event.name, {"name": event.name, "value": None, "value_number": None})
            row["value"] = event.value if row["value"] is None else row["value"]
            row["value_number"] = event.value_number if row["value_number"] is None else row["value_number"]
    return [found[name] for name in sorted(found)]


def _tags(told: list[_Told]) -> list[Record]:
    """The rows of `tags`: those whose last telling added them."""
    last: dict[str, _Told] = {}
    for event in sorted((e for e in told if e.kind.startswith("tag_")), key=lambda e: e.order):
        last[event.name or ""] = event
    return [
        {"tag": tag, "kind": last[tag].payload.get("kind"), "added_at": _moment(last[tag].order[0])}
        for tag in sorted(last)
        if last[tag].kind == "tag_added"
    ]


def _graph(told: list[_Told]) -> Any:
    return next((event.payload.get("graph") for event in told if event.kind == "run_started"), None)


def _groups(store: Answers, key: list[Any]) -> list[_Group]:
    query = (
        "select step, status, count(*), min(first_us), max(first_us), max(ended_us) "
        f"from fold.tasks where {_OF_RUN} group by step, status"
    )
    return [_Group._make(row) for row in store.rows(query, key, about=[(key[0], key[1])])]


def _steps(store: Answers, key: list[Any], run: Record, groups: list[_Group]) -> list[Record]:
    """The rows of `steps` of a run, by start and name."""
    by_step: dict[str, list[_Group]] = {}
    for group in groups:
        by_step.setdefault(group.step, []).append(group)
    query = f"select step, make_timestamp(first_us) from state.steps where {_OF_RUN} order by first_us, step"
    rows = store.rows(query, key, about=[(key[0], key[1])])
    return [_step(run, step, started_at, by_step.get(step, [])) for step, started_at in rows]


def _step(run: Record, step: str, started_at: datetime, groups: list[_Group]) -> Record:
    settled = [_settled_us(group) for group in groups]
    known = [moment for moment in settled if moment is not None]
    going_on = _count(groups, "running", "retrying", "pending", "lost")
    return {
        "flow": run["flow"],
        "run_id": run["run_id"],
        "step": step,
        "status": _status(run["status"], groups),
        "started_at": started_at,
        "finished_at": _moment(max(known)) if groups and not going_on and known else None,
        "tasks": sum(group.tasks for group in groups),
        "tasks_done": _count(groups, "succeeded", "caught", "reused"),
        "tasks_failed": _count(groups, "failed"),
        "tasks_reused": _count(groups, "reused"),
    }


def _settled_us(group: _Group) -> int | None:
    """When the last of them ended; a reused task as it was placed."""
    if group.status == "lost":
        return None
    return group.last_first_us if group.status == "reused" else group.last_ended_us


def _status(run_status: str, groups: list[_Group]) -> str:
    """The status of a step, from those of its tasks."""
    if not groups:
        return {"running": "pending", "lost": "lost"}.get(run_status, "cancelled")
    if _count(groups, "failed"):
        return "failed"
    pending = _count(groups, "pending")
    if _count(groups, "running", "retrying") or (pending and _count(groups, "succeeded", "caught", "reused")):
        return "running"
    for status in ("lost", "cancelled", "pending"):
        if _count(groups, status):
            return status
    return "reused" if all(group.status == "reused" for group in groups) else "succeeded"


def _count(groups: Iterable[_Group], *statuses: str) -> int:
    return sum(group.tasks for group in groups if group.status in statuses)


def _moment(time_us: int) -> datetime:
    from datetime import timedelta

    return datetime(1970, 1, 1) + timedelta(microseconds=time_us)
