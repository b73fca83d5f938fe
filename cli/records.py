"""What is recorded of one run, step, task or artifact, as plain documents for `weft show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.cli.session import rows_of
from weft.lineage.errors import NotFound
from weft.lineage.ids import Pathspec

if TYPE_CHECKING:
    from weft.lineage.store import Store

__all__ = ["check_exists", "record_of"]

Record = dict[str, Any]

_LEVELS = ("flow", "run_id", "step", "task_id", "name")
_VIEWS = {1: "runs", 2: "runs", 3: "steps", 4: "tasks", 5: "artifacts"}
_NOUNS = {1: "flow", 2: "run", 3: "step", 4: "task", 5: "artifact"}
_NEAR_NAMES_MAX = 3
_CONSUMERS_MAX = 100
_PREVIEW_ROWS = 5
_TABLE_SERIALIZERS = ("arrow", "pandas", "polars", "parquet")


def record_of(store: Store, spec: Pathspec) -> Record:
    """The document of what a pathspec names; its `kind` is "flow", "run", "step", "task" or "artifact".

    Raises: NotFound, with near names.
    """
    level = sum(part is not None for part in spec)
    shape = (_flow_record, _run_record, _step_record, _task_record, _artifact_record)[level - 1]
    record = shape(store, spec)
    if record is None:
        check_exists(store, spec)
        # It came since it was looked for.
        record = shape(store, spec)
        assert record is not None, "what exists has a record"
    return {"kind": _NOUNS[level], "pathspec": str(spec), **record}


def _where(spec: Pathspec, level: int, table: str = "") -> tuple[str, Record]:
    """The condition for a pathspec's first `level` parts, and its parameters."""
    prefix = f"{table}." if table else ""
    names = _LEVELS[:level]
    params = {name: part for name, part in zip(names, spec, strict=False)}
    return " AND ".join(f"{prefix}{name} = ${name}" for name in names), params


def check_exists(store: Store, spec: Pathspec) -> None:
    """Raises: NotFound, naming the first part that is not there and what comes near it."""
    from weft.lineage.named_runs import find_run_told

    level = sum(part is not None for part in spec)
    # A run that is there is found among its own events, and its flow is there with it.
    known = 2 if spec.run_id is not None and find_run_told(store, spec.flow, spec.run_id) else 0
    for depth in range(known + 1, level + 1):
        condition, params = _where(spec, depth)
        view, column = _VIEWS[depth], _LEVELS[depth - 1]
        if store.rows(f"SELECT 1 FROM {view} WHERE {condition} LIMIT 1", params):
            continue
        above, above_params = _where(spec, depth - 1)
        query = f"SELECT DISTINCT {column} AS name FROM {view}" + (f" WHERE {above}" if above else "")
        names = [row[0] for row in store.rows(query, above_params)]
        wanted = spec[depth - 1]
        assert wanted is not None
        parent = "/".join(part for part in spec[: depth - 1] if part is not None)
        raise NotFound(_missing(parent, _NOUNS[depth], wanted, names))


