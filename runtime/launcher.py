"""The launcher port: start one attempt in a process of its own, signal it, say how it ended.

`ForkLauncher` forks from the template, `SpawnLauncher` starts a fresh interpreter for each attempt.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import NamedTuple, Protocol

from weft.lineage.errors import WeftError
from weft.runtime.template import Template
from weft.runtime.worker import WORKER_VARIABLE

__all__ = [
    "Channels",
    "Exit",
    "ForkLauncher",
    "LaunchFailed",
    "Launcher",
    "SpawnLauncher",
    "make_room_for",
]

#: What a scheduler has open beside its attempts, with room to spare.
_DESCRIPTORS_OTHER = 64
_DESCRIPTORS_PER_ATTEMPT = 3


class LaunchFailed(WeftError):
    """The process of an attempt could not be started."""


class Channels(NamedTuple):
    """The scheduler's ends: the task's socket and the descriptors its output is read from, all non-blocking."""

    connection: socket.socket
    stdout: int
    stderr: int

    def close(self) -> None:
        self.connection.close()
        os.close(self.stdout)
        os.close(self.stderr)


class Exit(NamedTuple):
    """An attempt's process has ended. `code` is its exit code, or minus the signal that killed it;
    None when the process that would know is gone itself."""

    token: int
    pid: int | None
    code: int | None


class Launcher(Protocol):
    def prepare(self) -> None:
        """Get a head start on the next launch, where that costs nobody anything."""

    def launch(self, token: int) -> Channels:
        """Start the process of an attempt, which waits for its order on the socket. Raises: LaunchFailed."""

    def signal(self, token: int, number: int) -> None:
        """Signal everything the attempt runs."""

    def exits(self) -> list[Exit]:
        """The processes that have ended since the last call."""

    def wake_descriptors(self) -> list[int]:
        """What becomes readable when there may be exits to report; none once nobody is left to report."""

    def close(self) -> None: ...


class ForkLauncher:
    """Children of the template: a millisecond each, with everything that the flow has imported.

    One child is forked ahead: it sets itself up while others work, and waits on its socket for an order.
    """

    def __init__(self, template: Template) -> None:
        self._template = template
        self._is_gone = False
        self._children = 0
        self._spare: tuple[int, Channels] | None = None
        self._child_of: dict[int, int] = {}  # by token
        self._token_of: dict[int, int] = {}  # by child

    def prepare(self) -> None:
        if self._spare is None and not self._is_gone:
            with contextlib.suppress(LaunchFailed):  # The launch that needs it will say so.
                self._spare = self._fork()

    def launch(self, token: int) -> Channels:
        spare, self._spare = self._spare, None
        child, channels = spare or self._fork()
        self._child_of[token] = child
        self._token_of[child] = token
        return channels

    def _fork(self) -> tuple[int, Channels]:
        channels, theirs = _open_channels()
        self._children += 1
        try:
            self._template.launch(self._children, theirs.connection, theirs.stdout, theirs.stderr)
        except OSError as error:
            channels.close()
            raise LaunchFailed(
                "The template process is gone, so no task can be started. Run `resume` to go on."
            ) from error
        finally:
            theirs.close()
        return self._children, channels

    def signal(self, token: int, number: int) -> None:
        if token in self._child_of:
            self._template.signal(self._child_of[token], number)

    def exits(self) -> list[Exit]:
        exits = []
        try:
            while (report := self._template.receive()) is not None:
                _, child, pid, code = report
                if self._spare is not None and self._spare[0] == child:
                    self._drop_spare()
                    continue
                token = self._token_of.pop(child)
                del self._child_of[token]
                exits.append(Exit(token, pid, code))
        except EOFError:
            self._is_gone = True
            self._drop_spare()
            exits += [Exit(token, None, None) for token in self._child_of]
            self._child_of.clear()
            self._token_of.clear()
        return exits

    def wake_descriptors(self) -> list[int]:
        return [] if self._is_gone else [self._template.control.fileno()]

    def close(self) -> None:
        self._drop_spare()
        self._template.close()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare[1].close()
            self._spare = None


class SpawnLauncher:
    """A fresh interpreter for each attempt, for flows whose process must not be forked."""

    def __init__(self) -> None:
        import signal
        import subprocess

        self._subprocess = subprocess
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._command = [sys.executable, *sys.orig_argv[1:]]
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: self._wake())

    def prepare(self) -> None:
        """A process started ahead would run the flow's file once more than there are attempts."""

    def launch(self, token: int) -> Channels:
        channels, theirs = _open_channels()
        descriptor = theirs.connection.fileno()
        try:
            self._processes[token] = self._subprocess.Popen(
                self._command,
                stdin=self._subprocess.DEVNULL,
                stdout=theirs.stdout,
                stderr=theirs.stderr,
                pass_fds=[descriptor],
                env={**os.environ, WORKER_VARIABLE: str(descriptor)},
                start_new_session=True,
            )
        except OSError as error:
            channels.close()
            raise LaunchFailed(
                f"No process could be started ({error.strerror}). Lower --max-workers, then run `resume`."
            ) from error
        finally:
            theirs.close()
        return channels

    def signal(self, token: int, number: int) -> None:
        process = self._processes.get(token)
        if process is not None and process.returncode is None:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                return

    def exits(self) -> list[Exit]:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        ended = [(token, process) for token, process in self._processes.items() if process.poll() is not None]
        for token, process in ended:
            del self._processes[token]
            _kill_group(process.pid)
        return [Exit(token, process.pid, process.returncode) for token, process in ended]

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # Full: it is awake.
            os.write(self._wake_write, b"\0")

    def wake_descriptors(self) -> list[int]:
        return [self._wake_read]

    def close(self) -> None:
        for process in self._processes.values():
            _kill_group(process.pid)
            process.wait()


def _kill_group(pid: int) -> None:
    import signal

    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _open_channels() -> tuple[Channels, Channels]:
    """Our ends and the attempt's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    for descriptor in (out_read, err_read):
        os.set_blocking(descriptor, False)
    return Channels(ours, out_read, err_read), Channels(theirs, out_write, err_write)


def make_room_for(workers: int) -> int:
    """How many attempts at once the limit on open files allows, once it is raised as far as this process may."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = workers * _DESCRIPTORS_PER_ATTEMPT * 2 + _DESCRIPTORS_OTHER
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return workers
    return max(1, (soft - _DESCRIPTORS_OTHER) // (_DESCRIPTORS_PER_ATTEMPT * 2))
