"""What the tasks of whole runs read and wrote, grouped: edges between two steps are one bundle, however many.

A walk asks for runs, never for tasks, and each run once: one pruned scan of its reads gives them all. Only
attempts count that left something behind: the last of a task, and those that wrote something external.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["Bundle", "Place", "Touch", "Uses"]


class Place(NamedTuple):
    """A step of a run: where tasks are that differ by their id only."""

    flow: str
    run_id: str
    step: str

    def __str__(self) -> str:
        return "/".join(self)


class Bundle(NamedTuple):
    """Reads of artifacts of one name by tasks of one step, saved by tasks of one step.

    `readers` and `makers` are task ids, either the same number of each, or one that stands for all.
    `items` are the items read, one for each read, where they were items of a foreach list.
    """

    reader: Place
    readers: tuple[str, ...]
    maker: Place
    makers: tuple[str, ...]
    name: str
    items: tuple[int | None, ...] | None = None

    @property
    def width(self) -> int:
        """How many reads there are."""
        return max(len(self.readers), len(self.makers), len(self.items or ()))

    def pairs(self) -> Iterator[tuple[str, str, int | None]]:
        """(reader, maker, item) of each read."""
        count = self.width
        readers = self.readers * count if len(self.readers) == 1 else self.readers
        makers = self.makers * count if len(self.makers) == 1 else self.makers
        return zip(readers, makers, self.items or (None,) * count, strict=True)

    def of_readers(self, wanted: set[str]) -> Bundle | None:
        """What tasks among `wanted` read; None for nothing."""
        if len(self.readers) == 1:
            return self if self.readers[0] in wanted else None
        return self if wanted.issuperset(self.readers) else self._only(wanted, 0)

    def of_makers(self, wanted: set[str]) -> Bundle | None:
        """What was read of tasks among `wanted`; None for nothing."""
        if len(self.makers) == 1:
            return self if self.makers[0] in wanted else None
        return self if wanted.issuperset(self.makers) else self._only(wanted, 1)

    def _only(self, wanted: set[str], side: int) -> Bundle | None:
        kept = [pair for pair in self.pairs() if pair[side] in wanted]
        if not kept:
            return None
        readers, makers, items = zip(*kept, strict=True)
        return self._replace(readers=readers, makers=makers, items=None if self.items is None else items)


class Touch(NamedTuple):
    """Something external that a task read or wrote. `parameter` is the one that holds the path, if one does.

    `state` stands for the content where it has no digest.
    """

    place: Place
    task_id: str
    uri: str
    direction: str
    digest: bytes | None
    size_bytes: int | None
    state: str | None
    parameter: str | None

    @property
    def content(self) -> bytes | str | None:
        """What tells the content apart; None when nothing is known of it."""
        return self.digest or self.state


class _Run:
    """The reads of one run by the step of the reader and by that of the maker, and what it touched."""

    __slots__ = ("by_maker", "by_reader", "touches")

    def __init__(self) -> None:
        self.by_reader: dict[str, list[Bundle]] = {}
        self.by_maker: dict[Place, list[Bundle]] = {}
        self.touches: dict[str, list[Touch]] = {}


class _Row(NamedTuple):
    """Reads of one attempt number, of tasks of one step."""

    uid: bytes
    place: Place
    attempt: int
    items: list[Bundle | Touch]


RunKey = tuple[str, str]

_TWIN = re.compile(r"~\d+$")

#: Runs that one query asks for.
_RUNS_AT_ONCE = 500

#: Ids as one text, which is fetched in half the time of a list. No id has a slash within.
_LISTED = "case when min({0}) = max({0}) then min({0}) else string_agg(coalesce({0}, ''), '/') end"

_USES = f"""
    select run_uid, flow, run_id, kind, step, attempt, name, producer_flow, producer_run_id, producer_step,
        case when kind = 'external_used' then digest end as digest,
        case when kind = 'external_used' then size_bytes end as size_bytes,
        case when kind = 'external_used' then payload end as facts,
        {_LISTED.format("task_id")} as readers, {_LISTED.format("producer_task_id")} as makers,
        case when max(item_index) is not null then list(item_index) end as items
    from told.use_events
    where {{}} and (kind = 'external_used' or (kind = 'artifact_used' and not coalesce(is_absent, false)))
    group by all
"""

_RETRIED = "select run_uid, step, task_id, final_attempt from state.retried where {}"

_SAVED = f"""
    select run_uid, flow, run_id, step, coalesce(attempt, 0), name, {_LISTED.format("task_id")}
    from {{}} where {{}} and kind = '{{}}' group by all
