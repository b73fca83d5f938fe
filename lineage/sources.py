"""What sealed events are read from: segment files, and the files of a checkpoint.

Rows of old versions are read in Python, where the upcasters are; SQL passes over them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from weft.lineage import view_sql
from weft.lineage.codec import row_of
from weft.lineage.ranges import Spans
from weft.lineage.schema import COLUMNS, FAMILIES, KINDS, Event
from weft.lineage.upcast import upcast

__all__ = ["Folded", "FoldedPart", "Outdated", "Sealed", "SealedFile", "upcast_rows"]

#: Rows that are upcast at a time.
_UPCAST_ROWS = 10_000


class SealedFile(NamedTuple):
    """One segment file to read, or of it the spans in `only`. `is_covered`: by the checkpoint.

    `outdated` are kinds of which it may hold events of an old version. `known_as` are the ids under which
    the places of the checkpoint know its segment.
    """

    family: str
    path: str
    only: Spans | None = None
    is_covered: bool = False
    outdated: tuple[str, ...] = ()
    known_as: tuple[str, ...] = ()


class Outdated(NamedTuple):
    """Events of old versions: a SELECT of them, the condition that tells them, and the files that may hold any."""

    select: str
    condition: str
    paths: list[str]


class FoldedPart(NamedTuple):
    """One part of a checkpoint: a file for each state, and one of places. Runs in `stale` are in a later part."""

    files: Mapping[str, str]
    stale: tuple[bytes, ...]
    places: str


class Folded(NamedTuple):
    """A checkpoint as it is read. `orphans` (run_uid, flow, run_id) have events, but none that makes them a run."""

    parts: tuple[FoldedPart, ...]
    orphans: tuple[tuple[bytes, str, str], ...]
    has_twins: bool


class Sealed(NamedTuple):
    """The segment files to read, and what is folded of them already."""

    files: tuple[SealedFile, ...] = ()
    folded: Folded | None = None

    @property
    def paths(self) -> list[str]:
        parts = self.folded.parts if self.folded is not None else ()
        return [
            *(file.path for file in self.files),
            *(path for part in parts for path in (*part.files.values(), part.places)),
        ]

    def sizes_bytes(self, is_covered: bool | None = None) -> Iterator[int]:
        """Of the segment files, or of those that are covered or not; one that was removed since counts for nothing."""
        for file in self.files:
            if is_covered in (None, file.is_covered):
                with suppress(FileNotFoundError):
                    yield os.path.getsize(file.path)

    def selects(self) -> dict[str, str]:
        """A SELECT of all sealed events for each family that has any."""
        return {family: select for family in FAMILIES if (select := self.select(family)) is not None}

    def select(self, family: str, is_covered: bool | None = None) -> str | None:
        """A SELECT of the events of a family, or of those that are covered or not; None without any file."""
        return _select(self._files_of(family, is_covered))

    def outdated(self, family: str, is_covered: bool | None = None) -> Outdated | None:
        """Those events of a family that may have to be upcast; None when no file holds any."""
        files = [file for file in self._files_of(family, is_covered) if file.outdated]
        kinds = sorted({kind for file in files for kind in file.outdated})
        if not kinds:
            return None
        condition = " or ".join(f"(kind = '{kind}' and version < {KINDS[kind].version})" for kind in kinds)
        return Outdated(
            f"select * from ({_select(files)}) where {condition}", condition, [file.path for file in files]
        )

    def _files_of(self, family: str, is_covered: bool | None) -> list[SealedFile]:
        return [f for f in self.files if f.family == family and is_covered in (None, f.is_covered)]


def upcast_rows(connection: Any, outdated: Outdated) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of old versions as the current ones have them, some at a time."""
    import json

    names = [column.name for column in COLUMNS]
    cursor = connection.cursor()
    try:
        cursor.execute(f"select {', '.join(names)} from ({outdated.select})")
        while rows := cursor.fetchmany(_UPCAST_ROWS):
            told = []
            for row in rows:
                event = Event(**dict(zip(names, row, strict=True)))
                payload = None if event.payload is None else json.loads(row[_PAYLOAD])
                told.append(row_of(upcast(event._replace(payload=payload))))
            yield told
    finally:
        cursor.close()


def _select(files: list[SealedFile]) -> str | None:
    whole = [file.path for file in files if file.only is None]
    parts = [view_sql.read_events(whole)] if whole else []
    parts += [view_sql.read_events([f.path]) + view_sql.within(f.only) for f in files if f.only is not None]
    return " union all ".join(parts) or None


_PAYLOAD = Event._fields.index("payload")
