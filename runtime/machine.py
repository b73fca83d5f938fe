"""The decisions of a run: events in, commands out. Pure: no clock, no process, no file.

The scheduler feeds every committed event of its run to `Machine.advance` and carries out what comes
back. Nothing else changes the machine, so the same events always give the same commands, and a run
can be replayed from its log.
"""

from __future__ import annotations

from typing import NamedTuple

from weft.lineage.events import Level
from weft.lineage.schema import Event, Payload
from weft.runtime.graph import Graph, Node

__all__ = [
    "CancelAttempts",
    "Command",
    "CreateTask",
    "DelayRetry",
    "EndRun",
    "LaunchAttempt",
    "Machine",
    "Policy",
    "TaskPlace",
]

#: What a catching step may try again, without its body, when its process died and could not catch by itself.
_FALLBACKS_MAX = 1


class TaskPlace(NamedTuple):
    """A task's place in the graph, the same in every run: its step, its place in each foreach, and how often
    the step was reached there before (a switch may lead back to its own step)."""

    step: str
    positions: tuple[int, ...] = ()
    visit: int = 0


class Policy(NamedTuple):
    """What happens when an attempt of a step fails."""

    retries_max: int = 0
    retry_delay_s: float = 0.0
    is_catching: bool = False


class CreateTask(NamedTuple):
    """Record a new task. With `item_of` it is the first of a foreach body and takes that task's item at its
    innermost position; the item's label is for the scheduler to fill in."""

    place: TaskPlace
    task_id: str
    parents: tuple[tuple[str, str], ...]
    levels: tuple[Level, ...]
    item_of: str | None = None


class LaunchAttempt(NamedTuple):
    """Run a task once a worker is free. A fallback does not run the body: it only records what was caught."""

    task_id: str
    attempt: int
    is_last: bool
    is_fallback: bool = False


class DelayRetry(NamedTuple):
    """Wait, then launch; the wait holds no worker."""

    launch: LaunchAttempt
    delay_s: float


class CancelAttempts(NamedTuple):
    """Launch nothing more and end what runs."""

    reason: str


class EndRun(NamedTuple):
    """Everything has come to rest; `payload` is that of the run's last event."""

    status: str
    payload: Payload | None = None


Command = CreateTask | LaunchAttempt | DelayRetry | CancelAttempts | EndRun


class _Task:
    __slots__ = ("attempt", "fallbacks", "is_done", "is_running", "key", "levels", "parents", "task_id")

    def __init__(
        self, key: TaskPlace, task_id: str, parents: tuple[tuple[str, str], ...], levels: tuple[Level, ...]
    ) -> None:
        self.key = key
        self.task_id = task_id
        self.parents = parents
        self.levels = levels
        self.attempt = 0
        self.fallbacks = 0
        self.is_running = False
        self.is_done = False