"""


class Uses:
    """The runs that were asked for, as the walk needs them; run ids are those that views show."""

    def __init__(self, store: Answers) -> None:
        self._store = store
        self._runs: dict[RunKey, _Run] = {}
        #: Reads by other runs of what a run saved.
        self._foreign: dict[RunKey, list[Bundle]] = {}
        self._saved: dict[RunKey, dict[tuple[str, str], list[str]]] = {}
        #: The last attempt of each task that was tried again, by run and step, and the attempts that wrote
        #: something external.
        self._last: dict[tuple[bytes, str], dict[str, int]] = {}
        self._writers: set[tuple[bytes, str, str, int]] = set()
        self._asked: set[RunKey] = set()
        self._shown: dict[bytes, str] = {}
        self._has_twins = store.has_twins()

    def load(self, runs: Iterable[RunKey]) -> None:
        """Fetch the reads of runs that were not asked for before."""
        for keys in _batches(set(runs) - self._runs.keys()):
            self._runs.update((key, _Run()) for key in keys)
            rows = self._rows(*self.condition(keys), keys)
            self._note_attempts(keys)
            self._note_writers(rows)
            for item in self._counted(rows):
                place = item.place if isinstance(item, Touch) else item.reader
                # Flows and run ids are asked for apart, so a run may come that nobody wanted.
                if (place.flow, place.run_id) not in keys:
                    continue
                run = self._runs[place.flow, place.run_id]
                if isinstance(item, Touch):
                    run.touches.setdefault(place.step, []).append(item)
                else:
                    run.by_reader.setdefault(place.step, []).append(item)
                    run.by_maker.setdefault(item.maker, []).append(item)

    def read_by(self, place: Place, tasks: set[str]) -> Iterator[Bundle]:
        """What tasks of a step read; their run is loaded."""
        for bundle in self._runs[place.flow, place.run_id].by_reader.get(place.step, ()):
            found = bundle.of_readers(tasks)
            if found is not None:
                yield found

    def touched_by(self, place: Place, tasks: set[str]) -> Iterator[Touch]:
        """What tasks of a step read and wrote outside the store; their run is loaded."""
        for touch in self._runs[place.flow, place.run_id].touches.get(place.step, ()):
            if touch.task_id in tasks:
                yield touch

    def load_readers(self, runs: Iterable[RunKey]) -> None:
        """Fetch the reads, by any run, of what these runs saved."""
        runs = set(runs)
        self.load(runs)
        for keys in _batches(runs - self._foreign.keys()):
            self._foreign.update((key, []) for key in keys)
            condition, params = self.condition(keys, "producer_flow", "producer_run_id")
            condition += " and (flow <> producer_flow or run_id <> producer_run_id)"
            for item in self._fetch(condition, params):
                if isinstance(item, Bundle) and (item.maker.flow, item.maker.run_id) in keys:
                    self._foreign[item.maker.flow, item.maker.run_id].append(item)

    def readers_of(self, place: Place, tasks: set[str], name: str | None = None) -> Iterator[Bundle]:
        """The reads of what tasks of a step saved, or only of one name; the readers of their run are loaded."""
        key = (place.flow, place.run_id)
        own = self._runs[key].by_maker.get(place, [])
        for bundle in (*own, *(b for b in self._foreign[key] if b.maker == place)):
            if name is None or bundle.name == name:
                found = bundle.of_makers(tasks)
                if found is not None:
                    yield found

    def saved_by(self, place: Place, tasks: set[str]) -> Iterator[tuple[str, set[str]]]:
        """(name, ids) of what tasks of a step saved in their last attempt."""
        key = (place.flow, place.run_id)
        if key not in self._saved:
            self._load_saved(key)
        for (step, name), ids in self._saved[key].items():
            if step == place.step and not tasks.isdisjoint(ids):
                yield name, tasks.intersection(ids)

    def touches_of(self, uris: Iterable[str], direction: str) -> list[Touch]:
        """Who read or wrote something external, in any run."""
        wanted = sorted(set(uris))
        if not wanted:
            return []
        found = self._fetch(f"kind = 'external_used' and name in ({', '.join('?' for _ in wanted)})", wanted)
        return [item for item in found if isinstance(item, Touch) and item.direction == direction]

    def condition(
        self, keys: Iterable[RunKey], flow: str = "flow", run_id: str = "run_id"
    ) -> tuple[str, list[str]]:
        """A WHERE clause for runs, by constants, so that files are pruned, and its parameters.

        It may let through runs that were not meant: one of these flows with one of these ids.
        """
        raw = sorted({(name, _TWIN.sub("", shown) if self._has_twins else shown) for name, shown in keys})
        flows = sorted({name for name, _ in raw})
        marks = [", ".join("?" for _ in names) for names in (flows, raw)]
        return f"{flow} in ({marks[0]}) and {run_id} in ({marks[1]})", [*flows, *(run for _, run in raw)]

    def shown(self, uid: bytes, flow: str, run_id: str) -> str:
        """The id under which a run is shown: two may share theirs after a merge."""
        if not self._has_twins:
            return run_id
        if uid not in self._shown:
            query = "select run_uid, run_id from fold.runs where flow = ?"
            self._shown.update((bytes(row[0]), row[1]) for row in self._store.rows(query, [flow]))
        return self._shown.get(bytes(uid), run_id)

    def _fetch(self, condition: str, params: list[Any]) -> list[Bundle | Touch]:
        """Bundles and touches in any run, which is loaded: it says which attempts count."""
        rows = self._rows(condition, params, None)
        self.load((row.place.flow, row.place.run_id) for row in rows)
        return self._counted(rows)

    def _rows(self, condition: str, params: list[Any], about: Collection[RunKey] | None) -> list[_Row]:
        found = []
        # The same ids again and again: taken apart once, each text of theirs is hashed once.
        apart: dict[str | None, tuple[str, ...]] = {}
        for uid, flow, run_id, kind, step, attempt, name, *more in self._store.rows(
            _USES.format(condition), params, about=about
        ):
            maker_flow, maker_run, maker_step, digest, size_bytes, facts, readers, makers, items = more
            shown = self.shown(uid, flow, run_id)
            place = Place(flow, shown, step)
            readers, makers = (
                apart.get(ids) or apart.setdefault(ids, _ids(ids)) for ids in (readers, makers)
            )
            listed: list[Bundle | Touch] = []
            if kind == "external_used":
                told = json.loads(facts or "{}")
                known = None if digest is None else bytes(digest)
                ways = (
                    told.get("direction", "read"),
                    known,
                    size_bytes,
                    told.get("state"),
                    told.get("parameter"),
                )
                listed = [Touch(place, task, name, *ways) for task in readers]
            elif maker_step is not None:
                is_own = (maker_flow, maker_run) == (flow, run_id)
                maker = Place(maker_flow, shown if is_own else maker_run, maker_step)
                listed = [Bundle(place, readers, maker, makers, name, items and tuple(items))]
            found.append(_Row(bytes(uid), place, attempt or 0, listed))
        return found

    def _counted(self, rows: list[_Row]) -> list[Bundle | Touch]:
        """What attempts did that count, reads of one name and step one after the other."""
        found: list[Bundle | Touch] = []
        for uid, place, attempt, items in rows:
            passed = self._passed(uid, place.step, attempt)
            if not passed:
                found += items
                continue
            for item in items:
                if isinstance(item, Touch):
                    if item.task_id not in passed:
                        found.append(item)
                elif passed.isdisjoint(item.readers):
                    found.append(item)
                else:
                    kept = item.of_readers(set(item.readers) - passed)
                    found += [] if kept is None else [kept]
        found.sort(key=_order)
        return found

    def _passed(self, uid: bytes, step: str, attempt: int) -> set[str]:
        """The tasks of a step whose attempt left nothing behind: it was not the last, and wrote nothing external."""
        return {
            task_id
            for task_id, last in self._last.get((uid, step), {}).items()
            if last > attempt and (uid, step, task_id, attempt) not in self._writers
        }

    def _note_writers(self, rows: list[_Row]) -> None:
        for uid, place, attempt, items in rows:
            for item in items:
                if isinstance(item, Touch) and item.direction == "write":
                    self._writers.add((uid, place.step, item.task_id, attempt))

    def _note_attempts(self, keys: Iterable[RunKey]) -> None:
        """Learn which tasks of these runs were tried again."""
        for batch in _batches(set(keys) - self._asked):
            self._asked.update(batch)
            condition, params = self.condition(batch, run_id="raw_run_id")
            for uid, step, task_id, attempt in self._store.rows(
                _RETRIED.format(condition), params, about=batch
            ):
                self._last.setdefault((bytes(uid), step), {})[task_id] = attempt

    def _load_saved(self, key: RunKey) -> None:
        saved: dict[tuple[str, str], list[str]] = {}
        self._note_attempts([key])
        condition, params = self.condition([key])
        for table, kind in (("told.artifact_events", "artifact_saved"), ("told.run_events", "parameter_set")):
            for row in self._store.rows(_SAVED.format(table, condition, kind), params, about=[key]):
                uid, flow, run_id, step, attempt, name, listed = row
                if self.shown(uid, flow, run_id) == key[1]:
                    last = self._last.get((bytes(uid), step))
                    ids = _ids(listed)
                    kept = ids if last is None else [i for i in ids if last.get(i, 0) <= attempt]
                    saved.setdefault((step, name), []).extend(kept)
        self._saved[key] = dict(sorted(saved.items()))


def _ids(listed: str | None) -> tuple[str, ...]:
    return () if listed is None else tuple(listed.split("/"))


def _order(item: Bundle | Touch) -> tuple[object, ...]:
    if isinstance(item, Touch):
        return (item.place, item.uri, item.task_id)
    return (item.reader, item.name, item.maker)


def _batches(keys: set[RunKey]) -> Iterator[list[RunKey]]:
    listed = sorted(keys)
    for start in range(0, len(listed), _RUNS_AT_ONCE):
        yield listed[start : start + _RUNS_AT_ONCE]
