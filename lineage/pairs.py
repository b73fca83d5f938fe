"""What is recorded of two runs, side by side: tasks, artifacts and reads matched by step, place in a foreach, and name.

Places, names and digests are fetched of both runs, and what else is known of a value only where the digests differ.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.errors import NotFound, UsageError
from weft.lineage.ids import parse_pathspec
from weft.lineage.targets import near

if TYPE_CHECKING:
    from datetime import datetime

    from weft.lineage.answers import Answers

__all__ = [
    "ArtifactPair",
    "ExternalPair",
    "Pairs",
    "ReadPair",
    "RunFacts",
    "Saved",
    "StepTimes",
    "TaskPair",
    "TaskPlace",
    "ValuePair",
    "collect_pairs",
    "find_run",
    "run_facts",
]


class TaskPlace(NamedTuple):
    """What names a task in any run: its step, its `foreach_path` (or ""), and which visit of both it is, from 1."""

    step: str
    path: str
    visit: int

    @property
    def label(self) -> str:
        """`fit[3,0]`, and with `#2` for the second time round a loop.

        >>> TaskPlace("tune", "fit:3,tune:0", 2).label
        'tune[3,0]#2'
        """
        if not self.path and self.visit == 1:
            return self.step
        positions = ",".join(level.rpartition(":")[2] for level in self.path.split(",")) if self.path else ""
        return (
            self.step + (f"[{positions}]" if positions else "") + (f"#{self.visit}" if self.visit > 1 else "")
        )


class RunFacts(NamedTuple):
    """One of the two runs. `environment` is Python, platform, host and, by `package <name>`, versions.

    `step_code` is the digest of the code that each step reaches, where that was recorded.
    """

    pathspec: str
    flow: str
    run_id: str
    status: str
    started_at: datetime | None
    duration_s: float | None
    code_digest: str | None
    origin_run_id: str | None
    graph: dict[str, Any] | None
    environment: dict[str, str]
    command: tuple[str, ...] = ()
    step_code: dict[str, str] = {}  # noqa: RUF012  # never changed


class Saved(NamedTuple):
    """What is recorded of a value; `value` is its preview as JSON, if it has one."""

    digest: str
    size_bytes: int
    type: str
    serializer: str
    value: str | None


class ValuePair(NamedTuple):
    """A parameter, a constant or a config; `role` says which."""

    name: str
    role: str
    a: Saved | None
    b: Saved | None


class TaskPair(NamedTuple):
    """A task whose status differs, or that is in one run only; `a` and `b` are the statuses, a reused task's `succeeded`."""

    place: TaskPlace
    a: str | None
    b: str | None


class ArtifactPair(NamedTuple):
    place: TaskPlace
    name: str
    a: Saved | None
    b: Saved | None


class ReadPair(NamedTuple):
    """A read that found other content, or was done in one run only; `a` and `b` are digests, or "absent"."""

    place: TaskPlace
    name: str
    item_index: int | None
    producer: TaskPlace
    a: str | None
    b: str | None


class ExternalPair(NamedTuple):
    """Something outside the store that a task read or wrote; `a` and `b` are digests, or what else tells contents apart."""

    place: TaskPlace
    uri: str
    direction: str
    a: str | None
    b: str | None


class StepTimes(NamedTuple):
    """How many tasks a step had, and the seconds they took together."""

    step: str
    tasks_a: int
    tasks_b: int
    seconds_a: float | None
    seconds_b: float | None


class Pairs(NamedTuple):
    """All that is compared. Of tasks, artifacts and reads only what differs; `equal` counts the other artifacts
    by step and name.
    """

    a: RunFacts
    b: RunFacts
    values: list[ValuePair]
    tasks: list[TaskPair]
    artifacts: list[ArtifactPair]
    reads: list[ReadPair]
    external: list[ExternalPair]
    times: list[StepTimes]
    equal: dict[tuple[str, str], int]


#: Rows of a view that belong to the first run (side 0) and to the second (side 1).
_OF_BOTH = (
    "(select 0 as side, * from {view} where flow = $flow_a and run_id = $run_a "
    "union all select 1 as side, * from {view} where flow = $flow_b and run_id = $run_b)"
)
_PARAMETERS = "_parameters"


