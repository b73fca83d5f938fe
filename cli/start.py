"""What `MyFlow()` does first, before click and all that reads a command line is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from weft.cli.streams import open_missing_streams
from weft.lineage.errors import UsageError
from weft.runtime.flow import FlowSpec
from weft.runtime.template import start_early
from weft.runtime.worker import WORKER_VARIABLE, serve_spawned

__all__ = ["main"]


def main(flow_class: type[FlowSpec]) -> None:
    """What `MyFlow()` does: run the command line, or be one attempt's worker; ends the process.

    Where a child of multiprocessing reads the flow's file only to know what is in it, nothing is done.
    """
    if _is_read_by_multiprocessing():
        return
    if WORKER_VARIABLE in os.environ:
        serve_spawned(flow_class)
    if hasattr(sys, "ps1"):
        raise UsageError(
            f"{flow_class.__name__}() starts a command line and this is an interactive session. "
            "Write the flow to a file of its own and type `python that_file.py run`."
        )
    open_missing_streams()
    if _wants_template(sys.argv[1:]):
        start_early(flow_class)
    try:
        from weft.cli.flow import run_command_line
    except KeyboardInterrupt:
        raise SystemExit(1) from None

    run_command_line(flow_class)


def _wants_template(arguments: Sequence[str]) -> bool:
    """Whether attempts will be forked, as far as can be seen yet; a template that is not used ends by itself.

    Forked now, the template is small, and gets ready while the command line is read.
    """
    if "--help" in arguments or "-h" in arguments or any(a.startswith("--isolation") for a in arguments):
        return False
    return "run" in arguments or "resume" in arguments


def _is_read_by_multiprocessing() -> bool:
    """Whether this is a spawned child of a step, which would otherwise start the run again, and that one too."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and getattr(process.current_process(), "_inheriting", False)
