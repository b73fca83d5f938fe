"""From a URL to the storage behind it: a folder, or anything that fsspec knows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from weft.lineage.local import LocalStorage
from weft.lineage.storage import Storage

if TYPE_CHECKING:
    from weft.lineage.spool import Spool

__all__ = ["open_spool", "open_storage"]


def open_storage(url: str) -> Storage:
    """The storage that a path, a `file://` URL or another URL names; nothing is asked of it yet.

    Raises, at the first request: StoreUnavailable for what cannot be reached or no package is there for.
    """
    protocol, mark, rest = url.partition("://")
    if not mark or protocol == "file":
        return LocalStorage(os.path.abspath(os.path.expanduser(rest if mark else url)))
    # Local stores do without it.
    from weft.lineage.remote import RemoteStorage

    return RemoteStorage(url)


def open_spool(storage: Storage) -> Spool | None:
    """A spool for a run that writes to a store which is far; None where workers write to the store itself.

    The journal that is given it closes it.
    """
    if storage.can_append:
        return None
    from weft.lineage.remote import RemoteStorage
    from weft.lineage.spool import Spool

    return Spool(storage) if isinstance(storage, RemoteStorage) else None
