"""Why a task ran or was reused: all it depended on, part by part, against the nearest earlier task of its step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.accounts import Account, Reuse, TaskRow
from weft.lineage.dependence import EVERY_MODULE, Facts, ran_really, read_facts
from weft.lineage.errors import NotFound, UsageError, WeftError
from weft.lineage.held_account import account_of
from weft.lineage.ids import Pathspec, digest_to_text, parse_pathspec
from weft.lineage.named_runs import NamedRun
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
    row: TaskRow
    status: str
    key: str | None
    origin: str | None

    @property
    def pathspec(self) -> str:
        return f"{self.run.pathspec}/{self.row.step}/{self.row.task_id}"


def explain(store: Answers, target: str) -> Why:
    """Why a task ran or was reused. Raises: NotFound with near names, UsageError for what is no task."""
    spec = parse_pathspec(target)
    if spec.step is None:
        raise UsageError(
            f"{target} is no task. Write Flow/run/step/task; `weft show {target}` lists its steps."
        )
    assert spec.run_id is not None
    key = (spec.flow, spec.run_id)
    # What takes longest is begun first, after the little that is asked first.
    store.foresee([key], (), later=("run", "task"))
    store.foresee_states(("tasks",))
    store.foresee([key], (), later=_FAMILIES)
    account = account_of(store, [key], ())
    task = _named_task(store, account, spec)
    told = _told_of(account, task)
    place = _earlier_place(store, task, told)
    account = account_of(store, {key, *(() if place is None else (place[:2],))}, _FAMILIES)
    earlier = None if place is None else _task_at(account, place)
    # A reused task has the reads of its origin, and would have run with the code of its own run.
    asked = [(task.origin or task.pathspec, key)]
    if earlier is None:
        (facts,) = read_facts(account, asked)
        parts = [KeyPart(kind, name, "new", None, value) for (kind, name), value in facts.found.items()]
    else:
        there = earlier.origin or earlier.pathspec
        facts, before = read_facts(account, [*asked, (there, _run_of(there))])
        parts = _compared(store, account, before, facts, there, task.pathspec)
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


def _named_task(store: Answers, account: Account, spec: Pathspec) -> _Task:
    """The task that is named; a step of one task needs no more than the step."""
    assert spec.run_id is not None
    assert spec.step is not None
    run = account.runs([(spec.flow, spec.run_id)]).get((spec.flow, spec.run_id))
    places = None if spec.task_id is None else {(spec.step, spec.task_id)}
    rows = [] if run is None else [row for row in account.tasks([run], places) if row.step == spec.step]
    rows = [row for row in rows if spec.task_id in (None, row.task_id)]
    if run is None or not rows:
        listed = [] if run is None else account.tasks([run])
        raise NotFound(_missing(store, spec, _ids_of([row for row in listed if row.step == spec.step])))
    if len(rows) > 1:
        step = f"{spec.flow}/{spec.run_id}/{spec.step}"
        shown = ", ".join(_ids_of(rows)[:5])
        raise UsageError(f"Step {step} has {len(rows):,} tasks. Name one of them: {shown}, ….")
    return _task_of(account, run, rows[0])


def _ids_of(rows: Iterable[TaskRow]) -> list[str]:
    """The ids of tasks, in the order in which they were first told of."""

    def order(row: TaskRow) -> tuple[int, bool, int, str]:
        is_number = row.task_id.isdecimal()
        return row.first_us, not is_number, int(row.task_id) if is_number else 0, row.task_id

    return [row.task_id for row in sorted(rows, key=order)]


def _task_at(account: Account, place: _Place) -> _Task | None:
    flow, run_id, step, task_id = place
    for run in account.runs([(flow, run_id)]).values():
        for row in account.tasks([run], {(step, task_id)}):
            if (row.step, row.task_id) == (step, task_id):
                return _task_of(account, run, row)
    return None


def _task_of(account: Account, run: NamedRun, row: TaskRow) -> _Task:
    """A task, with what it stands for."""
    if row.status != "reused":
        return _Task(run, row, row.status, row.task_key, None)
    for reuse in account.reuses([run]):
        if (reuse.step, reuse.task_id) == (row.step, row.task_id):
            origin = f"{reuse.origin_flow}/{reuse.origin_run_id}/{reuse.origin_step}/{reuse.origin_task_id}"
            return _Task(run, row, row.status, row.task_key or _key_of_origin(account, reuse), origin)
    return _Task(run, row, row.status, row.task_key, None)


def _key_of_origin(account: Account, reuse: Reuse) -> str | None:
    run = account.origin(reuse)
    at = (reuse.origin_step or "", reuse.origin_task_id or "")
    rows = [] if run is None else account.tasks([run], {at})
    return next((row.task_key for row in rows if (row.step, row.task_id) == at), None)


def _told_of(account: Account, task: _Task) -> dict[str, Any]:
    """What was recorded as a task was created or reused."""
    place = (task.row.step, task.row.task_id)
    columns = ("time_us", "writer", "seq", "step", "task_id", "payload")
    rows = account.events(("task_created", "task_reused"), columns, [task.run], places={place})
    rows = [row for row in rows if row[3:5] == place and row[5] is not None]
    found: dict[str, Any] = min(rows, key=lambda row: row[:3])[5] if rows else {}
    return found


def _earlier_place(store: Answers, task: _Task, told: Mapping[str, Any]) -> _Place | None:
    """What a task was compared with when it was created, else the newest finished one before it at its place."""
    named = task.origin or (told.get("why") or {}).get("earlier")
    if named is None:
        return _newest_before(store, task)
    parts = named.split("/")
    if len(parts) != 4:
        return None
    flow, run_id, step, task_id = parts
    return flow, run_id, step, task_id


def _newest_before(store: Answers, task: _Task) -> _Place | None:
    """The newest finished task of another run that was at the same place earlier."""
    # How a task came to its end does not depend on who lives.
    told = ("state.tasks", "raw_run_id", "(is_reused or ended in ('succeeded', 'caught'))")
    shown = ("fold.tasks", "run_id", "status in ('succeeded', 'caught', 'reused')")
    relation, run_id, is_done = shown if store.has_twins() else told
    row = task.row
    rows = store.rows(
        f"select flow, {run_id}, step, task_id from {relation} where flow = ? and step = ? and {run_id} <> ? "
        f"and foreach_path is not distinct from ? and first_us < ? and {is_done} "
        f"order by first_us desc, {run_id} || '/' || step || '/' || task_id limit 1",
        [task.run.flow, row.step, task.run.run_id, row.foreach_path, row.first_us],
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
    store: Answers, account: Account, before: Facts, after: Facts, task_before: str, task_after: str
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
    values = _values(account, {*old_paths.values(), *new_paths.values()})
    has_code = any(kind == "code" for kind, _ in changed)
    texts = tuple(_code_texts(store, account, task) if has_code else {} for task in (task_before, task_after))
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


def _values(account: Account, pathspecs: Collection[str]) -> dict[str, str]:
    """Short values of artifacts, where they are recorded, by pathspec."""
    parts = [path.split("/", 4) for path in pathspecs]
    runs = account.runs({(flow, run_id) for flow, run_id, *_ in parts})
    places = [
        (runs[flow, run_id], step, task_id)
        for flow, run_id, step, task_id, _ in parts
        if (flow, run_id) in runs
    ]
    ran = ran_really(account, places)
    values: dict[tuple[bytes, str, str, str], str | None] = {}
    attempts = {(run.uid, step, task_id): last for (run, step, task_id), last in ran.values()}
    at = {(step, task_id) for (_, step, task_id), _ in ran.values()}
    for kind in ("artifact_saved", "parameter_set"):
        columns = ("run_uid", "step", "task_id", "name", "attempt", "value")
        rows = account.events((kind,), columns, {run for (run, _, _), _ in ran.values()}, places=at)
        for uid, step, task_id, name, attempt, value in sorted(
            rows, key=lambda row: (row[4] or 0, row[5] or "")
        ):
            if (attempt or 0) >= (attempts.get((uid, step, task_id)) or 0):
                values[uid, step, task_id, name] = value
    found = {}
    for place, ((run, step, task_id), _) in ran.items():
        shown = f"{place[0].pathspec}/{place[1]}/{place[2]}/"
        for path in pathspecs:
            value = values.get((run.uid, step, task_id, path.removeprefix(shown)))
            if path.startswith(shown) and value is not None and len(value) <= _VALUE_SHOWN:
                found[path] = value
    return found


def _code_texts(store: Answers, account: Account, task: str) -> dict[tuple[str, str], str]:
    """The text of each function and statement of a run's code snapshot, by file and name."""
    from weft.lineage.code_units import units_of
    from weft.lineage.comparison import read_code

    key = _run_of(task)
    run = account.runs([key]).get(key)
    if run is None or run.code_digest is None:
        return {}
    try:
        _, files = read_code(store, digest_to_text(run.code_digest))
    except (WeftError, ValueError, KeyError):
        return {}
    return {place: unit.text for place, unit in units_of(files).items()}


def _code_diff(texts: Iterable[dict[tuple[str, str], str]], label: str) -> str | None:
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
