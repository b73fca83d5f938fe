"""What a scheduler knows of its run: the journal it writes, the machine it feeds, the tables tasks inherit.

Every event of the run passes through `record`: appended to the journal, then given to the machine,
whose commands become further events, or launches that wait until what they follow from is durable:
only then are they `ready`, or due as retries.
"""

from __future__ import annotations

import _thread
import heapq
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from weft.lineage import clock, events
from weft.lineage.events import Content, Level, RunRef
from weft.lineage.ids import Pathspec, TaskRef
from weft.lineage.journal import Place
from weft.lineage.schema import Event
from weft.runtime.graph import Graph
from weft.runtime.items import Item
from weft.runtime.machine import (
    CancelAttempts,
    Command,
    CreateTask,
    DelayRetry,
    EndRun,
    LaunchAttempt,
    Machine,
    TaskPlace,
)
from weft.runtime.orders import Expected, InputOrder, TaskOrder
from weft.runtime.refs import CARRIED_BYTES_MAX, Ref, Table, ref_of, ref_of_content

if TYPE_CHECKING:
    from weft.runtime.keys import FlowCode, Sight
    from weft.runtime.resume import Decision

__all__ = ["Chooser", "Frames", "Ledger"]


#: Where a sync is a request to a server: what is recorded waits for others this long, or until they are as many.
_COMMIT_S = 1.0
_COMMIT_BYTES = 1 << 20


class Frames(Protocol):
    """What a ledger writes to: a journal, or nothing where a run is only played through."""

    @property
    def is_full(self) -> bool: ...
    @property
    def is_sync_costly(self) -> bool: ...
    @property
    def unsynced_bytes(self) -> int: ...
    @property
    def next_seq(self) -> int: ...
    @property
    def writer(self) -> bytes: ...
    @property
    def last_time_us(self) -> int: ...
    def append(self, events: list[Event]) -> list[Place]: ...
    def sync(self) -> None: ...


class Chooser(Protocol):
    """Says whether a finished task stands in for one that is about to be created; None: it has no say in it."""

    def decide(self, place: TaskPlace, sight: Sight, are_parents_reused: bool) -> Decision | None: ...


class _Retry(NamedTuple):
    """A launch that is due at a time of the monotonic clock; `number` keeps those of one time in order."""

    due_s: float
    number: int
    launch: LaunchAttempt


class _Sync:
    """One sync of the journal in a thread of its own, and what waits for it."""

    __slots__ = ("_running", "_sync", "_wake", "covered", "error", "is_over")

    def __init__(
        self, sync: Callable[[], None], covered: list[LaunchAttempt | _Retry], wake: Callable[[], None]
    ) -> None:
        self.covered = covered
        self.error: BaseException | None = None
        self.is_over = False
        self._sync = sync
        self._wake = wake
        # The module `threading` would cost 4 ms at every start.
        self._running = _thread.allocate_lock()
        self._running.acquire()
        _thread.start_new_thread(self._run, ())

    def wait(self) -> None:
        """Until the thread touches nothing any more."""
        with self._running:
            return

    def _run(self) -> None:
        try:
            self._sync()
        except BaseException as error:  # noqa: BLE001  # It is raised where the ledger is used.
            self.error = error
        finally:
            self.is_over = True
            try:
                self._wake()
            finally:
                self._running.release()


class _TaskRow:
    __slots__ = ("is_reused", "items", "levels", "maker", "own", "parents", "ref", "table")

    def __init__(self, ref: TaskRef, levels: tuple[Level, ...], parents: list[_TaskRow]) -> None:
        self.ref = ref
        #: The task that really ran, where it is another one.
        self.maker: Pathspec | None = None
        self.levels = levels
        self.parents = parents
        #: The items of the foreachs around it, outermost first.
        self.items: tuple[Ref, ...] = parents[0].items[: len(levels)] if parents else ()
        self.own: dict[str, Ref] = {}
        self.table: Table = {}
        self.is_reused = False

    @property
    def is_item_missing(self) -> bool:
        """Whether it is the first task of a foreach body: its own item, none that it shares with its parents."""
        return len(self.items) < len(self.levels)

    @property
    def item_producer(self) -> Pathspec:
        """The task that made the list which its own item is of."""
        split = self.parents[0]
        listed = split.table.get(self.levels[-1].var)
        return listed.producer if listed is not None else split.maker or Pathspec(*split.ref[1:])


