"""Events of old versions, in the shape of today. Pure.

What is stored stays as it was written, through sealing and compaction too: an event is brought up to date each
time it is read. There is one function for each version of a kind that is not the current one; it makes the
next version of it. Kinds that are not known here, and versions that are higher, are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from weft.lineage.schema import KINDS, Event

__all__ = ["UPCASTERS", "outdated_kinds", "upcast", "upcast_all"]


def _run_lost_1(event: Event) -> Event:
    """Version 1 did not say which writer was lost, nor how far it had been read."""
    payload = {**(event.payload or {}), "writer": None, "last_seq": None}
    return event._replace(version=2, payload=payload)


#: By kind and version: the function that makes the next version.
UPCASTERS: dict[tuple[str, int], Callable[[Event], Event]] = {
    ("run_lost", 1): _run_lost_1,
}

#: Kinds that had another version: of all others nothing more is looked up.
_CHANGED = frozenset(kind for kind, _ in UPCASTERS)


def upcast(event: Event) -> Event:
    """The same fact as the current version tells it."""
    if event.kind in _CHANGED:
        while (next_version := UPCASTERS.get((event.kind, event.version))) is not None:
            event = next_version(event)
    return event


def upcast_all(events: Iterable[Event]) -> Iterator[Event]:
    """Each event as the current version tells it."""
    for event in events:
        yield upcast(event) if event.kind in _CHANGED else event


def outdated_kinds(versions: Mapping[str, int]) -> tuple[str, ...]:
    """The kinds of which there may be events to bring up to date, by the lowest version there is of each."""
    changed = {kind for kind, _ in UPCASTERS}
    return tuple(sorted(k for k in changed if k in versions and versions[k] < KINDS[k].version))
