"""What a finished task depended on, in a form by which tasks of later runs find it. Pure.

The shape names the places where a task found what it read, without the values. A task that is about to be
created looks into the places of each shape known for its step: where code and values have the digest that an
earlier task recorded, that one read the same. What lies outside of a task's sight is listed with its values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from weft.lineage.schema import Payload
from weft.runtime.keys import UNKNOWN, Dependencies, Dependency, Sight, StepCode, look_up

__all__ = ["Outer", "Shape", "parse_shape", "reads_of", "sight_digest"]

_OUTER_KINDS = ("elsewhere", "external")
_DIGEST_CHARS = 32

#: Of so many steps and shapes what their digests have in common is kept.
_SHAPES_MAX = 64


class Outer(NamedTuple):
    """What a task read that lies outside of its sight: a file, or a value of another run."""

    kind: str
    name: str
    value: bytes


class Shape(NamedTuple):
    """The places in which a task found what it read, in order, and which pickles there were among that."""

    text: str
    pickles: str
    places: tuple[Dependency, ...]


def reads_of(code: StepCode, pickles: str, depends_on: Dependencies) -> Payload | None:
    """What the event that ends an attempt says of its reads: `shape`, `digest`, `outside`.

    None where no later task can be said to read the same: content that has no digest, or values that were asked for
    through the client, which may find others by then.
    """
    outside = []
    for (kind, _, name), value in depends_on.items():
        if kind in _OUTER_KINDS:
            if not value or kind == "elsewhere":
                return None
            outside.append([kind, name, value.hex()])
    inner = sorted(d for d in depends_on if d.kind not in _OUTER_KINDS)
    rows = [pickles, *_folded(inner)]
    digest = _digest(code, _text(rows), [depends_on[place] for place in inner])
    told: Payload = {"shape": rows, "digest": digest}
    if outside:
        told["outside"] = outside
    return told


def parse_shape(rows: Sequence[Any]) -> Shape:
    """The shape that an event tells."""
    places = [place for row in rows[1:] for place in _unfolded(*row)]
    return Shape(_text(rows), rows[0], tuple(sorted(places)))


def sight_digest(code: StepCode, shape: Shape, sight: Sight) -> str | None:
    """The digest of the code and of what lies now in the places of a shape; None while that is not known."""
    values = [look_up(place, sight) for place in shape.places]
    return None if UNKNOWN in values else _digest(code, shape.text, values)


def _digest(code: StepCode, shape: str, values: Iterable[bytes | None]) -> str:
    """Of the code's digest, the shape and the values in hex, as a list in JSON."""
    told = ", ".join(["null" if value is None else f'"{value.hex()}"' for value in values])
    text = f"{_list_begun(code.digest, shape)}, [{told}]]"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]


@lru_cache(maxsize=_SHAPES_MAX)
def _list_begun(code_digest: str, shape: str) -> str:
    """The JSON of a list with these two, but for its end: thousands of tasks have them in common."""
    return json.dumps([code_digest, shape], ensure_ascii=False)[:-1]


def _text(rows: Sequence[Any]) -> str:
    return json.dumps(rows, ensure_ascii=False)


def _folded(places: Iterable[Dependency]) -> list[list[Any]]:
    """Places that differ only in their first number, as ranges: a join reads one name of all its inputs."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[int]] = {}
    plain = []
    for kind, place, name in places:
        if place:
            groups.setdefault((kind, name, place[1:]), []).append(place[0])
        else:
            plain.append([kind, name])
    return plain + [[*key[:2], list(key[2]), _ranges(numbers)] for key, numbers in sorted(groups.items())]


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _unfolded(
    kind: str, name: str, rest: Sequence[int] = (), ranges: Sequence[Sequence[int]] | None = None
) -> Iterator[Dependency]:
    if ranges is None:
        yield Dependency(kind, (), name)
        return
    for first, last in ranges:
        for number in range(first, last + 1):
            yield Dependency(kind, (number, *rest), name)
