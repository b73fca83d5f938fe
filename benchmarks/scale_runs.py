"""The runs of a long history, made from a seed: who ran what, when, and how it ended."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

import msgpack

from weft.lineage import events
from weft.lineage.events import Content, Level, RunRef
from weft.lineage.ids import Pathspec, TaskRef
from weft.lineage.schema import Event

__all__ = [
    "Batch",
    "Made",
    "Origin",
    "Produced",
    "RunPlan",
    "batches",
    "plan_chain",
    "plan_foreach",
    "tasks_of",
]

#: Events that are appended at once, and the microseconds that pass before.
Batch = tuple[int, list[Event]]

_MINUTE_US = 60_000_000
_PARENT_LIMIT = 1_000
_LEASE_US = 120_000_000
_RETRIED = 0.04


class Produced(NamedTuple):
    """What a task stored, and the task that really ran."""

    task: Pathspec
    digests: dict[str, bytes]


#: What the tasks of a run stored, by step and place within the step.
Made = dict[tuple[str, int], Produced]


class Origin(NamedTuple):
    """A run that a later one can resume.

    `lost_writer` and `lost_seq` name a writer that died without a word, and what it wrote last.
    """

    run: RunRef
    made: Made
    lost_writer: bytes | None = None
    lost_seq: int = -1


class RunPlan(NamedTuple):
    """One run to be written. `steps` are its steps with the number of tasks in each.

    `ending` is "succeeded", "failed", or "" for a run whose writer dies. `reads` is how many artifacts
    of each task of the foreach its join reads.
    """

    number: int
    run: RunRef
    steps: tuple[tuple[str, int], ...]
    ending: str
    origin: Origin | None
    reads: int = 1


def plan_foreach(
    draw: random.Random, number: int, flow: str, started_us: int, width: int, ending: str, reads: int = 1
) -> RunPlan:
    """A run of a foreach with `width` tasks and its join."""
    steps = (("start", 1), ("fit", width), ("join", 1), ("end", 1))
    return RunPlan(number, _ref(draw, flow, started_us), steps, ending, None, reads)


def plan_chain(draw: random.Random, number: int, flow: str, started_us: int, length: int) -> RunPlan:
    """A run of one step after another."""
    names = ["start", *(f"step_{index}" for index in range(length - 2)), "end"]
    return RunPlan(number, _ref(draw, flow, started_us), tuple((n, 1) for n in names), "succeeded", None)


def tasks_of(plan: RunPlan) -> Iterator[tuple[str, int, int]]:
    """The tasks of a run as step, place within the step, and number within the run, from 1 on."""
    number = 0
    for step, width in plan.steps:
        for place in range(width):
            number += 1
            yield step, place, number


def batches(draw: random.Random, plan: RunPlan, made: Made) -> Iterator[Batch]:
    """Everything a run records, in order; `made` is filled with what its tasks stored."""
    yield 0, _beginning(draw, plan)
    failing = _failing_task(draw, plan)
    steps = {step: width for step, width in plan.steps}
    before: tuple[str, int] | None = None
    started: list[Event] = []
    for step, place, number in tasks_of(plan):
        task = plan.run.task(step, str(number))
        if place == 0:
            started = [events.step_started(plan.run, step)]
            parents = _parents(before, steps, number)
            before = (step, number)
        levels = (Level("fit", "items", place, steps["fit"], str(place)),) if step == "fit" else ()
        origin = _reused(plan, step, place)
        if origin is not None:
            made[step, place] = origin
            payload = {"next": [], "reason": "its inputs and its code are the same", "status": "succeeded"}
            yield 0, [*started, events.task_reused(task, origin.task, parents, levels, None, payload)]
            started = []
            continue
        item = _number(place) if step == "fit" else None
        opening = [*started, events.task_created(task, parents, levels, item)]
        started = []
        yield from _attempts(draw, plan, task, (step, place), opening, made, number == failing)
        if number == failing:
            break
    if plan.ending:
        yield 2_000, [_ending(plan, failing)]


def _ref(draw: random.Random, flow: str, started_us: int) -> RunRef:
    return RunRef(draw.randbytes(16), flow, str(started_us))


def _beginning(draw: random.Random, plan: RunPlan) -> list[Event]:
    run, origin = plan.run, plan.origin
    user = f"user{plan.number % 7}"
    payload = {
        "user": user,
        "host": f"box{plan.number % 5}",
        "boot_id": "7ae904b6-40ba-464b-823d-94885ec9fd05",
        "pid": 1_000 + plan.number % 30_000,
        "pid_started": 84_858 + plan.number,
        "python": "3.11.7",
        "platform": "Linux",
        "weft": "0.2.0",
        "command": ["python", "flow.py", "run"],
        "script": f"/home/{user}/{run.flow.lower()}.py",
        "isolation": "fork",
        "max_workers": 2,
        "graph": {"name": run.flow, "start": "start", "end": "end"},
    }
    told = []
    if origin is not None:
        payload |= {
            "origin_run_id": origin.run.run_id,
            "origin_run_uid": origin.run.run_uid.hex(),
            "resume_step": None,
        }
        if origin.lost_writer is not None:
            told.append(events.run_lost(origin.run, origin.lost_writer, origin.lost_seq))
    code = hashlib.sha256(f"{run.flow}/{plan.number // 500}".encode()).digest()
    tag = f"week{plan.number // 2_000}"
    return [
        *told,
        events.run_started(run, code, payload),
        events.code_saved(run, code, 4_000, {"entry": "flow.py", "files": 1}),
        events.lease_renewed(run, int(run.run_id) + _LEASE_US),
        events.tag_added(run, f"user:{user}", "system"),
        events.tag_added(run, tag, "user"),
        events.parameter_set(run, "lr", _number(round(10 ** -draw.uniform(1, 5), 6)), "parameter"),
        events.parameter_set(run, "x", _number(round(draw.uniform(0, 10), 2)), "parameter"),
    ]


def _ending(plan: RunPlan, failing: int) -> Event:
    if plan.ending == "succeeded":
        return events.run_ended(plan.run, "succeeded")
    cause = f"{plan.run.flow}/{plan.run.run_id}/fit/{failing}"
    return events.run_ended(
        plan.run, "failed", {"root_cause": cause, "error_type": "ValueError", "error_message": "no"}
    )


def _failing_task(draw: random.Random, plan: RunPlan) -> int:
    """The number of the task at which a run ends before its end; 0 for none."""
    width = dict(plan.steps).get("fit", 0)
    return 2 + draw.randrange(width) if plan.ending != "succeeded" and width else 0


def _parents(
    before: tuple[str, int] | None, steps: dict[str, int], number: int
) -> tuple[tuple[str, str], ...]:
    """The first tasks of the step before, up to a limit: what is measured is not the size of a list."""
    if before is None:
        return ()
    step, first = before
    return tuple((step, str(n)) for n in range(first, min(number, first + min(steps[step], _PARENT_LIMIT))))


def _reused(plan: RunPlan, step: str, place: int) -> Produced | None:
    """The first half of what the origin has is not run again."""
    origin = plan.origin
    if origin is None or place * 2 > len(origin.made) or step not in ("start", "fit"):
        return None
    return origin.made.get((step, place))


def _attempts(
    draw: random.Random,
    plan: RunPlan,
    task: TaskRef,
    at: tuple[str, int],
    opening: list[Event],
    made: Made,
    is_failing: bool,
) -> Iterator[Batch]:
    """One task from its start to its end, with a failed attempt before where it fails or is retried."""
    pid = 5_000 + draw.getrandbits(14)
    attempt = 0
    yield 500, [*opening, events.attempt_started(task, 0, pid, "box")]
    took_us = 50_000 + int(draw.expovariate(1 / (0.05 * _MINUTE_US)))
    usage = {"cpu_s": round(took_us / 1.2e6, 3), "max_rss_bytes": 50_000_000 + draw.getrandbits(24)}
    if is_failing and not plan.ending:
        return
    if is_failing or draw.random() < _RETRIED:
        payload = {"message": "no", "traceback": None, "cause": "exception", "exit_code": None, **usage}
        failed = events.attempt_failed(task, 0, "ValueError", payload)
        if is_failing:
            yield took_us, [failed]
            return
        attempt = 1
        yield took_us, [failed, events.retry_scheduled(task, 1, 0.1)]
        yield 100_000, [events.attempt_started(task, 1, pid + 1, "box")]
    pathspec = Pathspec(plan.run.flow, plan.run.run_id, at[0], task.task_id)
    contents = _contents(draw, plan, at[0])
    yield (
        took_us,
        [
            *_uses(plan, task, attempt, at, made),
            *(events.artifact_saved(task, attempt, name, content) for name, content in contents.items()),
            events.attempt_succeeded(task, attempt, {"next": ["join"]}, usage),
        ],
    )
    made[at] = Produced(pathspec, {name: content.digest for name, content in contents.items()})


def _contents(draw: random.Random, plan: RunPlan, step: str) -> dict[str, Content]:
    """What a task stores. Models are its own, tables those of some time, scores and small numbers lie inline."""
    if step == "fit":
        parts = {
            f"part_{index}": Content(draw.randbytes(32), 5_000 + draw.getrandbits(12), "str", "plain/1")
            for index in range(plan.reads - 5)
        }
        return {
            "score": _number(draw.random()),
            "x": _number(round(draw.uniform(0, 10), 2)),
            "rows": _number(draw.getrandbits(10)),
            "model": Content(draw.randbytes(32), 10_000 + draw.getrandbits(20), "Model", "pickle/5"),
            "report": Content(draw.randbytes(32), 5_000 + draw.getrandbits(12), "str", "plain/1"),
            **parts,
        }
    if step == "start":
        shared = hashlib.sha256(f"{plan.run.flow}/{plan.number // 100}".encode()).digest()
        return {
            "table": Content(shared, 4_000_000, "DataFrame", "parquet-pandas/1"),
            "items": Content(draw.randbytes(32), 5_000, "list", "plain/1"),
            "config": _number(plan.number % 50),
        }
    if step == "join":
        return {
            "best": Content(draw.randbytes(32), 10_000 + draw.getrandbits(20), "Model", "pickle/5"),
            "total": _number(draw.random() * 100),
        }
    return {"answer": _number(draw.random())}


def _uses(plan: RunPlan, task: TaskRef, attempt: int, at: tuple[str, int], made: Made) -> list[Event]:
    """What a task reads: artifacts of its parents."""
    step, place = at
    if step == "start":
        return []
    if step == "fit":
        read = [(made["start", 0], ("table", "config")[: 1 + place % 2])]
    elif step == "join":
        stored = [made["fit", index] for index in range(dict(plan.steps)["fit"])]
        read = [(produced, tuple(produced.digests)[: plan.reads]) for produced in stored]
    else:
        names = [name for name, _ in plan.steps]
        produced = made[names[names.index(step) - 1], 0]
        read = [(produced, tuple(produced.digests)[-1:])]
    return [
        events.artifact_used(task, attempt, name, produced.digests[name], produced.task)
        for produced, names in read
        for name in names
    ]


def _number(value: float) -> Content:
    """A number as the product stores it: its bytes within its event."""
    blob = msgpack.packb(value)
    name = "int" if isinstance(value, int) else "float"
    return Content(hashlib.sha256(blob).digest(), len(blob), name, "plain/1", repr(value), float(value), blob)
