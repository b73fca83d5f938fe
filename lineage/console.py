"""What tasks printed, line by line, from the console chunks of the log."""

from __future__ import annotations

from weft.lineage.answers import Answers, Line
from weft.lineage.ids import parse_pathspec

__all__ = ["read_lines"]


def read_lines(store: Answers, pathspec: str, stream: str | None = None) -> list[Line]:
    """The lines of a run, a step or a task, by time. Raises: NotFound when a chunk's object is gone."""
    spec = parse_pathspec(pathspec)
    conditions = [
        f"v.{column} = ?"
        for column, part in zip(("flow", "run_id", "step", "task_id"), spec, strict=False)
        if part
    ]
    params = [part for part in spec[:4] if part]
    if stream is not None:
        conditions.append("e.name = ?")
        params.append(stream)
    # `tasks` gives each task, or the one it stands for, its own pathspec.
    rows = store.rows(
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
        where e.kind = 'console_written' and {" and ".join(conditions)} order by e.time_us, e.writer, e.seq
        """,
        params,
    )
    found = []
    for task, attempt, name, blob, digest in rows:
        packed = bytes(blob) if blob is not None else store.objects.get(bytes(digest))
        found += [Line(time_us, task, attempt or 0, name, text) for time_us, text in _unpacked(packed)]
    found.sort(key=lambda line: line.time_us)
    return found


def _unpacked(packed: bytes) -> list[tuple[int, str]]:
    import zlib

    import msgpack

    lines: list[tuple[int, str]] = msgpack.unpackb(zlib.decompress(packed))
    return lines
