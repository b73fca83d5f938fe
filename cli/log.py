"""`weft log`: the events themselves."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from weft.cli.format import escape_controls, format_instant, truncate
from weft.cli.output import Output
from weft.cli.session import Session, json_option, rows_of

__all__ = ["log"]

_POLL_S = 0.5
_PAYLOAD_WIDTH_MAX = 80
_COLUMNS = (
    "id, kind, version, occurred_at, writer, seq, flow, run_id, step, task_id, attempt, name, digest, payload"
)


@click.command(short_help="Show the events themselves.")
@click.option("--run", "run", metavar="R", help="Only events of this run: Flow/run, or a run id.")
@click.option(
    "--kind", "kinds", metavar="K", multiple=True, help="Only events of this kind; repeat for more."
)
@click.option("--limit", type=click.IntRange(min=0), default=0, help="Only the newest so many.")
@click.option("--follow", "-f", "is_followed", is_flag=True, help="Go on with events as they are committed.")
@json_option
@click.pass_obj
def log(
    session: Session, run: str | None, kinds: tuple[str, ...], limit: int, is_followed: bool, is_json: bool
) -> None:
    """Show the events themselves, oldest first; with --json one object a line.

    \b
    Examples:
      weft log --run MyFlow/17 --kind attempt_failed
      weft log --follow --json
    """
    if is_followed:
        session.check_is_now("What was recorded by a moment grows no more, so there is nothing to follow.")
    query, params = _query(run, kinds, limit)
    output = Output(is_json=is_json)
    seen: set[str] = set()
    with session.open() as store:
        while True:
            for row in rows_of(store, query, **params):
                if row["id"] not in seen:
                    seen.add(row["id"])
                    _show(output, row)
            if not is_followed:
                return
            output.flush()
            time.sleep(_POLL_S)


def _query(run: str | None, kinds: tuple[str, ...], limit: int) -> tuple[str, dict[str, object]]:
    conditions, params = [], dict[str, object]()
    if run is not None:
        flow, slash, run_id = run.rpartition("/")
        conditions.append("run_id = $run_id")
        params["run_id"] = run_id
        if slash:
            conditions.append("flow = $flow")
            params["flow"] = flow
    if kinds:
        conditions.append("list_contains($kinds, kind)")
        params["kinds"] = list(kinds)
    query = f"SELECT {_COLUMNS} FROM events"
    if conditions:
        query += " WHERE " + " AND ".join(conditions)
    if limit:
        query += f" ORDER BY occurred_at DESC, writer DESC, seq DESC LIMIT {limit}"
    return f"SELECT * FROM ({query}) ORDER BY occurred_at, writer, seq", params


def _show(output: Output, row: dict[str, Any]) -> None:
    payload = row["payload"]
    if output.is_json:
        output.record(row | {"payload": json.loads(payload) if isinstance(payload, str) else payload})
        return
    place = "/".join(str(part) for part in (row["flow"], row["run_id"], row["step"], row["task_id"]) if part)
    attempt = "" if row["attempt"] is None else f" #{row['attempt']}"
    words = [
        output.styled(format_instant(row["occurred_at"]), "dim"),
        output.styled(row["kind"].ljust(17), "bold"),
        escape_controls(place) + attempt,
        escape_controls(row["name"] or ""),
        output.styled(truncate(escape_controls(_one_line(payload)), _PAYLOAD_WIDTH_MAX), "dim"),
    ]
    output.line("  ".join(word for word in words if word))


def _one_line(payload: Any) -> str:
    if payload is None:
        return ""
    value = json.loads(payload) if isinstance(payload, str) else payload
    if not isinstance(value, dict):
        return str(value)
    shown = {
        key: item for key, item in value.items() if item not in (None, "", [], {}) and key != "traceback"
    }
    return " ".join(f"{key}={item}" for key, item in shown.items())
