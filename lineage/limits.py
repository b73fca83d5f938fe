"""How much a question may take: seconds and rows, and how a query that runs is broken off."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

__all__ = ["Limits", "TimeIsUp", "run_interruptible"]

T = TypeVar("T")

#: How often the caller's thread looks for a Ctrl-C, and for the end of a query that was broken off.
_TICK_S = 0.05


class Limits(NamedTuple):
    """What one query may take; None: as much as it likes."""

    seconds: float | None = None
    rows: int | None = None


class TimeIsUp(Exception):
    """A call took longer than it may."""


def run_interruptible(call: Callable[[], T], interrupt: Callable[[], None], seconds: float | None) -> T:
    """The result of `call`, which runs in a thread of its own; `interrupt` breaks it off at Ctrl-C or when time is up.

    A compiled call does not hear of signals: only a thread that waits does. It has ended when this returns.

    Raises: what `call` raises; TimeIsUp; KeyboardInterrupt.
    """
    from threading import Event, Thread

    done = Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  # It is raised where the caller waits.
            errors.append(error)
        finally:
            done.set()

    thread = Thread(target=run, name="weft-query", daemon=True)
    thread.start()
    broken_off: BaseException | None = None
    left_s = float("inf") if seconds is None else seconds
    while not done.is_set():
        try:
            if broken_off is not None:
                # Said again: a call that had not begun yet does not hear it.
                interrupt()
                done.wait(_TICK_S)
            elif not done.wait(min(_TICK_S, max(0.0, left_s))):
                left_s -= _TICK_S
                if left_s <= 0:
                    broken_off = TimeIsUp()
        except KeyboardInterrupt as error:
            # A second one changes nothing: the call is waited for in any case.
            broken_off = broken_off or error
    thread.join()
    if broken_off is not None:
        raise broken_off
    if errors:
        raise errors[0]
    return results[0]
