"""`weft logs`: what tasks printed, from the console events of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weft.cli.format import escape_controls
from weft.cli.output import Output
from weft.cli.session import Session, json_option
from weft.lineage.errors import NotFound
from weft.lineage.ids import Pathspec, parse_pathspec

if TYPE_CHECKING:
    from weft.lineage.answers import Line
    from weft.lineage.store import Store

__all__ = ["logs", "show_console"]

_POLL_S = 0.2


@click.command(short_help="Show what tasks printed.")
@click.argument("pathspec")
@click.option("--stdout", "stream", flag_value="stdout", help="Only what was printed to stdout.")
@click.option("--stderr", "stream", flag_value="stderr", help="Only what was printed to stderr.")
@click.option("-f", "--follow", "is_followed", is_flag=True, help="Go on until the run has ended.")
@json_option
@click.pass_obj
def logs(session: Session, pathspec: str, stream: str | None, is_followed: bool, is_json: bool) -> None:
    """Show what the tasks of a run, a step or one task printed, in the order of time.

    PATHSPEC is Flow/run[/step[/task]]. A reused task shows what its origin printed.

    \b
    Examples:
      weft logs MyFlow/17
      weft logs MyFlow/17/fit/4 --stderr
      weft logs MyFlow/17 -f
    """
    spec = parse_pathspec(pathspec)
    if spec.run_id is None:
        raise NotFound(f"{pathspec} names no run. Write {pathspec}/RUN; `weft runs` lists the runs.")
    if is_followed:
        session.check_is_now("What was printed by a moment grows no more, so there is nothing to follow.")
    with session.open() as store:
        show_console(store, spec, stream, is_followed, Output(is_json=is_json))


def show_console(store: Store, spec: Pathspec, stream: str | None, is_followed: bool, output: Output) -> None:
    """What the tasks below `spec` printed; followed until the run has ended. Raises: NotFound."""
    from weft.cli.records import check_exists
    from weft.lineage.console import read_lines

    if is_followed:
        check_exists(store, Pathspec(spec.flow, spec.run_id))
        _follow(store, spec, stream, output)
        return
    lines = read_lines(store, str(spec._replace(name=None)), stream)
    if not lines:
        check_exists(store, spec._replace(name=None))
    if output.is_json:
        output.document([_document(line) for line in lines])
        return
    for line in lines:
        _show(output, spec, line)


def _follow(store: Store, spec: Pathspec, stream: str | None, output: Output) -> None:
    """Show lines as they are committed, until the run is no longer running."""
    from time import sleep

    from weft.lineage.console import read_lines

    # A line of one task may be committed after later ones of others, never after later ones of its own.
    shown: dict[tuple[str, int, str], int] = {}
    while True:
        # Asked before the lines are read: what a run printed is committed before its end.
        is_running = _is_running(store, spec)
        seen: dict[tuple[str, int, str], int] = {}
        for line in read_lines(store, str(spec._replace(name=None)), stream):
            source = line.pathspec, line.attempt, line.stream
            seen[source] = seen.get(source, 0) + 1
            if seen[source] <= shown.get(source, 0):
                continue
            if output.is_json:
                output.record(_document(line))
            else:
                _show(output, spec, line)
        shown = seen
        output.flush()
        if not is_running:
            return
        sleep(_POLL_S)


def _is_running(store: Store, spec: Pathspec) -> bool:
    query = "SELECT status FROM runs WHERE flow = $flow AND run_id = $run_id"
    rows = store.sql(query, flow=spec.flow, run_id=spec.run_id).fetchall()
    return bool(rows) and rows[0][0] == "running"


def _document(line: Line) -> dict[str, object]:
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(line.time_us / 1e6, UTC)
    return {"time": moment, **line._asdict()}


def _show(output: Output, spec: Pathspec, line: Line) -> None:
    """A line with its place in front of it, as far as that was not asked for."""
    asked = str(spec)
    place = line.pathspec.removeprefix(asked).lstrip("/") if line.pathspec.startswith(asked) else ""
    front = output.styled(f"{place} | ", "dim") if place else ""
    style = "yellow" if line.stream == "stderr" else None
    output.line(front + output.styled(escape_controls(line.text), style))
