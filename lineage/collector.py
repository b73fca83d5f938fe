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

    __slots__ = ("_was_enabled",)

    def __enter__(self) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._was_enabled:
            gc.enable()
