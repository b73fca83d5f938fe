"""Why a task ran or was reused: all it depended on, part by part, against the nearest earlier task of its step."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.dependence import EVERY_MODULE, Facts, read_facts
from weft.lineage.errors import NotFound, UsageError, WeftError
from weft.lineage.ids import Pathspec, digest_to_text, parse_pathspec
from weft.lineage.named_runs import NamedRun, find_run_told, find_runs_named, of_runs
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
    key: str | None
    origin: str | None

    @property
    def place(self) -> _Place:
        return (*self.run.key, self.step, self.task_id)

    @property
    def pathspec(self) -> str:
        return "/".join(self.place)


def explain(store: Answers, target: str) -> Why:
    """Why a task ran or was reused. Raises: NotFound with near names, UsageError for what is no task."""
    spec = parse_pathspec(target)
    if spec.step is None:
        raise UsageError(
            f"{target} is no task. Write Flow/run/step/task; `weft show {target}` lists its steps."
        )
    assert spec.run_id is not None
    # What takes longest is begun first, and what lies in files is copied in one go.
    store.foresee_states(("tasks",))
    store.foresee([(spec.flow, spec.run_id)], (), later=("run", "task", *_FAMILIES))
    newest = None if spec.task_id is None else _newest_before(store, spec)
    runs = {(spec.flow, spec.run_id)} if newest is None else {(spec.flow, spec.run_id), newest[:2]}
    store.foresee(runs, _FAMILIES)
    placed = _placed(store, spec)
    if spec.task_id is None:
        newest = _newest_before(store, spec._replace(task_id=placed.task_id))
    task, earlier = _with_earlier(store, placed, newest)
    told = placed.told
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


#: Flow, run id as it is shown, step and task id.
_Place = tuple[str, str, str, str]

#: The families of events that tell what tasks depended on; those of runs and tasks come with every run.
_FAMILIES = ("use", "other", "artifact")

_COLUMNS = "flow, run_id, run_uid, raw_run_id, step, task_id, status, task_key, is_reused"


class _Placed(NamedTuple):
    """A task as its events name it; `told` is what was recorded as it was created."""

    run: NamedRun
    step: str
    task_id: str
    may_be_reused: bool
    told: Mapping[str, Any]

    @property
    def place(self) -> _Place:
        return (*self.run.key, self.step, self.task_id)


def _placed(store: Answers, spec: Pathspec) -> _Placed:
    """The task that is named; a step of one task needs no more than the step."""
    assert spec.run_id is not None
    assert spec.step is not None
    run = find_run_told(store, spec.flow, spec.run_id)
    if run is not None and spec.task_id is not None:
        placed = _told_of(store, run, spec.step, spec.task_id)
        if placed is not None:
            return placed
    ids = [] if run is None else _task_ids(store, run, spec.step)
    if run is None or not ids or spec.task_id is not None:
        raise NotFound(_missing(store, spec, ids))
    if len(ids) > 1:
        step = f"{spec.flow}/{spec.run_id}/{spec.step}"
        raise UsageError(f"Step {step} has {len(ids):,} tasks. Name one of them: {', '.join(ids[:5])}, ….")
    placed = _told_of(store, run, spec.step, ids[0])
    assert placed is not None, "it was listed"
    return placed


def _told_of(store: Answers, run: NamedRun, step: str, task_id: str) -> _Placed | None:
    condition, params = of_runs([run])
    rows = store.rows(
        "select kind, case when kind in ('task_created', 'task_reused') then payload end from told.task_events "
        f"where {condition} and step = ? and task_id = ? order by time_us",
        [*params, step, task_id],
        about=[run.key],
    )
    if not rows:
        return None
    told = next((payload for _, payload in rows if payload is not None), "{}")
    return _Placed(run, step, task_id, any(kind == "task_reused" for kind, _ in rows), json.loads(told))


def _task_ids(store: Answers, run: NamedRun, step: str) -> list[str]:
    """The ids of the tasks of a step, in the order in which they were first told of."""
    condition, params = of_runs([run])
    rows = store.rows(
        f"select task_id from told.task_events where {condition} and step = ? and task_id is not null "
        "group by task_id order by min(time_us), try_cast(task_id as bigint), task_id",
        [*params, step],
        about=[run.key],
    )
    return [task_id for (task_id,) in rows]


def _with_earlier(store: Answers, placed: _Placed, newest: _Place | None) -> tuple[_Task, _Task | None]:
    """The task, and what it was compared with when it was created, else the newest finished one before it at its place."""
    named = (placed.told.get("why") or {}).get("earlier")
    if placed.may_be_reused:
        named = _tasks(store, [placed.place])[placed.place].origin or named
    if named is None:
        place = newest
    else:
        flow, _, rest = named.partition("/")
        run_id, _, rest = rest.partition("/")
        step, _, task_id = rest.partition("/")
        place = (flow, run_id, step, task_id) if named.count("/") == 3 else None
    found = _tasks(store, [placed.place] if place is None else [placed.place, place])
    return found[placed.place], None if place is None else found.get(place)


def _tasks(store: Answers, places: Sequence[_Place]) -> dict[_Place, _Task]:
    """Tasks by their places; without those that are not there."""
    about = {(flow, run_id) for flow, run_id, _, _ in places}
    store.foresee(about, _FAMILIES)
    columns = [sorted(set(names)) for names in zip(*places, strict=True)]
    condition = " and ".join(
        f"{column} in ({', '.join('?' for _ in names)})"
        for column, names in zip(("flow", "run_id", "step", "task_id"), columns, strict=True)
    )
    rows = store.rows(
        f"select {_COLUMNS} from fold.tasks where {condition}",
        [name for names in columns for name in names],
        about=about,
    )
    return {task.place: task for task in (_task(store, row) for row in rows) if task.place in places}


def _newest_before(store: Answers, spec: Pathspec) -> _Place | None:
    """The newest finished task of another run that was at the same place earlier."""
    # How a task came to its end does not depend on who lives.
    told = ("state.tasks", "raw_run_id", "(t.is_reused or t.ended in ('succeeded', 'caught'))")
    shown = ("fold.tasks", "run_id", "t.status in ('succeeded', 'caught', 'reused')")
    relation, run_id, is_done = shown if store.has_twins() else told
    rows = store.rows(
        f"select t.flow, t.{run_id}, t.step, t.task_id from {relation} t join (select first_us, foreach_path from {relation} "
        f"where flow = ? and {run_id} = ? and step = ? and task_id = ?) o on t.first_us < o.first_us "
        f"and t.foreach_path is not distinct from o.foreach_path where t.flow = ? and t.step = ? and t.{run_id} <> ? "
        f"and {is_done} order by t.first_us desc, t.{run_id} || '/' || t.step || '/' || t.task_id limit 1",
        [*spec[:4], spec.flow, spec.step, spec.run_id],
        about=None,
    )
    return rows[0] if rows else None


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
    flow, run_id, uid, raw_run_id, step, task_id, status, key, is_reused = row
    origin = None
    if is_reused:
        ((origin, key),) = store.rows(
            "select origin_pathspec, task_key from tasks where flow = ? and run_id = ? and step = ? and task_id = ?",
            [flow, run_id, step, task_id],
        )
    return _Task(NamedRun(flow, run_id, bytes(uid), raw_run_id), step, task_id, status, key, origin)


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


_SAVED = "flow, run_id, run_uid, step, task_id, name, attempt, value"

#: What tasks saved themselves, and parameters, as the view `artifacts` has it.
_VALUES = f"""
    select e.flow, e.run_id, e.step, e.task_id, e.name, e.value from (
        select {_SAVED} from told.artifact_events where kind = 'artifact_saved' and {{0}}
        union all select {_SAVED} from told.run_events where kind = 'parameter_set' and {{0}}
    ) e anti join state.retried x on x.run_uid = e.run_uid and x.flow = e.flow and x.raw_run_id = e.run_id
        and x.step = e.step and x.task_id = e.task_id and e.attempt < x.final_attempt"""


def _values(store: Answers, pathspecs: Collection[str]) -> dict[str, str]:
    """Short values of artifacts, where they are recorded, by pathspec."""
    if not pathspecs:
        return {}
    places = [path.split("/", 4) for path in pathspecs]
    runs = {(flow, run_id) for flow, run_id, *_ in places}
    found: dict[str, str | None] = {}
    if not store.has_twins():
        columns = [sorted(set(names)) for names in zip(*places, strict=True)]
        condition = " and ".join(
            f"{column} in ({', '.join('?' for _ in names)})"
            for column, names in zip(("flow", "run_id", "step", "task_id", "name"), columns, strict=True)
        )
        params = [name for names in columns for name in names]
        rows = store.rows(_VALUES.format(condition), params * 2, about=runs)
        found.update(("/".join(place), value) for *place, value in rows)
    # Those of reused tasks, and runs that are called another way than their events have it.
    others = set(pathspecs) - found.keys()
    if others:
        found.update(
            store.rows(
                "select pathspec, value from artifacts where pathspec in (select unnest(?::VARCHAR[]))",
                [sorted(others)],
                about=runs,
            )
        )
    return {
        path: value
        for path, value in found.items()
        if path in pathspecs and value is not None and len(value) <= _VALUE_SHOWN
    }


def _code_texts(store: Answers, task: str) -> dict[tuple[str, str], str]:
    """The text of each function and statement of a run's code snapshot, by file and name."""
    from weft.lineage.code_units import units_of
    from weft.lineage.comparison import read_code

    key = _run_of(task)
    run = find_runs_named(store, [key]).get(key)
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
