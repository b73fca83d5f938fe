"""The table functions of weft's own connection: `artifact`, `upstream` and `downstream`.

DuckDB cannot bind a list of files that depends on a query. So the calls are read from the query before
it runs, each is worked out to a table or view of schema `call`, and that stands in its place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from weft.lineage.contents import read_content, read_recorded
from weft.lineage.errors import QueryError
from weft.lineage.fence import Call
from weft.lineage.reads import ClientRead, tell
from weft.lineage.views import Views
from weft.lineage.walk import trace

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["TableCalls"]

_TABULAR = "parquet-%"
_NODE_COLUMNS = {
    "depth": "BIGINT",
    "kind": "VARCHAR",
    "pathspec": "VARCHAR",
    "flow": "VARCHAR",
    "run_id": "VARCHAR",
    "step": "VARCHAR",
    "task_id": "VARCHAR",
    "name": "VARCHAR",
    "digest": "VARCHAR",
}
_IN_FRONT = ("flow", "run_id", "task_id")


class TableCalls:
    """The calls of one query. `files` are what the query has to be let read; they last until `__exit__`."""

    def __init__(self, store: Answers, calls: Sequence[Call]) -> None:
        self._store = store
        self._calls = calls
        self._copies: Any = None
        self.files: list[str] = []
        #: For each call of `artifact`: (flow, run_id, task_id, file) of every table of that name.
        self._tables: dict[int, list[tuple[str, str, str, str]]] = {}

    def __enter__(self) -> Self:
        for position, call in enumerate(self._calls):
            if call.function == "artifact":
                self._tables[position] = self._find_tables(call.argument)
        self.files = sorted({row[3] for rows in self._tables.values() for row in rows})
        return self

    def __exit__(self, *_: object) -> None:
        if self._copies is not None:
            self._copies.cleanup()

    def rewritten(self, query: str) -> str:
        """The query with each call replaced by the name of its table."""
        for position, call in reversed(list(enumerate(self._calls))):
            query = f"{query[: call.start]}call.table_{position}{query[call.end :]}"
        return query

    def fill(self, views: Views) -> None:
        """Make the tables that the rewritten query names."""
        for position, call in enumerate(self._calls):
            name = f"table_{position}"
            if call.function == "artifact":
                self._create_view(views, name, self._tables[position])
            else:
                direction = "up" if call.function == "upstream" else "down"
                graph = trace(self._store, call.argument, direction)
                rows = [
                    (depth, node.kind, node.id, *node[2:8]) for depth, node in graph.with_depth() if depth
                ]
                views.create(name, _NODE_COLUMNS, rows)

    def _find_tables(self, target: str) -> list[tuple[str, str, str, str]]:
        parts = target.split("/")
        if len(parts) != 3 or not all(parts):
            raise QueryError(f"artifact({target!r}) does not name a table. Write artifact('Flow/step/name').")
        rows = self._store.rows(
            "select flow, run_id, task_id, digest, serializer like ?, producer_pathspec, size_bytes, type, serializer "
            "from artifacts where flow = ? and step = ? and name = ? order by created_at",
            [_TABULAR, *parts],
        )
        if not rows:
            raise QueryError(self._unknown(parts))
        tables = [row[:4] for row in rows if row[4]]
        for row in rows:
            if row[4]:
                tell(ClientRead(self._store.url, row[5], parts[2], row[3], row[6]))
        if not tables:
            *_, type_name, serializer = rows[-1]
            raise QueryError(_no_table(target, type_name, serializer))
        recorded = read_recorded(self._store, sorted({digest for *_, digest in tables}))
        paths = {}
        for digest, where in recorded.items():
            data, path = read_content(self._store, where)
            paths[digest] = path or self._copied(digest, data)
        return [(flow, run_id, task_id, paths[digest]) for flow, run_id, task_id, digest in tables]

    def _unknown(self, parts: list[str]) -> str:
        from difflib import get_close_matches

        rows = self._store.rows(
            "select distinct flow || '/' || step || '/' || name from artifacts where serializer like ?",
            [_TABULAR],
        )
        near = get_close_matches("/".join(parts), [row[0] for row in rows], n=3)
        hint = f" Near names: {', '.join(near)}." if near else " `FROM artifacts` lists what is recorded."
        return f"No artifact {'/'.join(parts)} is recorded.{hint}"

    def _copied(self, digest: str, data: bytes) -> str:
        import tempfile

        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory(prefix="weft-", ignore_cleanup_errors=True)
        path = os.path.join(self._copies.name, digest.removeprefix("sha256:") + ".parquet")
        with open(path, "wb") as file:
            file.write(data)
        return path

    def _create_view(self, views: Views, name: str, tables: list[tuple[str, str, str, str]]) -> None:
        """Rows of all files, with the task they are from in front; what a file lacks is NULL."""
        types = dict.fromkeys((*_IN_FRONT, "file"), "VARCHAR")
        views.create(f"{name}_files", types, tables)
        files = ", ".join("'" + path.replace("'", "''") + "'" for path in sorted({row[3] for row in tables}))
        scan = f"read_parquet([{files}], union_by_name = true, filename = 'weft file')"
        columns = [row[0] for row in views.connection.execute(f"describe select * from {scan}").fetchall()]
        # A table may have a column of such a name itself: that one gets a number.
        renamed = [f'"{column}" as "{column}_1"' for column in columns if column.lower() in _IN_FRONT]
        rename = f" rename ({', '.join(renamed)})" if renamed else ""
        views.connection.execute(
            f"create or replace view call.{name} as select m.flow, m.run_id, m.task_id, "
            f't.* exclude ("weft file"){rename} from {scan} t join call.{name}_files m on m.file = t."weft file"'
        )


def _no_table(target: str, type_name: str | None, serializer: str) -> str:
    """Why an artifact that is recorded cannot be queried, and as what it could be."""
    recorded = f"{target} is recorded as {serializer}, a {type_name}, and not as a table."
    if serializer.startswith("plain/"):
        return f"{recorded} Its value is in the view artifacts; rows saved as a data frame or Arrow table can be queried."
    if type_name in ("pandas.DataFrame", "polars.DataFrame"):
        kind = "pandas" if type_name.startswith("pandas") else "polars"
        return f"{recorded} With one type of plain values in each column it is saved as parquet-{kind}/1, which can be queried."
    return (
        f"{recorded} Save its rows as an Arrow table (parquet-arrow/1), a pandas frame (parquet-pandas/1) or a polars frame "
        "(parquet-polars/1): these can be queried."
    )
