"""What tasks depended on: what they read, and the code, packages and Python that count for their steps.

All that is asked of several tasks is fetched for all of them at once, from the events of their runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from weft.lineage.accounts import Account
from weft.lineage.ids import Pathspec, digest_to_text, parse_pathspec
from weft.lineage.named_runs import NamedRun
from weft.lineage.run_demands import RunKey

__all__ = ["EVERY_MODULE", "Facts", "ran_really", "read_facts"]

EVERY_MODULE = "every module"
_PARAMETERS = "_parameters"
#: The task that the parameters of a run are artifacts of.
_PARAMETERS_TASK = (_PARAMETERS, "0")

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


def read_facts(account: Account, asked: Sequence[tuple[str, RunKey]]) -> list[Facts]:
    """What each of some tasks read, beside the code that counts for its step in another run of its flow.

    `asked` are pathspecs of tasks, each with that run's flow and id.
    """
    specs = [parse_pathspec(task) for task, _ in asked]
    runs = account.runs({*((spec.flow, spec.run_id or "") for spec in specs), *(coded for _, coded in asked)})
    places = [_place_of(runs, spec) for spec in specs]
    known = [place for place in places if place is not None]
    ran = ran_really(account, known)
    uses = _uses_of(account, ran)
    producers = {
        read.producer.rpartition("/")[0].rpartition("/")[0]
        for use in uses.values()
        for read in use.reads
        if read.producer
    }
    paths = _foreach_paths(account, runs, producers)
    reached = _reached(account, [runs[coded] for coded in {coded for _, coded in asked} if coded in runs])
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


def ran_really(account: Account, places: Sequence[Place]) -> dict[Place, tuple[Place, int | None]]:
    """The task that really ran for each of these, and its last attempt."""
    rows = account.tasks({run for run, _, _ in places}, {(step, task_id) for _, step, task_id in places})
    known = {(row.run_uid, row.step, row.task_id): row for row in rows}
    found: dict[Place, tuple[Place, int | None]] = {}
    for place in places:
        run, step, task_id = place
        row = known.get((run.uid, step, task_id))
        found[place] = (place, None if row is None else row.final_attempt)
        if row is not None and row.status == "reused":
            found[place] = _origin(account, place) or found[place]
    return found


def _origin(account: Account, place: Place) -> tuple[Place, int | None] | None:
    """The task that a reused one stands for: of a candidate that was itself reused."""
    run, step, task_id = place
    for reuse in account.reuses([run]):
        if (reuse.step, reuse.task_id) == (step, task_id):
            origin = account.origin(reuse)
            at = (reuse.origin_step or "", reuse.origin_task_id or "")
            rows = [] if origin is None else account.tasks([origin], {at})
            for row in rows:
                if origin is not None and (row.step, row.task_id) == at:
                    return (origin, *at), row.final_attempt
    return None


_USE_COLUMNS = (
    *("time_us", "writer", "seq", "run_uid", "step", "task_id", "kind", "payload"),
    *("attempt", "name", "item_index", "is_absent", "digest"),
    *("producer_flow", "producer_run_id", "producer_step", "producer_task_id"),
)


def _uses_of(account: Account, ran: Mapping[Place, tuple[Place, int | None]]) -> dict[Place, _Uses]:
    """What tasks read in their last attempts, and what parameters of their runs pointed at."""
    found = {place: _Uses() for place in ran}
    real = {place for place, _ in ran.values()}
    places = {_PARAMETERS_TASK, *((step, task_id) for _, step, task_id in real)}
    kinds = ("artifact_used", "external_used")
    rows = account.events(kinds, _USE_COLUMNS, {run for run, _, _ in real}, places=places)
    # By time, writer and seq.
    rows.sort(key=lambda row: row[:3])
    for place, (origin, last) in ran.items():
        run, step, task_id = origin
        use = found[place]
        for _, _, _, uid, use_step, use_task, kind, payload, *columns in rows:
            told = payload or {}
            if bytes(uid) != run.uid:
                continue
            if (use_step, use_task) == (step, task_id):
                read = _read(run, columns)
                if kind == "external_used":
                    use.touched.append(_Touched(read.name, read.digest, told))
                elif payload is not None:
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
    return _Read(attempt, name, item_index, bool(is_absent), _text(digest), producer)


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


def _foreach_paths(account: Account, known: Mapping[RunKey, NamedRun], runs: Iterable[str]) -> dict[str, str]:
    """The place in its foreach of each task of some runs that has one, by pathspec."""
    keys = {(flow, run_id) for flow, _, run_id in (run.partition("/") for run in runs)}
    found = {key: run for key, run in known.items() if key in keys}
    found |= account.runs(keys - found.keys())
    names = {run.uid: run.pathspec for run in found.values()}
    rows = account.tasks(found.values())
    return {
        f"{names[row.run_uid]}/{row.step}/{row.task_id}": row.foreach_path
        for row in rows
        if row.foreach_path is not None
    }


def _reached(account: Account, runs: Iterable[NamedRun]) -> dict[bytes, dict[str, Any]]:
    """What was recorded of the code that each run's steps reach, by the run's uid."""
    rows = account.events(("code_reached",), ("time_us", "writer", "seq", "run_uid", "payload"), runs)
    rows.sort(key=lambda row: row[:3], reverse=True)
    # The first that was told is believed.
    found = {bytes(uid): payload or {} for *_, uid, payload in rows}
    return {uid: payload for uid, payload in found.items() if "steps" in payload}


def _facts(use: _Uses, paths: Mapping[str, str], code: dict[str, Any] | None, step: str) -> Facts:
    found: dict[tuple[str, str], str | None] = {}
    shown: dict[tuple[str, str], str] = {}
    for read in use.reads:
        key = _key_of_read(read, paths)
        found[key] = None if read.is_absent else read.digest
        if read.item_index is None and not read.is_absent and read.producer is not None:
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
