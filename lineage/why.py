"""Why a task ran or was reused: all it depended on, part by part, against the nearest earlier task of its step."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.dependence import EVERY_MODULE, Facts, read_facts
from weft.lineage.errors import NotFound, UsageError, WeftError
from weft.lineage.ids import Pathspec, digest_to_text, parse_pathspec
from weft.lineage.named_runs import NamedRun, find_run_named, of_runs
from weft.lineage.near_names import near

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["KeyPart", "Why", "explain"]

_DIGEST_SHOWN = 17  # sha256: and ten digits
_VALUE_SHOWN = 40
_DIFF_LINES_MAX = 40
_KINDS = ("python", "package", "code", "parameter", "artifact", "item", "external")
_NOUNS = {
    "artifact": ("artifact", "artifacts"),
    "code": ("part of the code", "parts of the code"),
    "external": ("file", "files"),
    "item": ("foreach item", "foreach items"),
    "package": ("package", "packages"),
    "parameter": ("parameter", "parameters"),
    "python": ("Python", "Python"),
}


class KeyPart(NamedTuple):
    """One thing a task depended on. `state` is "equal", "changed", "new" or "gone".

    `before` and `after` are versions, digests or short values; `diff` is a unified diff of code, where both
    texts are kept.
    """

    kind: str
    name: str
    state: str
    before: str | None
    after: str | None
    diff: str | None = None


class Why(NamedTuple):
    """The answer. `parts` that are not equal come first; `earlier` is the task they are compared with.

    `rule` says how the code that counts was found: "reached", or "every module" because of `rule_reason`.
    `is_forced` says whether what changed keeps the earlier task from standing in; None without one.
    """

    pathspec: str
    status: str
    reason: str
    earlier: str | None
    task_key: str | None
    earlier_key: str | None
    is_forced: bool | None
    rule: str | None
    rule_reason: str | None
    parts: tuple[KeyPart, ...]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "parts": [part._asdict() for part in self.parts]}

    def text(self) -> str:
        lines = [f"{self.pathspec}  {self.status}", self.reason]
        if self.earlier is not None:
            lines += ["", f"Compared with {self.earlier}:"]
            lines += [line for part in self.parts if part.state != "equal" for line in _part_lines(part)]
            if self.status == "reused" and any(part.state != "equal" for part in self.parts):
                lines.append("  (not compared: `resume --changed` would have run it)")
            equal = _counted(part for part in self.parts if part.state == "equal")
            lines.append(f"  equal: {equal or 'nothing'}")
        elif self.parts:
            lines += ["", f"It depended on {_counted(self.parts)}."]
        if self.rule == EVERY_MODULE:
            lines += ["", f"All local modules count, because {self.rule_reason}."]
        elif self.rule is not None:
            lines += ["", "Of the code counts what the step reaches."]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()


class _Task(NamedTuple):
    """A task that is there. `origin` is the task it stands for, where it was reused."""

    run: NamedRun
    step: str
    task_id: str
    status: str
    foreach_path: str | None
    first_us: int
    key: str | None
    origin: str | None

    @property
    def pathspec(self) -> str:
        return f"{self.run.flow}/{self.run.run_id}/{self.step}/{self.task_id}"


def explain(store: Answers, target: str) -> Why:
    """Why a task ran or was reused. Raises: NotFound with near names, UsageError for what is no task."""
    spec = parse_pathspec(target)
    if spec.step is None:
        raise UsageError(
            f"{target} is no task. Write Flow/run/step/task; `weft show {target}` lists its steps."
        )
    task = _find(store, spec)
    told = _told(store, task)
    earlier = _earlier(store, task, told)
    # A reused task has the reads of its origin, and would have run with the code of its own run.
    asked = [(task.origin or task.pathspec, _run_of(task.pathspec))]
    if earlier is None:
        (facts,) = read_facts(store, asked)
        parts = [KeyPart(kind, name, "new", None, value) for (kind, name), value in facts.found.items()]
    else:
        there = earlier.origin or earlier.pathspec
        facts, before = read_facts(store, [*asked, (there, _run_of(there))])
        parts = _compared(store, before, facts, there, task.pathspec)
    parts.sort(key=lambda part: (part.state == "equal", _KINDS.index(part.kind)))
    is_changed = any(part.state != "equal" for part in parts)
    is_forced = None if earlier is None else is_changed and task.status != "reused"
    return Why(
        task.pathspec,
        task.status,
        _reason(task, told, earlier, is_forced),
        None if earlier is None else earlier.pathspec,
        task.key,
        None if earlier is None else earlier.key,
        is_forced,
        facts.rule,
        facts.rule_reason,
        tuple(parts),
    )


# Which tasks


_COLUMNS = (
    "flow, run_id, run_uid, raw_run_id, step, task_id, status, foreach_path, first_us, task_key, is_reused"
)


def _find(store: Answers, spec: Pathspec) -> _Task:
    """The task that is named; a step of one task needs no more than the step."""
    parts = [spec.flow, spec.run_id, spec.step]
    rows = store.rows(
        f"select {_COLUMNS} from fold.tasks where flow = ? and run_id = ? and step = ? "
        "order by first_us, try_cast(task_id as bigint), task_id",
        parts,
    )
    ids_of_step = [row[5] for row in rows]
    found = [row for row in rows if spec.task_id in (None, row[5])]
    if len(found) == 1:
        return _task(store, found[0])
    if found:
        ids = ", ".join(row[5] for row in found[:5])
        raise UsageError(
            f"Step {'/'.join(map(str, parts))} has {len(found):,} tasks. Name one of them: {ids}, …."
        )
    raise NotFound(_missing(store, spec, ids_of_step))


def _missing(store: Answers, spec: Pathspec, task_ids: list[str]) -> str:
    text = "/".join(part for part in spec[:4] if part is not None)
    if task_ids:
        return f"There is no task {text}.{near(spec.task_id or '', task_ids)}"
    for column, wanted, where in (
        ("flow", spec.flow, {}),
        ("run_id", spec.run_id, {"flow": spec.flow}),
        ("step", spec.step, {"flow": spec.flow, "run_id": spec.run_id}),
    ):
        condition = " and ".join(f"{name} = ?" for name in where) or "true"
        view = "steps" if column == "step" else "runs"
        rows = store.rows(f"select distinct {column} from {view} where {condition}", list(where.values()))
        names = [row[0] for row in rows]
        if wanted not in names:
            noun = {"flow": "flow", "run_id": "run", "step": "step"}[column]
            return f"There is no {noun} {wanted} in {'/'.join(map(str, where.values())) or store.url}.{near(str(wanted), names)}"
    return f"There is no task {text}. `weft show {spec.flow}/{spec.run_id}` lists what there is."


def _task(store: Answers, row: tuple[Any, ...]) -> _Task:
    flow, run_id, uid, raw_run_id, step, task_id, status, foreach_path, first_us, key, is_reused = row
    origin = None
    if is_reused:
        ((origin, key),) = store.rows(
            "select origin_pathspec, task_key from tasks where flow = ? and run_id = ? and step = ? and task_id = ?",
            [flow, run_id, step, task_id],
        )
    run = NamedRun(flow, run_id, bytes(uid), raw_run_id)
    return _Task(run, step, task_id, status, foreach_path, first_us, key, origin)


def _told(store: Answers, task: _Task) -> Mapping[str, Any]:
    """What was recorded as a task was created."""
    condition, params = of_runs([task.run])
    rows = store.rows(
        f"select payload from told.task_events where {condition} and step = ? and task_id = ? "
        "and kind in ('task_created', 'task_reused') order by time_us limit 1",
        [*params, task.step, task.task_id],
    )
    payload: Mapping[str, Any] = json.loads(rows[0][0] or "{}") if rows else {}
    return payload


def _earlier(store: Answers, task: _Task, told: Mapping[str, Any]) -> _Task | None:
    """What the task was compared with when it was created, else the newest finished one before it at its place."""
    named = task.origin or (told.get("why") or {}).get("earlier")
    if named is not None:
        if named.count("/") != 3:
            return None
        rows = store.rows(
            f"select {_COLUMNS} from fold.tasks where flow = ? and run_id = ? and step = ? and task_id = ?",
            named.split("/"),
        )
        return _task(store, rows[0]) if rows else None
    rows = store.rows(
        f"select {_COLUMNS} from fold.tasks where flow = ? and step = ? and run_id <> ? and first_us < ? "
        "and foreach_path is not distinct from ? and status in ('succeeded', 'caught', 'reused') "
        "order by first_us desc, run_id || '/' || step || '/' || task_id limit 1",
        [task.run.flow, task.step, task.run.run_id, task.first_us, task.foreach_path],
    )
    return _task(store, rows[0]) if rows else None


def _reason(task: _Task, told: Mapping[str, Any], earlier: _Task | None, is_forced: bool | None) -> str:
    if task.status == "reused":
        return f"It was reused: {told.get('reason', 'it was finished')}."
    why = told.get("why")
    if why is not None:
        return f"It ran because {why['reason']}." if why["reason"] else "It ran."
    if earlier is None:
        return "It ran because `run` runs every task; there is no finished task of this step before it."
    would = (
        "would have run it, too" if is_forced else "would have reused it: nothing it depends on had changed"
    )
    return f"It ran because `run` runs every task; `resume --changed` {would}."


def _run_of(task: str) -> tuple[str, str]:
    flow, run_id = task.split("/")[:2]
    return flow, run_id


# Side by side


def _compared(
    store: Answers, before: Facts, after: Facts, task_before: str, task_after: str
) -> list[KeyPart]:
    parts: list[KeyPart] = []
    for kind, name in dict.fromkeys([*before.found, *after.found]):
        key = (kind, name)
        old, new = before.found.get(key), after.found.get(key)
        if key not in before.found:
            state = "new"
        elif key not in after.found:
            state = "gone"
        else:
            state = "equal" if old == new else "changed"
        parts.append(KeyPart(kind, name, state, old, new))
    changed = {(p.kind, p.name) for p in parts if p.state != "equal"}
    old_paths, new_paths = (
        {key: path for key, path in side.shown.items() if key in changed} for side in (before, after)
    )
    values = _values(store, {*old_paths.values(), *new_paths.values()})
    has_code = any(kind == "code" for kind, _ in changed)
    texts = (_code_texts(store, task_before), _code_texts(store, task_after)) if has_code else ({}, {})
    found = []
    for part in parts:
        key = (part.kind, part.name)
        if part.state != "equal":
            shown = (
                values.get(old_paths.get(key, ""), part.before),
                values.get(new_paths.get(key, ""), part.after),
            )
            diff = _code_diff(texts, part.name) if part.kind == "code" else None
            part = part._replace(before=shown[0], after=shown[1], diff=diff)
        found.append(part)
    return found


def _values(store: Answers, pathspecs: Collection[str]) -> dict[str, str]:
    """Short values of artifacts, where they are recorded, by pathspec."""
    if not pathspecs:
        return {}
    runs = {(flow, run_id) for flow, run_id, *_ in (path.split("/") for path in pathspecs)}
    rows = store.rows(
        "select pathspec, value from artifacts where pathspec in (select unnest(?::VARCHAR[])) and value is not null",
        [sorted(pathspecs)],
        about=runs,
    )
    return {path: value for path, value in rows if len(value) <= _VALUE_SHOWN}


def _code_texts(store: Answers, task: str) -> dict[tuple[str, str], str]:
    """The text of each function and statement of a run's code snapshot, by file and name."""
    from weft.lineage.code_units import units_of
    from weft.lineage.comparison import read_code

    run = find_run_named(store, *_run_of(task))
    if run is None or run.code_digest is None:
        return {}
    try:
        _, files = read_code(store, digest_to_text(run.code_digest))
    except (WeftError, ValueError, KeyError):
        return {}
    return {place: unit.text for place, unit in units_of(files).items()}


