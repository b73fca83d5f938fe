"""Content-addressed bytes: each object is named by the sha256 of what is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from weft.lineage.errors import NotFound, StoreDamaged
from weft.lineage.ids import digest_to_text
from weft.lineage.paths import OBJECTS, digest_of_object, object_path
from weft.lineage.storage import Storage

__all__ = ["Objects", "sha256_of"]

_CHUNK_BYTES = 4 * 1024 * 1024


class Objects:
    """The objects of one store. An object is published before any event names it."""

    __slots__ = ("storage",)

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put(self, parts: Sequence[bytes | memoryview], digest: bytes | None = None) -> bytes:
        """Store the concatenation of `parts`, durable, and give its digest.

        With `digest` the caller vouches that it is theirs. An object that is there already is not
        written again; its time is refreshed, so that a collector with a grace period leaves it alone.
        """
        if digest is None:
            hasher = hashlib.sha256()
            for part in parts:
                hasher.update(part)
            digest = hasher.digest()
        path = object_path(digest)
        if not self.storage.refresh(path):
            self.storage.put(path, parts)
        return digest

    def get(self, digest: bytes) -> bytes:
        """Raises: NotFound when it is missing, StoreDamaged when its bytes are others than its name says."""
        path = object_path(digest)
        try:
            data = self.storage.get(path)
        except NotFound:
            raise _missing(digest) from None
        if hashlib.sha256(data).digest() != digest:
            raise StoreDamaged(
                f"Object {digest_to_text(digest)} holds other bytes than its name says ({path} in {self.storage.url}). "
                "Run `weft verify`, and put the file back from a copy of the store."
            )
        return data

    def get_part(self, digest: bytes, offset: int, size_bytes: int, part_digest: bytes) -> bytes:
        """Bytes `offset … offset + size_bytes` of an object, which are checked by a digest of their own.

        Raises: NotFound when the object is missing, StoreDamaged when the bytes are others.
        """
        path = object_path(digest)
        try:
            data = self.storage.read_range(path, offset, size_bytes)
        except NotFound:
            raise _missing(digest) from None
        if hashlib.sha256(data).digest() != part_digest:
            raise StoreDamaged(
                f"Object {digest_to_text(digest)} holds other bytes than its name says ({path} in {self.storage.url}). "
                "Run `weft verify`, and put the file back from a copy of the store."
            )
        return data

    def path_of(self, digest: bytes) -> str | None:
        """The absolute path of the object's file, which may be missing; None where the store is no folder."""
        return self.storage.local_path(object_path(digest))

    def has(self, digest: bytes) -> bool:
        return self.storage.exists(object_path(digest))

    def size(self, digest: bytes) -> int:
        """In bytes. Raises: NotFound."""
        try:
            return self.storage.size(object_path(digest))
        except NotFound:
            raise _missing(digest) from None

    def all(self) -> Iterator[bytes]:
        """The digests of all objects, sorted."""
        for path in self.storage.list(OBJECTS):
            digest = digest_of_object(path)
            if digest is not None:
                yield digest


def sha256_of(storage: Storage, path: str) -> bytes:
    """The sha256 of a file, read piece by piece. Raises: NotFound."""
    hasher = hashlib.sha256()
    offset = 0
    while chunk := storage.read_range(path, offset, _CHUNK_BYTES):
        hasher.update(chunk)
        offset += len(chunk)
    return hasher.digest()


def _missing(digest: bytes) -> NotFound:
    return NotFound(
        f"Object {digest_to_text(digest)} is not in the store. Run `weft verify` to see what it belongs to."
    )
