"""How far long work is: one line on stderr that is redrawn, on a terminal only."""

from __future__ import annotations

import sys
from typing import Self

from weft.lineage import clock

__all__ = ["Meter"]

_QUIET_S = 0.5  # work that is done sooner shows nothing
_REDRAW_S = 0.1


class Meter:
    """A line such as `compacting 45 %`, gone when the work is done."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._is_shown = False
        self._is_terminal = sys.stderr.isatty()
        self._next_s = clock.monotonic_s() + _QUIET_S

    def __call__(self, done: int, total: int) -> None:
        """Say how much is done of how much there is."""
        now_s = clock.monotonic_s()
        if self._is_terminal and now_s >= self._next_s and total > 0:
            print(f"\r\x1b[K{self._label} {100 * done // total} %", end="", file=sys.stderr, flush=True)
            self._is_shown = True
            self._next_s = now_s + _REDRAW_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