def _code_diff(
    texts: tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]], label: str
) -> str | None:
    from difflib import unified_diff

    path, _, name = label.partition(":")
    old, new = (side.get((path, name)) for side in texts)
    if old is None and new is None:
        return None
    lines = list(unified_diff((old or "").splitlines(), (new or "").splitlines(), n=1, lineterm=""))[2:]
    shown = [line for line in lines if not line.startswith("@@")]
    if len(shown) > _DIFF_LINES_MAX:
        shown = [*shown[:_DIFF_LINES_MAX], f"… {len(shown) - _DIFF_LINES_MAX} more lines"]
    return "\n".join(shown) or None


# As text


def _part_lines(part: KeyPart) -> list[str]:
    noun = _NOUNS[part.kind][0]
    name = "" if part.kind == "python" else f" {part.name}"
    if part.state == "changed" and part.kind != "code":
        change = f": {_short(part.before)} → {_short(part.after)}"
    elif part.state == "changed":
        change = " changed"
    else:
        change = " is new" if part.state == "new" else " is gone"
    lines = [f"  {noun}{name}{change}"]
    return lines + [f"     {line}" for line in (part.diff or "").splitlines()]


def _short(value: str | None) -> str:
    if value is None:
        return "absent"
    return value[:_DIGEST_SHOWN] if value.startswith("sha256:") else value


def _counted(parts: Iterable[KeyPart]) -> str:
    counts: dict[str, int] = {}
    for part in parts:
        counts[part.kind] = counts.get(part.kind, 0) + 1
    shown = []
    for kind in _KINDS:
        if kind in counts:
            singular, plural = _NOUNS[kind]
            count = counts[kind]
            shown.append(singular if kind == "python" else f"{count:,} {singular if count == 1 else plural}")
    return ", ".join(shown)
