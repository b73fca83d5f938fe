"""The manifest: what the listing of the segments and their footers say. It is stored nowhere else.

A segment is up to six Parquet files, one for each family of events. Each has a footer entry, JSON under
the key `weft` of the Parquet footer, after the text `weft-segment:`:

    format         of the segment
    segment        its id: sha256 of what follows but for `family`, see `segment_id_of`
    family         of this file
    rows           events in each family, so that a file that is missing shows
    why            "seal", "compact" or "erase"
    replaces       ids of the segments that this one was made from
    ranges_sha256  of the ranges of the WHOLE segment, hex
    range_count    how many they are
    versions       {kind: lowest version} of all kinds in the segment; where it is missing they may all be at 1

The ranges (see `weft.lineage.ranges`) lie once, as base64 under `weft.ranges`, in the file of the segment's
first family. That one is published first and removed last. The id is a checksum of the entry: a footer is
believed before its file is proven.

Two segments may cover the same events (two copies of a store were sealed apart, then merged). That is
settled by range: each seq of a writer is read from one segment only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from weft.lineage.errors import NotFound, StoreDamaged, StoreTooNew
from weft.lineage.paths import SEGMENTS, SegmentName, segment_name
from weft.lineage.ranges import Range, Ranges, Spans, settle
from weft.lineage.schema import FAMILIES, KINDS
from weft.lineage.storage import Storage

__all__ = [
    "FOOTER_KEY",
    "RANGES_KEY",
    "SEGMENT_FORMAT",
    "Footer",
    "Piece",
    "Segment",
    "SegmentFile",
    "damaged_segment",
    "first_family",
    "footer_of",
    "footer_text",
    "list_segment_files",
    "new_footer",
    "pieces_of",
    "ranges_text",
    "read_segment_file",
    "segments_of",
]

SEGMENT_FORMAT = 2
FOOTER_KEY = "weft"
RANGES_KEY = "weft.ranges"

_FOOTER_MARK = b"weft-segment:"
_MAGIC = b"PAR1"
_TRAILER_BYTES = 8

#: The entry stands near the end of a file: one read of so much has it, however many ranges stand before it.
_END_BYTES = 16 * 1024

#: What Parquet (Thrift's compact protocol) puts between a key and its value: field 2, of type binary.
_VALUE_MARK = b"\x18"


class Footer(NamedTuple):
    """What a segment file says of itself and of the segment it belongs to."""

    segment_id: str
    family: str
    rows: dict[str, int]
    ranges: Ranges
    why: str
    replaces: tuple[str, ...]
    versions: dict[str, int]
    format: int = SEGMENT_FORMAT

    @property
    def has_ranges(self) -> bool:
        """Whether this file carries the ranges of its segment."""
        return self.format == 1 or self.family == first_family(self.rows)


class SegmentFile(NamedTuple):
    """One Parquet file of a segment."""

    path: str
    digest: bytes
    size_bytes: int
    footer: Footer


class Segment(NamedTuple):
    """A segment with the files of it that are there, by family."""

    segment_id: str
    files: dict[str, SegmentFile]
    rows: dict[str, int]
    ranges: Ranges
    why: str
    replaces: tuple[str, ...]
    versions: dict[str, int]

    @property
    def missing(self) -> list[str]:
        """The families whose file is not there: the segment is being published, or it is damaged."""
        return [family for family in self.rows if family not in self.files]

    @property
    def has_ranges(self) -> bool:
        """Whether the file is there that carries the ranges."""
        return any(file.footer.has_ranges for file in self.files.values())

    @property
    def event_count(self) -> int:
        return sum(self.rows.values())

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


class Piece(NamedTuple):
    """What is to be read of a segment. `only` is None for all of it, else the spans to keep."""

    segment: Segment
    only: Spans | None


def first_family(rows: Mapping[str, int]) -> str:
    """The family whose file is published first, carries the ranges, and is removed last."""
    return next(family for family in (*FAMILIES, *rows) if family in rows)


def new_footer(
    family: str,
    rows: dict[str, int],
    ranges: Ranges,
    why: str,
    replaces: Sequence[str] = (),
    versions: Mapping[str, int] | None = None,
) -> Footer:
    """The footer of a segment that is being written, with its id."""
    footer = Footer("", family, rows, ranges, why, tuple(replaces), dict(sorted((versions or {}).items())))
    return footer._replace(segment_id=_segment_id(_entry(footer)))


def footer_text(footer: Footer) -> str:
    """The footer entry of a segment file, under `FOOTER_KEY`."""
    import json

    return _FOOTER_MARK.decode() + json.dumps(_entry(footer), separators=(",", ":"))


def ranges_text(ranges: Ranges) -> str:
    """The ranges of a segment, under `RANGES_KEY` in the file of its first family."""
    from base64 import b64encode

    return b64encode(ranges.packed).decode()


def footer_of(storage: Storage, path: str, size: int | None = None) -> Footer:
    """Read a segment file's footer entry, without a Parquet library.

    The entry stands behind all column statistics, so the last mark in the footer is ours.

    Raises: StoreDamaged, StoreTooNew, NotFound.
    """
    import json

    size = storage.size(path) if size is None else size
    end = storage.read_range(path, max(0, size - _END_BYTES), _END_BYTES)
    length = _footer_length(storage, path, size, end[-_TRAILER_BYTES:])
    data = end[-_TRAILER_BYTES - length : -_TRAILER_BYTES]
    start = data.rfind(_FOOTER_MARK)
    if start < 0 and length > len(data):
        data = storage.read_range(path, size - _TRAILER_BYTES - length, length)
        start = data.rfind(_FOOTER_MARK)
    if start < 0:
        raise damaged_segment(storage, path, "its footer says nothing of weft")
    try:
        text = data[start + len(_FOOTER_MARK) :].decode("utf-8", "replace")
        entry, _ = json.JSONDecoder().raw_decode(text)
        if "segment" in entry and _segment_id(entry) != entry["segment"]:
            raise damaged_segment(storage, path, "its footer fails its checksum")
        if entry["format"] > SEGMENT_FORMAT:
            raise StoreTooNew(
                f"Segment {path} has format {entry['format']}, which a newer weft wrote. Upgrade weft."
            )
        return _parse_entry(storage, path, entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_segment(storage, path, f"its footer cannot be read ({error})") from error


def damaged_segment(storage: Storage, path: str, reason: str) -> StoreDamaged:
    return StoreDamaged(
        f"Segment {path} in {storage.url} is damaged: {reason}. "
        "Run `weft verify`, and put the file back from a copy of the store."
    )


def list_segment_files(storage: Storage, known: dict[str, SegmentFile]) -> list[SegmentFile]:
    """All segment files, sorted by path; footers in `known` are not read again, new ones are added to it."""
    listed = [(path, size, name) for path, size, _ in storage.scan(SEGMENTS) if (name := segment_name(path))]

    def read(file: tuple[str, int, SegmentName]) -> SegmentFile | None:
        path, size, name = file
        try:
            return read_segment_file(storage, path, name, size)
        except NotFound:
            # Replaced by a compaction since it was listed.
            return None

    fresh = [file for file in listed if file[0] not in known or known[file[0]].size_bytes != file[1]]
    for (path, _, _), made in zip(fresh, storage.at_once(read, fresh), strict=True):
        if made is None:
            known.pop(path, None)
        else:
            known[path] = made
    return [known[path] for path, _, _ in listed if path in known]


def read_segment_file(storage: Storage, path: str, name: SegmentName, size: int | None = None) -> SegmentFile:
    """Read what a segment file says of itself. Raises: StoreDamaged, StoreTooNew, NotFound."""
    size = storage.size(path) if size is None else size
    footer = footer_of(storage, path, size)
    if footer.family != name.family:
        raise damaged_segment(storage, path, f"it lies in the wrong folder, its family is {footer.family}")
    return SegmentFile(path, name.digest, size, footer)


def segments_of(files: Iterable[SegmentFile], *, with_replaced: bool = False) -> list[Segment]:
    """Group files into segments, sorted by id; those that a whole segment replaces are left out."""
    segments: dict[str, Segment] = {}
    for file in files:
        footer = file.footer
        segment = segments.get(footer.segment_id)
        if segment is None or (footer.has_ranges and not segment.has_ranges):
            segment = Segment(
                footer.segment_id,
                {} if segment is None else segment.files,
                footer.rows,
                footer.ranges,
                footer.why,
                footer.replaces,
                footer.versions,
            )
            segments[footer.segment_id] = segment
        # The same events written twice by different libraries: either file will do, take the first.
        segment.files.setdefault(footer.family, file)
    replaced = {gone for s in segments.values() if not s.missing for gone in s.replaces}
    return [segments[key] for key in sorted(segments) if with_replaced or key not in replaced]


def pieces_of(segments: Iterable[Segment]) -> list[Piece]:
    """What to read of whole segments so that each event is read once."""
    whole = [segment for segment in segments if not segment.missing]
    kept = settle([(segment.segment_id, segment.ranges) for segment in whole])
    return [
        Piece(segment, only) for segment, only in zip(whole, kept, strict=True) if only is None or len(only)
    ]


def _entry(footer: Footer) -> dict[str, Any]:
    entry = {
        "format": SEGMENT_FORMAT,
        "segment": footer.segment_id,
        "family": footer.family,
        "rows": footer.rows,
        "why": footer.why,
        "replaces": list(footer.replaces),
        "ranges_sha256": footer.ranges.sha256.hex(),
        "range_count": len(footer.ranges),
    }
    return entry | {"versions": footer.versions} if footer.versions else entry


def _segment_id(entry: Mapping[str, Any]) -> str:
    """sha256 of the entry without `segment` and `family`, as JSON with sorted keys and no spaces.

    Of format 1: of the JSON of ranges, why and replaces.
    """
    import hashlib
    import json

    if entry["format"] == 1:
        text = json.dumps([entry["ranges"], entry["why"], entry["replaces"]])
    else:
        told = {key: value for key, value in entry.items() if key not in ("segment", "family")}
        text = json.dumps(told, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parse_entry(storage: Storage, path: str, entry: dict[str, Any]) -> Footer:
    if entry["format"] == 1:
        ranges = Ranges.of(
            Range(bytes.fromhex(writer), int(first), int(last), bytes.fromhex(running_hash), int(size))
            for writer, first, last, running_hash, size in entry["ranges"]
        )
    else:
        sha256 = bytes.fromhex(entry["ranges_sha256"])
        ranges = Ranges.stored(int(entry["range_count"]), sha256, lambda: _read_ranges(storage, path, sha256))
    return Footer(
        str(entry["segment"]),
        str(entry["family"]),
        {str(family): int(count) for family, count in entry["rows"].items()},
        ranges,
        str(entry["why"]),
        tuple(entry["replaces"]),
        dict(entry["versions"]) if "versions" in entry else _versions_at_worst(entry["rows"]),
        int(entry["format"]),
    )


def _versions_at_worst(rows: Mapping[str, int]) -> dict[str, int]:
    """What may be in a segment that does not say which kinds it holds."""
    return {name: 1 for name, kind in KINDS.items() if kind.family in rows}


def _read_ranges(storage: Storage, path: str, sha256: bytes) -> bytes:
    """The packed ranges that stand in the footer of a segment's first file, checked."""
    import hashlib
    from base64 import b64decode

    size = storage.size(path)
    length = _footer_length(
        storage, path, size, storage.read_range(path, max(0, size - _TRAILER_BYTES), _TRAILER_BYTES)
    )
    data = storage.read_range(path, size - _TRAILER_BYTES - length, length)
    key = RANGES_KEY.encode() + _VALUE_MARK
    at = data.rfind(key)
    try:
        if at < 0:
            raise ValueError("there are none")
        count, start = _varint(data, at + len(key))
        # What is no base64 is passed over here and found by the checksum.
        packed = b64decode(data[start : start + count])
    except (ValueError, IndexError) as error:
        raise damaged_segment(storage, path, f"its ranges cannot be read ({error})") from error
    if hashlib.sha256(packed).digest() != sha256:
        raise damaged_segment(storage, path, "its ranges fail their checksum")
    return packed


def _footer_length(storage: Storage, path: str, size: int, trailer: bytes) -> int:
    length = int.from_bytes(trailer[:4], "little")
    if trailer[4:] != _MAGIC or length + _TRAILER_BYTES > size:
        raise damaged_segment(storage, path, "it does not end as a Parquet file")
    return length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
