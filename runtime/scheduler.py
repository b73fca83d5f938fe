"""The shell around the machine: starts attempts, hears what they say, records it, one sync for all that arrived.

One loop over what is readable. A turn: take in everything that has arrived, fill free workers with work that is
already durable, append, sync, fill the rest. Nothing is acted upon before it is durable. While workers are busy the
sync has a thread of its own, and a turn does not wait for it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from weft.lineage import clock, events
from weft.lineage.events import Content, RunRef
from weft.lineage.ids import TaskRef
from weft.lineage.objects import Objects
from weft.lineage.schema import Event
from weft.runtime.console import ConsoleStream, Line
from weft.runtime.items import Item
from weft.runtime.launcher import Channels, Exit, Launcher, LaunchFailed
from weft.runtime.ledger import Ledger
from weft.runtime.machine import EndRun, LaunchAttempt
from weft.runtime.orders import RunContext, pack_context, pack_order
from weft.runtime.wire import MessageReader, event_of, pack_message

__all__ = ["LEASE_RENEWAL_S", "LEASE_S", "Limits", "Scheduler", "Watcher", "lease_of"]

#: A scheduler that is not seen otherwise counts as alive for this long after it last said so.
LEASE_S = 120
LEASE_RENEWAL_S = 30

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: How long cancelled attempts may take to end by themselves.
_GRACE_S = 5.0
_READ_BYTES = 256 << 10
#: No pipe holds more, so what was printed before an attempt's last word is among as many bytes.
_PIPE_BYTES_MAX = 1 << 20
#: Console lines become chunks by age; how often that is looked at.
_CONSOLE_TICK_S = 0.25


class Watcher(Protocol):
    """Who is shown what happens as it happens. Must not raise and must not take long."""

    def on_event(self, event: Event) -> None: ...
    def on_line(self, task: TaskRef, attempt: int, pid: int, stream: str, line: Line) -> None: ...
    def on_tick(self) -> None: ...


class Limits(NamedTuple):
    """What a run may take. Sizes in bytes."""

    max_workers: int
    max_log_bytes: int


class _Running:
    """One attempt in flight."""

    __slots__ = (
        "channels",
        "exit",
        "is_finished",
        "launch",
        "outbox",
        "pid",
        "reader",
        "streams",
        "task",
        "token",
    )

    def __init__(self, token: int, launch: LaunchAttempt, task: TaskRef, channels: Channels) -> None:
        self.token = token
        self.launch = launch
        self.task = task
        self.channels = channels
        self.pid = 0
        self.reader = MessageReader()
        self.streams: dict[int, ConsoleStream] = {}
        self.outbox = b""
        self.is_finished = False
        self.exit: Exit | None = None


class Scheduler:
    """Carries a run from its first event to its last."""

    def __init__(
        self,
        ledger: Ledger,
        launcher: Launcher,
        context: RunContext,
        objects: Objects,
        watcher: Watcher,
        limits: Limits,
    ) -> None:
        self._ledger = ledger
        self._launcher = launcher
        self._context_message = pack_message("context", pack_context(context))
        self._objects = objects
        self._watcher = watcher
        self._limits = limits
        self._host = os.uname().nodename
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, _Running] = {}
        self._by_descriptor: dict[int, _Running] = {}
        self._batches: list[tuple[list[Event], list[Item] | None]] = []
        self._next_token = 0
        self._interrupts = 0
        self._is_cancelling = False
        self._kill_at_s: float | None = None
        self._renew_at_s = clock.monotonic_s() + LEASE_RENEWAL_S
        self._wake_write = -1

    def run(self, meanwhile: Callable[[], None]) -> EndRun:
        """Run until everything has come to rest; the run's last event is recorded by the caller.

        `meanwhile` is called once the first attempts are on their way, before anything they say is taken in.

        SIGINT, SIGTERM and SIGHUP cancel the run; a second one kills what is left at once.
        """
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        self._wake_write = wake_write
        # A signal that was ignored when we came stays so: `nohup` and shells in the background ask for that.
        heard = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in heard}
        wakeup_before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        wakes = self._launcher.wake_descriptors()
        for descriptor in (wake_read, *wakes):
            self._selector.register(descriptor, selectors.EVENT_READ)
        try:
            self._turn()
            meanwhile()
            while True:
                self._turn()
                if self._ledger.end is not None and not self._running:
                    self._ledger.sync()
                    return self._ledger.end
                for key, mask in self._selector.select(self._wait_s()):
                    descriptor = key.fd
                    if descriptor == wake_read:
                        _drain(wake_read)
                    else:
                        self._take_in(descriptor, mask)
                self._take_exits()
                for descriptor in [d for d in wakes if d not in self._launcher.wake_descriptors()]:
                    self._selector.unregister(descriptor)
                    wakes.remove(descriptor)
        finally:
            self._ledger.wait_for_sync()
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(wake_read)
            os.close(wake_write)

    # A turn

    def _turn(self) -> None:
        self._obey_interrupts()
        self._ledger.finish_sync()
        self._ledger.ready.extend(self._ledger.due_retries())
        if not any(e.kind == "attempt_failed" for batch, _ in self._batches for e in batch[-1:]):
            # What failed comes first: it may stop what would take its place.
            self._launch_ready()
        self._collect_console()
        self._renew_lease()
        batches, self._batches = self._batches, []
        for batch, items in batches:
            self._ledger.record(batch, items)
        is_busy = any(not running.is_finished for running in self._running.values())
        if is_busy or self._ledger.is_sync_costly:
            # Workers are busy: take in more while the disk is, so that a slow one only makes batches larger.
            if self._ledger.is_commit_due(len(self._running) < self._limits.max_workers):
                self._ledger.start_sync(self._wake)
        else:
            self._ledger.sync()
        if self._ledger.cancel_reason is not None:
            self._cancel_running()
        self._launch_ready()
        if self._ledger.end is None and not self._is_cancelling:
            self._launcher.prepare()
        self._watcher.on_tick()

    def _wake(self) -> None:
        """Called by the thread of a sync that is over."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def _launch_ready(self) -> None:
        ready: deque[LaunchAttempt] = self._ledger.ready
        while ready and len(self._running) < self._limits.max_workers:
            self._launch(ready.popleft())

    def _launch(self, launch: LaunchAttempt) -> None:
        token = self._next_token = self._next_token + 1
        order = self._ledger.order(launch)
        try:
            channels = self._launcher.launch(token)
        except LaunchFailed as error:
            lost = {"cause": "lost", "message": str(error)}
            told = [
                events.attempt_started(order.task, launch.attempt, 0, self._host),
                events.attempt_failed(order.task, launch.attempt, "WorkerLost", lost),
            ]
            self._batches.append((told, None))
            return
        running = _Running(token, launch, order.task, channels)
        for descriptor, name in ((channels.stdout, "stdout"), (channels.stderr, "stderr")):
            running.streams[descriptor] = ConsoleStream(
                name,
                order.task,
                launch.attempt,
                self._limits.max_log_bytes,
                self._objects,
                lambda stream, line, r=running: self._watcher.on_line(  # type: ignore[misc]
                    r.task, r.launch.attempt, r.pid, stream, line
                ),
            )
        self._running[token] = running
        for descriptor in (channels.connection.fileno(), channels.stdout, channels.stderr):
            self._by_descriptor[descriptor] = running
            self._selector.register(descriptor, selectors.EVENT_READ)
        running.outbox = self._context_message + pack_message("task", pack_order(order))
        self._send(running)

    def _send(self, running: _Running) -> None:
        """Give the worker as much of its order as it takes now."""
        connection = running.channels.connection
        try:
            while running.outbox:
                running.outbox = running.outbox[connection.send(running.outbox) :]
        except BlockingIOError:
            self._selector.modify(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
            return
        except (BrokenPipeError, ConnectionResetError):
            running.outbox = b""  # It has died; its exit is reported.
        self._selector.modify(connection, selectors.EVENT_READ)

    # What arrives

    def _take_in(self, descriptor: int, mask: int) -> None:
        running = self._by_descriptor.get(descriptor)
        if running is None:
            return
        if descriptor in running.streams:
            self._read_console(running, descriptor)
            return
        if mask & selectors.EVENT_WRITE and running.outbox:
            self._send(running)
        if mask & selectors.EVENT_READ:
            self._read_messages(running)

    def _read_console(self, running: _Running, descriptor: int) -> int:
        """One bounded read, so that a task which floods its output starves nobody; how many bytes it gave."""
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._forget(descriptor)
            return 0
        running.streams[descriptor].feed(data)
        return len(data)

    def _read_messages(self, running: _Running) -> bool:
        connection = running.channels.connection
        try:
            chunk = connection.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            self._forget(connection.fileno())
            return False
        for kind, body in running.reader.feed(chunk):
            if kind == "started":
                self._on_started(running, body)
            elif kind == "finished":
                self._on_finished(running, body)
        return True

    def _on_started(self, running: _Running, pid: int) -> None:
        running.pid = pid
        self._batches.append(
            ([events.attempt_started(running.task, running.launch.attempt, pid, self._host)], None)
        )

    def _on_finished(self, running: _Running, body: dict[str, Any]) -> None:
        """The attempt has said all it has to say; what it printed before lies in its pipes already."""
        running.is_finished = True
        batch = [*self._last_console(running), *(event_of(row) for row in body["events"])]
        items = [Item(_content(fields), label) for fields, label in body["items"]]
        self._batches.append((batch, items))

    def _last_console(self, running: _Running) -> list[Event]:
        last: list[Event] = []
        for descriptor, stream in running.streams.items():
            # A process that the task left behind may print for ever.
            left_bytes = _PIPE_BYTES_MAX if descriptor in self._by_descriptor else 0
            while left_bytes > 0 and (read_bytes := self._read_console(running, descriptor)):
                left_bytes -= read_bytes
            last += stream.last_events()
        return last

    def _take_exits(self) -> None:
        for ended in self._launcher.exits():
            running = self._running.pop(ended.token)
            running.exit = ended
            if running.channels.connection.fileno() in self._by_descriptor:
                # Its last words and the news of its death race on two channels.
                while self._read_messages(running):
                    pass
            last = self._last_console(running)
            if not running.is_finished:
                if not running.pid:
                    self._on_started(running, ended.pid or 0)
                last.append(self._event_of_death(running, ended))
            if last:
                self._batches.append((last, None))
            for descriptor in (running.channels.connection.fileno(), *running.streams):
                self._forget(descriptor)
            running.channels.close()

    def _event_of_death(self, running: _Running, ended: Exit) -> Event:
        """What ended an attempt that had not finished."""
        task, attempt = running.task, running.launch.attempt
        if self._is_cancelling:
            return events.attempt_cancelled(
                task, attempt, self._ledger.cancel_reason or "the run was cancelled"
            )
        if ended.code is None:
            payload = {"cause": "lost", "message": "Its process could not be started, or was lost."}
            return events.attempt_failed(task, attempt, "WorkerLost", payload)
        if ended.code < 0:
            name = _signal_name(-ended.code)
            payload = {"cause": "signal", "exit_signal": name, "message": f"Its process died of {name}."}
            return events.attempt_failed(task, attempt, name, payload)
        message = f"Its process ended with exit code {ended.code} before the step had finished."
        return events.attempt_failed(
            task, attempt, "ProcessExit", {"cause": "exit", "exit_code": ended.code, "message": message}
        )

    def _forget(self, descriptor: int) -> None:
        if self._by_descriptor.pop(descriptor, None) is not None:
            self._selector.unregister(descriptor)

    # Time

    def _wait_s(self) -> float:
        waits = [self._renew_at_s - clock.monotonic_s()]
        for due_s in (self._ledger.next_retry_s(), self._ledger.next_commit_s()):
            if due_s is not None:
                waits.append(due_s)
        if self._kill_at_s is not None:
            waits.append(self._kill_at_s - clock.monotonic_s())
        if any(s.is_waiting for r in self._running.values() for s in r.streams.values()):
            waits.append(_CONSOLE_TICK_S)
        if self._batches or (self._ledger.ready and len(self._running) < self._limits.max_workers):
            waits.append(0.0)
        return max(0.0, min(*waits, 1.0))

    def _collect_console(self) -> None:
        for running in self._running.values():
            if not running.is_finished:
                for stream in running.streams.values():
                    if due := stream.due_events():
                        self._batches.append((due, None))

    def _renew_lease(self) -> None:
        """Tell readers who cannot see this process that it lives."""
        now_s = clock.monotonic_s()
        if now_s >= self._renew_at_s:
            self._renew_at_s = now_s + LEASE_RENEWAL_S
            self._batches.append(
                ([events.lease_renewed(self._ledger.run, clock.now_us() + LEASE_S * 1_000_000)], None)
            )

    # Ends

    def _on_signal(self, number: int, frame: object) -> None:
        self._interrupts += 1

    def _obey_interrupts(self) -> None:
        if self._interrupts >= 1 and not self._is_cancelling:
            self._ledger.cancel("the run was interrupted")
        if self._interrupts >= 2:
            self._kill_at_s = clock.monotonic_s()
        if self._kill_at_s is not None and clock.monotonic_s() >= self._kill_at_s:
            self._kill_at_s = clock.monotonic_s() + _GRACE_S
            self._signal_running(signal.SIGKILL)

    def _cancel_running(self) -> None:
        self._ledger.drop_waiting()
        if not self._is_cancelling:
            self._is_cancelling = True
            self._kill_at_s = clock.monotonic_s() + _GRACE_S
            self._signal_running(signal.SIGTERM)

    def _signal_running(self, number: int) -> None:
        for running in self._running.values():
            if not running.is_finished:
                self._launcher.signal(running.token, number)


def lease_of(run: RunRef) -> Event:
    """The first lease, which a run takes as it starts."""
    return events.lease_renewed(run, clock.now_us() + LEASE_S * 1_000_000)


def _content(fields: list[Any]) -> Content:
    return Content(*fields)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        return
