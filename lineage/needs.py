"""Which objects events need, gathered from journals as events and from segments in SQL."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from weft.lineage.references import REFERRING_FAMILIES, WITHOUT_OBJECT, code_files, named_objects, pathspec_of
from weft.lineage.schema import KINDS, Event
from weft.lineage.storage import Storage

__all__ = ["Missing", "Needs", "needed_sql"]

#: Pathspecs that are named of those that need one missing object.
_NAMED_MAX = 5
_FETCHED_ROWS = 10_000

#: Of objects that are missing in one family of one segment so many are named, the others are counted.
_MISSING_MAX = 1_000


class Missing(NamedTuple):
    """An object that events need and that is not there, or has too few bytes; that many events need it."""

    digest: bytes
    pathspecs: list[str]
    needed_by: int


class _Need:
    __slots__ = ("count", "pathspecs", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = 0
        self.count = 0
        self.pathspecs: list[str] = []

    def add(self, size_bytes: int, count: int, pathspecs: Iterable[str]) -> None:
        self.size_bytes = max(self.size_bytes, size_bytes)
        self.count += count
        self.pathspecs += list(pathspecs)[: _NAMED_MAX - len(self.pathspecs)]


class Needs:
    """Objects by digest, with the bytes each must have at least and some of those that need it."""

    def __init__(self) -> None:
        self._found: dict[bytes, _Need] = {}
        #: Objects that are missing and of which nothing more is known.
        self.unnamed_count = 0
        #: A pathspec for each manifest of code.
        self._manifests: dict[bytes, str] = {}

    def take(self, events: Iterable[Event]) -> None:
        """Note what events of a journal need."""
        for event in events:
            for digest, size_bytes in named_objects(event):
                self._need(digest).add(size_bytes, 1, [pathspec_of(event)])
            if event.kind == "code_saved" and event.digest is not None:
                self._manifests.setdefault(event.digest, pathspec_of(event))

    def update(self, other: Needs) -> None:
        for digest, need in other._found.items():
            self._need(digest).add(need.size_bytes, need.count, need.pathspecs)
        self._manifests = other._manifests | self._manifests

    def take_sealed(self, connection: Any, queries: Mapping[str, str], objects: Mapping[bytes, int]) -> None:
        """Note what the events of these SELECTs (by family) need and is not there; nothing else is kept."""
        for family in REFERRING_FAMILIES:
            if family not in queries:
                continue
            source = f"({needed_sql(queries[family])})"
            cursor = connection.execute(f"select distinct object, size_bytes from {source}")
            lacking: set[bytes] = set()
            while rows := cursor.fetchmany(_FETCHED_ROWS):
                lacking |= {digest for digest, size_bytes in rows if objects.get(digest, -1) < size_bytes}
            self.unnamed_count += max(0, len(lacking) - _MISSING_MAX)
            for digest, *need in connection.execute(
                f"select object, max(size_bytes), count(*), min(pathspec, {_NAMED_MAX}) from {source} "
                "semi join (select unnest(?::BLOB[]) as object) using (object) group by object",
                [sorted(lacking)[:_MISSING_MAX]],
            ).fetchall():
                self._need(digest).add(*need)
            if family == "run":
                rows = connection.execute(
                    f"select digest, min({_PATHSPEC}) from ({queries[family]}) "
                    "where kind = 'code_saved' and digest is not null group by digest"
                ).fetchall()
                self._manifests = dict(rows) | self._manifests

    def missing(self, storage: Storage, objects: Mapping[bytes, int]) -> Iterator[Missing]:
        """What is not there, by digest; the files of code that manifests name are needed too."""
        for digest, pathspec in self._manifests.items():
            for file, file_digest in code_files(storage, digest, _digests(objects)):
                if file_digest not in objects:
                    self._need(file_digest).add(0, 1, [f"{pathspec} ({file})"])
        for digest, need in sorted(self._found.items()):
            if objects.get(digest, -1) < need.size_bytes:
                yield Missing(digest, list(dict.fromkeys(need.pathspecs)), need.count)

    def _need(self, digest: bytes) -> _Need:
        return self._found.setdefault(digest, _Need())


def needed_sql(source: str) -> str:
    """A SELECT of the objects that the events of a SELECT need: `object`, `size_bytes`, `pathspec`."""
    return _NEEDED.format(source=source)


def _digests(objects: Mapping[bytes, int]) -> Collection[bytes]:
    return objects.keys()


def _texts(values: Iterable[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


_PATHSPEC = "concat_ws('/', flow, run_id, step, task_id, name)"

#: The same as `named_objects`, in SQL.
_NEEDED = f"""
select case when pack is null then digest else unhex(pack) end as object,
    case when pack is null then 0 else pack_offset + coalesce(size_bytes, 0) end as size_bytes,
    {_PATHSPEC} as pathspec
from (
    select *, payload ->> '$.pack' as pack, (payload ->> '$.pack_offset')::BIGINT as pack_offset
    from ({{source}})
    where digest is not null and blob is null and kind not in ({_texts(sorted(WITHOUT_OBJECT))})
) where pack is not null or kind in ({_texts(KINDS)})
"""