def find_run(store: Answers, text: str) -> tuple[str, str]:
    """Flow and id of the run that `Flow/run` names; of a flow alone the newest. Raises: NotFound, UsageError."""
    spec = parse_pathspec(text)
    if spec.step is not None:
        raise UsageError(f"{text} names more than a run. Write {spec.flow}/{spec.run_id}.")
    wanted = [spec.flow, spec.run_id]
    if spec.run_id is not None and store.rows("select 1 from runs where flow = ? and run_id = ?", wanted):
        return spec.flow, spec.run_id
    runs = store.rows(
        "select run_id from runs where flow = ? order by started_at desc, run_id desc", [spec.flow]
    )
    if not runs:
        flows = [row[0] for row in store.rows("select distinct flow from runs")]
        raise NotFound(f"There is no flow {spec.flow!r} in {store.url}.{near(spec.flow, flows)}")
    if spec.run_id is None:
        return spec.flow, runs[0][0]
    hint = near(spec.run_id, [row[0] for row in runs])
    raise NotFound(f"There is no run {spec.flow}/{spec.run_id} in {store.url}.{hint}")


def collect_pairs(store: Answers, a: tuple[str, str], b: tuple[str, str]) -> Pairs:
    """Fetch what is compared of two runs, each (flow, run id)."""
    return _Collector(store, a, b).collect()


class _Collector:
    """Fetches the rows of two runs and pairs them. Of each pair of dicts the first is of run A."""

    def __init__(self, store: Answers, a: tuple[str, str], b: tuple[str, str]) -> None:
        self._store = store
        self._runs = (a, b)
        self._params = {"flow_a": a[0], "run_a": a[1], "flow_b": b[0], "run_b": b[1]}
        #: By (step, task id), and by the pathspec of the task that really ran.
        self._places: tuple[dict[tuple[str, str], TaskPlace], ...] = ({}, {})
        self._sources: tuple[dict[str, TaskPlace], ...] = ({}, {})
        #: The tasks that read a parameter, by its name.
        self._readers: dict[str, set[TaskPlace]] = {}

    def collect(self) -> Pairs:
        tasks, times = self._pair_tasks()
        artifacts, values, equal = self._pair_artifacts()
        a, b = (run_facts(self._store, *run) for run in self._runs)
        reads, external = self._pair_reads(), self._pair_external()
        return Pairs(a, b, values, tasks, artifacts, reads, external, times, equal)

    def _ask(self, columns: str, view: str, more: str = "", params: Any = None) -> list[tuple[Any, ...]]:
        query = f"select {columns} from {_OF_BOTH.format(view=view)} v {more}"
        return self._store.rows(query, self._params | (params or {}))

    def _pair_tasks(self) -> tuple[list[TaskPair], list[StepTimes]]:
        statuses: tuple[dict[TaskPlace, str], ...] = ({}, {})
        visits: dict[tuple[int, str, str], int] = {}
        counts: dict[str, list[int]] = {}
        seconds: dict[str, list[float | None]] = {}
        for side, step, task_id, path, status, duration_s, source in self._ask(
            "side, step, task_id, coalesce(foreach_path, ''), case status when 'reused' then 'succeeded' else status end, "
            "duration_s, coalesce(origin_pathspec, pathspec)",
            "tasks",
            "order by side, try_cast(task_id as bigint), task_id, step",
        ):
            visit = visits[side, step, path] = visits.get((side, step, path), 0) + 1
            place = TaskPlace(step, path, visit)
            self._places[side][step, task_id] = place
            self._sources[side][source] = place
            statuses[side][place] = status
            counts.setdefault(step, [0, 0])[side] += 1
            took = seconds.setdefault(step, [None, None])
            if duration_s is not None:
                took[side] = (took[side] or 0.0) + duration_s
        pairs = [
            TaskPair(place, statuses[0].get(place), statuses[1].get(place)) for place in _unequal(*statuses)
        ]
        return pairs, [StepTimes(step, *counts[step], *seconds[step]) for step in counts]

    def _pair_artifacts(self) -> tuple[list[ArtifactPair], list[ValuePair], dict[tuple[str, str], int]]:
        """Artifacts, parameters and constants that differ, and how many artifacts are equal, by step and name."""
        saved: tuple[dict[tuple[TaskPlace, str], str], ...] = ({}, {})
        given: tuple[dict[str, str], ...] = ({}, {})
        for side, step, task_id, name, digest in self._ask("side, step, task_id, name, digest", "artifacts"):
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
        roles = dict(self._ask("name, role", "parameters"))
        # Of a config the keys that differ are told, not the document around them as well.
        parted = {name.partition(".")[0] for name in changed_values if "." in name and name in roles}
        artifacts = [
            ArtifactPair(key[0], key[1], known.get(saved[0].get(key, "")), known.get(saved[1].get(key, "")))
            for key in changed
        ]
        values = [
            ValuePair(
                name,
                roles.get(name, "constant"),
                known.get(given[0].get(name, "")),
                known.get(given[1].get(name, "")),
            )
            for name in changed_values
            if name not in parted
        ]
        equal: dict[tuple[str, str], int] = {}
        for place, name in (saved[0].keys() & saved[1].keys()).difference(changed):
            equal[place.step, name] = equal.get((place.step, name), 0) + 1
        return artifacts, values, equal

    def _known_of(self, digests: set[str]) -> dict[str, Saved]:
        """What is recorded of values, by digest."""
        if not digests:
            return {}
        rows = self._ask(
            "distinct digest, size_bytes, type, serializer, value::varchar",
            "artifacts",
            "where digest in (select unnest($digests::varchar[])) order by all",
            {"digests": sorted(digests)},
        )
        return {row[0]: Saved(*row) for row in rows}

    def _pair_reads(self) -> list[ReadPair]:
        found: tuple[dict[tuple[TaskPlace, str, int, TaskPlace], str], ...] = ({}, {})
        nowhere = TaskPlace("", "", 1)
        elsewhere: dict[str, TaskPlace] = {}
        for side, step, task_id, name, item_index, digest, source in self._ask(
            "side, step, task_id, name, coalesce(item_index, -1), case when is_absent then 'absent' else digest end, "
            "producer_pathspec",
            "artifact_uses",
            "order by attempt",
        ):
            place = self._places[side].get((step, task_id))
            if place is None:
                continue
            producer = nowhere if source is None else self._sources[side].get(source) or elsewhere.get(source)
            if producer is None:
                # The parameters, or a task of a run that is neither of the two.
                producer = elsewhere[source] = TaskPlace(source.split("/")[2], "", 1)
            if producer.step == _PARAMETERS:
                self._readers.setdefault(name, set()).add(place)
            found[side][place, name, item_index, producer] = digest
        return [
            ReadPair(
                key[0],
                key[1],
                None if key[2] < 0 else key[2],
                key[3],
                found[0].get(key),
                found[1].get(key),
            )
            for key in _unequal(*found)
        ]

    def _pair_external(self) -> list[ExternalPair]:
        """What lies outside. A path in a parameter was read by the tasks that read the parameter."""
        found: tuple[dict[tuple[TaskPlace, str, str], str], ...] = ({}, {})
        columns = "side, step, task_id, uri, direction, coalesce(digest, state, 'unknown'), parameter"
        for side, step, task_id, uri, direction, content, parameter in self._ask(
            columns, "external_uses", "order by attempt, occurred_at"
        ):
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


