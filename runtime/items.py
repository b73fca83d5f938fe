"""The items of a foreach, each dumped by itself, so that no task ever loads the whole list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from weft.lineage.errors import NotSerializable
from weft.lineage.events import Content
from weft.lineage.objects import Objects
from weft.lineage.serializers import Dumped, dump
from weft.runtime.refs import content_of_dumped
from weft.runtime.transition import InvalidNextException

__all__ = ["Item", "dump_items"]

_LABEL_CHARACTERS = 30
_PACK_BYTES_MAX = 64 << 20


class Item(NamedTuple):
    """One item of a foreach: its content, and a short text for people."""

    content: Content
    label: str


def dump_items(iterable: Any, var: str, step: str, count_max: int, objects: Objects) -> list[Item]:
    """All items of a foreach. Small ones are inline; larger ones share a few objects, the packs.

    Raises: InvalidNextException when it is no list, empty, or longer than `count_max`; NotSerializable.
    """
    values = _values(iterable, var, step, count_max)
    items: list[Item] = []
    packed: list[tuple[int, Dumped]] = []
    packed_bytes = 0
    for position, value in enumerate(values):
        try:
            dumped = dump(value)
        except NotSerializable as error:
            raise NotSerializable(
                f"Item {position} of self.{var} in step {step} is a {error.type_name} and cannot be saved: {error}",
                error.type_name,
            ) from error
        content = content_of_dumped(dumped)
        items.append(Item(content, _label(value)))
        if content.blob is None:
            packed.append((position, dumped))
            packed_bytes += dumped.size_bytes
            if packed_bytes >= _PACK_BYTES_MAX:
                _write_pack(packed, items, objects)
                packed, packed_bytes = [], 0
    _write_pack(packed, items, objects)
    return items


def _values(iterable: Any, var: str, step: str, count_max: int) -> list[Any]:
    if not isinstance(iterable, Iterable):
        raise InvalidNextException(
            f"foreach={var!r} in step {step}: self.{var} is {type(iterable).__name__}, which cannot be iterated. "
            "Set it to a list."
        )
    values = []
    for value in iterable:
        values.append(value)
        if len(values) > count_max:
            raise InvalidNextException(
                f"foreach={var!r} in step {step} has more than {count_max:,} items. "
                "Raise the limit with --max-num-splits."
            )
    if not values:
        raise InvalidNextException(
            f"foreach={var!r} in step {step}: self.{var} is empty, so there is nothing to run. "
            "Give it at least one item."
        )
    return values


def _write_pack(packed: list[tuple[int, Dumped]], items: list[Item], objects: Objects) -> None:
    """Publish items as one object and say in each where it lies."""
    if not packed:
        return
    pack = objects.put([part for _, dumped in packed for part in dumped.parts])
    offset = 0
    for position, dumped in packed:
        item = items[position]
        items[position] = item._replace(content=item.content._replace(pack=pack, pack_offset=offset))
        offset += dumped.size_bytes


def _label(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value) if isinstance(value, int | float | tuple) else ""
    return text[:_LABEL_CHARACTERS]