class Machine:
    """One run's state of play.

    Who carries out a `CreateTask` may answer with `task_reused`: then a task of an earlier run stands in, and
    what follows it is created at once. With `is_keeping_going` a failure stops only what depends on it.
    """

    def __init__(
        self,
        graph: Graph,
        policies: dict[str, Policy] | None = None,
        is_keeping_going: bool = False,
    ) -> None:
        self._graph = graph
        self._policies = policies or {}
        self._is_keeping_going = is_keeping_going
        self._tasks: dict[str, _Task] = {}
        self._visits: dict[tuple[str, tuple[int, ...]], int] = {}
        self._arrivals: dict[tuple[str, tuple[int, ...]], list[_Task]] = {}
        self._task_id_last = 0
        self._unfinished_count = 0
        self._running_count = 0
        self._failure: Payload | None = None
        self._is_cancelled = False
        self._is_stopping = False
        self._is_end_reached = False
        self._is_over = False

    def advance(self, event: Event) -> list[Command]:
        """Take in one event of the run and say what follows from it."""
        handler = _HANDLERS.get(event.kind)
        if handler is None or self._is_over:
            return []
        commands = handler(self, event)
        return commands + self._rest()

    def cancel(self, reason: str) -> list[Command]:
        """Somebody asks for the end of the run."""
        if self._is_over or self._is_cancelled:
            return []
        self._is_cancelled = True
        self._is_stopping = True
        return [CancelAttempts(reason), *self._rest()]

    def _rest(self) -> list[Command]:
        """The end of the run, once nothing runs that could still change it."""
        if self._is_over or self._running_count:
            return []
        if self._is_end_reached and not self._unfinished_count:
            self._is_over = True
            return [EndRun("failed", self._failure) if self._failure else EndRun("succeeded")]
        if self._is_cancelled:
            self._is_over = True
            return [EndRun("cancelled")]
        if self._failure is not None and (self._is_stopping or not self._unfinished_count):
            self._is_over = True
            return [EndRun("failed", self._failure)]
        return []

    # Events

    def _on_run_started(self, event: Event) -> list[Command]:
        return self._create(self._graph.start, (), ())

    def _on_task_created(self, event: Event) -> list[Command]:
        task = self._register(event)
        return [] if self._is_stopping else [self._launch(task)]

    def _on_task_reused(self, event: Event) -> list[Command]:
        task = self._register(event)
        task.is_done = True
        self._unfinished_count -= 1
        return self._follow(task, event.payload or {})

    def _on_attempt_started(self, event: Event) -> list[Command]:
        task = self._tasks[event.task_id or ""]
        if not task.is_running and not task.is_done and event.attempt == task.attempt:
            task.is_running = True
            self._running_count += 1
        return []

    def _on_attempt_done(self, event: Event) -> list[Command]:
        task = self._end_attempt(event)
        if task is None:
            return []
        task.is_done = True
        self._unfinished_count -= 1
        return self._follow(task, event.payload or {})

    def _on_attempt_failed(self, event: Event) -> list[Command]:
        task = self._end_attempt(event)
        if task is None:
            return []
        policy = self._policies.get(task.key.step, Policy())
        if not self._is_stopping:
            task.attempt += 1
            if task.attempt <= policy.retries_max:
                launch = self._launch(task)
                return [DelayRetry(launch, policy.retry_delay_s)]
            has_died = (event.payload or {}).get("cause") != "exception"
            if policy.is_catching and has_died and task.fallbacks < _FALLBACKS_MAX:
                task.fallbacks += 1
                fallback = LaunchAttempt(task.task_id, task.attempt, is_last=True, is_fallback=True)
                return [DelayRetry(fallback, 0.0)]
        task.is_done = True
        self._unfinished_count -= 1
        if self._failure is not None:
            return []
        payload = event.payload or {}
        self._failure = {
            "root_cause": f"{event.flow}/{event.run_id}/{event.step}/{event.task_id}",
            "error_type": event.type,
            "error_message": payload.get("message"),
        }
        if self._is_keeping_going or self._is_stopping:
            return []
        self._is_stopping = True
        return [CancelAttempts(f"task {event.step}/{event.task_id} failed")]

    def _on_attempt_cancelled(self, event: Event) -> list[Command]:
        task = self._end_attempt(event)
        if task is not None:
            task.is_done = True
            self._unfinished_count -= 1
        return []

    # What follows

    def _register(self, event: Event) -> _Task:
        payload = event.payload or {}
        levels = tuple([Level(*level) for level in payload["levels"]])
        parents = tuple([(step, task_id) for step, task_id in payload["parents"]])
        positions = tuple([level.position for level in levels])
        step = event.step or ""
        visit = self._visits.get((step, positions), 0)
        self._visits[step, positions] = visit + 1
        task = _Task(TaskPlace(step, positions, visit), event.task_id or "", parents, levels)
        self._tasks[task.task_id] = task
        self._task_id_last = max(self._task_id_last, int(task.task_id))
        return task

    def _launch(self, task: _Task) -> LaunchAttempt:
        policy = self._policies.get(task.key.step, Policy())
        return LaunchAttempt(task.task_id, task.attempt, is_last=task.attempt >= policy.retries_max)

    def _end_attempt(self, event: Event) -> _Task | None:
        """The task whose attempt ended; None when that was told before, or of an attempt that is over."""
        task = self._tasks[event.task_id or ""]
        if task.is_done or event.attempt != task.attempt:
            return None
        if task.is_running:
            task.is_running = False
            self._running_count -= 1
        return task

    def _follow(self, task: _Task, transition: Payload) -> list[Command]:
        node = self._graph.steps[task.key.step]
        if node.is_end:
            self._is_end_reached = True
            return []
        if self._is_stopping:
            return []
        commands: list[Command] = []
        parents = ((task.key.step, task.task_id),)
        for target in transition["next"]:
            if transition.get("foreach") is not None:
                commands += self._create_items(task, target, transition)
            elif self._graph.steps[target].kind == "join":
                commands += self._arrive(task, self._graph.steps[target])
            else:
                commands += self._create(target, parents, task.levels)
        return commands

    def _create_items(self, task: _Task, target: str, transition: Payload) -> list[Command]:
        count = transition["num_splits"]
        parents = ((task.key.step, task.task_id),)
        commands: list[Command] = []
        for position in range(count):
            level = Level(target, transition["foreach"], position, count, "")
            commands += self._create(target, parents, (*task.levels, level), task.task_id)
        return commands

    def _arrive(self, task: _Task, join: Node) -> list[Command]:
        """A branch has come to its join, which is created when all have."""
        assert join.split is not None, "a checked graph knows the split of each join"
        split = self._graph.steps[join.split]
        is_foreach = split.foreach is not None
        outer = task.levels[:-1] if is_foreach else task.levels
        place = join.name, tuple(level.position for level in outer)
        arrived = self._arrivals.setdefault(place, [])
        arrived.append(task)
        if len(arrived) < (task.levels[-1].num_splits if is_foreach else len(split.out_steps)):
            return []
        del self._arrivals[place]
        if is_foreach:
            arrived.sort(key=lambda branch: branch.levels[-1].position)
        else:
            arrived.sort(key=lambda branch: join.join_order.index(branch.key.step))
        parents = tuple((branch.key.step, branch.task_id) for branch in arrived)
        return self._create(join.name, parents, outer)

    def _create(
        self,
        step: str,
        parents: tuple[tuple[str, str], ...],
        levels: tuple[Level, ...],
        item_of: str | None = None,
    ) -> list[Command]:
        positions = tuple([level.position for level in levels])
        key = TaskPlace(step, positions, self._visits.get((step, positions), 0))
        self._task_id_last += 1
        self._unfinished_count += 1
        return [CreateTask(key, str(self._task_id_last), parents, levels, item_of)]


_HANDLERS = {
    "run_started": Machine._on_run_started,
    "task_created": Machine._on_task_created,
    "task_reused": Machine._on_task_reused,
    "attempt_started": Machine._on_attempt_started,
    "attempt_succeeded": Machine._on_attempt_done,
    "attempt_caught": Machine._on_attempt_done,
    "attempt_failed": Machine._on_attempt_failed,
    "attempt_cancelled": Machine._on_attempt_cancelled,
}
