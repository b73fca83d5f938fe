"""The command `weft`, from its start to the end of the process."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

from weft.cli.commands import COMMANDS
from weft.cli.streams import open_missing_streams

__all__ = ["main"]

_OBJECTS_PER_PASS = 100_000


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end with its exit code: the process, or, for `arguments`, by SystemExit."""
    open_missing_streams()
    told = sys.argv[1:] if arguments is None else arguments
    if _asks(told):
        from weft.lineage.engine import prepare

        # It takes as long as all that is imported below, and runs beside that.
        prepare()
        # What is imported and asked makes no garbage worth a pass of the collector over all there is.
        gc.set_threshold(_OBJECTS_PER_PASS)
    from weft.cli.entry import run_to_exit
    from weft.cli.group import group

    try:
        run_to_exit(group, told, "weft")
    except SystemExit as ended:
        if arguments is None:
            _end(ended.code)
        raise


def _asks(arguments: list[str]) -> bool:
    """Whether this looks like a command that asks the views; to be wrong costs a moment."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        return False
    named = next((argument for argument in arguments if argument in COMMANDS), None)
    return named is not None and COMMANDS[named].asks


def _end(code: object) -> NoReturn:
    """End the process without taking down what is in its memory: that takes as long as a short question."""
    import atexit
    from contextlib import suppress

    if "weft.lineage.engine" in sys.modules:
        from weft.lineage.engine import wait_for_prepared

        wait_for_prepared()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # Whoever read it may be gone.
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0)
