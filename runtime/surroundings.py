"""What decorators put around the body of a step: environment variables and the clock of `@timeout`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from weft.runtime.decorators import Decorator, Environment, Timeout
from weft.runtime.failures import TimeoutException

__all__ = ["surroundings"]


@contextmanager
def surroundings(decorators: Sequence[Decorator], step: str) -> Iterator[None]:
    """Run the block with what the decorators of `step` ask for; everything is put back afterwards."""
    with _environment(decorators), _alarm(decorators, step):
        yield


@contextmanager
def _environment(decorators: Sequence[Decorator]) -> Iterator[None]:
    """The variables of `@environment`; put back afterwards, for attempts that share their process."""
    import os

    wanted = {name: value for d in decorators if isinstance(d, Environment) for name, value in d.vars.items()}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _alarm(decorators: Sequence[Decorator], step: str) -> Iterator[None]:
    """The clock of `@timeout`; it stops when the body ends, however it ends."""
    limit = next((d for d in decorators if isinstance(d, Timeout)), None)
    if limit is None:
        yield
        return
    import signal

    def ring(signum: int, frame: Any) -> None:
        raise TimeoutException(
            f"Step {step} ran for longer than its @timeout of {limit.seconds:g} s. Raise the limit or do less."
        )

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit.seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
