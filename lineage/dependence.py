"""What tasks depended on: what they read, and the code, packages and Python that count for their steps.

All that is asked of several tasks is fetched for all of them at once, from the events of their runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.ids import Pathspec, digest_to_text, parse_pathspec
from weft.lineage.named_runs import NamedRun, find_runs_named, of_runs

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["EVERY_MODULE", "Facts", "read_facts"]

EVERY_MODULE = "every module"
_PARAMETERS = "_parameters"

RunKey = tuple[str, str]
#: A task as events name it: its run, step and id.
Place = tuple[NamedRun, str, str]


class Facts(NamedTuple):
    """What a task that really ran depended on. `found` maps kind and name to digests or versions, `shown` to
    pathspecs of values. `rule` says how the code that counts was found, and `rule_reason` why so."""

    found: dict[tuple[str, str], str | None]
    shown: dict[tuple[str, str], str]
    rule: str | None
    rule_reason: str | None


class _Read(NamedTuple):
    """One read of an artifact. `producer` is a pathspec, None for a name that was not there."""

    attempt: int | None
    name: str
    item_index: int | None
    is_absent: bool
    digest: str | None
    producer: str | None


class _Touched(NamedTuple):
    """Something external that was read, by the task or through a parameter of its run."""

    uri: str
    digest: str | None
    told: Mapping[str, Any]


class _Uses:
    """What one task read: artifacts in its last attempt, pickles (name, and the local modules each names) in any,
    what is external, and what parameters of its run pointed at."""

    def __init__(self) -> None:
        self.reads: list[_Read] = []
        self.pickles: list[tuple[str, list[str]]] = []
        self.touched: list[_Touched] = []
        self.pointed: list[_Touched] = []


def read_facts(store: Answers, asked: Sequence[tuple[str, RunKey]]) -> list[Facts]:
    """What each of some tasks read, beside the code that counts for its step in another run of its flow.

    `asked` are pathspecs of tasks, each with that run's flow and id.
    """
    specs = [parse_pathspec(task) for task, _ in asked]
    runs = find_runs_named(
        store, [*((spec.flow, spec.run_id or "") for spec in specs), *(coded for _, coded in asked)]
    )
    places = [_place_of(runs, spec) for spec in specs]
    known = [place for place in places if place is not None]
    ran = _really(store, runs, known)
    uses = _uses_of(store, ran)
    producers = {
        read.producer.rpartition("/")[0].rpartition("/")[0]
        for use in uses.values()
        for read in use.reads
        if read.producer
    }
    paths = _foreach_paths(store, runs, producers)
    reached = _reached(store, [runs[coded] for _, coded in asked if coded in runs])
    found = []
    for place, (_, coded) in zip(places, asked, strict=True):
        use = _Uses() if place is None else uses[place]
        run = runs.get(coded)
        payload = None if run is None else reached.get(run.uid)
        found.append(_facts(use, paths, payload, "" if place is None else place[1]))
    return found


def _place_of(runs: Mapping[RunKey, NamedRun], spec: Pathspec) -> Place | None:
    run = runs.get((spec.flow, spec.run_id or ""))
    return None if run is None else (run, spec.step or "", spec.task_id or "")


def _really(
    store: Answers, runs: Mapping[RunKey, NamedRun], places: Sequence[Place]
) -> dict[Place, tuple[Place, int | None]]:
    """The task that really ran for each of these, and its last attempt."""
    if not places:
        return {}
    condition, params = of_runs((run for run, _, _ in places), "raw_run_id")
    rows = store.rows(
        "select run_uid, step, task_id, final_attempt, is_reused from fold.tasks "
        f"where {condition} and step in ({_marks(places)}) and task_id in ({_marks(places)})",
        [*params, *(step for _, step, _ in places), *(task_id for _, _, task_id in places)],
        about=[run.key for run, _, _ in places],
    )
    known = {(bytes(uid), step, task_id): more for uid, step, task_id, *more in rows}
    found: dict[Place, tuple[Place, int | None]] = {}
    for place in places:
        run, step, task_id = place
        last, is_reused = known.get((run.uid, step, task_id), (None, False))
        found[place] = (place, last)
        if is_reused:
            found[place] = _origin(store, place) or found[place]
    return found


def _origin(store: Answers, place: Place) -> tuple[Place, int | None] | None:
    """The task that a reused one stands for: of a candidate that was itself reused."""
    run, step, task_id = place
    rows = store.rows(
        "select o.flow, o.run_id, o.step, o.task_id, o.final_attempt from fold.reuses u join fold.tasks o "
        "on o.run_uid = u.origin_uid and o.step = u.origin_step and o.task_id = u.origin_task_id "
        "where u.run_uid = ? and u.flow = ? and u.raw_run_id = ? and u.step = ? and u.task_id = ?",
        [run.uid, run.flow, run.raw_run_id, step, task_id],
        about=[run.key],
    )
    for flow, run_id, origin_step, origin_id, last in rows:
        origin = find_runs_named(store, [(flow, run_id)]).get((flow, run_id))
        if origin is not None:
            return (origin, origin_step, origin_id), last
    return None


def _uses_of(store: Answers, ran: Mapping[Place, tuple[Place, int | None]]) -> dict[Place, _Uses]:
    """What tasks read in their last attempts, and what parameters of their runs pointed at."""
    found = {place: _Uses() for place in ran}
    if not ran:
        return found
    real = {place for place, _ in ran.values()}
    condition, params = of_runs(run for run, _, _ in real)
    rows = store.rows(
        "select run_uid, step, task_id, kind, attempt, name, item_index, coalesce(is_absent, false), digest, producer_flow, "
        f"producer_run_id, producer_step, producer_task_id, payload from told.use_events where {condition} "
        f"and (step = '{_PARAMETERS}' or (step in ({_marks(real)}) and task_id in ({_marks(real)}))) "
        "order by time_us, writer, seq",
        [*params, *(step for _, step, _ in real), *(task_id for _, _, task_id in real)],
        about=[run.key for run, _, _ in real],
    )
    for place, (origin, last) in ran.items():
        run, step, task_id = origin
        use = found[place]
        for uid, use_step, use_task, kind, *columns, payload in rows:
            told = json.loads(payload) if payload else {}
            if bytes(uid) != run.uid:
                continue
            if (use_step, use_task) == (step, task_id):
                read = _read(run, columns)
                if kind == "external_used":
                    use.touched.append(_Touched(read.name, read.digest, told))
                elif kind == "artifact_used" and payload is not None:
                    use.pickles.append((read.name, told.get("modules", [])))
                if kind == "artifact_used" and last is not None and read.attempt == last:
                    use.reads.append(read)
            elif use_step == _PARAMETERS and kind == "external_used":
                use.pointed.append(_Touched(columns[1], _text(columns[4]), told))
        use.reads.sort(key=_in_order)
    return found


def _read(run: NamedRun, columns: Sequence[Any]) -> _Read:
    attempt, name, item_index, is_absent, digest, flow, run_id, step, task_id = columns
    producer = None
    if None not in (flow, run_id, step, task_id):
        producer = f"{flow}/{run.shown(flow, run_id)}/{step}/{task_id}"
    return _Read(attempt, name, item_index, is_absent, _text(digest), producer)


def _text(digest: Any) -> str | None:
    return None if digest is None else digest_to_text(bytes(digest))


def _in_order(read: _Read) -> tuple[Any, ...]:
    """By name, item, digest and producer, what is not given last."""
    return (
        read.name,
        (read.item_index is None, read.item_index or 0),
        read.is_absent,
        (read.digest is None, read.digest or ""),
        (read.producer is None, read.producer or ""),
    )


def _foreach_paths(store: Answers, known: Mapping[RunKey, NamedRun], runs: Iterable[str]) -> dict[str, str]:
    """The place in its foreach of each task of some runs that has one, by pathspec."""
    keys = {(flow, run_id) for flow, _, run_id in (run.partition("/") for run in runs)}
    found = {key: run for key, run in known.items() if key in keys}
    found |= find_runs_named(store, keys - found.keys())
    if not found:
        return {}
    condition, params = of_runs(found.values(), "raw_run_id")
    names = {run.uid: f"{run.flow}/{run.run_id}" for run in found.values()}
    rows = store.rows(
        "select run_uid, step, task_id, foreach_path from fold.tasks "
        f"where {condition} and foreach_path is not null",
        params,
        about=found.keys(),
    )
    return {f"{names[bytes(uid)]}/{step}/{task_id}": path for uid, step, task_id, path in rows}


def _reached(store: Answers, runs: Sequence[NamedRun]) -> dict[bytes, dict[str, Any]]:
    """What was recorded of the code that each run's steps reach, by the run's uid."""
    if not runs:
        return {}
    condition, params = of_runs(runs)
    rows = store.rows(
        f"select run_uid, payload from told.other_events where {condition} and kind = 'code_reached' "
        "order by time_us desc",
        params,
        about=[run.key for run in runs],
    )
    # The first that was told is believed.
    found = {bytes(uid): json.loads(payload or "{}") for uid, payload in rows}
    return {uid: payload for uid, payload in found.items() if "steps" in payload}


def _facts(use: _Uses, paths: Mapping[str, str], code: dict[str, Any] | None, step: str) -> Facts:
    found: dict[tuple[str, str], str | None] = {}
    shown: dict[tuple[str, str], str] = {}
    for read in use.reads:
        key = _key_of_read(read, paths)
        found[key] = None if read.is_absent else read.digest
        if read.item_index is None and not read.is_absent:
            shown[key] = f"{read.producer}/{read.name}"
    _merge_single(found, shown)
    for touched in use.touched:
        if touched.told.get("direction") == "read":
            found["external", touched.uri] = touched.digest
    pointed = {
        ("external", touched.uri): touched.digest or touched.told.get("state")
        for touched in use.pointed
        if ("parameter", touched.told.get("parameter")) in found and not touched.told.get("is_included")
    }
    found |= pointed
    rule, reason = _add_code(code, step, use.pickles, found)
    return Facts(found, shown, rule, reason)


def _key_of_read(read: _Read, paths: Mapping[str, str]) -> tuple[str, str]:
    name = read.name
    if read.is_absent or read.producer is None:
        return "artifact", name
    step = read.producer.split("/")[2]
    if step == _PARAMETERS:
        return "parameter", name
    if read.item_index is not None:
        return "item", f"{name}[{read.item_index}]"
    path = paths.get(read.producer)
    return "artifact", f"{name} of {step}[{path}]" if path else f"{name} of {step}"


def _merge_single(found: dict[tuple[str, str], str | None], shown: dict[tuple[str, str], str]) -> None:
    """An artifact that was read from one task only needs no more than its name."""
    names: dict[str, list[str]] = {}
    for kind, label in found:
        if kind == "artifact" and " of " in label:
            names.setdefault(label.partition(" of ")[0], []).append(label)
    for name, labels in names.items():
        if len(labels) == 1 and ("artifact", name) not in found:
            found["artifact", name] = found.pop(("artifact", labels[0]))
            shown["artifact", name] = shown.pop(("artifact", labels[0]))


def _add_code(
    payload: dict[str, Any] | None,
    step: str,
    pickles: Sequence[tuple[str, list[str]]],
    found: dict[tuple[str, str], str | None],
) -> tuple[str | None, str | None]:
    """Add the code, packages and Python that count for a step; the rule that applied, and its reason."""
    code = None if payload is None else payload["steps"].get(step)
    if payload is None or code is None:
        return None, None
    found["python", "version"] = payload["python"]
    every = payload["every"]
    ours = next(((name, modules) for name, modules in pickles if modules), None)
    rule, reason = code["rule"], code.get("reason")
    if ours is not None and rule != EVERY_MODULE:
        rule, reason = EVERY_MODULE, f"artifact {ours[0]} is a pickle that names {', '.join(ours[1])}"
    labels = set(code["parts"]) | (set(every["parts"]) if rule == EVERY_MODULE else set())
    packages = set(code["packages"]) | (set(every["packages"]) if pickles or rule == EVERY_MODULE else set())
    for label in sorted(labels):
        found["code", label] = payload["parts"][label]
    for name in sorted(packages):
        found["package", name] = payload["packages"][name]
    return rule, reason


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)
