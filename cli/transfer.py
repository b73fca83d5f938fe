"""`weft push` and `weft pull`: the events of one store join those of another."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import click

from weft.cli.format import escape_controls, format_bytes, format_count
from weft.cli.output import Output
from weft.cli.session import Session, json_option
from weft.lineage.errors import NotFound, UsageError

if TYPE_CHECKING:
    from weft.lineage.storage import Storage

__all__ = ["pull", "push"]

#: What was left behind is shown up to so many files.
_LEFT_SHOWN_MAX = 20


@click.command(short_help="Send what another store lacks there.")
@click.argument("url")
@json_option
@click.pass_obj
def push(session: Session, url: str, is_json: bool) -> int:
    """Send the events that the store at URL lacks there, with the objects they need.

    URL is a folder or anything that fsspec knows, such as s3://bucket/prefix; a store is made there if there
    is none. Both stores stay as they are but for what the other one gains: the order of pushes and pulls
    does not matter, a second one sends nothing, and one that was broken off is repeated. A run that is at
    work travels as far as it is. Each file is checked before it is put; what is damaged or missing is
    named, and the rest travels. Exit code 1: something was left behind.

    \b
    Examples:
      weft push /mnt/shared/store
      weft --store .weft push s3://team/flows --json
    """
    return _move(_own_store(session, "push"), _opened(url), "sent", "to", is_json)


@click.command(short_help="Bring what another store has here.")
@click.argument("url")
@json_option
@click.pass_obj
def pull(session: Session, url: str, is_json: bool) -> int:
    """Bring the events that this store lacks here from the store at URL, with the objects they need.

    As `weft push` the other way round. The store that is named by --store is made if there is none. A run
    whose id is taken here by another run is shown as `id~2`.

    \b
    Examples:
      weft pull s3://team/flows
      weft --store copy pull /mnt/shared/store
    """
    return _move(_opened(url), _own_store(session, "pull"), "brought", "from", is_json)


def _own_store(session: Session, command: str) -> Storage:
    from weft.lineage.description import find_store

    if session.as_of is not None:
        raise UsageError(f"{command} moves all events, whenever they were. Leave --as-of out.")
    root = session.store_url or find_store(os.getcwd(), os.environ)
    if root is None:
        raise NotFound(
            "There is no store here. Run a flow first, or name a store with --store or WEFT_STORE."
        )
    return _opened(root)


def _opened(url: str) -> Storage:
    from weft.lineage.stores import open_storage

    return open_storage(url)


def _move(source: Storage, target: Storage, verb: str, preposition: str, is_json: bool) -> int:
    from weft.lineage.transfer import transfer

    try:
        with _Bars() as bars:
            report = transfer(source, target, bars)
    except KeyboardInterrupt:
        Output(sys.stderr).line("Interrupted. Both stores are whole; repeat the command to go on.")
        return 1
    output = Output(is_json=is_json)
    code = 0 if report.is_complete else 1
    if is_json:
        document: dict[str, Any] = {"is_complete": report.is_complete, **report._asdict()}
        output.document(document | {"left": [left._asdict() for left in report.left]})
        return code
    other = target.url if preposition == "to" else source.url
    files = format_count(report.segments + report.journals, "file")
    output.line(
        f"{verb} {format_count(report.events, 'event')} in {files} and {format_count(report.objects, 'object')} "
        f"({format_bytes(report.size_bytes)}) {preposition} {escape_controls(other)}"
    )
    for left in report.left[:_LEFT_SHOWN_MAX]:
        output.line(f"left {escape_controls(left.path)}: {escape_controls(left.reason)}", "yellow")
        output.line(f"  {left.advice}")
    more = len(report.left) - _LEFT_SHOWN_MAX
    if more > 0:
        output.line(f"and {format_count(more, 'more file')}; --json lists all", "yellow")
    return code


class _Bars:
    """A bar on stderr for each stage of a transfer, where stderr is a terminal."""

    def __init__(self) -> None:
        self._shown = ExitStack()
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def begin(self, what: str, size_bytes: int) -> None:
        self._shown.close()
        self._bar = None
        if size_bytes and sys.stderr.isatty():
            bar: Any = click.progressbar(length=size_bytes, label=f"{what:<8}", file=sys.stderr)
            self._bar = self._shown.enter_context(bar)

    def advance(self, size_bytes: int) -> None:
        if self._bar is not None:
            self._bar.update(size_bytes)
