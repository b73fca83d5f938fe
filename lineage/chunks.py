"""Chunks: an open journal where files cannot grow, a file for each group commit.

A chunk is named like any journal file, `journal/<writer>-<first seq>.wj`, and holds the same frames. It is put
only where there is none of its name; that put is the acknowledgement. Whoever finds another chunk under
the name of its own next one has been fenced off: somebody took over what it was writing.
"""

from __future__ import annotations

import _thread
import hashlib
from typing import TYPE_CHECKING

from weft.lineage.errors import StoreConflict
from weft.lineage.paths import JournalName, journal_path
from weft.lineage.storage import Storage, get_or_none

if TYPE_CHECKING:
    from weft.lineage.spool import Spool

__all__ = ["ChunkFile"]


class ChunkFile:
    """Chunks, one for each sync that has anything to put; see `weft.lineage.journal.OpenFile`."""

    __slots__ = (
        "_chunk",
        "_first_seq",
        "_lock",
        "_spool",
        "_storage",
        "_writer",
        "is_dirty",
        "place_path",
        "size_bytes",
        "unsynced_bytes",
    )

    def __init__(self, storage: Storage, writer: bytes, spool: Spool | None) -> None:
        self._storage = storage
        self._writer = writer
        self._spool = spool
        self._chunk: list[bytes] = []
        self._first_seq = 0
        self._lock = _thread.allocate_lock()
        self.place_path = self.path if spool is None else spool.frames_path
        self.size_bytes = 0
        self.unsynced_bytes = 0
        self.is_dirty = False

    @property
    def path(self) -> str:
        return journal_path(JournalName(self._writer, self._first_seq))

    def append(self, data: bytes, first_seq: int) -> None:
        if self._spool is not None:
            self._spool.append(data)
        self.is_dirty = True
        with self._lock:
            if not self._chunk:
                self._first_seq = first_seq
            self._chunk.append(data)
            self.unsynced_bytes += len(data)
            self.size_bytes += len(data)
        self.is_dirty = False

    def sync(self) -> None:
        with self._lock:
            data, path = b"".join(self._chunk), self.path
            self._chunk, self.unsynced_bytes = [], 0
        if not data:
            return
        if self._spool is not None:
            # What these events name is there before they are.
            self._spool.publish()
        try:
            self._storage.create_exclusive(path, data)
        except StoreConflict as error:
            # A put that was taken for lost may have gone well: these bytes are nobody else's.
            if get_or_none(self._storage, path) != data:
                raise StoreConflict(
                    f"Another process has taken over this run in {self._storage.url}: nothing was heard from here "
                    "for too long, and what was done since is not recorded. `weft runs` shows the run that goes on."
                ) from error

    def digest(self) -> bytes:
        with self._lock:
            return hashlib.sha256(b"".join(self._chunk)).digest()

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
