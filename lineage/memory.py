"""A store in the memory of this process."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable, Iterable, Sequence

from weft.lineage import clock, files
from weft.lineage.errors import StoreConflict
from weft.lineage.storage import AppendFile, Data, Lock, R, StoredFile, T, parts_of

__all__ = ["MemoryStorage"]


class MemoryStorage:
    """A store in this process's memory, gone with it. Of threads that create one file one wins; else it is for one at a time.

    Without `can_append` it is as an object store is: files do not grow, and there are no locks.
    """

    def __init__(self, can_append: bool = True) -> None:
        self._can_append = can_append
        self.files: dict[str, bytearray] = {}
        self._times_us: dict[str, int] = {}
        self._writers: set[str] = set()
        self._readers: dict[str, int] = {}
        self._copies: str | None = None
        self._creating = _thread.allocate_lock()

    @property
    def url(self) -> str:
        return "memory:"

    @property
    def locks_prove_death(self) -> bool:
        return self._can_append

    @property
    def can_append(self) -> bool:
        return self._can_append

    def create_exclusive(self, path: str, data: Data) -> None:
        with self._creating:
            if path in self.files:
                raise StoreConflict(f"{path} exists already. Read it instead of creating it.")
            self.put(path, data)

    def put(self, path: str, data: Data) -> None:
        self.files[path] = bytearray().join(parts_of(data))
        self._times_us[path] = clock.now_us()

    def get(self, path: str) -> bytes:
        return bytes(self._file(path))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return bytes(self._file(path)[offset : offset + length])

    def scan(self, prefix: str) -> list[StoredFile]:
        return [StoredFile(path, len(self.files[path]), self._times_us[path]) for path in self.list(prefix)]

    def localize(self, paths: Sequence[str]) -> list[str]:
        if self._copies is None:
            import shutil
            import tempfile
            import weakref

            self._copies = tempfile.mkdtemp(prefix="weft-")
            weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
        found = []
        for path in paths:
            data = self._file(path)
            # The number of bytes tells a file that was put anew from the one copied before.
            copy = f"{self._copies}/{len(data)}-{path.replace('/', '-')}"
            if not os.path.exists(copy):
                with open(copy, "wb") as file:
                    file.write(data)
            found.append(copy)
        return found

    def forget_copy(self, path: str) -> bool:
        return False

    def at_once(self, function: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        return [function(item) for item in items]

    def list(self, prefix: str) -> list[str]:
        folder = prefix.rstrip("/")
        return sorted(path for path in self.files if not folder or path.startswith(folder + "/"))

    def delete(self, path: str) -> None:
        self.files.pop(path, None)

    def exists(self, path: str) -> bool:
        return path in self.files

    def size(self, path: str) -> int:
        return len(self._file(path))

    def modified_us(self, path: str) -> int:
        self._file(path)
        return self._times_us[path]

    def refresh(self, path: str) -> bool:
        if path not in self.files:
            return False
        self._times_us[path] = clock.now_us()
        return True

    def create_append(self, path: str) -> AppendFile:
        assert self._can_append, "files of this store do not grow"
        self.create_exclusive(path, b"")
        self._writers.add(path)
        return _MemoryAppendFile(self.files[path], self._writers, path)

    def try_lock(self, path: str, *, shared: bool = False) -> Lock | None:
        if not self._can_append:
            return None
        if path not in self.files or path in self._writers or (self._readers.get(path) and not shared):
            return None
        if shared:
            self._readers[path] = self._readers.get(path, 0) + 1
        else:
            self._writers.add(path)
        return _MemoryLock(self._readers if shared else self._writers, path)

    def sync_file(self, path: str) -> None:
        self._file(path)

    def sync_folder(self, path: str) -> None:
        """Nothing here outlives the process."""

    def local_path(self, path: str) -> str | None:
        return None

    def _file(self, path: str) -> bytearray:
        try:
            return self.files[path]
        except KeyError:
            raise files.not_found(path) from None


class _MemoryAppendFile:
    __slots__ = ("_file", "_path", "_writers")

    def __init__(self, file: bytearray, writers: set[str], path: str) -> None:
        self._file = file
        self._writers = writers
        self._path = path

    def write(self, data: bytes) -> int:
        self._file += data
        return len(data)

    def truncate(self, size_bytes: int) -> None:
        del self._file[size_bytes:]

    def sync(self) -> None:
        """Nothing here outlives the process."""

    def close(self) -> None:
        self._writers.discard(self._path)


class _MemoryLock:
    __slots__ = ("_held", "_path")

    def __init__(self, held: dict[str, int] | set[str], path: str) -> None:
        self._held: dict[str, int] | set[str] | None = held
        self._path = path

    def release(self) -> None:
        if isinstance(self._held, set):
            self._held.discard(self._path)
        elif self._held is not None:
            self._held[self._path] -= 1
        self._held = None
