"""`weft diff`: what differs between two runs, and why."""

from __future__ import annotations

import click

from weft.cli.format import escape_controls
from weft.cli.output import Output, Style
from weft.cli.session import Session, json_option

__all__ = ["diff", "show_diff"]


@click.command(short_help="Show what differs between two runs, the first cause on top.")
@click.argument("run_a")
@click.argument("run_b")
@json_option
@click.pass_obj
def diff(session: Session, run_a: str, run_b: str, is_json: bool) -> None:
    """Show what differs between two runs, ordered by cause.

    RUN_A and RUN_B are Flow/run, or a flow for its newest run. Compared are graph, code (by function),
    parameters, environment, inputs, artifacts and durations; tasks are matched by step and place in their
    foreach. Tables, arrays and plain values are looked into; no pickle is loaded.

    \b
    Examples:
      weft diff MyFlow/17 MyFlow/18
      weft diff MyFlow/17 MyFlow --json
    """
    with session.open() as store:
        found = store.diff(run_a, run_b)
        output = Output(is_json=is_json)
        if is_json:
            output.document(found.document())
            return
        show_diff(output, found.text())


def show_diff(output: Output, text: str) -> None:
    """The text of a diff, coloured line by line."""
    for line in text.split("\n"):
        output.line(escape_controls(line), _style_of(line))


def _style_of(line: str) -> Style:
    if line.startswith("     -"):
        return "red"
    if line.startswith("     +"):
        return "green"
    return "bold" if line[:1].isdigit() else None
