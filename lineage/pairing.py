"""What is recorded of two runs, fetched and put side by side.

Places, names and digests are fetched of both runs, and what else is known of a value only where the digests differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from weft.lineage.accounts import Account, Reuse, TaskRow
from weft.lineage.ids import digest_to_text
from weft.lineage.named_runs import NamedRun
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

__all__ = ["collect_pairs"]

_PARAMETERS = "_parameters"

#: What is shown as a parameter or config; the others are constants of the class.
_ROLES = ("parameter", "config")

#: A task that really ran: the uid of its run, its step and id.
_Ran = tuple[bytes, str, str]

#: Who made what nobody is recorded to have made.
_NOWHERE = TaskPlace("", "", 1)

#: What is asked of reads: where, what, of whom, and when.
_READ_COLUMNS = (
    *("run_uid", "step", "task_id", "run_uid", "name", "digest", "is_absent", "item_index", "flow", "run_id"),
    *("producer_flow", "producer_run_id", "producer_step", "producer_task_id"),
    *("attempt", "time_us", "writer", "seq"),
)

#: Values that are asked for by their digests; of more, all of the two runs are fetched.
_DIGESTS_ASKED_MAX = 200


def collect_pairs(account: Account, a: NamedRun, b: NamedRun) -> Pairs:
    """Fetch what is compared of two runs."""
    return _Collector(account, a, b).collect()


class _Collector:
    """Fetches the rows of two runs and pairs them. Of each pair of dicts the first is of run A.

    A reused task has the rows of the task it stands for, in another run.
    """

    def __init__(self, account: Account, a: NamedRun, b: NamedRun) -> None:
        self._account = account
        self._runs = (a, b)
        #: Both, or the one that they are.
        self._distinct = list({run.uid: run for run in (a, b)}.values())
        #: The runs that reused tasks are from.
        self._origins: dict[bytes, NamedRun] = {}
        #: The last attempt of each task that was tried again.
        self._last: dict[_Ran, int] = {}
        #: The place of each task, by (step, task id).
        self._places: tuple[dict[tuple[str, str], TaskPlace], ...] = ({}, {})
        #: Reused tasks; and their steps and ids by what they stand for.
        self._reused: list[Reuse] = []
        self._stands_for: tuple[dict[_Ran, list[tuple[str, str]]], ...] = ({}, {})
        #: The places of reused tasks, by what they stand for, and by flow and run id instead of the uid.
        self._sources: tuple[dict[tuple[bytes | str, str, str], list[TaskPlace]], ...] = ({}, {})
        #: The tasks that read a parameter, by its name.
        self._readers: dict[str, set[TaskPlace]] = {}

    def collect(self) -> Pairs:
        tasks, times = self._pair_tasks()
        artifacts, values, equal = self._pair_artifacts()
        a, b = read_run_facts(self._account, self._runs)
        reads, external = self._pair_reads(), self._pair_external()
        return Pairs(a, b, values, tasks, artifacts, reads, external, times, equal)

    @property
    def _all_runs(self) -> dict[bytes, NamedRun]:
        """Both runs and those that reused tasks are from, by uid."""
        return {**self._origins, **{run.uid: run for run in self._distinct}}

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
        rows = self._account.tasks(self._distinct)
        self._note_retried(rows)
        took = self._follow_reused() if any(row.status == "reused" for row in rows) else {}
        told = []
        for row in sorted(rows, key=_in_order_of_ids):
            path, status, seconds = row.foreach_path or "", row.status, _seconds(row)
            if status == "reused":
                status, seconds = "succeeded", took.get((row.run_uid, row.step, row.task_id))
            told.append((row.run_uid, row.step, row.task_id, path, status, seconds))
        return self._by_side(told)

    def _note_retried(self, rows: list[TaskRow]) -> None:
        for row in rows:
            if row.final_attempt:
                self._last[row.run_uid, row.step, row.task_id] = row.final_attempt

    def _follow_reused(self) -> dict[_Ran, float | None]:
        """Note what reused tasks stand for; gives how long that took, by the reused task."""
        self._reused = self._account.reuses(self._distinct)
        for reuse in self._reused:
            if reuse.origin_uid is not None:
                flow, run_id = reuse.origin_flow or "", reuse.origin_run_id or ""
                self._origins[reuse.origin_uid] = NamedRun(flow, run_id, reuse.origin_uid, run_id)
        rows = self._account.tasks(self._origins.values())
        self._note_retried(rows)
        seconds = {(row.run_uid, row.step, row.task_id): _seconds(row, is_final=True) for row in rows}
        return {
            (reuse.run_uid, reuse.step, reuse.task_id): seconds.get(_origin_of(reuse))
            for reuse in self._reused
        }

    def _place_reused(self) -> None:
        """Note which tasks have the rows of another, and where these are as the makers of what others read."""
        for side, run in enumerate(self._runs):
            placed = [
                (place, reuse)
                for reuse in self._reused
                if reuse.run_uid == run.uid
                and (place := self._places[side].get((reuse.step, reuse.task_id))) is not None
            ]
            for place, reuse in sorted(placed, key=lambda each: each[0]):
                ran = _origin_of(reuse)
                self._stands_for[side].setdefault(ran, []).append((reuse.step, reuse.task_id))
                for source in (ran[0], f"{reuse.origin_flow}/{reuse.origin_run_id}"):
                    self._sources[side].setdefault((source, *ran[1:]), []).append(place)

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

    def _saved(self, columns: Sequence[str], digests: set[bytes] | None = None) -> Iterator[tuple[Any, ...]]:
        """Columns of what tasks saved, of the attempts that count, and of parameters; first side, step and task."""
        runs = self._all_runs.values()
        names = ("attempt", "run_uid", "step", "task_id", *columns)
        rows = self._account.events(("artifact_saved",), names, runs, digests=digests)
        last = self._last
        if last:
            rows = [row for row in rows if (row[0] or 0) >= last.get(row[1:4], 0)]
        told = self._account.events(
            ("parameter_set",), ("epoch", "time_us", "writer", "seq", *names), runs, digests=digests
        )
        # Of a parameter the highest epoch is believed, then the first.
        told.sort(key=lambda row: (-row[0], row[1:4]))
        return self._by_side([*(row[1:] for row in rows), *(row[5:] for row in told)])

    def _pair_artifacts(self) -> tuple[list[ArtifactPair], list[ValuePair], dict[tuple[str, str], int]]:
        """Artifacts, parameters and constants that differ, and how many artifacts are equal, by step and name."""
        saved: tuple[dict[tuple[TaskPlace, str], bytes], ...] = ({}, {})
        given: tuple[dict[str, bytes], ...] = ({}, {})
        for side, step, task_id, name, digest in self._saved(("name", "digest")):
            place = self._places[side].get((step, task_id))
            if step == _PARAMETERS:
                given[side].setdefault(name, digest)
            elif place is not None:
                # Rows come in no order: of what an attempt saved twice, as a damaged record may say, one is chosen.
                key = (place, name)
                other = saved[side].get(key)
                saved[side][key] = digest if other is None else max(digest, other)
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
        told = self._account.events(("parameter_set",), ("name", "payload"), self._runs)
        listed = sorted((name, (payload or {}).get("role") or "") for name, payload in told)
        roles = {name: role for name, role in listed if role in _ROLES}
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
        asked = digests if len(digests) <= _DIGESTS_ASKED_MAX else None
        rows = self._saved(("digest", "size_bytes", "type", "serializer", "value"), asked)
        found: dict[bytes, Saved] = {}
        for _, _, _, digest, *facts in rows:
            if digest in digests:
                saved = Saved(digest_to_text(digest), *facts)
                other = found.get(digest, saved)
                found[digest] = saved if saved == other else max(saved, other, key=_in_order)
        return found

    def _reads(self) -> Iterator[tuple[Any, ...]]:
        """Side, step and task, and the columns of each read of an artifact."""
        rows = self._account.events(("artifact_used",), _READ_COLUMNS, self._all_runs.values())
        # Of what was read again, or of several tasks that are one here, the last counts: by attempt, time, writer, seq.
        rows.sort(key=lambda row: (row[-4] or 0, row[-3:]))
        return self._by_side(rows)

    def _pair_reads(self) -> list[ReadPair]:
        found: tuple[dict[tuple[TaskPlace, str, int, TaskPlace], Any], ...] = ({}, {})
        elsewhere: dict[str, TaskPlace] = {}
        for side, step, task_id, uid, name, digest, is_absent, item, *made in self._reads():
            place = self._places[side].get((step, task_id))
            if place is None:
                continue
            producer = self._maker(side, place, uid, made, elsewhere)
            if producer.step == _PARAMETERS:
                self._readers.setdefault(name, set()).add(place)
            content = b"absent" if is_absent else digest
            found[side][place, name, -1 if item is None else item, producer] = content
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

    def _maker(
        self, side: int, reader: TaskPlace, uid: bytes, made: list[Any], elsewhere: dict[str, TaskPlace]
    ) -> TaskPlace:
        """Where the task is that made what was read. `made` are the run of the reader, and the task as it was
        recorded; `elsewhere` has a place for each step of other runs, and gets more."""
        flow, run_id, maker_flow, maker_run_id, step, task_id, *_ = made
        if step is None:
            return _NOWHERE
        is_here = maker_run_id == run_id and maker_flow == flow
        if is_here and uid == self._runs[side].uid:
            found = self._places[side].get((step, task_id))
            if found is not None:
                return found
        else:
            run = uid if is_here else f"{maker_flow}/{maker_run_id}"
            standing = self._sources[side].get((run, step, task_id))
            if standing is not None:
                # Of several tasks that stand for one, that at the reader's place in the foreach, else the first.
                return next((place for place in standing if place.path == reader.path), standing[0])
        # The parameters, or a task of a run that is neither of the two.
        return elsewhere.setdefault(step, TaskPlace(step, "", 1))

    def _touched(self) -> Iterable[tuple[Any, ...]]:
        """Side, step, task, URI, direction, content and parameter of what lies outside."""
        names = ("attempt", "time_us", "run_uid", "step", "task_id", "name", "digest", "payload")
        rows = self._account.events(("external_used",), names, self._all_runs.values())
        told = [row[2:] for row in sorted(rows, key=lambda row: (_attempt(row), row[1], row[6] or b""))]
        return map(_touch, self._by_side(told))

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
    told = payload or {}
    content = told.get("state") if digest is None else digest_to_text(digest)
    if content is None:
        content = "unknown"
    return side, step, task_id, uri, told.get("direction"), content, told.get("parameter")


def _seconds(row: TaskRow, is_final: bool = False) -> float | None:
    """How long a task took, where it will take no longer."""
    is_known = is_final or row.status not in ("retrying", "lost")
    if not is_known or row.started_us is None or row.ended_us is None:
        return None
    return (row.ended_us - row.started_us) / 1e6


def _origin_of(reuse: Reuse) -> _Ran:
    return reuse.origin_uid or b"", reuse.origin_step or "", reuse.origin_task_id or ""


def _in_order_of_ids(row: TaskRow) -> tuple[bool, int, str, str]:
    is_number = row.task_id.isdecimal()
    return not is_number, int(row.task_id) if is_number else 0, row.task_id, row.step


def _attempt(row: tuple[Any, ...]) -> int:
    """The attempt that a row begins with; what is of none comes last."""
    attempt: int = 1 << 16 if row[0] is None else row[0]
    return attempt


def _in_order(saved: Saved) -> tuple[tuple[bool, Any], ...]:
    """What is not known comes last."""
    return tuple((value is None, value or "") for value in saved)


def _unequal(a: dict[Any, Any], b: dict[Any, Any]) -> list[Any]:
    """The keys whose values differ, or that only one of two dicts has, sorted."""
    return sorted({key for key, _ in a.items() ^ b.items()})
