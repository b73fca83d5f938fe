"""The exception tree. A type of its own exists only where a caller would act differently.

    WeftError                 the base; `exit_code` is what a command ends with
      UsageError              the caller changes the call or the flow (exit 2)
        InvalidFlow           the flow does not check; carries the place in the file
        InvalidPathspec
        QueryError            SQL that DuckDB or the fence refuses
      NotFound                also LookupError; the message lists near names (exit 2)
      FlowFailed              a run ended without success (exit 1)
      NotSerializable         a value that no serializer can write (fails its attempt)
      UnhandledInMergeArtifactsException, MissingInMergeArtifactsException   see weft.runtime.merging
      StoreError              the store cannot be used (exit 3)
        StoreUnavailable      read-only, full or unreachable: try again after the cause is gone
        StoreConflict         another writer holds what was asked for
        StoreDamaged          bytes that fail a check: run `weft verify`
        StoreTooNew           written by a newer weft: upgrade

Messages say what, on which subject and why; the last sentence is the fix. Exceptions do not cross
processes: events carry type, message and traceback as text.
"""

from __future__ import annotations

__all__ = [
    "FlowFailed",
    "InvalidFlow",
    "InvalidPathspec",
    "NotFound",
    "NotSerializable",
    "QueryError",
    "StoreConflict",
    "StoreDamaged",
    "StoreError",
    "StoreTooNew",
    "StoreUnavailable",
    "UsageError",
    "WeftError",
]


class WeftError(Exception):
    """The base of every error that weft raises on purpose."""

    exit_code = 1


class UsageError(WeftError):
    """The call or the flow has to change."""

    exit_code = 2


class InvalidFlow(UsageError):
    """A flow that does not check; `path` and `line` name the place, where one is known."""

    def __init__(self, message: str, path: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.line = line

    def __str__(self) -> str:
        if self.path is None:
            return self.message
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.message}"


class InvalidPathspec(UsageError):
    """Text that is not `Flow[/run[/step[/task[/artifact]]]]`."""


class QueryError(UsageError):
    """SQL that DuckDB cannot run or that the fence does not let through."""


class NotFound(WeftError, LookupError):
    """Nothing of that name is recorded; the message lists near names."""

    exit_code = 2


class FlowFailed(WeftError):
    """A run ended without success."""


class NotSerializable(WeftError):
    """A value that no serializer can write; `type_name` is its type."""

    def __init__(self, message: str, type_name: str) -> None:
        super().__init__(message)
        self.type_name = type_name


class StoreError(WeftError):
    """The store cannot be used as asked."""

    exit_code = 3


class StoreUnavailable(StoreError):
    """Read-only, full or out of reach; the same call may work once the cause is gone."""


class StoreConflict(StoreError):
    """Another process holds what was asked for."""


class StoreDamaged(StoreError):
    """Bytes that fail a check."""


class StoreTooNew(StoreError):
    """Written by a newer weft than this one."""
