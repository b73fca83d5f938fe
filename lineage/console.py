"""What tasks printed, line by line, from the console chunks of the log."""

from __future__ import annotations

from typing import Any

from weft.lineage.answers import Answers, Line
from weft.lineage.ids import Pathspec, parse_pathspec
from weft.lineage.named_runs import find_run_told, of_runs

__all__ = ["read_lines"]


def read_lines(store: Answers, pathspec: str, stream: str | None = None) -> list[Line]:
    """The lines of a run, a step or a task, by time. Raises: NotFound when a chunk's object is gone."""
    spec = parse_pathspec(pathspec)
    rows = None if spec.run_id is None else _own_chunks(store, spec, stream)
    found = []
    for task, attempt, name, blob, digest in _chunks(store, spec, stream) if rows is None else rows:
        packed = bytes(blob) if blob is not None else store.objects.get(bytes(digest))
        found += [Line(time_us, task, attempt or 0, name, text) for time_us, text in _unpacked(packed)]
    found.sort(key=lambda line: line.time_us)
    return found


def _own_chunks(store: Answers, spec: Pathspec, stream: str | None) -> list[tuple[Any, ...]] | None:
    """The chunks of a run whose tasks all ran in it, without folding any task; None for other runs."""
    assert spec.run_id is not None
    about = [(spec.flow, spec.run_id)]
    store.foresee(about, ("console",))
    run = find_run_told(store, spec.flow, spec.run_id)
    if run is None:
        return []
    is_run, params = of_runs([run])
    reused = f"select 1 from told.task_events where {is_run} and kind = 'task_reused' limit 1"
    if store.rows(reused, params, about=about):
        return None
    condition, asked = _condition(("e.step", spec.step), ("e.task_id", spec.task_id), ("e.name", stream))
    rows = store.rows(
        f"""
        select e.step, e.task_id, e.attempt, e.name, e.blob, e.digest
        from (select * from raw.console_events where {is_run} and kind = 'console_written') e
        where exists (
            select 1 from told.task_events where {is_run} and step = e.step and task_id = e.task_id
        ) and {condition} order by e.time_us, e.writer, e.seq
        """,
        [*params, *params, *asked],
        about=about,
    )
    return [(f"{spec.flow}/{spec.run_id}/{step}/{task}", *chunk) for step, task, *chunk in rows]


def _chunks(store: Answers, spec: Pathspec, stream: str | None) -> list[tuple[Any, ...]]:
    """Chunks, each under the pathspec of its task or of one that this task stands for."""
    parts = zip(("v.flow", "v.run_id", "v.step", "v.task_id"), spec, strict=False)
    condition, asked = _condition(*parts, ("e.name", stream))
    return store.rows(
        f"""
        select v.pathspec, e.attempt, e.name, e.blob, e.digest from (
            select t.run_uid, t.flow as own_flow, t.raw_run_id as own_run_id, t.step as own_step, t.task_id as own_task_id, t.flow, t.run_id, t.step, t.task_id,
                t.flow || '/' || t.run_id || '/' || t.step || '/' || t.task_id as pathspec
            from fold.tasks t where t.status <> 'reused'
            union all
            select u.origin_uid, u.origin_flow, u.origin_run_id, u.origin_step, u.origin_task_id, u.flow, u.run_id, u.step, u.task_id,
                u.flow || '/' || u.run_id || '/' || u.step || '/' || u.task_id
            from fold.reuses u
        ) v join raw.console_events e
            on e.flow = v.own_flow and e.run_id = v.own_run_id and e.run_uid = v.run_uid and e.step = v.own_step and e.task_id = v.own_task_id
        where e.kind = 'console_written' and {condition} order by e.time_us, e.writer, e.seq
        """,
        asked,
        about=[] if spec.run_id is None else [(spec.flow, spec.run_id)],
    )


def _condition(*parts: tuple[str, str | None]) -> tuple[str, list[str]]:
    """A condition that columns have these values, those that are not None, and its parameters."""
    given = [(column, value) for column, value in parts if value is not None]
    return " and ".join(f"{column} = ?" for column, _ in given) or "true", [value for _, value in given]


def _unpacked(packed: bytes) -> list[tuple[int, str]]:
    import zlib

    import msgpack

    lines: list[tuple[int, str]] = msgpack.unpackb(zlib.decompress(packed))
    return lines
