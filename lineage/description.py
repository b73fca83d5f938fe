"""`weft.json`: which format a store has, which weft created it, and its id; and where a store is looked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from weft.lineage import clock
from weft.lineage.errors import NotFound, StoreConflict, StoreDamaged, StoreTooNew
from weft.lineage.paths import DESCRIPTION
from weft.lineage.storage import Storage
from weft.lineage.version import VERSION

__all__ = [
    "FORMAT",
    "STORE_FOLDER",
    "STORE_VARIABLE",
    "Description",
    "create_store",
    "find_store",
    "read_description",
]

#: The format of the bytes on disk. It rises when an older weft could not read them rightly.
FORMAT = 1

#: The default store's folder, beside the flow or above it.
STORE_FOLDER = ".weft"
STORE_VARIABLE = "WEFT_STORE"

_STORE_ID_BYTES = 16
_IGNORE_FILE = ".gitignore"

#: The checksum's name in the file. Stores of 0.1.0 have none.
_CHECK = "check"


class Description(NamedTuple):
    """What `weft.json` says; `store_id` is 32 hex digits."""

    format: int
    version: str
    store_id: str


def find_store(folder: str, environ: Mapping[str, str]) -> str | None:
    """Where the store is: what WEFT_STORE says, else the nearest `.weft` in `folder` or above it, else None."""
    named = environ.get(STORE_VARIABLE)
    if named:
        return named
    folder = os.path.abspath(folder)
    while True:
        candidate = os.path.join(folder, STORE_FOLDER)
        if os.path.exists(os.path.join(candidate, DESCRIPTION)):
            return candidate
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above


def create_store(storage: Storage, version: str = VERSION) -> Description:
    """Make the store if there is none, and give the description of what is there.

    Any number of processes may do so at once: all get the same answer.

    Raises: StoreUnavailable, StoreTooNew, StoreDamaged.
    """
    import json

    if storage.exists(DESCRIPTION):
        # Whoever made it may have been killed before its name was durable.
        storage.sync_folder("")
        return read_description(storage)
    description = Description(FORMAT, version, clock.random_bytes(_STORE_ID_BYTES).hex())
    text = json.dumps(description._asdict() | {_CHECK: _check_of(description)}, indent=2) + "\n"
    # Of interest only where the store is a folder.
    if storage.can_append and not storage.exists(_IGNORE_FILE):
        storage.put(_IGNORE_FILE, b"*\n")
    try:
        storage.create_exclusive(DESCRIPTION, text.encode())
    except StoreConflict:
        return read_description(storage)
    return description


def read_description(storage: Storage) -> Description:
    """Raises: NotFound when there is no store, StoreTooNew, StoreDamaged."""
    import json

    try:
        text = storage.get(DESCRIPTION)
    except NotFound:
        raise NotFound(
            f"There is no store at {storage.url}. Run a flow there first, or name another store with --store."
        ) from None
    try:
        fields = json.loads(text)
        store_format = int(fields["format"])
        version = str(fields["version"])
        if store_format > FORMAT:
            raise StoreTooNew(
                f"The store at {storage.url} has format {store_format}, written by weft {version}; "
                f"this is weft {VERSION}, which reads up to format {FORMAT}. Upgrade weft."
            )
        found = Description(store_format, version, str(fields["store_id"]))
        if fields.get(_CHECK, _check_of(found)) != _check_of(found):
            raise ValueError("it fails its checksum")
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(
            f"{DESCRIPTION} in {storage.url} cannot be read ({error}). Put it back from a copy of the store."
        ) from error


def _check_of(description: Description) -> str:
    """The crc32 of the fields, in their order with a space between, as eight hex digits."""
    from zlib import crc32

    return f"{crc32(' '.join(map(str, description)).encode()):08x}"
