"""Events of a few runs in the memory of this program, for questions that Python answers sooner than SQL is planned."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from weft.lineage.copying import BY_NAMES_MAX, Found, Wanted, count_rows, fetch_together
from weft.lineage.run_demands import RunKey
from weft.lineage.run_files import condition_of, files_of, recorded
from weft.lineage.schema import COLUMNS, FAMILIES, Event, family_of
from weft.lineage.sources import Sealed, SealedFile
from weft.lineage.upcast import upcast

__all__ = ["HeldEvents", "TooMany"]

#: So many events are held at most. Of more SQL tells sooner.
_EVENTS_MAX = 4_000

#: Files of so many bytes hold no more events than that, at 30 to 60 bytes an event.
_SURELY_FEW_BYTES = 128 * 1024

_NAMES = [column.name for column in COLUMNS]


class TooMany(Exception):
    """The runs have more events than are held."""


class HeldEvents:
    """The events of runs as they were recorded.

    `prove` is called with the paths of files before their rows are believed; `connect` gives a connection to read
    them with. Events later than `as_of_us` are left out. Without `places` any file may hold events of any run.
    """

    def __init__(
        self,
        sealed: Sealed,
        tail: Sequence[Event],
        places: Sequence[bytes] | None,
        prove: Callable[[Iterable[str]], None],
        connect: Callable[[], Any],
        as_of_us: int | None,
    ) -> None:
        self._sealed = sealed
        self._tail = tail
        self._places = places
        self._prove = prove
        self._connect = connect
        self._as_of_us = as_of_us
        self._events: dict[str, list[Event]] = {}
        #: The runs whose events are held, by family.
        self._read: dict[str, set[RunKey]] = {}
        self._files: dict[RunKey, list[SealedFile]] = {}
        self._counts: dict[RunKey, int] = {}

    def hold(self, runs: Iterable[RunKey], families: Collection[str]) -> list[Event]:
        """The events of these runs and families, in no order.

        Raises: TooMany; DuckDB's errors; what `prove` raises.
        """
        wanted = recorded(runs)
        self._need(wanted, families)
        return [event for event in self.at_hand(families) if (event.flow, event.run_id) in wanted]

    def at_hand(self, families: Iterable[str]) -> Iterator[Event]:
        """What is held of some families."""
        return (event for family in families for event in self._events.get(family, ()))

    def _need(self, runs: Collection[RunKey], families: Collection[str]) -> None:
        """Read what is not held yet of some runs and families."""
        missing = {
            family: new
            for family in FAMILIES
            if family in families and (new := set(runs) - self._read.get(family, set()))
        }
        self._look_up({run for new in missing.values() for run in new})
        files = {family: self._files_of(family, new) for family, new in missing.items()}
        self._prove(file.path for of_family in files.values() for file in of_family)
        mine = [
            event for event in self._tail if self._is_of(event, runs) and family_of(event.kind) in missing
        ]
        self._check_few(len(mine), files, runs)
        wanted = {
            family: self._wanted(family, files[family], new)
            for family, new in missing.items()
            if files[family]
        }
        found = fetch_together(self._connect(), list(wanted.values())) if wanted else []
        for family, rows in zip(wanted, found, strict=True):
            self._events.setdefault(family, []).extend(_events_of(rows))
        for family, new in missing.items():
            self._events.setdefault(family, []).extend(
                event
                for event in mine
                if family_of(event.kind) == family and (event.flow, event.run_id) in new
            )
            self._read.setdefault(family, set()).update(new)
        # Of each file one more is read than may be held.
        if sum(map(len, self._events.values())) > _EVENTS_MAX:
            raise TooMany

    def _check_few(
        self, more: int, files: Mapping[str, Sequence[SealedFile]], runs: Collection[RunKey]
    ) -> None:
        """Find out beforehand that there are too many, where no places tell: to read them for that takes long.

        Raises: TooMany.
        """
        sealed = Sealed(tuple(file for of_family in files.values() for file in of_family))
        if self._places is None and sum(sealed.sizes_bytes()) > _SURELY_FEW_BYTES:
            sources = [self._wanted(family, listed, runs) for family, listed in files.items() if listed]
            more += count_rows(self._connect(), sources)
        if more > _EVENTS_MAX:
            raise TooMany

    def _is_of(self, event: Event, runs: Collection[RunKey]) -> bool:
        is_known = self._as_of_us is None or event.time_us <= self._as_of_us
        return is_known and (event.flow, event.run_id) in runs

    def _look_up(self, runs: Iterable[RunKey]) -> None:
        """Find the files of runs, and how many events these have. Raises: TooMany."""
        for run in runs:
            if run not in self._files:
                self._files[run], self._counts[run] = files_of(run, self._places, self._sealed)
        if sum(self._counts.values()) > _EVENTS_MAX:
            raise TooMany

    def _files_of(self, family: str, runs: Iterable[RunKey]) -> list[SealedFile]:
        found = (file for run in sorted(runs) for file in self._files[run] if file.family == family)
        return list(dict.fromkeys(found))

    def _wanted(self, family: str, files: Sequence[SealedFile], runs: Iterable[RunKey]) -> Wanted:
        is_plain = len(files) <= BY_NAMES_MAX and not any(file.only for file in files)
        source = Sealed(tuple(files)).select(family)
        assert source is not None, "there are files"
        until = "" if self._as_of_us is None else f" and time_us <= {self._as_of_us}"
        paths = [file.path for file in files] if is_plain else []
        return Wanted(_NAMES, paths, source, f"({condition_of(runs)}){until}", _EVENTS_MAX + 1)


def _events_of(found: Found) -> Iterator[Event]:
    """Rows of the log as events of today's versions."""
    for row in found.rows:
        told = dict(zip(found.columns, row, strict=True))
        if told.get("payload") is not None:
            told["payload"] = json.loads(told["payload"])
        yield upcast(Event(**told))