def _unequal(a: dict[Any, str], b: dict[Any, str]) -> list[Any]:
    """The keys whose values differ, or that only one of two dicts has, sorted."""
    return sorted({key for key, _ in a.items() ^ b.items()})


def run_facts(store: Answers, flow: str, run_id: str) -> RunFacts:
    """What is recorded of a run that is there."""
    ((status, started_at, duration_s, code_digest, origin, uid, user),) = store.rows(
        "select status, started_at, duration_s, code_digest, origin_run_id, run_uid, user_name "
        "from runs where flow = ? and run_id = ?",
        [flow, run_id],
    )
    rows = store.rows(
        "select payload::varchar from raw.run_events where kind = 'run_started' and flow = ? and run_id = ? "
        "and run_uid = unhex(?) order by epoch desc, time_us limit 1",
        [flow, run_id.partition("~")[0], uid],
    )
    started: dict[str, Any] = json.loads(rows[0][0]) if rows and rows[0][0] else {}
    rows = store.rows(
        "select payload::varchar from raw.other_events where kind = 'code_reached' and flow = ? and run_id = ? "
        "and run_uid = unhex(?) order by epoch desc, time_us limit 1",
        [flow, run_id.partition("~")[0], uid],
    )
    reached: dict[str, Any] = json.loads(rows[0][0]) if rows and rows[0][0] else {}
    graph = started.get("graph") or None
    environment = _environment(started, reached, user)
    pathspec = f"{flow}/{run_id}"
    return RunFacts(
        pathspec,
        flow,
        run_id,
        status,
        started_at,
        duration_s,
        code_digest,
        origin,
        graph,
        environment,
        tuple(map(str, started.get("command") or ())),
        {step: code["digest"] for step, code in (reached.get("steps") or {}).items()},
    )


def _environment(started: dict[str, Any], reached: dict[str, Any], user: str | None) -> dict[str, str]:
    git = started.get("git") or {}
    facts = {name: started.get(name) for name in ("python", "platform", "weft", "host", "isolation")}
    facts |= {"user": user, "git commit": git.get("commit"), "git branch": git.get("branch")}
    # What was imported when the run began, and what the code imports later.
    told = {**(reached.get("packages") or {}), **(started.get("packages") or {})}
    packages = {name.replace("-", "_"): version for name, version in told.items()}
    facts |= {f"package {name}": version for name, version in sorted(packages.items())}
    return {name: str(value) for name, value in facts.items() if value is not None}
