"""Views that answer a question about few runs from the events of these runs alone, however long the history is.

The places of a checkpoint say which segments hold events of a run. Those files are proven, the events of the run
are copied into memory, with those of the runs its reused tasks are from, and folded there as a small store is. No
other file is read for it. What was copied stays for the next question, up to a limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from weft.lineage.copying import copy_together
from weft.lineage.held import HeldEvents, TooMany
from weft.lineage.places import events_in
from weft.lineage.run_demands import RunKey, runs_demanded
from weft.lineage.run_files import condition_of, files_of, recorded
from weft.lineage.schema import FAMILIES, Event
from weft.lineage.sources import Sealed, SealedFile
from weft.lineage.view_sql import VIEW_NAMES
from weft.lineage.views import CATALOGUE_WORDS, FAMILIES_OF, Views

__all__ = ["NearViews", "RoutedViews"]

#: So many events of runs are copied at most; runs with more are asked where they lie.
_EVENTS_MAX = 50_000

_VIEW_NAMES = frozenset(VIEW_NAMES)
#: Views that are made of states alone.
_KEPT_VIEWS = frozenset(("runs", "steps", "tasks", "parameters", "tags"))

#: With so many runs at hand a question about others begins anew.
_MANY_RUNS = 8

#: Runs that our own code may name at once.
_RUNS_MAX = 64


class _TooMany(Exception):
    """The runs have more events than are copied."""


class RoutedViews(Views):
    """The views of a whole history; `near` gives those that a query is best asked of."""

    def __init__(
        self,
        sealed: Sealed,
        as_of_us: int | None = None,
        readable: Sequence[str] = (),
        prove: Callable[[Sequence[str]], None] | None = None,
        spill_folder: str = "",
        watch: Callable[[Views], None] | None = None,
    ) -> None:
        super().__init__(sealed, as_of_us, readable, prove, spill_folder, watch)
        self._tail: list[Event] = []
        self._places: list[bytes] | None = None
        self._near: NearViews | None = None
        self._nears = 0
        #: Runs that have too many events together, to be copied or to be held.
        self._large: set[frozenset[RunKey]] = set()
        #: How many runs were looked at for twins, and whether there may be any.
        self._checked_for_twins: tuple[int, bool] | None = None
        self._held: HeldEvents | None = None
        self._not_held: set[frozenset[RunKey]] = set()

    def add(self, events: Iterable[Event]) -> None:
        new = list(events)
        self._tail += new
        super().add(new)
        self._held = None
        if self._near is not None:
            self._near.add_tail(new)

    def near(self, query: str, params: Any = None, about: Collection[RunKey] | None = ()) -> Views:
        """The views to ask: those of the runs that a query is about, as it plainly says or `about` does, or these here."""
        text = query.lower()
        if self._folded is None or about is None or not (about or "run_id" in text or "pathspec" in text):
            return self
        if about:
            return self._near_if_few(frozenset(about), _families_named(text)) or self
        if any(word in text for word in CATALOGUE_WORDS):
            # It must not see what was made for others.
            self._leave()
            return self
        runs = runs_demanded(self.tree(query), params)
        if runs is None or runs in self._large or self._is_kept(text, runs):
            return self
        return self._near_to(runs, _families_named(text)) or self

    def foresee(self, runs: Collection[RunKey], families: Collection[str]) -> None:
        """Copy already what several questions about some runs will read: in one go that takes half as long."""
        if self._folded is not None and runs:
            self._near_if_few(frozenset(runs), families)

    def files_of(self, runs: Collection[RunKey], families: Iterable[str]) -> list[str]:
        """The segment files that hold events of runs, family by family; none where that is not known."""
        if self._folded is None:
            return []
        places = self._read_places()
        found = [file for run in sorted(runs) for file in files_of(run, places, self._sealed)[0]]
        return list(
            dict.fromkeys(file.path for family in families for file in found if file.family == family)
        )

    def files_of_states(self, names: Collection[str]) -> list[str]:
        """The files of a checkpoint that hold some states; none where these are folded."""
        parts = () if self._folded is None else self._folded.parts
        return [part.files[name] for part in parts for name in names]

    def held(self, runs: Collection[RunKey], families: Collection[str]) -> list[Event] | None:
        """The events of some families of runs, in no order; None where these are many, or where all of history must
        be searched for them."""
        wanted = frozenset(runs)
        if (self._folded is None and not self._is_small) or wanted in self._not_held:
            return None
        for held in (self._held, None):
            # Those that were asked about before may be many by now.
            self._held = held or HeldEvents(
                Sealed(self._sealed.files),
                self._tail,
                None if self._is_small else self._read_places(),
                self.prove_files,
                self.bare_connection,
                self._as_of_us,
            )
            try:
                return self.asked(lambda: self._held_of(wanted, families))
            except TooMany:
                self._held = None
            except BaseException:
                # What was being read may be half there.
                self._held = None
                raise
        self._not_held.add(wanted)
        return None

    def _held_of(self, runs: frozenset[RunKey], families: Collection[str]) -> list[Event]:
        assert self._held is not None
        return self._held.hold(runs, families)

    def held_before(self, families: Iterable[str]) -> Iterator[Event]:
        """The events of some families that are held of the runs that were asked about before."""
        return iter(()) if self._held is None else self._held.at_hand(families)

    @property
    def at_hand(self) -> Views | None:
        """Views of the runs that were asked about last, if their events were copied."""
        return self._near

    def has_twins(self) -> bool:
        if self._folded is None or self._folded.has_twins:
            return super().has_twins()
        if not all(file.is_covered for file in self._sealed.files):
            self._sweep()
        return super().has_twins() if self._may_have_new_twins() else False

    def surely_has_no_twins(self) -> bool:
        """Whether it is known without any query that no two runs share a pathspec."""
        folded = self._folded
        if folded is None or folded.has_twins or not all(file.is_covered for file in self._sealed.files):
            return False
        return not self._may_have_new_twins()

    def _may_have_new_twins(self) -> bool:
        """Whether runs with events that the checkpoint lacks may be twins: of those that it covers none are."""
        count = len(self._touched)
        if self._checked_for_twins is None or self._checked_for_twins[0] != count:
            new = {(flow, run_id) for _, flow, run_id in self._touched}
            is_known = any(events_in(data, *run) for run in new for data in self._read_places())
            self._checked_for_twins = count, is_known or len(new) < count
        return self._checked_for_twins[1]

    def _is_kept(self, text: str, runs: Collection[RunKey]) -> bool:
        """Whether all that is asked are some rows of states, in a process that has those of all runs open."""
        if self._near is not None and self._near.holds(runs):
            return False
        words = set(re.findall(r"\w+", text))
        wanted = words & _VIEW_NAMES
        return (
            "state.counted" in self._states
            and wanted <= _KEPT_VIEWS
            and not words & {"raw", "told", "fold", "state"}
        )

    def _near_if_few(self, runs: frozenset[RunKey], families: Collection[str]) -> NearViews | None:
        if len(runs) > _RUNS_MAX or runs in self._large:
            return None
        return self._near_to(runs, families)

    def _near_to(self, runs: frozenset[RunKey], families: Collection[str]) -> NearViews | None:
        places = self._read_places()
        if self._near is not None and self._near.is_about_others(runs):
            self._leave()
        for _ in range(2):
            is_first = self._near is None
            try:
                if self._near is None:
                    self._nears += 1
                    self._near = NearViews(self, f"near_{self._nears}", places)
                self._near.hold(runs, self._tail, families)
            except _TooMany:
                self._leave()
                if is_first:
                    self._large.add(runs)
                    break
            except BaseException:
                # What was being copied may be half there.
                self._leave()
                raise
            else:
                return self._near
        return None

    def _leave(self) -> None:
        """Let go of what was copied."""
        if self._near is not None:
            self._near.leave()
            self._near = None

    def _read_places(self) -> list[bytes]:
        if self._places is None:
            assert self._folded is not None
            paths = [part.places for part in self._folded.parts]
            self.prove_files(paths)
            found = []
            for path in paths:
                with open(path, "rb") as file:
                    found.append(file.read())
            self._places = found
        return self._places


class NearViews(Views):
    """The views over the events of some runs, in a database of its own within the connection of all."""

    def __init__(self, all_views: RoutedViews, name: str, places: Sequence[bytes]) -> None:
        connection, quick = all_views.connection.cursor(), all_views._quick
        connection.execute(f"attach ':memory:' as {name}; use {name}")
        quick.execute(f"use {name}")
        files = Sealed(all_views._sealed.files)
        super().__init__(
            files, all_views._as_of_us, (), all_views._prove, "", all_views._watch, connection, quick
        )
        self._all_views = all_views
        self._trees = all_views._trees
        # Results outlive these views, and lie on a connection that all share.
        self._discarded = all_views._discarded
        self._name = name
        self._places = places
        #: The files that hold events of a run.
        self._held: dict[RunKey, list[SealedFile]] = {}
        #: Runs whose reused tasks were followed to the runs they are from.
        self._followed: set[RunKey] = set()
        self._read: dict[str, set[RunKey]] = {}
        self._count = 0

    def holds(self, runs: Iterable[RunKey]) -> bool:
        return self._followed.issuperset(recorded(runs))

    def is_about_others(self, runs: Iterable[RunKey]) -> bool:
        """Whether many runs are held and none of these: folding the many anew takes longer than to begin again."""
        return len(self._held) >= _MANY_RUNS and self._held.keys().isdisjoint(recorded(runs))

    def hold(self, runs: Iterable[RunKey], tail: Sequence[Event], families: Collection[str] = ()) -> None:
        """Make questions about runs answerable, which will most likely read these families. Raises: _TooMany."""
        wanted = recorded(runs)
        if not self._followed.issuperset(wanted):
            self._begin(wanted - self._held.keys(), tail)
            # Who reuses tasks is known before what else there is of them is copied.
            self.need_events(("run", "task"))
            self._begin(self._origins_of(wanted) - self._held.keys(), tail)
        # What is believed of any family is told by that of runs.
        self.need_events({"run", "task", *families})
        self._followed |= wanted

    def _origins_of(self, runs: Collection[RunKey]) -> set[RunKey]:
        """The runs that reused tasks of these are from."""
        if not self._has_any("task", "task_reused"):
            return set()
        rows = self._folding.execute(
            "select distinct flow, run_id, producer_flow, producer_run_id from raw.task_events "
            "where kind = 'task_reused' and producer_run_id is not null"
        ).fetchall()
        return {(row[2], row[3]) for row in rows if (row[0], row[1]) in runs}

    def need_events(self, families: Iterable[str]) -> None:
        """Make the relations `raw.<family>_events`; those that are copied for it are at one time."""
        wanted = [family for family in FAMILIES if family in families]
        self._copy_held([family for family in wanted if family not in self._copied])
        super().need_events(wanted)

    def add_tail(self, events: Iterable[Event]) -> None:
        """Put in events that are in no segment, of the runs that are held."""
        self.add(event for event in events if (event.flow, event.run_id) in self._held)
        self._followed.clear()

    def _has_twins(self) -> bool:
        return not self._all_views.surely_has_no_twins() and super()._has_twins()

    def leave(self) -> None:
        """Free what was copied; results that were made stay."""
        self._quick.execute("use memory")
        self.connection.execute(f"use memory; detach {self._name}")

    def _forget(self, made: dict[str, str]) -> None:
        """What depends on the events; the views that users ask stay, as they only name it."""
        views = {name: kind for name, kind in made.items() if kind == "view" and "." not in name}
        for name in views:
            del made[name]
        super()._forget(made)
        made.update(views)

    def _begin(self, runs: Collection[RunKey], tail: Sequence[Event]) -> None:
        if not runs:
            return
        for run in runs:
            self._held[run], count = files_of(run, self._places, self._sealed)
            self._count += count
        if self._count > _EVENTS_MAX:
            raise _TooMany
        self._copied.clear()
        self.add(event for event in tail if (event.flow, event.run_id) in runs)

    def _copy_held(self, families: Iterable[str]) -> None:
        wanted = {}
        for family in families:
            self._open(family)
            self._copied.add(family)
            runs = self._held.keys() - self._read.get(family, set())
            self._read[family] = set(self._held)
            files = {file: None for run in sorted(runs) for file in self._held[run] if file.family == family}
            if files:
                wanted[family] = (Sealed(tuple(files)), condition_of(runs))
        # All of them in one go: there are two threads for that.
        self.prove_files(file.path for sealed, _ in wanted.values() for file in sealed.files)
        copies = [self._copy_of(family, *chosen) for family, chosen in wanted.items()]
        self._events += copy_together(
            self.connection, [copy for copy in copies if copy is not None], self._name
        )


def _families_named(text: str) -> set[str]:
    """The families whose events a query in small letters names, by a view or below the views."""
    words = set(re.findall(r"\w+", text))
    if "events" in words:
        return set(FAMILIES)
    named = {family for view, families in FAMILIES_OF.items() if view in words for family in families}
    return named | {family for family in FAMILIES if f"{family}_events" in words}
