"""`weft show`: a run, a step, a task or an artifact."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from weft.cli.format import (
    escape_controls,
    format_ago,
    format_bytes,
    format_duration,
    format_instant,
    short_digest,
)
from weft.cli.output import Output
from weft.cli.records import record_of
from weft.cli.runs import show_runs
from weft.cli.session import Session, json_option
from weft.lineage.ids import parse_pathspec

__all__ = ["show"]

Record = dict[str, Any]

_TASKS_SHOWN_MAX = 100
_VALUE_WIDTH_MAX = 60
_SAME_STEP_MAX = 3


@click.command(short_help="Show a run, a step, a task or an artifact.")
@click.argument("pathspec")
@json_option
@click.pass_obj
def show(session: Session, pathspec: str, is_json: bool) -> None:
    """Show a flow, a run, a step, a task or an artifact.

    PATHSPEC is Flow[/run[/step[/task[/artifact]]]]. No artifact is loaded: what is shown is what was
    recorded, so a stranger's store is safe to look at.

    \b
    Examples:
      weft show MyFlow/17
      weft show MyFlow/17/fit/4
      weft show MyFlow/17/fit/4/model
    """
    spec = parse_pathspec(pathspec)
    with session.open() as store:
        record = record_of(store, spec)
        output = Output(is_json=is_json)
        if is_json:
            output.document(record)
            return
        text = {"flow": _flow, "run": _run, "step": _step, "task": _task, "artifact": _artifact}
        text[record["kind"]](output, record)


def _flow(output: Output, record: Record) -> None:
    show_runs(output, record["runs"])


def _heading(output: Output, title: str) -> None:
    output.line()
    output.line(title, "bold")


def _times(row: Record) -> list[tuple[str, object]]:
    now = datetime.now(UTC)
    started = row["started_at"]
    shown = None if started is None else f"{format_instant(started)} ({format_ago(started, now)})"
    took = row.get("duration_s")
    return [("started", shown), ("took", None if took is None else format_duration(took))]


def _run(output: Output, record: Record) -> None:
    run = record["run"]
    output.fields(
        [
            ("run", record["pathspec"]),
            ("status", run["status"]),
            *_times(run),
            ("by", run["user_name"]),
            ("resumed from", run["origin_run_id"]),
            ("code", short_digest(run["code_digest"]) if run["code_digest"] else None),
            ("tags", ", ".join(tag["tag"] for tag in record["tags"] if tag["kind"] == "user")),
            ("root cause", run["root_cause"]),
        ]
    )
    if record["parameters"]:
        _heading(output, "parameters")
        output.table(("name", "value"), [(row["name"], row["value"]) for row in record["parameters"]])
    _heading(output, "steps")
    output.table(
        ("step", "status", "tasks", "done", "reused", "failed", "took"),
        [_step_row(row) for row in record["steps"]],
        right=("took",),
    )
    if record["failures"]:
        _heading(output, "failed tasks")
        output.table(
            ("task", "status", "attempts", "error"),
            [
                (row["pathspec"], row["status"], (row["attempt"] or 0) + 1, _error(row))
                for row in record["failures"]
            ],
        )


def _step_row(row: Record) -> tuple[object, ...]:
    took = None
    if row["started_at"] and row["finished_at"]:
        took = format_duration((row["finished_at"] - row["started_at"]).total_seconds())
    counts = (row["tasks"], row["tasks_done"], row["tasks_reused"] or None, row["tasks_failed"] or None)
    return (row["step"], row["status"], *counts, took)


def _error(row: Record) -> str | None:
    parts = [row["error_type"] or row["exit_signal"], (row["error_message"] or "").split("\n")[0]]
    return ": ".join(part for part in parts if part) or None


def _step(output: Output, record: Record) -> None:
    output.fields(
        [("step", record["pathspec"]), ("status", record["step"]["status"]), *_times(record["step"])]
    )
    _heading(output, "tasks")
    tasks = record["tasks"]
    output.table(
        ("task", "foreach", "item", "status", "attempts", "took", "reused from"),
        [
            (
                row["task_id"],
                row["foreach_path"],
                row["item"],
                row["status"],
                row["attempts"],
                format_duration(row["duration_s"]),
                row["origin_pathspec"],
            )
            for row in tasks[:_TASKS_SHOWN_MAX]
        ],
        right=("took",),
    )
    if len(tasks) > _TASKS_SHOWN_MAX:
        output.line(f"… and {len(tasks) - _TASKS_SHOWN_MAX:,} more; --json gives all.", "dim")


def _task(output: Output, record: Record) -> None:
    task = record["task"]
    output.fields(
        [
            ("task", record["pathspec"]),
            ("status", task["status"]),
            ("foreach", task["foreach_path"]),
            ("item", task["item"]),
            *_times(task),
            ("reused from", task["origin_pathspec"]),
            ("because", task["reuse_reason"]),
        ]
    )
    if record["attempts"]:
        _heading(output, "attempts")
        output.table(
            ("attempt", "status", "took", "host", "pid", "memory", "error"),
            [
                (
                    row["attempt"],
                    row["status"],
                    format_duration(row["duration_s"]),
                    row["host"],
                    None if row["pid"] is None else str(row["pid"]),
                    format_bytes(row["max_rss_bytes"]),
                    _error(row),
                )
                for row in record["attempts"]
            ],
            right=("took", "memory"),
        )
    if record["inputs"]:
        _heading(output, "read")
        # What an attempt before the last one read is in the JSON.
        last = max(row["attempt"] for row in record["inputs"])
        output.table(
            ("name", "from", "digest"), _input_rows([r for r in record["inputs"] if r["attempt"] == last])
        )
    if record["artifacts"]:
        _heading(output, "artifacts")
        output.table(
            ("name", "type", "size", "digest", "value"),
            [_artifact_row(row) for row in record["artifacts"]],
            right=("size",),
        )
    tracebacks = [row["traceback"] for row in record["attempts"] if row["traceback"]]
    if tracebacks:
        _heading(output, "traceback")
        for line in tracebacks[-1].rstrip().split("\n"):
            output.line(escape_controls(line))


def _input_rows(rows: list[Record]) -> list[tuple[object, ...]]:
    """One row for each read; those of many tasks of one step, as a join does, in one."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for row in rows:
        is_alone = row["is_absent"] or row["producer_pathspec"] is None
        step = row["name"] if is_alone else row["producer_pathspec"].rpartition("/")[0]
        groups.setdefault((row["name"], step, row["item_index"]), []).append(row)
    shown: list[tuple[object, ...]] = []
    for (name, step, item_index), group in groups.items():
        label = name if item_index is None else f"{name}[{item_index}]"
        if len(group) > _SAME_STEP_MAX:
            shown.append((label, f"{step}/… ({len(group)} tasks)", None))
            continue
        for row in group:
            place = "absent" if row["is_absent"] else row["producer_pathspec"]
            shown.append((label, place, short_digest(row["digest"])))
    return shown


def _artifact_row(row: Record) -> tuple[object, ...]:
    value = row["value"]
    if value is not None and len(value) > _VALUE_WIDTH_MAX:
        value = value[: _VALUE_WIDTH_MAX - 1] + "…"
    return (row["name"], row["type"], format_bytes(row["size_bytes"]), short_digest(row["digest"]), value)


def _artifact(output: Output, record: Record) -> None:
    artifact = record["artifact"]
    output.fields(
        [
            ("artifact", record["pathspec"]),
            ("type", artifact["type"]),
            ("size", format_bytes(artifact["size_bytes"])),
            ("digest", artifact["digest"]),
            ("serializer", artifact["serializer"]),
            ("value", artifact["value"]),
            ("created", format_instant(artifact["created_at"])),
            ("made by", record["producer"]),
        ]
    )
    if record["rows"]:
        _heading(output, "first rows")
        output.table(list(record["rows"][0]), [list(row.values()) for row in record["rows"]])
    _heading(output, "read by")
    output.table(
        ("task", "item"),
        [(row["pathspec"], row["item_index"]) for row in record["consumers"]],
        empty="no task",
    )
