"""`weft export`: what was recorded, in the form other tools read."""

from __future__ import annotations

import sys

import click

from weft.cli.format import format_count
from weft.cli.output import Output
from weft.cli.session import Session
from weft.lineage.errors import UsageError

__all__ = ["export"]

_FORMS = ("openlineage",)


@click.command(short_help="Write what was recorded in the form other tools read.")
@click.argument("form", type=click.Choice(_FORMS))
@click.option("--since", metavar="TIME", help="Only what was recorded after this: ISO 8601 or an event id.")
@click.option(
    "--output", "path", metavar="FILE", type=click.Path(dir_okay=False), help="Write there, not to stdout."
)
@click.option("--append", "is_append", is_flag=True, help="Add to FILE what it does not have yet.")
@click.option(
    "--namespace", metavar="NAME", help="Of jobs and artifacts; else $OPENLINEAGE_NAMESPACE, else weft."
)
@click.pass_obj
def export(
    session: Session, form: str, since: str | None, path: str | None, is_append: bool, namespace: str | None
) -> None:
    """Write what was recorded in the form other tools read.

    FORM is openlineage: events of OpenLineage 2-0-2, one JSON object a line, made from the log, so runs of
    any age are there. The same log always gives the same events. With --append only those are written that
    FILE does not have yet: whatever kept a live export from writing them, they are not lost.

    \b
    Examples:
      weft export openlineage --since 2026-01-31 > events.ndjson
      weft export openlineage --append --output events.ndjson
    """
    from weft.lineage.openlineage_sinks import FileSink, documents_of, namespace_of, text_of

    if is_append and path is None:
        raise UsageError("--append adds to a file. Name it with --output.")
    with session.open() as store:
        since_us = None if since is None else store.moment_us(since)
        documents = documents_of(store, namespace_of(namespace), since_us)
        if path is None:
            output = Output()
            for document in documents:
                output.line(text_of(document))
            return
        try:
            if not is_append:
                open(path, "w", encoding="utf-8").close()
            count = FileSink(path).add_missing(documents)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written: {error.strerror or error}. Name another --output."
            ) from error
        Output(sys.stderr).line(f"{format_count(count, 'event')} written to {path}")
