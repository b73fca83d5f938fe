"""Attempts in the scheduler's own process, one after the other: `breakpoint()` and progress bars work.

There is no isolation: what a step changes in the process, later steps see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from weft.lineage import clock, events
from weft.lineage.objects import Objects
from weft.lineage.schema import Event
from weft.runtime.attempt import Attempt
from weft.runtime.console import ConsoleStream
from weft.runtime.flow import FlowSpec
from weft.runtime.ledger import Ledger
from weft.runtime.machine import EndRun, LaunchAttempt
from weft.runtime.orders import RunContext
from weft.runtime.scheduler import LEASE_RENEWAL_S, Watcher, lease_of

__all__ = ["InlineRunner"]

#: Hooks of a fork cannot be taken back.
_has_hooks = False


class InlineRunner:
    """Carries a run from its first event to its last without another process."""

    def __init__(
        self,
        ledger: Ledger,
        flow_class: type[FlowSpec],
        context: RunContext,
        objects: Objects,
        watcher: Watcher,
        max_log_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._flow_class = flow_class
        self._context = context
        self._objects = objects
        self._watcher = watcher
        self._max_log_bytes = max_log_bytes
        self._is_interruptible = False
        self._is_interrupted = False
        self._renew_at_s = clock.monotonic_s() + LEASE_RENEWAL_S

    def run(self, meanwhile: Callable[[], None]) -> EndRun:
        """Run until everything has come to rest, after `meanwhile`. Ctrl-C and SIGTERM cancel the run."""
        import signal

        meanwhile()

        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        _let_forks_end_by(signal.SIGTERM)
        try:
            return self._run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        """Stop what the user wrote at once, and the keeping of the record between two events only."""
        if self._is_interruptible:
            raise KeyboardInterrupt
        self._is_interrupted = True

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        self._is_interruptible = True
        try:
            if self._is_interrupted:
                raise KeyboardInterrupt
            yield
        finally:
            self._is_interruptible = False

    def _run(self) -> EndRun:
        ledger = self._ledger
        ledger.sync()
        while ledger.end is None:
            if self._is_interrupted:
                ledger.cancel("the run was interrupted")
                continue
            ledger.ready.extend(ledger.due_retries())
            if ledger.ready:
                self._make(ledger.ready.popleft())
            else:
                self._wait()
            if ledger.cancel_reason is not None:
                ledger.drop_waiting()
            self._watcher.on_tick()
        return ledger.end

    def _wait(self) -> None:
        import time

        wait_s = self._ledger.next_retry_s()
        assert wait_s is not None, "a run that is not over has something ready or waiting"
        try:
            with self._interruptible():
                time.sleep(wait_s)
        except KeyboardInterrupt:
            self._ledger.cancel("the run was interrupted")

    def _make(self, launch: LaunchAttempt) -> None:
        order = self._ledger.order(launch)
        task, number = order.task, launch.attempt
        # Between two tasks only: in one that takes long its lease runs out.
        if clock.monotonic_s() >= self._renew_at_s:
            self._renew_at_s = clock.monotonic_s() + LEASE_RENEWAL_S
            self._ledger.record([lease_of(self._ledger.run)])
        self._ledger.record([events.attempt_started(task, number, os.getpid(), os.uname().nodename)])
        streams = [
            ConsoleStream(name, task, number, self._max_log_bytes, self._objects, lambda stream, line: None)
            for name in ("stdout", "stderr")
        ]
        try:
            with _copied(streams), self._interruptible():
                attempt = Attempt(self._flow_class, self._context, order, self._objects)
                outcome = attempt.run()
        except KeyboardInterrupt:
            self._ledger.cancel("the run was interrupted")
            reason = self._ledger.cancel_reason or "the run was interrupted"
            self._record([*_rest_of(streams), events.attempt_cancelled(task, number, reason)], [])
            return
        self._record([*_rest_of(streams), *outcome.events], outcome.items)

    def _record(self, batch: list[Event], items: list[Any]) -> None:
        self._ledger.record(batch, items)
        if self._ledger.is_commit_due(has_room=True):
            self._ledger.sync()


def _let_forks_end_by(number: int) -> None:
    """A process that a step forks, as a pool does, ends by this signal from its first moment on.

    It would inherit a handler in Python, which may never run: what comes in while it is forked is dropped.
    """
    global _has_hooks
    if _has_hooks:
        return
    import signal
    from threading import local

    #: What the thread that forks had blocked before.
    before = local()

    def begin() -> None:
        before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [number])

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)

    def begin_child() -> None:
        # Only the handler of a run: what else there is was set by who forks.
        if isinstance(getattr(signal.getsignal(number), "__self__", None), InlineRunner):
            signal.signal(number, signal.SIG_DFL)
        go_on()

    os.register_at_fork(before=begin, after_in_parent=go_on, after_in_child=begin_child)
    _has_hooks = True


def _rest_of(streams: list[ConsoleStream]) -> list[Event]:
    return [event for stream in streams for event in stream.last_events()]


class _Copy:
    """A text stream that is shown as before and kept for the record; a terminal stays one."""

    def __init__(self, shown: TextIO, kept: ConsoleStream) -> None:
        self._shown = shown
        self._kept = kept

    def write(self, text: str) -> int:
        written = self._shown.write(text)
        self._kept.feed(text.encode("utf-8", "backslashreplace"))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)


@contextmanager
def _copied(streams: list[ConsoleStream]) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    out, err = (_Copy(shown, kept) for shown, kept in zip(before, streams, strict=True))
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
