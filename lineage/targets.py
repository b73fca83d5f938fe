"""What people name when they ask for lineage: a pathspec, a digest or its first digits, or a URI."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from weft.lineage.errors import NotFound
from weft.lineage.ids import Pathspec, parse_pathspec
from weft.lineage.records import PARAMETERS, Records

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["Roots", "find_roots", "near"]

_DIGEST_DIGITS_MIN = 6
_DIGEST_DIGITS_MAX = 64
_NEAR_MAX = 3


class Roots(NamedTuple):
    """Where a walk begins: (task, name) of artifacts, tasks, and URIs."""

    artifacts: list[tuple[str, str]]
    tasks: list[str]
    uris: list[str]


def find_roots(store: Answers, records: Records, target: str, direction: str) -> Roots:
    """Raises: NotFound with near names."""
    if store.rows("select 1 from external_uses where uri = ? limit 1", [target]):
        return Roots([], [], [target])
    found = _by_digest(store, target)
    if found:
        return Roots(found, [], [])
    parts = target.split("/")
    flows = [row[0] for row in store.rows("select distinct flow from runs")]
    if parts[0] not in flows:
        raise NotFound(_missing("artifact, run, digest or URI", target, "this store", parts[0], flows))
    spec = parse_pathspec(target)
    if spec.run_id is None:
        newest = "select run_id from runs where flow = ? order by started_at desc limit 1"
        spec = spec._replace(run_id=store.rows(newest, [spec.flow])[0][0])
    assert spec.run_id is not None
    _check_run(store, spec)
    records.load([f"{spec.flow}/{spec.run_id}/-/-"])
    if spec.step is None:
        return _of_run(records, spec.flow, spec.run_id, direction)
    return _in_step(records, spec, spec.step)


def near(wanted: str, names: list[str]) -> str:
    """A sentence that lists near names, or the last of all; empty when there are none."""
    from difflib import get_close_matches

    listed = get_close_matches(wanted, names, n=_NEAR_MAX) or sorted(names)[-_NEAR_MAX:]
    return f" Near names: {', '.join(listed)}." if listed else ""


def _missing(noun: str, wanted: str, where: str, part: str, names: list[str]) -> str:
    return f"There is no {noun} {wanted} in {where}.{near(part, names)} `weft runs` lists what is recorded."


def _by_digest(store: Answers, target: str) -> list[tuple[str, str]]:
    digits = target.removeprefix("sha256:").lower()
    is_hex = all(digit in "0123456789abcdef" for digit in digits)
    if not is_hex or not _DIGEST_DIGITS_MIN <= len(digits) <= _DIGEST_DIGITS_MAX:
        return []
    rows = store.rows(
        "select producer_pathspec, name from artifacts where starts_with(digest, ?) and origin_pathspec is null "
        "order by created_at, pathspec",
        [f"sha256:{digits}"],
    )
    return [(row[0], row[1]) for row in rows]


def _check_run(store: Answers, spec: Pathspec) -> None:
    runs = [row[0] for row in store.rows("select run_id from runs where flow = ?", [spec.flow])]
    if spec.run_id not in runs:
        raise NotFound(_missing("run", f"{spec.flow}/{spec.run_id}", "this store", spec.run_id or "", runs))


def _of_run(records: Records, flow: str, run_id: str, direction: str) -> Roots:
    """The last tasks of a run for what it was made from, the first for what was made from it."""
    tasks = records.tasks_of(flow, run_id)
    first = [task for task in tasks if not records.parents(task)]
    inner = {parent for task in tasks for parent in records.parents(task)}
    last = [task for task in tasks if task not in inner]
    chosen = {"up": last, "down": first, "both": [*first, *last]}[direction]
    parameters = f"{flow}/{run_id}/{PARAMETERS}"
    artifacts = [] if direction == "up" else [(parameters, name) for name in records.saved(parameters)]
    return Roots(artifacts, list(dict.fromkeys(records.origin(task) for task in chosen)), [])


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
        return Roots([], [records.origin(task) for task in tasks], [])
    task = f"{run}/{step}/{spec.task_id}"
    if task not in tasks:
        # Flow/run/step/name: the artifact of that name of every task of the step.
        named = [
            (records.owner(path, spec.task_id), spec.task_id)
            for path in tasks
            if _sees(records, path, spec.task_id)
        ]
        if named and spec.name is None:
            return Roots(list(dict.fromkeys(named)), [], [])
        ids = [path.rpartition("/")[2] for path in tasks]
        raise NotFound(_missing("task or artifact", task, f"step {step}", spec.task_id, ids))
    if spec.name is None:
        return Roots([], [records.origin(task)], [])
    if not _sees(records, task, spec.name):
        names = sorted(records.visible(task))
        raise NotFound(_missing("artifact", str(spec), f"task {task}", spec.name, names))
    return Roots([(records.owner(task, spec.name), spec.name)], [], [])


def _sees(records: Records, task: str, name: str) -> bool:
    return name in records.visible(task)
