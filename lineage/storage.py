"""Where a store's bytes lie: the port `Storage`, and its adapters for a local folder and for memory.

Paths are those of `weft.lineage.paths`: relative to the store's root, with `/`. A file is written once and
never changed, journals excepted: they grow by `AppendFile` under a lock that their writer holds for life.

Names that start with a dot belong to writes under way; `list` leaves them out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from typing import Protocol

from weft.lineage import clock, files
from weft.lineage.errors import StoreConflict

__all__ = ["AppendFile", "Data", "LocalStorage", "Lock", "MemoryStorage", "Storage"]

Data = bytes | memoryview | Sequence[bytes | memoryview]


class AppendFile(Protocol):
    """A file that grows at its end, locked by its one writer."""

    def write(self, data: bytes) -> int:
        """Append; gives the number of bytes written, which may be fewer. Not durable before `sync`."""

    def truncate(self, size_bytes: int) -> None:
        """Cut the file back to its first `size_bytes`."""

    def sync(self) -> None:
        """Make everything written so far durable."""

    def close(self) -> None:
        """Let go of the lock and of the file."""


class Lock(Protocol):
    """A lock that was taken."""

    def release(self) -> None: ...


class Storage(Protocol):
    """The port. Every adapter passes `StorageContract`.

    Raises, all methods: StoreUnavailable when the medium is full, read-only or out of reach.
    """

    @property
    def url(self) -> str:
        """What messages call this store."""

    @property
    def locks_prove_death(self) -> bool:
        """Whether a lock that can be taken proves that its holder is gone (not so on a network file system)."""

    def create_exclusive(self, path: str, data: Data) -> None:
        """Create a file, whole and durable, if there is none of that name.

        Raises: StoreConflict when there is one.
        """

    def put(self, path: str, data: Data) -> None:
        """Write a file, durable; readers see the old one or the new one, never a part."""

    def get(self, path: str) -> bytes:
        """Raises: NotFound."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on; fewer where the file ends. Raises: NotFound."""

    def list(self, prefix: str) -> list[str]:
        """The paths of all files in folder `prefix` and below, sorted."""

    def delete(self, path: str) -> None:
        """Remove a file; no error if there is none."""

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int:
        """In bytes. Raises: NotFound."""

    def modified_us(self, path: str) -> int:
        """When the file was written or refreshed last. Raises: NotFound."""

    def refresh(self, path: str) -> bool:
        """Set the file's time to now; False if there is no such file."""

    def create_append(self, path: str) -> AppendFile:
        """Create an empty file to append to; nobody sees it before this writer holds its exclusive lock.

        Raises: StoreConflict when there is one of that name.
        """

    def try_lock(self, path: str, *, shared: bool = False) -> Lock | None:
        """Take the lock of a file at once, or give None when it is held or there is no such file."""

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""

    def local_path(self, path: str) -> str | None:
        """The absolute path of a file for others to open; None where there is no such thing."""


