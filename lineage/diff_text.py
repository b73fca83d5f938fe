"""A diff as text, as HTML and as a plain document. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from weft.lineage.diff import Cause, Diff, Difference
    from weft.lineage.pairs import RunFacts, StepTimes

__all__ = ["document_of", "html_of", "text_of"]

_EFFECTS_MAX = 12
_CODE_LINES_MAX = 40
_GROUPS_MAX = 30
_CONTRASTS_MAX = 10
_PARTS_MAX = 3
_READS_MAX = 10
_VALUE_MAX = 48
_TIMES = "\u00d7"
_CHANGES = {"changed": "changed", "only_a": "only in A", "only_b": "only in B"}


class _Group(NamedTuple):
    """The differing artifacts of one name in one step."""

    step: str
    name: str
    change: str
    members: list[Difference]


def document_of(diff: Diff, contrasts_max: int) -> dict[str, Any]:
    """What `weft diff --json` gives."""
    changed = [d for d in diff.differences if d.kind == "artifact" and d.change == "changed"]
    contrasts = {}
    for difference in changed[:contrasts_max]:
        found = diff.contrast(difference)
        if found is not None:
            contrasts[difference.id] = {**found._asdict(), "parts": [part._asdict() for part in found.parts]}
    return {
        "a": _run_document(diff.a),
        "b": _run_document(diff.b),
        "is_equal": diff.is_equal,
        "notes": diff.notes,
        "causes": [
            {
                "id": cause.id,
                "kind": cause.kind,
                "is_certain": cause.is_certain,
                "differences": [difference.id for difference in cause.differences],
                "effects": [effect._asdict() for effect in cause.effects],
            }
            for cause in diff.causes
        ],
        "differences": [
            {**d._asdict(), "because": list(d.because), "contrast": contrasts.get(d.id)}
            for d in diff.differences
        ],
        "code": [change._asdict() for change in diff.code],
        "inputs": [
            {
                "task": read.place.label,
                "name": read.name,
                "item_index": read.item_index,
                "producer": read.producer.label,
                "a": read.a,
                "b": read.b,
            }
            for read in diff.reads
        ],
        "artifacts": _counts(diff),
        "steps": [times._asdict() for times in diff.times],
    }


def text_of(diff: Diff) -> str:
    return "\n".join(_lines(diff))


def html_of(diff: Diff) -> str:
    """For notebooks: a table of causes, then the text."""
    rows = "".join(
        f"<tr><td>{escape(cause.kind)}</td><td>{escape(_headline(cause))}</td>"
        f"<td>{escape(_effects_text(cause))}</td></tr>"
        for cause in diff.causes
    )
    heading = f"<p><b>{escape(diff.a.pathspec)}</b> (A) and <b>{escape(diff.b.pathspec)}</b> (B)</p>"
    table = f"<table><tr><th>cause</th><th>A and B</th><th>explains</th></tr>{rows}</table>" if rows else ""
    return f"{heading}{table}<details><summary>all</summary><pre>{escape(text_of(diff))}</pre></details>"


def _run_document(run: RunFacts) -> dict[str, Any]:
    told = {name: value for name, value in run._asdict().items() if name != "graph"}
    return told | {"started_at": None if run.started_at is None else f"{run.started_at.isoformat()}Z"}


def _counts(diff: Diff) -> dict[str, int]:
    counts = {"equal": diff.equal_artifacts, "changed": 0, "only_a": 0, "only_b": 0}
    for difference in diff.differences:
        if difference.kind == "artifact":
            counts[difference.change] += 1
    return counts


def _lines(diff: Diff) -> Iterator[str]:
    for side, run in (("A", diff.a), ("B", diff.b)):
        took = "" if run.duration_s is None else f" in {run.duration_s:.3g} s"
        origin = f", resuming {run.origin_run_id}" if run.origin_run_id else ""
        yield f"{side}  {run.pathspec}  {run.status}{took}{origin}"
    yield from diff.notes
    effective = [cause for cause in diff.causes if cause.effects or cause.kind in ("task", "artifact")]
    idle = [cause for cause in diff.causes if cause not in effective]
    if effective:
        yield ""
        yield "causes, the first on top"
    for number, cause in enumerate(effective, start=1):
        yield from _cause_lines(diff, number, cause)
    if idle:
        yield ""
        yield "also different, without effect on what was saved"
        for cause in idle:
            yield f"  {cause.kind}  {_headline(cause)}"
    yield from _task_lines(diff)
    yield from _artifact_lines(diff)
    yield from _read_lines(diff)
    yield from _time_lines(diff.times)


def _cause_lines(diff: Diff, number: int, cause: Cause) -> Iterator[str]:
    yield f"{number}. {cause.kind}  {_headline(cause)}"
    if cause.kind == "code":
        change = next((c for c in diff.code if cause.id == f"code {c.path}:{c.name}"), None)
        lines = [] if change is None else [x for x in change.diff.split("\n") if not x.startswith("@@")]
        yield from (f"     {line}" for line in lines[:_CODE_LINES_MAX])
        if len(lines) > _CODE_LINES_MAX:
            yield f"     … {len(lines) - _CODE_LINES_MAX} more lines"
    if cause.kind in ("task", "artifact"):
        yield "   nothing that is recorded explains it: a clock, random numbers, a file, the network"
    if cause.effects:
        yield f"   {'explains' if cause.is_certain else 'may explain'} {_effects_text(cause)}"


def _headline(cause: Cause) -> str:
    first, *more = cause.differences
    if first.kind in ("task", "artifact") and more:
        name = "" if first.name is None else f"/{first.name}"
        return f"{first.step}{name} {_TIMES}{len(more) + 1}, first {first.subject}: {_values(first)}"
    return f"{first.subject}{_colon(_values(first))}"


def _colon(text: str) -> str:
    return f": {text}" if text else ""


def _values(difference: Difference) -> str:
    if difference.a is None and difference.b is None:
        return _CHANGES[difference.change]
    if difference.change == "changed":
        return f"{_short(difference.a)} → {_short(difference.b)}"
    value = difference.a if difference.b is None else difference.b
    return f"{_short(value)} ({_CHANGES[difference.change]})"


def _short(text: str | None) -> str:
    text = "" if text is None else text.removeprefix("sha256:")
    return text if len(text) <= _VALUE_MAX else text[: _VALUE_MAX - 1] + "…"


def _effects_text(cause: Cause) -> str:
    words = []
    for effect in cause.effects[:_EFFECTS_MAX]:
        count = f" {_TIMES}{effect.total}" if effect.total > 1 else ""
        noun = {"task": "the tasks of ", "graph": "where it leads from "}.get(effect.kind, "")
        words.append(f"{noun}{effect.step}{'' if effect.name is None else '/' + effect.name}{count}")
    more = len(cause.effects) - _EFFECTS_MAX
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")


def _groups(diff: Diff) -> list[_Group]:
    groups: dict[tuple[str, str, str], list[Difference]] = {}
    for d in diff.differences:
        if d.kind == "artifact":
            groups.setdefault((d.step or "", d.name or "", d.change), []).append(d)
    return [_Group(*key, members) for key, members in groups.items()]


def _task_lines(diff: Diff) -> Iterator[str]:
    groups: dict[tuple[str | None, str], list[Difference]] = {}
    for d in diff.differences:
        if d.kind == "task":
            groups.setdefault((d.step, _values(d)), []).append(d)
    if groups:
        yield ""
        yield "tasks that came out otherwise"
    for (step, values), members in list(groups.items())[:_GROUPS_MAX]:
        place = (
            members[0].subject
            if len(members) == 1
            else f"{step} {_TIMES}{len(members)}, first {members[0].subject}"
        )
        yield f"  {place}: {values}"


def _artifact_lines(diff: Diff) -> Iterator[str]:
    counts = _counts(diff)
    yield ""
    yield (
        f"artifacts: {counts['equal']:,} equal, {counts['changed']:,} changed, "
        f"{counts['only_a']:,} only in A, {counts['only_b']:,} only in B"
    )
    groups = _groups(diff)
    looked_into = 0
    for group in groups[:_GROUPS_MAX]:
        first = group.members[0]
        count = f" {_TIMES}{len(group.members)}, first {first.subject}" if len(group.members) > 1 else ""
        yield f"  {group.step}/{group.name}{count}: {_values(first)}"
        if group.change == "changed" and looked_into < _CONTRASTS_MAX and not _is_scalar(diff, first):
            found = diff.contrast(first)
            looked_into += 1
            if found is not None:
                yield f"     {found.summary}"
                parts = found.parts[:_PARTS_MAX]
                yield from (
                    f"     {p.place or 'value'}: {p.a or 'nothing'} → {p.b or 'nothing'}" for p in parts
                )
    if len(groups) > _GROUPS_MAX:
        yield f"  … and {len(groups) - _GROUPS_MAX} more names; --json gives all"


def _is_scalar(diff: Diff, difference: Difference) -> bool:
    """Whether the two previews say all there is to say."""
    pair = diff.artifacts[difference.id]
    saved = [side for side in (pair.a, pair.b) if side is not None]
    return all(side.value is not None and side.value[:1] not in "[{" for side in saved)


def _read_lines(diff: Diff) -> Iterator[str]:
    """Reads of one run only: those that found other content are told as causes and effects."""
    groups: dict[tuple[str, str, str, str], int] = {}
    for read in diff.reads:
        if read.a is None or read.b is None:
            side = "A" if read.b is None else "B"
            key = (read.place.step, read.name, read.producer.step, side)
            groups[key] = groups.get(key, 0) + 1
    if groups:
        yield ""
        yield "read in one run only"
    for (step, name, producer, side), count in list(groups.items())[:_READS_MAX]:
        source = f" of {producer}" if producer else ""
        yield f"  {step} read {name}{source}{f' {_TIMES}{count}' if count > 1 else ''}: only in {side}"
    if len(groups) > _READS_MAX:
        yield f"  … and {len(groups) - _READS_MAX} more; --json gives all"


def _time_lines(times: list[StepTimes]) -> Iterator[str]:
    if not times:
        return
    rows: list[tuple[str, ...]] = [("step", "tasks A", "tasks B", "seconds A", "seconds B", "ratio")]
    for t in times:
        ratio = f"{t.seconds_b / t.seconds_a:.2f}" if t.seconds_a and t.seconds_b else ""
        seconds = ("" if s is None else f"{s:.3f}" for s in (t.seconds_a, t.seconds_b))
        rows.append((t.step, str(t.tasks_a), str(t.tasks_b), *seconds, ratio))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    yield ""
    yield "durations"
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        yield f"  {'  '.join(cells)}".rstrip()
