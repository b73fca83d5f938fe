"""The only reader of the wall clock and of random bits."""

from __future__ import annotations

import os
import time

__all__ = ["monotonic_s", "now_us", "random_bytes"]


def now_us() -> int:
    """Wall clock in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def monotonic_s() -> float:
    """Seconds on a clock that never goes back; only differences mean anything."""
    return time.monotonic()


def random_bytes(count: int) -> bytes:
    """`count` unpredictable bytes from the kernel."""
    return os.urandom(count)
