"""What a resume asks of the world around its record: whether objects are there, and what files hold now."""

from __future__ import annotations

from weft.lineage.external import fingerprint
from weft.lineage.objects import Objects
from weft.runtime.keys import external_value
from weft.runtime.resume import Outside

__all__ = ["outside"]

#: More objects than this are listed at once instead of being asked for one by one.
_ASKED_MAX = 200


def outside(objects: Objects) -> Outside:
    """The world as it is now; each question is answered once."""
    known: dict[bytes, bool] = {}
    listed: set[bytes] = set()
    contents: dict[tuple[str, bool], bytes] = {}

    def has(digest: bytes) -> bool:
        if digest not in known:
            if len(known) == _ASKED_MAX:
                listed.update(objects.all())
            known[digest] = digest in listed if len(known) >= _ASKED_MAX else objects.has(digest)
        return known[digest]

    def content_of(uri: str, before: bytes) -> bytes:
        # Of what was too large to be read through only size and time are known.
        is_state = before.startswith(b"state:")
        if (uri, is_state) not in contents:
            found = fingerprint(uri, 0 if is_state else None)
            contents[uri, is_state] = external_value(found.digest, {"state": found.state})
        return contents[uri, is_state]

    return Outside(has, content_of)
