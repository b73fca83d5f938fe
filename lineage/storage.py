"""Where a store's bytes lie: the port `Storage`. Its adapters are in `local`, `memory` and `remote`.

Paths are those of `weft.lineage.paths`: relative to the store's root, with `/`. A file is written once and
never changed, journals excepted: they grow by `AppendFile` under a lock that their writer holds for life.
Where files cannot grow (`can_append`), journals are chunks that never change either.

Names that start with a dot belong to writes under way; `list` leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from weft.lineage.errors import NotFound

__all__ = [
    "AppendFile",
    "Data",
    "Lock",
    "R",
    "Storage",
    "StoredFile",
    "T",
    "get_many",
    "get_or_none",
    "parts_of",
]

Data = bytes | memoryview | Sequence[bytes | memoryview]

T = TypeVar("T")
R = TypeVar("R")


class StoredFile(NamedTuple):
    """A file as a listing shows it; `modified_us` is when it was written or refreshed last."""

    path: str
    size_bytes: int
    modified_us: int


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

    @property
    def can_append(self) -> bool:
        """Whether files can grow. Where they cannot, a journal is one file for each group commit."""

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

    def scan(self, prefix: str) -> list[StoredFile]:
        """The same files as `list`, with what a listing says of them, sorted by path."""

    def localize(self, paths: Sequence[str]) -> list[str]:
        """Absolute local paths of files that never change; they are fetched, several at once, where they are not here.

        Raises: NotFound.
        """

    def forget_copy(self, path: str) -> bool:
        """Drop the local copy of a file, which was found to be wrong; False where there is none but the file itself."""

    def at_once(self, function: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        """What `function` gives for each item, in order; several are asked for at once where asking takes a while.

        Raises: what `function` raises.
        """

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
        """Set the file's time to now, and make its name durable; False if there is no such file."""

    def create_append(self, path: str) -> AppendFile:
        """Create an empty file to append to; nobody sees it before this writer holds its exclusive lock.

        Only where `can_append` says so. Raises: StoreConflict when there is one of that name.
        """

    def try_lock(self, path: str, *, shared: bool = False) -> Lock | None:
        """Take the lock of a file at once, or give None when it is held or there is no such file.

        Where files cannot grow there are no locks either: it is always None.
        """

    def sync_file(self, path: str) -> None:
        """Make durable what is in a file, whoever wrote it. Raises: NotFound."""

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""

    def local_path(self, path: str) -> str | None:
        """The absolute path of a file, or of the copy that is here, for others to open; None where there is none."""


def get_or_none(storage: Storage, path: str) -> bytes | None:
    """The bytes of a file; None when there is none of that name."""
    try:
        return storage.get(path)
    except NotFound:
        return None


def get_many(storage: Storage, paths: Sequence[str]) -> Sequence[bytes | None]:
    """The bytes of several files; None for each that is gone."""
    return storage.at_once(lambda path: get_or_none(storage, path), paths)


def parts_of(data: Data) -> Sequence[bytes | memoryview]:
    """The pieces of what is to be written."""
    return [data] if isinstance(data, bytes | bytearray | memoryview) else data
