"""References to artifacts: where the bytes of a value are, and who made it.

A scheduler hands tasks tables of references, never values. A value of up to a few KiB lies inside an
event: it travels along when it is tiny, else the worker reads that one frame of the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from weft.lineage.events import Content
from weft.lineage.ids import Pathspec
from weft.lineage.journal import Place, read_event_at
from weft.lineage.objects import Objects
from weft.lineage.schema import Event
from weft.lineage.serializers import Dumped, load

__all__ = [
    "CARRIED_BYTES_MAX",
    "INLINE_BYTES_MAX",
    "Ref",
    "Table",
    "content_from",
    "content_of_dumped",
    "load_ref",
    "pack_tables",
    "read_ref",
    "ref_of",
    "ref_of_content",
    "unpack_refs",
]

#: Values up to this size lie inside their event; larger ones are objects.
INLINE_BYTES_MAX = 4096

#: Inline values up to this size are carried in references; larger ones are read from the journal.
CARRIED_BYTES_MAX = 1024


class Ref(NamedTuple):
    """One artifact. Its bytes are `blob`, or in the journal frame `place`, or in a pack, or the object `digest`."""

    digest: bytes
    size_bytes: int
    type: str
    serializer: str
    producer: Pathspec
    blob: bytes | None = None
    place: Place | None = None
    pack: bytes | None = None
    pack_offset: int = 0


Table = Mapping[str, Ref]


def ref_of(event: Event, producer: Pathspec, place: Place | None) -> Ref:
    """The reference to the value that an event carries or names."""
    blob, pack, pack_offset = event.blob, None, 0
    if blob is not None and len(blob) > CARRIED_BYTES_MAX and place is not None:
        blob = None
    else:
        place = None
    if event.payload and "pack" in event.payload:
        pack = bytes.fromhex(event.payload["pack"])
        pack_offset = event.payload["pack_offset"]
    assert event.digest is not None
    assert event.type is not None
    assert event.serializer is not None
    return Ref(
        event.digest,
        event.size_bytes or 0,
        event.type,
        event.serializer,
        producer,
        blob,
        place,
        pack,
        pack_offset,
    )


def ref_of_content(content: Content, producer: Pathspec) -> Ref:
    """The reference to a value whose bytes, where it has any at hand, travel along."""
    return Ref(
        content.digest,
        content.size_bytes,
        content.type,
        content.serializer,
        producer,
        content.blob,
        None,
        content.pack,
        content.pack_offset,
    )


def load_ref(ref: Ref, objects: Objects) -> Any:
    """The value itself.

    Raises: NotFound when its object is missing, StoreDamaged when the bytes are not those of the digest.
    """
    return load(ref.serializer, *read_ref(ref, objects))


def read_ref(ref: Ref, objects: Objects) -> tuple[bytes, str | None]:
    """The bytes, and the local file that holds exactly these, if there is one. Raises: as `load_ref`."""
    if ref.blob is not None:
        return ref.blob, None
    if ref.place is not None:
        event = read_event_at(*ref.place, b"")
        assert event.blob is not None, "a place is only kept for inline values"
        return event.blob, None
    if ref.pack is not None:
        return objects.get_part(ref.pack, ref.pack_offset, ref.size_bytes, ref.digest), None
    return objects.get(ref.digest), objects.path_of(ref.digest)


def pack_tables(tables: Iterable[Table]) -> tuple[list[Any], list[dict[str, int]]]:
    """Many tables as one pool of references and, for each table, names to places in the pool.

    Tables share most of their references (all inputs of a join inherit from one split), so the pool is
    hardly larger than one table.
    """
    pool: list[Any] = []
    known: dict[int, int] = {}
    packed = []
    for table in tables:
        names = {}
        for name, ref in table.items():
            index = known.get(id(ref))
            if index is None:
                index = known[id(ref)] = len(pool)
                pool.append(ref)
            names[name] = index
        packed.append(names)
    return pool, packed


def unpack_refs(pool: Iterable[Any]) -> list[Ref]:
    """References as they were before msgpack made lists of them."""
    refs = []
    for digest, size, type_name, serializer, producer, blob, place, pack, pack_offset in pool:
        refs.append(
            Ref(
                digest,
                size,
                type_name,
                serializer,
                Pathspec(*producer),
                blob,
                None if place is None else Place(*place),
                pack,
                pack_offset,
            )
        )
    return refs


def content_from(dumped: Dumped, objects: Objects) -> Content:
    """Publish a dumped value, as an object unless it fits into its event, and say where it is."""
    content = content_of_dumped(dumped)
    if content.blob is None:
        objects.put(dumped.parts, dumped.digest)
    return content


def content_of_dumped(dumped: Dumped) -> Content:
    """What an event says of a dumped value; larger ones are yet to be published."""
    blob = b"".join(dumped.parts) if dumped.size_bytes <= INLINE_BYTES_MAX else None
    return Content(
        dumped.digest,
        dumped.size_bytes,
        dumped.type,
        dumped.serializer,
        dumped.value,
        dumped.value_number,
        blob,
    )
