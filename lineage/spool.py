"""What one scheduler has on its way to a store that is far: a local folder, below the store's local copies.

    spool/<random hex>/frames      all frames of the run so far, for its workers; locked while the scheduler lives
    spool/<random hex>/objects/…   objects that are named by no event yet that was put

Workers write objects here and never talk to the store to write. Before a chunk of events is put, every
object that lies here is: then it becomes a local copy, where the run's workers find it as before.
"""

from __future__ import annotations

import os
import shutil

from weft.lineage import clock
from weft.lineage.local import LocalStorage
from weft.lineage.paths import OBJECTS
from weft.lineage.remote import RemoteStorage

__all__ = ["Spool"]

_FRAMES = "frames"
_SPOOLS = "spool"


class Spool:
    """The scheduler's end. `storage` is where workers put objects; see the module."""

    def __init__(self, remote: RemoteStorage) -> None:
        """Make a new one, and remove what schedulers that died have left behind. Raises: StoreUnavailable."""
        _sweep(remote.copies.path(_SPOOLS))
        self._remote = remote
        self.storage = LocalStorage(remote.copies.path(f"{_SPOOLS}/{clock.random_bytes(8).hex()}"))
        self._frames = self.storage.create_append(_FRAMES)
        self._size_bytes = 0
        self._published: set[str] = set()
        self.frames_path = f"{self.storage.root}/{_FRAMES}"

    @property
    def folder(self) -> str:
        return self.storage.root

    def append(self, data: bytes) -> None:
        """Keep frames where workers can read them; all of `data` or nothing. Raises: StoreUnavailable."""
        written = 0
        try:
            while written < len(data):
                written += self._frames.write(data[written:])
        except BaseException:
            self._frames.truncate(self._size_bytes)
            raise
        self._size_bytes += len(data)

    def publish(self) -> None:
        """Put every object that lies here, several at once. Raises: StoreUnavailable."""
        waiting = self.storage.list(OBJECTS)
        again = [path for path in waiting if path in self._published]
        fresh = [path for path in waiting if path not in self._published]
        self._remote.publish((path, f"{self.folder}/{path}") for path in fresh)
        self._published.update(fresh)
        for path in again:
            self._remote.copies.keep(f"{self.folder}/{path}", path)

    def close(self) -> None:
        """Remove the folder. What was not published by then was named by nothing that counts."""
        self._frames.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _sweep(folder: str) -> None:
    """Remove spools whose lock nobody holds any more."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        lock = LocalStorage(f"{folder}/{name}").try_lock(_FRAMES)
        if lock is not None:
            shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
            lock.release()
