"""Names that come near one that is not there."""

from __future__ import annotations

__all__ = ["near"]

_NEAR_MAX = 3


def near(wanted: str, names: list[str]) -> str:
    """A sentence that lists near names, or the last of all; empty when there are none."""
    from difflib import get_close_matches

    listed = get_close_matches(wanted, names, n=_NEAR_MAX) or sorted(names)[-_NEAR_MAX:]
    return f" Near names: {', '.join(listed)}." if listed else ""
