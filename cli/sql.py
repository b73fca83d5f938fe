"""`weft sql`: read-only SQL over the whole history."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

import click

from weft.cli.format import format_value
from weft.cli.output import Output, json_value
from weft.cli.session import Session, json_option
from weft.lineage.errors import UsageError
from weft.lineage.limits import Limits

__all__ = ["sql"]

#: Enough for any question of a person; more has to be meant.
_SECONDS_MAX = 300.0
_ROWS_MAX = 1_000_000

_FORMATS = ("table", "json", "csv", "markdown", "parquet")


@click.command(short_help="Ask the whole history in SQL, read-only.")
@click.argument("query", required=False)
@click.option("--format", "form", type=click.Choice(_FORMATS), help="How to show the answer; else a table.")
@click.option(
    "--output", "path", metavar="FILE", type=click.Path(dir_okay=False), help="Write the answer to a file."
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0),
    default=_SECONDS_MAX,
    show_default=True,
    help="How long a query may take; 0: as long as it likes.",
)
@click.option(
    "--max-rows",
    type=click.IntRange(min=0),
    default=_ROWS_MAX,
    show_default=True,
    help="How many rows an answer may have; 0: as many as there are.",
)
@click.option("--ddl", is_flag=True, help="Print the views as SQL for any DuckDB.")
@json_option
@click.pass_obj
def sql(
    session: Session,
    query: str | None,
    form: str | None,
    path: str | None,
    max_seconds: float,
    max_rows: int,
    ddl: bool,
    is_json: bool,
) -> None:
    """Ask the whole history in SQL (DuckDB's), read-only.

    The views are runs, steps, tasks, attempts, artifacts, artifact_uses, external_uses, parameters, tags
    and events; artifact('Flow/step/name') is the rows of every table saved under that name, and
    upstream(target), downstream(target) are lineage. Without QUERY it is read from stdin, on a
    terminal with a prompt: history, completion by Tab, \\d for the views, Ctrl-C to cancel.

    \b
    Examples:
      weft sql "SELECT flow, status, count(*) FROM runs GROUP BY ALL"
      weft sql "SELECT run_id, value_number FROM artifacts WHERE name = 'score'" --format csv
      weft sql "FROM artifact('MyFlow/end/table')" --output table.parquet
    """
    form = _form(form, path, is_json)
    with session.open() as store:
        store.limits = Limits(max_seconds or None, max_rows or None)
        if ddl:
            Output().line(store.ddl().rstrip())
            return
        if query is None and path is None and sys.stdin.isatty():
            from weft.cli.prompt import Prompt

            Prompt(store, lambda result: _write(result, form, None)).run()
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
