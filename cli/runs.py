"""`weft runs`: runs, newest first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from weft.cli.format import format_ago, format_duration
from weft.cli.output import Output
from weft.cli.session import Session, json_option, rows_of

if TYPE_CHECKING:
    from weft.lineage.store import Store

__all__ = ["list_query", "runs", "show_runs"]

_LIMIT_DEFAULT = 20
_STATUSES = ("running", "succeeded", "failed", "cancelled", "lost")
_COLUMNS = (
    "flow, run_id, status, started_at, finished_at, duration_s, user_name, origin_run_id, code_digest, "
    "tasks, tasks_failed, root_cause"
)
_ORDER = " ORDER BY started_at DESC, flow, run_id DESC"


@click.command(short_help="List runs, newest first.")
@click.option("--flow", metavar="F", help="Only runs of this flow.")
@click.option("--tag", "tags", metavar="T", multiple=True, help="Only runs with this tag; repeat for more.")
@click.option("--status", type=click.Choice(_STATUSES), help="Only runs with this status.")
@click.option("--where", metavar="SQL", help="A condition over the columns of the view `runs`.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=_LIMIT_DEFAULT,
    show_default=True,
    help="At most so many; 0: all.",
)
@json_option
@click.pass_obj
def runs(
    session: Session,
    flow: str | None,
    tags: tuple[str, ...],
    status: str | None,
    where: str | None,
    limit: int,
    is_json: bool,
) -> None:
    """List runs, newest first.

    \b
    Examples:
      weft runs --flow MyFlow --status failed
      weft runs --where "duration_s > 60 AND started_at > now() - INTERVAL 7 DAY"
      weft --as-of 2026-01-31T18:00 runs --json
    """
    with session.open() as store:
        query, params = list_query(flow, tags, status, where, limit)
        if where is None and limit and not store.has_checkpoint:
            query, params = _narrowed(store, flow, tags, status, limit)
        rows = rows_of(store, query, **params)
        output = Output(is_json=is_json)
        if is_json:
            output.document(rows)
        else:
            show_runs(output, rows)


def list_query(
    flow: str | None, tags: tuple[str, ...], status: str | None, where: str | None, limit: int
) -> tuple[str, dict[str, object]]:
    """The query for `weft runs`, and its parameters."""
    conditions, params = _conditions("runs", flow, tags, status)
    if where is not None:
        # The line breaks keep a comment at the end of the condition from hiding the bracket.
        conditions.append(f"(\n{where}\n)")
    query = f"SELECT {_COLUMNS} FROM runs"
    if conditions:
        query += " WHERE " + " AND ".join(conditions)
    query += _ORDER
    return (f"{query} LIMIT {limit}" if limit else query), params


def _narrowed(
    store: Store, flow: str | None, tags: tuple[str, ...], status: str | None, limit: int
) -> tuple[str, dict[str, object]]:
    """The same list by another query: only the tasks of runs that are shown are counted, not those of all."""
    conditions, params = _conditions("r", flow, tags, status)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    keys = store.rows(f"SELECT flow, run_id FROM fold.runs r{where}{_ORDER} LIMIT {limit}", params)
    names = {
        f"{column}_{i}": key[part] for i, key in enumerate(keys) for part, column in enumerate(("f", "r"))
    }
    pairs = ", ".join(f"($f_{i}, $r_{i})" for i in range(len(keys)))
    one_by_one = " AND ".join(
        f"{column} IN ({', '.join(f'${letter}_{i}' for i in range(len(keys)))})"
        for column, letter in (("flow", "f"), ("run_id", "r"))
    )
    found = f"{one_by_one} AND (flow, run_id) IN ({pairs})" if keys else "false"
    return f"SELECT {_COLUMNS} FROM runs WHERE {found}{_ORDER} LIMIT {limit}", dict[str, object](names)


def _conditions(
    source: str, flow: str | None, tags: tuple[str, ...], status: str | None
) -> tuple[list[str], dict[str, object]]:
    conditions, params = [], dict[str, object]()
    for column, value in (("flow", flow), ("status", status)):
        if value is not None:
            conditions.append(f"{column} = ${column}")
            params[column] = value
    for i, tag in enumerate(tags):
        conditions.append(
            f"EXISTS (SELECT 1 FROM tags t WHERE t.flow = {source}.flow AND t.run_id = {source}.run_id "
            f"AND t.tag = $tag_{i})"
        )
        params[f"tag_{i}"] = tag
    return conditions, params


def show_runs(output: Output, rows: list[dict[str, Any]]) -> None:
    """Runs as a table."""
    now = datetime.now(UTC)
    has_origin = any(row["origin_run_id"] for row in rows)
    titles = ["run", "status", "started", "took", "tasks", "failed", "by"] + ["resumed from"] * has_origin
    output.table(
        titles,
        [
            [
                f"{row['flow']}/{row['run_id']}",
                row["status"],
                format_ago(row["started_at"], now),
                format_duration(row["duration_s"]),
                row["tasks"],
                row["tasks_failed"] or None,
                row["user_name"],
                *([row["origin_run_id"]] * has_origin),
            ]
            for row in rows
        ],
        right=("took",),
        empty="no runs",
    )
