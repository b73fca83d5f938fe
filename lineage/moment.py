"""Moments that people write: ISO 8601 text, datetimes, and ids of events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.lineage.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["event_id_of", "moment_us", "text_of_moment"]

_WRITER_DIGITS = 32


def event_id_of(text: str) -> tuple[bytes, int] | None:
    """The (writer, seq) of an event id, `<32 hex digits>:<seq>`; None for any other text."""
    writer, colon, seq = text.partition(":")
    if not colon or len(writer) != _WRITER_DIGITS or not seq.isascii() or not seq.isdigit():
        return None
    try:
        return bytes.fromhex(writer), int(seq)
    except ValueError:
        return None


def moment_us(moment: str | datetime) -> int:
    """A moment in µs since 1970 UTC; one without a zone is in the local one.

    Raises: UsageError when the text is not ISO 8601.
    """
    from datetime import UTC, datetime, timedelta

    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise UsageError(
                f"{moment!r} is no time. Write ISO 8601 such as 2026-01-31T18:00, or the id of an event."
            ) from None
    aware = moment.astimezone(UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def text_of_moment(time_us: int) -> str:
    """A moment as `moment_us` reads it, in the local zone.

    >>> moment_us(text_of_moment(1_700_000_000_123_456))
    1700000000123456
    """
    from datetime import UTC, datetime, timedelta

    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)).astimezone().isoformat()
