"""Events in DuckDB: the relations `raw.<family>_events`, made as far as a query needs them.

Hot tails go in as rows; segments are read where they lie, by an explicit list of files, or are copied in
when they are small.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from weft.lineage.codec import row_of
from weft.lineage.copying import BY_NAMES_MAX, Copy, copy_together, insert_rows
from weft.lineage.engine import connect, unoptimized
from weft.lineage.schema import COLUMNS, FAMILIES, Event, family_of
from weft.lineage.sources import Sealed, SealedFile, upcast_rows

__all__ = ["FOLDED_FAMILIES", "EventTables", "is_small"]

#: The families that a checkpoint folds.
FOLDED_FAMILIES = ("run", "task", "artifact")

#: Segments up to this size together are copied into memory, so that folds of them can be kept.
COPIED_BYTES_MAX = 8 * 1024 * 1024

#: Up to so many events statements are planned without the optimizer.
_FEW_EVENTS = 10_000

_COLUMN_TYPES = {column.name: column.sql_type for column in COLUMNS}


class EventTables:
    """One connection with the events of a store. Not safe to use from two threads at once.

    `prove` is called with the paths of files before their rows are believed. Events later than `as_of_us`
    are left out. On a `connection` that is given events are always copied; it says by its current database where.
    """

    def __init__(
        self,
        sealed: Sealed,
        as_of_us: int | None,
        prove: Callable[[Sequence[str]], None] | None,
        spill_folder: str,
        is_small: bool,
        connection: Any,
        quick: Any,
    ) -> None:
        self._sealed = sealed
        self._as_of_us = as_of_us
        self._prove = prove
        self._proven: set[str] = set()
        #: Whether all events that are read are copied into memory; else states may be at hand.
        self._is_small = is_small
        self._folded = None if is_small else sealed.folded
        #: Events that no query needed so far, by family; the families that were read, and those with a table.
        self._waiting: dict[str, list[Event]] = {}
        self._copied: set[str] = set()
        self._opened: set[str] = set()
        #: How many events were put into memory, and whether there are any of a kind.
        self._events = 0
        self._has_kind: dict[str, bool] = {}
        self._spill_folder = spill_folder
        self._opened_connection = connection
        self._quick_connection = quick

    @property
    def connection(self) -> Any:
        """The connection, with all that statements expect to be there."""
        if self._quick_connection is None:
            try:
                # For statements over few events; made before the connection is fenced, as it is a setting.
                self._quick_connection = unoptimized(self.bare_connection())
                self._set_up()
            except BaseException:
                # What is there by halves is made anew.
                self._opened_connection = self._quick_connection = None
                raise
        return self._opened_connection

    def bare_connection(self) -> Any:
        """The connection as it was opened: what reads files alone need not wait for more."""
        if self._opened_connection is None:
            self._opened_connection = connect(self._spill_folder)
        return self._opened_connection

    @property
    def _quick(self) -> Any:
        _ = self.connection
        return self._quick_connection

    def _set_up(self) -> None:
        """Make what statements expect in a new database."""

    def _take(self, events: Iterable[Event]) -> list[Event]:
        """Keep events for when a query needs them; gives those that are not too late."""
        taken = [event for event in events if self._as_of_us is None or event.time_us <= self._as_of_us]
        for event in taken:
            self._waiting.setdefault(family_of(event.kind), []).append(event)
        self._has_kind.clear()
        return taken

    def need_events(self, families: Iterable[str]) -> None:
        """Make the relations `raw.<family>_events`."""
        for family in FAMILIES:
            if family in families:
                self._put_in(family)
                if not self._is_small:
                    self.prove_files(file.path for file in self._sealed.files if file.family == family)

    def has_lost_files(self) -> bool:
        """Whether a file that is read here was removed since: compacted away, or of a former checkpoint."""
        return not all(map(os.path.exists, self._sealed.paths))

    def rows_in(self, relation: str) -> int:
        (row,) = self._folding.execute(f"select count(*) from {relation}").fetchall()
        return int(row[0])

    def plain_files(self, family: str) -> list[SealedFile]:
        """The segment files of a family, where their events are read as they lie there; else none."""
        files = [file for file in self._sealed.files if file.family == family]
        return [] if self._is_small or any(file.outdated for file in files) else files

    def events_of(self, family: str, sealed: Sealed) -> str:
        """A relation over those events of a family that are in some of its plain files, or in the tail."""
        until = "" if self._as_of_us is None else f" where time_us <= {self._as_of_us}"
        source = sealed.select(family)
        more = "" if source is None else f" union all select * from ({source}){until}"
        return f"(select * from raw.{family}_hot{more})"

    def prove_files(self, paths: Iterable[str]) -> None:
        wanted = [path for path in paths if path not in self._proven]
        if wanted and self._prove is not None:
            self._prove(wanted)
        self._proven.update(wanted)

    def _has_any(self, family: str, kind: str) -> bool:
        """Whether there is an event of a kind that is rare: to find by folding that there is none takes long."""
        if kind not in self._has_kind:
            self.need_events((family,))
            query = f"select 1 from raw.{family}_events where kind = '{kind}' limit 1"
            self._has_kind[kind] = bool(self._folding.execute(query).fetchall())
        return self._has_kind[kind]

    @property
    def _folding(self) -> Any:
        """What makes folds: over few events DuckDB's optimizer takes longer than it saves."""
        is_few = self._is_small and self._events <= _FEW_EVENTS
        return self._quick if is_few else self.connection

    def _hot(self, family: str) -> str:
        """The table that events of a family are put into: the one that folds read, or the top of it."""
        return f"raw.{family}_events" if self._is_small else f"raw.{family}_hot"

    def _put_in(self, family: str) -> None:
        """Make the events of a family readable, once; insert those that came since."""
        if family not in self._copied:
            self._open(family)
            self._read_sealed(family)
            # Not before: a file that is damaged is damaged when it is asked for again.
            self._copied.add(family)
        waiting = self._waiting.pop(family, None)
        if waiting:
            insert_rows(
                self.connection, self._hot(family), _COLUMN_TYPES, [row_of(event) for event in waiting]
            )
            self._events += len(waiting)

    def _open(self, family: str) -> None:
        """Make the table that events of a family are put into, once."""
        if family not in self._opened:
            self._opened.add(family)
            columns = ", ".join(f"{name} {sql_type}" for name, sql_type in _COLUMN_TYPES.items())
            self.connection.execute(f"create table {self._hot(family)} ({columns})")

    def _read_sealed(self, family: str) -> None:
        if self._is_small:
            self._copy(family, self._sealed)
            return
        until = "" if self._as_of_us is None else f" where time_us <= {self._as_of_us}"
        hot = f"select * from raw.{family}_hot"
        if self._folded is None or family not in FOLDED_FAMILIES:
            source = self._source(family)
            more = "" if source is None else f" union all select * from ({source}){until}"
            self.connection.execute(f"create view raw.{family}_events as {hot}{more}")
            return
        new, old = (self._source(family, is_covered) for is_covered in (False, True))
        more = "" if new is None else f" union all select * from ({new}){until}"
        statements = [f"create view raw.{family}_new as {hot}{more}"]
        if old is not None:
            statements.append(f"create view raw.{family}_old as select * from ({old}){until}")
            more += f" union all select * from raw.{family}_old"
        statements.append(f"create view raw.{family}_events as {hot}{more}")
        self.connection.execute(";".join(statements))

    def _copy(self, family: str, sealed: Sealed, condition: str = "true") -> None:
        """Copy the events of a family that fulfil a condition into memory."""
        copy = self._copy_of(family, sealed, condition)
        if copy is not None:
            self._events += copy_together(self.connection, [copy])

    def _copy_of(self, family: str, sealed: Sealed, condition: str) -> Copy | None:
        """How events of a family are copied, whose files are proven; None where there is no file."""
        files = [file for file in sealed.files if file.family == family]
        self.prove_files(file.path for file in files)
        source = self._source(family, sealed=sealed)
        if source is None:
            return None
        is_plain = len(files) <= BY_NAMES_MAX and not any(file.only or file.outdated for file in files)
        if self._as_of_us is not None:
            condition += f" and time_us <= {self._as_of_us}"
        paths = [file.path for file in files] if is_plain else []
        return Copy(f"raw.{family}_events", paths, source, condition)

    def _source(
        self, family: str, is_covered: bool | None = None, sealed: Sealed | None = None
    ) -> str | None:
        """A SELECT of the sealed events of a family, each as the current version of its kind tells it."""
        sealed = sealed or self._sealed
        source = sealed.select(family, is_covered)
        outdated = sealed.outdated(family, is_covered)
        if source is None or outdated is None:
            return source
        self.prove_files(outdated.paths)
        table = f"raw.{family}_upcast_{ {None: 'all', True: 'old', False: 'new'}[is_covered] }"
        is_made = False
        # Read before the table of them is made: most often there are none.
        for rows in upcast_rows(self.connection, outdated):
            if not is_made:
                columns = ", ".join(f"{name} {sql_type}" for name, sql_type in _COLUMN_TYPES.items())
                self.connection.execute(f"create or replace table {table} ({columns})")
                is_made = True
            insert_rows(self.connection, table, _COLUMN_TYPES, rows)
        if not is_made:
            return source
        return f"select * from ({source}) where not ({outdated.condition}) union all select * from {table}"


def is_small(sizes_bytes: Iterable[int]) -> bool:
    """Whether segment files of these sizes are copied into memory, so that no checkpoint is worth its while."""
    return sum(sizes_bytes) <= COPIED_BYTES_MAX
