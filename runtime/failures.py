"""What a step's failure looks like from inside the flow: the exceptions weft raises there, and what `@catch` leaves behind."""

from __future__ import annotations

from weft.lineage.errors import WeftError

__all__ = ["ExceptionWrapper", "FailureHandledByCatch", "TimeoutException", "message_of", "type_name_of"]


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
        import traceback

        stacktrace = None
        if error.__traceback__ is not None:
            stacktrace = "".join(traceback.format_exception(error))
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
