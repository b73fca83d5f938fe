"""`weft sql`: read-only SQL over the whole history."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from weft.cli.format import format_value
from weft.cli.output import Output, json_value, print_error
from weft.cli.session import Session, json_option
from weft.lineage.errors import QueryError, UsageError

if TYPE_CHECKING:
    from weft.lineage.store import Store

__all__ = ["sql"]

_FORMATS = ("table", "json", "csv", "markdown", "parquet")
_PROMPT = "weft> "
_PROMPT_MORE = "  ... "
_PROMPT_HELP = (
    "End a query with ; to run it. Views: runs steps tasks attempts artifacts artifact_uses events …"
)


@click.command(short_help="Ask the whole history in SQL, read-only.")
@click.argument("query", required=False)
@click.option("--format", "form", type=click.Choice(_FORMATS), help="How to show the answer; else a table.")
@click.option(
    "--output", "path", metavar="FILE", type=click.Path(dir_okay=False), help="Write the answer to a file."
)
@click.option("--ddl", is_flag=True, help="Print the views as SQL for any DuckDB.")
@json_option
@click.pass_obj
def sql(
    session: Session, query: str | None, form: str | None, path: str | None, ddl: bool, is_json: bool
) -> None:
    """Ask the whole history in SQL (DuckDB's), read-only.

    The views are runs, steps, tasks, attempts, artifacts, artifact_uses, external_uses, parameters, tags
    and events; artifact('Flow/step/name') is the rows of every table saved under that name, and
    upstream(target), downstream(target) are lineage. Without QUERY it is read from stdin, on a
    terminal with a prompt.

    \b
    Examples:
      weft sql "SELECT flow, status, count(*) FROM runs GROUP BY ALL"
      weft sql "SELECT run_id, value_number FROM artifacts WHERE name = 'score'" --format csv
      weft sql "FROM artifact('MyFlow/end/table')" --output table.parquet
    """
    form = _form(form, path, is_json)
    with session.open() as store:
        if ddl:
            Output().line(store.ddl().rstrip())
            return
        if query is None and path is None and sys.stdin.isatty():
            _prompt(store, form)
            return
        result = store.sql(sys.stdin.read() if query is None else query)
        _write(result, form, path)


def _form(form: str | None, path: str | None, is_json: bool) -> str:
    """The format asked for, else the one that the file's ending names, else a table."""
    if is_json:
        if form not in (None, "json"):
            raise UsageError(f"--json and --format {form} contradict each other. Give one of them.")
        return "json"
    if form is None and path is not None:
        ending = Path(path).suffix.removeprefix(".")
        form = {"md": "markdown", "txt": "table"}.get(ending, ending)
        form = form if form in _FORMATS else "table"
    if form == "parquet" and path is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for terminals. Name a file with --output, or redirect the output.")
    return form or "table"


def _write(result: Any, form: str, path: str | None) -> None:
    try:
        if form == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(result.arrow(), sys.stdout.buffer if path is None else path)
        elif path is None:
            _write_text(result, form, sys.stdout)
        else:
            with open(path, "w", encoding="utf-8", newline="") as file:
                _write_text(result, form, file)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = path or "stdout"
        raise UsageError(
            f"{where} cannot be written: {error.strerror or error}. Name another --output."
        ) from error


def _write_text(result: Any, form: str, stream: TextIO) -> None:
    columns, rows = list(result.columns), result.fetchall()
    output = Output(stream)
    if form == "json":
        output.document([dict(zip(columns, row, strict=True)) for row in rows])
    elif form == "csv":
        import csv

        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[_csv_value(value) for value in row] for row in rows])
    elif form == "markdown":
        output.line(_markdown_row(columns))
        output.line(_markdown_row(["---"] * len(columns)))
        for row in rows:
            output.line(_markdown_row([format_value(value) for value in row]))
    else:
        output.table(columns, rows, empty="no rows")


def _csv_value(value: object) -> object:
    """Numbers and text as they are, NULL as nothing, nested values as JSON."""
    value = json_value(value)
    if isinstance(value, list | dict):
        import json

        return json.dumps(value, ensure_ascii=False)
    return value


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _prompt(store: Store, form: str) -> None:
    """Read queries until the end of input; an error is shown and the next query awaited."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  editing and history of input()
    Output().line(_PROMPT_HELP, "dim")
    lines: list[str] = []
    while True:
        try:
            lines.append(input(_PROMPT_MORE if lines else _PROMPT))
        except (EOFError, KeyboardInterrupt):
            Output().line()
            return
        query = "\n".join(lines).strip()
        if not query or query in ("exit", "quit", ".quit"):
            if query:
                return
            lines = []
        elif query.endswith(";"):
            lines = []
            try:
                _write(store.sql(query), form, None)
            except QueryError as error:
                print_error(str(error))
