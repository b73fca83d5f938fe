"""Which objects an event needs: the contents it names and does not carry."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from weft.lineage.errors import WeftError
from weft.lineage.objects import Objects
from weft.lineage.schema import KINDS, Event
from weft.lineage.storage import Storage

__all__ = ["REFERRING_FAMILIES", "WITHOUT_OBJECT", "code_files", "named_objects", "pathspec_of"]

#: Kinds whose digest names no object: one passed on, one of a file outside, the hash of a journal.
WITHOUT_OBJECT = frozenset(("artifact_merged", "artifact_used", "external_used", "journal_closed"))

#: Families with kinds that name objects.
REFERRING_FAMILIES = ("run", "task", "artifact", "console")


def named_objects(event: Event) -> Iterator[tuple[bytes, int]]:
    """The objects an event needs, each with the bytes it must have at least."""
    if event.digest is None or event.blob is not None or event.kind in WITHOUT_OBJECT:
        return
    payload = event.payload or {}
    if "pack" in payload:
        yield bytes.fromhex(payload["pack"]), payload["pack_offset"] + (event.size_bytes or 0)
    elif event.kind in KINDS:
        yield event.digest, 0


def code_files(storage: Storage, digest: bytes, objects: Collection[bytes]) -> list[tuple[str, bytes]]:
    """The files of a code manifest; none when it is missing or damaged, which is a finding of its own."""
    import json

    if digest not in objects:
        return []
    try:
        files = json.loads(Objects(storage).get(digest))["files"]
        return [(path, bytes.fromhex(file_digest)) for path, file_digest in files.items()]
    except (WeftError, ValueError, KeyError, TypeError, AttributeError):
        return []


def pathspec_of(event: Event) -> str:
    """What an event is about, as far as it says."""
    parts = (event.flow, event.run_id, event.step, event.task_id, event.name)
    return "/".join(part for part in parts if part is not None)
