"""The garbage collector, held while many objects are made at once.

Events hold no cycles: while thousands of them are made, each pass of the collector is for nothing, and
takes as long as making them.
"""

from __future__ import annotations

import gc
from types import TracebackType

__all__ = ["CollectorPause"]


class CollectorPause:
    """`with CollectorPause():` runs its body without the collector, and leaves it as it was."""

    __slots__ = ("_is_final", "_was_enabled")

    def __init__(self, is_final: bool = False) -> None:
        #: What there is at the end is left alone for good: the process needs it to its end, or ends with it.
        self._is_final = is_final

    def __enter__(self) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_final:
            gc.freeze()
        if self._was_enabled:
            gc.enable()
