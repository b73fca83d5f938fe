"""`weft.json`: which format a store has, which weft created it, and its id."""

from __future__ import annotations

from typing import NamedTuple

from weft.lineage import clock
from weft.lineage.errors import NotFound, StoreConflict, StoreDamaged, StoreTooNew
from weft.lineage.paths import DESCRIPTION
from weft.lineage.storage import Storage

__all__ = ["FORMAT", "WEFT_VERSION", "Description", "create_store", "read_description"]

#: The format of the bytes on disk. It rises when an older weft could not read them rightly.
FORMAT = 1

WEFT_VERSION = "0.1.0"

_STORE_ID_BYTES = 16
_IGNORE_FILE = ".gitignore"


class Description(NamedTuple):
    """What `weft.json` says; `store_id` is 32 hex digits."""

    format: int
    version: str
    store_id: str


def create_store(storage: Storage) -> Description:
    """Make the store if there is none, and give the description of what is there.

    Any number of processes may do so at once: all get the same answer.

    Raises: StoreUnavailable, StoreTooNew, StoreDamaged.
    """
    import json

    if storage.exists(DESCRIPTION):
        return read_description(storage)
    description = Description(FORMAT, WEFT_VERSION, clock.random_bytes(_STORE_ID_BYTES).hex())
    text = json.dumps(description._asdict(), indent=2) + "\n"
    if not storage.exists(_IGNORE_FILE):
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
                f"this is weft {WEFT_VERSION}, which reads up to format {FORMAT}. Upgrade weft."
            )
        return Description(store_format, version, str(fields["store_id"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(
            f"{DESCRIPTION} in {storage.url} cannot be read ({error}). Put it back from a copy of the store."
        ) from error
