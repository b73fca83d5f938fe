"""The events of one segment after the other, asked in SQL with bounded memory: what `verify` reads them with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from weft.lineage.errors import StoreDamaged, WeftError
from weft.lineage.manifest import Segment
from weft.lineage.objects import Objects
from weft.lineage.paths import object_path
from weft.lineage.ranges import Spans
from weft.lineage.schema import COLUMNS, FAMILIES
from weft.lineage.segments import load_duckdb, schema_map_sql
from weft.lineage.serializers import is_pickle, load
from weft.lineage.storage import Storage

__all__ = ["SealedReader", "SealedValue", "undecodable"]

_MEMORY_LIMIT = "300MB"
_FETCHED_ROWS = 1_000

_VALUES = """
select serializer, digest, size_bytes, any_value(blob), any_value(payload ->> '$.pack'),
    any_value((payload ->> '$.pack_offset')::BIGINT), min(concat_ws('/', flow, run_id, step, task_id, name))
from ({source}) where serializer is not null and digest is not null and kind not in ('artifact_used', 'artifact_merged')
group by serializer, digest, size_bytes
"""


class SealedValue(NamedTuple):
    """A value that events of a segment tell of: where its bytes are, and one that has it."""

    serializer: str
    digest: bytes
    size_bytes: int
    blob: bytes | None
    pack: str | None
    pack_offset: int | None
    pathspec: str


class SealedReader:
    """A connection to ask proven segments with. What does not fit into memory goes to temporary files."""

    def __init__(self, connection: Any, error: type[Exception], storage: Storage) -> None:
        self.connection = connection
        #: What DuckDB raises.
        self.error = error
        self._storage = storage

    @classmethod
    @contextmanager
    def opened(cls, storage: Storage) -> Iterator[SealedReader]:
        import tempfile

        duckdb = load_duckdb()
        with tempfile.TemporaryDirectory(prefix="weft-", ignore_cleanup_errors=True) as folder:
            config = {
                "memory_limit": _MEMORY_LIMIT,
                "temp_directory": folder,
                "preserve_insertion_order": False,
            }
            with duckdb.connect(":memory:", config=config) as connection:
                yield cls(connection, duckdb.Error, storage)

    def queries(self, segment: Segment, only: Spans | None = None) -> dict[str, str]:
        """A SELECT of the events of each family. Raises: NotFound."""
        families = [family for family in FAMILIES if family in segment.files]
        paths = self._storage.localize([segment.files[family].path for family in families])
        within = "" if only is None else _within(only)
        return {family: _select(path) + within for family, path in zip(families, paths, strict=True)}

    def counts(self, queries: dict[str, str]) -> dict[str, int]:
        return {
            family: self.connection.execute(f"select count(*) from ({query})").fetchone()[0]
            for family, query in queries.items()
        }

    def spans(self, queries: dict[str, str]) -> list[tuple[bytes, int, int]]:
        """Each writer of events, with the first and the last seq of what is his."""
        source = " union all ".join(queries.values())
        query = f"select writer, min(seq), max(seq) from ({source}) group by writer"
        return [
            (bytes(writer), first, last) for writer, first, last in self.connection.execute(query).fetchall()
        ]

    def values(self, queries: Sequence[str]) -> Iterator[SealedValue]:
        """The values that events tell of, each once in each family."""
        for query in queries:
            cursor = self.connection.execute(_VALUES.format(source=query))
            while rows := cursor.fetchmany(_FETCHED_ROWS):
                yield from map(SealedValue._make, rows)

    def runs(self, query: str, limit: int) -> list[str]:
        """Some of the runs that events are of, as pathspecs."""
        rows = self.connection.execute(
            f"select distinct flow || '/' || run_id as run from ({query}) where run_id is not null order by run limit {limit}"
        ).fetchall()
        return [run for (run,) in rows]


def _select(path: str) -> str:
    names = ", ".join(f"e.{column.name}" for column in COLUMNS)
    quoted = path.replace("'", "''")
    return f"select {names} from read_parquet(['{quoted}'], schema => {schema_map_sql()}) e"


def _within(only: Spans) -> str:
    return f" semi join ({only.sql()}) k on e.writer = k.writer and e.seq between k.first_seq and k.last_seq"


def undecodable(storage: Storage, value: SealedValue) -> str | None:
    """Why a value cannot be decoded; None when it can, or when that is not to be tried here: a pickle, an object
    that is missing or damaged (a finding of its own), a library that is not installed."""
    if is_pickle(value.serializer):
        return None
    try:
        if value.blob is not None:
            data = bytes(value.blob)
        elif value.pack is not None:
            path = object_path(bytes.fromhex(value.pack))
            data = storage.read_range(path, value.pack_offset or 0, value.size_bytes)
        else:
            data = Objects(storage).get(bytes(value.digest))
    except WeftError:
        return None
    try:
        load(value.serializer, data)
    except StoreDamaged as error:
        return str(error).removesuffix(" Run `weft verify`.")
    except WeftError:
        return None
    return None
