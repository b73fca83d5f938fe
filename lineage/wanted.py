"""The objects that travel with events: those that the source has, and those that nobody has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from weft.lineage.needs import Missing, Needs, needed_sql
from weft.lineage.references import REFERRING_FAMILIES, code_files, named_objects
from weft.lineage.schema import Event
from weft.lineage.storage import Storage

__all__ = ["Wanted"]

_FETCHED_ROWS = 10_000

#: No pack is so large: of what travels its presence counts, its size is for `verify`.
_ENOUGH_BYTES = 1 << 62


class Wanted:
    """Objects that events need, of two stores whose objects are known; segments are asked in SQL, not row by row."""

    def __init__(self, source: Storage, own: Mapping[bytes, int], there: Mapping[bytes, int]) -> None:
        self._source = source
        self._own = own
        self._anywhere = _Anywhere(own, there)
        self._needs = Needs()
        #: Those that the source has.
        self.digests: set[bytes] = set()

    def add(self, events: Iterable[Event], *, is_known: bool) -> None:
        """Take in what events need; the target may have them (`is_known`) and still lack an object."""
        told = list(events)
        if not is_known:
            self._needs.take(told)
        manifests = []
        for event in told:
            self._add(digest for digest, _ in named_objects(event))
            if event.kind == "code_saved" and event.digest is not None:
                manifests.append(event.digest)
        self._add_code(manifests)

    def add_sealed(self, connection: Any, queries: Mapping[str, str], *, is_known: bool) -> None:
        """The same for the events of these SELECTs, by family."""
        if not is_known:
            self._needs.take_sealed(connection, queries, self._anywhere)
        for family in REFERRING_FAMILIES if self._own else ():
            if family in queries:
                source = f"({needed_sql(queries[family])})"
                self._add(_digests(connection, f"select distinct object from {source}"))
        if self._own and "run" in queries:
            manifests = (
                f"select distinct digest from ({queries['run']}) "
                "where kind = 'code_saved' and digest is not null"
            )
            self._add_code(list(_digests(connection, manifests)))

    def missing(self) -> Iterator[Missing]:
        """Those that nobody has, by digest."""
        return self._needs.missing(self._source, self._anywhere)

    @property
    def unnamed_count(self) -> int:
        """How many more nobody has."""
        return self._needs.unnamed_count

    def _add(self, digests: Iterable[bytes]) -> None:
        self.digests.update(digest for digest in digests if digest in self._own)

    def _add_code(self, manifests: Iterable[bytes]) -> None:
        # Also of manifests that the target has: a transfer may have been broken off between them and their files.
        for manifest in manifests:
            self._add(digest for _, digest in code_files(self._source, manifest, self._own))


class _Anywhere(Mapping[bytes, int]):
    """The objects of both stores."""

    def __init__(self, own: Mapping[bytes, int], there: Mapping[bytes, int]) -> None:
        self._own = own
        self._there = there

    def __getitem__(self, digest: bytes) -> int:
        if digest in self._own or digest in self._there:
            return _ENOUGH_BYTES
        raise KeyError(digest)

    def __contains__(self, digest: object) -> bool:
        return digest in self._own or digest in self._there

    def __iter__(self) -> Iterator[bytes]:
        yield from self._own
        yield from (digest for digest in self._there if digest not in self._own)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _digests(connection: Any, query: str) -> Iterator[bytes]:
    cursor = connection.execute(query)
    while rows := cursor.fetchmany(_FETCHED_ROWS):
        for (digest,) in rows:
            yield bytes(digest)
