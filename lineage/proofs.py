"""Proof of segment files: their rows are believed once their bytes have the sha256 that is their name."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from threading import Event, Lock, Thread

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

    __slots__ = ("_hashing", "_proven", "storage")

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._proven: set[str] = set()
        self._hashing = _Hashing()

    def begin(self, local: Sequence[str]) -> None:
        """Hash local files that will be wanted, in this order, while something else is done."""
        self._hashing.begin(local)

    def sha256_of_file(self, path: str) -> bytes:
        """The sha256 of a local file, once from what was begun. Raises: NotFound, StoreUnavailable."""
        return self._hashing.take(path) or sha256_of_file(path)

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
    """The sha256 of local files, worked out by two threads at most, in the order in which they were begun."""

    __slots__ = ("_at_work", "_begun", "_found", "_lock", "_waiting")

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[str] = deque()
        #: Set when a file is done, as well as it could be.
        self._begun: dict[str, Event] = {}
        self._found: dict[str, tuple[bytes, _Shape | None]] = {}
        self._at_work = 0

    def begin(self, paths: Sequence[str]) -> None:
        with self._lock:
            new = [path for path in dict.fromkeys(paths) if path not in self._begun]
            self._begun.update((path, Event()) for path in new)
            self._waiting.extend(new)
            wanted = min(_THREADS - self._at_work, len(new))
            self._at_work += wanted
        for _ in range(wanted):
            try:
                Thread(target=self._work, name="weft-proof").start()
            except RuntimeError:
                # Without threads the files are hashed where they are wanted.
                with self._lock:
                    self._at_work -= 1

    def take(self, path: str) -> bytes | None:
        """The sha256 of a file that is being hashed, once; None for any other, one that waits for its turn, one that
        could not be read, and one that has changed since."""
        with self._lock:
            done = self._begun.pop(path, None)
            if done is None:
                return None
            if path in self._waiting:
                self._waiting.remove(path)
                return None
        done.wait()
        digest, shape = self._found.pop(path, (None, None))
        return digest if shape == _shape_of(path) else None

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._at_work -= 1
                    return
                path = self._waiting.popleft()
                done = self._begun[path]
            # Who wants it proven reads it again, and is told why it cannot be: it may be fetched only then.
            with suppress(Exception):
                shape = _shape_of(path)
                self._found[path] = sha256_of_file(path), shape
            done.set()


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
