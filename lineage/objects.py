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
    """The objects of one store. An object is published before any event names it.

    With `spool`, the local folder of a run that writes to a store which is far, objects are put there, and
    whoever commits the events of the run publishes them (see `weft.lineage.spool`).
    """

    __slots__ = ("spool", "storage")

    def __init__(self, storage: Storage, spool: Storage | None = None) -> None:
        self.storage = storage
        self.spool = spool

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
        storage = self.storage if self.spool is None else self.spool
        if not storage.refresh(path):
            storage.put(path, parts)
        return digest

    def get(self, digest: bytes) -> bytes:
        """Raises: NotFound when it is missing, StoreDamaged when its bytes are others than its name says."""
        return self._read(digest, 0, None, digest)

    def get_part(self, digest: bytes, offset: int, size_bytes: int, part_digest: bytes) -> bytes:
        """Bytes `offset … offset + size_bytes` of an object, which are checked by a digest of their own.

        Raises: NotFound when the object is missing, StoreDamaged when the bytes are others.
        """
        return self._read(digest, offset, size_bytes, part_digest)

    def path_of(self, digest: bytes) -> str | None:
        """The absolute path of the object's file, which may be missing; None where the store is no folder.

        Where the store is far it is that of the local copy, once there is one.
        """
        return self.storage.local_path(object_path(digest))

    def _read(self, digest: bytes, offset: int, size_bytes: int | None, expected: bytes) -> bytes:
        path = object_path(digest)
        try:
            data = self._bytes_of(path, offset, size_bytes)
            if hashlib.sha256(data).digest() != expected and self.storage.forget_copy(path):
                # It was a local copy that is damaged.
                data = self._bytes_of(path, offset, size_bytes)
        except NotFound:
            raise _missing(digest) from None
        if hashlib.sha256(data).digest() != expected:
            raise StoreDamaged(
                f"Object {digest_to_text(digest)} holds other bytes than its name says ({path} in {self.storage.url}). "
                "Run `weft verify`, and put the file back from a copy of the store."
            )
        return data

    def _bytes_of(self, path: str, offset: int, size_bytes: int | None) -> bytes:
        """From where it is nearest: the spool, a local copy, the store."""
        if self.spool is not None:
            try:
                return _part(self.spool, path, offset, size_bytes)
            except NotFound:
                # It was published: then there is a copy.
                pass
        if self.storage.can_append:
            return _part(self.storage, path, offset, size_bytes)
        (copy,) = self.storage.localize([path])
        with open(copy, "rb") as file:
            file.seek(offset)
            return file.read(-1 if size_bytes is None else size_bytes)

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


def _part(storage: Storage, path: str, offset: int, size_bytes: int | None) -> bytes:
    return storage.get(path) if size_bytes is None else storage.read_range(path, offset, size_bytes)


def sha256_of(storage: Storage, path: str) -> bytes:
    """The sha256 of a file, read piece by piece. Raises: NotFound."""
    hasher = hashlib.sha256()
    offset = 0
    while True:
        chunk = storage.read_range(path, offset, _CHUNK_BYTES)
        hasher.update(chunk)
        offset += len(chunk)
        if len(chunk) < _CHUNK_BYTES:
            return hasher.digest()


def _missing(digest: bytes) -> NotFound:
    return NotFound(
        f"Object {digest_to_text(digest)} is not in the store. Run `weft verify` to see what it belongs to."
    )
