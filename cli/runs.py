"""`weft runs`: runs, newest first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from weft.cli.format import format_ago, format_duration
from weft.cli.output import Output
from weft.cli.session import Session, json_option

__all__ = ["runs", "show_runs"]

_LIMIT_DEFAULT = 20
_STATUSES = ("running", "succeeded", "failed", "cancelled", "lost")


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
        from weft.lineage.newest import Listing

        rows = store.list_runs(Listing(flow, tags, status, where, limit))
        output = Output(is_json=is_json)
        if is_json:
            output.document(rows)
        else:
            show_runs(output, rows)


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
