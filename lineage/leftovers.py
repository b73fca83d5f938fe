"""What writes that were cut off left behind: temporary files, which nothing refers to. Only folders have them."""

from __future__ import annotations

import os

from weft.lineage import files
from weft.lineage.storage import Storage, StoredFile

__all__ = ["LEFTOVER_S", "leftovers", "remove_leftovers"]

#: A temporary file that was not touched for so long belongs to no write that goes on.
LEFTOVER_S = 24 * 3600.0


def leftovers(storage: Storage) -> list[StoredFile]:
    """The temporary files of a store, sorted; some may belong to writes under way."""
    root = storage.local_path("")
    found = []
    for folder, _, names in os.walk(root) if root is not None else ():
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                path = os.path.join(folder, name)
                try:
                    stat = os.lstat(path)
                except OSError:
                    continue
                relative = os.path.relpath(path, root)
                found.append(StoredFile(relative, stat.st_size, stat.st_mtime_ns // 1000))
    return sorted(found)


def remove_leftovers(storage: Storage, newest_us: int) -> list[str]:
    """Remove those that were last touched before `newest_us`; gives their paths. Raises: StoreUnavailable."""
    removed = []
    for path, _, modified_us in leftovers(storage):
        local = storage.local_path(path)
        if modified_us < newest_us and local is not None:
            files.remove(local)
            removed.append(path)
    return removed
