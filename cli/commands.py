"""The commands of `weft`, as far as they are known without being imported."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COMMANDS", "Place"]


class Place(NamedTuple):
    """Where a command is defined, the line `--help` shows for it without importing it, and whether it asks the views."""

    module: str
    help: str
    asks: bool = False


#: In the order `weft --help` shows them.
COMMANDS = {
    "demo": Place("weft.cli.demo", "Run a real flow in a temporary store and show what weft answers."),
    "runs": Place("weft.cli.runs", "List runs, newest first.", True),
    "show": Place("weft.cli.show", "Show a run, a step, a task or an artifact.", True),
    "logs": Place("weft.cli.console", "Show what tasks printed.", True),
    "lineage": Place("weft.cli.trace", "Show what something was made from, and what was made from it.", True),
    "diff": Place("weft.cli.diff", "Show what differs between two runs, the first cause on top.", True),
    "why": Place("weft.cli.why", "Show why a task ran or was reused.", True),
    "reproduce": Place("weft.cli.reproduce", "Run a recorded run again and compare what comes of it."),
    "sql": Place("weft.cli.sql", "Ask the whole history in SQL, read-only.", True),
    "log": Place("weft.cli.log", "Show the events themselves."),
    "export": Place("weft.cli.export", "Write what was recorded in the form other tools read."),
    "verify": Place("weft.cli.care", "Check every byte of the store against its checksums."),
    "compact": Place("weft.cli.care", "Seal closed journals, and merge small segments into large ones."),
    "push": Place("weft.cli.transfer", "Send what another store lacks there."),
    "pull": Place("weft.cli.transfer", "Bring what another store has here."),
}
