"""What a run shows while it goes on: live lines on a terminal, plain lines elsewhere, tasks' output as it comes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from weft.cli.format import escape_controls, format_duration, truncate
from weft.cli.output import Output
from weft.lineage import clock
from weft.lineage.errors import UsageError
from weft.lineage.ids import TaskRef
from weft.lineage.schema import Event
from weft.runtime.console import Line

__all__ = ["Progress"]

_REDRAW_S = 0.1
_REPORT_S = 10.0  # how often a long step says how far it is, where lines cannot be redrawn
_STEPS_SHOWN_MAX = 12
_MESSAGE_WIDTH_MAX = 1_000
_PARAMETERS_STEP = "_parameters"  # where parameters are recorded; no step of the flow


class _Step:
    __slots__ = (
        "created",
        "done",
        "failed",
        "finished_s",
        "is_announced",
        "name",
        "reported_s",
        "reused",
        "running",
        "started_s",
    )

    def __init__(self, name: str, now_s: float) -> None:
        self.name = name
        self.created = self.done = self.failed = self.reused = self.running = 0
        self.started_s = self.reported_s = now_s
        self.finished_s: float | None = None
        self.is_announced = False

    @property
    def is_over(self) -> bool:
        return self.done + self.failed >= self.created


class Progress:
    """Shows one run. Framework lines go to stderr, what tasks print to stdout."""

    def __init__(self, flow: str, is_quiet: bool, run_id_file: str | None = None) -> None:
        self._flow = flow
        self._is_quiet = is_quiet
        self._run_id_file = run_id_file
        if run_id_file is not None:
            _open_run_id_file(run_id_file).close()  # Refused before anything is recorded.
        self._run_uid: bytes | None = None
        self._out: TextIO = Output().stream
        self._err = Output(sys.stderr)
        self._is_live = sys.stderr.isatty() and not is_quiet
        self._steps: dict[str, _Step] = {}
        self._ended: list[_Step] = []  # whose tasks have all ended, as far as is known
        self._drawn_lines = 0
        self._drawn_s = 0.0
        self._is_dirty = False
        self._second: tuple[int, str] = (-1, "")
        self._labels: dict[str | None, str] = {}  # of foreach items, by task id
        self._origin = ""
        self._reused: int | None = 0  # tasks that are reused before any runs, until that was said
        self.run_id: str | None = None
        self.failures: list[Event] = []

    # The scheduler's watcher

    def on_event(self, event: Event) -> None:
        if event.kind == "run_started":
            self._begin(event)
        elif event.run_uid == self._run_uid and event.step not in (None, _PARAMETERS_STEP):
            self._on_task_event(event)

    def on_line(self, task: TaskRef, attempt: int, pid: int, stream: str, line: Line) -> None:
        with _while_read(self._err.stream):
            self._erase()
        stamp = self._stamp(line.time_us)
        place = f"{task.run_id}/{task.step}/{task.task_id} (pid {pid})"
        with _while_read(self._out):
            self._out.write(f"{stamp} [{place}] {line.text}\n")
        self._is_dirty = True

    def on_tick(self) -> None:
        self._flush()
        self._announce_reuse()
        self._announce_ends()
        now_s = clock.monotonic_s()
        if self._is_live:
            if now_s - self._drawn_s >= _REDRAW_S:
                self._draw(now_s)
        elif not self._is_quiet:
            self._report_long_steps(now_s)

    def end(self) -> None:
        """Leave the last state of the live lines standing."""
        self._flush()
        self._announce_ends()
        if self._is_live:
            self._draw(clock.monotonic_s())
            self._drawn_lines = 0

    def say(self, text: str, style: str | None = None) -> None:
        """One framework line."""
        if self._is_quiet:
            return
        self._flush()  # What tasks printed before comes before, where both streams are one.
        with _while_read(self._err.stream):
            self._erase()
            self._err.line(f"{self._stamp(clock.now_us())} {self._err.styled(text, style)}")
            self._err.flush()

    # Inside

    def _begin(self, event: Event) -> None:
        self._run_uid = event.run_uid
        self.run_id = event.run_id
        if self._run_id_file is not None:
            with _open_run_id_file(self._run_id_file) as file:
                file.write(event.run_id or "")
        origin = (event.payload or {}).get("origin_run_id")
        self._origin = f"{self._flow}/{origin}" if origin else ""
        resumed = f", resuming {self._flow}/{origin}" if origin else ""
        self.say(f"{self._flow}/{event.run_id} started{resumed}", "bold")

    def _on_task_event(self, event: Event) -> None:
        assert event.step is not None
        now_s = clock.monotonic_s()
        step = self._steps.get(event.step)
        if step is None:
            step = self._steps[event.step] = _Step(event.step, now_s)
        kind = event.kind
        if kind == "task_created":
            step.created += 1
            levels = (event.payload or {}).get("levels")
            if levels and levels[-1][-1]:
                self._labels[event.task_id] = f" ({escape_controls(levels[-1][-1])})"
        elif kind == "task_reused":
            step.created += 1
            step.done += 1
            step.reused += 1
            if self._reused is not None:
                self._reused += 1
            elif step.is_over:
                self._ended.append(step)  # Among tasks that ran: it is told like them.
        elif kind == "attempt_started":
            step.running += 1
            if not step.is_announced:
                step.is_announced = True
                self._announce(step)
        elif kind in ("attempt_succeeded", "attempt_caught", "attempt_failed", "attempt_cancelled"):
            step.running -= 1
            self._on_end(step, event)
        elif kind == "retry_scheduled":
            step.failed -= 1
            step.finished_s = None
            delay = (event.payload or {}).get("delay_s") or 0
            when = f"in {format_duration(delay)}" if delay else "now"
            self.say(f"{self._place(event)}: attempt {event.attempt} follows {when}", "yellow")
        self._is_dirty = True

    def _on_end(self, step: _Step, event: Event) -> None:
        payload = event.payload or {}
        place = self._place(event)
        if event.kind in ("attempt_succeeded", "attempt_caught"):
            step.done += 1
        elif event.kind == "attempt_failed":
            step.failed += 1
            self.failures.append(event)
        if event.kind in ("attempt_failed", "attempt_caught"):
            message = truncate(escape_controls(str(payload.get("message") or "")), _MESSAGE_WIDTH_MAX)
            what = "caught" if event.kind == "attempt_caught" else "failed"
            style = "yellow" if what == "caught" else "red"
            reason = f"{event.type}: {message}" if message else event.type
            self.say(f"{place}: attempt {event.attempt} {what}: {reason}", style)
        if step.is_over:
            self._ended.append(step)

    def _announce_reuse(self) -> None:
        """Say how many tasks stand in from the origin or other runs, before the first one runs."""
        count, self._reused = self._reused, None
        if count or (count is not None and self._origin):
            tasks = "1 task" if count == 1 else f"{count:,} tasks"
            self.say(f"{tasks} of {self._origin or 'earlier runs'} {'is' if count == 1 else 'are'} reused")

    def _announce_ends(self) -> None:
        """Say which steps are over. A retry that follows a failure at once has been heard of by now."""
        ended, self._ended = self._ended, []
        for step in ended:
            if step.is_over and step.finished_s is None:
                step.finished_s = now_s = clock.monotonic_s()
                if not self._is_live and step.reused == step.created:
                    self.say(f"{step.name}: reused")
                elif not self._is_live:
                    elapsed = format_duration(now_s - step.started_s)
                    self.say(f"{step.name}: {self._counts(step)} in {elapsed}")

    def _place(self, event: Event) -> str:
        return f"{event.step}/{event.task_id}{self._labels.get(event.task_id, '')}"

    def _announce(self, step: _Step) -> None:
        self._announce_ends()
        if not self._is_live:
            tasks = "1 task" if step.created == 1 else f"{step.created:,} tasks"
            self.say(f"{step.name}: {tasks} started")

    def _report_long_steps(self, now_s: float) -> None:
        for step in self._steps.values():
            if step.finished_s is None and step.running and now_s - step.reported_s >= _REPORT_S:
                step.reported_s = now_s
                counts = self._counts(step)
                self.say(f"{step.name}: {counts + ', ' if counts else ''}{step.running} running")

    def _counts(self, step: _Step) -> str:
        parts = [f"{step.done:,} of {step.created:,} done" if step.created > 1 else "done" * (step.done > 0)]
        if step.reused:
            parts.append(f"{step.reused:,} reused")
        if step.failed:
            parts.append(f"{step.failed:,} failed")
        return ", ".join(part for part in parts if part)

    # Live lines

    def _draw(self, now_s: float) -> None:
        if not self._is_dirty and not any(step.running for step in self._steps.values()):
            return
        self._flush()
        lines = [self._live_line(step, now_s) for step in list(self._steps.values())[-_STEPS_SHOWN_MAX:]]
        with _while_read(self._err.stream):
            self._erase()
            self._err.stream.write("".join(line + "\n" for line in lines))
            self._err.flush()
        self._drawn_lines = len(lines)
        self._drawn_s = now_s
        self._is_dirty = False

    def _live_line(self, step: _Step, now_s: float) -> str:
        elapsed = format_duration((step.finished_s or now_s) - step.started_s)
        style, mark = ("red", "✗") if step.failed else ("green", "✓") if step.is_over else ("blue", "▸")
        running = f"{step.running} running" if step.running else ""
        counts = ", ".join(part for part in (self._counts(step), running) if part) or "waiting"
        width = (self._err.width or 80) - 1
        text = f"  {step.name}  {counts}  {elapsed}"[: width - 2]
        return self._err.styled(mark, style) + text

    def _erase(self) -> None:
        if self._drawn_lines:
            self._err.stream.write(f"\x1b[{self._drawn_lines}A\x1b[J")
            self._err.flush()
            self._drawn_lines = 0

    def _flush(self) -> None:
        """Let tasks' output out."""
        with _while_read(self._out):
            self._out.flush()

    def _stamp(self, time_us: int) -> str:
        """Local time to the millisecond; the part before it is made once a second."""
        seconds, rest_us = divmod(time_us, 1_000_000)
        if seconds != self._second[0]:
            self._second = seconds, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        return f"{self._second[1]}.{rest_us // 1000:03d}"


@contextmanager
def _while_read(stream: TextIO) -> Iterator[None]:
    """A reader that has gone away, or a disk that is full, ends the showing on this stream, not the run."""
    try:
        yield
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _open_run_id_file(path: str) -> TextIO:
    """Raises: UsageError."""
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--run-id-file {path} cannot be written: {error.strerror}. Name another file."
        ) from error
