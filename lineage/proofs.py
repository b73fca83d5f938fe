"""Proof of segment files: their rows are believed once their bytes have the sha256 that is their name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from weft.lineage.files import read_error
from weft.lineage.manifest import SegmentFile, damaged_segment
from weft.lineage.objects import sha256_of
from weft.lineage.storage import Storage

__all__ = ["Proofs", "check_segment_file", "sha256_of_file"]

#: Small enough that reading has no part in the peak of a command's memory.
_CHUNK_BYTES = 256 * 1024

#: hashlib lets go of the interpreter: two threads hash files in half the time, if there is something to hash.
_WORTH_A_THREAD_BYTES = 1024 * 1024
_THREADS = 2


class Proofs:
    """The segment files of a store that this process has proven: each is read once for that."""

    __slots__ = ("_begun", "_proven", "storage")

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._proven: set[str] = set()
        self._begun: dict[str, _Hashing] = {}

    def begin(self, local: Sequence[str]) -> None:
        """Hash local files that will be wanted, while something else is done."""
        new = [path for path in local if path not in self._begun]
        if new:
            self._begun.update(dict.fromkeys(new, _Hashing(new)))

    def sha256_of_file(self, path: str) -> bytes:
        """The sha256 of a local file, once from what was begun. Raises: NotFound, StoreUnavailable."""
        begun = self._begun.pop(path, None)
        digest = None if begun is None else begun.digest(path)
        return digest or sha256_of_file(path)

    def prove(self, files: Iterable[SegmentFile]) -> list[str]:
        """Fetch files where they are not here, and check them. Gives their absolute local paths, in order.

        Raises: StoreDamaged, NotFound.
        """
        wanted = list(files)
        if not wanted:
            return []
        local = self.storage.localize([file.path for file in wanted])
        unproven = [(f, p) for f, p in zip(wanted, local, strict=True) if f.path not in self._proven]
        if len(unproven) > 1 and sum(file.size_bytes for file, _ in unproven) >= _WORTH_A_THREAD_BYTES:
            self.begin([path for _, path in unproven])
        for file, path in unproven:
            digest = self.sha256_of_file(path)
            if digest != file.digest and self.storage.forget_copy(file.path):
                # It was the copy that is damaged: fetched anew, it may be right.
                digest = sha256_of_file(*self.storage.localize([file.path]))
            if digest != file.digest:
                raise damaged_segment(self.storage, file.path, "its bytes are others than its name says")
            self._proven.add(file.path)
        return local


class _Hashing:
    """The sha256 of local files, worked out in two threads that begin at once, in this order."""

    __slots__ = ("_done", "_found", "_waiting")

    def __init__(self, paths: Sequence[str]) -> None:
        from threading import Event, Thread

        # An iterator over a sequence gives each item to one of the threads.
        self._waiting = iter(paths)
        self._found: dict[str, tuple[bytes, _Shape | None]] = {}
        self._done = {path: Event() for path in paths}
        for _ in paths[:_THREADS]:
            Thread(target=self._work, name="weft-proof").start()

    def digest(self, path: str) -> bytes | None:
        """Wait for it; None for a file that could not be read, or is another by now."""
        self._done[path].wait()
        digest, shape = self._found.get(path, (None, None))
        return digest if shape == _shape_of(path) else None

    def _work(self) -> None:
        for path in self._waiting:
            # Who wants it proven reads it again, and is told why it cannot be: it may be fetched only then.
            with suppress(Exception):
                shape = _shape_of(path)
                self._found[path] = sha256_of_file(path), shape
            self._done[path].set()


#: What changes with a file: inode, size and time.
_Shape = tuple[int, int, int]


def _shape_of(path: str) -> _Shape | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def check_segment_file(storage: Storage, path: str, digest: bytes) -> None:
    """Check the bytes that the store holds now. Raises: StoreDamaged, NotFound."""
    if sha256_of(storage, path) != digest:
        raise damaged_segment(storage, path, "its bytes are others than its name says")


def sha256_of_file(path: str) -> bytes:
    """The sha256 of a local file, read piece by piece. Raises: NotFound, StoreUnavailable."""
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                hasher.update(buffer[:count])
    except OSError as error:
        raise read_error(error, path) from error
    return hasher.digest()
