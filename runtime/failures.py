"""What a step's failure looks like from inside the flow: the exceptions weft raises there, and what `@catch` leaves behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from weft.lineage.errors import WeftError

if TYPE_CHECKING:
    from traceback import TracebackException

__all__ = [
    "ExceptionWrapper",
    "FailureHandledByCatch",
    "TimeoutException",
    "message_of",
    "shortened",
    "traceback_of",
    "type_name_of",
]


class TimeoutException(WeftError):
    """A step ran for longer than its `@timeout` allows."""


class FailureHandledByCatch(WeftError):
    """An attempt ended without an exception of its own (a signal, an exit) and `@catch` stands in for it."""

    def __init__(self, attempt: int) -> None:
        super().__init__(
            f"Attempt {attempt} ended without an exception, by a signal or an exit. See its console."
        )
        self.attempt = attempt

    def __reduce__(self) -> tuple[type[FailureHandledByCatch], tuple[int]]:
        return type(self), (self.attempt,)


class ExceptionWrapper:
    """A failure as text, which is what the variable of `@catch` holds; always true.

    `type` is module and class, `exception` the message, `stacktrace` the traceback or None. The
    exception object itself is not kept: it may not survive a pickle.
    """

    __slots__ = ("exception", "stacktrace", "type")

    def __init__(self, type: str, exception: str, stacktrace: str | None) -> None:
        self.type = type
        self.exception = exception
        self.stacktrace = stacktrace

    @classmethod
    def of(cls, error: BaseException) -> ExceptionWrapper:
        """The wrapper of an exception that has been raised."""
        stacktrace = None if error.__traceback__ is None else traceback_of(error)
        return cls(type_name_of(error), message_of(error), stacktrace)

    def __reduce__(self) -> tuple[type[ExceptionWrapper], tuple[str, str, str | None]]:
        return type(self), (self.type, self.exception, self.stacktrace)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExceptionWrapper) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash(self.__reduce__())

    def __str__(self) -> str:
        return self.stacktrace if self.stacktrace is not None else f"{self.type}: {self.exception}"

    def __repr__(self) -> str:
        return f"ExceptionWrapper({self.type}: {self.exception})"


def type_name_of(error: BaseException) -> str:
    """Module and class of an exception, the text that code matches on.

    >>> type_name_of(ValueError())
    'builtins.ValueError'
    """
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    """The text of an exception, also of one that cannot be made into text."""
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001  # the user's class may raise anything
        return f"<no text: its __str__ raised {type_name_of(failure)}>"


def traceback_of(error: BaseException) -> str:
    """The traceback as the user's code knows it: without weft's frames around that code.

    An error that weft raises for the user ends at the user's line; frames of a fault of its own stay.
    """
    from traceback import TracebackException

    shown = TracebackException.from_exception(error)
    link: BaseException | None = error
    part: TracebackException | None = shown
    while link is not None and part is not None:
        _leave_out_own_frames(part, is_meant=isinstance(link, WeftError | AttributeError))
        if part.__cause__ is not None:
            link, part = link.__cause__, part.__cause__
        else:
            link, part = link.__context__, part.__context__
    return "".join(shown.format())


_OWN_FOLDER = os.path.dirname(os.path.dirname(__file__)) + os.sep


def _leave_out_own_frames(part: TracebackException, is_meant: bool) -> None:
    is_own = [frame.filename.startswith(_OWN_FOLDER) for frame in part.stack]
    if all(is_own):
        if is_meant:
            part.stack = None  # type: ignore[assignment]  # Then there is no heading above the message.
        return
    end = len(is_own)
    while is_meant and is_own[end - 1]:
        end -= 1
    del part.stack[end:]
    del part.stack[: is_own.index(False)]


def shortened(text: str, chars_max: int) -> str:
    """The text without its middle, where it is longer than that."""
    if len(text) <= chars_max:
        return text
    half = chars_max // 2
    return f"{text[:half]} [… {len(text) - 2 * half:,} characters …] {text[-half:]}"
