"""States and folds in DuckDB, over events: an in-memory database that is made as far as a query needs it.

States come from a checkpoint where there is one: of all runs but the *dirty* ones, which
have events that it does not cover (or, as of a moment, later ones that it does). Those are folded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from weft.lineage import fold_sql
from weft.lineage.copying import insert_rows
from weft.lineage.event_tables import FOLDED_FAMILIES, EventTables, is_small
from weft.lineage.fold_sql import Moment
from weft.lineage.schema import FAMILIES, Event, family_of
from weft.lineage.sources import Folded, Sealed

__all__ = ["FOLDED", "Folds"]

_KEYS = "run_uid, flow, run_id"

#: The states that a checkpoint holds; the state `runs` is a part of `counted`.
FOLDED = ("fences", "counted", "tasks", "steps", "reuses", "retried", "parameters", "tags", "numbers")

#: States of few rows, which other questions need again: kept even where the events are too many to copy.
_KEPT = ("fences", "runs", "reuses", "retried")
_BUILT = (*_KEPT, "tasks", "counted")

_SCHEMAS = """
    create schema raw; create schema told; create schema state; create schema fold; create schema call"""
_DIRTY_TABLES = """;
    create schema dirty; create table dirty.known (run_uid BLOB, flow VARCHAR, run_id VARCHAR);
    create table dirty.touched (run_uid BLOB); create table dirty.hidden (part BIGINT, run_uid BLOB)"""

#: States that are empty unless there are events of a kind, which are few.
_RARE = {"fences": ("run", "run_lost"), "reuses": ("task", "task_reused")}
_COLUMNS_OF_RARE = {"fences": fold_sql.FENCES_COLUMNS, "reuses": fold_sql.REUSES_COLUMNS}

_DIRTY = {
    "recorded": "dirty.run_events",
    **{family: f"dirty.{family}_told" for family in FOLDED_FAMILIES},
    **{name: f"dirty.{name}" for name in ("runs", "tasks", "retried")},
}


class Folds(EventTables):
    """One connection with what a query needs: the states and folds over the events. Not safe to use from two threads at once."""

    def __init__(
        self,
        sealed: Sealed,
        as_of_us: int | None = None,
        prove: Callable[[Sequence[str]], None] | None = None,
        spill_folder: str = "",
        is_building: bool = False,
        connection: Any = None,
        quick: Any = None,
    ) -> None:
        is_copied = not is_building and (connection is not None or is_small(sealed.sizes_bytes()))
        super().__init__(sealed, as_of_us, prove, spill_folder, is_copied, connection, quick)
        #: Relations in the order they were made; those of states stay when only the clock moves.
        self._states: dict[str, str] = {}
        self._made: dict[str, str] = {}
        self._moment: Moment | None = None
        self._writers: tuple[tuple[bytes, bool], ...] | None = ()
        self._now_us: int | None = None
        #: The runs that the tail and uncovered segments touch, and of those the ones a checkpoint holds.
        self._touched: set[tuple[bytes, str, str]] = set()
        self._is_swept = False
        self._is_dirty = False
        self._hidden: set[int] = set()
        #: A checkpoint is built of states that are all kept, however small the store.
        self._is_building = is_building
        self._kept = _BUILT if is_building else _KEPT
        #: What was found to be so or not, and the SQL of the views of believed events.
        self._found: dict[str, bool] = {}
        self._told: dict[str, str] = {}
        if connection is not None:
            self._make_schemas()

    def _set_up(self) -> None:
        self._make_schemas()

    def _make_schemas(self) -> None:
        has_dirty = self._is_building or self._folded is not None
        self.connection.execute(_SCHEMAS + _DIRTY_TABLES if has_dirty else _SCHEMAS)

    def add(self, events: Iterable[Event]) -> None:
        """Put in events that are in no segment and were not put in before."""
        for event in self._take(events):
            if event.run_uid is None or event.flow is None:
                continue
            if family_of(event.kind) in FOLDED_FAMILIES:
                self._touched.add((event.run_uid, event.flow, event.run_id or ""))
        self._forget(self._made)
        self._forget(self._states)
        self._moment = None

    def set_clock(self, liveness: Mapping[bytes, bool], now_us: int | None) -> None:
        """Say what time it is, and which writers are known to live (True) or to be dead (False)."""
        rows = [(writer, not lives) for writer, lives in liveness.items()]
        self._writers = tuple(rows) if len(rows) <= _LISTED_MAX else None
        self._now_us = now_us
        self._forget(self._made)
        if self._writers is None:
            self.connection.execute("create or replace table raw.writers (writer BLOB, is_dead BOOLEAN)")
            insert_rows(self.connection, "raw.writers", {"writer": "BLOB", "is_dead": "BOOLEAN"}, rows)
        self._moment = None

    def unended(self) -> list[tuple[bytes, int]]:
        """The writer of each run without an end, and until when its lease is good, in µs."""
        self.need_states(["runs"])
        found: list[tuple[bytes, int]] = self._folding.execute(fold_sql.unended()).fetchall()
        return found

    def need_states(self, names: Iterable[str]) -> None:
        """Make the relations `state.<name>`, and what they are made from."""
        if self._folded is not None:
            wanted = set(names)
            if "runs" in wanted:
                wanted.add("counted")
            self._sweep()
            for name in (*FOLDED, "runs"):
                if name in wanted:
                    self._make_folded(name, self._folded)
            return
        wanted = fold_sql.with_parents(names)
        self.need_events(fold_sql.families_of(wanted))
        for name in fold_sql.STATES:
            if name in wanted:
                kind = "table" if self._is_small or name in self._kept else "view"
                if self._is_small and name in _RARE and not self._has_any(*_RARE[name]):
                    self._make_empty(self._states, f"state.{name}", _COLUMNS_OF_RARE[name])
                else:
                    self._make(self._states, f"state.{name}", kind, fold_sql.state_sql(name))
                if name == "fences":
                    self._make_told({"run", *fold_sql.families_of(wanted)}, "raw", "events", "state.fences")

    def need_told(self, families: Iterable[str]) -> None:
        """Make the relations `told.<family>_events`: the events that folds believe."""
        self.need_events(families)
        self.need_states(["fences"])
        self._make_told(families, "raw", "events", "state.fences")

    def _make_told(self, families: Iterable[str], schema: str, suffix: str, fences: str) -> None:
        names = {
            family: f"told.{family}_events" if schema == "raw" else f"{schema}.{family}_told"
            for family in FAMILIES
            if family in families
        }
        if self._states.keys() >= set(names.values()):
            return
        # Where all events are at hand it is known that nothing is fenced.
        is_fenced = self._has_kind.get("run_lost", True) and self.rows_in(fences) > 0
        for family, name in names.items():
            if name not in self._states:
                sql = fold_sql.told_sql(f"{schema}.{family}_{suffix}", fences if is_fenced else None)
                if self._told.get(name) != sql:
                    self._folding.execute(f"create or replace view {name} as {sql}")
                    self._told[name] = sql
                # It only names what it is made of, and stays when that is made anew.
                self._states[name] = ""

    def need_folds(self, names: Iterable[str]) -> Moment:
        """Make the relations `fold.<name>`; gives what they were made for."""
        wanted = set(names)
        moment = self._moment = self._moment or Moment(
            self.has_twins(), self._writers, "null" if self._now_us is None else str(self._now_us)
        )
        if "lent" in wanted:
            wanted.add("reuses")
        if "tasks" in wanted or (moment.has_twins and "reuses" in wanted):
            wanted.add("runs")
        self.need_states(state for name in wanted for state in fold_sql.FOLDS[name])
        for name in fold_sql.FOLDS:
            if name in wanted:
                kind = "table" if self._is_small or name in ("reuses", "lent") else "view"
                if name == "reuses" and self._is_small and not self._has_any(*_RARE[name]):
                    self._make_empty(self._made, "fold.reuses", fold_sql.SHOWN_REUSES_COLUMNS)
                    continue
                self._make(self._made, f"fold.{name}", kind, fold_sql.fold_sql(name, moment))
        return moment

    def has_twins(self) -> bool:
        """Whether two runs share a pathspec."""
        return self._is_so(_ANY_TWINS, self._has_twins)

    def _is_so(self, trait: str, find: Callable[[], bool]) -> bool:
        """Whether something is true of the events, found out once."""
        # Noted among the states, and forgotten with them.
        if trait not in self._states:
            self._found[trait] = find()
            self._states[trait] = ""
        return self._found[trait]

    def _has_twins(self) -> bool:
        if self._is_small:
            # No run is folded for it.
            self.need_told(("run",))
            return bool(self._folding.execute(_TWINS).fetchall())
        self.need_states(("runs",))
        if self._folded is None:
            query = "select 1 from state.runs group by flow, raw_run_id having count(*) > 1 limit 1"
        elif self._folded.has_twins:
            return True
        elif not self._is_dirty:
            return False
        else:
            query = (
                "select 1 from (select distinct flow, raw_run_id from dirty.runs) d join state.runs r "
                "on r.flow = d.flow and r.raw_run_id = d.raw_run_id "
                "group by r.flow, r.raw_run_id having count(*) > 1 limit 1"
            )
        return bool(self.connection.execute(query).fetchall())

    def _sweep(self) -> None:
        """Find the dirty runs, when events came since that was done last."""
        if "dirty" in self._states:
            return
        assert self._folded is not None
        if not self._is_swept:
            self._is_swept = True
            for family in FOLDED_FAMILIES:
                new = self._sealed.select(family, False)
                if new is not None:
                    self.prove_files(
                        f.path for f in self._sealed.files if f.family == family and not f.is_covered
                    )
                    until = "" if self._as_of_us is None else f" and time_us <= {self._as_of_us}"
                    query = f"select distinct {_KEYS} from ({new}) where run_uid is not null{until}"
                    self._touched.update(self.connection.execute(query).fetchall())
        self.connection.execute(
            "delete from dirty.known; delete from dirty.touched; delete from dirty.hidden"
        )
        known = set(self._folded.orphans)
        if self._touched:
            insert_rows(
                self.connection, "dirty.touched", {"run_uid": "BLOB"}, [(uid,) for uid, _, _ in self._touched]
            )
        if self._touched or self._as_of_us is not None:
            straddles = "false"
            if self._as_of_us is not None:
                straddles = f"first_us <= {self._as_of_us} and run_last_us > {self._as_of_us}"
            self.prove_files(part.files["counted"] for part in self._folded.parts)
            for part in self._folded.parts:
                query = (
                    f"select run_uid, flow, raw_run_id from read_parquet('{_quoted(part.files['counted'])}') "
                    f"where {straddles} or run_uid in (select run_uid from dirty.touched)"
                )
                known.update(self.connection.execute(query).fetchall())
        if known:
            types = {"run_uid": "BLOB", "flow": "VARCHAR", "run_id": "VARCHAR"}
            insert_rows(self.connection, "dirty.known", types, sorted(known))
        self._hide([uid for uid, _, _ in known])
        self._is_dirty = self._is_building or bool(known or self._touched)
        self._states["dirty"] = ""
        self._make_dirty_events(sorted(known))

    def _hide(self, known: list[bytes]) -> None:
        """Note which runs of each part of the checkpoint do not count."""
        assert self._folded is not None
        rows = [
            (number, uid) for number, part in enumerate(self._folded.parts) for uid in {*part.stale, *known}
        ]
        if rows:
            insert_rows(self.connection, "dirty.hidden", {"part": "BIGINT", "run_uid": "BLOB"}, rows)
        self._hidden = {number for number, _ in rows}

    def _make_dirty_events(self, known: list[tuple[bytes, str, str]]) -> None:
        if not self._is_dirty:
            return
        for family in FOLDED_FAMILIES:
            self._put_in(family)
            sql = f"select * from raw.{family}_new"
            covered = [f.path for f in self._sealed.files if f.family == family and f.is_covered]
            if known and covered:
                sql += f" union all select e.* from raw.{family}_old e semi join dirty.known k on k.run_uid = e.run_uid"
                sql += " and k.flow = e.flow and k.run_id = e.run_id"
                flows = {flow for _, flow, _ in known}
                runs = {run_id for _, _, run_id in known}
                if len(runs) <= _LISTED_MAX:
                    # Written out they reach the statistics of the files.
                    sql += f" where e.flow in ({_texts(flows)}) and e.run_id in ({_texts(runs)})"
            self._make(self._states, f"dirty.{family}_events", "view", sql)

    def _make_folded(self, name: str, folded: Folded) -> None:
        if name == "runs":
            columns = "tasks, tasks_failed, tasks_waiting, settled_us"
            self._make(self._states, "state.runs", "view", f"select * exclude ({columns}) from state.counted")
            return
        if f"state.{name}" in self._states:
            return
        selects = [f"select * from dirty.{name}"] if self._is_dirty else []
        if self._is_dirty:
            self._fold_dirty(name)
        self.prove_files(part.files[name] for part in folded.parts)
        for number in range(len(folded.parts)):
            selects.append(self.select_part(name, number))
        kind = "table" if name in _KEPT else "view"
        self._make(self._states, f"state.{name}", kind, " union all ".join(selects))

    def select_part(self, name: str, number: int) -> str:
        """A SELECT of the rows of a state that count in one part of the checkpoint."""
        assert self._folded is not None
        conditions = []
        if self._as_of_us is not None:
            conditions.append(f"run_last_us <= {self._as_of_us}")
            if name == "numbers":
                conditions.append(f"time_us <= {self._as_of_us}")
        if number in self._hidden:
            conditions.append(f"run_uid not in (select run_uid from dirty.hidden where part = {number})")
        where = f" where {' and '.join(conditions)}" if conditions else ""
        path = _quoted(self._folded.parts[number].files[name])
        return f"select * exclude (run_last_us) from read_parquet('{path}'){where}"

    def _fold_dirty(self, name: str) -> None:
        """Make `dirty.<name>`: the state of the dirty runs alone."""
        wanted = fold_sql.with_parents([name])
        families = fold_sql.families_of(wanted)
        is_known = self.rows_in("dirty.known") > 0
        self.prove_files(
            f.path for f in self._sealed.files if f.family in families and (is_known or not f.is_covered)
        )
        # A checkpoint that lacks much leaves so many tasks to fold that keeping them takes more than it saves.
        is_much = not is_small(self._sealed.sizes_bytes(is_covered=False))
        for state in fold_sql.STATES:
            if state in wanted:
                kind = "view" if is_much and state not in self._kept else "table"
                self._make(self._states, f"dirty.{state}", kind, fold_sql.state_sql(state, _DIRTY))
                if state == "fences":
                    self._make_told(families, "dirty", "events", "dirty.fences")

    def _forget(self, made: dict[str, str]) -> None:
        dropped = ";".join(f"drop {kind} {name}" for name, kind in reversed(made.items()) if kind)
        if dropped:
            self._folding.execute(dropped)
        made.clear()

    def _make(self, made: dict[str, str], name: str, kind: str, query: str) -> None:
        if name not in made:
            self._folding.execute(f"create {kind} {name} as {query}")
            made[name] = kind

    def _make_empty(self, made: dict[str, str], name: str, types: Mapping[str, str]) -> None:
        if name not in made:
            columns = ", ".join(f"{column} {sql_type}" for column, sql_type in types.items())
            self._folding.execute(f"create table {name} ({columns})")
            made[name] = "table"


#: Up to so many runs are written out in a query.
_LISTED_MAX = 300

_ANY_TWINS = "any twins"
_TWINS = """
    select 1 from (
        select distinct run_uid, flow, run_id from told.run_events
        where run_uid is not null and flow is not null and run_id is not null
    ) group by flow, run_id having count(*) > 1 limit 1
"""


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _texts(values: Iterable[str]) -> str:
    return ", ".join(f"'{_quoted(value)}'" for value in sorted(values))
