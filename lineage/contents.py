"""The bytes of recorded values: inside their event, in a pack, or an object of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.errors import NotFound
from weft.lineage.ids import digest_from_text, digest_to_text
from weft.lineage.projections import believed
from weft.lineage.schema import family_of

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["Recorded", "read_content", "read_recorded"]


class Recorded(NamedTuple):
    """Where the bytes of a value lie. Without blob and pack they are the object `digest`."""

    digest: bytes
    size_bytes: int
    blob: bytes | None
    pack: bytes | None
    pack_offset: int


#: The events that have the contents of values, by their families.
_KINDS = {"artifact": "artifact_saved", "run": "parameter_set", "task": None}


def read_recorded(store: Answers, digests: list[str]) -> dict[str, Recorded]:
    """Where the bytes of values lie, by their digest's text form; those never recorded are left out."""
    # Most values are of the runs that were asked about just before: no other file needs to be read for these.
    found = _held(store, {digest_from_text(text) for text in digests})
    for ask in (store.rows_at_hand, store.rows):
        found |= _find(ask, [text for text in digests if text not in found])
    return found


def _held(store: Answers, digests: set[bytes]) -> dict[str, Recorded]:
    """Of values whose events are held."""
    found: dict[str, Recorded] = {}
    for event in believed(store.held_before(tuple(_KINDS))):
        if event.digest in digests and _KINDS[family_of(event.kind)] in (None, event.kind):
            known = found.get(digest_to_text(event.digest))
            # The bytes may be in one event of several.
            if known is None or (known.blob is None and known.pack is None):
                found[digest_to_text(event.digest)] = _recorded(
                    event.digest, event.size_bytes or 0, event.blob, event.payload or {}
                )
    return found


def _recorded(digest: bytes, size_bytes: int, blob: bytes | None, place: dict[str, Any]) -> Recorded:
    pack = bytes.fromhex(place["pack"]) if "pack" in place else None
    return Recorded(digest, size_bytes, blob, pack, place.get("pack_offset", 0))


def _find(ask: Callable[[str, Any], list[tuple[Any, ...]]], digests: list[str]) -> dict[str, Recorded]:
    wanted = [digest_from_text(text) for text in digests]
    if not wanted:
        return {}
    # Written out one by one they reach the Bloom filters of the segments.
    rows = ask(
        f"""
        select digest, any_value(size_bytes), arg_max(row(blob, payload), row(blob is not null, payload is not null))
        from (
            select digest, size_bytes, blob, payload from told.artifact_events where kind = 'artifact_saved'
            union all
            select digest, size_bytes, blob, payload from told.run_events where kind = 'parameter_set'
            union all
            select digest, size_bytes, blob, payload from told.task_events where digest is not null
        ) where digest in ({", ".join("?" * len(wanted))}) group by digest
        """,
        wanted,
    )
    return {
        digest_to_text(bytes(digest)): _recorded(
            bytes(digest), size_bytes, blob, json.loads(payload) if payload else {}
        )
        for digest, size_bytes, (blob, payload) in rows
    }


def read_content(store: Answers, recorded: Recorded) -> tuple[bytes, str | None]:
    """The bytes of a value, and the local file that is exactly these bytes, if there is one.

    Raises: NotFound when the object is gone, StoreDamaged when it is another.
    """
    if recorded.blob is not None:
        return bytes(recorded.blob), None
    if recorded.pack is not None:
        pack = store.objects.get(recorded.pack)
        data = pack[recorded.pack_offset : recorded.pack_offset + recorded.size_bytes]
        if len(data) != recorded.size_bytes:
            raise NotFound(f"Pack {recorded.pack.hex()} is cut short. Run `weft verify`.")
        return data, None
    return store.objects.get(recorded.digest), store.objects.path_of(recorded.digest)
