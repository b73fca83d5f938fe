"""What is recorded of two runs, fetched and put side by side.

Places, names and digests are fetched of both runs, and what else is known of a value only where the digests differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from weft.lineage.ids import digest_to_text
from weft.lineage.named_runs import NamedRun, of_runs
from weft.lineage.pairs import (
    ArtifactPair,
    ExternalPair,
    Pairs,
    ReadPair,
    Saved,
    StepTimes,
    TaskPair,
    TaskPlace,
    ValuePair,
)
from weft.lineage.run_facts import read_run_facts

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["collect_pairs"]

_PARAMETERS = "_parameters"

#: What is shown as a parameter or config; the others are constants of the class.
_ROLES = ("parameter", "config")

#: A task that really ran: the uid of its run, its step and id.
_Ran = tuple[bytes, str, str]

#: Values that are asked for by their digests; of more, all of the two runs are fetched.
_DIGESTS_ASKED_MAX = 200


def collect_pairs(store: Answers, a: NamedRun, b: NamedRun) -> Pairs:
    """Fetch what is compared of two runs."""
    return _Collector(store, a, b).collect()


class _Collector:
    """Fetches the rows of two runs and pairs them. Of each pair of dicts the first is of run A.

    Rows come from below the views. A reused task has those of the task it stands for, in another run.
    """

    def __init__(self, store: Answers, a: NamedRun, b: NamedRun) -> None:
        self._store = store
        self._runs = (a, b)
        #: The runs that reused tasks are from.
        self._origins: dict[bytes, NamedRun] = {}
        self._about = [a.key, b.key]
        #: Whether a task was tried again; not known before it is asked.
        self._has_retried: bool | None = None
        #: The place of each task, by (step, task id).
        self._places: tuple[dict[tuple[str, str], TaskPlace], ...] = ({}, {})
        #: Reused tasks, each with what it stands for; and by that their steps and ids.
        self._reused: list[tuple[Any, ...]] = []
        self._stands_for: tuple[dict[_Ran, list[tuple[str, str]]], ...] = ({}, {})
        #: The places of reused tasks, by what they stand for, and by flow and run id instead of the uid.
        self._sources: tuple[dict[tuple[bytes | str, str, str], TaskPlace], ...] = ({}, {})
        #: The tasks that read a parameter, by its name.
        self._readers: dict[str, set[TaskPlace]] = {}

    def collect(self) -> Pairs:
        tasks, times = self._pair_tasks()
        artifacts, values, equal = self._pair_artifacts()
        a, b = read_run_facts(self._store, self._runs)
        reads, external = self._pair_reads(), self._pair_external()
        return Pairs(a, b, values, tasks, artifacts, reads, external, times, equal)

    def _of_both(self, column: str = "run_id") -> tuple[str, list[str | bytes]]:
        """The condition for rows of both runs and of those that reused tasks are from."""
        return of_runs((*self._runs, *self._origins.values()), column)

    def _by_side(self, rows: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Rows that begin with the uid of their run, a step and a task id, each with its side instead of the uid;
        both sides may be one run, and stand for one task."""
        for side, run in enumerate(self._runs):
            standing = self._stands_for[side]
            for uid, step, task_id, *more in rows:
                if uid == run.uid:
                    yield side, step, task_id, *more
                if standing:
                    for place in standing.get((uid, step, task_id), ()):
                        yield side, *place, *more

    def _tasks(self) -> Iterable[tuple[Any, ...]]:
        """Side, step, id, place in a foreach, status, and seconds of each task."""
        condition, params = self._of_both("raw_run_id")
        rows = self._store.rows(
            "select run_uid, step, task_id, coalesce(foreach_path, ''), status, "
            "case when status not in ('retrying', 'lost') then (ended_us - started_us) / 1e6 end "
            f"from fold.tasks where {condition} order by try_cast(task_id as bigint), task_id, step",
            params,
            about=self._about,
        )
        if any(row[4] == "reused" for row in rows):
            took = self._follow_reused()
            rows = [(*row[:4], "succeeded", took.get(row[:3])) if row[4] == "reused" else row for row in rows]
        return self._by_side(rows)

    def _follow_reused(self) -> dict[_Ran, float | None]:
        """Note what reused tasks stand for; gives how long that took, by the reused task."""
        condition, params = self._of_both("raw_run_id")
        found = self._store.rows(
            "select run_uid, step, task_id, origin_uid, origin_step, origin_task_id, origin_flow, origin_run_id "
            f"from fold.reuses where {condition}",
            params,
            about=self._about,
        )
        for *_, uid, _, _, flow, run_id in found:
            if uid is not None:
                self._origins[uid] = NamedRun(flow, run_id, uid, run_id)
        seconds = self._seconds_of_origins()
        self._reused = found
        return {tuple(row[:3]): seconds.get(tuple(row[3:6])) for row in found}

    def _place_reused(self) -> None:
        """Note which tasks have the rows of another, and where these are as the makers of what others read."""
        for side, run in enumerate(self._runs):
            for uid, step, task_id, *ran, flow, run_id in self._reused:
                place = self._places[side].get((step, task_id))
                if uid == run.uid and place is not None:
                    self._stands_for[side].setdefault((ran[0], ran[1], ran[2]), []).append((step, task_id))
                    for source in (ran[0], f"{flow}/{run_id}"):
                        self._sources[side][source, ran[1], ran[2]] = place

    def _seconds_of_origins(self) -> dict[_Ran, float | None]:
        if not self._origins:
            return {}
        condition, params = of_runs(self._origins.values(), "raw_run_id")
        rows = self._store.rows(
            f"select run_uid, step, task_id, (ended_us - started_us) / 1e6 from fold.tasks where {condition}",
            params,
            about=self._about,
        )
        return {(uid, step, task_id): seconds for uid, step, task_id, seconds in rows}

    def _pair_tasks(self) -> tuple[list[TaskPair], list[StepTimes]]:
        statuses: tuple[dict[TaskPlace, str], ...] = ({}, {})
        visits: dict[tuple[int, str, str], int] = {}
        counts: dict[str, list[int]] = {}
        seconds: dict[str, list[float | None]] = {}
        for side, step, task_id, path, status, duration_s in self._tasks():
            visit = visits[side, step, path] = visits.get((side, step, path), 0) + 1
            place = TaskPlace(step, path, visit)
            self._places[side][step, task_id] = place
            statuses[side][place] = status
            counts.setdefault(step, [0, 0])[side] += 1
            took = seconds.setdefault(step, [None, None])
            if duration_s is not None:
                took[side] = (took[side] or 0.0) + duration_s
        pairs = [
            TaskPair(place, statuses[0].get(place), statuses[1].get(place)) for place in _unequal(*statuses)
        ]
        self._place_reused()
        return pairs, [StepTimes(step, *counts[step], *seconds[step]) for step in counts]

    def _saved(self, columns: str, more: str = "", params: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Columns of what tasks saved, of the attempts that count, and of parameters; first side, step and task."""
        condition, asked = self._of_both()
        retried, named = self._of_both("raw_run_id")
        if self._has_retried is None:
            query = f"select 1 from told.task_events where attempt > 0 and {condition} limit 1"
            self._has_retried = bool(self._store.rows(query, asked, about=self._about))
        only = "true"
        if self._has_retried:
            only = f"""not exists (
                select 1 from state.retried where {retried} and run_uid = e.run_uid and step = e.step
                    and task_id = e.task_id and final_attempt > e.attempt
            )"""
        rows = self._store.rows(
            f"""
            select run_uid, step, task_id, {columns} from (
                select * from told.artifact_events where kind = 'artifact_saved' and {condition}
                union all select * from told.run_events where kind = 'parameter_set' and {condition}
            ) e where {only}{more}
            """,
            [*asked, *asked, *(named if self._has_retried else ()), *params],
            about=self._about,
        )
        return self._by_side(rows)

    def _pair_artifacts(self) -> tuple[list[ArtifactPair], list[ValuePair], dict[tuple[str, str], int]]:
        """Artifacts, parameters and constants that differ, and how many artifacts are equal, by step and name."""
        saved: tuple[dict[tuple[TaskPlace, str], bytes], ...] = ({}, {})
        given: tuple[dict[str, bytes], ...] = ({}, {})
        for side, step, task_id, name, digest in self._saved("name, digest"):
            place = self._places[side].get((step, task_id))
            if step == _PARAMETERS:
                given[side][name] = digest
            elif place is not None:
                saved[side][place, name] = digest
        changed, changed_values = _unequal(*saved), _unequal(*given)
        known = self._known_of(
            {digest for key in changed for side in saved if (digest := side.get(key))}
            | {digest for name in changed_values for side in given if (digest := side.get(name))}
        )
        artifacts = [
            ArtifactPair(key[0], key[1], known.get(saved[0].get(key, b"")), known.get(saved[1].get(key, b"")))
            for key in changed
        ]
        equal: dict[tuple[str, str], int] = {}
        for place, name in (saved[0].keys() & saved[1].keys()).difference(changed):
            equal[place.step, name] = equal.get((place.step, name), 0) + 1
        return artifacts, self._pair_values(changed_values, given, known), equal

    def _pair_values(
        self, changed: list[str], given: tuple[dict[str, bytes], ...], known: dict[bytes, Saved]
    ) -> list[ValuePair]:
        if not changed:
            return []
        condition, params = of_runs(self._runs)
        query = f"select name, payload ->> '$.role' from told.run_events where kind = 'parameter_set' and {condition}"
        roles = {
            name: role for name, role in self._store.rows(query, params, about=self._about) if role in _ROLES
        }
        # Of a config the keys that differ are told, not the document around them as well.
        parted = {name.partition(".")[0] for name in changed if "." in name and name in roles}
        return [
            ValuePair(
                name,
                roles.get(name, "constant"),
                known.get(given[0].get(name, b"")),
                known.get(given[1].get(name, b"")),
            )
            for name in changed
            if name not in parted
        ]

    def _known_of(self, digests: set[bytes]) -> dict[bytes, Saved]:
        """What is recorded of values, by digest; of several the last in the order of size, type, serializer, value."""
        if not digests:
            return {}
        columns = "digest, size_bytes, type, serializer, value"
        if len(digests) <= _DIGESTS_ASKED_MAX:
            marks = ", ".join("?" for _ in digests)
            rows = self._saved(columns, f" and digest in ({marks})", sorted(digests))
        else:
            rows = self._saved(columns)
        found: dict[bytes, Saved] = {}
        for _, _, _, digest, *facts in rows:
            if digest in digests:
                saved = Saved(digest_to_text(digest), *facts)
                other = found.get(digest, saved)
                found[digest] = saved if saved == other else max(saved, other, key=_in_order)
        return found

    def _reads(self) -> Iterator[tuple[Any, ...]]:
        """Side, step, task, name, item, digest, and of the producer its run (its uid where it is that of the reader
        itself), step and task."""
        condition, params = self._of_both()
        rows = self._store.rows(
            "select run_uid, step, task_id, name, coalesce(item_index, -1), "
            "case when is_absent then 'absent'::blob else digest end, "
            "case when producer_flow <> flow or producer_run_id <> run_id then producer_flow || '/' || producer_run_id end, "
            "run_uid, producer_step, producer_task_id "
            f"from told.use_events where kind = 'artifact_used' and {condition} order by attempt",
            params,
            about=self._about,
        )
        return ((*row[:6], row[6] or row[7], *row[8:]) for row in self._by_side(rows))

    def _pair_reads(self) -> list[ReadPair]:
        found: tuple[dict[tuple[TaskPlace, str, int, TaskPlace], Any], ...] = ({}, {})
        nowhere = TaskPlace("", "", 1)
        elsewhere: dict[str, TaskPlace] = {}
        for side, step, task_id, name, item_index, content, run, maker_step, maker in self._reads():
            places = self._places[side]
            place = places.get((step, task_id))
            if place is None:
                continue
            producer: TaskPlace | None = nowhere
            if maker_step is not None:
                if run == self._runs[side].uid:
                    producer = places.get((maker_step, maker))
                else:
                    producer = self._sources[side].get((run, maker_step, maker))
                if producer is None:
                    # The parameters, or a task of a run that is neither of the two.
                    producer = elsewhere.get(maker_step)
                if producer is None:
                    producer = elsewhere[maker_step] = TaskPlace(maker_step, "", 1)
            assert producer is not None
            if producer.step == _PARAMETERS:
                self._readers.setdefault(name, set()).add(place)
            found[side][place, name, item_index, producer] = content
        return [
            ReadPair(
                key[0],
                key[1],
                None if key[2] < 0 else key[2],
                key[3],
                _content_text(found[0].get(key)),
                _content_text(found[1].get(key)),
            )
            for key in _unequal(*found)
        ]

    def _touched(self) -> Iterable[tuple[Any, ...]]:
        """Side, step, task, URI, direction, content and parameter of what lies outside."""
        condition, params = self._of_both()
        rows = self._store.rows(
            "select run_uid, step, task_id, name, digest, payload "
            f"from told.use_events where kind = 'external_used' and {condition} order by attempt, time_us",
            params,
            about=self._about,
        )
        return map(_touch, self._by_side(rows))

    def _pair_external(self) -> list[ExternalPair]:
        """What lies outside. A path in a parameter was read by the tasks that read the parameter."""
        found: tuple[dict[tuple[TaskPlace, str, str], str], ...] = ({}, {})
        for side, step, task_id, uri, direction, content, parameter in self._touched():
            place = self._places[side].get((step, task_id))
            if parameter is not None:
                for reader in self._readers.get(parameter, ()):
                    found[side][reader, uri, direction] = content
            elif place is not None:
                found[side][place, uri, direction] = content
        return [
            ExternalPair(key[0], key[1], key[2], found[0].get(key), found[1].get(key))
            for key in _unequal(*found)
        ]


def _content_text(content: bytes | str | None) -> str | None:
    if isinstance(content, bytes):
        return "absent" if content == b"absent" else digest_to_text(content)
    return content


def _touch(row: tuple[Any, ...]) -> tuple[Any, ...]:
    side, step, task_id, uri, digest, payload = row
    told = json.loads(payload) if payload else {}
    content = told.get("state") if digest is None else digest_to_text(digest)
    if content is None:
        content = "unknown"
    return side, step, task_id, uri, told.get("direction"), content, told.get("parameter")


def _in_order(saved: Saved) -> tuple[tuple[bool, Any], ...]:
    """What is not known comes last."""
    return tuple((value is None, value or "") for value in saved)


def _unequal(a: dict[Any, Any], b: dict[Any, Any]) -> list[Any]:
    """The keys whose values differ, or that only one of two dicts has, sorted."""
    return sorted({key for key, _ in a.items() ^ b.items()})