class LocalStorage:
    """A folder of a local file system. The folder is created by the first write."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self._locks_prove_death: bool | None = None

    @property
    def url(self) -> str:
        return self.root

    @property
    def locks_prove_death(self) -> bool:
        if self._locks_prove_death is None:
            self._locks_prove_death = not files.is_on_network(self.root)
        return self._locks_prove_death

    def create_exclusive(self, path: str, data: Data) -> None:
        target = self._path(path)
        temporary = self._write_temporary(target, data)
        try:
            files.publish_exclusive(temporary, target)
        except FileExistsError:
            raise StoreConflict(f"{target} exists already. Read it instead of creating it.") from None
        except OSError as error:
            raise files.unavailable(error, target) from error
        finally:
            files.remove(temporary)
        self._sync_parent(target)

    def put(self, path: str, data: Data) -> None:
        target = self._path(path)
        temporary = self._write_temporary(target, data)
        try:
            os.rename(temporary, target)
        except OSError as error:
            files.remove(temporary)
            raise files.unavailable(error, target) from error
        self._sync_parent(target)

    def get(self, path: str) -> bytes:
        try:
            with open(self._path(path), "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise files.read_error(error, self._path(path)) from error

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        try:
            with open(self._path(path), "rb", buffering=0) as file:
                return os.pread(file.fileno(), length, offset)
        except OSError as error:
            raise files.read_error(error, self._path(path)) from error

    def list(self, prefix: str) -> list[str]:
        found: list[str] = []
        folders = [prefix.rstrip("/")]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self._path(folder)) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        (folders if entry.is_dir() else found).append(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise files.unavailable(error, self._path(folder)) from error
        return sorted(found)

    def delete(self, path: str) -> None:
        try:
            os.unlink(self._path(path))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise files.unavailable(error, self._path(path)) from error

    def exists(self, path: str) -> bool:
        return os.path.exists(self._path(path))

    def size(self, path: str) -> int:
        return self._stat(path).st_size

    def modified_us(self, path: str) -> int:
        return self._stat(path).st_mtime_ns // 1000

    def refresh(self, path: str) -> bool:
        try:
            os.utime(self._path(path))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise files.unavailable(error, self._path(path)) from error
        return True

    def create_append(self, path: str) -> AppendFile:
        target = self._path(path)
        temporary = files.temporary_name(target)
        self._make_folder(os.path.dirname(target))
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise files.unavailable(error, target) from error
        try:
            # Locked before it has its name: nobody can find it and believe its writer dead.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files.publish_exclusive(temporary, target)
            self._sync_parent(target)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, FileExistsError):
                raise StoreConflict(f"{target} exists already. Take another writer.") from None
            if isinstance(error, OSError):
                raise files.unavailable(error, target) from error
            raise
        finally:
            files.remove(temporary)
        return _LocalAppendFile(descriptor, target)

    def try_lock(self, path: str, *, shared: bool = False) -> Lock | None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path(path), flags)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise files.unavailable(error, self._path(path)) from error
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise files.unavailable(error, self._path(path)) from error
        return _LocalLock(descriptor)

    def sync_folder(self, path: str) -> None:
        files.sync_folder(self._path(path))

    def local_path(self, path: str) -> str | None:
        return self._path(path)

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def _stat(self, path: str) -> os.stat_result:
        try:
            return os.stat(self._path(path))
        except OSError as error:
            raise files.read_error(error, self._path(path)) from error

    def _make_folder(self, folder: str) -> None:
        """Create a folder and those above it, each durable in the one above."""
        try:
            try:
                os.mkdir(folder, 0o755)
            except FileNotFoundError:
                self._make_folder(os.path.dirname(folder))
                os.mkdir(folder, 0o755)
        except FileExistsError:
            return
        except OSError as error:
            raise files.unavailable(error, folder) from error
        files.sync_folder(os.path.dirname(folder))

    def _write_temporary(self, target: str, data: Data) -> str:
        """Write and sync a file beside `target`; its folder is made where it is missing."""
        temporary = files.temporary_name(target)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            try:
                descriptor = os.open(temporary, flags, 0o644)
            except FileNotFoundError:
                self._make_folder(os.path.dirname(target))
                descriptor = os.open(temporary, flags, 0o644)
            try:
                for part in _parts_of(data):
                    files.write_all(descriptor, part)
                files.sync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            files.remove(temporary)
            raise files.unavailable(error, target) from error
        return temporary

    def _sync_parent(self, target: str) -> None:
        files.sync_folder(os.path.dirname(target))


class _LocalAppendFile:
    """An `AppendFile` over a descriptor that holds an exclusive flock."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path

    def write(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except OSError as error:
            raise files.unavailable(error, self._path) from error

    def truncate(self, size_bytes: int) -> None:
        try:
            os.ftruncate(self._descriptor, size_bytes)
        except OSError as error:
            raise files.unavailable(error, self._path) from error

    def sync(self) -> None:
        try:
            files.sync(self._descriptor)
        except OSError as error:
            raise files.unavailable(error, self._path) from error

    def close(self) -> None:
        if self._descriptor >= 0:
            # Said aloud, because a process that was forked meanwhile may still hold the descriptor.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


class _LocalLock:
    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class MemoryStorage:
    """A store in this process's memory, gone with it. Safe for one thread at a time."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self._times_us: dict[str, int] = {}
        self._writers: set[str] = set()
        self._readers: dict[str, int] = {}

    @property
    def url(self) -> str:
        return "memory:"

    @property
    def locks_prove_death(self) -> bool:
        return True

    def create_exclusive(self, path: str, data: Data) -> None:
        if path in self.files:
            raise StoreConflict(f"{path} exists already. Read it instead of creating it.")
        self.put(path, data)

    def put(self, path: str, data: Data) -> None:
        self.files[path] = bytearray().join(_parts_of(data))
        self._times_us[path] = clock.now_us()

    def get(self, path: str) -> bytes:
        return bytes(self._file(path))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return bytes(self._file(path)[offset : offset + length])

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
        self.create_exclusive(path, b"")
        self._writers.add(path)
        return _MemoryAppendFile(self.files[path], self._writers, path)

    def try_lock(self, path: str, *, shared: bool = False) -> Lock | None:
        if path not in self.files or path in self._writers or (self._readers.get(path) and not shared):
            return None
        if shared:
            self._readers[path] = self._readers.get(path, 0) + 1
        else:
            self._writers.add(path)
        return _MemoryLock(self._readers if shared else self._writers, path)

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


def _parts_of(data: Data) -> Sequence[bytes | memoryview]:
    return [data] if isinstance(data, bytes | bytearray | memoryview) else data
