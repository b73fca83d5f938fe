"""Rebuilds a Parquet file so that its bytes say nothing of the library that wrote it. Pure.

Versions of pyarrow write equal pages but differ in what surrounds them. Kept are the pages and, of the
footer, what a reader needs: schema, key-value metadata, the orders of the columns, and of each column
chunk its type, encodings, path, codec, sizes and offsets. Left out are copies of a chunk's metadata
between the chunks, statistics of encodings, pages and sizes, ordinals, and the writer's name and version.

Source: https://github.com/apache/parquet-format (`parquet.thrift`: the numbers of fields), and the
compact protocol of Thrift, https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Struct", "column_bounds", "read_struct", "rebuilt"]

_MAGIC = b"PAR1"
_CREATED_BY = b"weft"

# Types of the compact protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

#: A struct: the type and the value of each field by its number. A list: the type of its items, and they.
Struct = dict[int, tuple[int, Any]]

# Numbers of fields in FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
_FILE_KEPT = (1, 2, 3, 4, 5, 6, 7)
_FILE_ROW_GROUPS, _FILE_CREATED_BY = 4, 6
_GROUP_KEPT = (1, 2, 3)
_GROUP_COLUMNS = 1
_CHUNK_OFFSET, _CHUNK_METADATA = 2, 3
_COLUMN_KEPT = (1, 2, 3, 4, 5, 6, 7, 9, 11)
_COLUMN_PATH, _COLUMN_STATISTICS = 3, 12
_GREATEST, _LEAST = 5, 6
_COLUMN_ENCODINGS, _COLUMN_SIZE, _COLUMN_DATA_OFFSET, _COLUMN_DICTIONARY_OFFSET = 2, 7, 9, 11


def rebuilt(file: memoryview) -> list[bytes | memoryview]:
    """The parts of an equal file; the pages among them are views into `file`.

    Raises: ValueError for what is no Parquet file with a plain footer.
    """
    if file[:4] != _MAGIC or file[-4:] != _MAGIC:
        raise ValueError("no Parquet file")
    length = int.from_bytes(file[-8:-4], "little")
    metadata = read_struct(bytes(file[-8 - length : -8]))[0]
    parts: list[bytes | memoryview] = [_MAGIC]
    offset = len(_MAGIC)
    metadata = {number: metadata[number] for number in _FILE_KEPT if number in metadata}
    metadata[_FILE_CREATED_BY] = (_BINARY, _CREATED_BY)
    groups = []
    for group in metadata[_FILE_ROW_GROUPS][1][1]:
        chunks = []
        for chunk in group[_GROUP_COLUMNS][1][1]:
            column = chunk[_CHUNK_METADATA][1]
            pages = _pages(file, column)
            chunks.append(_chunk(column, offset))
            parts.append(pages)
            offset += pages.nbytes
        group = {number: group[number] for number in _GROUP_KEPT}
        group[_GROUP_COLUMNS] = (_LIST, (_STRUCT, chunks))
        groups.append(group)
    metadata[_FILE_ROW_GROUPS] = (_LIST, (_STRUCT, groups))
    footer = _written(metadata)
    parts.append(footer + len(footer).to_bytes(4, "little") + _MAGIC)
    return parts


def read_struct(data: bytes, offset: int = 0) -> tuple[Struct, int]:
    """A struct of the compact protocol, and where it ends. Raises: ValueError."""
    reader = _Reader(data, offset)
    try:
        return reader.struct(), reader.at
    except RecursionError:
        raise ValueError("structs lie in structs without end") from None


def column_bounds(footer: bytes, column: str) -> list[tuple[bytes, bytes]] | None:
    """A least and a greatest value of a column in each row group, as its statistics store them.

    `footer` may be cut off behind the row groups. None where it does not tell both for each row group.
    """
    reader = _Reader(footer, 0)
    mark = bytes((_LIST | 1 << 4, 1 << 4 | _BINARY, len(column))) + column.encode()
    bounds = []
    try:
        count = reader.items_of(_FILE_ROW_GROUPS)
        # Of a row group nothing else is read: that takes a tenth of the time. What looks like the column but lies in
        # a value makes more of them than there are row groups.
        at = reader.at
        while (at := footer.find(mark, at)) >= 0:
            at += len(mark)
            statistics = _Reader(footer, at).struct(_COLUMN_PATH)[_COLUMN_STATISTICS][1]
            bounds.append((statistics[_LEAST][1], statistics[_GREATEST][1]))
    except (ValueError, KeyError):
        return None
    return bounds if len(bounds) == count else None


def _start(column: Struct) -> int:
    """Where the pages of a chunk begin: with its dictionary, if it has one."""
    data: int = column[_COLUMN_DATA_OFFSET][1]
    _, dictionary = column.get(_COLUMN_DICTIONARY_OFFSET, (_I64, 0))
    return min(data, dictionary) if dictionary else data


def _pages(file: memoryview, column: Struct) -> memoryview:
    start = _start(column)
    return file[start : start + column[_COLUMN_SIZE][1]]


def _chunk(column: Struct, offset: int) -> Struct:
    """The metadata of a chunk whose pages begin at `offset`."""
    moved = offset - _start(column)
    column = {number: column[number] for number in _COLUMN_KEPT if number in column}
    for number in (_COLUMN_DATA_OFFSET, _COLUMN_DICTIONARY_OFFSET):
        if number in column:
            column[number] = (_I64, column[number][1] + moved)
    kind, encodings = column[_COLUMN_ENCODINGS][1]
    column[_COLUMN_ENCODINGS] = (_LIST, (kind, sorted(set(encodings))))
    # The offset of the copy that is left out; newer writers say 0, too.
    return {_CHUNK_OFFSET: (_I64, 0), _CHUNK_METADATA: (_STRUCT, column)}


class _Reader:
    """Reads one struct of the compact protocol."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self.at = at

    def items_of(self, wanted: int) -> int:
        """How many items the list in a field of this struct has; goes on to the first of them. Raises: ValueError."""
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 0x0F
            number = number + delta if delta else self._zigzag()
            if number == wanted:
                size = self._byte() >> 4
                return self._varint() if size == 15 else size
            if kind not in (_TRUE, _FALSE):
                self._value(kind)
        raise ValueError(f"there is no field {wanted}")

    def struct(self, number: int = 0) -> Struct:
        """The fields after that of this number."""
        fields: Struct = {}
        while head := self._byte():
            delta, kind = head >> 4, head & 0x0F
            number = number + delta if delta else self._zigzag()
            fields[number] = (kind, kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            size, items = head >> 4, head & 0x0F
            size = self._varint() if size == 15 else size
            return items, [self._value(items) for _ in range(size)]
        if kind == _STRUCT:
            return self.struct()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        raise ValueError(f"type {kind} has no place in a footer")

    def _bytes(self, size: int) -> bytes:
        taken = self._data[self.at : self.at + size]
        if len(taken) != size:
            raise ValueError("the footer ends too early")
        self.at += size
        return taken

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _written(fields: Struct) -> bytes:
    """A struct in the compact protocol, its fields in the order of their numbers."""
    parts = []
    last = 0
    for number, (kind, value) in sorted(fields.items()):
        if kind in (_TRUE, _FALSE):
            kind = _TRUE if value else _FALSE
        delta = number - last
        parts.append(bytes([delta << 4 | kind]) if 0 < delta < 16 else bytes([kind]) + _zigzag(number))
        last = number
        if kind not in (_TRUE, _FALSE):
            parts.append(_written_value(kind, value))
    return b"".join(parts) + b"\0"


def _written_value(kind: int, value: Any) -> bytes:
    if kind in (_I16, _I32, _I64):
        return _zigzag(value)
    if kind == _BINARY:
        return _varint(len(value)) + bytes(value)
    if kind in (_LIST, _SET):
        items, values = value
        head = bytes([len(values) << 4 | items]) if len(values) < 15 else bytes([0xF0 | items])
        size = b"" if len(values) < 15 else _varint(len(values))
        return head + size + b"".join(_written_value(items, item) for item in values)
    if kind == _STRUCT:
        return _written(value)
    return bytes([value]) if isinstance(value, int) else bytes(value)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)
