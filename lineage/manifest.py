"""The manifest: what the listing of the segments and their footers say. It is stored nowhere else.

A segment is up to six Parquet files, one for each family of events, all with the same footer entry but for
the family. The entry is JSON under the key `weft` of the Parquet footer, after the text `weft-segment:`:

    format    of the segment
    segment   its id: sha256 of ranges, why and replaces, as hex
    family    of this file
    rows      events in each family, so that a file that is missing shows
    ranges    [writer hex, first seq, last seq, running hash hex, journal bytes] of the WHOLE segment
    why       "seal", "compact" or "erase"
    replaces  ids of the segments that this one stands for

Two segments may cover the same events (two copies of a store were sealed apart, then merged). That is
settled by range: each seq of a writer is read from one segment only, the one with the longest range.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from weft.lineage.errors import NotFound, StoreDamaged, StoreTooNew
from weft.lineage.paths import SEGMENTS, SegmentName, segment_name
from weft.lineage.storage import Storage

__all__ = [
    "FOOTER_KEY",
    "SEGMENT_FORMAT",
    "Footer",
    "Piece",
    "Range",
    "Segment",
    "SegmentFile",
    "damaged_segment",
    "footer_of",
    "footer_text",
    "is_covered",
    "list_segment_files",
    "pieces_of",
    "read_segment_file",
    "segment_id_of",
    "segments_of",
]

SEGMENT_FORMAT = 1
FOOTER_KEY = "weft"

_FOOTER_MARK = b"weft-segment:"
_MAGIC = b"PAR1"
_TRAILER_BYTES = 8


class Range(NamedTuple):
    """One journal within a segment: its events' first and last seq, the sha256 of its frames, its size."""

    writer: bytes
    first_seq: int
    last_seq: int
    running_hash: bytes
    size_bytes: int


class Footer(NamedTuple):
    """What a segment file says of itself and of the segment it belongs to."""

    segment_id: str
    family: str
    rows: dict[str, int]
    ranges: tuple[Range, ...]
    why: str
    replaces: tuple[str, ...]


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
    ranges: tuple[Range, ...]
    why: str
    replaces: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """The families whose file is not there: the segment is being published, or it is damaged."""
        return [family for family in self.rows if family not in self.files]


class Piece(NamedTuple):
    """What is to be read of a segment. `only` is None for all of it, else the (writer, first, last) to keep."""

    segment: Segment
    only: tuple[tuple[bytes, int, int], ...] | None


def segment_id_of(ranges: Sequence[Range], why: str, replaces: Sequence[str]) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps([_range_lists(ranges), why, list(replaces)]).encode()).hexdigest()


def footer_text(footer: Footer) -> str:
    """The footer entry of a segment file, under `FOOTER_KEY`."""
    import json

    entry = {
        "format": SEGMENT_FORMAT,
        "segment": footer.segment_id,
        "family": footer.family,
        "rows": footer.rows,
        "ranges": _range_lists(footer.ranges),
        "why": footer.why,
        "replaces": list(footer.replaces),
    }
    return _FOOTER_MARK.decode() + json.dumps(entry, separators=(",", ":"))


def footer_of(storage: Storage, path: str) -> Footer:
    """Read a segment file's footer entry, without a Parquet library.

    The entry stands behind all column statistics, so the last mark in the footer is ours.

    Raises: StoreDamaged, StoreTooNew, NotFound.
    """
    import json

    size = storage.size(path)
    trailer = storage.read_range(path, max(0, size - _TRAILER_BYTES), _TRAILER_BYTES)
    length = int.from_bytes(trailer[:4], "little")
    if trailer[4:] != _MAGIC or length + _TRAILER_BYTES > size:
        raise damaged_segment(storage, path, "it does not end as a Parquet file")
    data = storage.read_range(path, size - _TRAILER_BYTES - length, length)
    start = data.rfind(_FOOTER_MARK)
    if start < 0:
        raise damaged_segment(storage, path, "its footer says nothing of weft")
    try:
        text = data[start + len(_FOOTER_MARK) :].decode("utf-8", "replace")
        entry, _ = json.JSONDecoder().raw_decode(text)
        if entry["format"] > SEGMENT_FORMAT:
            raise StoreTooNew(
                f"Segment {path} has format {entry['format']}, which a newer weft wrote. Upgrade weft."
            )
        return _parse_entry(entry)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged_segment(storage, path, f"its footer cannot be read ({error})") from error


