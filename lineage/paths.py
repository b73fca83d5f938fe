"""Every path inside a store, and its inverse. Pure; paths are relative to the store's root, with `/`.

weft.json                              format, version and id of the store
journal/<writer hex>-<first seq>.wj    hot tails: one writer's frames, in order
log/<family>/<sha256 hex>.parquet      sealed segments, one Parquet file per family of events
log/incoming/<segment id>              that segment is being brought here from another store
objects/ab/<62 hex digits>             content-addressed bytes, named by their sha256
cache/…                                what can be thrown away
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "CACHE",
    "DESCRIPTION",
    "JOURNALS",
    "OBJECTS",
    "SEGMENTS",
    "JournalName",
    "SegmentName",
    "digest_of_object",
    "incoming_id",
    "incoming_path",
    "journal_name",
    "journal_path",
    "object_path",
    "segment_name",
    "segment_path",
]

DESCRIPTION = "weft.json"
JOURNALS = "journal"
SEGMENTS = "log"
OBJECTS = "objects"
CACHE = "cache"

_INCOMING = "incoming"
_SEQ_DIGITS = 12


class JournalName(NamedTuple):
    """What a journal's file name says."""

    writer: bytes
    first_seq: int


class SegmentName(NamedTuple):
    """What a segment file's name says; `digest` is the sha256 of its bytes."""

    family: str
    digest: bytes


def journal_path(name: JournalName) -> str:
    return f"{JOURNALS}/{name.writer.hex()}-{name.first_seq:0{_SEQ_DIGITS}d}.wj"


def journal_name(path: str) -> JournalName | None:
    """The inverse of `journal_path`; None for a path that is no journal."""
    folder, _, file = path.rpartition("/")
    stem, dot, suffix = file.partition(".")
    writer, dash, seq = stem.partition("-")
    if (
        folder != JOURNALS
        or (dot, suffix, dash) != (".", "wj", "-")
        or len(writer) != 32
        or not seq.isdecimal()
    ):
        return None
    try:
        return JournalName(bytes.fromhex(writer), int(seq))
    except ValueError:
        return None


def segment_path(name: SegmentName) -> str:
    return f"{SEGMENTS}/{name.family}/{name.digest.hex()}.parquet"


def segment_name(path: str) -> SegmentName | None:
    """The inverse of `segment_path`; None for a path that is no segment."""
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != SEGMENTS or not parts[2].endswith(".parquet"):
        return None
    digits = parts[2].removesuffix(".parquet")
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        return None
    return SegmentName(parts[1], digest) if len(digest) == 32 and len(digits) == 64 else None


def incoming_path(segment_id: str) -> str:
    return f"{SEGMENTS}/{_INCOMING}/{segment_id}"


def incoming_id(path: str) -> str | None:
    """The inverse of `incoming_path`; None for another path."""
    parts = path.split("/")
    return parts[2] if len(parts) == 3 and parts[:2] == [SEGMENTS, _INCOMING] else None


def object_path(digest: bytes) -> str:
    assert len(digest) == 32, "a digest is 32 bytes before it becomes a path"
    digits = digest.hex()
    return f"{OBJECTS}/{digits[:2]}/{digits[2:]}"


def digest_of_object(path: str) -> bytes | None:
    """The inverse of `object_path`; None for a path that is no object."""
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != OBJECTS:
        return None
    digits = parts[1] + parts[2]
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        return None
    return digest if len(parts[1]) == 2 and len(digits) == 64 else None
