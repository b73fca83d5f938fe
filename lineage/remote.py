"""A store on anything fsspec knows: `s3://bucket/prefix` and other URLs.

Files do not grow there and nobody holds locks, so journals are chunks. What makes it safe: a file is
created only where there is none (`If-None-Match`), which is tried out once per process on each store, and
nothing is read from a cached listing. A store that ignores the condition is written all the same: the
names of chunks are unique by their writers, and what was written is read back.

A filesystem is opened by the process that uses it and never handed to a fork: it runs a thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from threading import Lock as ThreadLock
from typing import Any

from weft.lineage import clock, files, outages
from weft.lineage.copies import Copies
from weft.lineage.errors import NotFound, StoreConflict, StoreUnavailable, WeftError
from weft.lineage.paths import CACHE
from weft.lineage.storage import AppendFile, Data, Lock, R, StoredFile, T, get_or_none, parts_of

__all__ = ["RemoteStorage"]

#: How long a request is tried again, once the store has answered anything at all to this process, and before.
_PATIENCE_S = 60.0
_PATIENCE_AT_FIRST_S = 2.0
_PAUSE_MIN_S = 0.1
_PAUSE_MAX_S = 5.0

#: Requests at once.
_REQUESTS_MAX = 16

#: An object up to this size is rather put anew than asked for.
_REFRESHED_BYTES_MIN = 1 << 20

#: Where a refused creation proves that somebody else created it, races included. Elsewhere it is read back.
_ATOMIC = frozenset(("s3", "s3a", "gs", "gcs"))

#: The file system in memory looks first and creates then.
_MEMORY_LOCK = ThreadLock()

_TIME_FIELDS = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


class RemoteStorage:
    """The files below one URL. Safe for several threads; the filesystem is opened by the first request."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.copies = Copies(self._url)
        self._opened: tuple[int, Any, str] | None = None
        self._opening = ThreadLock()
        self._has_answered = False
        self._is_conditional: bool | None = None

    @property
    def url(self) -> str:
        return self._url

    @property
    def locks_prove_death(self) -> bool:
        return False

    @property
    def can_append(self) -> bool:
        return False

    def create_exclusive(self, path: str, data: Data) -> None:
        """A try whose outcome stayed unknown may have gone well: then the next one finds its own bytes."""
        body = _joined(data)
        is_conditional = self._honours_conditions()

        def create(is_again: bool) -> None:
            try:
                self._create(path, body, is_conditional)
            except Exception as error:
                if not outages.is_conflict(error):
                    raise
                if is_again and get_or_none(self, path) == body:
                    return
                raise StoreConflict(
                    f"{path} in {self._url} exists already. Read it instead of creating it."
                ) from error

        self._call(path, create)
        if not (is_conditional and self._protocol() in _ATOMIC) and self.get(path) != body:
            raise StoreConflict(f"{path} in {self._url} was created by another process, too. Read it.")

    def put(self, path: str, data: Data) -> None:
        body = _joined(data)
        self._call(path, lambda is_again: self._filesystem().pipe_file(self._full(path), body))

    def get(self, path: str) -> bytes:
        # With a start s3fs asks once, without it asks for the size first.
        return self._read(path, 0, None)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self._read(path, offset, offset + length) if length > 0 else b""

    def _read(self, path: str, start: int, end: int | None) -> bytes:
        def read(is_again: bool) -> bytes:
            try:
                part: bytes = self._filesystem().cat_file(self._full(path), start=start, end=end)
            except Exception as error:
                if outages.is_past_end(error):
                    return b""
                raise
            return part

        return self._call(path, read)

    def scan(self, prefix: str) -> list[StoredFile]:
        folder = prefix.rstrip("/")

        def find(is_again: bool) -> dict[str, Any]:
            filesystem = self._filesystem()
            filesystem.invalidate_cache()
            try:
                listed: dict[str, Any] = filesystem.find(self._full(folder), detail=True)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not outages.is_missing(error):
                    raise
                return {}
            return listed

        found = []
        start = f"{folder}/" if folder else ""
        for name, entry in self._call(folder, find).items():
            path = name.removeprefix(f"{self._root()}/")
            is_hidden = any(part.startswith(".") for part in path.removeprefix(start).split("/"))
            if entry.get("type") == "file" and path.startswith(start) and path[-1] != "/" and not is_hidden:
                found.append(StoredFile(path, int(entry["size"]), _modified_us(entry)))
        return sorted(found)

    def localize(self, paths: Sequence[str]) -> list[str]:
        missing = dict.fromkeys(path for path in paths if not self.copies.has(path))
        self.at_once(self._fetch, missing)
        if missing:
            self.copies.prune()
        return [self.copies.path(path) for path in paths]

    def forget_copy(self, path: str) -> bool:
        return self.copies.forget(path)

    def at_once(self, function: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        asked = list(items)
        if len(asked) <= 1:
            return [function(item) for item in asked]
        from concurrent.futures import ThreadPoolExecutor

        self._filesystem()  # Opened once, not by all of them.
        with ThreadPoolExecutor(min(_REQUESTS_MAX, len(asked))) as pool:
            return list(pool.map(function, asked))

    def publish(self, found: Iterable[tuple[str, str]]) -> None:
        """Put files that lie at local paths, several at once; each becomes the local copy of what was put.

        `found` are pairs of the path in the store and the local path.
        """
        self.at_once(self._upload, found)

    def list(self, prefix: str) -> list[str]:
        return [file.path for file in self.scan(prefix)]

    def delete(self, path: str) -> None:
        def remove(is_again: bool) -> None:
            try:
                self._filesystem().rm_file(self._full(path))
            except (FileNotFoundError, KeyError) as error:
                if isinstance(error, FileNotFoundError) and not outages.is_missing(error):
                    raise

        self._call(path, remove)
        self.copies.forget(path)

    def exists(self, path: str) -> bool:
        try:
            self._entry(path)
        except NotFound:
            return False
        return True

    def size(self, path: str) -> int:
        return int(self._entry(path)["size"])

    def modified_us(self, path: str) -> int:
        """As a listing has it: what a single question gives may be rounded otherwise."""
        if self._protocol() not in ("s3", "s3a"):
            return _modified_us(self._entry(path))
        folder, _, name = self._full(path).rpartition("/")

        def find(is_again: bool) -> dict[str, Any]:
            listed: dict[str, Any] = self._filesystem().find(folder, prefix=name, detail=True)
            return listed

        entry = self._call(path, find).get(self._full(path))
        if entry is None:
            raise files.not_found(path)
        return _modified_us(entry)

    def refresh(self, path: str) -> bool:
        """An object is copied onto itself where that can be done, else put anew."""

        def copy(is_again: bool) -> None:
            full = self._full(path)
            if self._protocol() in ("s3", "s3a"):
                # Without a change of some kind S3 refuses to copy a file onto itself.
                self._filesystem().cp_file(full, full, MetadataDirective="REPLACE")
            else:
                self._filesystem().pipe_file(full, self._filesystem().cat_file(full))

        try:
            self._call(path, copy)
        except NotFound:
            return False
        return True

    def create_append(self, path: str) -> AppendFile:
        raise StoreUnavailable(f"Files of {self._url} cannot grow. Put a chunk instead of {path}.")

    def try_lock(self, path: str, *, shared: bool = False) -> Lock | None:
        return None

    def sync_file(self, path: str) -> None:
        """A file that was put is durable."""

    def sync_folder(self, path: str) -> None:
        """A file that was put is durable with its name."""

    def local_path(self, path: str) -> str | None:
        return self.copies.path(path) if self.copies.has(path) else None

    # One request

    def _call(self, path: str, request: Callable[[bool], R]) -> R:
        """Ask until there is an answer; `request` is told whether it was asked before, with unknown outcome.

        Raises: NotFound, StoreUnavailable.
        """
        begun_s = clock.monotonic_s()
        pause_s = _PAUSE_MIN_S
        is_again = False
        while True:
            try:
                answer = request(is_again)
                self._has_answered = True
                return answer
            except WeftError:
                raise
            except Exception as error:
                if outages.is_missing(error):
                    self._has_answered = True
                    raise files.not_found(path) from error
                self._has_answered |= outages.status_of(error) is not None
                patience_s = _PATIENCE_S if self._has_answered else _PATIENCE_AT_FIRST_S
                if not outages.is_transient(error) or clock.monotonic_s() - begun_s + pause_s > patience_s:
                    raise outages.unreachable(self._url, error) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)
            is_again = True

    def _create(self, path: str, body: bytes, is_conditional: bool) -> None:
        filesystem, full = self._filesystem(), self._full(path)
        if is_conditional:
            with _MEMORY_LOCK if self._protocol() == "memory" else ThreadLock():
                filesystem.pipe_file(full, body, mode="create")
        elif self.exists(path):
            raise FileExistsError(path)
        else:
            filesystem.pipe_file(full, body)

    def _honours_conditions(self) -> bool:
        """Whether a file is not overwritten when it is to be created; found out once, by a file of no other use."""
        if self._is_conditional is None:
            full = self._full(f"{CACHE}/.probe-{clock.random_bytes(8).hex()}")

            def probe(is_again: bool) -> bool:
                filesystem = self._filesystem()
                try:
                    for _ in range(2):
                        filesystem.pipe_file(full, b"weft", mode="create")
                except (NotImplementedError, TypeError, ValueError):
                    return False
                except Exception as error:
                    if outages.is_conflict(error):
                        return True
                    raise
                return False

            self._is_conditional = self._call(full, probe)
            self._call(full, lambda is_again: self._filesystem().rm_file(full))
        return self._is_conditional

    def _entry(self, path: str) -> dict[str, Any]:
        """What is known of a file. Raises: NotFound."""
        entry: dict[str, Any] = self._call(path, lambda is_again: self._filesystem().info(self._full(path)))
        if entry.get("type") != "file":
            raise files.not_found(path)
        return entry

    def _fetch(self, path: str) -> None:
        temporary = self.copies.temporary(path)
        try:
            self._call(path, lambda is_again: self._filesystem().get_file(self._full(path), temporary))
            self.copies.keep(temporary, path)
        finally:
            files.remove(temporary)

    def _upload(self, found: tuple[str, str]) -> None:
        path, local = found
        is_there = os.path.getsize(local) >= _REFRESHED_BYTES_MIN and self.refresh(path)
        if not is_there:
            self._call(path, lambda is_again: self._filesystem().put_file(local, self._full(path)))
        self.copies.keep(local, path)

    # The filesystem

    def _filesystem(self) -> Any:
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            with self._opening:
                opened = self._opened
                if opened is None or opened[0] != os.getpid():
                    opened = self._opened = (os.getpid(), *_open(self._url))
        return opened[1]

    def _root(self) -> str:
        self._filesystem()
        assert self._opened is not None
        return self._opened[2]

    def _full(self, path: str) -> str:
        return f"{self._root()}/{path}" if path else self._root()

    def _protocol(self) -> str:
        return self._url.partition("://")[0]