def _missing(parent: str, noun: str, wanted: str, names: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(wanted, names, n=_NEAR_NAMES_MAX) or sorted(names)[-_NEAR_NAMES_MAX:]
    message = f"There is no {noun} {wanted!r}" + (f" in {parent}." if parent else " in this store.")
    if near:
        return f"{message} Near names: {', '.join(near)}."
    return f"{message} `weft runs` lists what is recorded."


def _flow_record(store: Store, spec: Pathspec) -> Record | None:
    query = "SELECT * FROM runs WHERE flow = $flow ORDER BY started_at DESC"
    runs = store.records(query, {"flow": spec.flow})
    return {"runs": runs} if runs else None


def _run_record(store: Store, spec: Pathspec) -> Record | None:
    from weft.lineage.run_records import read_run_record

    assert spec.run_id is not None
    run = read_run_record(store, spec.flow, spec.run_id)
    if run is None:
        return None
    place = _places_in(run.graph)
    return {
        "run": run.row,
        "parameters": run.parameters,
        "tags": run.tags,
        # In the order of the graph: a reused step may come into being late.
        "steps": sorted(run.steps, key=lambda row: place.get(row["step"], len(place))),
        "failures": _failures(store, spec) if run.has_failures else [],
    }


def _failures(store: Store, spec: Pathspec) -> list[Record]:
    """The tasks of a run that failed, were lost, or whose failure was caught, each with its last attempt."""
    of_task = "AND a.step = t.step AND a.task_id = t.task_id"
    condition, params = _where(spec, 2, "t")
    query = f"""
        SELECT t.step, t.task_id, t.pathspec, t.foreach_path, t.status, a.attempt,
               a.error_type, a.error_message, a.exit_signal
        FROM tasks t LEFT JOIN attempts a ON a.flow = t.flow AND a.run_id = t.run_id {of_task}
        WHERE {condition} AND t.status IN ('failed', 'caught', 'lost')
        QUALIFY row_number() OVER (PARTITION BY t.step, t.task_id ORDER BY a.attempt DESC) = 1
        ORDER BY t.finished_at, t.step, t.task_id"""
    return store.records(query, params)


def _places_in(graph: Any) -> dict[str, int]:
    """Where each step stands when the graph is walked from its start."""
    # What another program recorded may say less of its graph.
    if not graph or "start" not in graph:
        return {}
    following = {node["name"]: node["next"] for node in graph.get("steps", ())}
    places: dict[str, int] = {}
    waiting = [graph["start"]]
    while waiting:
        name = waiting.pop(0)
        if name not in places:
            places[name] = len(places)
            waiting += following.get(name, ())
    return places


def _step_record(store: Store, spec: Pathspec) -> Record | None:
    condition, params = _where(spec, 3)
    steps = store.records(f"SELECT * FROM steps WHERE {condition}", params)
    return {"step": steps[0], "tasks": _tasks(store, spec)} if steps else None


def _tasks(store: Store, spec: Pathspec) -> list[Record]:
    """The tasks below a step or one task, each with `item`: a short text of its foreach item."""
    from weft.lineage.named_runs import find_run_told

    level = sum(part is not None for part in spec)
    condition, params = _where(spec, level)
    assert spec.run_id is not None
    run = find_run_told(store, spec.flow, spec.run_id)
    if run is None:
        return []
    query = f"""
        SELECT t.*, e.payload->'$.levels[#-1]'->>'$[4]' AS item
        FROM (SELECT * FROM tasks WHERE {condition}) t
        LEFT JOIN (
            SELECT step, task_id, payload FROM told.task_events
            WHERE kind IN ('task_created', 'task_reused') AND flow = $flow AND run_id = $raw_run_id AND run_uid = $uid
        ) e USING (step, task_id)
        ORDER BY TRY_CAST(t.task_id AS BIGINT), t.task_id"""
    return store.records(query, {**params, "raw_run_id": run.raw_run_id, "uid": run.uid})


def _task_record(store: Store, spec: Pathspec) -> Record | None:
    tasks = _tasks(store, spec)
    if not tasks:
        return None
    condition, params = _where(spec, 4)
    inputs = (
        "SELECT attempt, name, item_index, digest, is_absent, producer_pathspec, used_at "
        f"FROM artifact_uses WHERE {condition} ORDER BY attempt, name, producer_pathspec"
    )
    return {
        "task": tasks[0],
        "attempts": store.records(f"SELECT * FROM attempts WHERE {condition} ORDER BY attempt", params),
        "inputs": store.records(inputs, params),
        "artifacts": store.records(
            f"SELECT * FROM artifacts WHERE {condition} ORDER BY attempt, name", params
        ),
    }


def _artifact_record(store: Store, spec: Pathspec) -> Record | None:
    if not _has_task(store, spec):
        return None
    condition, params = _where(spec, 5)
    query = f"SELECT * FROM artifacts WHERE {condition} ORDER BY attempt DESC LIMIT 1"
    artifacts = store.records(query, params)
    if not artifacts:
        return None
    artifact = artifacts[0]
    own = "/".join(part for part in spec[:4] if part is not None)
    producer = artifact["producer_pathspec"]
    consumers = f"""
        SELECT DISTINCT flow || '/' || run_id || '/' || step || '/' || task_id AS pathspec, item_index
        FROM artifact_uses
        WHERE name = $name AND producer_pathspec IN ($producer, $own) AND NOT is_absent
        ORDER BY pathspec, item_index LIMIT {_CONSUMERS_MAX}"""
    return {
        "artifact": artifact,
        "producer": producer,
        "consumers": store.records(consumers, {"name": spec.name, "producer": producer, "own": own}),
        "rows": _first_rows(store, spec, artifact),
    }


def _has_task(store: Store, spec: Pathspec) -> bool:
    """Whether there is such a task; the one of the parameters is none."""
    from weft.lineage.named_runs import find_run_told, of_runs

    assert spec.run_id is not None
    run = find_run_told(store, spec.flow, spec.run_id)
    if run is None:
        return False
    condition, params = of_runs([run])
    query = f"SELECT 1 FROM told.task_events WHERE {condition} AND step = ? AND task_id = ? LIMIT 1"
    return bool(store.rows(query, [*params, spec.step, spec.task_id]))


def _first_rows(store: Store, spec: Pathspec, artifact: Record) -> list[Record] | None:
    """The first rows of an artifact that is a table, None for all others. No pickle is ever loaded."""
    if not any(tag in artifact["serializer"] for tag in _TABLE_SERIALIZERS):
        return None
    if not all(part.isidentifier() for part in (spec.flow, spec.step or "", spec.name or "")):
        return None
    query = f"""
        SELECT * EXCLUDE (flow, run_id, task_id) FROM artifact('{spec.flow}/{spec.step}/{spec.name}')
        WHERE run_id = $run_id AND task_id = $task_id LIMIT {_PREVIEW_ROWS}"""
    return rows_of(store, query, run_id=spec.run_id, task_id=spec.task_id)
