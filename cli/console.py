"""`weft logs`: what tasks printed, from the console events of the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import click

from weft.cli.format import escape_controls
from weft.cli.output import Output
from weft.cli.session import Session, json_option
from weft.lineage.errors import NotFound
from weft.lineage.ids import Pathspec, parse_pathspec

if TYPE_CHECKING:
    from weft.lineage.events import Event
    from weft.lineage.objects import Objects
    from weft.lineage.store import Store

__all__ = ["ConsoleLine", "logs", "read_console", "show_console"]

_POLL_S = 0.2


class ConsoleLine(NamedTuple):
    """One line that an attempt printed; `stream` is "stdout" or "stderr"."""

    time_us: int
    pathspec: str
    attempt: int
    stream: str
    text: str


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
    with session.open() as store:
        show_console(store, spec, stream, is_followed, Output(is_json=is_json))


def show_console(store: Store, spec: Pathspec, stream: str | None, is_followed: bool, output: Output) -> None:
    """What the tasks below `spec` printed; followed until the run has ended. Raises: NotFound."""
    if is_followed:
        _follow(store, spec, stream, output)
        return
    _check_exists(store, spec)
    lines = sorted(_lines(store, spec, stream), key=lambda line: line.time_us)
    if output.is_json:
        output.document([_document(line) for line in lines])
        return
    for line in lines:
        _show(output, spec, line)


def read_console(events: Iterable[Event], objects: Objects) -> Iterator[ConsoleLine]:
    """The lines of all console events among `events`. Raises: NotFound when a chunk's object is gone."""
    import zlib

    import msgpack

    for event in events:
        if event.kind != "console_written":
            continue
        packed = event.blob
        if packed is None:
            assert event.digest is not None, "a chunk lies in the event or in an object"
            packed = objects.get(event.digest)
        place = f"{event.flow}/{event.run_id}/{event.step}/{event.task_id}"
        for time_us, text in msgpack.unpackb(zlib.decompress(packed)):
            yield ConsoleLine(time_us, place, event.attempt or 0, event.name or "stdout", text)


def _check_exists(store: Store, spec: Pathspec) -> None:
    from weft.cli.records import check_exists

    check_exists(store, spec._replace(name=None))


def _lines(store: Store, spec: Pathspec, stream: str | None) -> list[ConsoleLine]:
    events = _events_of(store, spec)
    reused = [event for event in events if event.kind == "task_reused"]
    if spec.task_id is not None and reused:
        origin = reused[-1]
        assert origin.producer_flow is not None, "a reused task names its origin"
        return _lines(
            store,
            Pathspec(
                origin.producer_flow, origin.producer_run_id, origin.producer_step, origin.producer_task_id
            ),
            stream,
        )
    lines = read_console(events, store.objects)
    return [line for line in lines if stream is None or line.stream == stream]


def _events_of(store: Store, spec: Pathspec) -> list[Event]:
    return [
        event
        for event in store.events(flow=spec.flow, run_id=spec.run_id)
        if (spec.step is None or event.step == spec.step)
        and (spec.task_id is None or event.task_id == spec.task_id)
    ]


def _follow(store: Store, spec: Pathspec, stream: str | None, output: Output) -> None:
    """Show lines as they are committed, until the run is no longer running."""
    import time

    _check_exists(store, Pathspec(spec.flow, spec.run_id))
    shown = 0
    while True:
        is_running = _is_running(store, spec)
        # In the order of commit: what was shown stays a beginning of what is there.
        events = sorted(_events_of(store, spec), key=lambda event: (event.time_us, event.writer, event.seq))
        lines = [line for line in read_console(events, store.objects) if stream in (None, line.stream)]
        for line in lines[shown:]:
            if output.is_json:
                output.record(_document(line))
            else:
                _show(output, spec, line)
        shown = len(lines)
        output.flush()
        if not is_running:
            return
        time.sleep(_POLL_S)


def _is_running(store: Store, spec: Pathspec) -> bool:
    query = "SELECT status FROM runs WHERE flow = $flow AND run_id = $run_id"
    rows = store.sql(query, flow=spec.flow, run_id=spec.run_id).fetchall()
    return bool(rows) and rows[0][0] == "running"


def _document(line: ConsoleLine) -> dict[str, object]:
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(line.time_us / 1e6, UTC)
    return {"time": moment, **line._asdict()}


def _show(output: Output, spec: Pathspec, line: ConsoleLine) -> None:
    """A line with its place in front of it, as far as that was not asked for."""
    asked = str(spec)
    place = line.pathspec.removeprefix(asked).lstrip("/") if line.pathspec.startswith(asked) else ""
    front = output.styled(f"{place} | ", "dim") if place else ""
    style = "yellow" if line.stream == "stderr" else None
    output.line(front + output.styled(escape_controls(line.text), style))
