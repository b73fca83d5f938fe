"""DuckDB in this process: its module, and connections that read no settings of the user and load no extensions."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threading import Thread

__all__ = ["connect", "is_interrupt", "let_go", "load_engine", "prepare", "unoptimized", "wait_for_prepared"]

_THREADS_MAX = 8
_MEMORY_BYTES_MIN = 512 * 1024 * 1024

#: A connection that is being made while the process does something else, once.
_prepared: tuple[Thread, list[Any]] | None = None

#: The connection that was made so: a short process ends sooner than it could be closed.
_kept: Any = None


def load_engine() -> Any:
    """DuckDB's module, without its Python wrappers: they cost 80 ms and are needed only for frames.

    The bare module's name is private, so another version may lack it.
    """
    try:
        return import_module("_duckdb")
    except ImportError:
        return import_module("duckdb")


def is_interrupt(error: BaseException) -> bool:
    """Whether this is a Ctrl-C; DuckDB makes other errors of one that comes in its calls, or in what it imports."""
    if isinstance(error, KeyboardInterrupt):
        return True
    text = str(error)
    is_from_import = "failed to import, due to the following Python exception" in text
    return text == "Query interrupted" or (is_from_import and text.rstrip().endswith("KeyboardInterrupt:"))


def prepare() -> None:
    """Begin to make a connection in a thread: it takes 15 ms, in which a command can import what it needs.

    That one stays open until the process ends, or `let_go` is called.
    """
    global _prepared
    if _prepared is not None:
        return
    from threading import Thread

    made: list[Any] = []

    def work() -> None:
        # What fails here fails again where it is needed, and says why there.
        with suppress(Exception):
            made.append(_connect())

    thread = Thread(target=work, name="weft-engine")
    _prepared = (thread, made)
    thread.start()


def connect(spill_folder: str) -> Any:
    """A connection to a database in memory of its own; it spills to `spill_folder`, nowhere if empty."""
    global _prepared, _kept
    connection = None
    if _prepared is not None:
        (thread, made), _prepared = _prepared, None
        thread.join()
        _kept = connection = made[0] if made else None
    connection = connection or _connect()
    if spill_folder:
        folder = spill_folder.replace("'", "''")
        connection.execute(f"set temp_directory = '{folder}'")
    return connection


def unoptimized(connection: Any) -> Any:
    """Another connection to the same database, that plans statements without DuckDB's optimizer.

    Of a statement over few rows most time goes into the optimizer. Joins must be written as such: without it
    tables with a comma between them are multiplied. Make it before the settings are locked.
    """
    cursor = connection.cursor()
    cursor.execute("pragma disable_optimizer")
    return cursor


def wait_for_prepared() -> None:
    """Wait until no connection is being made any more: a process that ends would do so in the midst of it."""
    if _prepared is not None:
        _prepared[0].join()


def let_go() -> None:
    """Close the connection that was prepared, if nobody uses it any more."""
    global _kept
    _kept = None


def _connect() -> Any:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    config = {
        "threads": min(_THREADS_MAX, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2),
        "memory_limit": f"{max(_MEMORY_BYTES_MIN, memory)}B",
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    connection = load_engine().connect(":memory:", config=config)
    connection.execute("set parquet_metadata_cache = true")
    return connection
