"""Equal contents in places that never heard of each other, by digest.

Small values say nothing: `None`, 0 and "ok" would join everything with everything. So only what is external
and values of 64 bytes or more are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.sides import External, Side
from weft.lineage.uses import Place

if TYPE_CHECKING:
    from weft.lineage.details import Details

__all__ = ["COMPARED_BYTES_MIN", "Twin", "find_twins", "twins_of"]

COMPARED_BYTES_MIN = 64

#: Digests that one query asks for.
_DIGESTS_AT_ONCE = 500

_EQUAL = f"""
    select 'artifact', run_uid, flow, run_id, step, task_id, name, digest, size_bytes from told.artifact_events
    where kind = 'artifact_saved' and size_bytes >= {COMPARED_BYTES_MIN} and digest in ({{0}})
    union
    select 'artifact', run_uid, flow, run_id, step, task_id, name, digest, size_bytes from told.run_events
    where kind = 'parameter_set' and size_bytes >= {COMPARED_BYTES_MIN} and digest in ({{0}})
    union
    select 'external', null, null, null, null, null, name, digest, size_bytes from told.use_events
    where kind = 'external_used' and digest in ({{0}})
    order by all
"""


class Twin(NamedTuple):
    """The content of node `of` is that of `key`, too; both are keys of nodes. `digest` is text."""

    of: tuple[Any, ...]
    key: tuple[Any, ...]
    digest: str
    size_bytes: int | None


def twins_of(details: Details, sides: Iterable[Side]) -> list[Twin]:
    """The twins of the roots and of all that is external."""
    keys: dict[tuple[Any, ...], None] = {}
    for side in sides:
        keys.update((key, None) for key in (*side.roots, *side.externals))
    return find_twins(details, keys)


def find_twins(details: Details, keys: Iterable[tuple[Any, ...]]) -> list[Twin]:
    """Where else the contents of these artifacts and externals are recorded."""
    keys = list(keys)
    facts = details.facts(key for key in keys if len(key) == 3)
    by_digest: dict[bytes, list[tuple[Any, ...]]] = {}
    for key in keys:
        if isinstance(key, External):
            if isinstance(key.content, bytes):
                by_digest.setdefault(key.content, []).append(key)
        elif key in facts and (facts[key].size_bytes or 0) >= COMPARED_BYTES_MIN:
            text = facts[key].digest or ""
            by_digest.setdefault(bytes.fromhex(text.removeprefix("sha256:")), []).append(key)
    digests = sorted(by_digest)
    found: dict[Twin, None] = {}
    for start in range(0, len(digests), _DIGESTS_AT_ONCE):
        for key, digest, size_bytes in _recorded(details, digests[start : start + _DIGESTS_AT_ONCE]):
            for of in by_digest[digest]:
                if of != key:
                    found[Twin(of, key, "sha256:" + digest.hex(), size_bytes)] = None
    return list(found)


def _recorded(details: Details, digests: list[bytes]) -> Iterator[tuple[tuple[Any, ...], bytes, int | None]]:
    marks = ", ".join("?" for _ in digests)
    for kind, uid, flow, run_id, step, task_id, name, digest, size_bytes in details.store.rows(
        _EQUAL.format(marks), digests * 3
    ):
        known = bytes(digest)
        if kind == "external":
            yield External(name, known), known, size_bytes
        else:
            yield (Place(flow, details.uses.shown(uid, flow, run_id), step), task_id, name), known, size_bytes
