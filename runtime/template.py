"""The template: a copy of the process that has imported the flow, which forks one child per attempt.

It is forked before the scheduler opens its journal or starts a thread, so that children hold neither
the journal's descriptor nor another task's socket. It does nothing but fork, reap and report; when the
scheduler is gone it kills what is left of every child's session and ends. It never waits for the
scheduler to read: both sides could then wait for each other.

    scheduler → template   ["launch", token] with three descriptors: socket, stdout, stderr
                           ["signal", token, number]
    template → scheduler   ["exited", token, pid, exit code or minus the signal]; both None if it could not fork
"""

from __future__ import annotations

import array
import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections import deque
from typing import Any, NoReturn

import msgpack

from weft.runtime import worker
from weft.runtime.flow import FlowSpec
from weft.runtime.forking import reason_not_to_fork
from weft.runtime.randomness import reseed, seeded_state

__all__ = ["Template", "start_early", "start_template", "take_early"]

_MESSAGE_BYTES_MAX = 4096
_ERROR_EXIT = 70
_DESCRIPTORS = 3  # socket, stdout, stderr
#: Blocked here, for they are the scheduler's; a child that was signalled before it is ready gets them then.
_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Template:
    """The scheduler's end of the control socket."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.control = control
        self.pid = pid

    def launch(self, token: int, connection: socket.socket, stdout: int, stderr: int) -> None:
        message = msgpack.packb(["launch", token])
        descriptors = array.array("i", [connection.fileno(), stdout, stderr])
        self.control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])

    def signal(self, token: int, number: int) -> None:
        """Send a signal to everything in the session of an attempt."""
        self.control.send(msgpack.packb(["signal", token, number]))

    def receive(self) -> list[Any] | None:
        """The next report that has arrived; None when there is none.

        Raises: EOFError when the template is gone.
        """
        try:
            message = self.control.recv(_MESSAGE_BYTES_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            message = b""
        if not message:
            raise EOFError("the template process is gone")
        report: list[Any] = msgpack.unpackb(message)
        return report

    def close(self) -> None:
        """Let the template end, with all that it still runs."""
        self.control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def start_template(flow_class: type[FlowSpec]) -> Template:
    """Fork the template off this process, which must not have threads of its own."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # A fork copies what is buffered; it would be printed twice.
    random_state = seeded_state()  # Asked here: Python reseeds in every child, the template included.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return Template(ours, pid)
    try:
        ours.close()
        _Forker(flow_class, theirs, random_state).run()
    except BaseException:  # noqa: BLE001  # Nothing above this frame may run twice.
        _exit_after_error()


_early: Template | None = None


def start_early(flow_class: type[FlowSpec]) -> None:
    """Fork the template while the process is small, unless that is not safe; `take_early` hands it out."""
    global _early
    if reason_not_to_fork() is None:
        _early = start_template(flow_class)


def take_early() -> Template | None:
    """The template that was forked early, if any; from then on it is the caller's."""
    global _early
    early, _early = _early, None
    return early


class _Forker:
    """The template's own process."""

    def __init__(
        self, flow_class: type[FlowSpec], control: socket.socket, random_state: tuple[Any, ...] | None
    ) -> None:
        self._flow_class = flow_class
        self._control = control
        self._random_state = random_state
        self._pids: dict[int, int] = {}  # by token
        self._tokens: dict[int, int] = {}  # by pid
        self._reports: deque[bytes] = deque()
        self._pid = os.getpid()
        self._prctl = worker.load_prctl()

    def run(self) -> NoReturn:
        # Children need these; imported once here, they cost them nothing.
        import atexit  # noqa: F401
        import faulthandler
        import resource  # noqa: F401
        import traceback  # noqa: F401
        import warnings

        # Since Python 3.12 a fork beside native threads warns; whether to fork was decided before.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*", category=DeprecationWarning)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        worker.prepare_children()
        faulthandler.enable(file=2)  # Children inherit it, and write to what is their descriptor 2.
        gc.disable()
        gc.freeze()
        poller = select.poll()
        poller.register(wake_read, select.POLLIN)
        while True:
            poller.register(self._control, select.POLLIN | (select.POLLOUT if self._reports else 0))
            for descriptor, mask in poller.poll():
                if descriptor == wake_read:
                    os.read(wake_read, 4096)
                elif mask & ~select.POLLOUT and not self._take_request():
                    self._end()
            self._reap()
            self._report()

    def _take_request(self) -> bool:
        """Carry out one request; False when the scheduler is gone."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES_MAX, _DESCRIPTORS)
        except ConnectionResetError:  # It died with reports unread.
            return False
        if not message:
            return False
        request = msgpack.unpackb(message)
        if request[0] == "launch":
            self._fork(request[1], descriptors)
        elif request[1] in self._pids:
            _signal_session(self._pids[request[1]], request[2])
        return True

    def _fork(self, token: int, descriptors: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError:
            # No room for another process: that attempt is lost, all others go on.
            pid = -1
            self._reports.append(msgpack.packb(["exited", token, None, None]))
        if pid == 0:
            try:
                self._be_child(*descriptors)
            except BaseException:  # noqa: BLE001  # Nothing above this frame may run twice.
                _exit_after_error()
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._pids[token] = pid
            self._tokens[pid] = token

    def _be_child(self, connection: int, stdout: int, stderr: int) -> NoReturn:
        worker.die_with_parent(self._prctl, self._pid)
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (*_BLOCKED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self._control.close()
        os.set_inheritable(connection, False)
        # The heap is frozen: collecting it here would copy every page of it.
        gc.freeze()
        gc.enable()
        worker.be_forked(connection, self._flow_class, lambda: reseed(self._random_state))

    def _reap(self) -> None:
        """Report every child that has ended, after what it left running was killed."""
        while self._tokens:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            # Not reaped yet, so the pid cannot be somebody else's.
            _signal_session(ended.si_pid, signal.SIGKILL)
            _, status = os.waitpid(ended.si_pid, 0)
            token = self._tokens.pop(ended.si_pid)
            del self._pids[token]
            code = os.waitstatus_to_exitcode(status)
            self._reports.append(msgpack.packb(["exited", token, ended.si_pid, code]))

    def _report(self) -> None:
        """Send what the scheduler has room for; the rest is sent when it has."""
        try:
            while self._reports:
                self._control.send(self._reports[0], socket.MSG_DONTWAIT)
                self._reports.popleft()
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._end()

    def _end(self) -> NoReturn:
        for pid in self._tokens:
            _signal_session(pid, signal.SIGKILL)
        os._exit(0)


def _exit_after_error() -> NoReturn:
    import traceback

    traceback.print_exc()
    os._exit(_ERROR_EXIT)


def _signal_session(pid: int, number: int) -> None:
    """Signal a child, which has not been reaped, and all that it started in its session."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # It has not come as far as making a session of its own.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    except PermissionError:
        return
