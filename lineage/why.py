"""Why a task ran or was reused: all it depended on, part by part, against the nearest earlier task of its step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.comparison import read_code
from weft.lineage.errors import NotFound, UsageError, WeftError
from weft.lineage.ids import Pathspec, parse_pathspec
from weft.lineage.targets import near

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["KeyPart", "Why", "explain"]

_EVERY_MODULE = "every module"
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
        if self.rule == _EVERY_MODULE:
            lines += ["", f"All local modules count, because {self.rule_reason}."]
        elif self.rule is not None:
            lines += ["", "Of the code counts what the step reaches."]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()


class _Task(NamedTuple):
    """A task and what it depended on, by kind and name; `told` is what was recorded as it was created."""

    pathspec: str
    status: str
    foreach_path: str | None
    created_at: Any
    origin: str | None
    key: str | None
    told: Mapping[str, Any]


class _Facts(NamedTuple):
    """What a task that really ran depended on. `found` maps kind and name to digests or versions, `shown` to
    pathspecs of values."""

    found: dict[tuple[str, str], str | None]
    shown: dict[tuple[str, str], str]
    rule: str | None
    rule_reason: str | None


def explain(store: Answers, target: str) -> Why:
    """Why a task ran or was reused. Raises: NotFound with near names, UsageError for what is no task."""
    spec = parse_pathspec(target)
    if spec.step is None:
        raise UsageError(
            f"{target} is no task. Write Flow/run/step/task; `weft show {target}` lists its steps."
        )
    task = _find(store, spec)
    earlier = _earlier(store, task)
    # A reused task has the reads of its origin, and would have run with the code of its own run.
    facts = _facts(store, task.origin or task.pathspec, task.pathspec)
    parts: list[KeyPart] = []
    if earlier is None:
        parts = [KeyPart(kind, name, "new", None, value) for (kind, name), value in facts.found.items()]
    else:
        there = earlier.origin or earlier.pathspec
        parts = _compared(store, _facts(store, there, there), facts, there, task.pathspec)
    parts.sort(key=lambda part: (part.state == "equal", _KINDS.index(part.kind)))
    is_changed = any(part.state != "equal" for part in parts)
    is_forced = None if earlier is None else is_changed and task.status != "reused"
    return Why(
        task.pathspec,
        task.status,
        _reason(task, earlier, is_forced),
        None if earlier is None else earlier.pathspec,
        task.key,
        None if earlier is None else earlier.key,
        is_forced,
        facts.rule,
        facts.rule_reason,
        tuple(parts),
    )


# Which tasks


_COLUMNS = "pathspec, status, foreach_path, created_at, origin_pathspec, task_key"


def _find(store: Answers, spec: Pathspec) -> _Task:
    """The task that is named; a step of one task needs no more than the step."""
    parts = [spec.flow, spec.run_id, spec.step]
    rows = store.rows(
        f"select {_COLUMNS}, task_id from tasks where flow = ? and run_id = ? and step = ? order by created_at",
        parts,
    )
    found = [row for row in rows if spec.task_id in (None, row[6])]
    if len(found) == 1:
        return _task(store, found[0])
    if found:
        ids = ", ".join(row[6] for row in found[:5])
        raise UsageError(
            f"Step {'/'.join(map(str, parts))} has {len(found):,} tasks. Name one of them: {ids}, …."
        )
    raise NotFound(_missing(store, spec, [row[6] for row in rows]))


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
    flow, run_id, step, task_id = row[0].split("/")
    told = store.rows(
        "select e.payload from raw.task_events e join fold.runs r using (run_uid) where r.flow = ? and r.run_id = ? "
        "and e.step = ? and e.task_id = ? and e.kind in ('task_created', 'task_reused') order by e.time_us limit 1",
        [flow, run_id, step, task_id],
    )
    pathspec, status, foreach_path, created_at, origin, key = row[:6]
    payload = json.loads(told[0][0] or "{}") if told else {}
    return _Task(pathspec, status, foreach_path, created_at, origin, key, payload)


def _earlier(store: Answers, task: _Task) -> _Task | None:
    """What the task was compared with when it was created, else the newest finished one before it at its place."""
    named = task.origin or (task.told.get("why") or {}).get("earlier")
    flow, run_id, step, _ = task.pathspec.split("/")
    if named is not None:
        rows = store.rows(f"select {_COLUMNS} from tasks where pathspec = ?", [named])
        return _task(store, rows[0]) if rows else None
    rows = store.rows(
        f"select {_COLUMNS} from tasks where flow = ? and step = ? and run_id <> ? and created_at < ? "
        "and foreach_path is not distinct from ? and status in ('succeeded', 'caught', 'reused') "
        "order by created_at desc, pathspec limit 1",
        [flow, step, run_id, task.created_at, task.foreach_path],
    )
    return _task(store, rows[0]) if rows else None


def _reason(task: _Task, earlier: _Task | None, is_forced: bool | None) -> str:
    if task.status == "reused":
        return f"It was reused: {task.told.get('reason', 'it was finished')}."
    why = task.told.get("why")
    if why is not None:
        return f"It ran because {why['reason']}." if why["reason"] else "It ran."
    if earlier is None:
        return "It ran because `run` runs every task; there is no finished task of this step before it."
    would = (
        "would have run it, too" if is_forced else "would have reused it: nothing it depends on had changed"
    )
    return f"It ran because `run` runs every task; `resume --changed` {would}."


# What a task depended on


def _facts(store: Answers, pathspec: str, coded: str) -> _Facts:
    """What the task `pathspec` read, and the code that counts for its step in the run of the task `coded`."""
    flow, run_id, step, task_id = pathspec.split("/")
    found: dict[tuple[str, str], str | None] = {}
    shown: dict[tuple[str, str], str] = {}
    reads = store.rows(
        "select name, item_index, is_absent, digest, producer_pathspec from artifact_uses where flow = ? and run_id = ? "
        "and step = ? and task_id = ? and attempt = (select max(attempt) from attempts where flow = ? and run_id = ? "
        "and step = ? and task_id = ?) order by all",
        [flow, run_id, step, task_id] * 2,
    )
    paths = _foreach_paths(store, {row[4].rpartition("/")[0].rpartition("/")[0] for row in reads if row[4]})
    for name, item_index, is_absent, digest, producer in reads:
        key = _key_of_read(name, item_index, is_absent, producer, paths)
        found[key] = None if is_absent else digest
        if item_index is None and not is_absent:
            shown[key] = f"{producer}/{name}"
    _merge_single(found, shown)
    for uri, digest in store.rows(
        "select uri, digest from external_uses where flow = ? and run_id = ? and step = ? and task_id = ? "
        "and direction = 'read'",
        [flow, run_id, step, task_id],
    ):
        found["external", uri] = digest
    found |= _pointed(store, flow, run_id, found)
    rule, reason = _add_code(store, (flow, run_id, step, task_id), coded.split("/")[1], found)
    return _Facts(found, shown, rule, reason)


def _pointed(
    store: Answers, flow: str, run_id: str, found: Mapping[tuple[str, str], str | None]
) -> dict[tuple[str, str], str | None]:
    """The files that parameters of type Path led to, of those parameters that were read."""
    rows = store.rows(
        "select e.name, 'sha256:' || lower(hex(e.digest)), e.payload from raw.use_events e join fold.runs r using (run_uid) "
        "where r.flow = ? and r.run_id = ? and e.step = '_parameters' and e.kind = 'external_used'",
        [flow, run_id],
    )
    told = [(uri, digest, json.loads(payload or "{}")) for uri, digest, payload in rows]
    return {
        ("external", uri): digest or facts.get("state")
        for uri, digest, facts in told
        if ("parameter", facts.get("parameter")) in found and not facts.get("is_included")
    }


def _key_of_read(
    name: str, item_index: int | None, is_absent: bool, producer: str | None, paths: Mapping[str, str | None]
) -> tuple[str, str]:
    if is_absent or producer is None:
        return "artifact", name
    step = producer.split("/")[2]
    if step == "_parameters":
        return "parameter", name
    if item_index is not None:
        return "item", f"{name}[{item_index}]"
    path = paths.get(producer)
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


def _foreach_paths(store: Answers, runs: set[str]) -> dict[str, str | None]:
    """The place of each task of some runs."""
    found: dict[str, str | None] = {}
    for run in runs:
        flow, _, run_id = "/".join(run.split("/")[:2]).partition("/")
        rows = store.rows(
            "select pathspec, foreach_path from tasks where flow = ? and run_id = ? and foreach_path is not null",
            [flow, run_id],
        )
        found.update(rows)
    return found


def _add_code(
    store: Answers, task: tuple[str, str, str, str], run_id: str, found: dict[tuple[str, str], str | None]
) -> tuple[str | None, str | None]:
    """Add the code, packages and Python that count for a task; the rule that applied, and its reason."""
    payload = _reached(store, task[0], run_id)
    code = None if payload is None else payload["steps"].get(task[2])
    if payload is None or code is None:
        return None, None
    found["python", "version"] = payload["python"]
    every = payload["every"]
    pickles = _pickles(store, task)
    ours = next(((name, modules) for name, modules in pickles if modules), None)
    rule, reason = code["rule"], code.get("reason")
    if ours is not None and rule != _EVERY_MODULE:
        rule, reason = _EVERY_MODULE, f"artifact {ours[0]} is a pickle that names {', '.join(ours[1])}"
    labels = set(code["parts"]) | (set(every["parts"]) if rule == _EVERY_MODULE else set())
    packages = set(code["packages"]) | (set(every["packages"]) if pickles or rule == _EVERY_MODULE else set())
    for label in sorted(labels):
        found["code", label] = payload["parts"][label]
    for name in sorted(packages):
        found["package", name] = payload["packages"][name]
    return rule, reason


def _reached(store: Answers, flow: str, run_id: str) -> dict[str, Any] | None:
    rows = store.rows(
        "select e.payload from raw.other_events e join fold.runs r using (run_uid) "
        "where e.kind = 'code_reached' and r.flow = ? and r.run_id = ? order by e.time_us limit 1",
        [flow, run_id],
    )
    payload: dict[str, Any] = json.loads(rows[0][0]) if rows else {}
    return payload if "steps" in payload else None


def _pickles(store: Answers, task: tuple[str, str, str, str]) -> list[tuple[str, list[str]]]:
    """The pickles that a task read, and the local modules each names."""
    rows = store.rows(
        "select e.name, e.payload from raw.use_events e join fold.runs r using (run_uid) where r.flow = ? "
        "and r.run_id = ? and e.step = ? and e.task_id = ? and e.kind = 'artifact_used' and e.payload is not null",
        list(task),
    )
    return [(name, json.loads(payload).get("modules", [])) for name, payload in rows]


# Side by side


def _compared(
    store: Answers, before: _Facts, after: _Facts, task_before: str, task_after: str
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
    old_values = _values(store, {key: path for key, path in before.shown.items() if key in changed})
    new_values = _values(store, {key: path for key, path in after.shown.items() if key in changed})
    texts = _code_texts(store, task_before), _code_texts(store, task_after)
    found = []
    for part in parts:
        key = (part.kind, part.name)
        if part.state != "equal":
            shown = (old_values.get(key, part.before), new_values.get(key, part.after))
            diff = _code_diff(texts, part.name) if part.kind == "code" else None
            part = part._replace(before=shown[0], after=shown[1], diff=diff)
        found.append(part)
    return found


def _values(store: Answers, paths: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """Short values of artifacts, where they are recorded."""
    if not paths:
        return {}
    rows = store.rows(
        "select pathspec, value from artifacts where pathspec in (select unnest(?::VARCHAR[])) and value is not null",
        [sorted(set(paths.values()))],
    )
    known = {path: value for path, value in rows if len(value) <= _VALUE_SHOWN}
    return {key: known[path] for key, path in paths.items() if path in known}


def _code_texts(store: Answers, task: str) -> dict[tuple[str, str], str]:
    """The text of each function and statement of a run's code snapshot, by file and name."""
    from weft.lineage.code_units import units_of

    flow, run_id = task.split("/")[:2]
    rows = store.rows("select code_digest from runs where flow = ? and run_id = ?", [flow, run_id])
    if not rows or rows[0][0] is None:
        return {}
    try:
        _, files = read_code(store, rows[0][0])
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