class Ledger:
    """One run's record as it grows. `watch` is shown every event once it is in the journal.

    With `chooser` tasks of earlier runs may stand in; `note` is told what it decided for each task.
    """

    def __init__(
        self,
        run: RunRef,
        graph: Graph,
        machine: Machine,
        journal: Frames,
        watch: Callable[[Event], None] | None,
        chooser: Chooser | None = None,
        note: Callable[[TaskPlace, str, tuple[Level, ...], Decision], None] | None = None,
    ) -> None:
        self.run = run
        self.ready: deque[LaunchAttempt] = deque()
        self.end: EndRun | None = None
        self.cancel_reason: str | None = None
        self.parameters: dict[str, Ref] = {}
        self._code: FlowCode | None = None
        self._parameter_digests: dict[str, bytes] = {}
        self._graph = graph
        self._machine = machine
        self._journal = journal
        self._watch = watch
        self._chooser = chooser
        self._note = note
        self._standing_in: dict[str, Table] = {}
        self._drafts: dict[str, _TaskRow] = {}
        self._path_uses: list[Event] = []
        self._retries: list[_Retry] = []
        self._retry_count = 0
        self._rows: dict[str, _TaskRow] = {}
        self._split_items: dict[str, list[Item]] = {}
        self._steps_seen: set[str] = set()
        self._unsynced = False
        self._commit_at_s = 0.0
        self._waiting: list[LaunchAttempt | _Retry] = []
        self._sync: _Sync | None = None

    @property
    def is_sync_costly(self) -> bool:
        """Whether a sync is a request to a server; then nobody should stand still for it."""
        return self._journal.is_sync_costly

    @property
    def is_reusing(self) -> bool:
        """Whether tasks of earlier runs may stand in."""
        return self._chooser is not None

    def task(self, task_id: str) -> TaskRef:
        return self._rows[task_id].ref

    def record(self, batch: list[Event], items: list[Item] | None = None) -> None:
        """Take in events of the run, in order, and all that follows from them.

        `items` are those of the foreach that the batch ends in.

        Raises: StoreUnavailable, then the run cannot go on.
        """
        self._split_items = {batch[-1].task_id or "": items} if items else {}
        batch = self._with_key(batch)
        while batch:
            if self._sync is not None and self._journal.is_full:
                self._sync.wait()  # It holds the file that is going to be closed.
            places = self._journal.append(batch)
            if not self._unsynced:
                self._unsynced = True
                self._commit_at_s = clock.monotonic_s() + _COMMIT_S if self.is_sync_costly else 0.0
            journal, watch = self._journal, self._watch
            seq = journal.next_seq - len(batch)
            following: list[Event] = []
            for event, place in zip(batch, places, strict=True):
                self._keep(event, place)
                for command in self._machine.advance(event):
                    following += self._carry_out(command)
                if watch is not None:  # As it is in the log; the machine has no use for that.
                    watch(event._replace(writer=journal.writer, seq=seq, time_us=journal.last_time_us))
                    seq += 1
            batch = following

    def know_code(self, code: FlowCode) -> None:
        """Take in what of the code each step depends on; tasks that end after this have a key."""
        self._code = code
        self.record([events.code_reached(self.run, code.to_payload())])

    def _with_key(self, batch: list[Event]) -> list[Event]:
        """The batch that ends an attempt, with the key of the task that it finishes."""
        if self._code is None or not batch or batch[-1].kind not in ("attempt_succeeded", "attempt_caught"):
            return batch
        # Off the way of the first task.
        from weft.runtime.keys import dependencies, pickles_among, task_key
        from weft.runtime.shapes import reads_of

        end = batch[-1]
        reads = [e for e in batch if e.kind in ("artifact_used", "artifact_merged", "external_used")]
        pickles, reason = pickles_among(reads)
        code = self._code.with_pickles(end.step or "", pickles, reason)
        if code is None:
            return batch
        sight = self._sight(self._rows[end.task_id or ""])
        depends_on = dependencies(reads, sight, code, self._path_uses)
        payload = {**(end.payload or {}), "task_key": task_key(code, depends_on)}
        told = reads_of(code, pickles, depends_on)
        if told is not None and end.kind == "attempt_succeeded":
            payload["reads"] = told
        return [*batch[:-1], end._replace(payload=payload)]

    def _sight(self, row: _TaskRow) -> Sight:
        """What a task can see as it is created."""
        from weft.runtime.keys import Input, Sight

        inputs = None
        table: Table = {}
        if self._graph.steps[row.ref.step].kind == "join":
            inputs = tuple(Input(p.ref.step, p.levels, p.items, p.table) for p in row.parents)
        elif row.parents:
            table = row.parents[0].table
        return Sight(self._parameter_digests, row.levels, row.items, table, inputs)

    def cancel(self, reason: str) -> None:
        """Somebody asks for the end of the run."""
        for command in self._machine.cancel(reason):
            self._carry_out(command)

    def is_commit_due(self, has_room: bool) -> bool:
        """Whether to sync now what is recorded; `has_room` says that a worker has nothing to do.

        At once where a sync costs little, or where a worker waits for it; else when there is more.
        """
        if not self.is_sync_costly or (has_room and self._waiting and not self.ready):
            return True
        return self._journal.unsynced_bytes >= _COMMIT_BYTES or clock.monotonic_s() >= self._commit_at_s

    def next_commit_s(self) -> float | None:
        """Seconds until what is recorded is due to be synced; None when nothing waits for time to pass."""
        if not self._unsynced or self._sync is not None or not self.is_sync_costly:
            return None
        return max(0.0, self._commit_at_s - clock.monotonic_s())

    def sync(self) -> None:
        """Make everything recorded durable, and what waited for that ready. Raises: StoreUnavailable."""
        if self._sync is not None:
            self._sync.wait()
            self.finish_sync()
        if self._unsynced:
            self._journal.sync()
            self._unsynced = False
        self._release(self._waiting)
        self._waiting = []

    def start_sync(self, wake: Callable[[], None]) -> None:
        """Make durable what is recorded by now while the caller goes on; then `wake` is called, from another thread.

        One sync at a time: what is recorded meanwhile waits for the next, which so takes in all the more.
        """
        if self._sync is None and self._unsynced:
            self._unsynced = False
            covered, self._waiting = self._waiting, []
            self._sync = _Sync(self._journal.sync, covered, wake)

    def finish_sync(self) -> None:
        """Make ready what waited for a sync that is over. Raises: StoreUnavailable when it failed."""
        if self._sync is not None and self._sync.is_over:
            done, self._sync = self._sync, None
            done.wait()  # What it wakes may be closed as soon as this one is forgotten.
            if done.error is not None:
                raise done.error
            self._release(done.covered)

    def wait_for_sync(self) -> None:
        """Let a sync that is under way come to its end."""
        if self._sync is not None:
            self._sync.wait()

    def _release(self, launches: list[LaunchAttempt | _Retry]) -> None:
        for launch in launches:
            if isinstance(launch, _Retry):
                heapq.heappush(self._retries, launch)
            else:
                self.ready.append(launch)

    def due_retries(self) -> list[LaunchAttempt]:
        """The retries whose wait is over."""
        now_s = clock.monotonic_s()
        due = []
        while self._retries and self._retries[0].due_s <= now_s:
            due.append(heapq.heappop(self._retries).launch)
        return due

    def next_retry_s(self) -> float | None:
        """Seconds until the next retry is due."""
        return max(0.0, self._retries[0].due_s - clock.monotonic_s()) if self._retries else None

    def drop_waiting(self) -> None:
        """Forget what was to be launched."""
        self.ready.clear()
        self._retries.clear()
        self._waiting.clear()
        if self._sync is not None:
            self._sync.covered.clear()

    def order(self, launch: LaunchAttempt) -> TaskOrder:
        """What a worker needs to know to make an attempt."""
        row = self._rows[launch.task_id]
        node = self._graph.steps[row.ref.step]
        inputs = None
        if node.kind == "join":
            inputs = tuple(
                InputOrder(p.ref.step, p.ref.task_id, p.levels, p.items, p.table) for p in row.parents
            )
        return TaskOrder(
            row.ref,
            launch.attempt,
            launch.is_last,
            launch.is_fallback,
            row.levels,
            row.items,
            row.parents[0].table if inputs is None and row.parents else {},
            Expected(node.out_steps, node.foreach, node.condition is not None, node.is_end),
            inputs,
        )

    # What an event leaves behind

    def _keep(self, event: Event, place: Place) -> None:
        if event.kind == "task_created":
            self._rows[event.task_id or ""] = self._taken_up(event, place)
        elif event.kind == "task_reused":
            row = self._rows[event.task_id or ""] = self._taken_up(event, place)
            row.is_reused = True
            row.maker = Pathspec(
                event.producer_flow or "", event.producer_run_id, event.producer_step, event.producer_task_id
            )
            row.own.update(self._standing_in.pop(event.task_id or ""))
            self._fill_table(row)
        elif event.kind == "external_used" and event.attempt is None:
            self._path_uses.append(event)
        elif event.kind == "parameter_set":
            producer = Pathspec(self.run.flow, self.run.run_id, "_parameters", "0")
            ref = self.parameters[event.name or ""] = ref_of(event, producer, place)
            self._parameter_digests[event.name or ""] = ref.digest
        elif event.kind == "attempt_started":
            self._rows[event.task_id or ""].own = {}  # What a failed attempt saved is not inherited.
        elif event.kind == "artifact_saved":
            row = self._rows[event.task_id or ""]
            row.own[event.name or ""] = ref_of(event, Pathspec(*row.ref[1:]), place)
        elif event.kind == "artifact_merged":
            row = self._rows[event.task_id or ""]
            row.own[event.name or ""] = _merged_ref(row, event)
        elif event.kind in ("attempt_succeeded", "attempt_caught"):
            self._fill_table(self._rows[event.task_id or ""])

    def _taken_up(self, event: Event, place: Place) -> _TaskRow:
        """The row of a new task; that of its decision, unless its item is better read from the journal."""
        row = self._drafts.pop(event.task_id or "", None)
        is_carried = event.blob is None or len(event.blob) <= CARRIED_BYTES_MAX
        return row if row is not None and is_carried else self._new_row(event, place)

    def _new_row(self, event: Event, place: Place) -> _TaskRow:
        assert event.payload is not None
        assert event.step is not None
        assert event.task_id is not None
        levels = tuple([Level(*level) for level in event.payload["levels"]])
        parents = [self._rows[task_id] for _, task_id in event.payload["parents"]]
        row = _TaskRow(self.run.task(event.step, event.task_id), levels, parents)
        if event.digest is not None and row.is_item_missing:
            row.items = (*row.items, ref_of(event, row.item_producer, place))
        return row

    def _fill_table(self, row: _TaskRow) -> None:
        """What tasks after this one inherit: all it inherited and its own; a join inherits nothing."""
        is_join = self._graph.steps[row.ref.step].kind == "join"
        inherited = row.parents[0].table if row.parents and not is_join else {}
        row.table = {**inherited, **row.own} if row.own else inherited

    # What the machine asks for

    def _carry_out(self, command: Command) -> list[Event]:
        """The events that a command stands for; what has to wait for a sync is put aside."""
        if isinstance(command, CreateTask):
            return self._create(command)
        if isinstance(command, LaunchAttempt):
            self._waiting.append(command)
        elif isinstance(command, DelayRetry):
            self._retry_count += 1
            due_s = clock.monotonic_s() + command.delay_s
            self._waiting.append(_Retry(due_s, self._retry_count, command.launch))
            task = self.task(command.launch.task_id)
            return [events.retry_scheduled(task, command.launch.attempt, command.delay_s)]
        elif isinstance(command, CancelAttempts):
            self.cancel_reason = command.reason
            self.drop_waiting()
        else:
            self.end = command
        return []

    def _create(self, command: CreateTask) -> list[Event]:
        levels = command.levels
        content: Content | None = None
        if command.item_of is not None:
            item = self._split_items[command.item_of][command.levels[-1].position]
            content = item.content
            levels = (*levels[:-1], Level(*levels[-1][:-1], item.label))
        step = command.place.step
        task = self.run.task(step, command.task_id)
        if self._chooser is None:
            created = events.task_created(task, command.parents, levels, content)
        else:
            created = self._decided(self._chooser, command, task, levels, content)
        if created.kind == "task_reused" or step in self._steps_seen:
            return [created]
        self._steps_seen.add(step)
        return [events.step_started(self.run, step), created]

    def _decided(
        self,
        chooser: Chooser,
        command: CreateTask,
        task: TaskRef,
        levels: tuple[Level, ...],
        content: Content | None,
    ) -> Event:
        """The event of a new task, or that of an earlier one which stands in for it."""
        parents = [self._rows[task_id] for _, task_id in command.parents]
        row = self._drafts[command.task_id] = _TaskRow(task, levels, parents)
        if content is not None and row.is_item_missing:
            row.items = (*row.items, ref_of_content(content, row.item_producer))
        are_reused = all(parent.is_reused for parent in parents)
        decision = chooser.decide(command.place, self._sight(row), are_reused)
        if decision is None:
            return events.task_created(task, command.parents, levels, content)
        if self._note is not None:
            self._note(command.place, command.task_id, levels, decision)
        earlier = decision.earlier
        if decision.action != "reuse" or earlier is None:
            created = events.task_created(task, command.parents, levels, content)
            return created._replace(payload={**(created.payload or {}), "why": decision.to_payload()})
        self._standing_in[command.task_id] = earlier.saved
        if earlier.transition.get("foreach") is not None:
            self._split_items[command.task_id] = earlier.items
        status = "caught" if earlier.source.status == "caught" else "succeeded"
        told = {**earlier.transition, "status": status, "reason": decision.reason}
        return events.task_reused(task, earlier.pathspec, command.parents, levels, content, told)


def _merged_ref(row: _TaskRow, event: Event) -> Ref:
    """The reference that a merge took over, found in the table of an input that has it."""
    for parent in row.parents:
        ref = parent.table.get(event.name or "")
        if ref is not None and ref.digest == event.digest:
            return ref
    raise AssertionError(f"merged {event.name} is in no input of {row.ref.pathspec}")
