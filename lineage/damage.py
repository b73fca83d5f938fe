"""Where a segment file that is not what its name says was changed, as far as its bytes can tell.

No Parquet library is asked: they end the process over bytes that nobody wrote. The numbers of fields are those
of https://github.com/apache/parquet-format (`parquet.thrift`).
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

from weft.lineage.errors import WeftError
from weft.lineage.footers import read_struct
from weft.lineage.manifest import Footer, footer_of
from weft.lineage.storage import Storage

__all__ = ["Damage", "damage_of"]

_MAGIC = b"PAR1"
_TRAILER_BYTES = 8

# Numbers of fields in FileMetaData, RowGroup, ColumnChunk, ColumnMetaData and PageHeader.
_FILE_ROW_GROUPS = 4
_GROUP_COLUMNS = 1
_CHUNK_COLUMN = 3
_COLUMN_PATH, _COLUMN_BYTES, _COLUMN_DATA_AT, _COLUMN_DICTIONARY_AT = 3, 7, 9, 11
_PAGE_BYTES, _PAGE_CRC = 3, 4


class Damage(NamedTuple):
    """The first part that fails: its place (None when that cannot be told) and what it is."""

    offset: int | None
    length: int | None
    what: str


def damage_of(storage: Storage, path: str) -> tuple[Damage, Footer | None]:
    """What is damaged in a segment file whose sha256 is not its name, and its footer if that can be believed.

    Page checksums tell where the data was changed; files of format 1 have none.

    Raises: NotFound, StoreUnavailable.
    """
    data = storage.get(path)
    size = len(data)
    if size < 2 * _TRAILER_BYTES or data[-4:] != _MAGIC:
        return Damage(max(0, size - _TRAILER_BYTES), min(size, _TRAILER_BYTES), "its end"), None
    length = int.from_bytes(data[-8:-4], "little")
    if length > size - _TRAILER_BYTES - len(_MAGIC):
        return Damage(size - _TRAILER_BYTES, _TRAILER_BYTES, "the length of its footer"), None
    if data[:4] != _MAGIC:
        return Damage(0, len(_MAGIC), "its first bytes"), _footer(storage, path)
    in_footer = Damage(size - _TRAILER_BYTES - length, length, "its footer")
    footer = _footer(storage, path)
    if footer is None:
        return in_footer, None
    try:
        found = _first_bad_page(data, in_footer)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        found = in_footer
    return found or Damage(None, None, "none of its pages: it is what stands between them"), footer


def _footer(storage: Storage, path: str) -> Footer | None:
    try:
        footer = footer_of(storage, path)
        # The ranges have a checksum of their own.
        if footer.has_ranges:
            footer.ranges.writers()
    except WeftError:
        return None
    return footer


def _first_bad_page(data: bytes, in_footer: Damage) -> Damage | None:
    """The first page that fails its checksum. Raises: ValueError, KeyError, TypeError … for a footer that makes no sense."""
    footer_at = in_footer.offset or 0
    told, _ = read_struct(data[footer_at:-_TRAILER_BYTES])
    for number, group in enumerate(told[_FILE_ROW_GROUPS][1][1]):
        for chunk in group[_GROUP_COLUMNS][1][1]:
            column = chunk[_CHUNK_COLUMN][1]
            name = b".".join(column[_COLUMN_PATH][1][1]).decode("utf-8", "replace")
            what = f"column {name} of row group {number}"
            _, dictionary_at = column.get(_COLUMN_DICTIONARY_AT, (None, 0))
            start = min(column[_COLUMN_DATA_AT][1], dictionary_at or column[_COLUMN_DATA_AT][1])
            end = start + column[_COLUMN_BYTES][1]
            if not len(_MAGIC) <= start < end <= footer_at:
                return in_footer
            while start < end:
                try:
                    header, page_at = read_struct(data, start)
                    page_end = page_at + header[_PAGE_BYTES][1]
                except (ValueError, KeyError, TypeError):
                    return Damage(start, end - start, f"a page header in {what}")
                if not page_at <= page_end <= end:
                    return Damage(start, end - start, f"a page header in {what}")
                _, checksum = header.get(_PAGE_CRC, (None, None))
                if checksum is not None and crc32(data[page_at:page_end]) != checksum & 0xFFFFFFFF:
                    return Damage(start, page_end - start, f"a page of {what}")
                start = page_end
    return None
