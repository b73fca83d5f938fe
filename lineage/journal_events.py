"""The events of one journal's bytes, each made when it is first asked for. Pure.

Most of a journal may be of no interest to a question: to unpack a payload and make an event of it takes longer than
to prove its checksums and to see its kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from weft.lineage.codec import decode, kind_of
from weft.lineage.paths import JournalName
from weft.lineage.schema import Event, family_of

__all__ = ["JournalEvents", "Narrowed", "Selection"]

#: So much of a payload tells its kind, of all kinds there are, and is the same in thousands of events.
_HEAD_BYTES = 21


class Narrowed(NamedTuple):
    """Which events are asked for: those that have all that is given."""

    flow: str | None = None
    run_id: str | None = None
    run_uid: bytes | None = None

    def of(self, events: Iterable[Event]) -> list[Event]:
        flow, run_id, run_uid = self
        return [
            event
            for event in events
            if (run_uid is None or event.run_uid == run_uid)
            and (run_id is None or event.run_id == run_id)
            and (flow is None or event.flow == flow)
        ]

    def may_be_in(self, data: bytes) -> bool:
        """Whether a journal's bytes may hold any: a value is stored in a frame as its plain bytes."""
        needles = [t.encode("utf-8", "backslashreplace") for t in (self.flow, self.run_id) if t is not None]
        needles += [] if self.run_uid is None else [self.run_uid]
        return all(needle in data for needle in needles)


class Selection:
    """Events of some families, or of some kinds of theirs."""

    __slots__ = ("_families", "_heads", "_kinds", "_known")

    def __init__(self, families: Iterable[str], kinds: Iterable[str] | None = None) -> None:
        self._families = frozenset(families)
        self._kinds = None if kinds is None else frozenset(kinds)
        self._known: dict[str, bool] = {}
        self._heads: dict[bytes, bool] = {}

    def has(self, kind: str) -> bool:
        found = self._known.get(kind)
        if found is None:
            is_listed = self._kinds is None or kind in self._kinds
            found = self._known[kind] = is_listed and family_of(kind) in self._families
        return found

    def may_have(self, payload: bytes) -> bool:
        """Whether a payload's event is one of them, as far as that can be told without unpacking it."""
        head = payload[:_HEAD_BYTES]
        found = self._heads.get(head)
        if found is None:
            kind = kind_of(head)
            found = self._heads[head] = kind is None or self.has(kind)
        return found


class JournalEvents:
    """What a journal holds, by seq: payloads that were proven, and the events that were made of them.

    `slots` are payloads that follow each other from the journal's first seq on, or any events.
    """

    __slots__ = ("_first_seq", "_slots", "_writer")

    def __init__(self, name: JournalName, slots: Sequence[bytes | Event]) -> None:
        self._writer, self._first_seq = name
        self._slots = list(slots)

    def of(self, wanted: Selection) -> list[Event]:
        """The wanted events, by seq.

        Raises: ValueError or TypeError for a payload that is no event, although its checksum is right.
        """
        found = []
        slots, writer, first_seq = self._slots, self._writer, self._first_seq
        for index, slot in enumerate(slots):
            if isinstance(slot, bytes):
                if not wanted.may_have(slot):
                    continue
                slot = slots[index] = decode(writer, first_seq + index, slot)
            if wanted.has(slot.kind):
                found.append(slot)
        return found
