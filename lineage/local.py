"""A store in a folder of a local file system."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from weft.lineage import files
from weft.lineage.errors import StoreConflict
from weft.lineage.storage import AppendFile, Data, Lock, R, StoredFile, T, parts_of

__all__ = ["LocalStorage"]


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

    @property
    def can_append(self) -> bool:
        return True

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

    def scan(self, prefix: str) -> list[StoredFile]:
        found = []
        for path, entry in self._entries(prefix):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            found.append(StoredFile(path, stat.st_size, stat.st_mtime_ns // 1000))
        return sorted(found)

    def localize(self, paths: Sequence[str]) -> list[str]:
        return [self._path(path) for path in paths]

    def forget_copy(self, path: str) -> bool:
        return False

    def at_once(self, function: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        return [function(item) for item in items]

    def list(self, prefix: str) -> list[str]:
        return sorted(path for path, _ in self._entries(prefix))

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
        # Whoever put it there may have been killed before its name was durable.
        self._sync_parent(self._path(path))
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

    def sync_file(self, path: str) -> None:
        try:
            descriptor = os.open(self._path(path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                files.sync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise files.read_error(error, self._path(path)) from error

    def sync_folder(self, path: str) -> None:
        files.sync_folder(self._path(path))

    def local_path(self, path: str) -> str | None:
        return self._path(path)

    def _entries(self, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Every file in a folder and below, with its directory entry, in no order."""
        folders = [prefix.rstrip("/")]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self._path(folder)) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.is_dir():
                            folders.append(path)
                        else:
                            yield path, entry
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise files.unavailable(error, self._path(folder)) from error

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
                for part in parts_of(data):
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
