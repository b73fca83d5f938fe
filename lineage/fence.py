"""What SQL a user may run: one statement that only reads, against files that were named beforehand.

Three walls: DuckDB's own parser has to call the statement SELECT or EXPLAIN (or PIVOT, which it takes
apart into several); it runs in a transaction that is read-only; and the connection is shut with
`SHUT`, so that it opens no file but those it was given and no setting can be changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from weft.lineage.errors import QueryError

__all__ = ["Call", "Statement", "check", "find_calls", "shut"]

_FUNCTIONS = ("artifact", "downstream", "upstream")


class Statement(NamedTuple):
    """One statement that may run, without its semicolon."""

    text: str
    is_explain: bool


class Call(NamedTuple):
    """A call of one of weft's own table functions: its name, its argument, and where it lies in the query."""

    function: str
    argument: str
    start: int
    end: int


def shut(connection: Any, files: Sequence[str]) -> None:
    """Let a connection read `files` and no others, for good."""
    listed = ", ".join(_literal(file) for file in files)
    connection.execute(
        f"set allowed_paths = [{listed}]; set enable_external_access = false; set lock_configuration = true"
    )


def check(engine: Any, connection: Any, query: str) -> Statement:
    """The one statement of `query`.

    Raises: QueryError when there are none or several, or when it does anything but read.
    """
    statement = _only(engine, connection, query)
    kind = statement.type.name
    text = statement.query.strip().rstrip(";").rstrip()
    if kind == "EXPLAIN":
        _check_reads(engine, connection, _explained(text))
        return Statement(text, is_explain=True)
    if kind == "SELECT" or (kind == "MULTI" and _first_word(text) == "pivot"):
        return Statement(text, is_explain=False)
    raise QueryError(
        f"{kind} is not let through: SQL over the log only reads. Write a SELECT, or copy the rows elsewhere from Python."
    )


def find_calls(query: str) -> list[Call]:
    """Every call of `artifact`, `upstream` and `downstream`, in the order of the query.

    Text in quotes and comments is passed over.

    Raises: QueryError for a call whose argument is no literal, because its files must be known beforehand.
    """
    import re

    pattern = (
        r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\$\$.*?\$\$"
        rf"|(?<![\w.])(?P<function>{'|'.join(_FUNCTIONS)})\s*\((?:\s*'(?P<argument>(?:[^']|'')*)'\s*\))?"
    )
    found = []
    for match in re.finditer(pattern, query, re.IGNORECASE | re.DOTALL):
        function = match["function"]
        if function is None:
            continue
        if match["argument"] is None:
            raise QueryError(
                f"{function}(…) takes one text in single quotes, such as {function}('MyFlow/fit/model'). Write it out."
            )
        argument = match["argument"].replace("''", "'")
        found.append(Call(function.lower(), argument, match.start(), match.end()))
    return found


def _only(engine: Any, connection: Any, query: str) -> Any:
    try:
        statements = connection.extract_statements(query)
    except engine.Error as error:
        raise QueryError(f"{error}\nCorrect the query.") from None
    if len(statements) != 1:
        raise QueryError(f"The query holds {len(statements)} statements. Give one SELECT at a time.")
    return statements[0]


def _check_reads(engine: Any, connection: Any, text: str) -> None:
    kind = _only(engine, connection, text).type.name
    if kind != "SELECT":
        raise QueryError(f"EXPLAIN of {kind} is not let through: it could run it. Explain a SELECT.")


def _explained(text: str) -> str:
    """What an EXPLAIN explains.

    Raises: QueryError when it begins with anything but EXPLAIN [ANALYZE].
    """
    import re

    blank = r"(?:\s|--[^\n]*\n|/\*.*?\*/)"
    match = re.match(rf"{blank}*explain{blank}+(?:analyze{blank}+)?", text, re.IGNORECASE | re.DOTALL)
    if match is None:
        raise QueryError("EXPLAIN with options is not let through. Write EXPLAIN or EXPLAIN ANALYZE.")
    return text[match.end() :]


def _first_word(text: str) -> str:
    words = text.split(maxsplit=1)
    return words[0].lower() if words else ""


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
