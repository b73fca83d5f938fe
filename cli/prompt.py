"""The prompt of `weft sql`: history, completion of views and columns, commands that start with a backslash."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from weft.cli.format import format_count, format_duration
from weft.cli.output import Output, print_error
from weft.lineage import clock
from weft.lineage.engine import is_interrupt
from weft.lineage.errors import StoreError, UsageError
from weft.lineage.view_sql import VIEW_NAMES

if TYPE_CHECKING:
    from weft.lineage.result import Result
    from weft.lineage.store import Store

__all__ = ["Prompt"]

_PROMPT = "weft> "
_PROMPT_MORE = "  ... "
_GREETING = r"End a query with ; to run it, Ctrl-C cancels it. \d lists the views, \? all commands, \q ends."
_COMMANDS = {
    r"\d": "list the views",
    r"\d VIEW": "list the columns of a view",
    r"\timing": "show how long each query took, or no longer",
    r"\?": "show this list",
    r"\q": "end (as Ctrl-D does)",
}
_WORDS = [
    "select",
    "from",
    "where",
    "group",
    "order",
    "by",
    "limit",
    "all",
    "having",
    "distinct",
    "join",
    "left",
    "using",
    "on",
    "and",
    "or",
    "not",
    "null",
    "is",
    "in",
    "like",
    "between",
    "case",
    "when",
    "then",
    "else",
    "end",
    "as",
    "asc",
    "desc",
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "interval",
    "with",
    "union",
    "filter",
]
_FUNCTIONS = ("artifact('", "upstream('", "downstream('")
_HISTORY_LINES_MAX = 1_000


class Prompt:
    """Reads queries until the end of input; after an error the next one is awaited."""

    def __init__(self, store: Store, show: Callable[[Result], None]) -> None:
        self._store = store
        self._show = show
        self._output = Output()
        self._is_timed = True

    def run(self) -> None:
        """Until the end of input, `exit`, `quit` or `\\q`."""
        readline = _readline()
        history = _history_file()
        if readline is not None:
            readline.set_history_length(_HISTORY_LINES_MAX)
            with contextlib.suppress(OSError):
                readline.read_history_file(history)
            readline.set_completer_delims(" \t\n,()=<>;")
            readline.set_completer(self._complete)
            readline.parse_and_bind("tab: complete")
        self._output.line(_GREETING, "dim")
        try:
            while not self._read():
                pass
        finally:
            if readline is not None:
                readline.set_completer(None)
                with contextlib.suppress(OSError):
                    os.makedirs(os.path.dirname(history), mode=0o700, exist_ok=True)
                    readline.write_history_file(history)

    def _read(self) -> bool:
        """Whether this is the end, and not a Ctrl-C: what was typed so far is dropped then, as shells do."""
        try:
            self._read_lines()
        except KeyboardInterrupt:
            # Another one may come while this one is answered.
            with contextlib.suppress(KeyboardInterrupt):
                self._output.line()
            return False
        return True

    def _read_lines(self) -> None:
        lines: list[str] = []
        while True:
            try:
                lines.append(input(_PROMPT_MORE if lines else _PROMPT))
                text = "\n".join(lines).strip()
                if text.rstrip(";") in ("exit", "quit", ".quit", r"\q"):
                    return
                if not text:
                    lines = []
                elif text.startswith("\\"):
                    lines = []
                    self._obey(text)
                elif text.endswith(";"):
                    lines = []
                    self._ask(text)
            except EOFError:
                self._output.line()
                return

    def _ask(self, query: str) -> None:
        began_s = clock.monotonic_s()
        try:
            result = self._store.sql(query)
            took_s = clock.monotonic_s() - began_s
            self._show(result)
        except (UsageError, StoreError, LookupError) as error:
            print_error(str(error))
            return
        except (KeyboardInterrupt, Exception) as error:
            if not is_interrupt(error):
                raise
            self._output.line("cancelled", "yellow")
            return
        if self._is_timed:
            self._output.line(f"{format_count(len(result), 'row')} in {format_duration(took_s)}", "dim")

    def _obey(self, text: str) -> None:
        command, _, argument = text.rstrip(";").partition(" ")
        argument = argument.strip()
        if command == r"\d" and not argument:
            self._output.table(
                ["view", "columns"], [[name, ", ".join(self._columns[name])] for name in VIEW_NAMES]
            )
        elif command == r"\d":
            self._describe(argument)
        elif command == r"\timing":
            self._is_timed = not self._is_timed
            self._output.line(f"timing is {'on' if self._is_timed else 'off'}", "dim")
        elif command == r"\?":
            self._output.fields(_COMMANDS.items())
        else:
            print_error(rf"There is no command {command}. \? lists the commands.")

    def _describe(self, view: str) -> None:
        if view not in VIEW_NAMES:
            print_error(rf"There is no view {view!r}. \d lists the views.")
            return
        rows = self._store.rows(f"describe {view}")
        self._output.table(["column", "type"], [row[:2] for row in rows])

    @cached_property
    def _columns(self) -> dict[str, list[str]]:
        return {view: [str(row[0]) for row in self._store.rows(f"describe {view}")] for view in VIEW_NAMES}

    @cached_property
    def _candidates(self) -> list[str]:
        columns = {column for listed in self._columns.values() for column in listed}
        return sorted({*VIEW_NAMES, *columns, *_FUNCTIONS, *_WORDS})

    def _complete(self, text: str, state: int) -> str | None:
        """What readline asks for: the n-th word that begins with `text`; `t.` before it is kept."""
        front, dot, stem = text.rpartition(".")
        try:
            found = (
                [word for word in self._candidates if word.startswith(stem.lower())] if stem or dot else []
            )
        except (UsageError, StoreError):
            return None
        if re.fullmatch("[A-Z]+", stem):
            found = [word.upper() if word in _WORDS else word for word in found]
        return f"{front}{dot}{found[state]}" if state < len(found) else None


def _readline() -> Any:
    """The module that edits lines, where Python has it."""
    try:
        import readline
    except ImportError:
        return None
    return readline


def _history_file() -> str:
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "weft", "sql_history")
