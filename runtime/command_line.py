"""What `MyFlow()` starts: the floor above says it, as this one does not know it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.runtime.flow import FlowSpec

__all__ = ["command_line", "set_command_line"]

_command_line: Callable[[type[FlowSpec]], None] | None = None


def set_command_line(main: Callable[[type[FlowSpec]], None]) -> None:
    global _command_line
    _command_line = main


def command_line() -> Callable[[type[FlowSpec]], None] | None:
    return _command_line
