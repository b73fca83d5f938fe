"""`weft lineage`: what something was made from, and what was made from it."""

from __future__ import annotations

import click

from weft.cli.format import escape_controls
from weft.cli.output import Output
from weft.cli.session import Session, json_option
from weft.lineage.errors import UsageError

__all__ = ["lineage"]

_FORMATS = ("tree", "json", "dot", "mermaid")


@click.command(short_help="Show what something was made from, and what was made from it.")
@click.argument("target")
@click.option("--up", "direction", flag_value="up", default="up", help="What it was made from; the default.")
@click.option("--down", "direction", flag_value="down", help="What was made from it.")
@click.option("--both", "direction", flag_value="both", help="Both.")
@click.option("--depth", type=click.IntRange(min=1), help="At most so many tasks away; all if not given.")
@click.option(
    "--same-content", is_flag=True, help="Go on from equal contents that were recorded elsewhere, too."
)
@click.option("--format", "form", type=click.Choice(_FORMATS), help="How to show it; else a tree.")
@json_option
@click.pass_obj
def lineage(
    session: Session,
    target: str,
    direction: str,
    depth: int | None,
    same_content: bool,
    form: str | None,
    is_json: bool,
) -> None:
    """Show what something was made from, and what was made from it, as it was recorded.

    TARGET is a pathspec, the beginning of a digest, or a file or URI that a flow read or wrote. A file is
    all its contents, or with @ and the beginning of a digest after its name that one. In the tree an
    artifact is a line, below it what its task read; those of all tasks of a foreach are one line with a
    count. With --down the last line says how far it reaches: in how many artifacts, runs and flows.
    Equal contents that were recorded apart (files, and values of 64 bytes or more) are only named.

    \b
    Examples:
      weft lineage MyFlow/17/end/9/report
      weft lineage MyFlow/17/start/1/table --down --depth 2
      weft lineage data/flights.csv --down
      weft lineage 9f86d081 --both
      weft lineage MyFlow/17/end/9/report --format dot | dot -Tsvg > report.svg
    """
    if is_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other. Give one of them.")
    with session.open() as store:
        graph = store.lineage(target, direction, depth, same_content)
        output = Output(is_json=is_json or form == "json")
        if output.is_json:
            output.document(graph.document())
            return
        draw = {"dot": graph.dot, "mermaid": graph.mermaid}.get(form or "tree", graph.tree)
        for line in draw().split("\n"):
            output.line(escape_controls(line))
