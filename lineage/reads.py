"""Values that code loads through the client, told to whoever wants to record it: a running step does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["ClientRead", "listen", "tell"]


class ClientRead(NamedTuple):
    """One artifact that was loaded. `producer` is the pathspec of the task that saved it, in the store `url`."""

    url: str
    producer: str
    name: str
    digest: str
    size_bytes: int


_listener: Callable[[ClientRead], None] | None = None


def listen(listener: Callable[[ClientRead], None] | None) -> Callable[[ClientRead], None] | None:
    """From now on tell `listener`; who was told before."""
    global _listener
    before, _listener = _listener, listener
    return before


def tell(read: ClientRead) -> None:
    if _listener is not None:
        _listener(read)
