"""What people name when they ask for lineage: a pathspec, a digest or its first digits, a file or a URI."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.errors import NotFound, UsageError
from weft.lineage.external import normalized
from weft.lineage.fold_sql import KEY
from weft.lineage.ids import Pathspec, parse_pathspec
from weft.lineage.near_names import near
from weft.lineage.records import PARAMETERS, Records
from weft.lineage.sides import External
from weft.lineage.uses import Place

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["Roots", "find_roots"]

_DIGEST_DIGITS_MIN = 6
_DIGEST_DIGITS_MAX = 64
_DIGITS_SHOWN = 12
_CANDIDATES_MAX = 10
#: URIs that are looked through for near names.
_URIS_MAX = 10_000

#: Rows that have a digest, with where they are, as one query for each kind.
_WITH_DIGEST = """
    select digest, flow, run_id, step, task_id, name, run_uid from told.artifact_events
    where kind = 'artifact_saved' and {0}
    union select digest, flow, run_id, step, task_id, name, run_uid from told.run_events
    where kind = 'parameter_set' and {0}
    union select digest, null, null, null, null, name, null from told.use_events where kind = 'external_used' and {0}
    order by all
"""


class Roots(NamedTuple):
    """Where a walk begins: artifacts as (place, task, name), tasks as (place, task), and what is external."""

    artifacts: list[tuple[Place, str, str]]
    tasks: list[tuple[Place, str]]
    externals: list[External]


def find_roots(store: Answers, target: str, direction: str) -> Roots:
    """Raises: NotFound with near names, UsageError for the first digits of several digests."""
    parts = target.split("/")
    found = _saved_itself(store, parts)
    if found is not None:
        return found
    if len(parts) in (2, 3, 4) and all(parts):
        found = _of_tasks(store, Pathspec(*parts), direction)
        if found is not None:
            return found
    is_flow = bool(parts[0]) and bool(
        store.rows("select 1 from told.run_events where flow = ? limit 1", parts[:1])
    )
    if not is_flow:
        externals = _externals(store, target)
        if externals:
            return Roots([], [], externals)
        found = _by_digest(store, target)
        if found is not None:
            return found
        raise NotFound(_nothing(store, target, parts[0]))
    spec = parse_pathspec(target)
    if spec.run_id is None:
        newest = "select run_id from fold.runs where flow = ? order by started_at desc limit 1"
        spec = spec._replace(run_id=store.rows(newest, [spec.flow])[0][0])
        found = _of_tasks(store, spec, direction)
        if found is not None:
            return found
    _check_run(store, spec)
    records = Records(store)
    records.load([f"{spec.flow}/{spec.run_id}/-/-"])
    if spec.step is None:
        return Roots([], [], [])
    return _in_step(records, spec, spec.step)


def _of_tasks(store: Answers, spec: Pathspec, direction: str) -> Roots | None:
    """Where a run, a step or a task is named and has tasks: asked of the events of its run alone."""
    if spec.run_id is None or spec.name is not None:
        return None
    if spec.step is None:
        tasks = _tasks_of(store, spec.flow, spec.run_id)
        return _of_run(spec.flow, spec.run_id, tasks, direction, store) if tasks else None
    named = _named_tasks(store, spec.flow, spec.run_id, spec.step, spec.task_id)
    return Roots([], named, []) if named else None


def _saved_itself(store: Answers, parts: list[str]) -> Roots | None:
    """The artifact that is named in full, where its task saved it itself: this needs no other task."""
    if len(parts) != 5 or "~" in parts[1] or store.has_twins():
        return None
    query = (
        "select 1 from told.artifact_events where kind = 'artifact_saved' and flow = ? and run_id = ? and step = ? "
        "and task_id = ? and name = ? limit 1"
    )
    if not store.rows(query, parts, about=[(parts[0], parts[1])]):
        return None
    return Roots([(Place(*parts[:3]), parts[3], parts[4])], [], [])


def _missing(noun: str, wanted: str, where: str, part: str, names: list[str]) -> str:
    return f"There is no {noun} {wanted} in {where}.{near(part, names)} `weft runs` lists what is recorded."


def _nothing(store: Answers, target: str, part: str) -> str:
    digits = _digits_of(target)
    hint = "" if digits is None else _near_digest(store, digits)
    if hint or target.startswith("sha256:"):
        return (
            f"There is no digest {target} in this store.{hint} `weft sql` finds others in the view artifacts."
        )
    flows = [row[0] for row in store.rows("select distinct flow from told.run_events where flow is not null")]
    query = f"select distinct name from told.use_events where kind = 'external_used' limit {_URIS_MAX}"
    uris = [row[0] for row in store.rows(query)]
    looks_like_a_file = "." in part or target.startswith(("/", "~")) or "://" in target
    names = uris if looks_like_a_file and uris else flows
    wanted = normalized(target) if names is uris else part
    return _missing("artifact, run, digest, file or URI", target, "this store", wanted, names)


def _externals(store: Answers, target: str) -> list[External]:
    """All contents that are recorded of a file or URI, or the one whose beginning follows an `@`."""
    name, mark, wanted = target.rpartition("@")
    choices = [(target, "")] + ([(name, wanted)] if mark and name else [])
    for text, content in choices:
        uris = sorted({text, normalized(text)})
        rows = store.rows(
            "select distinct name, digest, payload ->> '$.state' from told.use_events where kind = 'external_used' "
            f"and name in ({', '.join('?' for _ in uris)}) order by all",
            uris,
        )
        found = [External(uri, state if digest is None else bytes(digest)) for uri, digest, state in rows]
        chosen = [external for external in found if _begins(external, content)]
        if chosen:
            return chosen
    return []


def _begins(external: External, wanted: str) -> bool:
    if not wanted:
        return True
    known = external.content
    text = f"sha256:{known.hex()}" if isinstance(known, bytes) else known or ""
    return text.startswith((wanted, f"sha256:{wanted}"))


def _by_digest(store: Answers, target: str) -> Roots | None:
    digits = _digits_of(target)
    rows = [] if digits is None else _with_digest(store, digits)
    if not rows:
        return None
    digests = sorted({bytes(row[0]) for row in rows})
    if len(digests) > 1:
        raise UsageError(_ambiguous(target, digests, rows))
    shown = _shown_ids(store, rows)
    artifacts = [
        (Place(flow, shown.get(bytes(uid), run_id), step), task_id, name)
        for _, flow, run_id, step, task_id, name, uid in rows
        if flow is not None
    ]
    return Roots(artifacts, [], [External(row[5], bytes(row[0])) for row in rows if row[1] is None])


def _digits_of(target: str) -> str | None:
    """The digits of a digest that a target may stand for."""
    digits = target.removeprefix("sha256:").lower()
    is_hex = all(digit in "0123456789abcdef" for digit in digits)
    return digits if is_hex and _DIGEST_DIGITS_MIN <= len(digits) <= _DIGEST_DIGITS_MAX else None


def _with_digest(store: Answers, digits: str) -> list[tuple[Any, ...]]:
    """What has a digest that begins so."""
    first = bytes.fromhex(digits.ljust(_DIGEST_DIGITS_MAX, "0"))
    last = bytes.fromhex(digits.ljust(_DIGEST_DIGITS_MAX, "f"))
    # Equality is what the Bloom filters of segments are for.
    condition, params = (
        ("digest = ?", [first]) if first == last else ("digest between ? and ?", [first, last])
    )
    return store.rows(_WITH_DIGEST.format(condition), params * 3)


def _near_digest(store: Answers, digits: str) -> str:
    """A sentence with the digests that have their first digits in common with these."""
    rows = _with_digest(store, digits[: min(len(digits) - 1, _DIGEST_DIGITS_MIN)])
    return f" Near digests: {_listed(rows)}." if rows else ""


def _listed(rows: list[tuple[Any, ...]]) -> str:
    """The first digests of some rows, each with a place where it is."""
    digests = sorted({bytes(row[0]) for row in rows})
    places = {bytes(row[0]): "/".join(part for part in row[1:6] if part) for row in reversed(rows)}
    listed = [
        f"sha256:{digest.hex()[:_DIGITS_SHOWN]} ({places[digest]})" for digest in digests[:_CANDIDATES_MAX]
    ]
    more = f" and {len(digests) - _CANDIDATES_MAX:,} more" if len(digests) > _CANDIDATES_MAX else ""
    return ", ".join(listed) + more


def _ambiguous(target: str, digests: list[bytes], rows: list[tuple[Any, ...]]) -> str:
    return f"{len(digests):,} digests begin with {target}: {_listed(rows)}. Give more digits."


def _shown_ids(store: Answers, rows: list[tuple[Any, ...]]) -> dict[bytes, str]:
    if not store.has_twins():
        return {}
    flows = sorted({row[1] for row in rows if row[1] is not None})
    query = "select run_uid, run_id from fold.runs where list_contains(?::VARCHAR[], flow)"
    return {bytes(uid): run_id for uid, run_id in store.rows(query, [flows])}


def _check_run(store: Answers, spec: Pathspec) -> None:
    runs = [row[0] for row in store.rows("select run_id from fold.runs where flow = ?", [spec.flow])]
    if spec.run_id not in runs:
        raise NotFound(_missing("run", f"{spec.flow}/{spec.run_id}", "this store", spec.run_id or "", runs))


_PARAMETERS = "select distinct name from told.run_events where kind = 'parameter_set' and flow = ? and run_id = ? order by name"
_TWIN_PARAMETERS = (
    "select distinct e.name from told.run_events e join fold.runs r using (run_uid) "
    "where e.kind = 'parameter_set' and r.flow = ? and r.run_id = ? order by e.name"
)

#: A task of a run: (step, id), its parents, and the task it stands for.
_Task = tuple[tuple[str, str], list[tuple[str, str]], tuple[Place, str] | None]


def _tasks_of(store: Answers, flow: str, run_id: str) -> list[_Task]:
    """The tasks of a run; none where it has none or shares its pathspec with another, which takes the long way."""
    if store.has_twins():
        return _twin_tasks(store, flow, run_id)
    rows = store.rows(
        "select step, task_id, payload ->> '$.parents', producer_flow, producer_run_id, producer_step, producer_task_id "
        "from told.task_events where kind in ('task_created', 'task_reused') and flow = ? and run_id = ? order by seq",
        [flow, run_id],
        about=[(flow, run_id)],
    )
    return [_task(row) for row in rows]


def _twin_tasks(store: Answers, flow: str, run_id: str) -> list[_Task]:
    rows = store.rows(
        "select e.step, e.task_id, e.payload ->> '$.parents', e.producer_flow, e.producer_run_id, e.producer_step, "
        "e.producer_task_id from told.task_events e join fold.runs r using (run_uid) "
        "where e.kind in ('task_created', 'task_reused') and r.flow = ? and r.run_id = ? order by e.seq",
        [flow, run_id],
    )
    return [_task(row) for row in rows]


def _task(row: tuple[Any, ...]) -> _Task:
    step, task_id, parents, origin_flow, origin_run, origin_step, origin_id = row
    listed = [(str(parent), str(number)) for parent, number in json.loads(parents or "[]")]
    origin = None if origin_flow is None else (Place(origin_flow, origin_run, origin_step), origin_id)
    return (step, task_id), listed, origin


def _named_tasks(
    store: Answers, flow: str, run_id: str, step: str, task_id: str | None
) -> list[tuple[Place, str]]:
    """The tasks of a step, or the one that is named, each the one that really ran.

    None of them where that takes the long way: runs share their pathspec, or the step has no such task.
    """
    if store.has_twins():
        return []
    origin = ", ".join(f"producer_{part}" for part in ("flow", "run_id", "step", "task_id"))
    only = "" if task_id is None else " and task_id = ?"
    rows = store.rows(
        f"select task_id, arg_min(row(kind, {origin}), {KEY}) filter (where kind in ('task_created', 'task_reused')) "
        f"from told.task_events where flow = ? and run_id = ? and step = ? and task_id is not null{only} "
        "group by task_id order by min(time_us), task_id",
        [flow, run_id, step] + ([] if task_id is None else [task_id]),
        about=[(flow, run_id)],
    )
    place = Place(flow, run_id, step)
    found = []
    for own, told in rows:
        kind, *origin_parts = (None,) if told is None else told.values() if isinstance(told, dict) else told
        is_reused = kind == "task_reused" and None not in origin_parts
        found.append((Place(*origin_parts[:3]), origin_parts[3]) if is_reused else (place, own))
    return found


def _of_run(flow: str, run_id: str, tasks: list[_Task], direction: str, store: Answers) -> Roots:
    """The last tasks of a run for what it was made from, the first for what was made from it."""
    inner = {parent for _, parents, _ in tasks for parent in parents}
    chosen = [task for task in tasks if (not task[1] if direction == "down" else task[0] not in inner)]
    really = [origin or (Place(flow, run_id, key[0]), key[1]) for key, _, origin in chosen]
    artifacts: list[tuple[Place, str, str]] = []
    if direction == "down":
        step, task_id = PARAMETERS.split("/")
        query = _TWIN_PARAMETERS if store.has_twins() else _PARAMETERS
        names = store.rows(query, [flow, run_id], about=[(flow, run_id)])
        artifacts = [(Place(flow, run_id, step), task_id, name) for (name,) in names]
    return Roots(artifacts, list(dict.fromkeys(really)), [])


def _in_step(records: Records, spec: Pathspec, step: str) -> Roots:
    run = f"{spec.flow}/{spec.run_id}"
    if step == PARAMETERS.split("/")[0]:
        tasks = [f"{run}/{PARAMETERS}"]
    else:
        tasks = records.tasks_of(spec.flow, spec.run_id or "", step)
    if not tasks:
        steps = sorted({task.split("/")[2] for task in records.tasks_of(spec.flow, spec.run_id or "")})
        raise NotFound(_missing("step", f"{run}/{step}", "that run", step, steps))
    if spec.task_id is None:
        return Roots([], [_key(records.origin(task)) for task in tasks], [])
    task = f"{run}/{step}/{spec.task_id}"
    if task not in tasks:
        # Flow/run/step/name: the artifact of that name of every task of the step.
        named = [
            (*_key(records.owner(path, spec.task_id)), spec.task_id)
            for path in tasks
            if _sees(records, path, spec.task_id)
        ]
        if named and spec.name is None:
            return Roots(list(dict.fromkeys(named)), [], [])
        ids = [path.rpartition("/")[2] for path in tasks]
        raise NotFound(_missing("task or artifact", task, f"step {step}", spec.task_id, ids))
    if spec.name is None:
        return Roots([], [_key(records.origin(task))], [])
    if not _sees(records, task, spec.name):
        names = sorted(records.visible(task))
        raise NotFound(_missing("artifact", str(spec), f"task {task}", spec.name, names))
    return Roots([(*_key(records.owner(task, spec.name)), spec.name)], [], [])


def _key(task: str) -> tuple[Place, str]:
    flow, run_id, step, task_id = task.split("/")
    return Place(flow, run_id, step), task_id


def _sees(records: Records, task: str, name: str) -> bool:
    return name in records.visible(task)
