"""What the footer of a Parquet file says of its rows and columns, read without any library. Pure.

Source: https://github.com/apache/parquet-format (`parquet.thrift`: the numbers of fields and types).
"""

from __future__ import annotations

from weft.lineage.footers import Struct, read_struct

__all__ = ["columns_of_footer"]

# Numbers of fields in FileMetaData and SchemaElement, and the names of physical types by their numbers.
_FILE_SCHEMA, _FILE_ROWS = 2, 3
_ELEMENT_TYPE, _ELEMENT_NAME, _ELEMENT_CHILDREN, _ELEMENT_LOGICAL = 1, 4, 5, 10
_PHYSICAL = ("bool", "int32", "int64", "int96", "float", "double", "binary", "fixed_size_binary")


def columns_of_footer(footer: bytes) -> tuple[int, list[tuple[str, str]]]:
    """How many rows a Parquet file says it has, and name and type of each column, from its footer's bytes.

    Types are named as Arrow does; a nested column is "list", "map" or "struct".

    Raises: ValueError, KeyError or IndexError for other bytes.
    """
    metadata = read_struct(footer)[0]
    elements: list[Struct] = metadata[_FILE_SCHEMA][1][1]
    rows: int = metadata[_FILE_ROWS][1]
    columns = []
    place = 1
    for _ in range(elements[0][_ELEMENT_CHILDREN][1]):
        element = elements[place]
        columns.append((element[_ELEMENT_NAME][1].decode("utf-8", "replace"), _type_name(element)))
        place = _after(elements, place)
    return rows, columns


def _after(elements: list[Struct], place: int) -> int:
    """The place behind an element and all that is nested in it."""
    open_count = 1
    while open_count:
        open_count += elements[place].get(_ELEMENT_CHILDREN, (0, 0))[1] - 1
        place += 1
    return place


def _type_name(element: Struct) -> str:
    logical: Struct = element[_ELEMENT_LOGICAL][1] if _ELEMENT_LOGICAL in element else {}
    kind = next(iter(logical), 0)
    details: Struct = logical[kind][1] if logical else {}
    if element.get(_ELEMENT_CHILDREN, (0, 0))[1]:
        return {2: "map", 3: "list"}.get(kind, "struct")
    if kind == 5:
        return f"decimal128({details[2][1]}, {details[1][1]})"
    if kind == 7:
        return f"time64[{_unit(details)}]"
    if kind == 8:
        return f"timestamp[{_unit(details)}{', tz=UTC' if details[1][1] else ''}]"
    if kind == 10:
        return f"{'' if details[2][1] else 'u'}int{details[1][1]}"
    names = {1: "string", 4: "string", 6: "date32", 12: "json", 14: "uuid", 15: "halffloat"}
    return names.get(kind) or _PHYSICAL[element[_ELEMENT_TYPE][1]]


def _unit(details: Struct) -> str:
    unit: int = next(iter(details[2][1]))
    return {1: "ms", 2: "us", 3: "ns"}[unit]