def damaged_segment(storage: Storage, path: str, reason: str) -> StoreDamaged:
    return StoreDamaged(
        f"Segment {path} in {storage.url} is damaged: {reason}. "
        "Run `weft verify`, and put the file back from a copy of the store."
    )


def list_segment_files(storage: Storage, known: dict[str, SegmentFile]) -> list[SegmentFile]:
    """All segment files, sorted by path; footers in `known` are not read again, new ones are added to it."""
    found = []
    for path in storage.list(SEGMENTS):
        name = segment_name(path)
        if name is None:
            continue
        file = known.get(path)
        if file is None:
            try:
                file = known[path] = read_segment_file(storage, path, name)
            except NotFound:
                # Replaced by a compaction since it was listed.
                continue
        found.append(file)
    return found


def read_segment_file(storage: Storage, path: str, name: SegmentName) -> SegmentFile:
    """Read what a segment file says of itself. Raises: StoreDamaged, StoreTooNew, NotFound."""
    footer = footer_of(storage, path)
    if footer.family != name.family:
        raise damaged_segment(storage, path, f"it lies in the wrong folder, its family is {footer.family}")
    return SegmentFile(path, name.digest, storage.size(path), footer)


def segments_of(files: Iterable[SegmentFile]) -> list[Segment]:
    """Group files into segments, sorted by id; those that a whole segment replaces are left out."""
    segments: dict[str, Segment] = {}
    for file in files:
        footer = file.footer
        segment = segments.get(footer.segment_id)
        if segment is None:
            segment = Segment(footer.segment_id, {}, footer.rows, footer.ranges, footer.why, footer.replaces)
            segments[footer.segment_id] = segment
        # The same events written twice by different libraries: either file will do, take the first.
        segment.files.setdefault(footer.family, file)
    replaced = {gone for s in segments.values() if not s.missing for gone in s.replaces}
    return [segments[key] for key in sorted(segments) if key not in replaced]


def pieces_of(segments: Iterable[Segment]) -> list[Piece]:
    """What to read of whole segments so that each event is read once."""
    whole = [segment for segment in segments if not segment.missing]
    claims = [(r.writer, r.first_seq, -r.last_seq, s.segment_id) for s in whole for r in s.ranges]
    kept: dict[str, list[tuple[bytes, int, int]]] = {s.segment_id: [] for s in whole}
    next_free: dict[bytes, int] = {}
    for writer, first, negative_last, segment_id in sorted(claims):
        start = max(first, next_free.get(writer, 0))
        if start <= -negative_last:
            kept[segment_id].append((writer, start, -negative_last))
            next_free[writer] = -negative_last + 1
    pieces = []
    for segment in whole:
        mine = kept[segment.segment_id]
        if sorted(mine) == sorted((r.writer, r.first_seq, r.last_seq) for r in segment.ranges):
            pieces.append(Piece(segment, None))
        elif mine:
            pieces.append(Piece(segment, tuple(mine)))
    return pieces


def is_covered(ranges: Iterable[Range], writer: bytes, first_seq: int, size_bytes: int) -> bool:
    """Whether one of `ranges` holds all of the journal that starts at `first_seq` and has `size_bytes`."""
    return any(r.writer == writer and r.first_seq == first_seq and r.size_bytes >= size_bytes for r in ranges)


def _range_lists(ranges: Sequence[Range]) -> list[list[str | int]]:
    return [[r.writer.hex(), r.first_seq, r.last_seq, r.running_hash.hex(), r.size_bytes] for r in ranges]


def _parse_entry(entry: dict[str, Any]) -> Footer:
    ranges = tuple(
        Range(bytes.fromhex(writer), int(first), int(last), bytes.fromhex(running_hash), int(size))
        for writer, first, last, running_hash, size in entry["ranges"]
    )
    rows = {str(family): int(count) for family, count in entry["rows"].items()}
    return Footer(
        str(entry["segment"]), str(entry["family"]), rows, ranges, str(entry["why"]), tuple(entry["replaces"])
    )
