"""One attempt's process, whatever started it: take the order, make the attempt, tell the outcome."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from weft.lineage.errors import UsageError
from weft.lineage.local import LocalStorage
from weft.lineage.objects import Objects
from weft.lineage.stores import open_storage
from weft.runtime.attempt import Attempt, Outcome
from weft.runtime.config import configs_of
from weft.runtime.decorators import attach
from weft.runtime.flow import FlowSpec
from weft.runtime.orders import unpack_context, unpack_order
from weft.runtime.refs import load_ref
from weft.runtime.wire import pack_message, receive_message, row_of, send_message

__all__ = [
    "WORKER_VARIABLE",
    "be_forked",
    "die_with_parent",
    "load_prctl",
    "prepare_children",
    "serve_spawned",
]

#: Names the socket of a spawned worker; such a process makes one attempt instead of reading its command line.
WORKER_VARIABLE = "WEFT_WORKER_FD"

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def _serve(flow_class: type[FlowSpec], descriptor: int) -> None:
    """Make the one attempt that is ordered over the socket `descriptor`; the outcome is the last thing said."""
    pid = os.getpid()
    send_message(descriptor, pack_message("started", pid))
    _, context_body = receive_message(descriptor)
    _, order_body = receive_message(descriptor)
    context = unpack_context(context_body)
    for spec in context.decorators:
        attach(flow_class, spec)
    spool = None if context.spool is None else LocalStorage(context.spool)
    objects = Objects(open_storage(context.store_url), spool)
    for name, config in configs_of(flow_class).items():
        config.settle(load_ref(context.parameters[name], objects))
    outcome = Attempt(flow_class, context, unpack_order(order_body), objects).run()
    if os.getpid() != pid:
        # The step forked, and this is its child: the attempt's outcome is its parent's.
        os._exit(0 if outcome.events[-1].kind == "attempt_succeeded" else 1)
    _end_output()
    send_message(descriptor, _pack_outcome(outcome))


def be_forked(descriptor: int, flow_class: type[FlowSpec], reseed: Callable[[], None]) -> NoReturn:
    """Be the child that a template has just forked: its descriptors and signals are set up."""
    import atexit

    # What the flow's import registered belongs to the process that imported it.
    atexit._clear()
    reseed()
    _serve_and_exit(flow_class, descriptor)


def prepare_children() -> None:
    """In a template: do once what each child would have to do for itself.

    The streams are made while a pipe stands where they write to, as one will in a child: a stream
    remembers whether it can seek.
    """
    ends = os.pipe()
    kept = [os.dup(number) if _is_open(number) else None for number in (1, 2)]
    for number in (1, 2):
        os.dup2(ends[1], number)
    _make_lines_whole()
    for number, descriptor in zip((1, 2), kept, strict=True):
        if descriptor is None:
            os.close(number)
        else:
            os.dup2(descriptor, number)
            os.close(descriptor)
    for end in ends:
        os.close(end)
    _refuse_breakpoints()


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def serve_spawned(flow_class: type[FlowSpec]) -> NoReturn:
    """Be the worker that a spawning launcher has started: the flow's file has just been run as `__main__`."""
    import faulthandler

    descriptor = int(os.environ.pop(WORKER_VARIABLE))
    os.set_inheritable(descriptor, False)
    die_with_parent(load_prctl(), None)
    faulthandler.enable(file=2)
    _make_lines_whole()
    _refuse_breakpoints()
    _serve_and_exit(flow_class, descriptor)


def _serve_and_exit(flow_class: type[FlowSpec], descriptor: int) -> NoReturn:
    try:
        _serve(flow_class, descriptor)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(1)  # The scheduler is gone; nobody is left to tell.
    except BaseException:  # noqa: BLE001  # the user's code may raise anything
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def load_prctl() -> Any:
    """The system call that `die_with_parent` needs; None where there is none. To be loaded before a fork."""
    if sys.platform != "linux":
        return None
    import ctypes

    return ctypes.CDLL(None).prctl


def die_with_parent(prctl: Any, parent_pid: int | None) -> None:
    """Ask the kernel to kill this process when its parent dies; where it cannot be asked, nothing is done."""
    if prctl is None:
        return
    prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(1)  # It died before it could be watched.


def _make_lines_whole() -> None:
    """Let output leave by whole lines: into a pipe it would come in blocks, unbuffered in fragments."""
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _refuse_breakpoints() -> None:
    """Let `breakpoint()` say where it works, unless the user has named a debugger that needs no terminal."""
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _refuse_breakpoint


def _refuse_breakpoint(*arguments: object, **options: object) -> NoReturn:
    raise UsageError("breakpoint() needs a terminal, which this task has not. Use run --isolation inline.")


def _end_output() -> None:
    """Do what the process would do at its exit, so that its output and its errors still count."""
    import atexit

    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()  # Waits for the threads that are no daemons.
    atexit._run_exitfuncs()
    # Code that was imported earlier may hold the streams of that time.
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # The step may have closed it.
                stream.flush()


def _pack_outcome(outcome: Outcome) -> bytes:
    body = {"events": [row_of(event) for event in outcome.events], "items": outcome.items}
    return pack_message("finished", body)
