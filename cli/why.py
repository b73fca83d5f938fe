"""`weft why`: why a task ran or was reused."""

from __future__ import annotations

import click

from weft.cli.format import escape_controls
from weft.cli.output import Output, Style
from weft.cli.session import Session, json_option

__all__ = ["why"]


@click.command(short_help="Show why a task ran or was reused.")
@click.argument("pathspec")
@json_option
@click.pass_obj
def why(session: Session, pathspec: str, is_json: bool) -> None:
    """Show why a task ran or was reused: all it depended on, against the nearest earlier task of its step.

    PATHSPEC is a task, Flow/run/step/task; a step that has one task is enough. Compared are the code it
    reached, packages, Python, parameters, and each value and file it read; no pickle is loaded.

    \b
    Examples:
      weft why MyFlow/18/fit/3
      weft why MyFlow/18/end --json
    """
    with session.open() as store:
        found = store.why(pathspec)
        output = Output(is_json=is_json)
        if is_json:
            output.document(found.document())
            return
        for line in found.text().split("\n"):
            output.line(escape_controls(line), _style_of(line))


def _style_of(line: str) -> Style:
    if line.startswith("     -"):
        return "red"
    return "green" if line.startswith("     +") else None
