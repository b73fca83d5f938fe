"""Events that are made of a journal's payloads when they are asked for are those that there are."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.lineage.codec import HEADER_BYTES, encode
from weft.lineage.journal_events import JournalEvents, Narrowed, Selection
from weft.lineage.paths import JournalName
from weft.lineage.schema import FAMILIES, KINDS, Event, family_of

NAME = JournalName(bytes(range(16)), 40)

#: Longer than what is looked at, and there the same as a kind of a known family.
_NEWER = ("artifact_used_by_a_newer_weft", "attempt_succeeded_of_a_newer_weft")

kinds = st.sampled_from([*KINDS, *_NEWER])
questions = st.tuples(
    st.sets(st.sampled_from(FAMILIES)), st.none() | st.lists(st.sampled_from(list(KINDS)), max_size=3)
)


def _payloads(told: list[Event]) -> list[bytes]:
    return [encode(event, event.seq, event.time_us)[HEADER_BYTES:] for event in told]


@given(
    st.lists(st.tuples(kinds, st.integers(0, 2**53), st.booleans()), max_size=30),
    st.lists(questions, min_size=1, max_size=5),
)
def test_questions_in_any_order_get_what_was_asked_for(
    told: list[tuple[str, int, bool]], asked: list[tuple[set[str], list[str] | None]]
) -> None:
    everything = [
        Event(
            NAME.writer,
            seq,
            kind,
            1,
            time_us,
            step="fit" if is_long else None,
            value="v" if is_long else None,
        )
        for seq, (kind, time_us, is_long) in enumerate(told, NAME.first_seq)
    ]
    journal = JournalEvents(NAME, _payloads(everything))
    for families, listed in asked:
        expected = [
            e for e in everything if family_of(e.kind) in families and (listed is None or e.kind in listed)
        ]
        assert journal.of(Selection(families, listed)) == expected


def test_payload_that_is_no_event_is_met_by_those_who_may_want_it() -> None:
    """What is surely of another family is not unpacked."""
    cut = msgpack.packb(["artifact_used", 1, 5, "and more"])[:-4]
    journal = JournalEvents(NAME, [*_payloads([Event(seq=40, kind="run_started")]), cut])
    assert [event.kind for event in journal.of(Selection(["run"]))] == ["run_started"]
    with pytest.raises(ValueError, match="incomplete input"):
        journal.of(Selection(["use"]))
    with pytest.raises(ValueError, match="not a list"):
        JournalEvents(NAME, [msgpack.packb({"kind": "run_started"})]).of(Selection(["use"]))


def test_journal_without_the_text_that_is_asked_for_is_of_no_interest() -> None:
    event = Event(kind="run_started", run_uid=b"u" * 16, flow="F", run_id="17")
    data = encode(event, 0, 5)
    assert Narrowed("F", "17", b"u" * 16).may_be_in(data)
    assert not Narrowed("F", "18").may_be_in(data)
    assert Narrowed("F", None, b"u" * 16).of([event]) == Narrowed().of([event]) == [event]
    assert (
        Narrowed("F", "1").of([event])
        == Narrowed("G").of([event])
        == Narrowed(None, None, b"x").of([event])
        == []
    )
