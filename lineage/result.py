"""What a query gave: rows that were worked out at once and stay what they are while the log goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import RLock
from typing import TYPE_CHECKING, Any

from weft.lineage.engine import is_interrupt
from weft.lineage.views import Kept, Views

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

__all__ = ["Result"]

_SHOWN_ROWS_MAX = 50
_SHOWN_CHARACTERS_MAX = 80


class Result:
    """The rows of one query. Can be fetched any number of times, in any form, from any thread."""

    def __init__(self, views: Views, lock: RLock, kept: Kept, interrupted: Callable[[], None]) -> None:
        self._views = views
        self._interrupted = interrupted
        self._lock = lock
        self._kept = kept
        described = kept.connection.execute(f"describe {kept.table}").fetchall()
        #: The names of the columns, in order; a name that comes twice gets a number at its end.
        self.columns: list[str] = [row[0] for row in described]
        #: The SQL type of each column.
        self.types: list[str] = [row[1] for row in described]
        self._rows: list[tuple[Any, ...]] | None = None

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """All rows as tuples, in the order of the query; times are datetimes without zone, in UTC."""
        if self._rows is None:
            with self._lock:
                self._rows = self._asked(
                    lambda: self._kept.connection.execute(f"from {self._kept.table}").fetchall()
                )
        return self._rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The same as `rows`, under the name that DB-API gives it."""
        return list(self.rows)

    def dicts(self) -> list[dict[str, Any]]:
        """Each row by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def df(self) -> pandas.DataFrame:
        """The rows as a pandas frame."""
        return self._fetch("df")

    def arrow(self) -> pyarrow.Table:
        """The rows as an Arrow table."""
        return self._fetch("to_arrow_table")

    def pl(self) -> polars.DataFrame:
        """The rows as a polars frame."""
        frame: polars.DataFrame = self._fetch("pl")
        return frame

    def _fetch(self, method: str) -> Any:
        # The bare engine gives no frames before its wrappers are loaded.
        import duckdb  # noqa: F401

        with self._lock:
            return self._asked(
                lambda: getattr(self._kept.connection.sql(f"from {self._kept.table}"), method)()
            )

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except BaseException as error:
            # Its connection, which other questions share, may be in the midst of it.
            self._interrupted()
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            raise

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Result {len(self.rows)} rows: {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        from html import escape

        def cell(value: object) -> str:
            text = "" if value is None else str(value)
            if len(text) > _SHOWN_CHARACTERS_MAX:
                text = text[: _SHOWN_CHARACTERS_MAX - 1] + "…"
            return f"<td>{escape(text)}</td>"

        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in self.rows[:_SHOWN_ROWS_MAX])
        more = len(self.rows) - _SHOWN_ROWS_MAX
        note = f"<p>and {more:,} more rows</p>" if more > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"

    def __del__(self) -> None:
        self._views.discard(self._kept)
