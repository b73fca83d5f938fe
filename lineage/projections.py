"""What became of runs and their tasks: a pure fold of events, the same as the SQL of the views.

The order of the events does not matter, and an event that comes twice changes nothing. Where one fact
is told twice, the highest epoch wins, then the first. A run without an end is `lost` when its writer
is proven dead, or when its lease ran out and nobody can prove that the writer lives.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from weft.lineage.events import Level
from weft.lineage.ids import Pathspec
from weft.lineage.schema import KINDS, Event, Payload

__all__ = [
    "DONE",
    "LEASE_US",
    "AttemptState",
    "RunState",
    "TaskState",
    "believed",
    "fold",
    "is_from_elsewhere",
]

#: A writer that says nothing more counts as alive for this long after its run began.
LEASE_US = 120_000_000

#: The statuses of a task whose successors may run.
DONE = frozenset(("succeeded", "caught", "reused"))

_NOTHING: Payload = {}
_TRANSITION = ("next", "foreach", "num_splits")


class AttemptState:
    """One attempt: the events that began and ended it."""

    __slots__ = ("attempt", "ended", "started", "status")

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.started: Event | None = None
        self.ended: Event | None = None
        self.status = "pending"


class TaskState:
    """One task. `placed` is its task_created or task_reused event; `first` the earliest event that names it."""

    __slots__ = ("attempts", "first", "placed", "retries", "saved", "status", "step", "task_id")

    def __init__(self, step: str, task_id: str, first: Event) -> None:
        self.step = step
        self.task_id = task_id
        self.first = first
        self.placed: Event | None = None
        self.attempts: dict[int, AttemptState] = {}
        self.retries: set[int] = set()
        #: What each attempt saved or merged: `artifact_saved` and `artifact_merged` events by name.
        self.saved: dict[int, dict[str, Event]] = {}
        self.status = "pending"

    @property
    def reused(self) -> Event | None:
        return self.placed if self.placed is not None and self.placed.kind == "task_reused" else None

    @property
    def item(self) -> Event | None:
        """The event whose content columns are this task's foreach item; None outside the first task of a body."""
        return self.placed if self.placed is not None and self.placed.digest is not None else None

    @property
    def origin(self) -> Pathspec | None:
        """The task that really ran, where this one was reused."""
        event = self.reused
        if event is None or event.producer_flow is None:
            return None
        return Pathspec(
            event.producer_flow, event.producer_run_id, event.producer_step, event.producer_task_id
        )

    @property
    def parents(self) -> tuple[tuple[str, str], ...]:
        """(step, task_id) in the order of `inputs`."""
        return tuple([(step, task_id) for step, task_id in self._placement("parents")])

    @property
    def levels(self) -> tuple[Level, ...]:
        """The foreach levels around this task, outermost first."""
        return tuple([Level(*level) for level in self._placement("levels")])

    @property
    def foreach_path(self) -> str | None:
        return None if self.placed is None else self.placed.foreach_path

    @property
    def final_attempt(self) -> int | None:
        """The highest number of an attempt that was begun; None before the first."""
        return max(self.attempts) if self.attempts else None

    @property
    def final(self) -> AttemptState | None:
        return self.attempts[max(self.attempts)] if self.attempts else None

    @property
    def artifacts(self) -> dict[str, Event]:
        """What the final attempt saved or merged, by name: `artifact_saved` and `artifact_merged` events."""
        final = self.final_attempt
        return {} if final is None else self.saved.get(final, {})

    @property
    def transition(self) -> Payload | None:
        """`next` and, for a foreach, `foreach` and `num_splits`; None for a task that is not done."""
        source = self.reused
        if source is None and self.status in DONE and self.final is not None:
            source = self.final.ended
        if source is None:
            return None
        payload = source.payload or _NOTHING
        return {key: payload[key] for key in _TRANSITION if key in payload}

    def _placement(self, key: str) -> list[list[Any]]:
        payload = _NOTHING if self.placed is None else self.placed.payload or _NOTHING
        found: list[list[Any]] = payload.get(key, [])
        return found