def _open(url: str) -> tuple[Any, str]:
    """The filesystem of a URL, and the path of the store in it. Raises: StoreUnavailable."""
    import fsspec

    protocol = url.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if protocol in ("s3", "s3a"):
        # What is to be tried again is decided here: who tries unseen cannot know its own writes.
        retries = {"total_max_attempts": 1, "mode": "standard"}
        options["config_kwargs"] = {"retries": retries, "max_pool_connections": 2 * _REQUESTS_MAX}
    try:
        filesystem, root = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise StoreUnavailable(
            f"{url} needs a package that is not installed ({error}). Install it with pip."
        ) from error
    except ValueError as error:
        raise StoreUnavailable(
            f"{url} is no place for a store ({error}). Name a folder, s3://bucket/prefix or another URL of fsspec."
        ) from error
    if hasattr(filesystem, "retries"):
        filesystem.retries = 1
    return filesystem, root.rstrip("/")


def _joined(data: Data) -> bytes:
    return data if isinstance(data, bytes) else b"".join(parts_of(data))


def _modified_us(entry: dict[str, Any]) -> int:
    """When a file was written, by what its filesystem says; one that does not say is taken for new."""
    from datetime import datetime

    for field in _TIME_FIELDS:
        value = entry.get(field)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = value.timestamp()
        if isinstance(value, int | float):
            return round(value * 1_000_000)
    return clock.now_us()