class RunState:
    """One run. `tasks` are in the order they came into being, by (step, task_id)."""

    __slots__ = (
        "code",
        "ended",
        "first",
        "flow",
        "lease_us",
        "parameters",
        "reached",
        "run_id",
        "run_uid",
        "started",
        "status",
        "tags",
        "tasks",
    )

    def __init__(self, run_uid: bytes, flow: str, run_id: str) -> None:
        self.run_uid = run_uid
        self.flow = flow
        self.run_id = run_id
        self.first: Event | None = None
        self.started: Event | None = None
        self.ended: Event | None = None
        self.status = "running"
        self.lease_us = 0
        self.code: Event | None = None
        self.reached: Event | None = None
        self.parameters: dict[str, Event] = {}
        self.tags: dict[str, Event] = {}
        self.tasks: dict[tuple[str, str], TaskState] = {}

    @property
    def writer(self) -> bytes | None:
        """The writer that took up the run."""
        source = self.started or self.first
        return None if source is None else source.writer

    @property
    def code_digest(self) -> bytes | None:
        """The manifest of the run's code."""
        for source in (self.started, self.code):
            if source is not None and source.digest is not None:
                return source.digest
        return None

    @property
    def origin_run_id(self) -> str | None:
        payload = _NOTHING if self.started is None else self.started.payload or _NOTHING
        found: str | None = payload.get("origin_run_id")
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How many tasks have each status."""
        found: dict[str, int] = {}
        for task in self.tasks.values():
            found[task.status] = found.get(task.status, 0) + 1
        return found


def fold(
    events: Iterable[Event],
    dead_writers: AbstractSet[bytes] = frozenset(),
    now_us: int | None = None,
    live_writers: AbstractSet[bytes] = frozenset(),
    store_id: str | None = None,
) -> dict[bytes, RunState]:
    """The state of every run that `events` name, by run_uid.

    `dead_writers` and `live_writers` are those the kernel vouches for; for all others a lease decides, if `now_us`
    says what time it is. So it does, where `store_id` tells the store, for runs that were brought there from another.
    """
    runs: dict[bytes, RunState] = {}
    for event in believed(events):
        uid, flow, run_id = event.run_uid, event.flow, event.run_id
        assert uid is not None and flow is not None and run_id is not None  # noqa: PT018
        run = runs.get(uid)
        if run is None:
            run = runs[uid] = RunState(uid, flow, run_id)
        _apply(run, event)
    for run in runs.values():
        dead = frozenset[bytes]() if is_from_elsewhere(run.started, store_id) else dead_writers
        run.status = _run_status(run, dead, live_writers, now_us)
        _settle(run)
    return runs


def believed(events: Iterable[Event]) -> list[Event]:
    """The events of runs without those that a scheduler committed after it was declared lost."""
    told = [e for e in events if e.run_uid is not None and e.flow is not None and e.run_id is not None]
    fences = _fences(told)
    return (
        [e for e in told if e.run_uid not in fences or not _is_late(e, fences[e.run_uid])] if fences else told
    )


def is_from_elsewhere(started: Event | None, store_id: str | None) -> bool:
    """Whether a run says that it was made in another store than this; those of weft 0.1 do not say where."""
    told = None if started is None else (started.payload or _NOTHING).get("store_id")
    return told is not None and store_id is not None and told != store_id


def _fences(events: Iterable[Event]) -> dict[bytes, Event]:
    """The believed declaration of each run that somebody took over from a scheduler that was lost."""
    fences: dict[bytes, Event] = {}
    for event in events:
        if (
            event.kind == "run_lost"
            and event.run_uid is not None
            and (event.payload or _NOTHING).get("writer")
        ):
            fences[event.run_uid] = _believed(fences.get(event.run_uid), event)
    return fences


def _is_late(event: Event, fence: Event) -> bool:
    """Whether the lost scheduler committed this after it was declared lost."""
    payload = fence.payload or _NOTHING
    last_seq: int = payload["last_seq"]
    return event.seq > last_seq and event.writer.hex() == payload["writer"]


def _key(event: Event) -> tuple[int, int, bytes, int]:
    return (-event.epoch, event.time_us, event.writer, event.seq)


def _believed(known: Event | None, told: Event) -> Event:
    return told if known is None or _key(told) < _key(known) else known


def _earlier(known: Event | None, told: Event) -> Event:
    if known is None or (told.time_us, told.writer, told.seq) < (known.time_us, known.writer, known.seq):
        return told
    return known


def _later(known: Event | None, told: Event) -> Event:
    if known is None or (told.time_us, told.writer, told.seq) > (known.time_us, known.writer, known.seq):
        return told
    return known


def _apply(run: RunState, event: Event) -> None:
    known = KINDS.get(event.kind)
    if known is None:
        return
    if event.kind == "code_reached":
        run.reached = _believed(run.reached, event)
    elif known.family == "run":
        _apply_to_run(run, event, known.fact)
    elif event.step is not None and event.task_id is not None and known.family in ("task", "artifact"):
        key = (event.step, event.task_id)
        task = run.tasks.get(key)
        if task is None:
            task = run.tasks[key] = TaskState(event.step, event.task_id, event)
        task.first = _earlier(task.first, event)
        _apply_to_task(task, event, known.fact)


def _apply_to_run(run: RunState, event: Event, fact: str | None) -> None:
    kind = event.kind
    run.first = _earlier(run.first, event)
    if fact == "run_end":
        run.ended = _believed(run.ended, event)
    elif kind == "run_started":
        run.started = _believed(run.started, event)
    elif kind == "code_saved":
        run.code = _believed(run.code, event)
    elif kind == "parameter_set" and event.name is not None:
        run.parameters[event.name] = _believed(run.parameters.get(event.name), event)
    elif kind == "lease_renewed":
        run.lease_us = max(run.lease_us, (event.payload or _NOTHING).get("expires_us", 0))
    elif kind in ("tag_added", "tag_removed") and event.name is not None:
        run.tags[event.name] = _later(run.tags.get(event.name), event)


def _apply_to_task(task: TaskState, event: Event, fact: str | None) -> None:
    kind = event.kind
    if kind in ("task_created", "task_reused"):
        task.placed = _believed(task.placed, event)
        return
    number = event.attempt
    if number is None:
        return
    if kind == "retry_scheduled":
        task.retries.add(number)
        return
    if event.name is not None:
        saved = task.saved.setdefault(number, {})
        saved[event.name] = _believed(saved.get(event.name), event)
        return
    attempt = task.attempts.get(number)
    if attempt is None:
        attempt = task.attempts[number] = AttemptState(number)
    if kind == "attempt_started":
        attempt.started = _believed(attempt.started, event)
    elif fact == "attempt_end":
        attempt.ended = _believed(attempt.ended, event)


def _run_status(run: RunState, dead: AbstractSet[bytes], live: AbstractSet[bytes], now_us: int | None) -> str:
    if run.ended is not None:
        return run.ended.kind.removeprefix("run_")
    writer = run.writer
    if writer is None or writer in dead:
        return "lost"
    if writer in live or now_us is None:
        return "running"
    begun_us = 0 if run.first is None else run.first.time_us
    return "lost" if max(run.lease_us, begun_us + LEASE_US) < now_us else "running"


def _settle(run: RunState) -> None:
    run.tasks = dict(
        sorted(
            run.tasks.items(),
            key=lambda item: (item[1].first.time_us, item[1].first.writer, item[1].first.seq),
        )
    )
    for task in run.tasks.values():
        last = task.final_attempt
        for attempt in task.attempts.values():
            if attempt.ended is not None:
                attempt.status = attempt.ended.kind.removeprefix("attempt_")
            elif attempt.attempt != last:
                attempt.status = "lost"
            else:
                attempt.status = _unfinished(run.status)
        task.status = _task_status(task, run.status)


def _unfinished(run_status: str) -> str:
    """The status of an attempt that was begun and has no end."""
    return run_status if run_status in ("running", "cancelled") else "lost"


def _task_status(task: TaskState, run_status: str) -> str:
    if task.reused is not None:
        return "reused"
    final = task.final
    if final is None:
        return {"running": "pending", "lost": "lost"}.get(run_status, "cancelled")
    if final.status == "failed" and any(number > final.attempt for number in task.retries):
        return {"running": "retrying", "lost": "lost"}.get(run_status, "failed")
    return final.status
